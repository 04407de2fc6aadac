"""Landscapes: basins, saddles and paths whose lengths are known in closed form."""
