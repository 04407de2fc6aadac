"""Plumbing between geartrain and PyTorch: flat vectors, batches, random states, kernels. Private."""
