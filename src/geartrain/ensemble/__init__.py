"""Many networks of one architecture as one computation: seeds, forks, grid points.

`train` makes, trains and returns an `Ensemble`; `alone` trains one member by itself in a plain loop, the yardstick that
every member equals. Engines (how the gradients of a chunk are computed) are the files of `geartrain.ensemble.engines`.
"""

from geartrain.ensemble.alone import Alone, alone
from geartrain.ensemble.averaging import Average
from geartrain.ensemble.checkpoint import Checkpoint
from geartrain.ensemble.ensemble import Ensemble
from geartrain.ensemble.forks import Forks, forks
from geartrain.ensemble.plan import Plan
from geartrain.ensemble.recording import History, Record
from geartrain.ensemble.schedules import Schedule
from geartrain.ensemble.stopping import MemberStatus, Stop
from geartrain.ensemble.train import train

__all__ = [
    "Alone",
    "Average",
    "Checkpoint",
    "Ensemble",
    "Forks",
    "History",
    "MemberStatus",
    "Plan",
    "Record",
    "Schedule",
    "Stop",
    "alone",
    "forks",
    "train",
]
