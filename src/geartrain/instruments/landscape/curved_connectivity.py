"""Loss barrier on the best curve found between two networks: is there a valley that joins them?

Almost always there is, in networks with room to spare; that a line meets a barrier says more about the line. The
found barrier bounds the true one from above, never from below. References: Garipov et al. (2018),
arXiv:1802.10026; Draxler et al. (2018), arXiv:1803.00885. Ledger: 0.1, 1.27.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError, NonFiniteError
from geartrain.instruments._answers import answer, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.landscape import _path
from geartrain.instruments.landscape._path import Barrier, BatchNorm, Ends, Walker
from geartrain.instruments.landscape._probe import Spending
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, format_number

Shape = Literal["bezier", "polygon"]
_POINTS, _STEPS = 11, 100
_NAME = "curved_connectivity"


def _price(objective: Any, *, steps: int = _STEPS, points: int = _POINTS, **options: Any) -> Cost:
    return Cost(forwards=_path.price_of(objective, 2, points), gradients=steps)


@instrument(needs="pair", unit="ℓ", price=_price)
def curved_connectivity(
    objective: Objective,
    other: Any,
    *,
    curve: Shape = "bezier",
    steps: int = _STEPS,
    rate: float = 0.1,
    points: int = _POINTS,
    batch_norm: BatchNorm = "recompute",
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the barrier along a curve with one bend, trained to keep the mean loss along it low.

    Bézier: φ(t) = (1-t)²θ₁ + 2t(1-t)c + t²θ₂; polygon: θ₁ to c to θ₂ in straight lines. The bend c starts beside the
    middle of the line and minimises ∫L(φ(t))dt by Adam, one t per step from a stratified sequence, with a rate that
    falls to 0 (Garipov et al. 2018, eqs. 1-6). The value is the lower of this curve's barrier and the line's.

    **Cost** ``steps`` gradients and 2·``points`` + 2 forward passes (twice these where statistics are taken anew).

    **Assumes** that the loss can be differentiated at every point between.

    **Misleads** as a lower bound: failing to find a valley is no proof that there is none (more ``steps``, a
    polygon, another seed). And a valley between two networks says nothing of whether training would ever walk it.

    Args:
        objective: The first network.
        other: The second: an `Objective` (its model is taken), a model, or a vector of parameters.
        curve: ``"bezier"`` or ``"polygon"``.
        steps: Steps of training of the bend.
        rate: First step size of Adam, in units of the rms difference between the ends' parameters.
        points: Points of the curve that are evaluated, the ends included.
        batch_norm: Running statistics: ``"recompute"`` at each point or ``"interpolate"``. Training normalises by batch
            in the former case.
        generator: Source of the start of the bend and of the t's; a fixed seed if ``None``.
        budget: Limit: products (two gradients or six forward passes count as one), ``"5s"`` or a `Budget`. The bend
            is trained for fewer steps.

    Returns:
        The height of the found barrier, at least 0, unit ℓ; its standard error is over the examples. ``details``:
        the profile of the curve (``at``, ``points``, ``losses``, ``excess``, ``excess_errors``), ``linear`` (barrier of
        the line), ``linear_error``, ``curve_barrier`` (of the trained curve alone), ``steps``,
        ``length_ratio`` (length of the curve over that of the line), ``recomputed``.

    Raises:
        InputError: A setting is out of range, or ``other`` cannot be used.

    References:
        Garipov, Izmailov, Podoprikhin, Vetrov, Wilson (2018), arXiv:1802.10026.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> with torch.no_grad(): _ = model.weight.copy_(torch.tensor([[-1.0, 0.0]]))
    >>> ring = lambda m, batch: ((m.weight**2).sum() - 1) ** 2  # a circular valley around a hill of height 1
    >>> around = gt.Objective(model, batch_loss=ring, data=[torch.ones(1)])
    >>> bool(float(curved_connectivity(around, torch.tensor([1.0, 0.0]).double())) < 0.1)
    True
    """
    _path.check_points(points, _NAME)
    if curve not in ("bezier", "polygon"):
        raise InputError(f"{_NAME}: curve is {curve!r}; allowed: 'bezier' or 'polygon'.")
    if steps < 1 or not rate > 0:
        raise InputError(f"{_NAME}: steps is {steps} and rate {rate}; allowed: at least 1, and above 0.")
    found = _path.ends_of(objective, other, _NAME)
    if isinstance(found, str):
        return not_applicable(_NAME, found, unit="ℓ")
    ends = found[0]
    if broken := _path.nan_ends(ends):
        return no_answer(_NAME, broken, unit="ℓ", state=State.NON_FINITE)
    spending = Spending(objective, Budget.of(budget).start())
    if spending.exhausted():
        return no_answer(_NAME, "The budget allows no point.", unit="ℓ", state=State.OUT_OF_BUDGET)
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    try:
        walker = Walker(objective, ends, batch_norm, _NAME)
        linear = _path.barrier_along(walker, ends.line, points, spending)
        bend = _Bend(walker, curve, source)
        if linear is not None:
            bend.train(steps, rate, spending)
    except NonFiniteError as error:
        return no_answer(_NAME, str(error), unit="ℓ", state=State.NON_FINITE)
    if linear is None:
        said = "The budget allowed no point between the ends."
        return no_answer(_NAME, said, unit="ℓ", state=State.OUT_OF_BUDGET)
    # The promised end of every budget: the trained curve is looked at on the line's grid.
    curved = _path.barrier_along(walker, bend.at, points) if bend.taken else linear
    assert curved is not None
    return _measurement(bend, linear, curved, steps)


