"""Random states of the whole program: taken, put back, and fixed for the length of a block."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class RngState:
    """States of Python's, NumPy's and PyTorch's global generators."""

    python: Any
    numpy: Any
    cpu: torch.Tensor
    cuda: tuple[torch.Tensor, ...]

    @staticmethod
    def take() -> RngState:
        """The states as they are now."""
        # Asking an uninitialised CUDA for its state would start it: slow, and visible to the user.
        cuda = tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else ()
        return RngState(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)  # noqa: NPY002

    def put(self) -> None:
        """Make them the present states again."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Whatever the block draws, the program's generators are afterwards as they were before."""
    state = RngState.take()
    try:
        yield
    finally:
        state.put()


@contextlib.contextmanager
def fixed(seed: int) -> Iterator[None]:
    """The block sees generators seeded by ``seed``; the program's own are put back afterwards."""
    with preserved():
        seed_all(seed)
        yield
