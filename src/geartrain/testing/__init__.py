"""What an instrument and a toy promise, as checks that anybody can run on theirs.

>>> import geartrain as gt
>>> from geartrain import testing
>>> testing.check_instrument(gt.instruments.loss_slope, checks=["speaks"])
"""

from __future__ import annotations

from geartrain.testing._fingerprint import fingerprint
from geartrain.testing._subjects import SUBJECTS, made
from geartrain.testing.instruments import CHECKS, ConformanceError, check_instrument
from geartrain.testing.toys import TOY_CHECKS, check_toy

__all__ = [
    "CHECKS",
    "SUBJECTS",
    "TOY_CHECKS",
    "ConformanceError",
    "check_instrument",
    "check_toy",
    "fingerprint",
    "made",
]
