"""Machine code for small multilayer perceptrons, made by numba when first needed. Imported by the engine only."""
