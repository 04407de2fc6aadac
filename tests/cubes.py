"""Objectives on the hypercube whose model is a written-down polynomial of signs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

import geartrain as gt
from geartrain.linalg import walsh


class Polynomial(nn.Module):
    """Σ_S c_S Π_{i∈S} x_i, float64."""

    def __init__(self, terms: Mapping[tuple[int, ...], float]) -> None:
        super().__init__()
        self.sets = list(terms)
        self.c = nn.Parameter(torch.tensor(list(terms.values()), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        columns = [x[:, list(s)].double().prod(1) for s in self.sets]
        return (torch.stack(columns, 1) @ self.c)[:, None]


def points(d: int) -> Tensor:
    return torch.tensor(walsh.cube(d), dtype=torch.float64)


def random_points(count: int, d: int, seed: int = 0) -> Tensor:
    return 2.0 * torch.randint(0, 2, (count, d), generator=torch.Generator().manual_seed(seed)).double() - 1


def polynomial(terms: Mapping[tuple[int, ...], float], x: Tensor, **options) -> gt.Objective:
    """The polynomial as a model, fitted to itself, at these points."""
    model = Polynomial(terms)
    return gt.Objective(model, nn.functional.mse_loss, (x, model(x).detach()), **options)
