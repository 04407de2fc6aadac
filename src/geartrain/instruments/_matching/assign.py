"""The best exchange of units: matched by weights or by activations, and applied to a network.

Weight matching: coordinate ascent on Σ⟨A, B'⟩ over all parameters, one linear assignment per group with the others
held (Ainsworth, Hayase, Srinivasa 2023, arXiv:2209.04836, algorithm 1). Activation matching: units whose activations
correlate most (Li et al. 2016, arXiv:1511.07543).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from geartrain.instruments._matching.book import Units, Use

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Exchange:
    """What becomes of the units of one group: unit i is taken from ``order[i]``, times ``factor[i]``.

    Attributes:
        order: Shape (units,).
        factor: Shape (units,), float64; never 0.
    """

    order: np.ndarray
    factor: np.ndarray

    @staticmethod
    def nothing(size: int) -> Exchange:
        """Every unit stays as it is."""
        return Exchange(np.arange(size), np.ones(size))

    @property
    def moved(self) -> int:
        """Units that do not stay in their places."""
        return int(np.sum(self.order != np.arange(len(self.order))))


Exchanges = Mapping[int, Exchange]


def exchanged(units: Units, tensors: Tensors, exchanges: Exchanges) -> dict[str, Tensor]:
    """Parameters and buffers of a network whose units were exchanged; the same function."""
    by_tensor: dict[str, list[Use]] = {}
    for group in exchanges:
        for use in units.uses[group]:
            by_tensor.setdefault(use.tensor, []).append(use)
    return {n: _exchanged_one(t, by_tensor.get(n, ()), exchanges) for n, t in tensors.items()}


def _exchanged_one(tensor: Tensor, uses: Iterable[Use], exchanges: Exchanges) -> Tensor:
    for use in uses:
        exchange = exchanges[use.group]
        offsets = (exchange.order[:, None] * use.block + np.arange(use.block)).reshape(-1)
        stop = use.start + len(offsets)
        index = np.concatenate(
            [np.arange(use.start), use.start + offsets, np.arange(stop, tensor.shape[use.axis])]
        )
        tensor = tensor.index_select(use.axis, torch.from_numpy(index).to(tensor.device))
        if (exchange.factor != 1).any():
            factor = np.repeat(exchange.factor if use.made else 1 / exchange.factor, use.block)
            whole = np.ones(tensor.shape[use.axis])
            whole[use.start : stop] = factor
            shape = [-1 if axis == use.axis else 1 for axis in range(tensor.ndim)]
            tensor = tensor * torch.from_numpy(whole).to(tensor).reshape(shape)
    return tensor


# ---------------------------------------------------------------------- by weights


def match_weights(
    units: Units,
    first: Tensors,
    second: Tensors,
    *,
    signs: bool = False,
    starts: Iterable[Exchanges] = (),
    restarts: int = 2,
    generator: torch.Generator | None = None,
    max_sweeps: int = 50,
) -> tuple[dict[int, Exchange], float]:
    """Exchanges of the second network's units that bring its weights closest to the first's.

    Closest by Σ⟨A, B'⟩, which for exchanges is the smallest distance. Coordinate ascent ends in a local optimum, so it
    begins from several places: layer by layer from the inputs, from nothing, in random orders, and from ``starts``.

    Args:
        units: Groups of exchangeable units.
        first: Parameters of the first network by name.
        second: Those of the second.
        signs: Also flip signs, where the activation is odd.
        starts: Further exchanges to begin with.
        restarts: Random orders of the groups to try.
        generator: Source of those orders; a fixed seed if ``None``.
        max_sweeps: Limit on sweeps over all groups from each start.

    Returns:
        The best exchanges, and Σ⟨A, B'⟩ over the tensors concerned, divided by √(Σ‖A‖² Σ‖B‖²).
    """
    task = _Task(units, first, second, signs)
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    groups = list(units.sizes)
    if not groups:
        return {}, float("nan")
    nothing = {g: Exchange.nothing(s) for g, s in units.sizes.items()}
    plans: list[tuple[dict[int, Exchange], list[int]]] = [(task.from_the_inputs(), groups), (nothing, groups)]
    plans += [({**nothing, **start}, groups) for start in starts]
    for _ in range(restarts):
        order = torch.randperm(len(groups), generator=source, device=source.device).tolist()
        plans.append((nothing, [groups[i] for i in order]))
    found = [task.ascend(dict(start), order, max_sweeps) for start, order in plans]
    return max(found, key=lambda pair: pair[1])


class _Task:
    """Both networks in double precision, and the gain of one group's exchange with the others held."""

    def __init__(self, units: Units, first: Tensors, second: Tensors, signs: bool) -> None:
        names = {use.tensor for uses in units.uses.values() for use in uses} & first.keys()
        self.units, self.signs = units, signs
        self.first = {n: first[n].detach().double().cpu() for n in names}
        self.second = {n: second[n].detach().double().cpu() for n in names}
        self.scale = _norm(self.first) * _norm(self.second)
        self.by_tensor = {n: [u for u in units.of_tensor(n)] for n in names}

    def gains(self, group: int, exchanges: Exchanges, *, known: frozenset[int] | None = None) -> np.ndarray:
        """Gain of putting unit j of the second network in place i, shape (units, units).

        With ``known``, only tensors count all of whose other axes belong to known groups.
        """
        size = self.units.sizes[group]
        total = np.zeros((size, size))
        for use in self.units.uses[group]:
            if use.tensor not in self.first:
                continue  # a buffer
            others = [u for u in self.by_tensor[use.tensor] if u is not use]
            if known is not None and not {u.group for u in others} <= known:
                continue
            moved = _exchanged_one(self.second[use.tensor], others, exchanges)
            total += _rows(self.first[use.tensor], use, size) @ _rows(moved, use, size).T
        return total

    def best(self, group: int, gains: np.ndarray) -> Exchange:
        """The assignment of largest gain."""
        flips = self.signs and group in self.units.signed
        rows, order = linear_sum_assignment(np.abs(gains) if flips else gains, maximize=True)
        factor = np.where(gains[rows, order] < 0, -1.0, 1.0) if flips else np.ones(len(order))
        return Exchange(order, factor)

    def from_the_inputs(self) -> dict[int, Exchange]:
        """Layer by layer: each group by what it reads from groups that are matched already."""
        done: dict[int, Exchange] = {}
        for group, size in self.units.sizes.items():
            gains = self.gains(group, done, known=frozenset(done))
            done[group] = self.best(group, gains) if gains.any() else Exchange.nothing(size)
        return done

    def ascend(
        self, exchanges: dict[int, Exchange], order: list[int], max_sweeps: int
    ) -> tuple[dict[int, Exchange], float]:
        """Sweeps over the groups until nothing improves; the best state met (a group tied to itself may overshoot)."""
        best, top = dict(exchanges), self.similarity(exchanges)
        for _ in range(max_sweeps):
            for group in order:
                exchanges[group] = self.best(group, self.gains(group, exchanges))
            now = self.similarity(exchanges)
            if not now > top + 1e-12:
                break
            best, top = dict(exchanges), now
        return best, top

    def similarity(self, exchanges: Exchanges) -> float:
        """Cosine between the first network's weights and the second's after the exchange."""
        moved = {n: _exchanged_one(t, self.by_tensor[n], exchanges) for n, t in self.second.items()}
        product = sum(float((self.first[n] * moved[n]).sum()) for n in moved)
        return product / self.scale if self.scale else 0.0


