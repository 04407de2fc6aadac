"""How fast the volume of nearly optimal parameters shrinks: the exponent of vol{L - L* < ε} ~ ε^λ.

d/2 at a regular minimum, less where the loss is flat to higher order or along valleys: degeneracy in one number.
Misleads in many dimensions, where a few lucky directions hold nearly all the volume: the effective number of
directions is given, and too few are refused. Ledger: 2.14, 2.16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget, Clock
from geartrain.errors import InputError, NonFiniteError
from geartrain.instruments._answers import answer, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.records import Cost, Measurement, State, format_number

_LEVELS = 5
_FEWEST = 8.0  # effective directions below which an average over them says nothing


@dataclass(frozen=True)
class Scaling:
    """An exponent from losses along rays.

    Attributes:
        exponent: Slope of ln volume over ln ε across the levels.
        error: Its standard error over the directions (jackknife).
        local: Slopes between neighbouring levels, the highest level first.
        log_volumes: ln of the volume at each level, in units of the ball's volume.
        effective: Effective number of directions at the lowest level, (Σw)²/Σw².
    """

    exponent: float
    error: float
    local: np.ndarray
    log_volumes: np.ndarray
    effective: float


def _price(objective: Any, num_directions: int = 64, *, num_radii: int = 40, **options: Any) -> Cost:
    return Cost(forwards=1 + num_directions * num_radii, peak_bytes=8 * num_directions * (num_radii + 1))


@instrument(needs="objective", unit="1", price=_price)
def volume_scaling(
    objective: Any,
    num_directions: int = 64,
    *,
    radius: float | None = None,
    num_radii: int = 40,
    levels: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Exponent with which the volume of {w in a ball : L(w) - L(w*) < ε} grows with ε, around the present point w*.

    In polar coordinates the volume is an average over directions u of ∫ 1[L(w* + r u) - L* < ε] d r^(d-1) dr: the loss
    is taken along random rays at radii in geometric progression, interpolated between them in log-log, and the slope of
    ln volume over ln ε fitted across five levels of ε. No assumption that the region is star-shaped.

    **Cost** 1 + ``num_directions`` x ``num_radii`` forward passes; far fewer where the point is no minimum.

    **Assumes** that w* is a minimum: refused at the first ray along which the loss falls.

    **Misleads** in high dimension: directions weigh by the d-th power of their reach, so that of m directions only
    a few count (``details["effective_directions"]``; below 8 the answer is marked as not converged, and leans towards
    d/2). About d = 15 is the limit of plain rays on an ill-conditioned minimum. At singular minima the slope depends on
    ε through a factor (ln 1/ε)^(m-1) and nears its limit only like 1/ln(1/ε): compare at the same levels.

    Args:
        objective: What to measure; an `Objective` at a minimum.
        num_directions: Random rays.
        radius: Of the ball; 1 % of the parameters' norm, at least 0.01, if omitted.
        num_radii: Points on a ray, from ``radius`` down to 10⁻⁴ of it.
        levels: Smallest and largest ε; if omitted, the largest is that which the median ray reaches at half the radius,
            and the smallest a hundredth of it.
        generator: Source of the directions; a fixed seed if ``None``.
        budget: Limit: products (three forward passes each), ``"5s"`` or a `Budget`; fewer rays are then used.

    Returns:
        The exponent, a pure number, with its standard error over the directions. ``details``: ``levels``,
        ``local_exponents`` (between levels, the largest ε first), ``log_volumes``, ``effective_directions``,
        ``dimension``, ``half_dimension`` (what a regular minimum has), ``radius``, ``num_directions``.

    Raises:
        InputError: A setting is out of range.

    References:
        Watanabe (2009), Algebraic Geometry and Statistical Learning Theory, theorem 7.1; Chiang et al. (2023), ICLR
        (volume and generalisation); Scherlis, Belrose (2025), arXiv:2501.18812 (volume by rays).

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(4, 1, bias=False).double()  # ½|w|² in four dimensions: volume ~ ε²
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> data = torch.eye(4).double(), torch.zeros(4, 1).double()
    >>> objective = gt.Objective(model, torch.nn.functional.mse_loss, data)
    >>> round(float(volume_scaling(objective, 8, num_radii=20)), 6)
    2.0
    """
    for what, value, least in (("num_directions", num_directions, 2), ("num_radii", num_radii, 10)):
        if value < least:
            raise InputError(f"{what} is {value}; it must be at least {least}.")
    if radius is not None and not radius > 0:
        raise InputError(f"radius is {radius}; it must be positive.")
    if levels is not None and not 0 < levels[0] < levels[1]:
        raise InputError(f"levels is {levels}; it must be (smallest, largest) with 0 < smallest < largest.")
    clock = Budget.of(budget).start()
    if clock.exhausted():
        return no_answer(
            "volume_scaling", "The budget ended before the first ray.", state=State.OUT_OF_BUDGET
        )
    try:
        bottom = float(objective.value())
        reach = radius if radius is not None else max(0.01, 0.01 * float(objective.parameters().norm()))
        radii = reach * np.logspace(-4, 0, num_radii)
        rounding = 8 * float(torch.finfo(objective.dtype).eps) * abs(bottom)
        rises = _along_rays(objective, bottom, rounding, radii, num_directions, clock, generator)
    except NonFiniteError as error:
        return no_answer("volume_scaling", str(error), state=State.NON_FINITE)
    return _answered(rises, rounding, radii, objective, levels, num_directions)


