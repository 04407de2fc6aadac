"""Distance from another state: hand-made numbers, layers, relations with the path, refusals."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tests.made import linear, normal, objective_of, same, state_of
from tests.training_toys import classifier, sgd_bowl
from torch import nn

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import distance_from_init
from geartrain.objective import Objective
from geartrain.records import State


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def objective(model: nn.Module, **options: object) -> Objective:
    return objective_of(normal(6, 3), torch.arange(6) % 2, model, **options)


def test_one_layer_that_moved():
    start, model = network(), network()
    with torch.no_grad():
        model[0].weight[0, 0] += 3
        model[0].bias[1] -= 4
    result = distance_from_init(objective(model), start)
    assert float(result) == pytest.approx(5)
    assert result.status.state is State.EXACT
    layers = result.details["layers"]
    assert layers["0"]["distance"] == pytest.approx(5)
    assert layers["0"]["share"] == pytest.approx(1)
    assert layers["2"]["distance"] == 0
    assert layers["2"]["cosine"] == pytest.approx(1)
    assert (result.details["most_moved"], result.details["least_moved"]) == ("0", "2")
    before = math.sqrt(sum(float(p.detach().square().sum()) for p in start.parameters()))
    assert result.details["relative"] == pytest.approx(5 / before)
    assert result.details["rms"] == pytest.approx(5 / math.sqrt(26))


def test_a_bowl_after_many_steps():
    # w ← (1 - ηλ) w: the distance is 1 - (1 - ηλ)^T of the start, mode by mode.
    run = sgd_bowl([1.0, 0.5], lr=0.4, start=[2.0, -1.0])
    run.advance(7)
    result = gt.measure(run, "distance_from_init")["distance_from_init"]
    assert float(result) == pytest.approx(math.hypot(2 * (1 - 0.6**7), 1 - 0.8**7), rel=1e-12)


def test_all_kinds_of_other():
    start, model = network(), network()
    with torch.no_grad():
        model[2].weight.add_(1)
    present = objective(model)
    vector = objective(start).parameters()
    values = {float(distance_from_init(present, o)) for o in (start, objective(start), vector)}
    assert values == {math.sqrt(8)}


def test_it_is_a_distance():
    torch.manual_seed(1)
    a, b, c = (objective(m) for m in (network(), copy.deepcopy(network()), network()))
    with torch.no_grad():
        for p in b.model.parameters():
            p.add_(torch.randn_like(p))
        for p in c.model.parameters():
            p.add_(torch.randn_like(p))
    ab, ba, bc, ac = (float(distance_from_init(x, y)) for x, y in ((a, b), (b, a), (b, c), (a, c)))
    assert ab == pytest.approx(ba)
    assert ac <= ab + bc
    assert float(distance_from_init(a, a)) == 0


def test_a_restriction_counts_only_its_parameters():
    start, model = network(), network()
    with torch.no_grad():
        model[0].weight.add_(1)
        model[2].bias.add_(1)
    result = distance_from_init(objective(model).restrict("2.*"), objective(start))
    assert float(result) == pytest.approx(math.sqrt(2))
    assert list(result.details["layers"]) == ["2"]


def test_single_precision_and_no_trace():
    run = classifier()
    run.advance(5)
    before = state_of(run.model)
    result = gt.measure(run, "distance_from_init")["distance_from_init"]
    assert same(state_of(run.model), before)
    assert result.cost.gradients == 0
    assert distance_from_init.spec.price(run.objective()).gradients == 0
    # Layer by layer the squares add up.
    parts = [row["distance"] ** 2 for row in result.details["layers"].values()]
    assert math.sqrt(sum(parts)) == pytest.approx(float(result), rel=1e-9)


def test_from_zero():
    zero = linear([0.0, 0.0])
    x = normal(4, 2)
    result = distance_from_init(Objective(linear([3.0, 4.0]), nn.functional.mse_loss, (x, x[:, :1])), zero)
    assert float(result) == 5
    assert math.isnan(result.details["relative"])
    assert "began at zero" in result.status.sentence


def test_where_there_is_none():
    x = normal(4, 2)
    small = Objective(linear([3.0, 4.0]), nn.functional.mse_loss, (x, x[:, :1]))
    other = distance_from_init(small, network())
    assert other.status.state is State.NOT_APPLICABLE
    assert "different parameters" in other.status.sentence
    broken = distance_from_init(small, torch.tensor([math.nan, 0.0]).double())
    assert broken.status.state is State.NON_FINITE


def test_refusals():
    present = objective(network())
    with pytest.raises(InputError, match="other has shape"):
        distance_from_init(present, torch.zeros(3))
    with pytest.raises(InputError, match="other is a str; pass an Objective, a model"):
        distance_from_init(present, "start")
