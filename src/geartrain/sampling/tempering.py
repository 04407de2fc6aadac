"""Parallel tempering: replicas at several temperatures swap places, so that hot ones carry cold ones over barriers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Cost, State, Status, format_number
from geartrain.sampling import kernels
from geartrain.sampling._walk import Walk
from geartrain.sampling.kernels._base import Kernel
from geartrain.sampling.potential import BasePotential, Potential
from geartrain.sampling.sample import Start, own_generator, start_positions


@dataclass(frozen=True)
class Tempered:
    """Draws at several temperatures at once.

    Attributes:
        n_beta: The ladder, from the coldest (largest) to the hottest, shape (levels,).
        losses: L of every draw, shape (levels, chains, draws).
        positions: Shape (levels, chains, draws, params); the coldest levels only, if fewer were asked for.
        swap_rate: How often neighbours swapped, shape (levels - 1,).
        round_trips: Times that a replica went from the coldest level to the hottest and back, shape (chains,).
        acceptance: Mean acceptance within each level, shape (levels,).
        step_size: Shape (levels,).
        status: Whether it finished, in one sentence.
        cost: What it took.
        notes: Things to know.
    """

    n_beta: Tensor
    losses: Tensor
    positions: Tensor
    swap_rate: Tensor
    round_trips: Tensor
    acceptance: Tensor
    step_size: Tensor
    status: Status
    cost: Cost
    notes: tuple[str, ...] = ()

    def cold(self) -> Tensor:
        """Positions at the largest n_beta, shape (chains, draws, params)."""
        return self.positions[0]

    def __str__(self) -> str:
        rates = ", ".join(format_number(float(r), 2) for r in self.swap_rate)
        return (
            f"{len(self.n_beta)} levels x {self.losses.shape[1]} chains x {self.losses.shape[2]} draws; swaps "
            f"between neighbours: {rates}; {int(self.round_trips.sum())} round trips. {self.status}"
        )


def temper(
    objective: Objective | BasePotential,
    n_betas: Sequence[float] | Tensor,
    kernel: str | Kernel = "hmc",
    *,
    chains: int = 4,
    draws: int = 500,
    burn_in: int | None = None,
    swap_every: int = 1,
    step_size: float | Tensor | str | None = None,
    localisation: float | None = None,
    prior_precision: float | None = None,
    start: Start = "point",
    keep_levels: int = 1,
    budget: Budget | int | str | None = None,
    generator: torch.Generator | int | None = None,
    **options: Any,
) -> Tempered:
    """Sample at all of ``n_betas`` at once; neighbours swap with probability min(1, exp((β_i - β_j)(L_i - L_j))).

    Swaps alternate between even and odd pairs (non-reversible, so replicas travel rather than diffuse). Prior and
    localisation are not tempered: n_beta = 0 is the prior. Step sizes adapt by level.

    **Cost** levels x chains x (burn_in + draws) steps of the kernel, and one gradient per swap. **Assumes** a kernel
    that accepts or rejects: with others the levels themselves are biased. **Misleads** where the swap rate of a pair is
    near zero: nothing then passes that rung.

    Args:
        objective: Model, loss and data; or a potential.
        n_betas: The ladder; sorted from large to small.
        kernel: See `sample`; unit mass.
        chains: Independent ladders.
        draws: Draws per chain and level, one per step.
        burn_in: Steps before; half of ``draws`` if omitted.
        swap_every: Steps between swaps.
        step_size: For all levels, one per level, or ``"auto"``.
        localisation: γ.
        prior_precision: λ.
        start: See `sample`; for all levels.
        keep_levels: Levels, from the coldest, whose positions are kept.
        budget: See `sample`.
        generator: See `sample`.
        **options: Of the kernel.

    Returns:
        Draws and how well the ladder conducts.

    Raises:
        InputError: Fewer than two levels, minibatches, or a diagonal mass.

    References:
        Syed et al. (2022), *Non-reversible parallel tempering*, J. R. Stat. Soc. B 84.
    """
    clock = Budget.of(budget).start()
    ladder = torch.as_tensor(n_betas, dtype=torch.float64).flatten().sort(descending=True).values
    if len(ladder) < 2 or not bool((torch.isfinite(ladder) & (ladder >= 0)).all()):
        raise InputError(f"n_betas is {n_betas}; it must hold two or more finite numbers that are 0 or more.")
    levels = len(ladder)
    if isinstance(step_size, Tensor) and step_size.ndim:
        step_size = step_size.repeat_interleave(chains)
    mover = kernels.make(kernel, step_size=step_size, **options)
    if getattr(mover, "mass", "unit") != "unit":
        raise InputError("Tempering needs mass='unit': one mass cannot fit all temperatures.")
    base = objective if isinstance(objective, BasePotential) else Potential(objective)
    if base.batch_size is not None:
        raise InputError("Tempering compares exact losses; pass a potential with batch_size=None.")
    ladder = ladder.to(base.device, base.dtype)
    potential = base.changed(
        n_beta=ladder.repeat_interleave(chains), localisation=localisation, prior_precision=prior_precision
    )
    burn_in = draws // 2 if burn_in is None else burn_in
    own = own_generator(generator, base.device)
    begun = time.perf_counter()
    if isinstance(start, Tensor) and start.ndim == 2 and len(start) == levels * chains:
        positions = potential.positions(start, levels * chains)
    else:
        positions = start_positions(potential, start, chains, own).repeat(levels, 1)
    groups = torch.arange(levels, device=base.device).repeat_interleave(chains)
    walk = Walk(potential, mover, positions, own, burn_in, groups)
    if walk.running is not None:
        raise InputError(
            "Some chains start where the loss is not finite; start all levels from finite positions."
        )
    ladder_walk = _Ladder(walk, ladder, chains, draws, min(keep_levels, levels))
    status = Status(State.ESTIMATE, f"all {draws} draws were made.")
    while walk.steps < burn_in + draws:
        if clock.exhausted(walk.gradients * walk.chains):
            at = ladder_walk.count
            status = Status(State.OUT_OF_BUDGET, f"the budget ended after {at} of {draws} draws.")
            break
        ladder_walk.step(swap=walk.steps % swap_every == swap_every - 1)
    cost = Cost(gradients=walk.gradients * walk.chains, seconds=time.perf_counter() - begun)
    return ladder_walk.result(status, cost)


class _Ladder:
    """All levels of all chains as one walk: replica number = level x chains + chain."""

    def __init__(self, walk: Walk, ladder: Tensor, chains: int, draws: int, kept: int) -> None:
        self.walk, self.ladder, self.chains, self.kept = walk, ladder, chains, kept
        levels = len(ladder)
        own = {"dtype": ladder.dtype, "device": ladder.device}
        self.losses = torch.full((levels, chains, draws), torch.nan, **own)
        self.positions = torch.full((kept, chains, draws, walk.potential.num_params), torch.nan, **own)
        self.tried, self.swapped = torch.zeros(levels - 1, **own), torch.zeros(levels - 1, **own)
        self.accepted, self.steps, self.count, self.rounds = torch.zeros(levels, **own), 0, 0, 0
        # Who stands where, and which replicas have been to the hottest level since they left the coldest.
        self.who = torch.arange(levels, device=ladder.device)[:, None].repeat(1, chains)
        self.heading_down = torch.zeros(levels, chains, dtype=torch.bool, device=ladder.device)
        self.trips = torch.zeros(chains, dtype=torch.long, device=ladder.device)

    def step(self, *, swap: bool) -> None:
        """One step of the kernel everywhere, then perhaps a swap."""
        walk = self.walk
        info = walk.step()
        drawing = walk.steps > walk.burn_in
        if swap:
            self._swap(count=drawing)
        if not drawing:
            return
        if info.acceptance is not None:
            self.accepted += info.acceptance.view(len(self.ladder), -1).mean(1)
        self.steps += 1
        state = walk.state
        self.losses[:, :, self.count] = state.losses.view(len(self.ladder), -1)
        cold = state.positions[: self.kept * self.chains]
        self.positions[:, :, self.count] = cold.view(self.kept, self.chains, -1)
        self.count += 1

    def _swap(self, *, count: bool) -> None:
        walk, levels = self.walk, len(self.ladder)
        losses = walk.state.losses.view(levels, self.chains)
        uniform = walk.stream.uniform().view(levels, self.chains)
        order = torch.arange(levels, device=losses.device)[:, None].repeat(1, self.chains)
        for i in range(self.rounds % 2, levels - 1, 2):
            log_ratio = (self.ladder[i] - self.ladder[i + 1]) * (losses[i] - losses[i + 1])
            taken = uniform[i].log() < log_ratio
            order[i], order[i + 1] = torch.where(taken, i + 1, i), torch.where(taken, i, i + 1)
            if count:
                self.tried[i] += self.chains
                self.swapped[i] += taken.sum()
        self.rounds += 1
        columns = torch.arange(self.chains, device=losses.device)
        replicas = (order * self.chains + columns).flatten()
        if bool((order != torch.arange(levels, device=order.device)[:, None]).any()):
            walk.state.positions = walk.state.positions[replicas]
            for name, value in walk.state.own.items():
                walk.state.own[name] = value[replicas]
            walk.refresh(walk.potential)
        self.who = self.who.gather(0, order)
        if count:
            self._follow(columns)

    def _follow(self, columns: Tensor) -> None:
        hot, cold = self.who[-1], self.who[0]
        self.trips += self.heading_down[cold, columns]
        self.heading_down[cold, columns] = False
        self.heading_down[hot, columns] = True

    def result(self, status: Status, cost: Cost) -> Tempered:
        """What was drawn."""
        walk, rate = self.walk, self.swapped / self.tried.clamp(min=1)
        notes = []
        stuck = [i for i, r in enumerate(rate.tolist()) if r < 0.05 and self.tried[i]]
        if stuck:
            betas = ", ".join(
                f"{format_number(float(self.ladder[i]))} and {format_number(float(self.ladder[i + 1]))}"
                for i in stuck
            )
            notes.append(f"Fewer than one swap in twenty between n_beta {betas}: put levels in between.")
        return Tempered(
            n_beta=self.ladder,
            losses=self.losses[:, :, : self.count],
            positions=self.positions[:, :, : self.count],
            swap_rate=rate,
            round_trips=self.trips,
            acceptance=self.accepted / max(self.steps, 1)
            if walk.kernel.adjusted
            else self.accepted * torch.nan,
            step_size=walk.state.step_size.view(len(self.ladder), -1)[:, 0].clone(),
            status=status,
            cost=dataclasses.replace(cost),
            notes=(*notes, *walk.potential.notes),
        )
