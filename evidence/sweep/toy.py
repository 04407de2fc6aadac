"""The toy of these records: SGD on a noisy quadratic, all seeds of a unit at once. A few milliseconds a unit."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STEPS, EVERY, SIZE = 50, 10, 8


def descend(config: Mapping[str, Any], seeds: Sequence[int]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Losses and end points of SGD; each seed has its own noise. Says on a journal, if there is one, that it ran."""
    journal = os.environ.get("SWEEP_JOURNAL")
    if journal:
        words = f"{sorted(config.items())} {seeds[0]}\n"
        handle = os.open(journal, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(handle, words.encode())
        os.close(handle)
    time.sleep(float(os.environ.get("SWEEP_PAUSE", "0")))
    curvature = np.geomspace(1.0, config["condition"], SIZE)
    noise = np.stack([np.random.default_rng(s).standard_normal((STEPS, SIZE)) for s in seeds])
    theta = np.ones((len(seeds), SIZE))
    losses = []
    for step in range(STEPS):
        if step % EVERY == 0:
            losses.append(0.5 * (curvature * theta**2).sum(1))
        theta = theta - config["lr"] / config["condition"] * (curvature * theta + 0.1 * noise[:, step])
    arrays = {"loss": (("seed", "step"), np.stack(losses, 1)), "theta": (("seed", "param"), theta)}
    return arrays, [
        {"step": s, "loss": float(value.mean())}
        for s, value in zip(range(0, STEPS, EVERY), losses, strict=True)
    ]


def journal(path: Path) -> list[str]:
    """The units that ran, in order."""
    return path.read_text().splitlines() if path.exists() else []
