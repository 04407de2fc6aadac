"""Weight norms: dense truths, products, ties, relations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.made import Next, normal, objective_of, sequence_loss, words
from torch import nn

from geartrain.instruments import weight_norm
from geartrain.objective import Objective
from geartrain.records import State


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()


def test_dense_twin():
    model, x = network(), normal(10, 3)
    result = weight_norm(objective_of(x, x[:, :2], model))
    layers = [torch.cat([p.detach().reshape(-1) for p in model[i].parameters()]) for i in (0, 2)]
    assert result.value == pytest.approx([float(p.norm()) for p in layers])
    assert result.coords["layer"] == ["0", "2"]
    details = result.details
    assert details["total"] == pytest.approx(float(np.linalg.norm(result.value)))
    spectral = [float(torch.linalg.matrix_norm(model[i].weight.detach(), 2)) for i in (0, 2)]
    assert list(details["spectral"].values()) == pytest.approx(spectral)
    assert details["log_product_spectral"] == pytest.approx(math.log(spectral[0] * spectral[1]))
    assert details["l1"] == pytest.approx(float(sum(p.detach().abs().sum() for p in model.parameters())))
    assert result.status.state is State.EXACT


def test_an_orthogonal_matrix_and_a_projector():
    x = torch.eye(4).double()
    model = nn.Linear(4, 4, bias=False).double()
    model.weight.data = torch.linalg.qr(normal(4, 4))[0] * 3
    details = weight_norm(objective_of(x, x, model)).details
    assert details["spectral"]["weight"] == pytest.approx(3)
    assert details["stable_rank"]["weight"] == pytest.approx(4)
    model.weight.data = torch.outer(x[0], x[1])
    assert weight_norm(objective_of(x, x, model)).details["stable_rank"]["weight"] == pytest.approx(1)


def test_rescaling_relu_layers_keeps_the_products():
    model, x = network(), normal(10, 3)
    before = weight_norm(objective_of(x, x[:, :2], model)).details
    with torch.no_grad():
        model[0].weight *= 8
        model[2].weight /= 8
    after = weight_norm(objective_of(x, x[:, :2], model)).details
    for name in ("log_product_spectral", "log_product_frobenius"):
        assert after[name] == pytest.approx(before[name])
    assert after["total"] != pytest.approx(before["total"])


def test_a_convolution_is_a_matrix_of_its_outputs():
    x = normal(4, 2, 5, 5)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(27, 1)).double()
    details = weight_norm(objective_of(x, normal(4, 1), model)).details
    truth = float(torch.linalg.matrix_norm(model[0].weight.detach().reshape(3, -1), 2))
    assert details["spectral"]["0.weight"] == pytest.approx(truth)


def test_tied_weights_count_once():
    model = Next()
    model.scores.weight = model.embedding.weight
    total = weight_norm(Objective(model, sequence_loss, words())).details["total"]
    assert total == pytest.approx(
        math.sqrt(sum(float((p.detach() ** 2).sum()) for p in model.parameters())), rel=1e-6
    )


def test_nothing_is_spent_and_nan_is_seen():
    model, x = network(), normal(10, 3)
    objective = objective_of(x, x[:, :2], model)
    result = weight_norm(objective, budget=0)
    assert result.status.state is State.EXACT
    assert result.cost.forwards == result.cost.gradients == weight_norm.spec.price(objective).forwards == 0
    model[0].weight.data[0, 0] = math.inf
    assert weight_norm(objective).status.state is State.NON_FINITE
