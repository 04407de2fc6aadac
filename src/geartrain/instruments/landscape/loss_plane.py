"""The loss on a plane through the present point: the contour picture of a landscape.

Two random filter-normalised directions give the pictures of Li et al. (2018, arXiv:1712.09913); the two sharpest
Hessian directions show the narrowest section there is. Misleads even more than a line does: two directions out of n
say nothing about the others, and a picture that looks convex does not make the loss so. Ledger: 0.1, 1.9.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError, NonFiniteError
from geartrain.instruments._answers import no_answer
from geartrain.instruments._base import instrument
from geartrain.instruments.landscape import _directions
from geartrain.instruments.landscape._directions import Along
from geartrain.instruments.landscape._probe import Probe, Spending
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status
from geartrain.run import Run

Plane = Literal["random", "hessian"]
_POINTS = 11
_NAME = "loss_plane"


def _price(objective: Any, plane: Any = "random", *, points: int = _POINTS, **options: Any) -> Cost:
    sharp = isinstance(plane, str) and plane == "hessian"
    return Cost(forwards=points**2 + 2, gradients=sharp, products=20 * sharp)


@instrument(needs="objective", unit="ℓ", price=_price)
def loss_plane(
    objective: Objective | Run,
    plane: Plane | tuple[Tensor, Tensor] = "random",
    *,
    points: int = _POINTS,
    span: float = 1.0,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the loss L(θ + s d₁ + t d₂) on a square grid, s and t from -span to span.

    Two independent random directions, each filter with the norm of the weights' own; or the two Hessian eigenvectors
    of largest |curvature|, each as long as changes the loss by its own size on its parabola; or two vectors.

    **Cost** ``points``² + 2 forward passes; up to 70 products more for eigenvectors.

    **Assumes** nothing about the loss but that it is the same at every evaluation.

    **Misleads** as a picture of the whole: a random plane has the average curvature, tr H / n, in both directions,
    whatever the spectrum is; saddles and ravines of the loss are invisible in it.

    Args:
        objective: What to cut; an `Objective`, or a `Run` whose training loss is meant.
        plane: ``"random"``, ``"hessian"``, or two vectors of shape (params,), unit θ.
        points: Points along each side, odd, so that the middle is one.
        span: Largest |s| and |t|.
        generator: Source of the directions; a fixed seed if ``None``.
        budget: Limit: products (six forward passes count as one), ``"5s"`` or a `Budget`. Points are taken from the
            middle outwards; those not reached are NaN.

    Returns:
        The losses, dims ``("point", "point_2")``, unit ℓ, infinite where the loss is not finite; standard errors over
        the examples. ``details``: ``rise``, ``rise_error`` (paired with the middle), ``lengths`` of the two
        directions, their ``cosine``, ``directions`` in words, ``nonconvex_share`` (share of the triples of
        neighbours in a row or column whose middle lies above the chord by more than two paired errors).

    Raises:
        InputError: A setting is out of range.

    References:
        Li et al. (2018), arXiv:1712.09913, §5.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> with torch.no_grad(): _ = model.weight.zero_()
    >>> data = torch.eye(2).double(), torch.zeros(2, 1).double()
    >>> bowl = gt.Objective(model, lambda out, y: ((out - y) ** 2).sum(), data)
    >>> loss_plane(bowl, tuple(torch.eye(2).double()), points=3).value.tolist()
    [[2.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 2.0]]
    """
    if points < 3 or points % 2 == 0:
        raise InputError(
            f"{_NAME}: points is {points}; allowed: odd numbers from 3, so that the middle is one."
        )
    if not span > 0:
        raise InputError(f"{_NAME}: span is {span}; allowed: positive numbers.")
    objective = objective.objective() if isinstance(objective, Run) else objective
    spending = Spending(objective, Budget.of(budget).start())
    if spending.exhausted():
        return no_answer(_NAME, "The budget allows no point.", unit="ℓ", state=State.OUT_OF_BUDGET)
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    try:
        loss = float(objective.value())
        pair = _pair_of(objective, plane, loss, source, spending)
    except NonFiniteError as error:
        return no_answer(_NAME, str(error), unit="ℓ", state=State.NON_FINITE)
    if pair is None:
        said = "The budget ended the search for the eigenvectors, or there is only one direction."
        return no_answer(_NAME, said, unit="ℓ", state=State.OUT_OF_BUDGET)
    return _measured(objective, pair, np.linspace(-span, span, points), spending)


