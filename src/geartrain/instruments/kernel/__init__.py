"""Kernel: the neural tangent kernel, and how far training is from linear in the parameters."""
