"""Curvature against the step: whether the optimizer's step fits the curvature it meets."""
