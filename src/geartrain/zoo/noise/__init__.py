"""Noise and posteriors: gradient noise, stationary laws and volumes in closed form."""
