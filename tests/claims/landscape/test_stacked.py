"""Stacks of networks against one network at a time."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from geartrain import zoo
from geartrain.claims.landscape._stacked import Stack, top_eigenpairs


def _models(count: int, sizes: tuple[int, ...]) -> list[nn.Sequential]:
    torch.manual_seed(0)
    layers = [[nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise(sizes)] for _ in range(count)]
    return [nn.Sequential(*[m for one in row for m in (nn.Tanh(), one)][1:]) for row in layers]


def _rows(models: list[nn.Sequential]) -> torch.Tensor:
    return torch.stack([nn.utils.parameters_to_vector(m.parameters()).detach() for m in models])


def test_losses_and_gradients_are_those_of_the_networks_one_by_one():
    models, x = _models(3, (4, 5, 3)), torch.randn(3, 7, 4, dtype=torch.float64)
    classes, numbers = torch.tensor([0, 1, 2, 0, 1, 2, 0]), torch.randn(7, 3, dtype=torch.float64)
    for targets, loss in ((classes, nn.functional.cross_entropy), (numbers, nn.functional.mse_loss)):
        stack = Stack((4, 5, 3), x, targets)
        losses, slopes = stack.losses(_rows(models)), stack.gradient(_rows(models))
        for i, model in enumerate(models):
            alone = loss(model(x[i]), targets)
            slope = torch.autograd.grad(alone, list(model.parameters()))
            assert torch.isclose(losses[i], alone, rtol=1e-12)
            torch.testing.assert_close(
                slopes[i], nn.utils.parameters_to_vector(slope), rtol=1e-10, atol=1e-13
            )
            part = stack.part(slice(i, i + 1))
            assert torch.isclose(part.losses(_rows(models)[i : i + 1])[0], alone, rtol=1e-12)


def test_top_eigenpairs_are_those_of_the_hessian_written_out_by_hand():
    toys: list[Any] = [zoo.get("edge-of-stability", seed=s, steps=20, hidden=6, examples=10) for s in (0, 1)]
    nets = [toy.now for toy in toys]
    stack = Stack((1, 6, 6, 1), torch.from_numpy(nets[0].inputs), torch.from_numpy(nets[0].targets[:, None]))
    params = torch.stack([torch.from_numpy(net.flat) for net in nets])
    source = torch.Generator().manual_seed(0)
    start = torch.randn(params.shape, generator=source, dtype=torch.float64)
    values, vectors, residuals = top_eigenpairs(stack.product(params), start, tolerance=1e-8)
    for i, net in enumerate(nets):
        # The toy's loss is one half of the mean squared error.
        np.testing.assert_allclose(values[i], 2 * net.sharpness, rtol=1e-10)
        np.testing.assert_allclose(abs(vectors[i].numpy() @ net.sharpest), 1, rtol=1e-8)
        assert residuals[i] <= 1e-8 * values[i]


def test_a_loose_tolerance_costs_an_error_of_the_order_of_its_square():
    spectrum = torch.linspace(0, 1, 200, dtype=torch.float64) ** 4
    start = torch.ones(1, 200, dtype=torch.float64)
    found, _, residual = top_eigenpairs(lambda v: spectrum * v, start, tolerance=1e-2)
    assert 0 <= 1 - float(found) <= float(residual)
    assert 1 - float(found) < 2e-3


def test_what_is_not_finite_has_no_curvature_and_leaves_the_others_alone():
    spectrum = torch.tensor([[1.0, 2.0, 3.0], [torch.nan, torch.inf, 1.0]], dtype=torch.float64)
    found, _, _ = top_eigenpairs(lambda v: spectrum * v, torch.ones(2, 3, dtype=torch.float64))
    np.testing.assert_allclose(found[0], 3, rtol=1e-10)
    assert torch.isfinite(found).all()
