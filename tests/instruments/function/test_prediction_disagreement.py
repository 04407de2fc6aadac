"""Prediction disagreement: made to order, independent, identical; coverage; numbers; cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.instruments.function.echoes import answered, covered
from tests.made import Next, linear, normal, objective_of, sequence_loss, words
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import function_distance, prediction_disagreement
from geartrain.instruments.function._said import Said
from geartrain.instruments.function.prediction_disagreement import of_classes, of_numbers
from geartrain.objective import Objective
from geartrain.records import State

LEAST = binom.ppf(0.001, 200, 0.95)


class Half(nn.Module):
    """Scores are the first or the second half of the inputs."""

    def __init__(self, second: bool, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.part = slice(width, None) if second else slice(None, width)

    def forward(self, x):
        return self.scale * x[:, self.part]


def named_by(n: int, accuracies, seed: int, classes: int = 4):
    """Two networks that err independently, evenly over the wrong classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    named = []
    for accuracy in accuracies:
        wrong = (labels + rng.integers(1, classes, size=n)) % classes
        named.append(np.where(rng.random(n) < accuracy, labels, wrong))
    return named, labels


def answers(n: int, accuracies, seed: int, classes: int = 4):
    """The same as an objective and another model."""
    named, labels = named_by(n, accuracies, seed, classes)
    scores = torch.cat([nn.functional.one_hot(torch.from_numpy(v), classes) for v in named], 1).double()
    data = scores, torch.from_numpy(labels)
    return (
        Objective(Half(False, classes), nn.functional.cross_entropy, data),
        Half(True, classes),
        named,
        labels,
    )


def said(n: int, accuracies, seed: int):
    """The same as what they say."""
    named, labels = named_by(n, accuracies, seed)
    one_hot = [nn.functional.one_hot(torch.from_numpy(v), 4) for v in named]
    return [answered(scores, torch.from_numpy(labels)) for scores in one_hot]


def test_independent_networks_disagree_as_expected():
    truth = 1 - 0.9 * 0.7 - 0.1 * 0.3 / 3
    results = [of_classes(*said(100, (0.9, 0.7), s)) for s in range(200)]
    assert covered(results, truth) >= LEAST
    expected = np.array([r.details["expected_independent"] for r in results])
    errors = np.array([r.details["expected_independent_error"] for r in results])
    assert (abs(expected - truth) <= 2 * errors).sum() >= LEAST
    by_class = np.array([r.details["expected_by_class"] for r in results])
    # Products of tables estimated from the same rows are unbiased up to the chance that a cell meets itself: 1/n_y.
    assert abs(by_class.mean() - truth) <= 4 * by_class.std() / math.sqrt(200) + 4 / 100


def test_made_to_order():
    objective, other, named, labels = answers(60, (0.8, 0.6), 3)
    result = prediction_disagreement(objective, other)
    details = result.details
    assert result.value == np.mean(named[0] != named[1])
    assert details["accuracies"] == pytest.approx([np.mean(v == labels) for v in named])
    both = (named[0] != labels) & (named[1] != labels)
    assert details["both_wrong"] == pytest.approx(both.mean())
    assert details["same_mistake"] == pytest.approx(np.mean((named[0] == named[1])[both]))
    assert details["least"] <= result.value <= details["most"]
    assert details["ratio"] == pytest.approx(result.value / details["expected_independent"])
    assert result.cost.forwards == prediction_disagreement.spec.price(objective).forwards == 2


def test_a_network_agrees_with_itself_and_its_permutations():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    twin = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    order = [3, 1, 4, 0, 2]
    with torch.no_grad():
        twin[0].weight.copy_(model[0].weight[order]), twin[0].bias.copy_(model[0].bias[order])
        twin[2].weight.copy_(model[2].weight[:, order]), twin[2].bias.copy_(model[2].bias)
    objective = objective_of(normal(50, 3), torch.arange(50) % 4, model)
    result = prediction_disagreement(objective, twin)
    assert result.value == 0
    assert 0 < result.standard_error < 0.1
    assert result.details["same_mistake"] == 1
    assert prediction_disagreement(objective, objective.parameters()).value == 0
    assert function_distance(objective, twin).value < 1e-12


def test_numbers_of_independent_errors():
    # Targets t, outputs t + e and t + h: E(e - h)² = 0.5² + 1² over the variance 1.
    results = []
    for seed in range(200):
        t, e, h = (normal(80, 1, seed=3 * seed + i) for i in range(3))
        rows = np.arange(80), np.zeros(80, dtype=int)
        results.append(of_numbers(*(Said("values", f, None, t, *rows) for f in (t + 0.5 * e, t + h))))
    raw = [r.value * r.details["scale"] ** 2 for r in results]
    assert abs(np.mean(raw) - 1.25) <= 4 * np.std(raw) / math.sqrt(200)
    ratios = np.array([r.details["ratio"] for r in results])
    assert abs(ratios.mean() - 1) <= 4 * ratios.std() / math.sqrt(200) + 0.01
    scaled = [abs(r.value - 1.25 / r.details["scale"] ** 2) <= 2 * r.standard_error for r in results]
    # Means of squares are skewed at 80 examples: 92 % instead of 95.
    assert sum(scaled) >= binom.ppf(0.001, 200, 0.92)


def test_tokens_are_counted_and_sequences_give_the_error():
    x, y = words(12)
    objective = Objective(Next(), sequence_loss, (x, y))
    other = Next()
    with torch.no_grad():
        other.scores.bias[0] += 3
    result = prediction_disagreement(objective, other)
    expected = (objective.model(x).argmax(-1) != other(x).argmax(-1)).double().mean()
    assert result.value == pytest.approx(float(expected))
    assert result.details["rows"] == 12 * 9
    assert "about 12 examples" in result.status.sentence


def test_refusals():
    objective, other, *_ = answers(20, (0.9, 0.9), 0)
    with pytest.raises(InputError, match="other is a str"):
        prediction_disagreement(objective, "other")
    wider = linear(*[[1.0] * 8] * 5)
    assert "cannot be compared" in prediction_disagreement(objective, wider).status.sentence
    other.scale.data.fill_(math.nan)
    assert prediction_disagreement(objective, other).status.state is State.NON_FINITE
    flat = Objective(nn.Linear(1, 1), nn.functional.mse_loss, (torch.zeros(5, 1), torch.ones(5, 1)))
    assert "no scale" in prediction_disagreement(flat, nn.Linear(1, 1)).status.sentence
