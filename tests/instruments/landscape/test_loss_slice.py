"""Loss along a line: closed forms, derivatives at the middle, invariances, errors, budget and sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom, chi2
from tests.bowls import bowl
from tests.instruments.landscape.systems import potential, ring, wells
from tests.made import normal, objective_of, same, seeded, state_of
from tests.training_toys import classifier, fingerprint, sgd_bowl
from torch import nn
from torch.func import functional_call

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import hessian_spectrum, loss_slice
from geartrain.instruments.landscape._directions import filter_normalised
from geartrain.instruments.landscape._probe import Probe
from geartrain.records import State

CURVATURES, HERE = np.array([4.0, 1.0, -0.5]), np.array([1.0, -2.0, 0.5])


def tanh_network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return objective_of(normal(30, 3, seed=1), normal(30, 2, seed=2), model)


def test_a_parabola_is_cut_exactly():
    direction = np.array([0.5, 1.0, 2.0])
    result = loss_slice(bowl(CURVATURES, HERE), torch.tensor(direction), points=5, span=2.0)
    t = np.linspace(-2, 2, 5)
    truth = np.array([0.5 * np.sum(CURVATURES * (HERE + s * direction) ** 2) for s in t])
    np.testing.assert_allclose(result.value, truth, rtol=1e-14)
    np.testing.assert_allclose(result.details["parabola"], truth, rtol=1e-14)
    assert result.dims == ("point",)
    assert list(result.coords["point"]) == t.tolist()
    assert result.details["slope"] == pytest.approx(np.sum(CURVATURES * HERE * direction))
    assert result.details["curvature"] == pytest.approx(np.sum(CURVATURES * direction**2))


def test_a_quartic_is_cut_exactly_and_leaves_its_parabola():
    result = loss_slice(potential(wells, [1.0, 0.0]), torch.tensor([1.0, 0.0]).double(), points=5)
    t = result.coords["point"]
    np.testing.assert_allclose(result.value, [((1 + s) ** 2 - 1) ** 2 for s in t], atol=1e-15)
    assert result.details["curvature"] == pytest.approx(8.0)
    # (1+t)⁴ - 2(1+t)² + 1 = 4t² + 4t³ + t⁴
    np.testing.assert_allclose(
        result.value - result.details["parabola"], [4 * s**3 + s**4 for s in t], atol=1e-14
    )


def test_slope_and_curvature_are_those_of_the_dense_hessian():
    objective = tanh_network()
    direction = normal(objective.num_params, seed=4)
    inputs, targets = objective.batches[0]
    names, shapes = objective.layout.names, objective.layout.shapes

    def loss(flat):
        parts = flat.split([s.numel() for s in shapes])
        state = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return ((functional_call(objective.model, state, (inputs,)) - targets) ** 2).mean()

    dense = torch.autograd.functional.hessian(loss, objective.parameters())
    result = loss_slice(objective, direction, points=3, span=1e-3)
    assert result.details["curvature"] == pytest.approx(float(direction @ dense @ direction), rel=1e-9)
    # Error of the second difference: h²/12 of the fourth derivative (of the curvature's order), rounding 1e-10.
    left, middle, right = result.value
    assert (left - 2 * middle + right) / 1e-6 == pytest.approx(result.details["curvature"], rel=1e-4)
    assert (right - left) / 2e-3 == pytest.approx(result.details["slope"], rel=1e-4)


def test_along_eigenvectors_the_curvature_is_the_eigenvalue():
    for index, wanted in ((0, 4.0), (1, 1.0), (-1, -0.5)):
        result = loss_slice(bowl(CURVATURES, HERE), "hessian", index=index)
        assert result.details["curvature"] / result.details["length"] ** 2 == pytest.approx(wanted)
    objective = tanh_network()
    top = hessian_spectrum(objective, 1).value[0]
    result = loss_slice(objective, "hessian", points=3)
    assert result.details["curvature"] / result.details["length"] ** 2 == pytest.approx(top, rel=1e-5)


def test_sharp_slices_are_as_long_as_doubles_the_loss_on_the_parabola():
    result = loss_slice(bowl([4.0, 1.0], [0.0, 1.0]), "hessian", points=3)
    np.testing.assert_allclose(result.value, [1.0, 0.5, 1.0])
    assert loss_slice(bowl([4.0, 1.0]), "hessian", length=3.0).details["length"] == pytest.approx(3.0)
    assert loss_slice(bowl([4.0], [0.0]), "hessian", points=3).value.tolist() == [2.0, 0.0, 2.0]


def test_the_gradient_leads_downhill():
    result = loss_slice(bowl([4.0, 1.0], [1.0, 1.0]), "gradient")
    assert result.details["slope"] < 0
    middle = len(result.value) // 2
    assert result.value[middle + 1] < result.value[middle] < result.value[middle - 1]
    flat = loss_slice(bowl([4.0], [0.0]), "gradient", points=3)
    assert flat.value.tolist() == [0.0, 0.0, 0.0]
    assert "vanishes" in flat.status.sentence


def test_the_next_update_leads_to_the_next_loss():
    run = sgd_bowl([4.0, 1.0], lr=0.1)
    run.advance(3)
    before = fingerprint(run)
    result = loss_slice(run, "update", points=3)
    assert fingerprint(run) == before
    here = float(run.objective().value())
    run.advance(1)
    np.testing.assert_allclose(result.value[1:], [here, float(run.objective().value())], rtol=1e-12)


def test_every_filter_of_a_random_direction_is_as_long_as_the_weights_own():
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3)).double().eval()
    )
    objective = objective_of(normal(6, 2, 3, 3), normal(6, 3), model)
    parts = objective.layout.unflatten(filter_normalised(objective, seeded()))
    for name, part, parameter in zip(objective.layout.names, parts, model.parameters(), strict=True):
        if parameter.ndim == 1:
            assert not part.any(), name
            continue
        sizes = [t.detach().reshape(len(t), -1).norm(dim=1).numpy() for t in (part, parameter)]
        np.testing.assert_allclose(*sizes, rtol=1e-12)


def test_relu_networks_that_differ_by_a_scale_have_the_same_filter_normalised_slice():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 1, bias=False)).double()
    data = normal(20, 3), normal(20, 1, seed=5)
    plain = loss_slice(objective_of(*data, model))
    raw = loss_slice(objective_of(*data, model), torch.ones(20).double())
    with torch.no_grad():
        model[0].weight.mul_(10)
        model[2].weight.div_(10)
    np.testing.assert_allclose(loss_slice(objective_of(*data, model)).value, plain.value, rtol=1e-12)
    other = loss_slice(objective_of(*data, model), torch.ones(20).double())
    assert not np.allclose(other.value, raw.value, rtol=0.1)


def test_scaling_the_loss_and_doubling_the_data():
    objective = tanh_network()
    inputs, targets = objective.batches[0]
    plain = loss_slice(objective)
    seven = loss_slice(
        gt.Objective(objective.model, lambda o, y: 7 * ((o - y) ** 2).mean(), (inputs, targets))
    )
    np.testing.assert_allclose(seven.value, 7 * plain.value, rtol=1e-12)
    np.testing.assert_allclose(seven.standard_error, 7 * plain.standard_error, rtol=1e-10)
    twice = loss_slice(objective_of(inputs.repeat(2, 1), targets.repeat(2, 1), objective.model))
    np.testing.assert_allclose(twice.value, plain.value, rtol=1e-12)
    # 60 examples of which each occurs twice: the variance of the mean halves, but for n - 1 in place of n.
    np.testing.assert_allclose(twice.standard_error, plain.standard_error * np.sqrt(29 / 59), rtol=1e-9)


def test_errors_are_those_of_the_examples_and_paired():
    objective = tanh_network()
    direction = 0.01 * normal(objective.num_params, seed=4)
    result = loss_slice(objective, direction, points=3)
    here = objective.parameters()
    losses = [objective.per_example_losses(here + t * direction).numpy() for t in (-1, 0, 1)]
    expected = [x.std(ddof=1) / np.sqrt(30) for x in losses]
    np.testing.assert_allclose(result.standard_error, expected, rtol=1e-10)
    paired = [(x - losses[1]).std(ddof=1) / np.sqrt(30) for x in losses]
    np.testing.assert_allclose(result.details["rise_error"], paired, atol=1e-14)
    assert result.details["rise_error"][2] < 0.2 * result.standard_error[2]


def test_coverage_over_samples_of_the_data():
    """Loss (w - y)², y normal: the rise from w = 0 to w = 1 is 1 in the population."""
    covered = 0
    for seed in range(200):
        targets = normal(8, 1, seed=seed)
        probe = Probe(objective_of(torch.ones(8, 1).double(), targets, nn.Linear(1, 1, bias=False).double()))
        rise = probe.losses(torch.ones(1).double()) - probe.losses(torch.zeros(1).double())
        covered += abs(float(probe.mean(rise)) - 1) <= 2.365 * float(probe.error(rise))  # t, 7 degrees
    assert binom.ppf(0.001, 200, 0.95) <= covered <= binom.ppf(0.9995, 200, 0.95)


def test_blocks_of_many_examples_give_the_same_error():
    objective = objective_of(torch.ones(1280, 1).double(), normal(1280, 1))
    probe = Probe(objective)
    assert len(probe.weights) == 64
    losses = objective.per_example_losses().numpy()
    ratio = float(probe.error(probe.losses())) / (losses.std(ddof=1) / np.sqrt(1280))
    low, high = np.sqrt(chi2.ppf([0.001, 0.999], 63) / 63)
    assert low < ratio < high


def test_losses_that_are_no_mean_over_examples_have_no_error():
    data = normal(20, 3), torch.zeros(20, 1).double()
    model = nn.Linear(3, 1).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)  # every example fitted: a sum of zeros is a mean of zeros
    summed = loss_slice(objective_of(*data, model, lambda o, y: ((o - y) ** 2).sum()), torch.ones(4).double())
    assert np.isnan(summed.standard_error).all()
    assert summed.value[-1] > 0
    torch.manual_seed(0)
    coupled = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double().train()
    assert np.isnan(loss_slice(objective_of(normal(20, 3), normal(20, 2), coupled)).standard_error).all()


def test_nothing_is_changed_and_the_same_seed_repeats():
    objective = tanh_network()
    before = state_of(objective.model)
    first, second = (loss_slice(objective, generator=seeded(3)) for _ in range(2))
    assert same(before, state_of(objective.model))
    assert same(first.value, second.value)
    assert not same(first.value, loss_slice(objective, generator=seeded(4)).value)


def test_cost_price_and_budget():
    objective = tanh_network()
    result = loss_slice(objective, points=9)
    assert (result.cost.forwards, result.cost.gradients, result.cost.products) == (12, 2, 1)
    price = loss_slice.spec.price(objective, points=9)
    assert (price.forwards, price.gradients, price.products) == (11, 2, 1)
    cut = loss_slice(objective, points=21, budget=4)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert "of 21 points" in cut.status.sentence
    known = np.flatnonzero(np.isfinite(cut.value))
    assert 10 in known
    assert len(known) < 21
    assert np.ptp(known) == len(known) - 1  # from the middle outwards
    assert loss_slice(objective, budget=0).status.state is State.OUT_OF_BUDGET
    assert loss_slice(objective, "hessian", budget=1).status.state is State.OUT_OF_BUDGET


def test_points_without_a_loss_are_infinite_and_counted():
    result = loss_slice(
        potential(lambda x: -(1 - x[0] ** 2).log(), [0.0]), torch.ones(1).double(), points=5, span=2.0
    )
    assert np.isposinf(result.value[[0, 1, 3, 4]]).all()
    assert result.value[2] == 0
    assert "not finite at 4 of 5 points" in result.status.sentence
    run = classifier()
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    assert loss_slice(run.objective()).status.state is State.NON_FINITE


def test_zero_weights_get_a_unit_direction():
    assert loss_slice(potential(ring, [0.0, 0.0])).details["length"] == pytest.approx(1.0)


def test_refusals():
    objective = potential(ring, [1.0, 0.0])
    with pytest.raises(InputError, match="points is 4; allowed: odd numbers from 3"):
        loss_slice(objective, points=4)
    with pytest.raises(InputError, match="span is 0 and length None; allowed: positive"):
        loss_slice(objective, span=0)
    with pytest.raises(InputError, match="index is -2; allowed"):
        loss_slice(objective, index=-2)
    with pytest.raises(InputError, match="direction is 'up'; allowed: 'random'"):
        loss_slice(objective, "up")
    with pytest.raises(InputError, match=r"direction has shape \(3,\); the objective has 2 parameters"):
        loss_slice(objective, torch.ones(3))
    with pytest.raises(InputError, match="direction holds NaN"):
        loss_slice(objective, torch.full((2,), float("nan")))
    with pytest.raises(InputError, match=r"an Objective has no optimizer; pass the geartrain\.Run"):
        loss_slice(objective, "update")
