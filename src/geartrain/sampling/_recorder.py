"""Notes down what a walk does, draw by draw, in tensors that are taken from memory beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from geartrain.sampling._walk import Walk
from geartrain.sampling.kernels._base import Info

Observer = Callable[[Tensor], Tensor]
ASTRAY = 1000.0
"""A trajectory whose energy error exceeds this diverged."""


class Recorder:
    """Traces of (chains, draws), positions, and running means and squares.

    Args:
        walk: What is recorded.
        draws: Draws that are to come.
        keep_every: Every how many draws the position is kept; 0 for none.
        observers: Functions of positions (chains, params), by name, giving (chains, ...).
        before: Number of draws that went before (their positions count for ``keep_every``), and their statistics.
    """

    def __init__(
        self,
        walk: Walk,
        draws: int,
        keep_every: int,
        observers: Mapping[str, Observer],
        before: tuple[int, Tensor, Tensor] | None = None,
    ) -> None:
        self.walk, self.keep_every, self.observers = walk, keep_every, observers
        self.count, self.earlier = 0, 0
        chains, params = walk.chains, walk.potential.num_params
        self.own = {"dtype": walk.potential.dtype, "device": walk.potential.device}
        self.traces = {
            name: torch.full((chains, draws), torch.nan, **self.own)
            for name in ("losses", "energies", "acceptance", "total_energies")
        }
        self.mean = torch.zeros(chains, params, **self.own)
        self.squares = torch.zeros(chains, params, **self.own)
        if before is not None:
            self.earlier = before[0]
            self.mean, self.squares = before[1].to(**self.own), before[2].to(**self.own)
            self.mean, self.squares = self.mean.clone(), self.squares.clone()
        kept = (self.earlier + draws) // keep_every - self.earlier // keep_every if keep_every else 0
        self.positions = torch.full((chains, kept, params), torch.nan, **self.own) if keep_every else None
        self.kept = 0
        self.observed: dict[str, Tensor] = {}
        self.draws = draws
        self.diverged = torch.zeros(chains, dtype=torch.long, device=walk.potential.device)
        self._accepted: list[Tensor] = []

    def saw(self, info: Info) -> None:
        """Take note of one step."""
        if info.acceptance is not None:
            self._accepted.append(self.walk.full(info.acceptance))
        if info.energy_error is not None:
            astray = ~(info.energy_error < ASTRAY)
            if bool(astray.any()):
                self.diverged += self.walk.full(astray.to(torch.long), 0)

    def draw(self, info: Info) -> None:
        """Take note of the present position as a draw."""
        walk, at = self.walk, self.count
        state = walk.state
        self.traces["losses"][:, at] = walk.full(state.losses)
        self.traces["energies"][:, at] = walk.full(state.energies)
        if self._accepted:
            last = self._accepted[0] if len(self._accepted) == 1 else torch.stack(self._accepted).mean(0)
            self.traces["acceptance"][:, at] = last
            self._accepted = []
        if info.total_energy is not None:
            self.traces["total_energies"][:, at] = walk.full(info.total_energy)
        self.count += 1
        number = self.earlier + self.count
        positions = walk.full(state.positions)
        if self.keep_every and number % self.keep_every == 0 and self.positions is not None:
            self.positions[:, self.kept] = positions
            self.kept += 1
        if self.keep_every != 1:  # else they can be had from the positions, at the end
            delta = positions - self.mean
            self.mean.add_(delta, alpha=1 / number)
            self.squares.addcmul_(delta, positions - self.mean)
        for name, observe in self.observers.items():
            value = walk.full(observe(state.positions).to(self.own["device"]))
            if name not in self.observed:
                shape = (walk.chains, self.draws, *value.shape[1:])
                self.observed[name] = value.new_full(shape, torch.nan)
            self.observed[name][:, at] = value

    def forget_burn_in(self) -> None:
        """Draws begin: nothing of what went before counts."""
        self._accepted = []
        self.diverged.zero_()

    def done(self) -> dict[str, Any]:
        """What was recorded, cut to the draws that were made."""
        cut = {name: t[:, : self.count] for name, t in self.traces.items()}
        positions = None if self.positions is None else self.positions[:, : self.kept]
        observed = {name: t[:, : self.count] for name, t in self.observed.items()}
        return {**cut, "positions": positions, "observed": observed}
