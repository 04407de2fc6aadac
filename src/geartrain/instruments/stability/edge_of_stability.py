"""Sharpness over the stability threshold of the optimizer, its preconditioner, momentum and step size included.

Above 1 the optimizer diverges along the sharpest direction of the local parabola. Training at full batch
commonly sits *at* 1 and still makes progress (the edge of stability), so a value near 1 is no fault; what
lies well above 1 is about to blow up or is held back by the higher orders of the loss. Small batches live below 1.
Misleads for Adam when its second moments change within few steps: they are held fixed here. References: Cohen et al.
(2021), arXiv:2103.00065; Cohen et al. (2022), arXiv:2207.14484. Ledger: 0.21, 4.12.
"""

from __future__ import annotations

from typing import Any

import torch

from geartrain.budget import Budget
from geartrain.errors import NonFiniteError, UnsupportedError
from geartrain.instruments import _stability
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.linalg import EigenResult
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run

_PRODUCTS = 30


def _price(run: Any, *, max_products: int = _PRODUCTS, **options: Any) -> Cost:
    params = sum(p.numel() for p in run.model.parameters())
    return Cost(
        gradients=1, products=min(max_products, params), peak_bytes=4 * params * min(max_products, params)
    )


@instrument(needs="run", unit="1", price=_price)
def edge_of_stability(
    run: Run,
    *,
    probe: int = 512,
    tol: float = 0.02,
    max_products: int = _PRODUCTS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the largest eigenvalue of D^(-1/2) H D^(-1/2) over the threshold at which the optimizer becomes unstable.

    SGD (D = 1): (2 + 2β)/η, hence ηλ/2 without momentum; Nesterov: (2 + 2β)/((1 + 2β)η); Adam and AdamW
    (D = (1 - β₁ᵗ)(√v̂ + ε)): (2 + 2β₁)/((1 - β₁)η), i.e. 38/η at β₁ = 0.9; RMSprop and Adagrad likewise with their
    own D. Step sizes of parameter groups scale their directions; an L2 penalty inside the optimizer adds to H.

    **Cost** at most ``max_products`` Hessian products on the probe.

    **Assumes** a twice differentiable loss.

    **Misleads** for Adam while its second moments change within few steps: they are held fixed here. Training
    at full batch commonly sits *at* 1 and still makes progress, so a value near 1 is no fault; noise of small
    batches keeps it below. With unequal groups of momentum the threshold is that of the first.

    Args:
        run: The run.
        probe: Training examples on which the Hessian is taken; evaluation mode, but batch normalisation
            as in training.
        tol: Allowed residual, relative to the eigenvalue.
        max_products: Limit on products where the budget sets none.
        generator: Source of the starting vector; a fixed seed if ``None``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The ratio, a pure number; not applicable for optimizers whose threshold is not known, or that have not taken a
        step yet (Adam). The standard error is the residual: an eigenvalue lies that near. ``details``: ``sharpness``
        (preconditioned, ``ratio x threshold``), ``threshold``, ``optimizer``, ``lr``, ``momentum``, ``alternation``
        (share of updates along this mode that change sign, by the roots of the mode), ``products``.

    Raises:
        InputError: A setting is out of range.
    """
    moves = _stability.dynamics(run)
    if isinstance(moves, str):
        return no_answer("edge_of_stability", moves)
    try:
        objective = _stability.training_objective(run, probe)
        clock = Budget.of(budget).start()
        result = _stability.top(
            objective, moves, tol=tol, max_products=max_products, clock=clock, generator=generator
        )
    except UnsupportedError as error:
        return no_answer("edge_of_stability", str(error))
    except NonFiniteError as error:
        return no_answer("edge_of_stability", str(error), state=State.NON_FINITE)
    run.work = run.work + objective.work
    if not len(result.eigenvalues):
        return no_answer("edge_of_stability", "The budget allows no product.", state=State.OUT_OF_BUDGET)
    return _measurement(result, moves)


def _measurement(result: EigenResult, moves: _stability.Dynamics) -> Measurement:
    value, residual = float(result.eigenvalues[0]), float(result.residuals[0])
    threshold = moves.limit / moves.lr if moves.lr > 0 else float("inf")
    details = {
        "sharpness": value * threshold if moves.lr > 0 else float("nan"),
        "threshold": threshold,
        "optimizer": moves.optimizer,
        "lr": moves.lr,
        "momentum": moves.momentum,
        "alternation": moves.alternation(value),
        "products": result.num_products,
    }
    state = State.CONVERGED if result.converged else State.NOT_CONVERGED
    rule = f"{moves.optimizer}, step size {moves.lr:.3g}"
    sentence = f"{rule}, {result.num_products} products; above 1 the local parabola diverges."
    return answer("edge_of_stability", value, sentence, error=residual, state=state, details=details)
