"""Sample-then-optimise against conjugate linear regression."""

import math

import pytest
import torch
from torch import nn

from geartrain.errors import InputError, UnsupportedError
from geartrain.objective import Objective
from geartrain.records import State
from geartrain.sampling import FunctionPotential, Potential, sample_then_optimise

NOISE, PRIOR = 0.25, 2.0


def regression(dtype=torch.float64, loss=None, model=None):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=g).to(dtype)
    y = x @ torch.randn(4, 1, generator=g).to(dtype) + 0.5 * torch.randn(40, 1, generator=g).to(dtype)
    model = nn.Linear(4, 1, bias=False, dtype=dtype) if model is None else model
    return Objective(model, loss or nn.MSELoss(), (x, y)), x.double(), y.double()


def exact(x, y, prior=PRIOR, centre=None):
    covariance = torch.linalg.inv(x.T @ x / NOISE + prior * torch.eye(4).double())
    pull = 0 if centre is None else prior * centre
    return covariance @ ((x.T @ y)[:, 0] / NOISE + pull), covariance


def assert_draws(positions, mean, covariance):
    count = len(positions)
    white = (positions.double() - mean) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    assert (white.mean(0) * math.sqrt(count)).abs().max() < 4
    second = white.T @ white / count - torch.eye(4).double()
    error = (torch.ones(4, 4) + torch.eye(4)).double().sqrt() / math.sqrt(count)
    assert (second / error).abs().max() < 4


@pytest.mark.parametrize("half", [False, True])
def test_exact_posterior(half):
    loss = (lambda o, t: 0.5 * ((o - t) ** 2).mean()) if half else nn.MSELoss()
    objective, x, y = regression(loss=loss)
    n_beta = 40 / NOISE if half else 40 / (2 * NOISE)
    found = sample_then_optimise(Potential(objective, n_beta, prior_precision=PRIOR), draws=2000)
    assert found.exact
    assert found.noise_variance == pytest.approx(NOISE)
    assert bool(found.converged.all())
    assert_draws(found.positions, *exact(x, y))


def test_float32_and_localisation():
    objective, x, y = regression(torch.float32)
    centre = torch.tensor([1.0, -1.0, 2.0, 0.5])
    potential = Potential(objective, 40 / (2 * NOISE), localisation=PRIOR, centre=centre)
    found = sample_then_optimise(potential, draws=1500)
    assert bool(found.converged.all())
    assert_draws(found.positions, *exact(x, y, centre=centre.double()))


def test_a_network_is_said_to_be_approximate():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    objective, _, _ = regression(model=model)
    found = sample_then_optimise(Potential(objective, 20.0, prior_precision=1.0), draws=8)
    assert not found.exact
    assert "approximate the posterior" in found.status.sentence
    assert bool(found.converged.all())
    before = objective.work.gradients
    sample_then_optimise(Potential(objective, 20.0, prior_precision=1.0), draws=2, iterations=3)
    assert objective.work.gradients > before


def test_what_does_not_arrive_is_marked():
    objective, _, _ = regression()
    found = sample_then_optimise(Potential(objective, 80.0, prior_precision=1e-3), draws=6, iterations=2)
    assert found.status.state is State.NOT_CONVERGED
    assert bool(found.positions[~found.converged].isnan().all())
    assert "did not arrive" in found.status.sentence


def test_messages():
    objective, _, _ = regression()
    with pytest.raises(InputError, match="needs a prior"):
        sample_then_optimise(Potential(objective))
    with pytest.raises(InputError, match="both must be at least 1"):
        sample_then_optimise(Potential(objective, prior_precision=1.0), draws=0)
    with pytest.raises(InputError, match="must be a Potential"):
        sample_then_optimise(FunctionPotential(lambda w: w.sum(1), 1))
    crossed = Objective(
        nn.Linear(4, 3), nn.CrossEntropyLoss(), (torch.randn(6, 4), torch.tensor([0, 1, 2] * 2))
    )
    with pytest.raises(UnsupportedError, match="no real numbers"):
        sample_then_optimise(Potential(crossed, prior_precision=1.0))
    absolute, _, _ = regression(loss=nn.L1Loss())
    with pytest.raises(UnsupportedError, match="not a squared error"):
        sample_then_optimise(Potential(absolute, prior_precision=1.0))
    hidden = Objective(
        nn.Linear(4, 1), batch_loss=lambda m, b: m(b[0]).mean(), data=(torch.ones(3, 4), torch.ones(3, 1))
    )
    with pytest.raises(UnsupportedError, match="perturbs targets"):
        sample_then_optimise(Potential(hidden, prior_precision=1.0))
