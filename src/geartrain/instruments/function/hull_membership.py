"""Hull membership: which share of new points lies inside the convex hull of the training points.

Inside it a prediction could be called interpolation; in more than a handful of dimensions nearly every new point is
outside, whatever the data: a hull that holds new Gaussian points needs a number of examples exponential in the
dimension. So the share says as much about the dimension as about the data.

References:
    Balestriero, Pesenti, LeCun (2021), arXiv:2110.09485 (their threshold 2^(d/2)/d, from Bárány and Füredi 1988, is
    the one at which the first point of a ball stops being a vertex; an even chance for a new point needs far more);
    Tukey's half-space depth for the bound used here; Efron (1965), Biometrika 52, for
    P(outside) = E[vertices of n + 1] / (n + 1).

Ledger: 3.2
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.stats import norm

from geartrain.budget import Budget, Clock
from geartrain.errors import InputError
from geartrain.instruments._answers import answer, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import features
from geartrain.instruments.function._errors import share_of
from geartrain.instruments.function._features import layer_table
from geartrain.instruments.function._view import View, began, inputs_of, view_of
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run

NAME = "hull_membership"
FLAT = 1e-9
"""Directions with less than this share of the largest spread count as none (rounding)."""


def _price(
    subject: object, space: str = "input", *, points: int = 128, train: int = 1024, **options: object
) -> Cost:
    memory = 8 * train * (train + points)
    if space == "input":
        return Cost(peak_bytes=memory)
    return Cost(forwards=2 if isinstance(subject, Run) else 1, peak_bytes=memory)


@instrument(needs="data", unit="1", price=_price)
def hull_membership(
    subject: Objective | Run,
    space: str = "input",
    *,
    points: int = 128,
    train: int = 1024,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of points inside the convex hull of the training points, by a linear program for each.

    x is inside if λ ≥ 0 exists with Σ λ_i = 1 and Σ λ_i x_i = x (HiGHS). A run's validation points are tested against
    its training points; of an objective (or a run without validation data) each point against all others, and then
    1 - value is the share of vertices (Efron).

    **Cost**: a linear program of (dimension + 1) x (training points) per point that its coordinates do not already
    rule out; the model runs only for ``space`` other than ``"input"``.

    **Assumes** points in general position no finer than rounding; copies of training points are inside.

    **Misleads** as a measure of extrapolation: in d dimensions even a point of the very same distribution is inside
    with a chance of at most n times its half-space depth; a Gaussian point at distance √d has depth Φ(-√d), so that an
    even chance needs at least ½/Φ(-√d) examples (``log2_examples_needed``). Outside need not be far away.

    Args:
        subject: An objective or a run.
        space: ``"input"``, or the name of a layer.
        points: Points to test at most.
        train: Training points at most, a fixed random subset (the hull of fewer points is smaller).
        generator: Not used: the points are a fixed choice.
        budget: Time; a limit on products counts linear programs.

    Returns:
        The share, 0 to 1, with its binomial standard error. Details: ``tested``, ``training_points``, ``dimension``
        (of their affine span), ``ruled_out_early`` (outside their span or a slab between extremes), ``inside`` (per
        tested point), ``log2_examples_needed``, ``split``.

    Raises:
        InputError: There is no such layer, or a number is too small.

    Example:
        The middle two of four points on a line:

        >>> data = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1])
        >>> objective = Objective(torch.nn.Linear(1, 2), torch.nn.functional.cross_entropy, data)
        >>> hull_membership(objective).value
        0.5
    """
    if points < 1 or train < 2:
        raise InputError(
            f"points is {points}, train {train}; allowed: 1 point or more, 2 training points or more."
        )
    view = began(NAME, subject, budget, limit=points if _holds_out(subject) else train)
    if isinstance(view, Measurement):
        return view
    found = _tables(subject, view, space, points, train)
    if isinstance(found, str):
        return not_applicable(NAME, found)
    tested, known, own = found
    if not (np.isfinite(tested).all() and np.isfinite(known).all()):
        return no_answer(NAME, "The features are NaN or infinite.", state=State.NON_FINITE)
    return _answer(_Hull(known), tested, own, Budget.of(budget).start(), view, space)


def _holds_out(subject: Objective | Run) -> bool:
    return isinstance(subject, Run) and subject.validation_data is not None


