"""Out-of-distribution drop: noise in closed form, spurious features, held-out data, coverage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from tests.instruments.function.echoes import answered
from tests.made import linear, normal, objective_of, run_of, words
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import out_of_distribution_drop
from geartrain.instruments.function._drop import compared
from geartrain.records import State

W = torch.tensor([2.0, 1.0, 0.0]).double()


def test_noise_on_a_linear_classifier():
    x = normal(4000, 3)
    y = (x @ W > 0).long()
    result = out_of_distribution_drop(objective_of(x, y, linear([0.0] * 3, W.tolist())), size=0.7)
    found = dict(
        zip(result.coords["point"], zip(result.value, result.standard_error, strict=True), strict=True)
    )
    spread = 0.7 * float(((x - x.mean(0)) ** 2).mean().sqrt())
    after = norm.cdf((x @ W).abs().numpy() / (spread * float(W.norm()))).mean()
    assert abs(found["noise"][0] - (1 - after)) <= 4 * found["noise"][1]
    assert "blur" not in found
    # The data were drawn by PyTorch from the very seed of the noise: those must be other numbers.
    # Without a bias scaling about a mean of nearly 0 moves no answer across the boundary, but for those next to it.
    assert abs(found["scale"][0]) < 0.02
    assert result.details["noise"]["accuracy_before"] == 1


def test_a_shortcut_that_turns_round():
    # Two classes ±1 on a core feature (noise 1) and on a spurious one (noise ½): w ∝ Σ⁻¹μ = (1, 4).
    n, w = 4000, np.array([1.0, 4.0])
    rng = np.random.default_rng(0)
    sign = rng.choice([-1.0, 1.0], n)
    noise = rng.normal(size=(n, 2)) * [1.0, 0.5]
    spread = np.hypot(w[0], 0.5 * w[1])
    x, flipped = (torch.from_numpy(sign[:, None] * [1.0, s] + noise) for s in (1.0, -1.0))
    y = torch.from_numpy((sign > 0).astype(int))
    result = out_of_distribution_drop(objective_of(x, y, linear([0.0, 0.0], w.tolist())), (flipped, y))
    truth = norm.cdf(5 / spread) - norm.cdf(-3 / spread)
    assert result.coords["point"] == ["given"]
    assert abs(result.value[0] - truth) <= 4 * result.standard_error[0]


def test_coverage_of_unpaired_differences():
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        pair = []
        for accuracy in (0.9, 0.7):
            labels = torch.from_numpy((rng.random(80) > accuracy).astype(int))
            pair.append(answered(torch.tensor([[1.0, 0.0]]).repeat(80, 1), labels))
        drop = compared(*pair, paired=False)
        held += abs(drop.value - 0.2) <= 2 * drop.error
    assert held >= binom.ppf(0.001, 200, 0.95)


def test_images_are_blurred_and_flat_ones_are_unmoved():
    x = normal(40, 1, 6, 6)
    y = (x[:, 0, 0, 0] > 0).long()
    result = out_of_distribution_drop(objective_of(x, y), corruptions=["blur"], size=0.5)
    assert result.coords["point"] == ["blur"]
    model = nn.Sequential(nn.Flatten(), linear(*normal(2, 36).tolist()))
    flat = normal(40, 1, 1, 1).expand(40, 1, 6, 6)
    same = out_of_distribution_drop(objective_of(flat, y, model), corruptions=["blur"])
    assert same.value[0] == 0
    assert same.details["blur"]["loss_after"] == pytest.approx(same.details["blur"]["loss_before"])


def test_scaling_numbers():
    # f = x, y = 0, mean 0 by symmetry: scaling by 1.5 raises the squared error 2.25-fold.
    x = torch.cat([normal(40, 2), -normal(40, 2)])
    objective = objective_of(x, torch.zeros(80, 1).double(), linear([1.0, 0.0]))
    result = out_of_distribution_drop(objective, corruptions=["scale"], size=0.5)
    assert result.value[0] == pytest.approx(1 - 1 / 2.25)


def test_a_run_compares_its_splits():
    x, y = normal(90, 3), torch.arange(90) % 2
    echo = linear([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    fits = echo(x).argmax(1).detach()
    run = run_of((x[:60], fits[:60]), (x[60:], y[60:]), echo)
    result = out_of_distribution_drop(run)
    assert result.coords["point"][0] == "held out"
    wrong = float((fits[60:] != y[60:]).double().mean())
    assert result.value[0] == pytest.approx(wrong)
    assert result.cost.forwards == pytest.approx(out_of_distribution_drop.spec.price(run).forwards, abs=1)
    given = out_of_distribution_drop(run, (x, fits))
    assert given.value[0] == pytest.approx(-wrong)


def test_refusals():
    objective = objective_of(normal(20, 2), torch.arange(20) % 2)
    with pytest.raises(InputError, match=r"corruptions are \['rain'\] of size 0.5; allowed"):
        out_of_distribution_drop(objective, corruptions=["rain"])
    text = objective_of(*words(), nn.Embedding(7, 7), lambda f, y: nn.functional.cross_entropy(f.mT, y))
    assert "pass data=" in out_of_distribution_drop(text).status.sentence
    objective.model[1].weight.data.fill_(float("nan"))
    assert out_of_distribution_drop(objective).status.state is State.NON_FINITE
