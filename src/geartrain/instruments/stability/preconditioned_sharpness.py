"""Largest eigenvalue of the Hessian in the optimizer's own geometry, P⁻¹ H, beside its stability threshold.

For plain gradient descent the sharpness itself; for Adam the quantity that hovers at 38/lr at the adaptive edge of
stability. `edge_of_stability` is this number over its threshold, free of units and comparable between optimizers; here
are the numbers that papers plot. References: Cohen et al. (2021), arXiv:2103.00065; (2022), arXiv:2207.14484. Ledger:
0.21, 4.12.
"""

from __future__ import annotations

from typing import Any

import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.instruments.stability import edge_of_stability as _edge
from geartrain.records import Cost, Measurement
from geartrain.run import Run

_NAME, _UNIT = "preconditioned_sharpness", "1/lr"


def _price(run: Any, **options: Any) -> Cost:
    return _edge.edge_of_stability.spec.price(run, **options)  # type: ignore[attr-defined]


@instrument(needs="run", unit=_UNIT, price=_price)
def preconditioned_sharpness(
    run: Run,
    *,
    probe: int = 512,
    tol: float = 0.02,
    max_products: int = 30,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Largest eigenvalue of P⁻¹ H, P the preconditioner that the optimizer holds now, with its stability threshold.

    P = 1 for SGD; (1 - β₁ᵗ)(√v̂ + ε) for Adam and AdamW; √v + ε for RMSprop; √Σg² + ε for Adagrad. Threshold: 2/η;
    (2 + 2β)/η with momentum; (2 + 2β)/((1 + 2β)η) for Nesterov's; 38/η for Adam at β₁ = 0.9. With several groups P
    includes their step sizes relative to the first.

    **Cost** as `edge_of_stability`: at most ``max_products`` Hessian products on the probe.

    **Assumes** a twice differentiable loss, and a preconditioner that stands still over the next steps.

    **Misleads** in comparison between optimizers: its unit is that of one over the step size, which differs between
    them; compare ``ratio``. Noise of small batches keeps it well below the threshold in a healthy run.

    Args:
        run: The run.
        probe: Training examples on which the Hessian is taken; evaluation mode, but batch normalisation as in training.
        tol: Allowed residual, relative to the eigenvalue.
        max_products: Limit on products where the budget sets none.
        generator: Source of the starting vector; a fixed seed if ``None``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The eigenvalue, in units of one over the step size (ℓ/θ² for SGD, 1/θ for Adam, RMSprop and Adagrad).
        The standard error is the residual. ``details``: ``threshold`` (same unit), ``ratio`` (value over
        threshold), ``optimizer``, ``lr``, ``momentum``, ``products``.

    Raises:
        InputError: A setting is out of range.
    """
    edge = _edge.edge_of_stability(
        run, probe=probe, tol=tol, max_products=max_products, generator=generator, budget=budget
    )
    if "threshold" not in edge.details:
        return no_answer(_NAME, edge.status.sentence, unit=_UNIT, state=edge.status.state)
    details = {k: edge.details[k] for k in ("threshold", "optimizer", "lr", "momentum", "products")}
    details["ratio"] = float(edge)
    if not details["lr"] > 0:
        return no_answer(
            _NAME, "The step size is zero, so there is no threshold.", unit=_UNIT, details=details
        )
    value, threshold = edge.details["sharpness"], edge.details["threshold"]
    sentence = f"{details['optimizer']}: the local parabola diverges above {threshold:.4g}."
    error = float(edge.standard_error) * threshold
    return answer(_NAME, value, sentence, unit=_UNIT, error=error, state=edge.status.state, details=details)
