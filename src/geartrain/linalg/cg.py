"""Conjugate gradients for A x = b, with the whole history and any direction of negative curvature met.

Minimises the parabola q(x) = ½ xᵀ A x - bᵀ x; with A a Hessian and b = -gradient, x is the Newton step and
-q(x) the decrease that it predicts.

References:
    Hestenes and Stiefel (1952); Nocedal and Wright, *Numerical Optimization* (2006), algorithms 5.2 and 7.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.linalg.operators import Matvec, Meter, ShouldStop, Stop


@dataclass(frozen=True)
class CgResult:
    """Where conjugate gradients got to.

    Attributes:
        solution: The last iterate, shape (n,).
        residual_norms: ‖b - A x_t‖ for t = 0, 1, ..., shape (steps + 1,).
        decreases: -q(x_t), the predicted decrease, shape (steps + 1,); it never falls.
        curvatures: pᵀ A p / pᵀ p along each direction tried, shape (directions,).
        negative_direction: Unit direction of non-positive curvature, or ``None``.
        num_products: Products spent.
        stop: Why it ended.
    """

    solution: Tensor
    residual_norms: np.ndarray
    decreases: np.ndarray
    curvatures: np.ndarray
    negative_direction: Tensor | None
    num_products: int
    stop: Stop

    @property
    def num_steps(self) -> int:
        """Iterations completed."""
        return len(self.residual_norms) - 1


def conjugate_gradient(
    matvec: Matvec,
    b: Tensor,
    *,
    tol: float = 1e-6,
    max_iterations: int | None = None,
    damping: float = 0.0,
    x0: Tensor | None = None,
    max_products: int | None = None,
    should_stop: ShouldStop | None = None,
) -> CgResult:
    """Solve (A + damping·I) x = b until ‖b - A x‖ <= tol·‖b‖.

    **Cost** one product per iteration, and one more for a start ``x0`` other than zero. The energy-norm
    error after t iterations is at most 2 ((√κ - 1)/(√κ + 1))ᵗ of the first.

    **Assumes** a symmetric operator. It need not be positive: at the first direction p with
    pᵀ A p <= 0 the iteration ends with ``Stop.NEGATIVE_CURVATURE`` and hands p back.

    **Misleads** nothing by itself; but far from the quadratic's range of validity the predicted decrease is
    not what the loss does.

    Args:
        matvec: ``v -> A v``.
        b: Right-hand side, shape (n,); its dtype and device are used.
        tol: Relative residual to reach.
        max_iterations: Limit on iterations; ``None`` for 2 n.
        damping: Added to the diagonal.
        x0: Where to start; zero if ``None``.
        max_products: Limit on products.
        should_stop: Asked before each product.

    Returns:
        The iterate and the history.

    Raises:
        InputError: A setting is out of range.
        NonFiniteError: A product held NaN or infinity.

    >>> d = torch.tensor([1.0, 4.0]).double()
    >>> conjugate_gradient(lambda v: d * v, torch.tensor([1.0, 4.0]).double()).solution.round(decimals=9)
    tensor([1., 1.], dtype=torch.float64)
    """
    _check(b, tol, damping, max_iterations)
    limit = 2 * len(b) if max_iterations is None else max_iterations
    meter = Meter(
        matvec, len(b), dtype=b.dtype, device=b.device, max_products=max_products, should_stop=should_stop
    )
    run = _Run.start(meter, b, x0, damping)
    stop = run.iterate(meter, tol * float(torch.linalg.vector_norm(b)), limit)
    return CgResult(
        run.x,
        np.array(run.residuals),
        np.array(run.decreases),
        np.array(run.curvatures),
        run.negative,
        meter.products,
        stop,
    )


def _check(b: Tensor, tol: float, damping: float, max_iterations: int | None) -> None:
    if b.ndim != 1 or not bool(torch.isfinite(b).all()):
        raise InputError(f"b has shape {tuple(b.shape)}; allowed: one finite vector of shape (n,).")
    if not 0 <= tol < 1 or damping < 0:
        raise InputError(f"tol is {tol} and damping {damping}; allowed: 0 <= tol < 1 and damping >= 0.")
    if max_iterations is not None and max_iterations < 0:
        raise InputError(f"max_iterations is {max_iterations}; allowed: 0 or more, or None.")


@dataclass
class _Run:
    """State of the iteration: iterate, residual, direction, and what has been recorded."""

    x: Tensor
    r: Tensor
    p: Tensor
    damping: float
    residuals: list[float]
    decreases: list[float]
    curvatures: list[float]
    negative: Tensor | None = None

    @staticmethod
    def start(meter: Meter, b: Tensor, x0: Tensor | None, damping: float) -> _Run:
        x = torch.zeros_like(b) if x0 is None else x0.detach().to(b).clone()
        image = torch.zeros_like(b) if x0 is None else meter(x) + damping * x
        r = b.detach() - image
        # -q(x) = bᵀx - ½ xᵀAx
        decrease = float(x @ b - 0.5 * (x @ image))
        return _Run(x, r, r.clone(), damping, [float(torch.linalg.vector_norm(r))], [decrease], [])

    def iterate(self, meter: Meter, target: float, max_iterations: int) -> Stop:
        while self.residuals[-1] > target:
            blocked = Stop.STEPS_DONE if len(self.residuals) > max_iterations else meter.blocked()
            if blocked is not None:
                return blocked
            if not self.step(meter):
                return Stop.NEGATIVE_CURVATURE
        return Stop.CONVERGED

    def step(self, meter: Meter) -> bool:
        image = meter(self.p) + self.damping * self.p
        length = float(self.p @ self.p)
        bend = float(self.p @ image)
        self.curvatures.append(bend / length)
        # Below rounding the sign of the curvature is not known; a step might be infinite.
        scale = float(torch.linalg.vector_norm(image)) * length**0.5
        if bend <= torch.finfo(self.p.dtype).eps * scale:
            self.negative = self.p / length**0.5
            return False
        square = self.residuals[-1] ** 2
        rate = square / bend
        self.x = self.x + rate * self.p
        self.r = self.r - rate * image
        self.residuals.append(float(torch.linalg.vector_norm(self.r)))
        # Each exact line search lowers q by ½ rate ‖r‖².
        self.decreases.append(self.decreases[-1] + 0.5 * rate * square)
        self.p = self.r + (self.residuals[-1] ** 2 / square) * self.p
        return True
