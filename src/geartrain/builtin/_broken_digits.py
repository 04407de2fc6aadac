"""The twin of the built-in digits run with one thing wrong: its step is forty times as long."""

from __future__ import annotations

from geartrain.builtin.digits import digits_run
from geartrain.run import Run


def make_run(seed: int = 0, device: str = "cpu") -> Run:
    """Digits with a step size of 2 and momentum 0.9: the loss ends far above where it began."""
    return digits_run(learning_rate=2.0, name="digits, step x 40", seed=seed, device=device)
