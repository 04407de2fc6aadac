"""Which truths survive when toys are added, paired or multiplied, and what becomes of them.

Each rule is a line of theory. A truth for which there is none is dropped, and so is one of a form that the rule does
not foresee (options of its own, say): a composite that knows less is better than one that guesses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain import instruments
from geartrain.objective import Objective
from geartrain.zoo import _joined
from geartrain.zoo._base import Toy, Truth

Join = Callable[[Objective, Objective], Objective]
_ROUNDING = 1e-12
_MOST_TOLERANCE = 0.25
_MOST_PRODUCTS = 2000
_APART = "The parameters of both parts are different ones."


@dataclass(frozen=True)
class Side:
    """A truth of one of two toys.

    Attributes:
        toy: The toy.
        truth: What it knows.
    """

    toy: Toy
    truth: Truth

    @property
    def value(self) -> np.ndarray:
        """What it knows, as an array."""
        return np.asarray(self.truth.value, dtype=float)

    @property
    def slack(self) -> float:
        """Its tolerance, as a number of the value's unit."""
        return self.truth.tolerance * _size(self.value)

    def subject(self) -> Objective:
        """What it is about."""
        found = self.toy.objective if self.truth.subject is None else self.truth.subject(self.toy)
        if not isinstance(found, Objective):
            raise _NoRule
        return found


class _NoRule(Exception):
    """Theory says nothing about it."""


# ------------------------------------------------------------------ sums


def added(first: Toy, second: Toy, join: Join) -> dict[str, Truth]:
    """Truths of L₁(a) + L₂(b)."""
    return _carried(first, second, join, _ADDED)


def noise(first: Toy, second: Toy, join: Join) -> dict[str, Truth]:
    """Truths about the gradients of all pairs of examples."""
    return _carried(first, second, join, _NOISE)


Rule = Callable[[Side, Side, Join], tuple[Any, dict[str, Any]]]
"""From both sides to the value and what else of the `Truth` changes."""


def _carried(first: Toy, second: Toy, join: Join, rules: Mapping[tuple[str, str], Rule]) -> dict[str, Truth]:
    found: dict[str, Truth] = {}
    mine, theirs = _by_place(first), _by_place(second)
    for place, rule in rules.items():
        if place not in mine or place not in theirs:
            continue
        a, b = Side(first, mine[place]), Side(second, theirs[place])
        alike = (a.truth.subject is None) == (b.truth.subject is None)
        if not alike and place != ("volume_scaling", "value"):
            continue  # of the one toy itself, of the other a companion: nobody asks for their sum
        try:
            value, how = rule(a, b, join)
        except _NoRule:
            continue
        slack = how.pop("slack", a.slack + b.slack)
        tolerance = max(slack / _size(np.asarray(value, dtype=float)), 1e-9)
        if tolerance > _MOST_TOLERANCE:
            continue  # two large numbers cancel: what is left proves nothing
        instrument, reading = place
        name = instrument if reading == "value" else f"{instrument}.{reading}"
        found[name] = Truth(
            value,
            tolerance,
            _told("", a.truth.assumptions, b.truth.assumptions, _APART),
            _told(how.pop("why"), a.truth.source, b.truth.source),
            instrument,
            reading,
            strict=a.truth.strict and b.truth.strict,
            subject=_both(a, b, join),
            **how,
        )
    return found


def _both(a: Side, b: Side, join: Join) -> Callable[[Any], Any] | None:
    """What the joined truth is about: the composite itself, unless it is of companions."""
    if a.truth.subject is None and b.truth.subject is None:
        return None
    return lambda _: join(a.subject(), b.subject())


def _by_place(toy: Toy) -> dict[tuple[str, str], Truth]:
    """Truths that instruments meet, by instrument and reading, without those that are seen through a function."""
    return {
        (truth.instrument or name.partition(".")[0], truth.reading): truth
        for name, truth in reversed(list(toy.truth.items()))
        if truth.trial is None
        and truth.extract is None
        and np.isfinite(np.asarray(truth.value, dtype=float)).all()
    }


def _told(*sentences: str) -> str:
    """Each of them once."""
    return " ".join(dict.fromkeys(s for s in sentences if s not in ("", "None.")))


