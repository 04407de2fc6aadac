"""Curvature layer by layer: top eigenvalue and trace of each diagonal block of the Hessian.

Shows which layer is sharp, and so which limits the step size. Misleads as a decomposition of the sharpness: the
blocks leave out what layers do together, and the top eigenvalue of the whole is at least that of the sharpest
block and at most the sum over blocks for a positive matrix. Asked for in PyHessian #9 and #10. Ledger: 0.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget, Clock
from geartrain.errors import InputError, NonFiniteError
from geartrain.instruments import _curvature
from geartrain.instruments._base import instrument
from geartrain.linalg import Meter, lanczos_init, lanczos_ritz, lanczos_run
from geartrain.linalg.operators import default_generator
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status, format_number

_PRODUCTS = 200
_LEAST = 5
# Share of a layer's products that look for its top eigenvalue; the rest test what they left of the trace.
_LANCZOS_SHARE = 0.6


def _price(
    objective: Any,
    num_products: int = _PRODUCTS,
    *,
    groups: Any = None,
    operator: str = "hessian",
    budget: Any = None,
    **options: Any,
) -> Cost:
    limit = Budget.of(budget).products
    total = num_products if limit is None else min(num_products, limit)
    sizes = [sum(_sizes(objective)[name] for name in names) for names in _groups(objective, groups).values()]
    spent, layers = 0, 0
    for position, size in enumerate(sorted(sizes)):
        share = (total - spent) // (len(sizes) - position)
        if share >= min(_LEAST, size):
            spent, layers = spent + min(share, size), layers + 1
    widest = max(sizes)
    held = _curvature.bytes_of(objective, 1) // objective.num_params * widest * min(total, widest)
    return Cost(gradients=layers, products=spent, peak_bytes=held)


@instrument(needs="objective", unit="ℓ/θ²", price=_price)
def layer_curvature(
    objective: Objective,
    num_products: int = _PRODUCTS,
    *,
    groups: dict[str, list[str]] | None = None,
    operator: _curvature.Operator = "hessian",
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Top eigenvalue and trace of the diagonal block of the Hessian that belongs to each layer.

    The block of a layer is the Hessian of the loss in its parameters alone, the others held: Lanczos finds its largest
    eigenvalue and takes its Krylov space Q out of the trace, tr H = tr(Qᵀ H Q) + E[zᵀ (I - QQᵀ) H (I - QQᵀ) z], over
    random signs z.

    **Cost** ``num_products`` products in all and a gradient per layer; the products are shared out evenly, and a layer
    with fewer parameters than its share is taken whole (exact).

    **Assumes** that the loss is twice differentiable and the same at every evaluation.

    **Misleads** as shares of the sharpness: eigenvectors of the whole reach across layers, so that the sharpest block
    may be far flatter than the whole. Layers before a normalisation change their curvature with the scale of their own
    weights (curvature x |weights|² does not).

    Args:
        objective: What to measure; an `Objective`.
        num_products: Products to spend, all layers together.
        groups: Names of parameters by block, instead of one block per module that owns parameters.
        operator: ``"hessian"``, ``"ggn"``, ``"fisher"``, ``"fisher_mc"``, ``"empirical_fisher"`` or ``"covariance"``.
        generator: Source of starts and test vectors; a fixed seed if ``None``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        Top eigenvalue of each block, dims ``("layer",)``, unit ℓ/θ² (ℓ²/θ² for the last two operators), NaN
        where the budget did not reach; the error given is the residual: an eigenvalue of the block lies that
        near. ``details``: ``trace``, ``trace_error`` and ``sizes`` (per layer), ``mean_eigenvalue`` (trace over
        size), ``sharpest`` (name), ``products`` (per layer), ``operator``.

    Raises:
        InputError: A setting is out of range, or a group names a parameter that there is not.

    References:
        Meyer et al. (2021), arXiv:2010.09649 (trace with a deflated part).

    >>> import geartrain as gt
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False)).double()
    >>> data = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double()
    >>> result = layer_curvature(gt.Objective(model, lambda out, y: ((out - y) ** 2).mean(), data))
    >>> result.value.round(9).tolist(), result.details["trace"].round(9).tolist()
    ([4.0], [5.0])
    """
    if num_products < 1:
        raise InputError(f"num_products is {num_products}; allowed: 1 or more.")
    unit = _curvature.UNITS.get(operator, "")
    blocks, clock = _groups(objective, groups), Budget.of(budget).start()
    total = num_products if clock.products is None else min(num_products, clock.products)
    source = default_generator(generator)
    try:
        found = _measured(objective, blocks, operator, total, clock, source)
    except NonFiniteError as error:
        status = Status(State.NON_FINITE, str(error))
        return _curvature.nothing("layer_curvature", unit, status, (len(blocks),), ("layer",))
    top, residuals = (np.array([getattr(b, f) for b in found]) for f in ("top", "residual"))
    return Measurement(
        "layer_curvature",
        top,
        unit,
        _status(found),
        standard_error=residuals,
        dims=("layer",),
        coords={"layer": list(blocks)},
        details={**_details(found, list(blocks)), "operator": operator},
    )