def _rows(tensor: Tensor, use: Use, size: int) -> np.ndarray:
    """What belongs to each unit, shape (units, entries)."""
    part = tensor.narrow(use.axis, use.start, size * use.block).movedim(use.axis, 0)
    return part.reshape(size, -1).numpy()


def _norm(tensors: Tensors) -> float:
    return float(sum(float((t**2).sum()) for t in tensors.values())) ** 0.5


# ---------------------------------------------------------------------- by activations


def match_activations(
    units: Units,
    first: Mapping[int, Sequence[Tensor]],
    second: Mapping[int, Sequence[Tensor]],
    *,
    signs: bool = False,
) -> dict[int, Exchange]:
    """Exchanges of the second network's units whose activations correlate most with the first's.

    Correlations are summed over everything that is seen of a group: before its activation function, where no unit is
    dead, and after it, where what the next layer reads is.

    Args:
        units: Groups of exchangeable units.
        first: Activations of the first network by group, each of shape (units, samples).
        second: Those of the second on the same samples.
        signs: Also flip signs, where the activation is odd.

    Returns:
        One exchange per group; constant units go where they are left over.
    """
    exchanges = {}
    for group, size in units.sizes.items():
        gains = np.zeros((size, size))
        for one, two in zip(first[group], second[group], strict=True):
            gains += (_standardised(one) @ _standardised(two).T).cpu().numpy()
        flips = signs and group in units.signed
        rows, order = linear_sum_assignment(np.abs(gains) if flips else gains, maximize=True)
        factor = np.where(gains[rows, order] < 0, -1.0, 1.0) if flips else np.ones(size)
        exchanges[group] = Exchange(order, factor)
    return exchanges


def _standardised(activations: Tensor) -> Tensor:
    centred = activations.double() - activations.double().mean(1, keepdim=True)
    sizes = centred.norm(dim=1, keepdim=True)
    return torch.where(sizes > 0, centred / sizes.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


# ---------------------------------------------------------------------- scales


def balancing(units: Units, tensors: Tensors, *, sweeps: int = 200) -> dict[int, Exchange]:
    """Scales that give every unit as large a weight in as out, where scales are free (ReLU); the same function.

    The unique point of least norm among all rescalings, so that two networks that differ by scales agree there.
    """
    task = _Task(units, tensors, tensors, False)
    scales = {g: np.ones(units.sizes[g]) for g in units.positive}
    for _ in range(sweeps):
        largest = 0.0
        for group in units.positive:
            size = units.sizes[group]
            exchanges = {g: Exchange(np.arange(len(s)), s) for g, s in scales.items()}
            square = {True: np.zeros(size), False: np.zeros(size)}
            for use in units.uses[group]:
                if use.tensor in task.first:
                    uses = [u for u in task.by_tensor[use.tensor] if u.group in scales]
                    moved = _exchanged_one(task.first[use.tensor], uses, exchanges)
                    square[use.made] += (_rows(moved, use, size) ** 2).sum(1)
            alive = (square[True] > 0) & (square[False] > 0)
            step = np.ones(size)
            step[alive] = (square[False][alive] / square[True][alive]) ** 0.25
            scales[group] = scales[group] * step
            largest = max(largest, float(np.abs(np.log(step)).max(initial=0.0)))
        if largest < 1e-14:
            break
    return {g: Exchange(np.arange(len(s)), s) for g, s in scales.items()}


def undone(exchange: Exchange) -> Exchange:
    """The scales taken back; for exchanges that keep the order."""
    return Exchange(exchange.order, 1 / exchange.factor)