def _pair_of(
    objective: Objective, plane: Any, loss: float, source: torch.Generator, spending: Spending
) -> tuple[Along, ...] | None:
    if isinstance(plane, str) and plane not in ("random", "hessian"):
        raise InputError(f"{_NAME}: plane is {plane!r}; allowed: 'random', 'hessian', or two vectors.")
    if not isinstance(plane, str) and len(plane) != 2:
        raise InputError(f"{_NAME}: plane holds {len(plane)} vectors; allowed: two.")
    if plane == "hessian":
        rows = _directions.sharp_directions(objective, 2, source, should_stop=spending.exhausted)
        return None if rows is None else tuple(_sized(objective, row, loss, i) for i, row in enumerate(rows))
    words = (plane, plane) if isinstance(plane, str) else plane
    found = (_directions.along(objective, w, name=_NAME, index=0, run=None, generator=source) for w in words)
    return tuple(chosen for chosen in found if chosen is not None)


def _sized(objective: Objective, row: Tensor, loss: float, index: int) -> Along:
    """An eigenvector, as long as changes the loss by its own size."""
    size = _directions.parabola_length(loss, 0.0, float(objective.hvp(row) @ row))
    return Along(size * row, f"Hessian eigenvector {index + 1}")


def _measured(
    objective: Objective, pair: tuple[Along, ...], grid: np.ndarray, spending: Spending
) -> Measurement:
    probe, here = Probe(objective), objective.parameters()
    first, second = (a.vector for a in pair)
    count, middle = len(grid), len(grid) // 2
    blocks = np.full((count, count, len(probe.weights)), np.nan)
    places = sorted(np.ndindex(count, count), key=lambda p: max(abs(p[0] - middle), abs(p[1] - middle)))
    reached = np.zeros((count, count), dtype=bool)
    for row, column in places:
        if reached.any() and spending.exhausted():
            break
        moved = here + float(grid[row]) * first + float(grid[column]) * second
        blocks[row, column] = probe.losses(here if (row, column) == (middle, middle) else moved)
        reached[row, column] = True
    values = np.asarray(probe.mean(blocks))
    values = np.where(reached & ~np.isfinite(values), np.inf, values)
    sizes = [float(v.double().norm()) for v in (first, second)]
    product = sizes[0] * sizes[1]
    details = {
        "rise": values - values[middle, middle],
        "rise_error": probe.error(blocks - blocks[middle, middle]),
        "lengths": tuple(sizes),
        "cosine": float(first.double() @ second.double()) / product if product else float("nan"),
        "directions": tuple(a.words for a in pair),
        "nonconvex_share": _nonconvex_share(probe, blocks),
    }
    return Measurement(
        _NAME,
        values,
        "ℓ",
        _status(pair, int(reached.sum()), count**2, int(np.isinf(values).sum())),
        probe.error(blocks),
        ("point", "point_2"),
        {"point": grid.tolist(), "point_2": grid.tolist()},
        details=details,
    )


def _nonconvex_share(probe: Probe, blocks: np.ndarray) -> float:
    """Share of neighbouring triples that bulge upwards beyond two errors (rounding where there is no error)."""
    with np.errstate(invalid="ignore"):
        bulges = [
            (blocks[1:-1] - 0.5 * (blocks[:-2] + blocks[2:])).reshape(-1, blocks.shape[2]),
            (blocks[:, 1:-1] - 0.5 * (blocks[:, :-2] + blocks[:, 2:])).reshape(-1, blocks.shape[2]),
        ]
    bulge = np.concatenate(bulges)
    bulge = bulge[np.isfinite(bulge).all(axis=1)]
    if not len(bulge):
        return float("nan")
    error = np.nan_to_num(probe.error(bulge))
    eps = torch.finfo(probe.objective.dtype).eps
    rounding = 10 * eps * np.nanmax(np.abs(np.where(np.isfinite(blocks), blocks, np.nan)))
    return float(np.mean(np.asarray(probe.mean(bulge)) > 2 * error + rounding))


def _status(pair: tuple[Along, ...], done: int, wanted: int, broken: int) -> Status:
    sentence = f"Across {pair[0].words} and {pair[1].words}; the error is over the examples."
    if broken:
        sentence += f" The loss is not finite at {broken} of {wanted} points."
    if done < wanted:
        return Status(State.OUT_OF_BUDGET, f"The budget allowed {done} of {wanted} points. {sentence}")
    return Status(State.ESTIMATE, sentence)
