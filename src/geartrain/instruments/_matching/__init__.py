"""Which units of two networks correspond: what may be exchanged without changing the function, and the best exchange.

`units.trace` finds groups of exchangeable units by following the axes of every tensor through the model once, and
keeps a `book` of them;
`assign` matches the groups of two networks by their weights or their activations.
"""
