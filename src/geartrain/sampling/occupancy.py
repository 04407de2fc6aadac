"""Which basins did the chains visit, how often, and did they ever cross?

Shares of basins mean something only if chains cross between them. If none ever did, the shares are those of the
starting points, and the record says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.records import format_number
from geartrain.sampling import diagnostics
from geartrain.sampling.potential import BasePotential
from geartrain.sampling.symmetries import Symmetries


@dataclass(frozen=True)
class Occupancy:
    """Basins of a set of draws.

    Attributes:
        labels: Basin of every draw, numbered from the most visited one; shape (chains, draws), -1 where unknown.
        shares: Share of the draws in each basin, shape (basins,).
        standard_error: Of the shares, autocorrelation and disagreement of chains included; NaN with one basin.
        transitions: Estimated probability to be in basin j one draw after basin i, shape (basins, basins).
        crossings: How often a chain changed basin.
        chains_by_basin: Chains that visited each basin, shape (basins,).
        energies: Lowest energy found in each basin, NaN if the labels were given; shape (basins,).
    """

    labels: Tensor
    shares: Tensor
    standard_error: Tensor
    transitions: Tensor
    crossings: int
    chains_by_basin: Tensor
    energies: Tensor

    @property
    def num_basins(self) -> int:
        """How many were visited."""
        return len(self.shares)

    @property
    def sentence(self) -> str:
        """What it says, for people."""
        if self.num_basins == 1:
            return "All draws lie in one basin; others that no chain started in may exist."
        shown = ", ".join(
            f"{100 * float(s):.0f} % (error unknown)"
            if e != e
            else f"{100 * float(s):.0f} ± {100 * float(e):.0f} %"
            for s, e in zip(self.shares[:5], self.standard_error[:5], strict=True)
        )
        more = f" and {self.num_basins - 5} more" if self.num_basins > 5 else ""
        head = f"{self.num_basins} basins with shares {shown}{more}"
        if self.crossings == 0:
            return (
                f"{head}, but no chain ever changed basin: these are the shares of the starting points, not of the "
                "posterior. Try parallel tempering."
            )
        per_chain = self.crossings / self.labels.shape[0]
        few = " Few: the shares are rough." if per_chain < 5 else ""
        return f"{head}; {format_number(per_chain)} crossings per chain.{few}"

    def __str__(self) -> str:
        return self.sentence


def occupancy(labels: Tensor, energies: Tensor | None = None) -> Occupancy:
    """Shares, errors and transitions from the basin of every draw.

    Args:
        labels: Integers of shape (chains, draws); negative where unknown (not counted).
        energies: Lowest energy of each label, where known.

    Returns:
        The record; basins renumbered from the most to the least visited.

    Raises:
        InputError: Not integers of shape (chains, draws), or all unknown.

    Example:
        >>> print(occupancy(torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]])).sentence[:62])
        2 basins with shares 50 ± 50 %, 50 ± 50 %, but no chain ever c
    """
    if labels.ndim != 2 or labels.is_floating_point() or not bool((labels >= 0).any()):
        raise InputError(
            f"labels is {labels.dtype} of shape {tuple(labels.shape)}; it must be integers (chains, draws), "
            "at least one of them 0 or more."
        )
    names, counts = labels[labels >= 0].unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    names = names[order]
    renamed = torch.full_like(labels, -1)
    for new, old in enumerate(names.tolist()):
        renamed[labels == old] = new
    inside = renamed[..., None] == torch.arange(len(names))
    known = (renamed >= 0).all(1)
    indicator = inside[known].double()
    error = torch.full((len(names),), math.nan, dtype=torch.float64)
    if indicator.shape[0] and labels.shape[1] >= 4 and len(names) > 1:
        error = _errors(indicator)
    before, after = renamed[:, :-1].flatten(), renamed[:, 1:].flatten()
    both = (before >= 0) & (after >= 0)
    pairs = torch.zeros(len(names), len(names), dtype=torch.float64)
    pairs.index_put_(
        (before[both], after[both]), torch.ones(int(both.sum()), dtype=torch.float64), accumulate=True
    )
    lowest = torch.full((len(names),), math.nan, dtype=torch.float64)
    return Occupancy(
        labels=renamed,
        shares=counts[order].double() / counts.sum(),
        standard_error=error,
        transitions=pairs / pairs.sum(1, keepdim=True),
        crossings=int((both & (before != after)).sum()),
        chains_by_basin=inside.any(1).sum(0),
        energies=lowest if energies is None else energies.double()[names],
    )


def _errors(indicator: Tensor) -> Tensor:
    """Standard errors of the shares; at least the spread of the chains' own shares."""
    chains = indicator.shape[0]
    within = diagnostics.mcse(indicator, "mean")
    if chains < 2:
        return within
    between = indicator.mean(1).std(0) / math.sqrt(chains)
    # Stuck chains tell nothing by themselves: what they disagree by is then all there is to go by.
    return torch.fmax(within, between)


