"""Trace of the Hessian (or another curvature matrix): total curvature, the sum of all eigenvalues.

Misleads when read as sharpness: positive and negative curvature cancel in it. For piecewise-linear networks
the trace is that of the Gauss-Newton matrix, which a few backward passes give ("ghost"); else XTrace by
default (Epperly, Tropp, Webber 2024, arXiv:2301.07825), ten times more accurate than Hutchinson's on network
Hessians.

Ledger: 0.2.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from geartrain.budget import Budget, Clock
from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.instruments import _curvature, _pairs
from geartrain.instruments._answers import not_applicable
from geartrain.instruments._base import instrument
from geartrain.linalg import TraceResult, trace
from geartrain.linalg.trace import Estimator as Sketch
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

Estimator = Literal["auto", "ghost", "xtrace", "hutchpp", "hutchinson"]

_OUTER = ("covariance", "empirical_fisher")
"""Sums of outer products of the examples' gradients: their norms are the trace."""


def _price(
    objective: Any,
    num_products: int = 100,
    *,
    estimator: str = "auto",
    operator: str = "hessian",
    num_samples: int = 4,
    budget: Any = None,
    **options: Any,
) -> Cost:
    limit = Budget.of(budget).products
    if estimator == "ghost" or (estimator == "auto" and objective.num_params > num_products):
        if operator in _OUTER:
            return Cost(gradients=3)
        if (
            operator in ("hessian", "ggn")
            and _pairs.obstacle(objective, hessian=operator == "hessian") is None
        ):
            samples = num_samples if limit is None else min(num_samples, limit)
            return Cost(forwards=1, gradients=2 * samples / 3)
    products = min(num_products, objective.num_params, num_products if limit is None else limit)
    return Cost(gradients=1, products=products, peak_bytes=_curvature.bytes_of(objective, 2 * products))


