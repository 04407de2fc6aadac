"""Loss barrier on the straight line between two networks: are they in one basin, as they stand?

Two fine-tunings of one checkpoint usually are, two seeds never (until their units are matched: `permuted_barrier`).
Between initialisation and the end of a run it says whether training went downhill all the way. Misleads across
symmetries: a barrier does not mean that the functions differ. References: Frankle et al. (2020), arXiv:1912.05671;
Goodfellow, Vinyals, Saxe (2015), arXiv:1412.6544. Ledger: 1.13, 1.27.
"""

from __future__ import annotations

from typing import Any

import torch

from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments._answers import answer, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.landscape import _path
from geartrain.instruments.landscape._path import Barrier, BatchNorm, Walker
from geartrain.instruments.landscape._probe import Spending
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, format_number

_POINTS = 11
_NAME = "linear_connectivity"


def _price(objective: Any, *, points: int = _POINTS, **options: Any) -> Cost:
    return Cost(forwards=_path.price_of(objective, 1, points))


@instrument(needs="pair", unit="ℓ", price=_price)
def linear_connectivity(
    objective: Objective,
    other: Any,
    *,
    points: int = _POINTS,
    batch_norm: BatchNorm = "recompute",
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the barrier max_t [L((1-t)θ₁ + tθ₂) - (1-t)L(θ₁) - tL(θ₂)] between two networks.

    0 where the loss along the line is convex. Above the chord, not above the higher end: a line from a bad network
    down to a good one has no barrier unless it bulges.

    **Cost** ``points`` + 2 forward passes; twice that where running statistics are taken anew.

    **Assumes** that no barrier is narrower than the grid's spacing.

    **Misleads** between networks that differ by a symmetry (permuted units, ReLU scales): they compute the same
    function and have a barrier all the same. Evaluated on few examples the largest of ``points`` noisy excesses is
    biased upwards by about its error. With stale batch statistics (``"interpolate"``) every pair has a barrier.

    Args:
        objective: The first network.
        other: The second: an `Objective` (its model is taken), a model, or a vector of parameters.
        points: Points on the line, the ends included.
        batch_norm: ``"recompute"`` the running statistics of batch normalisation at each point (the ends included) on
            the data, or ``"interpolate"`` them.
        generator: Not used.
        budget: Limit: products (six forward passes count as one), ``"5s"`` or a `Budget`. The grid gets coarser.

    Returns:
        The height of the barrier, at least 0, unit ℓ; the standard error is that of the excess at the highest inner
        point, paired over the examples. ``details``: ``at`` (t of the highest point), ``points``, ``losses``,
        ``excess``, ``excess_errors``, ``distance`` (unit θ), ``relative`` (height over the mean loss of the ends),
        ``monotone`` (whether the loss falls or rises all the way), ``recomputed`` (whether statistics were).

    Raises:
        InputError: A setting is out of range, or ``other`` is none of these.

    References:
        Frankle, Dziugaite, Roy, Carbin (2020), arXiv:1912.05671, §2; Entezari et al. (2022), arXiv:2110.06296, eq. 1.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> with torch.no_grad(): _ = model.weight.fill_(-1.0)
    >>> data = torch.ones(1, 1).double(), torch.ones(1, 1).double()
    >>> wells = gt.Objective(model, lambda out, y: ((out**2 - y) ** 2).mean(), data)
    >>> float(linear_connectivity(wells, torch.ones(1).double()))
    1.0
    """
    _path.check_points(points, _NAME)
    found = _path.ends_of(objective, other, _NAME)
    if isinstance(found, str):
        return not_applicable(_NAME, found, unit="ℓ")
    ends = found[0]
    if broken := _path.nan_ends(ends):
        return no_answer(_NAME, broken, unit="ℓ", state=State.NON_FINITE)
    spending = Spending(objective, Budget.of(budget).start())
    if spending.exhausted():
        return no_answer(_NAME, "The budget allows no point.", unit="ℓ", state=State.OUT_OF_BUDGET)
    try:
        walker = Walker(objective, ends, batch_norm, _NAME)
        barrier = _path.barrier_along(walker, ends.line, points, spending)
    except NonFiniteError as error:
        return no_answer(_NAME, str(error), unit="ℓ", state=State.NON_FINITE)
    if barrier is None:
        said = "The budget allowed no point between the ends."
        return no_answer(_NAME, said, unit="ℓ", state=State.OUT_OF_BUDGET)
    return _measurement(walker, barrier, points)


def _measurement(walker: Walker, barrier: Barrier, points: int) -> Measurement:
    first, last = float(barrier.losses[0]), float(barrier.losses[-1])
    if not first - first == last - last == 0:
        said = "The loss at an end of the line is not finite."
        return no_answer(_NAME, said, unit="ℓ", state=State.NON_FINITE)
    mean = 0.5 * (first + last)
    steps = barrier.losses[1:] - barrier.losses[:-1]
    details = {
        **barrier.details(),
        "distance": walker.ends.distance,
        "relative": barrier.height / abs(mean) if mean else float("nan"),
        "monotone": bool((steps <= 0).all() or (steps >= 0).all()),
        "recomputed": walker.recomputes,
    }
    reached = len(barrier.points)
    state = State.ESTIMATE if reached == points else State.OUT_OF_BUDGET
    sentence = (
        f"The line rises {format_number(barrier.height)} above its chord at t = {barrier.at:.2g}"
        if barrier.height > 0
        else "The line lies nowhere above its chord"
    )
    coarse = "" if reached == points else f" The budget allowed {reached} of {points} points."
    sentence += f"; {reached} points, the error is over the examples.{coarse}"
    return answer(
        _NAME, barrier.height, sentence, unit="ℓ", error=barrier.error, state=state, details=details
    )
