"""Alignment: which directions curvature, gradient and noise share."""
