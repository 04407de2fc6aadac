"""Functions that sweeps of the tests compute."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np

# With the seed first or last, with an axis of its own length, with none at all.
LABELS = {"step": [0, 10, 20]}


def simple(config, seeds):
    """Numbers that say where they belong."""
    value = 100 * config["a"] + np.asarray(seeds, float)
    steps = value[None, :] + np.arange(3)[:, None] / 10
    return {
        "value": value,
        "path": (("step", "seed"), steps, {"unit": "ℓ"}),
        "count": np.asarray(seeds),
        "total": value.sum(),
    }, [{"seed": s, "value": v} for s, v in zip(seeds, value, strict=True)]


def ragged(config, seeds):
    """Weights of a network whose width is a setting, and a path as long as the block."""
    return {
        "weights": (("seed", "unit"), np.full((len(seeds), config["width"]), float(config["width"]))),
        "pairs": (("pair",), np.arange(float(len(seeds)))),
        "loss": np.asarray(seeds, float),
    }


def fragile(config, seeds):
    """Fails for a = 2, unless the file ``mended`` is there."""
    if config["a"] == 2 and not Path("mended").exists():
        raise ValueError("two is too much")
    return simple(config, seeds)


def deadly(config, seeds):
    """Takes its process down for a = 2."""
    if config["a"] == 2:
        os.kill(os.getpid(), 9)
    return simple(config, seeds)


def careless(config, seeds):
    """Uses global generators and seeds none of them."""
    return {"x": np.random.rand(len(seeds)) + random.random()}  # noqa: NPY002


def interrupted(config, seeds):
    """Ctrl-C at a = 2."""
    if config["a"] == 2:
        raise KeyboardInterrupt
    return simple(config, seeds)


def threads(config, seeds):
    """How many threads this process was given, and that it is not the test's."""
    return {"threads": int(os.environ["OMP_NUM_THREADS"]), "pid": os.getpid()}


def slow(config, seeds):
    """Long enough to be caught at it."""
    Path("began").touch()
    time.sleep(60)
    return simple(config, seeds)
