"""Claims about the shape of the loss: edges, valleys, craters."""
