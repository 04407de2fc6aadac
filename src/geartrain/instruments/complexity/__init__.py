"""Complexity: how simple the function, the weights or the data are."""