class _Bend:
    """A curve with one free point between two fixed ends."""

    def __init__(self, walker: Walker, shape: str, source: torch.Generator) -> None:
        self.walker, self.shape, self.source = walker, shape, source
        ends = walker.ends
        self.spread = ends.distance / math.sqrt(len(ends.first))
        self.taken = 0
        # Off the line: on it, a symmetric hill has no slope to either side.
        noise = torch.randn(len(ends.first), generator=source, dtype=torch.float64, device=source.device)
        self.centre = ends.line(0.5) + 0.1 * self.spread * noise.to(ends.first)

    def weights(self, t: float) -> tuple[float, float, float]:
        """Shares of the first end, the bend and the second end in the point t."""
        if self.shape == "bezier":
            return (1 - t) ** 2, 2 * t * (1 - t), t**2
        return max(1 - 2 * t, 0.0), 1 - abs(1 - 2 * t), max(2 * t - 1, 0.0)

    def at(self, t: float) -> Tensor:
        """The point t; the ends exactly."""
        ends: Ends = self.walker.ends
        if t in (0.0, 1.0):
            return ends.line(t)
        first, bend, second = self.weights(t)
        return first * ends.first + bend * self.centre + second * ends.second

    def train(self, steps: int, rate: float, spending: Spending) -> None:
        """Adam on the bend; the ends are fixed."""
        walker, twin = self.walker, self.walker.twin
        first_moment, second_moment = torch.zeros_like(self.centre), torch.zeros_like(self.centre)
        if self.spread == 0:
            return
        for step in range(steps):
            if spending.exhausted():
                return
            self.taken += 1
            t = _stratified(step, self.source)
            share, params = self.weights(t)[1], self.at(t)
            if not walker.recomputes:
                walker.place(t, params)
            try:
                with walker.batch_statistics():
                    slope = share * twin.gradient(params)
            except NonFiniteError:
                continue  # too far out: this step teaches nothing
            first_moment.lerp_(slope, 0.1)
            second_moment.lerp_(slope**2, 0.01)
            mean, square = first_moment / (1 - 0.9 ** (step + 1)), second_moment / (1 - 0.99 ** (step + 1))
            size = rate * self.spread * (1 - step / steps)
            floor = 1e-12 * float(square.max()) ** 0.5 + 1e-30
            self.centre = self.centre - size * mean / (square.sqrt() + floor)

    def length_ratio(self) -> float:
        """Length of the curve (its chords on a fine grid) over that of the line."""
        corners = [self.at(i / 32) for i in range(33)]
        total = sum(float((b - a).double().norm()) for a, b in itertools.pairwise(corners))
        return total / self.walker.ends.distance if self.walker.ends.distance else 1.0


def _stratified(step: int, source: torch.Generator) -> float:
    """Next t: every eight successive ones fall into the eight eighths of (0, 1), in bit-reversed order."""
    stratum = (0, 4, 2, 6, 1, 5, 3, 7)[step % 8]
    jitter = float(torch.rand((), generator=source, dtype=torch.float64, device=source.device))
    return (stratum + jitter) / 8


def _measurement(bend: _Bend, linear: Barrier, curved: Barrier, steps: int) -> Measurement:
    if not all(math.isfinite(float(linear.losses[end])) for end in (0, -1)):
        said = "The loss at an end of the curve is not finite."
        return no_answer(_NAME, said, unit="ℓ", state=State.NON_FINITE)
    best = curved if curved.height <= linear.height else linear
    taken = bend.taken
    details = {
        **curved.details(),
        "linear": linear.height,
        "linear_error": linear.error,
        "curve_barrier": curved.height,
        "steps": taken,
        "length_ratio": bend.length_ratio(),
        "recomputed": bend.walker.recomputes,
    }
    complete = taken == steps or bend.spread == 0
    sentence = (
        f"The {bend.shape} trained for {taken} steps rises {format_number(curved.height)} above its chord, the line "
        f"{format_number(linear.height)}; the lower bounds the true barrier from above."
    )
    if not complete:
        sentence = f"The budget allowed {taken} of {steps} steps. {sentence}"
    state = State.ESTIMATE if complete else State.OUT_OF_BUDGET
    return answer(_NAME, best.height, sentence, unit="ℓ", error=best.error, state=state, details=details)
