"""Wiring: whether model, loss, data and loop are put together as their author believes."""
