"""Objectives whose curvature is known: diagonal quadratics, and the digits network of 1,210 parameters."""

from __future__ import annotations

import functools

import numpy as np
import torch

import geartrain as gt


class _Bowl(torch.nn.Module):
    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(x.clone())

    def forward(self, scale: torch.Tensor) -> torch.Tensor:
        return scale * self.x


def bowl(eigenvalues, x=None, *, dtype=torch.float64, factor: float = 1.0) -> gt.Objective:
    """The loss factor · ½ Σ λ_i x_i²; a Gauss-Newton objective where all λ are at least 0."""
    eigenvalues = torch.as_tensor(np.asarray(eigenvalues), dtype=dtype)
    x = torch.ones_like(eigenvalues) if x is None else torch.as_tensor(np.asarray(x), dtype=dtype)
    if bool((eigenvalues < 0).any()):
        return gt.Objective(
            _Bowl(x), data=[eigenvalues[None]], batch_loss=lambda m, b: factor * 0.5 * (b * m.x**2).sum()
        )
    data = (eigenvalues[None].sqrt(), torch.zeros(1, len(eigenvalues), dtype=dtype))
    return gt.Objective(_Bowl(x), lambda out, y: factor * 0.5 * ((out - y) ** 2).sum(), data)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def digits() -> tuple[gt.Objective, np.ndarray]:
    """A digits classifier after 200 full-batch steps, and its dense Hessian, shape (1210, 1210)."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    inputs, targets = torch.tensor(raw.data[:1024] / 16), torch.tensor(raw.target[:1024])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10)
        ).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    objective = gt.Objective(model, torch.nn.functional.cross_entropy, (inputs, targets))
    return objective, _dense_hessian(model, inputs, targets)


def _dense_hessian(model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    parameters = list(model.parameters())
    loss = torch.nn.functional.cross_entropy(model(inputs), targets)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in gradient]
    hessian = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    return ((hessian + hessian.T) / 2).numpy()
