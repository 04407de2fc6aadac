"""Noise: how much the examples' gradients disagree."""
