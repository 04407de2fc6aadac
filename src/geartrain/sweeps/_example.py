"""A function small enough to show what a sweep expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def double(config: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Twice ``x`` plus the seed: one number for each seed."""
    return {"y": 2.0 * config["x"] + np.asarray(seeds)}
