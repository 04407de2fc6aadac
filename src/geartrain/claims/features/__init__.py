"""Claims about features: what a layer's weights have to do with the gradients of the function behind it."""
