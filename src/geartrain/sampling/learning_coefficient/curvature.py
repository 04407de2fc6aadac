"""The loss around the point itself: top and bottom curvature, minibatch noise, and how far from a minimum it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geartrain.errors import NonFiniteError, UnsupportedError
from geartrain.linalg.lanczos import lanczos, lanczos_ritz
from geartrain.sampling.adaptation import _products
from geartrain.sampling.kernels._base import Stream
from geartrain.sampling.potential import BasePotential

PRODUCTS = 12
"""Lanczos steps from a random vector, for the ends of the spectrum."""
TRAINING_PRODUCTS = 8
"""Lanczos steps from the gradient."""
NOISE_BATCHES = 32


@dataclass(frozen=True)
class Local:
    """The potential U around a point.

    Attributes:
        top: Largest curvature of U, Λ.
        bottom: Smallest curvature of nβL (a Ritz value: the true one is no larger).
        noise: Minibatch variance of ∇U along the top direction; 0 on all data.
        gradient_norm: Of L on all data.
        gain: nβ times the decrease of the loss that a Newton step from here promises; 0 at a minimum. A point off its
            minimum lowers the estimate by this much.
    """

    top: float
    bottom: float
    noise: float
    gradient_norm: float
    gain: float

    @property
    def stiffness(self) -> float:
        """Λ + S: the variance along the top direction grows by a quarter of step size times this."""
        return self.top + self.noise


def look(inner: BasePotential, position: Tensor, stream: Stream, *, training: bool = True) -> Local:
    """Look at the potential around a position; ``training=False`` leaves the gradient out.

    **Cost** `PRODUCTS` + `TRAINING_PRODUCTS` products on at most 1,024 examples, one gradient, and 32 minibatches.
    """
    product = _products_of(inner, position, stream)
    beta = inner.n_beta_mean
    start = torch.randn(inner.num_params, generator=stream.generator, device=stream.generator.device)
    values, direction = _ritz(product, inner, start.to(position), PRODUCTS)
    pull = inner.localisation + inner.prior_precision
    norm = gain = 0.0
    if training:
        gradient = inner.loss_and_gradient(position[None], None)[1][0]
        norm = float(gradient.norm())
        gain = beta * _decrease(product, inner, gradient, pull / max(beta, 1e-300))
    noise = 0.0
    if inner.batch_size is not None:
        rows = inner.draw_rows(NOISE_BATCHES, stream.generator)
        here = position.expand(NOISE_BATCHES, -1).contiguous()
        _, gradients = inner.loss_and_gradient(here, rows)
        noise = float((beta * (gradients @ direction)).double().var())
    return Local(beta * float(values[-1]) + pull, beta * float(values[0]), noise, norm, gain)


def _ritz(
    product: Callable[[Tensor], Tensor], inner: BasePotential, start: Tensor, count: int
) -> tuple[np.ndarray, Tensor]:
    """Ritz values in rising order, and the vector of the last one."""
    steps = min(count, inner.num_params)
    state, _ = lanczos(
        product, inner.num_params, steps, start=start, dtype=inner.dtype, device=inner.device, restart=False
    )
    ritz = lanczos_ritz(state)
    coefficients = np.zeros((len(state.basis), 1))
    coefficients[: len(ritz.values), 0] = ritz.vectors[:, -1]
    vector = state.basis.combine(coefficients)[0]
    return ritz.values, vector / vector.norm()


def _decrease(
    product: Callable[[Tensor], Tensor], inner: BasePotential, gradient: Tensor, damping: float
) -> float:
    """Half of g'(|H| + damping)^-1 g, by Lanczos from g (Gauss quadrature: a lower bound where H is positive)."""
    norm = float(gradient.double().norm())
    if not math.isfinite(norm):
        raise NonFiniteError("The gradient at the point is NaN or infinite.")
    if norm == 0.0:
        return 0.0
    steps = min(TRAINING_PRODUCTS, inner.num_params)
    state, _ = lanczos(
        product,
        inner.num_params,
        steps,
        start=gradient,
        dtype=inner.dtype,
        device=inner.device,
        restart=False,
    )
    ritz = lanczos_ritz(state)
    floor = max(damping, 1e-6 * float(np.abs(ritz.values).max()), 1e-300)
    return 0.5 * norm**2 * float((ritz.weights / np.maximum(np.abs(ritz.values) + damping, floor)).sum())


def _products_of(inner: BasePotential, position: Tensor, stream: Stream) -> Callable[[Tensor], Tensor]:
    """Products with the Hessian of L; by differences of gradients where a layer has no second derivative."""
    exact = _products(inner, position, stream)

    def by_differences(v: Tensor) -> Tensor:
        size = float(v.norm())
        step = torch.finfo(inner.dtype).eps ** (1 / 3) * (1 + float(position.norm())) / max(size, 1e-30)
        pair = torch.stack([position + step * v, position - step * v])
        above, below = inner.loss_and_gradient(pair, None)[1]
        return (above - below) / (2 * step)

    def product(v: Tensor) -> Tensor:
        try:
            return exact(v)
        except UnsupportedError:
            return by_differences(v)

    return product
