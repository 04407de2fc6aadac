"""Sampling from posteriors of networks, and what follows from it: learning coefficients, evidence, mixing."""
