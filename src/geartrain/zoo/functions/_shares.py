"""How often something happened among random draws, as a measurement."""

from __future__ import annotations

import math

from geartrain.records import Measurement
from geartrain.zoo._base import trial_result


def share_result(quantity: str, hits: int, draws: int) -> Measurement:
    """The share of the draws that were hits.

    Its standard error is that of Agresti and Coull: two hits and two misses are added, so that a share of 0 or 1 is not
    taken for certain.
    """
    shrunk = (hits + 2) / (draws + 4)
    return trial_result(quantity, hits / draws, math.sqrt(shrunk * (1 - shrunk) / (draws + 4)))