def _along_rays(
    objective: Any,
    bottom: float,
    rounding: float,
    radii: np.ndarray,
    num_directions: int,
    clock: Clock,
    generator: torch.Generator | None,
) -> np.ndarray:
    """Rises of the loss, shape (directions, radii), as many rays as the budget allows; a ray that falls is the last.

    Infinite where the loss is no number.
    """
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    center = objective.parameters()
    rows: list[list[float]] = []
    for _ in range(num_directions):
        direction = torch.randn(len(center), generator=source, dtype=torch.float64).to(center)
        direction /= direction.norm()
        row: list[float] = []
        for radius in radii:
            if clock.exhausted((len(rows) * len(radii) + len(row)) // 3):
                return np.array(rows).reshape(len(rows), len(radii))
            try:
                row.append(float(objective.value(center + float(radius) * direction)) - bottom)
            except NonFiniteError:
                row.append(math.inf)
        rows.append(row)
        if _falls(row, rounding):
            break
    return np.array(rows)


def _falls(row: list[float], rounding: float) -> bool:
    """Whether the loss falls along a ray by more than rounding and a thousandth of what it rises."""
    rises = [r for r in row if math.isfinite(r)]
    return bool(rises) and min(rises) < -max(rounding, 1e-3 * max(rises))


def _answered(
    rises: np.ndarray,
    rounding: float,
    radii: np.ndarray,
    objective: Any,
    levels: tuple[float, float] | None,
    wanted: int,
) -> Measurement:
    dimension = objective.num_params
    if len(rises) and _falls(rises[-1].tolist(), rounding):
        return not_applicable(
            "volume_scaling",
            "This is not a minimum: the loss falls along a random ray. Train to the end first "
            "(endpoint_certificate says whether a point is a minimum).",
            rays=len(rises),
        )
    if len(rises) < 2:
        sentence = f"The budget ended after {len(rises)} rays of {wanted}; an exponent needs more."
        return no_answer("volume_scaling", sentence, state=State.OUT_OF_BUDGET)
    top = float(np.median(rises[:, _half(radii)]))
    if top <= rounding:
        return not_applicable(
            "volume_scaling",
            "The loss does not rise along most rays within the radius; take a larger radius.",
        )
    low, high = levels if levels is not None else (top / 100, top)
    if low <= 4 * rounding:
        return not_applicable(
            "volume_scaling", "Rises of the loss at this radius are rounding; use float64 or a larger radius."
        )
    epsilons = np.geomspace(high, low, _LEVELS)
    found = scaling(rises, radii, epsilons, dimension)
    details = {
        "levels": epsilons,
        "local_exponents": found.local,
        "log_volumes": found.log_volumes,
        "effective_directions": found.effective,
        "dimension": dimension,
        "half_dimension": dimension / 2,
        "radius": float(radii[-1]),
        "num_directions": len(rises),
    }
    sentence = (
        f"A regular minimum has {format_number(dimension / 2)}; {len(rises)} rays in {dimension} dimensions"
    )
    state = State.ESTIMATE
    if found.effective < _FEWEST:
        state, sentence = State.NOT_CONVERGED, f"{sentence}, of which only {found.effective:.1f} count"
    if len(rises) < wanted:
        state, sentence = State.OUT_OF_BUDGET, f"{sentence} ({wanted} wanted)"
    return answer(
        "volume_scaling", found.exponent, f"{sentence}.", error=found.error, state=state, details=details
    )


def _half(radii: np.ndarray) -> int:
    return int(np.searchsorted(radii, radii[-1] / 2))


def scaling(rises: np.ndarray, radii: np.ndarray, epsilons: np.ndarray, dimension: int) -> Scaling:
    """The exponent from the rises of the loss along rays.

    Args:
        rises: L - L* on the rays, shape (directions, radii).
        radii: In ascending order, shape (radii,).
        epsilons: Levels, the largest first.
        dimension: Number of parameters.

    Returns:
        The exponent and what it rests on.
    """
    logs = np.stack(
        [_log_reach(rises, radii / radii[-1], e, dimension) for e in epsilons]
    )  # levels x directions
    peak = logs.max(axis=1, keepdims=True)
    weights = np.exp(logs - peak)
    totals = weights.sum(axis=1)
    steps = np.log(epsilons) - np.log(epsilons).mean()
    count = rises.shape[0]

    def slope(sums: np.ndarray, number: int) -> float:
        heights = np.log(sums / number) + peak[:, 0]
        return float((steps * heights).sum() / (steps**2).sum())

    left_out = np.array([slope(totals - weights[:, i], count - 1) for i in range(count)])
    heights = np.log(totals / count) + peak[:, 0]
    error = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    return Scaling(
        slope(totals, count),
        error,
        np.diff(heights) / np.diff(np.log(epsilons)),
        heights,
        float(totals[-1] ** 2 / (weights[-1] ** 2).sum()),
    )


def _log_reach(rises: np.ndarray, radii: np.ndarray, epsilon: float, dimension: int) -> np.ndarray:
    """Logarithm of ∫ 1[rise < ε] d(r^d) along each ray, shape (directions,): crossings interpolated in log-log."""
    tiny = np.finfo(float).tiny
    heights = np.log(np.clip(rises, tiny, None)) - math.log(epsilon)
    places = np.log(radii)
    below = heights < 0
    first, second = heights[:, :-1], heights[:, 1:]
    steps = np.diff(places)[None]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(np.isfinite(second - first), -first / (second - first), 0.0)
    cross = places[:-1][None] + np.clip(share, 0, 1) * steps
    start = np.where(below[:, :-1], places[:-1][None], cross)
    stop = np.where(below[:, 1:], places[1:][None], cross)
    inside = below[:, :-1] | below[:, 1:]
    # r₂^d - r₁^d in logarithms; the part within the first radius counts whole if the loss is low there, and by the
    # quadratic that the first point fixes if not.
    lengths = np.maximum(stop - start, 0)
    with np.errstate(divide="ignore"):
        pieces = np.where(inside, dimension * stop + np.log(-np.expm1(-dimension * lengths)), -np.inf)
    core = dimension * (places[0] + np.where(below[:, 0], 0.0, -heights[:, 0] / 2))
    return np.logaddexp.reduce(np.column_stack([core, pieces]), axis=1)
