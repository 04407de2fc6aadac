"""Functions and algorithms: targets whose structure is known exactly."""
