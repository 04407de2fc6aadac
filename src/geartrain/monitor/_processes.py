"""Several processes that train one model: who watches, and how their numbers are put together.

Collectives must be called by all processes at the same steps; so all must watch, and all must measure at the same
steps: the governors agree on the largest times.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from geartrain.errors import InputError

PATIENCE = datetime.timedelta(seconds=60)
_count = itertools.count()


class Processes:
    """The processes of a group; of a single one, everything is the identity.

    Args:
        reduce: False: look at this process alone.
        device: Where collectives find their tensors.
    """

    def __init__(self, reduce: bool, device: torch.device) -> None:
        together = reduce and dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size() if together else 1
        self.rank = dist.get_rank() if together else 0
        self.device = device

    def meet(self) -> None:
        """Wait until all processes are here.

        Raises:
            InputError: Some did not come: they would wait for each other for ever.
        """
        if self.size == 1:
            return
        store: Any = dist.distributed_c10d._get_default_store()
        meeting = next(_count)
        store.set(f"geartrain.watch/{meeting}/{self.rank}", "here")
        missing = []
        for rank in range(self.size):
            try:
                store.wait([f"geartrain.watch/{meeting}/{rank}"], PATIENCE)
            except (RuntimeError, dist.DistError):
                missing.append(rank)
        if missing:
            raise InputError(
                f"gt.watch was entered by process {self.rank} of {self.size}, but not by {missing} within "
                f"{PATIENCE.total_seconds():.0f} s; enter it in every process, or pass reduce=False to watch this one "
                "alone."
            )

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        if self.size == 1:
            return values
        moved = values.detach().to(self.device, copy=True)
        dist.all_reduce(moved)
        return moved.to(values.device)

    def largest(self, values: Sequence[float]) -> list[float]:
        """Largest over the processes, entry by entry."""
        if self.size == 1:
            return list(values)
        # NaN would win or lose by chance.
        tensor = torch.tensor(values, dtype=torch.float32, device=self.device).nan_to_num()
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.tolist()

    def mean(self, values: Sequence[float]) -> list[float]:
        """Mean over the processes, entry by entry."""
        if self.size == 1 or not values:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float32, device=self.device)
        return (self.total(tensor) / self.size).tolist()