@instrument(needs="objective", unit="ℓ/θ²", price=_price)
def hessian_trace(
    objective: Any,
    num_products: int = 100,
    *,
    estimator: Estimator = "auto",
    operator: _curvature.Operator = "hessian",
    num_samples: int = 4,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Trace of the Hessian, the sum of its eigenvalues, with a standard error.

    Ghost: where every output is, almost everywhere, of first degree in every single parameter (linear and
    convolutional layers, ReLU, max-pooling, batch normalisation in evaluation mode, ...; no weight used twice),
    tr H = tr JᵀH_ℓJ = Σ_i E‖J_iᵀ s_i‖² over random output gradients with E s sᵀ = H_ℓ, the Hessian of the loss in
    the outputs. One backward pass gives the norms of all examples, from what went into the layers and the gradients
    of what came out. XTrace: tr H = E[zᵀ H z], the range sketched with the very vectors that test it, each left out
    in turn. Both take a fixed number of samples; the error is their spread.

    **Cost** ghost: one forward and ``num_samples`` backward passes (about ``num_samples + 1`` gradients). Others:
    ``num_products`` products, and n where that is fewer (exact); about ``2·num_products`` vectors in memory
    (Hutchinson: 2).

    **Assumes** that the loss is twice differentiable (almost everywhere) and the same at every evaluation. That
    the network is piecewise linear is not assumed but read off the graph; that the layers' norms are right is
    checked on three examples.

    **Misleads** as a measure of sharpness where curvature is negative somewhere: signs cancel. For n far
    above ``num_products`` and a flat spectrum no sketch beats Hutchinson's √(2/(n m)). A rectifier network's Hessian
    holds no trace of the kinks between its linear pieces.

    Args:
        objective: What to measure; an `Objective`.
        num_products: Products to spend, where products are needed.
        estimator: ``"auto"`` (exact if n products are few, ghost where it holds, else XTrace), ``"ghost"``,
            ``"xtrace"``, ``"hutchpp"`` or ``"hutchinson"``.
        operator: As for `hessian_spectrum`. Ghost holds for any network with ``"ggn"``, and is exact for
            ``"empirical_fisher"`` and ``"covariance"``.
        num_samples: Backward passes of the ghost estimator; exact where an example has no more outputs than that.
        generator: Source of the test vectors; a fixed seed if ``None``.
        budget: Limit: products (or backward passes), ``"5s"`` or a `Budget`.

    Returns:
        The trace, unit ℓ/θ² (ℓ²/θ² for the covariance). ``details``: ``estimator`` (what was used in the
        end), ``samples``, ``mean_eigenvalue``, ``products``, ``operator``; of ghost also ``per_layer`` and
        ``per_layer_error`` by name of the layer; of auto without ghost ``why_not_ghost``.

    Raises:
        InputError: A setting is out of range.

    References:
        Hutchinson (1990); Meyer et al. (2021), arXiv:2010.09649; Epperly et al. (2024), arXiv:2301.07825;
        Martens (2020), arXiv:1412.1193, §8.1 (Gauss-Newton and Hessian); Goodfellow (2015), arXiv:1510.01799.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> data = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double()
    >>> objective = gt.Objective(model, lambda out, y: ((out - y) ** 2).mean(), data)
    >>> float(hessian_trace(objective)), float(hessian_trace(objective, estimator="ghost"))
    (5.0, 5.0)
    """
    _check(estimator, num_samples)
    if operator not in _curvature.UNITS:
        _curvature.matvec_of(objective, operator)  # says what there is
    clock = Budget.of(budget).start()
    few = objective.num_params <= num_products
    if estimator == "ghost" or (estimator == "auto" and not few):
        found = _ghost(objective, operator, num_samples, clock, generator)
        if isinstance(found, Measurement):
            return found
        if estimator == "ghost":
            return _refused(operator, found)
        return _by_products(objective, num_products, "xtrace", operator, generator, clock, found)
    chosen = "xtrace" if estimator == "auto" else estimator
    return _by_products(objective, num_products, chosen, operator, generator, clock, None)


def _check(estimator: str, num_samples: int) -> None:
    allowed = ("auto", "ghost", "hutchinson", "hutchpp", "xtrace")
    if estimator not in allowed:
        raise InputError(f"estimator is {estimator!r}; allowed: {', '.join(allowed)}.")
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; allowed: 1 or more backward passes.")


def _refused(operator: str, why: str) -> Measurement:
    whose = (
        "The Hessian's trace is not that of the Gauss-Newton matrix" if operator == "hessian" else "No pairs"
    )
    sentence = f"{whose}, or cannot be had from pairs of layers: {why}. Use estimator='xtrace'."
    return not_applicable("hessian_trace", sentence, unit=_curvature.UNITS.get(operator, ""))


def _ghost(
    objective: Any, operator: str, num_samples: int, clock: Clock, generator: torch.Generator | None
) -> Measurement | str:
    """The measurement, or why it cannot be had this way."""
    unit = _curvature.UNITS[operator]
    if clock.exhausted():
        return _curvature.nothing(
            "hessian_trace", unit, Status(State.OUT_OF_BUDGET, "The budget allows no backward pass.")
        )
    if not isinstance(objective, Objective):
        return "the subject has products only"
    allowed = num_samples if clock.products is None else min(num_samples, clock.products)
    try:
        if operator in _OUTER:
            return _outer(objective, operator)
        if operator not in ("hessian", "ggn"):
            return f"{operator} is taken from products"
        found = _pairs.trace_by_pairs(objective, allowed, clock, generator, hessian=operator == "hessian")
    except _pairs.NoPairs as reason:
        return str(reason)
    except UnsupportedError as reason:
        return str(reason)
    except NonFiniteError as error:
        return _curvature.nothing("hessian_trace", unit, Status(State.NON_FINITE, str(error)))
    if not np.isfinite(found.value):
        status = Status(State.NON_FINITE, "The trace is NaN or infinite: the parameters or the outputs are.")
        return _curvature.nothing("hessian_trace", unit, status)
    return _ghost_measurement(objective, found, operator, num_samples)


def _ghost_measurement(
    objective: Objective, found: _pairs.PairTrace, operator: str, num_samples: int
) -> Measurement:
    taken = _curvature.count(len(found.samples), "backward pass").replace("passs", "passes")
    if found.exact:
        status = Status(State.EXACT, "Exact: every direction of the outputs was taken once, layer by layer.")
    elif found.complete and len(found.samples) == num_samples:
        sentence = f"Norms layer by layer from {taken}; the error is the spread of the examples' samples."
        status = Status(State.ESTIMATE, sentence)
    else:
        sentence = f"The budget allowed {taken} of {num_samples}; the error says how good the value is."
        status = Status(State.OUT_OF_BUDGET, sentence)
    layers = objective.layers()
    return Measurement(
        "hessian_trace",
        found.value,
        _curvature.UNITS[operator],
        status,
        standard_error=found.standard_error,
        details={
            "estimator": "ghost",
            "samples": found.samples.cpu().numpy(),
            "mean_eigenvalue": found.value / objective.num_params,
            "products": 0,
            "operator": operator,
            "per_layer": {k: sum(found.per_parameter[n] for n in names) for k, names in layers.items()},
            # Parts of one layer share their samples, so that their errors add up rather than their squares.
            "per_layer_error": {
                k: sum(found.per_parameter_error[n] for n in names) for k, names in layers.items()
            },
        },
    )


def _outer(objective: Objective, operator: str) -> Measurement:
    """Mean of ‖gᵢ‖², less ‖mean‖² for the covariance: exact for the examples at hand."""
    means = objective.per_example_gradient_squares().double().mean(0)
    slices = objective.layout.slices()
    if operator == "covariance":
        gradient = objective.gradient().double()
        means = means - torch.stack([gradient[part].square().sum() for part in slices.values()])
    parts = dict(zip(slices, means.clamp_min(0).tolist(), strict=True))
    value = sum(parts.values())
    per_layer = {k: sum(parts[n] for n in names) for k, names in objective.layers().items()}
    return Measurement(
        "hessian_trace",
        value,
        _curvature.UNITS[operator],
        Status(State.EXACT, "Exact: from the norm of every example's gradient."),
        details={
            "estimator": "ghost",
            "samples": np.array([value]),
            "mean_eigenvalue": value / objective.num_params,
            "products": 0,
            "operator": operator,
            "per_layer": per_layer,
            "per_layer_error": dict.fromkeys(per_layer, 0.0),
        },
    )


def _by_products(
    objective: Any,
    num_products: int,
    estimator: Sketch,
    operator: str,
    generator: torch.Generator | None,
    clock: Clock,
    why_not_ghost: str | None,
) -> Measurement:
    unit = _curvature.UNITS.get(operator, "")
    matvec = _curvature.matvec_of(objective, operator, generator)
    allowed, estimator = _within(clock, num_products, objective.num_params, estimator)
    if allowed < 1:
        status = Status(State.OUT_OF_BUDGET, "The budget allows no product.")
        return _curvature.nothing("hessian_trace", unit, status)
    try:
        result = trace(
            matvec,
            objective.num_params,
            allowed,
            estimator=estimator,
            should_stop=clock.exhausted,
            generator=generator,
            **_curvature.place_of(objective),
        )
    except NonFiniteError as error:
        return _curvature.nothing("hessian_trace", unit, Status(State.NON_FINITE, str(error)))
    return Measurement(
        "hessian_trace",
        result.value,
        unit,
        _status(result, allowed, num_products, objective.num_params),
        standard_error=result.standard_error,
        cost=Cost(peak_bytes=result.peak_bytes),
        details={
            "estimator": result.estimator,
            "samples": result.samples,
            "mean_eigenvalue": result.value / objective.num_params,
            "products": result.num_products,
            "operator": operator,
        }
        | ({} if why_not_ghost is None else {"why_not_ghost": why_not_ghost}),
    )


def _within(clock: Clock, wanted: int, n: int, estimator: Sketch) -> tuple[int, Sketch]:
    """Products that the budget allows; too few for a sketch leave Hutchinson."""
    allowed = wanted if clock.products is None else min(wanted, clock.products)
    if allowed < wanted and allowed < min(6, n):
        return allowed, "hutchinson"
    return allowed, estimator


def _status(result: TraceResult, allowed: int, wanted: int, n: int) -> Status:
    products = _curvature.count(result.num_products, "product")
    if result.estimator == "exact" and result.num_products == n:
        return Status(State.EXACT, f"Exact: the whole diagonal was read off in {products}.")
    if result.num_products < min(wanted, n) and (allowed < wanted or result.num_products < allowed - 2):
        return Status(
            State.OUT_OF_BUDGET,
            f"The budget allowed {products} of {wanted}; the error says how good the value is.",
        )
    return Status(
        State.ESTIMATE,
        f"{result.estimator} with a fixed number of {products}; the error is the spread of its samples.",
    )
