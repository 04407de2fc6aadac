"""Gradient confusion: closed forms on the circle, honest errors also without any signal, relations, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from tests.made import linear, normal, objective_of, seeded
from tests.noisy import coverage, pulled_by
from torch import nn

from geartrain.errors import InputError, NonFiniteError
from geartrain.instruments import gradient_confusion, gradient_noise_scale
from geartrain.instruments.noise.gradient_confusion import pair_mean
from geartrain.objective import Objective
from geartrain.records import State

SPREAD = 0.8


def directions(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def test_directions_around_a_mean():
    # Angles N(0, s²): E cos(φ1 - φ2) = exp(-s²); the difference is N(0, 2s²), wrapped.
    angles = SPREAD * np.random.default_rng(0).normal(size=200)
    lengths = np.random.default_rng(1).uniform(0.1, 10, size=(200, 1))
    result = gradient_confusion(pulled_by(torch.tensor(lengths * directions(angles))))
    assert abs(result.value - math.exp(-(SPREAD**2))) <= 4 * result.standard_error
    scale = SPREAD * math.sqrt(2)
    share = 2 * sum(norm.cdf((k + 1) * math.pi / scale) - norm.cdf(k * math.pi / scale) for k in (0.5, 2.5))
    assert abs(result.details["share_negative"] - share) <= 4 * result.details["share_negative_error"]


def test_equals_the_mean_over_pairs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    objective = objective_of(normal(12, 3), torch.arange(12) % 3, model)
    rows = objective.per_example_gradients().numpy()
    inner = rows @ rows.T
    cosines = inner / np.sqrt(np.outer(inner.diagonal(), inner.diagonal()))
    i, j = np.triu_indices(12, 1)
    result = gradient_confusion(objective)
    assert result.value == pytest.approx(cosines[i, j].mean(), rel=1e-11)
    assert result.details["minimum"] == pytest.approx(cosines[i, j].min())
    assert result.details["confusion"] == pytest.approx(-inner[i, j].min())
    same = (i - j) % 3 == 0
    assert result.details["within_class"] == pytest.approx(cosines[i, j][same].mean())
    assert result.details["between_classes"] == pytest.approx(cosines[i, j][~same].mean())


def test_opposite_and_equal_gradients():
    two = gradient_confusion(pulled_by(torch.tensor([[1.0, 1.0], [-2.0, -2.0]]).double()))
    assert two.value == pytest.approx(-1)
    assert two.details["share_negative"] == 1
    assert two.details["confusion"] == pytest.approx(4)
    alike = gradient_confusion(pulled_by(torch.ones(5, 3).double()))
    assert alike.value == pytest.approx(1)
    assert alike.standard_error == pytest.approx(0, abs=1e-12)
    assert alike.details["confusion"] == 0


def test_unbiased_and_honest_over_seeds():
    angles = SPREAD * np.random.default_rng(2).normal(size=(200, 30))
    u = directions(angles)
    mean, error = pair_mean(u @ u.swapaxes(1, 2))
    truth = math.exp(-(SPREAD**2))
    assert abs(mean.mean() - truth) <= 4 * mean.std(ddof=1) / math.sqrt(200)
    assert coverage(mean, error, truth) >= binom.ppf(0.001, 200, 0.93)


def test_errors_hold_where_nothing_is_shared():
    # Uniform angles: the mean of the kernel given one direction vanishes, and the jackknife errs on the safe side.
    u = directions(np.random.default_rng(3).uniform(0, 2 * math.pi, size=(200, 30)))
    mean, error = pair_mean(u @ u.swapaxes(1, 2))
    assert abs(mean.mean()) <= 4 * mean.std(ddof=1) / math.sqrt(200)
    assert coverage(mean, error, 0.0) >= binom.ppf(0.001, 200, 0.93)


def test_lengths_and_rotations_do_not_matter():
    rows = normal(20, 4, seed=1)
    turned = rows @ torch.linalg.qr(normal(4, 4, seed=2))[0]
    scaled = rows * torch.rand(20, 1, generator=seeded()).double()
    values = [float(gradient_confusion(pulled_by(r))) for r in (rows, turned, scaled)]
    np.testing.assert_allclose(values, values[0], rtol=1e-10)


def test_a_sample_of_the_examples():
    objective = pulled_by(normal(400, 3, seed=4) + 1)
    whole = gradient_confusion(objective, examples=400)
    part = gradient_confusion(objective, examples=60, generator=seeded(1))
    assert part.details["examples"] == 60
    assert abs(part.value - whole.value) <= 4 * part.standard_error
    assert part.value != gradient_confusion(objective, examples=60, generator=seeded(2)).value
    assert 0.5 <= part.cost.gradients / (60 / 400) <= 2
    assert gradient_confusion.spec.price(objective, examples=60).gradients == pytest.approx(60 / 400)


def test_a_sample_across_batches():
    x, y = normal(30, 2) + 1, torch.ones(30, 1).double()
    model, loss = linear([0.0, 0.0]), lambda f, t: (f * t).mean()
    whole = Objective(model, loss, (x, y))
    parts = Objective(model, loss, [(x[:7], y[:7]), (x[7:], y[7:])])
    results = [gradient_confusion(o, examples=10, generator=seeded(5)) for o in (whole, parts)]
    assert results[0].value == pytest.approx(results[1].value, rel=1e-12)


def test_where_there_is_none():
    single = gradient_confusion(pulled_by(torch.tensor([[1.0], [0.0]]).double()))
    assert single.status.state is State.NOT_APPLICABLE
    assert "Only 1 of 2 examples has a gradient" in single.status.sentence
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    coupled = gradient_confusion(objective_of(normal(20, 3), normal(20, 4, seed=1), model, training=True))
    assert "training=False" in coupled.status.sentence


def test_refusals():
    with pytest.raises(InputError, match="examples is 1; at least 2"):
        gradient_confusion(pulled_by(normal(5, 2)), examples=1)
    x = normal(5, 1)
    with pytest.raises(NonFiniteError):
        gradient_confusion(Objective(linear([math.nan]), nn.functional.mse_loss, (x, x)))


def test_the_mean_cosine_fixes_the_noise_scale():
    # Gradients of length one: |G|² without bias is the mean cosine c, and trΣ is 1 - c, exactly.
    rows = torch.tensor(directions(SPREAD * np.random.default_rng(6).normal(size=40)))
    cosine = float(gradient_confusion(pulled_by(rows)))
    assert float(gradient_noise_scale(pulled_by(rows))) == pytest.approx((1 - cosine) / cosine, rel=1e-9)
