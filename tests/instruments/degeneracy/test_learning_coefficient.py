"""The learning coefficient as an instrument: half the rank at regular minima, relations, refusals."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import jacobian_rank, learning_coefficient
from geartrain.records import State
from geartrain.sampling import truths

N = 128


def half(outputs, targets):
    return 0.5 * (outputs - targets).square().mean()


class Pair(nn.Module):
    """y = (a + b) x: two parameters, one of which counts."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.5]).double())
        self.b = nn.Parameter(torch.tensor([0.5]).double())

    def forward(self, x):
        return (self.a + self.b) * x


def line(model, scale=1.0, copies=1):
    x = torch.linspace(-1, 1, N).double()[:, None].repeat(copies, 1)
    return gt.Objective(model, lambda o, t: scale * half(o, t), (x, x))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_redundant_parameters_do_not_count():
    """Half the rank, not half the number of parameters; exactly what a quadratic of that curvature gives."""
    objective = line(Pair())
    found = learning_coefficient(objective, 16, n_beta=200.0, generator=generator())
    truth = truths.quadratic_estimate(
        torch.linalg.eigvalsh(torch.full((2, 2), 1 / 3)) * 65.0 / 63.5, 200.0, 1.0
    )
    assert abs(found.value - truth) < 4 * found.standard_error + 0.005
    assert float(jacobian_rank(objective)) / 2 == 0.5 == pytest.approx(truth, abs=0.01)
    assert found.name == "learning_coefficient"
    assert found.details["n_beta"] == 200.0


def test_scaling_the_loss_is_scaling_beta():
    one = learning_coefficient(line(Pair(), 4.0), n_beta=50.0, localisation=1.0, generator=generator())
    other = learning_coefficient(line(Pair()), n_beta=200.0, localisation=1.0, generator=generator())
    np.testing.assert_allclose(one.details["trace"], other.details["trace"], rtol=1e-6)


def test_duplicated_data_change_only_n():
    options = {"n_beta": 100.0, "kernel": "sgld", "step_size": 0.01}
    one = learning_coefficient(line(Pair(), copies=2), generator=generator(), **options)
    other = learning_coefficient(line(Pair()), generator=generator(), **options)
    np.testing.assert_allclose(one.details["trace"], other.details["trace"], rtol=1e-6, atol=1e-9)
    assert learning_coefficient(line(Pair(), copies=2), 2, 4).details["n_beta"] == pytest.approx(
        256 / math.log(256)
    )


def test_agrees_with_the_function():
    objective = line(Pair())
    one = learning_coefficient(
        objective, 3, 20, kernel="sgld", step_size=0.01, burn_in=10, generator=generator(2)
    )
    other = gt.llc(objective, chains=3, draws=20, lr=0.01, burn_in=10, kernel="sgld", generator=generator(2))
    assert float(one) == float(other)
    assert one.cost.gradients > 0
    measured = gt.measure(objective, ["learning_coefficient"])["learning_coefficient"]
    assert math.isfinite(float(measured))


def test_broken_model_and_budget():
    model = Pair()
    with torch.no_grad():
        model.a.fill_(math.nan)
    assert learning_coefficient(line(model)).status.state is State.NON_FINITE
    assert learning_coefficient(line(Pair()), budget=0).status.state is State.OUT_OF_BUDGET
    with pytest.raises(InputError, match="chains is 0"):
        learning_coefficient(line(Pair()), 0)


def test_price():
    objective = line(Pair())
    quoted, spent = learning_coefficient.spec.price(objective), learning_coefficient(objective).cost
    assert quoted.gradients / 2 < spent.gradients < 2 * quoted.gradients
