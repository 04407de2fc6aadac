"""Landscape: the loss away from the present point: slices, paths, barriers, basins, and what kind of point this is."""
