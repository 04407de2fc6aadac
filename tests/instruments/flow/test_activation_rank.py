"""Rank of activations: unbiased parts by enumeration, known covariances, coverage, places, relations, refusals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.made import normal, objective_of, same, seeded, state_of
from tests.noisy import coverage
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import activation_rank
from geartrain.instruments.flow.activation_rank import participation
from geartrain.objective import Objective
from geartrain.records import State

SPECTRUM = np.array([4.0, 2.0, 1.0, 1.0, 0.5, 0.5])
TRUTH = SPECTRUM.sum() ** 2 / (SPECTRUM**2).sum()


def seen_through(rows: torch.Tensor, **options: object) -> Objective:
    """A model whose only layer is the identity."""
    model = nn.Linear(rows.shape[1], rows.shape[1], bias=False).double()
    model.weight.data = torch.eye(rows.shape[1]).double()
    return objective_of(rows, rows, model, **options)


def centred_gram(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(-2, keepdims=True)
    return centred @ centred.swapaxes(-1, -2)


def test_both_parts_are_unbiased_for_any_distribution():
    # Exactly: all samples of 4 with replacement from three skewed points, 81 of them. C is their covariance.
    points = np.array([[0.0, 0.0], [1.0, 0.2], [3.0, -2.0]])
    covariance = np.cov(points.T, bias=True)
    top, bottom = [], []
    for sample in itertools.product(range(3), repeat=4):
        gram = centred_gram(points[list(sample)])
        n, d = 4, gram.diagonal()
        t, s, q = d.sum() / 3, (gram**2).sum() / 9, (d**2).sum() / 3
        factor = (n - 1) / (n * (n - 2) * (n - 3))
        top.append(factor * (2 * s + (n * n - 3 * n + 1) * t * t - n * q))
        bottom.append(factor * ((n - 1) * (n - 2) * s + t * t - n * q))
        if bottom[-1] > 1e-12:
            assert participation_of_four(gram) == pytest.approx(top[-1] / bottom[-1])
    assert np.mean(top) == pytest.approx(np.trace(covariance) ** 2, rel=1e-12)
    assert np.mean(bottom) == pytest.approx(np.trace(covariance @ covariance), rel=1e-12)


def participation_of_four(gram: np.ndarray) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):  # leaving one of four out leaves no estimate
        return float(participation(gram)[0])


def test_known_covariance():
    rows = normal(400, 6, seed=1) * torch.tensor(SPECTRUM).sqrt()
    result = activation_rank(seen_through(rows))
    assert abs(result.value[0] - TRUTH) <= 4 * result.standard_error[0]
    assert result.standard_error[0] < 0.3
    assert result.details["variance"][0] == pytest.approx(SPECTRUM.sum(), rel=0.15)


def test_few_examples_give_no_smaller_rank():
    # Forty equal variances seen on 20 examples: the sample covariance cannot show more than 19 directions.
    rows = np.random.default_rng(0).normal(size=(200, 20, 40))
    value, _ = participation(centred_gram(rows))
    plug_in = np.array([np.trace(g) ** 2 / (g**2).sum() for g in centred_gram(rows)])
    assert plug_in.max() < 19
    # The ratio of unbiased parts has a bias of relative order 1/n and a skewed spread: its median is close.
    assert np.median(value) == pytest.approx(40, rel=0.1)


def test_coverage_over_seeds():
    rows = np.random.default_rng(2).normal(size=(200, 60, 6)) * np.sqrt(SPECTRUM)
    value, error = participation(centred_gram(rows))
    assert abs(value.mean() - TRUTH) <= 4 * value.std(ddof=1) / math.sqrt(200) + TRUTH * 3 / 60
    assert coverage(value, error, TRUTH) >= binom.ppf(0.001, 200, 0.9)


def test_the_jackknife_leaves_out_one_by_one():
    rows = np.random.default_rng(3).normal(size=(9, 3))
    left = np.array([participation(centred_gram(np.delete(rows, i, 0)))[0] for i in range(9)])
    _, error = participation(centred_gram(rows))
    assert error == pytest.approx(math.sqrt(8 / 9 * ((left - left.mean()) ** 2).sum()), rel=1e-9)


def test_a_narrow_layer_is_a_bottleneck():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 2), nn.Linear(2, 30)).double()
    result = activation_rank(objective_of(normal(200, 10), normal(200, 30, seed=1), model))
    assert result.value[1] <= 2 + 4 * result.standard_error[1]
    assert result.details["features"].tolist() == [2.0, 30.0]
    # A tight bound: two directions are all that the sample covariance has.
    assert result.details["effective_rank"][1] <= 2 + 1e-6


def test_rotation_scale_and_shift_do_not_matter():
    rows = normal(30, 4, seed=4) * torch.tensor([2.0, 1.0, 1.0, 0.1]).double()
    turn = torch.linalg.qr(normal(4, 4, seed=5))[0]
    results = [activation_rank(seen_through(r)) for r in (rows, 7 * rows @ turn + 100)]
    np.testing.assert_allclose(results[1].value, results[0].value, rtol=1e-8)
    np.testing.assert_allclose(results[1].standard_error, results[0].standard_error, rtol=1e-6)


def test_batches_and_samples():
    rows = normal(60, 4, seed=6)
    whole = seen_through(rows)
    parts = Objective(whole.model, nn.functional.mse_loss, [(rows[:13],) * 2, (rows[13:],) * 2])
    options = {"examples": 25, "generator": seeded(3)}
    first = activation_rank(whole, **options)
    second = activation_rank(parts, examples=25, generator=seeded(3))
    assert first.value[0] == pytest.approx(second.value[0], rel=1e-9)
    assert first.details["examples"] == 25


def test_one_place_of_every_image():
    # Channels with variances 4 and 1, the same in every pixel of an image: pixels add no independent examples.
    level = normal(300, 2, seed=7) * torch.tensor([2.0, 1.0]).double()
    images = level[:, :, None, None].expand(300, 2, 3, 3).contiguous()
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Flatten(), nn.Linear(18, 1)).double()
    model[0].weight.data = torch.eye(2).double()[:, :, None, None]
    result = activation_rank(objective_of(images, normal(300, 1), model))
    assert result.coords["layer"][0] == "0"
    assert result.details["features"][0] == 2
    assert abs(result.value[0] - 25 / 17) <= 4 * result.standard_error[0]
    spread = activation_rank(objective_of(images, normal(300, 1), model), generator=seeded(9)).value[0]
    assert spread == pytest.approx(result.value[0], rel=1e-9)  # whatever place is drawn


def test_sequences_have_their_features_last():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh()).double()
    x = normal(40, 7, 3)
    result = activation_rank(Objective(model, nn.functional.mse_loss, (x, normal(40, 7, 5))))
    assert result.details["features"].tolist() == [5.0, 5.0]


def test_layers_without_an_axis_of_examples_are_left_out():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.outer(self.inner(x.reshape(-1, 3)).reshape(len(x), -1, 4))

    result = activation_rank(Objective(Flat(), nn.functional.mse_loss, (normal(20, 5, 3), normal(20, 5, 2))))
    assert result.coords["layer"] == ["outer"]
    assert result.details["left_out"] == ("inner",)


def test_cost_and_trace():
    objective = seen_through(normal(20, 3))
    before = state_of(objective.model)
    result = activation_rank(objective)
    assert same(state_of(objective.model), before)
    assert result.cost.forwards == activation_rank.spec.price(objective).forwards == 1


def test_where_there_is_none():
    constant = activation_rank(seen_through(torch.full((9, 3), 0.1).double()))
    assert np.isnan(constant.value[0])
    assert "No layer's output varies" in constant.status.sentence
    few = activation_rank(seen_through(normal(4, 3)))
    assert few.status.state is State.NOT_APPLICABLE
    assert "4 examples are too few; at least 5" in few.status.sentence
    broken = seen_through(normal(9, 3))
    broken.model.weight.data[0, 0] = math.nan
    told = activation_rank(broken)
    assert told.status.state is State.NON_FINITE
    assert "(Linear)" in told.status.sentence
    with pytest.raises(InputError, match="examples is 4; at least 5"):
        activation_rank(seen_through(normal(9, 3)), examples=4)
