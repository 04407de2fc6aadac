"""Singular values of many linear maps at once by Golub-Kahan-Lanczos bidiagonalisation, fully reorthogonalised.

Every map sees one product with itself and one with its transpose per step; all maps share those products as one batch.

References:
    Golub, Kahan (1965), SIAM J. Numer. Anal. 2; Golub, Van Loan (2013), *Matrix Computations*, §10.4; Golub, Meurant
    (2010), *Matrices, Moments and Quadrature*, for the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bidiagonal:
    """What k steps on ``maps`` maps know.

    Attributes:
        values: Ritz singular values, descending, shape (maps, k).
        residuals: |Aᵀu - σv| of each, shape (maps, k).
        weights: Quadrature weights of the start vector, shape (maps, k): Σ w f(σ) is vᵀ f(√AᵀA) v, v the start.
    """

    values: np.ndarray
    residuals: np.ndarray
    weights: np.ndarray


def bidiagonalise(push: Map, pull: Map, start: Tensor, steps: int, generator: torch.Generator) -> Bidiagonal:
    """Golub-Kahan-Lanczos from ``start``.

    Args:
        push: A v for every map, (maps, n) to (maps, m), m ≥ n.
        pull: Aᵀ u, (maps, m) to (maps, n).
        start: Start vectors, shape (maps, n).
        steps: At most n.
        generator: Source of fresh vectors where a Krylov space closes.

    Returns:
        Ritz values with residuals and weights.
    """
    vs, us, alphas, betas = [_unit(start)[0]], [], [], []
    scale = torch.zeros(len(start), dtype=start.dtype, device=start.device)
    for step in range(steps):
        image = push(vs[-1])
        scale = torch.maximum(scale, image.norm(dim=1))
        left, alpha = _next(image, us, scale, generator)
        us.append(left)
        alphas.append(alpha)
        if step + 1 == start.shape[1]:
            betas.append(torch.zeros_like(scale))  # the space is full
            break
        right, beta = _next(pull(left), vs, scale, generator)
        betas.append(beta)
        vs.append(right)
    return _ritz(torch.stack(alphas, 1), torch.stack(betas, 1))


def _next(
    vector: Tensor, basis: list[Tensor], scale: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The part of ``vector`` orthogonal to the basis, normalised, and its length; fresh where it vanishes."""
    left = _orthogonal(vector, basis)
    unit, length = _unit(left)
    closed = length <= 20 * torch.finfo(vector.dtype).eps * scale
    if bool(closed.any()) and len(basis) < vector.shape[1]:
        random = torch.randn(vector.shape, generator=generator, dtype=torch.float64).to(vector)
        fresh = _unit(_orthogonal(random, basis))[0]
        unit = torch.where(closed[:, None], fresh, unit)
    return unit, torch.where(closed, torch.zeros_like(length), length)


def _orthogonal(vector: Tensor, basis: list[Tensor]) -> Tensor:
    if not basis:
        return vector
    table = torch.stack(basis, 1)  # (maps, j, n)
    for _ in range(2):  # twice is enough
        vector = vector - torch.einsum("bj,bjn->bn", torch.einsum("bjn,bn->bj", table, vector), table)
    return vector


def _unit(vector: Tensor) -> tuple[Tensor, Tensor]:
    length = vector.norm(dim=1)
    return vector / torch.where(length > 0, length, torch.ones_like(length))[:, None], length


def _ritz(alphas: Tensor, betas: Tensor) -> Bidiagonal:
    count = alphas.shape[1]
    table = torch.diag_embed(alphas.double())
    if count > 1:
        table = table + torch.diag_embed(betas[:, :-1].double(), offset=1)
    left, values, right = torch.linalg.svd(table)
    residuals = (betas[:, -1:].double() * left[:, -1, :]).abs()
    return Bidiagonal(values.cpu().numpy(), residuals.cpu().numpy(), (right[:, :, 0] ** 2).cpu().numpy())
