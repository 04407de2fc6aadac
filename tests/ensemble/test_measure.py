"""Batched instruments: dense twins, the instruments for one network, and known truths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.ensemble.nets import CLASSES, IMAGES, POINTS, VALUES, convolutional, mlp, normed, train
from torch import nn
from torch.func import functional_call
from torch.nn import functional

import geartrain as gt
from geartrain.errors import InputError
from geartrain.records import State


class Recurrent(nn.Module):
    """vmap has no rule for its kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(1, 3, batch_first=True)
        self.head = nn.Linear(3, 3)
        self.double()

    def forward(self, x):
        return self.head(self.cell(x[..., None])[0][:, -1])


def objective(nets, i, data=(POINTS, CLASSES), loss=functional.cross_entropy):
    return gt.Objective(nets.member(i), loss, data, training=False)


def dense_top(nets, i):
    model = nets.member(i).eval()
    layout = nets.layout
    buffers = dict(model.named_buffers())

    def loss(flat):
        parts = dict(zip(layout.names, layout.unflatten(flat), strict=True))
        return functional.cross_entropy(functional_call(model, {**parts, **buffers}, (POINTS,)), CLASSES)

    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, nets.parameters[i]))


@pytest.mark.parametrize("make", [mlp, normed, Recurrent], ids=["mlp", "batch norm", "recurrent"])
def test_top_eigenvalue_against_the_dense_hessian(make):
    nets = train(make, steps=8, lr=0.05, batch_size=8, seeds=3)
    result = nets.measure("hessian_top_eigenvalue", num_products=nets.layout.num_params, tolerance=1e-8)
    assert result.status.state is State.CONVERGED
    assert result.dims == ("member",)
    for i in range(3):
        # The residual bounds the distance to an eigenvalue; Lanczos' largest Ritz value goes for the top one.
        top = dense_top(nets, i)[-1] if make is not Recurrent else None
        if top is None:
            theirs = gt.instruments.hessian_spectrum(objective(nets, i), k=1)
            top = torch.as_tensor(np.ravel(theirs.value)[0])
            assert float(result.value[i]) == pytest.approx(float(top), rel=1e-3)
        else:
            assert float(result.value[i]) == pytest.approx(float(top), rel=1e-8)


def test_top_eigenvalue_of_known_curvature():
    """½·mean‖Wx - y‖² has Hessian I ⊗ XᵀX/n; a linear loss has none."""
    nets = train(
        lambda: nn.Linear(3, 2, bias=False).double(),
        (POINTS, VALUES),
        loss=lambda o, y: (o - y).square().sum() / 48,
        steps=1,
    )
    truth = torch.linalg.eigvalsh(POINTS.T @ POINTS / 24)[-1]
    result = nets.measure("hessian_top_eigenvalue", tolerance=1e-9)
    assert result.value == pytest.approx(np.full(4, float(truth)), rel=1e-9)
    # Three different eigenvalues: the Krylov space of any vector is exhausted after three products.
    assert result.details["products"] <= 4
    flat = train(lambda: nn.Linear(3, 1).double(), (POINTS, VALUES), loss=lambda o, y: o.mean(), steps=1)
    assert flat.measure("hessian_top_eigenvalue").value.tolist() == [0.0] * 4


def test_negative_curvature_everywhere():
    """A concave loss: the top eigenvalue is negative, also where the Krylov space ends early."""
    nets = train(
        lambda: nn.Linear(3, 2, bias=False).double(),
        (POINTS, VALUES),
        loss=lambda o, y: -o.square().sum() / 48,
        steps=0,
    )
    truth = -torch.linalg.eigvalsh(POINTS.T @ POINTS / 24)[0]
    result = nets.measure("hessian_top_eigenvalue", tolerance=1e-9)
    assert result.value == pytest.approx(np.full(4, float(truth)), rel=1e-8)


def test_company_does_not_matter():
    nets = train(steps=5)
    alone = train(steps=5, seeds=[2])
    for name in (
        "hessian_top_eigenvalue",
        "gradient_noise_scale",
        "gradient_norm",
        "parameter_norm",
        "effective_ranks",
    ):
        np.testing.assert_allclose(nets.measure(name).value[2], alone.measure(name).value[0], rtol=1e-9)


@pytest.mark.parametrize("make", [mlp, normed, convolutional])
def test_the_same_as_for_one_network(make):
    data = (IMAGES, CLASSES[:12]) if make is convolutional else (POINTS, CLASSES)
    nets = train(make, data, steps=3, batch_size=4)
    noise, norm = nets.measure("gradient_noise_scale"), nets.measure("gradient_norm")
    ranks = nets.measure("effective_ranks")
    for i in range(4):
        one = objective(nets, i, data)
        theirs = gt.instruments.gradient_noise_scale(one)
        assert noise.details["covariance_trace"][i] == pytest.approx(
            theirs.details["covariance_trace"], rel=1e-9
        )
        assert noise.value[i] == pytest.approx(float(theirs), rel=1e-8)
        assert norm.value[i] == pytest.approx(float(one.gradient().norm()), rel=1e-10)
        assert ranks.value[i] == pytest.approx(np.ravel(gt.instruments.weight_rank(one).value), rel=1e-9)
    assert list(ranks.coords["layer"]) == [
        name for name in nets.layout.names if name.endswith("weight") and "1." not in name
    ]


def test_noise_scale_where_vmap_cannot_go():
    nets = train(Recurrent, steps=2, seeds=2)
    assert nets.measure("gradient_noise_scale").details["covariance_trace"][1] == pytest.approx(
        gt.instruments.gradient_noise_scale(objective(nets, 1)).details["covariance_trace"], rel=1e-9
    )


def test_norms_and_ranks_of_known_matrices():
    nets = train(
        lambda: nn.Linear(2, 2).double(), (POINTS[:, :2], VALUES), loss=functional.mse_loss, seeds=2, steps=0
    )
    nets.state("weight")[:] = torch.tensor([[[3.0, 0.0], [0.0, -3.0]], [[0.0, 0.0], [0.0, 0.0]]])
    nets.state("bias")[:] = torch.tensor([[0.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(nets.measure("effective_ranks").value, [[2.0], [np.nan]])
    norms = nets.measure("parameter_norm")
    np.testing.assert_allclose(norms.value, [[18**0.5, 4.0, 34**0.5], [0.0, 0.0, 0.0]])
    assert list(norms.coords["layer"]) == ["weight", "bias", "all"]
    assert norms.to_xarray().dims == ("member", "layer")


def test_a_member_that_is_not_finite_says_so():
    nets = train(steps=1)
    nets.parameters[1, 0] = torch.nan
    for name in ("hessian_top_eigenvalue", "gradient_norm", "parameter_norm"):
        result = nets.measure(name)
        assert result.status.state is State.NON_FINITE
        others = np.delete(result.value, 1, axis=0)
        assert np.isfinite(others).all()


def test_messages():
    nets = train(steps=1)
    with pytest.raises(InputError, match="num_products is 0"):
        nets.measure("hessian_top_eigenvalue", num_products=0)
    with pytest.raises(InputError, match="at least 2 examples; there are 1"):
        nets.measure("gradient_noise_scale", examples=1)
