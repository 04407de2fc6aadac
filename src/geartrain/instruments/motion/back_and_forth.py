"""How often the updates turn back along the sharpest direction of the loss.

The signature of a step that is too long for the sharpest direction while the others hardly move. Misleads when
batch noise dominates the motion along that direction (then about one half) and when the sharpest direction
turns within the steps looked at. Ledger: 0.4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import NonFiniteError, UnsupportedError
from geartrain.instruments import _stability, _window
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run

_PRODUCTS = 30


def _price(run: Any, *, max_products: int = _PRODUCTS, **options: Any) -> Cost:
    return _window.price(run, **options) + Cost(gradients=1, products=max_products)


@instrument(needs="run", unit="1", price=_price)
def back_and_forth(
    run: Run,
    *,
    steps: int = _window.STEPS,
    window: _window.Window | None = None,
    probe: int = 512,
    tol: float = 0.02,
    max_products: int = _PRODUCTS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of successive updates whose projections on the top eigenvector have opposite signs.

    The eigenvector is that of the preconditioned Hessian of the training loss where the steps begin; updates are
    taken in its coordinates. On a quadratic, gradient descent multiplies the top mode by exactly 1 - ηλ
    per step, so the share is 1 if ηλ > 1 and 0 if not.

    **Cost** three gradients per step and at most ``max_products`` Hessian products.

    **Assumes** a loss function and an optimizer whose preconditioner is known (see `edge_of_stability`).

    **Misleads** where batch noise dominates the motion along that direction (then about one half), and where
    the sharpest direction turns within the steps looked at.

    Args:
        run: The run; it is put back exactly.
        steps: Further steps to take.
        window: Steps taken already.
        probe: Training examples on which the Hessian is taken.
        tol: Allowed residual of the eigenvector, relative to its eigenvalue.
        max_products: Limit on products where the budget sets none.
        generator: Source of the starting vector; a fixed seed if ``None``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The share, between 0 and 1, with a binomial standard error. ``details``: ``length_share`` (share of the
        squared length of the updates along the eigenvector; a random direction holds 1/params), ``expected`` (share
        that the optimizer's rule gives on the parabola: 1 if and only if ηλ > 1 without momentum),
        ``lr_times_sharpness``, ``cosine`` (-1 to 1: Σ u_t u_{t+1} / Σ u_t² of the projections), ``projections``,
        ``eigenvalue_over_threshold``.

    Raises:
        InputError: A setting is out of range.
    """
    moves = _stability.dynamics(run)
    if isinstance(moves, str):
        return no_answer("back_and_forth", moves)
    clock = Budget.of(budget).start()
    try:
        objective = _stability.training_objective(run, probe)
        result = _stability.top(
            objective,
            moves,
            tol=tol,
            max_products=max_products,
            clock=clock,
            generator=generator,
            vectors=True,
        )
    except UnsupportedError as error:
        return no_answer("back_and_forth", str(error))
    except NonFiniteError as error:
        return no_answer("back_and_forth", str(error), state=State.NON_FINITE)
    run.work = run.work + objective.work
    if result.eigenvectors is None or not len(result.eigenvectors):
        return no_answer("back_and_forth", "The budget allows no product.", state=State.OUT_OF_BUDGET)
    taken = window if window is not None else _window.window(run, steps, clock=clock)
    if taken.failure and len(taken) < 3:
        return no_answer("back_and_forth", taken.failure, state=State.NON_FINITE)
    return _measurement(taken, moves, float(result.eigenvalues[0]), result.eigenvectors[0])


def _measurement(
    taken: _window.Window, moves: _stability.Dynamics, value: float, direction: torch.Tensor
) -> Measurement:
    # In the coordinates y = x/s the preconditioned Hessian is the Hessian; what does not move has none.
    scale = torch.where(moves.scale > 0, moves.scale, torch.inf)
    rescaled = taken.updates / scale
    along = (rescaled @ direction.to(rescaled.dtype)).double().cpu().numpy()
    total = float((rescaled.double() ** 2).sum())
    products = along[1:] * along[:-1]
    if not len(products) or not total > 0:
        return no_answer("back_and_forth", f"Only {len(taken)} steps, or none that moved the parameters.")
    share, count = float(np.mean(products < 0)), len(products)
    squares = float(np.sum(along[:-1] ** 2))
    details = {
        "length_share": float(np.sum(along**2)) / total,
        "expected": moves.alternation(value),
        "lr_times_sharpness": value * moves.limit,
        "cosine": float(np.sum(products)) / squares if squares > 0 else float("nan"),
        "projections": along,
        "eigenvalue_over_threshold": value,
    }
    # A share of 0 or 1 in few trials is not certain either (Agresti and Coull).
    smooth = (share * count + 2) / (count + 4)
    error = float(np.sqrt(smooth * (1 - smooth) / (count + 4)))
    lies = f"{100 * details['length_share']:.1f} % of their squared length lies along it"
    sentence = f"Of {count} pairs of steps; {lies}."
    return answer("back_and_forth", share, sentence, error=error, details=details)