@dataclass(frozen=True)
class _Block:
    """What was found of one block; NaN where nothing was."""

    size: int
    top: float = float("nan")
    residual: float = float("nan")
    trace: float = float("nan")
    trace_error: float = float("nan")
    products: int = 0
    exact: bool = False


def _sizes(objective: Any) -> dict[str, int]:
    return dict(zip(objective.layout.names, objective.layout.sizes, strict=True))


def _groups(objective: Any, groups: dict[str, list[str]] | None) -> dict[str, list[str]]:
    if groups is None:
        return objective.layers()
    known = set(objective.layout.names)
    unknown = [name for names in groups.values() for name in names if name not in known]
    if not groups or unknown or not all(groups.values()):
        raise InputError(
            f"groups names {unknown or 'nothing'}; allowed: lists of parameter names, which are "
            f"{', '.join(sorted(known))}."
        )
    return groups


def _measured(
    objective: Objective,
    blocks: dict[str, list[str]],
    operator: str,
    total: int,
    clock: Clock,
    source: torch.Generator,
) -> list[_Block]:
    """Blocks in the order given; the smallest are taken first, so that what they do not need goes to the others."""
    sizes = _sizes(objective)
    size_of = {label: sum(sizes[n] for n in names) for label, names in blocks.items()}
    found: dict[str, _Block] = {}
    for label in sorted(blocks, key=lambda b: size_of[b]):
        share = total // (len(blocks) - len(found))
        if share < min(_LEAST, size_of[label]) or clock.exhausted():
            found[label] = _Block(size_of[label])
            continue
        names = blocks[label]
        part = objective.restrict(lambda name, _, names=names: name in names)
        found[label] = _block(part, operator, min(share, size_of[label]), clock, source)
        part.release()
        total -= found[label].products
    return [found[label] for label in blocks]


def _block(part: Objective, operator: str, share: int, clock: Clock, source: torch.Generator) -> _Block:
    meter = Meter(
        _curvature.matvec_of(part, operator, source),
        part.num_params,
        max_products=share,
        should_stop=lambda: clock.deadline is not None and clock.exhausted(),
        **_curvature.place_of(part),
    )
    whole = share == part.num_params
    steps = share if whole else max(int(_LANCZOS_SHARE * share), 2)
    state = lanczos_init(meter, None, source)
    lanczos_run(meter, state, lambda s: s.num_steps >= steps, generator=source)
    if not state.alpha:
        return _Block(part.num_params)
    ritz = lanczos_ritz(state)
    base = float(np.sum(state.alpha))
    exact = whole and state.num_steps == part.num_params
    if exact:
        samples = np.zeros(0)
    else:
        rows = torch.cat(state.basis.filled())[: state.num_steps]
        samples = _samples(meter, rows, source)
    mean, error = (float(samples.mean()), _error(samples)) if len(samples) else (0.0, 0.0)
    known = exact or len(samples) > 0
    return _Block(
        part.num_params,
        float(ritz.values[-1]),
        float(ritz.residuals[-1]),
        base + mean if known else float("nan"),
        error if known else float("nan"),
        meter.products,
        exact,
    )


def _samples(meter: Meter, rows: Tensor, source: torch.Generator) -> np.ndarray:
    """zᵀ A z over random signs with the rows taken out of them."""
    samples: list[float] = []
    while meter.blocked() is None:
        signs = meter.random(source).sign()
        signs = signs - rows.T @ (rows @ signs)
        samples.append(float(signs @ meter(signs)))
    return np.array(samples)


def _error(samples: np.ndarray) -> float:
    return float(samples.std(ddof=1) / np.sqrt(len(samples))) if len(samples) > 1 else float("nan")


def _status(found: list[_Block]) -> Status:
    reached = [b for b in found if b.products and not np.isnan(b.trace)]
    spent = _curvature.count(sum(b.products for b in found), "product")
    if len(reached) < len(found):
        return Status(
            State.OUT_OF_BUDGET,
            f"{len(reached)} of {len(found)} layers could be measured in {spent}; raise num_products or the budget.",
        )
    if all(b.exact for b in found):
        return Status(State.EXACT, f"Exact: every block was taken whole, {spent} in all.")
    worst = max((b.residual / abs(b.top) for b in reached if b.top), default=0.0)
    return Status(
        State.ESTIMATE,
        f"{spent} over {len(found)} layers; residuals are at most {format_number(worst, 2)} of the eigenvalue.",
    )


def _details(found: list[_Block], labels: list[str]) -> dict[str, Any]:
    columns = {f: np.array([getattr(b, f) for b in found]) for f in ("trace", "trace_error", "products")}
    sizes, tops = np.array([b.size for b in found]), np.array([b.top for b in found])
    known = np.flatnonzero(np.isfinite(tops))
    return {
        **columns,
        "sizes": sizes,
        "mean_eigenvalue": columns["trace"] / sizes,
        "sharpest": labels[int(known[np.argmax(tops[known])])] if len(known) else None,
    }
