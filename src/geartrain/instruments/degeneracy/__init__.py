"""Degeneracy: directions in which the parameters may move without changing the function."""
