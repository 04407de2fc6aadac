"""Data: what the examples and labels are like before and during training."""