def _tables(
    subject: Objective | Run, view: View, space: str, points: int, train: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | str:
    """Points to test, points of the hull, and the rows of the latter that the former are (if they are)."""
    first = _table(view.objective, space)
    if first is None:
        return (
            "The inputs are tokens or cannot be put together: they span no space. Pass the name of a layer."
        )
    if _holds_out(subject):
        other = view_of(subject, "train", train)
        second = _table(other.objective, space) if isinstance(other, View) else None
        if second is None or second.shape[1] != first.shape[1]:
            return "Training and validation points have different numbers of features."
        return first[:points], second, None
    order = np.random.default_rng(view.objective.seed).permutation(len(first))[:train]
    if len(order) < 3:
        return "Two points span a segment only; give 3 or more."
    return first[order[:points]], first[order], np.arange(min(points, len(order)))


def _table(objective: Objective, space: str) -> np.ndarray | None:
    if space != "input":
        return layer_table(objective, space)
    tables = [features(inputs_of(batch)) for batch in objective.batches]
    if any(t is None for t in tables) or len({t.shape[1] for t in tables if t is not None}) != 1:
        return None
    return np.concatenate([t for t in tables if t is not None])


def examples_needed(dimension: int) -> float:
    """Binary logarithm of the number of Gaussian examples without which a typical new one has no even chance."""
    return -1.0 - float(norm.logsf(math.sqrt(dimension))) / math.log(2)


@dataclass
class _Hull:
    """A convex hull of points, shape (points, features), that can be asked."""

    known: np.ndarray

    def __post_init__(self) -> None:
        self.center = self.known.mean(0)
        _, sizes, axes = np.linalg.svd(self.known - self.center, full_matrices=False)
        self.axes = axes[sizes > FLAT * max(sizes[0], 1e-300)]
        spread = sizes[: len(self.axes)] / math.sqrt(len(self.known))
        self.spread = spread if len(spread) else np.ones(0)
        self.inner = self._inner(self.known)
        self.scale = float(np.abs(self.known - self.center).max())

    @property
    def dimension(self) -> int:
        return len(self.axes)

    def _inner(self, points: np.ndarray) -> np.ndarray:
        """Coordinates along the principal axes, in units of the spread."""
        return (points - self.center) @ self.axes.T / self.spread

    def outside_at_once(self, point: np.ndarray, left_out: int | None) -> bool:
        """Whether the point lies off the span, or beyond all points along an axis or along its own direction."""
        if left_out is not None and self.dimension >= len(self.known) - 1:
            return True  # the corners of a simplex
        inner = self._inner(point[None])[0]
        off = point - self.center - (inner * self.spread) @ self.axes
        if np.abs(off).max(initial=0.0) > 1e-7 * max(self.scale, 1e-300):
            return True
        others = self._others(left_out)
        margin = 1e-9 * (1 + np.abs(others).max(initial=0.0))
        if np.any(inner > others.max(0) + margin) or np.any(inner < others.min(0) - margin):
            return True
        size = float(inner @ inner)
        return size > 0 and size > float((others @ inner).max()) + margin * math.sqrt(size)

    def _others(self, left_out: int | None) -> np.ndarray:
        return self.inner if left_out is None else np.delete(self.inner, left_out, axis=0)

    def holds(self, point: np.ndarray, left_out: int | None) -> bool:
        """Whether the point is a convex combination of the others."""
        others = self._others(left_out)
        inner = self._inner(point[None])[0]
        matrix = np.vstack([others.T, np.ones(len(others))])
        result = linprog(
            np.zeros(len(others)), A_eq=matrix, b_eq=np.append(inner, 1.0), bounds=(0, None), method="highs"
        )
        return result.status == 0


def _answer(
    hull: _Hull, tested: np.ndarray, own: np.ndarray | None, clock: Clock, view: View, space: str
) -> Measurement:
    inside: list[bool] = []
    early = programs = 0
    timed = replace(clock, products=None)
    for i, point in enumerate(tested):
        if timed.exhausted():
            break
        left_out = None if own is None else int(own[i])
        if hull.outside_at_once(point, left_out):
            early += 1
            inside.append(False)
            continue
        if clock.exhausted(programs):
            break
        programs += 1
        inside.append(hull.holds(point, left_out))
    if not inside:
        return no_answer(NAME, "The budget allowed no linear program.", state=State.OUT_OF_BUDGET)
    hits = np.array(inside, dtype=float)
    value, error = share_of(hits, np.arange(len(hits)))
    details = {
        "tested": len(hits),
        "training_points": len(hull.known) - (own is not None),
        "dimension": hull.dimension,
        "ruled_out_early": early,
        "inside": np.array(inside),
        "log2_examples_needed": examples_needed(hull.dimension),
        "split": view.split,
    }
    cut = len(hits) < len(tested)
    sentence = (
        f"{value:.1%} of {len(hits)} points are inside the hull of {details['training_points']} in {space} space of "
        f"dimension {hull.dimension}; of Gaussian points an even chance needs more than "
        f"2^{details['log2_examples_needed']:.0f}"
    )
    sentence += f". The budget reached {len(hits)} of {len(tested)} points." if cut else "."
    state = State.OUT_OF_BUDGET if cut else State.ESTIMATE
    return answer(NAME, value, sentence, error=error, state=state, details=details)