def _whole_matrix(why: str, *, diagonal: bool) -> Rule:
    """With a product for each parameter, so that nothing is left to chance."""

    def rule(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
        size = sum(s.subject().num_params for s in (a, b))
        if size > _MOST_PRODUCTS:
            raise _NoRule
        how = {"why": why, "options": {"num_products": size}}
        if diagonal:
            return np.concatenate([a.value, b.value]), how | {"slack": max(a.slack, b.slack)}
        return float(a.value + b.value), how

    return rule


def _plain_sum(why: str) -> Rule:
    def rule(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
        _no_options(a, b)
        return float(a.value + b.value), {"why": why}

    return rule


def _side_by_side(why: str) -> Rule:
    def rule(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
        _no_options(a, b)
        values = np.concatenate([np.atleast_1d(a.value), np.atleast_1d(b.value)])
        return values, {"why": why, "slack": max(a.slack, b.slack)}

    return rule


def _spectrum(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    """Both spectra, down to the first eigenvalue that one of the lists does not reach."""
    known = np.sort(np.concatenate([a.value, b.value]))[::-1]
    ends = [s.value[-1] for s in (a, b) if len(s.value) < s.subject().num_params]
    known = known[known >= max(ends, default=-math.inf)]
    options = {"k": len(known), "tol": 1e-8, "confirm": True, "budget": 4000}
    return known, {"why": "The Hessian has two blocks.", "slack": max(a.slack, b.slack), "options": options}


def _lowest(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    known = np.sort(np.concatenate([a.value, b.value]))
    ends = [s.value[-1] for s in (a, b) if len(s.value) < s.subject().num_params]
    known = known[known <= min(ends, default=math.inf)]
    if not known.any():
        raise _NoRule  # an end of zeros: which of them are found is a matter of luck
    how = {"why": "The Hessian has two blocks.", "slack": max(a.slack, b.slack)}
    return known, how | {"options": {"k": len(known), "tol": 1e-8, "max_products": 2000}}


def _norm(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    return math.hypot(float(a.value), float(b.value)), {"why": "Pythagoras."}


def _distance(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    value, how = _norm(a, b, join)

    def other(_: Any) -> Tensor:
        return torch.cat([_vector(s) for s in (a, b)])

    return value, how | {"other": other}


def _vector(side: Side) -> Tensor:
    """The second state of a side as flat parameters."""
    if side.truth.other is None:
        raise _NoRule
    found = side.truth.other(side.toy)
    if isinstance(found, Tensor):
        return found
    if isinstance(found, nn.Module):
        found = side.subject().of(found)
    return found.parameters()


def _level_path(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    """Only where neither side has a barrier: the places of two barriers need not be the same."""
    _no_options(a, b)
    if a.value or b.value or a.truth.other is None or b.truth.other is None:
        raise _NoRule

    def other(_: Any) -> Tensor:
        return torch.cat([_vector(s) for s in (a, b)])

    return 0.0, {"why": "Neither part has a barrier.", "other": other}


def _cut(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    """Slices along given directions, at the same points."""
    mine, theirs = ({**s.truth.options} for s in (a, b))
    ways = mine.pop("direction", None), theirs.pop("direction", None)
    if not all(isinstance(w, Tensor) for w in ways) or mine != theirs or a.value.shape != b.value.shape:
        raise _NoRule
    options = {**mine, "direction": torch.cat([w for w in ways if isinstance(w, Tensor)])}
    return a.value + b.value, {"why": "Both parts move at once.", "options": options, "error": "none"}


def _plane(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    mine, theirs = ({**s.truth.options} for s in (a, b))
    planes = mine.pop("plane", None), theirs.pop("plane", None)
    if not all(isinstance(p, tuple) for p in planes) or mine != theirs or a.value.shape != b.value.shape:
        raise _NoRule
    joined = tuple(torch.cat(pair) for pair in zip(*[p for p in planes if p is not None], strict=True))
    return a.value + b.value, {
        "why": "Both parts move at once.",
        "options": {**mine, "plane": joined},
        "error": "none",
    }


def _exponent(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    """Learning coefficients: Laplace transforms of volumes multiply, so exponents add."""
    size = sum(s.subject().num_params for s in (a, b))
    if size > 8:
        raise _NoRule  # the instrument's rays do not reach that far
    given = [s.truth.options["radius"] for s in (a, b) if "radius" in s.truth.options]
    radius = {"radius": min(given)} if given else {}
    options = {"num_directions": 32 * size, "num_radii": 24, **radius}
    return float(a.value + b.value), {"why": "∫e^{-tL} is a product: exponents add.", "options": options}


_ADDED: dict[tuple[str, str], Rule] = {
    ("hessian_trace", "value"): _whole_matrix("The trace of two blocks.", diagonal=False),
    ("hessian_diagonal", "value"): _whole_matrix("The Hessian has two blocks.", diagonal=True),
    ("hessian_spectrum", "value"): _spectrum,
    ("negative_curvature", "value"): _lowest,
    ("layer_curvature", "value"): _side_by_side("No layer is shared."),
    ("layer_curvature", "trace"): _side_by_side("No layer is shared."),
    ("weight_norm", "value"): _side_by_side("No layer is shared."),
    ("weight_norm", "total"): _norm,
    ("weight_rank", "value"): _side_by_side("No layer is shared."),
    ("distance_from_init", "value"): _distance,
    ("linear_connectivity", "value"): _level_path,
    ("loss_slice", "value"): _cut,
    ("loss_slice", "rise"): _cut,
    ("loss_plane", "rise"): _plane,
    ("volume_scaling", "value"): _exponent,
    ("example_losses", "mean"): _plain_sum("Losses add."),
}


# ------------------------------------------------------------------ pairs of examples
# An unbiased variance over n examples is n/(n-1) of the sample's, and only the sample's adds up.


def _numbers(a: Side, b: Side) -> tuple[int, int]:
    if not (a.truth.strict and b.truth.strict):
        raise _NoRule  # about a population of which all pairs of a sample are no sample
    n, m = (s.subject().num_examples for s in (a, b))
    if min(n, m) < 2:
        raise _NoRule
    return n, m


def _trace(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    n, m = _numbers(a, b)
    sample = a.value * (n - 1) / n + b.value * (m - 1) / m
    return float(sample * n * m / (n * m - 1)), {"why": "Independent variances add."}


def _signal(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    """|G|² of a part is its unbiased estimate plus trΣ/n, and the other way round for the whole."""
    n, m = _numbers(a, b)
    mine, theirs = (_partner(s, "gradient_noise_scale", "covariance_trace") for s in (a, b))
    whole, _ = _trace(mine, theirs, join)
    square = float(a.value + mine.value / n + b.value + theirs.value / m)
    return square - whole / (n * m), {"why": "Squared gradients add."}


def _scale(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    noises = (_partner(s, "gradient_noise_scale", "covariance_trace") for s in (a, b))
    signals = (_partner(s, "gradient_noise_scale", "grad_sq_norm") for s in (a, b))
    above, below = _trace(*noises, join=join)[0], _signal(*signals, join=join)[0]
    if below <= 1e-9 * above / 4:
        raise _NoRule
    return above / below, {"why": "trΣ/|G|²; both add."}


def _ratios(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    """|G|²/trΣ - 1/n of each layer, with the Σ of n and then of n·m examples."""
    n, m = _numbers(a, b)
    pairs = n * m
    parts = [(s.value + 1 / k) * k * (pairs - 1) / ((k - 1) * pairs) for s, k in ((a, n), (b, m))]
    return np.concatenate(parts) - 1 / pairs, {"why": "A layer sees one of the two examples only."}


def _root_mean_square(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    return math.hypot(float(a.value), float(b.value)), {"why": "Pythagoras, for every pair."}


def _all_pairs(a: Side, b: Side, join: Join) -> tuple[Any, dict[str, Any]]:
    _no_options(a, b)
    n, m = (s.subject().num_examples for s in (a, b))
    if a.value.shape != (n,) or b.value.shape != (m,):
        raise _NoRule
    return (a.value[:, None] + b.value[None]).ravel(), {"why": "Losses add, for every pair."}


def _partner(side: Side, instrument: str, reading: str) -> Side:
    """Another truth of the same toy about the same subject."""
    truth = _by_place(side.toy).get((instrument, reading))
    if truth is None or truth.subject is not side.truth.subject:
        raise _NoRule
    return Side(side.toy, truth)


_NOISE: dict[tuple[str, str], Rule] = {
    ("gradient_noise_scale", "value"): _scale,
    ("gradient_noise_scale", "covariance_trace"): _trace,
    ("gradient_noise_scale", "grad_sq_norm"): _signal,
    ("signal_to_noise", "value"): _ratios,
    ("per_example_gradients", "rms"): _root_mean_square,
    ("example_losses", "value"): _all_pairs,
}


# ------------------------------------------------------------------ multiples

_POWERS: dict[tuple[str, str], int] = {
    ("curvature_along_gradient", "best_step"): -1,
    ("example_losses", "mean"): 1,
    ("gradient_noise_scale", "covariance_trace"): 2,
    ("gradient_noise_scale", "grad_sq_norm"): 2,
    ("hessian_density", "negative_mass"): 0,
    ("hessian_noise_scale", "max_step"): -1,
    ("hessian_spectrum", "smallest"): 1,
    ("layer_curvature", "trace"): 1,
    ("linear_connectivity", "excess"): 1,
    ("loss_plane", "rise"): 1,
    ("loss_slice", "rise"): 1,
    ("ntk", "trace"): 0,
    ("per_example_gradients", "rms"): 1,
    ("weight_norm", "total"): 0,
    ("weight_rank", "largest"): 0,
    ("weight_rank", "numerical_rank"): 0,
    ("weight_rank", "stable_rank"): 0,
}
"""Power of the loss in readings beside the value, whose unit the instrument states."""
_LOSS_OPTIONS = {"cutoff"}
"""Options that are losses themselves, and grow with it."""
_FAMILIES = {"alignment", "curvature", "degeneracy", "flow", "function", "kernel", "landscape", "noise"}
"""Instruments that see the loss as a number; those of wiring and data look at how it is written."""
_ALSO = {"weight_norm", "distance_from_init", "example_losses", "input_affinity"}


def multiplied(toy: Toy, factor: float) -> dict[str, Truth]:
    """Truths of c·L: dimensional analysis."""
    found = {}
    for name, truth in toy.truth.items():
        power = _power(name, truth)
        if power is None or (power and truth.extract is not None):
            continue  # a function of the value need not scale as the value does
        value, size = np.asarray(truth.value, dtype=float), factor**power
        grown = truth.tolerance * (size if _size(value) == 1.0 and not value.any() else 1.0)
        if grown > _MOST_TOLERANCE and truth.tolerance <= _MOST_TOLERANCE:
            continue
        options = {k: v * factor if k in _LOSS_OPTIONS else v for k, v in truth.options.items()}
        found[name] = replace(
            truth,
            value=value * size if value.ndim else float(value * size),
            tolerance=grown,
            source=f"{truth.source} Times {factor:g}." if power else truth.source,
            options=MappingProxyType(options),
            subject=_of_part(toy, truth.subject, factor),
            other=_of_part(toy, truth.other, factor),
        )
    return found


def _power(name: str, truth: Truth) -> int | None:
    """The power of ℓ in the unit of what is compared; none where theory is silent."""
    instrument = truth.instrument or name.partition(".")[0]
    if truth.trial is not None:
        return None
    spec = instruments.get(instrument).spec
    if spec.needs not in {"objective", "pair", "data"} or (spec.needs == "pair" and truth.other is None):
        return None
    if spec.family not in _FAMILIES and instrument not in _ALSO:
        return None
    if truth.reading != "value":
        return _POWERS.get((instrument, truth.reading))
    above, _, below = spec.unit.partition("/")
    return ("ℓ" in above) - ("ℓ" in below)


def _of_part(toy: Toy, make: Callable[[Any], Any] | None, factor: float) -> Callable[[Any], Any] | None:
    if make is None:
        return None

    def made(_: Any) -> Any:
        found = make(toy)
        return _joined.multiplied(found, factor) if isinstance(found, Objective) else found

    return made


# ------------------------------------------------------------------ small things


def _size(value: np.ndarray) -> float:
    """Of the largest entry, 1 if there is none: what tolerances are fractions of."""
    size = float(np.abs(value).max(initial=0.0))
    return size if size > _ROUNDING else 1.0


def _no_options(*sides: Side) -> None:
    """Options other than of precision change what is measured."""
    for side in sides:
        if set(side.truth.options) - {"tol", "max_products", "num_products"}:
            raise _NoRule
