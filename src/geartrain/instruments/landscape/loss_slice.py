"""The loss along a line through the present point: a cut through the landscape.

The picture that people draw of a minimum: sharp or flat, a bowl or a ravine. Shown beside the parabola that gradient
and Hessian promise, so that one sees how far the local picture reaches. Misleads by what it leaves out: a random line
in a million dimensions meets the average curvature and almost never a sharp, a negative or an escaping direction.
References: Li et al. (2018), arXiv:1712.09913; Goodfellow, Vinyals, Saxe (2015), arXiv:1412.6544. Ledger: 0.1, 1.25.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.instruments._answers import no_answer
from geartrain.instruments._base import instrument
from geartrain.instruments.landscape import _directions
from geartrain.instruments.landscape._directions import Along, Direction
from geartrain.instruments.landscape._probe import Probe, Spending
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status
from geartrain.run import Run

_POINTS = 21
_NAME = "loss_slice"


def _price(objective: Any, direction: Any = "random", *, points: int = _POINTS, **options: Any) -> Cost:
    sharp = isinstance(direction, str) and direction == "hessian"
    slope = isinstance(direction, str) and direction == "gradient"
    return Cost(forwards=points + 2, gradients=2 + slope, products=1 + 15 * sharp)


@instrument(needs="objective", unit="ℓ", price=_price)
def loss_slice(
    objective: Objective | Run,
    direction: Direction | Tensor = "random",
    *,
    points: int = _POINTS,
    span: float = 1.0,
    length: float | None = None,
    index: int = 0,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the loss L(θ + t d) along a direction d, at t from -span to span.

    d is a random direction in which every filter has the norm of the weights' own (``"random"``), the negative
    gradient, the next update of a run, a Hessian eigenvector, or a vector. Near t = 0 the slice is the parabola
    L + t g·d + ½ t² dᵀHd, given beside it: where the two part, gradient and curvature no longer describe the loss.

    **Cost** ``points`` + 2 forward passes, two gradients and one product; up to 60 products more for an eigenvector.

    **Assumes** nothing about the loss but that it is the same at every evaluation.

    **Misleads** where one line stands for a landscape: in many dimensions a random direction has the curvature
    tr H / n to within a few per cent, and a flat-looking slice says nothing about the sharpest direction. Without
    filter normalisation, networks whose weights differ only in scale look different; even with it, scales that cancel
    between layers (ReLU) remain comparable only filter by filter, and biases and norm scales do not move.

    Args:
        objective: What to cut; an `Objective`, or a `Run` whose training loss is meant.
        direction: ``"random"``, ``"gradient"``, ``"update"`` (needs a `Run`), ``"hessian"``, or a vector of shape
            (params,), unit θ.
        points: Number of points, odd, so that t = 0 is one.
        span: Largest |t|.
        length: Scale d to this length, unit θ. By default, gradient and eigenvectors get the length at which
            the parabola changes the loss by its own size; the others keep theirs.
        index: Which eigenvector: 0 for the largest curvature by size, 1 for the next, -1 for the most negative.
        generator: Source of the direction; a fixed seed if ``None``.
        budget: Limit: products (six forward passes count as one), ``"5s"`` or a `Budget`. Points are taken from the
            middle outwards; those not reached are NaN.

    Returns:
        The losses, dims ``("point",)`` with t as labels, unit ℓ; infinite where the loss is not finite. Their
        standard error is over the examples. ``details``: ``rise`` (loss above the middle), ``rise_error`` (paired over
        the examples, far smaller), ``slope`` (g·d), ``curvature`` (dᵀHd, unit ℓ for t), ``parabola`` (the local
        prediction at each point), ``length``, ``direction``.

    Raises:
        InputError: A setting is out of range.

    References:
        Li, Xu, Taylor, Studer, Goldstein (2018), arXiv:1712.09913, §4.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> with torch.no_grad(): _ = model.weight.fill_(3.0)
    >>> data = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    >>> square = gt.Objective(model, lambda out, y: ((out - y) ** 2).mean(), data)
    >>> loss_slice(square, torch.ones(1).double(), points=3).value.tolist()
    [4.0, 9.0, 16.0]
    """
    if points < 3 or points % 2 == 0:
        raise InputError(f"{_NAME}: points is {points}; allowed: odd numbers from 3, so that t = 0 is one.")
    if not span > 0 or (length is not None and not length > 0):
        raise InputError(f"{_NAME}: span is {span} and length {length}; allowed: positive numbers.")
    if index < -1:
        raise InputError(f"{_NAME}: index is {index}; allowed: 0, 1, ... from the largest, or -1.")
    run = objective if isinstance(objective, Run) else None
    objective = objective.objective() if isinstance(objective, Run) else objective
    spending = Spending(objective, Budget.of(budget).start())
    if spending.exhausted():
        return no_answer(_NAME, "The budget allows no point.", unit="ℓ", state=State.OUT_OF_BUDGET)
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    try:
        loss = float(objective.value())
        chosen = _directions.along(
            objective,
            direction,
            name=_NAME,
            index=index,
            run=run,
            generator=source,
            should_stop=spending.exhausted,
        )
        if chosen is None:
            said = "The budget ended the search for the eigenvector."
            return no_answer(_NAME, said, unit="ℓ", state=State.OUT_OF_BUDGET)
        slope, curvature = _derivatives(objective, chosen.vector)
    except NonFiniteError as error:
        return no_answer(_NAME, str(error), unit="ℓ", state=State.NON_FINITE)
    scale = _scale(chosen, length, loss, slope, curvature)
    grid = np.linspace(-span, span, points)
    return _measured(objective, chosen, scale, grid, (slope * scale, curvature * scale**2), spending)


