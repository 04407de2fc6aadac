"""Runs: an objective plus the way it is trained; executed, watched, checkpointed, forked and restored bit for bit."""

from geartrain.run.change import Change as Change
from geartrain.run.checkpoint import Checkpoint as Checkpoint
from geartrain.run.history import Failure as Failure
from geartrain.run.history import History as History
from geartrain.run.run import PROBE as PROBE
from geartrain.run.run import Branch as Branch
from geartrain.run.run import Run as Run
