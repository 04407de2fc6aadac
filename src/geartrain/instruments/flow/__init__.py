"""Signal flow: how activations, gradients and ranks change from layer to layer."""
