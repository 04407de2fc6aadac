"""Curvature and linear theory: spectra, conditioning and dynamics that can be written down."""