def _derivatives(objective: Objective, direction: Tensor) -> tuple[float, float]:
    """Slope g·d and curvature dᵀHd at the present point; the latter NaN where there is none."""
    slope = float(objective.gradient() @ direction)
    try:
        return slope, float(objective.hvp(direction) @ direction)
    except UnsupportedError:
        return slope, float("nan")


def _scale(chosen: Along, length: float | None, loss: float, slope: float, curvature: float) -> float:
    size = float(chosen.vector.norm())
    if size == 0:
        return 1.0
    if length is not None:
        return length / size
    return _directions.parabola_length(loss, slope, curvature) if chosen.natural else 1.0


def _measured(
    objective: Objective,
    chosen: Along,
    scale: float,
    grid: np.ndarray,
    derivatives: tuple[float, float],
    spending: Spending,
) -> Measurement:
    probe, here, step = Probe(objective), objective.parameters(), scale * chosen.vector
    blocks = np.full((len(grid), len(probe.weights)), np.nan)
    middle, reached = len(grid) // 2, np.zeros(len(grid), dtype=bool)
    for place in sorted(range(len(grid)), key=lambda i: abs(i - middle)):
        if reached.any() and spending.exhausted():
            break
        # Exactly the present point: adding 0 times an infinite direction would not be.
        params = here if place == middle else here + float(grid[place]) * step
        blocks[place] = probe.losses(params)
        reached[place] = True
    values = np.asarray(probe.mean(blocks))
    values = np.where(reached & ~np.isfinite(values), np.inf, values)
    rise = blocks - blocks[middle]
    slope, curvature = derivatives
    details = {
        "rise": values - values[middle],
        "rise_error": probe.error(rise),
        "slope": slope,
        "curvature": curvature,
        "parabola": values[middle] + slope * grid + 0.5 * curvature * grid**2,
        "length": float(step.norm()),
        "direction": chosen.words,
    }
    return Measurement(
        _NAME,
        values,
        "ℓ",
        _status(chosen.words, int(reached.sum()), len(grid), int(np.isinf(values).sum())),
        probe.error(blocks),
        ("point",),
        {"point": grid.tolist()},
        details=details,
    )


def _status(words: str, done: int, wanted: int, broken: int) -> Status:
    sentence = f"Along {words}; the error is over the examples."
    if broken:
        sentence += f" The loss is not finite at {broken} of {wanted} points."
    if done < wanted:
        return Status(State.OUT_OF_BUDGET, f"The budget allowed {done} of {wanted} points. {sentence}")
    return Status(State.ESTIMATE, sentence)