def find_basins(
    potential: BasePotential,
    positions: Tensor,
    *,
    every: int = 1,
    barrier: float = 1.0,
    steps: int = 300,
    symmetries: Symmetries | None = None,
    label: Callable[[Tensor], Tensor] | None = None,
) -> Occupancy:
    """Assign every draw to a basin: descend to the minimum, then link minima with no barrier between them.

    Two minima are one basin if the potential along the straight line between them rises by no more than ``barrier``
    above the higher one: a walker at temperature one passes exp(-1) = 37 % of the time. The line is only an upper
    bound of the true barrier, so curved valleys may be cut into several basins.

    **Cost** ``steps`` gradients per draw, and about ten energies per draw and basin.

    Args:
        potential: What was sampled; its prior and localisation count.
        positions: Shape (chains, draws, params).
        every: Take every so many draws.
        barrier: Largest rise of the potential within one basin, in units of temperature.
        steps: Steps of the descent (FIRE, batched over all draws).
        symmetries: If given, minima are made canonical first: copies of one network are then one basin.
        label: Instead of descent: (n, params) -> (n,) integers.

    Returns:
        Shares, errors and transitions, of the draws that were taken.

    Raises:
        InputError: The positions have another shape.
    """
    if positions.ndim != 3 or positions.shape[2] != potential.num_params:
        raise InputError(
            f"The positions have shape {tuple(positions.shape)}; they must be (chains, draws, {potential.num_params})."
        )
    taken = positions[:, every - 1 :: every]
    flat = taken.flatten(0, 1)
    if label is not None:
        return occupancy(label(flat).long().cpu().unflatten(0, taken.shape[:2]))
    good = flat.isfinite().all(1)
    minima = descend(potential, flat[good], steps)
    if symmetries is not None:
        minima = symmetries.canonical(minima)
    found, energies = _link(potential, minima, barrier)
    labels = torch.full((len(flat),), -1, dtype=torch.long)
    labels[good.cpu()] = found.cpu()
    return occupancy(labels.unflatten(0, taken.shape[:2]), energies.cpu())


def descend(potential: BasePotential, positions: Tensor, steps: int = 300) -> Tensor:
    """Local minima of the potential reached from every position, by FIRE, all at once.

    Velocities follow the force; a walker that moves uphill stops and halves its step. No step size is needed: it
    starts from the size of the gradient and grows while the descent goes well.

    Args:
        potential: What to minimise.
        positions: Shape (n, params).
        steps: Gradients per walker.

    Returns:
        Shape (n, params): the lowest point that each walker saw.

    References:
        Bitzek et al. (2006), Physical Review Letters 97, 170201.
    """
    w = potential.positions(positions, len(positions))
    energy, gradient, _ = potential.energy_and_gradient(w)
    best, lowest = w.clone(), energy.clone()
    scale = (1 + w.norm(dim=1)) / math.sqrt(w.shape[1])
    dt = (0.02 * scale / (gradient.norm(dim=1) + 1e-30)).sqrt().clamp(max=0.1)
    largest = 20 * dt
    velocity = torch.zeros_like(w)
    mixing, good = torch.full_like(dt, 0.1), torch.zeros_like(dt)
    for _ in range(steps):
        downhill = (velocity * -gradient).sum(1) >= 0
        good = torch.where(downhill, good + 1, 0.0)
        speed = velocity.norm(dim=1, keepdim=True)
        direction = -gradient / (gradient.norm(dim=1, keepdim=True) + 1e-30)
        mixed = (1 - mixing[:, None]) * velocity + mixing[:, None] * speed * direction
        velocity = torch.where(downhill[:, None], mixed, 0.0)
        faster = downhill & (good > 5)
        dt = torch.where(faster, torch.minimum(1.1 * dt, largest), torch.where(downhill, dt, 0.5 * dt))
        mixing = torch.where(faster, 0.99 * mixing, torch.where(downhill, mixing, 0.1))
        velocity = velocity - dt[:, None] * gradient
        w = w + dt[:, None] * velocity
        energy, gradient, _ = potential.energy_and_gradient(w)
        lost = ~(energy.isfinite() & gradient.isfinite().all(1))
        w = torch.where(lost[:, None], best, w)
        velocity = torch.where(lost[:, None], 0.0, velocity)
        gradient = torch.where(lost[:, None], 0.0, gradient)
        better = energy < lowest
        best[better], lowest[better] = w[better], energy[better]
    return best


def _link(potential: BasePotential, minima: Tensor, barrier: float) -> tuple[Tensor, Tensor]:
    """Basin of every minimum, and the lowest energy of each basin."""
    energies = potential.energy(minima)
    labels = torch.full((len(minima),), -1, dtype=torch.long, device=minima.device)
    shares = torch.linspace(0, 1, 11, dtype=minima.dtype, device=minima.device)[1:-1]
    lowest = []
    while bool((labels < 0).any()):
        free = (labels < 0).nonzero()[:, 0]
        # The lowest minimum that is left opens a basin; all others are compared with it at once.
        root = free[energies[free].argmin()]
        line = torch.lerp(minima[root][None, None], minima[free][:, None], shares[None, :, None])
        along = potential.energy(line.flatten(0, 1)).unflatten(0, line.shape[:2]).amax(1)
        joined = (along - torch.maximum(energies[root], energies[free]) <= barrier) | (free == root)
        labels[free[joined]] = len(lowest)
        lowest.append(energies[root])
    return labels, torch.stack(lowest)
