"""Calibration error: nothing where there is nothing, known gaps, coverage, the usual estimate beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.instruments.function.echoes import Echo, answered, calibrated, clustered, covered, drawn_from, echo
from tests.made import normal, run_of
from torch import nn

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments import calibration_error
from geartrain.instruments.function.calibration_error import of_answers, of_confidences
from geartrain.objective import Objective
from geartrain.records import State

LEAST = binom.ppf(0.001, 200, 0.95)


def test_calibrated_scores_have_none_where_the_usual_estimate_has_some():
    results = [of_answers(calibrated(200, seed)) for seed in range(200)]
    squares = np.array([r.details["squared"] for r in results])
    assert abs(squares.mean()) <= 4 * squares.std(ddof=1) / math.sqrt(200)
    assert covered(results, 0.0) >= LEAST
    # Plug-in: a mean of |N(0, s_b)|, s_b² = p(1-p)/n_b; here about 0.1, far above its own spread over √200.
    plugin = np.array([r.details["ece_plugin"] for r in results])
    assert plugin.min() > 0
    assert plugin.mean() > 30 * plugin.std(ddof=1) / math.sqrt(200)
    assert np.mean([r.details["ece_debiased"] for r in results]) < plugin.mean()
    over = np.array([r.details["overconfidence"] for r in results])
    errors = np.array([r.details["overconfidence_error"] for r in results])
    assert (abs(over) <= 2 * errors).sum() >= LEAST


@pytest.mark.parametrize("offset", [0.1, -0.25])
def test_a_known_gap(offset):
    # Confidence 0.7 on everything, truth 0.7 + offset: the error is |offset|, in a single bin of ties.
    z = math.log(0.7 / 0.3)
    results = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = torch.from_numpy((rng.random(120) >= 0.7 + offset).astype(int))
        results.append(of_answers(answered(torch.tensor([[z, 0.0]]).repeat(120, 1), labels)))
    assert covered(results, abs(offset)) >= LEAST
    squares = np.array([r.details["squared"] for r in results])
    assert abs(squares.mean() - offset**2) <= 4 * squares.std(ddof=1) / math.sqrt(200)
    assert len(results[0].details["reliability"]["count"]) == 1


def test_the_square_is_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    confidence, right = rng.uniform(0.3, 1, 40), (rng.random(40) < 0.6).astype(float)
    groups = np.repeat(np.arange(20), 2)
    found = of_confidences(confidence, right, groups, 3)
    expected = 0.0
    for b in range(found.codes.max() + 1):
        rows = np.flatnonzero(found.codes == b)
        pairs = [(i, j) for i in rows for j in rows if groups[i] != groups[j]]
        residual = right - confidence
        expected += len(rows) / 40 * np.mean([residual[i] * residual[j] for i, j in pairs])
    assert found.squared == pytest.approx(expected, rel=1e-12)


def test_places_of_one_sequence_are_one_witness():
    assert covered([of_answers(clustered(100, 3, s)) for s in range(200)], 0.0) >= LEAST


def test_overconfidence_shows_and_order_does_not_matter():
    result = of_answers(calibrated(2000, 0, factor=3.0))
    assert result.value > 4 * result.standard_error
    assert result.details["overconfidence"] > 0
    g = torch.Generator().manual_seed(0)
    scores = 4.5 * torch.randn(2000, 4, generator=g, dtype=torch.float64)
    labels = drawn_from(scores / 3, 10_000)
    swapped = calibration_error(
        echo(
            scores.flip(0)[:, [2, 0, 3, 1]],
            (labels.flip(0)[:, None] == torch.tensor([2, 0, 3, 1])).long().argmax(1),
        )
    )
    assert swapped.value == pytest.approx(result.value, rel=1e-9)
    assert calibration_error(echo(scores + 7, labels)).value == pytest.approx(result.value, rel=1e-9)


def test_reliability_adds_up():
    details = calibration_error(calibrated(300, 1, say=echo)).details
    table = details["reliability"]
    assert table["count"].sum() == 300
    assert table["accuracy"] @ table["count"] / 300 == pytest.approx(details["accuracy"])
    gaps = np.abs(table["accuracy"] - table["confidence"])
    assert gaps @ table["count"] / 300 == pytest.approx(details["ece_plugin"])


def test_yes_no_losses_and_hidden_losses_are_heard():
    x, y = 2 * normal(200, 1), (normal(200, 1, seed=5) > 0).double()
    two = echo(torch.cat([torch.zeros_like(x), x], 1), y[:, 0].long())
    one = Objective(Echo(), nn.functional.binary_cross_entropy_with_logits, (x, y))
    sigmoid = Objective(nn.Sequential(Echo(), nn.Sigmoid()), nn.functional.binary_cross_entropy, (x, y))
    hidden = Objective(
        Echo(),
        batch_loss=lambda m, b: nn.functional.binary_cross_entropy_with_logits(m(b["x"]), b["y"]),
        data={"x": x, "y": y},
    )
    value = calibration_error(two).value
    for other in (one, sigmoid, hidden):
        assert calibration_error(other).value == pytest.approx(value, rel=1e-6)


def test_a_run_is_asked_on_validation_data_and_pays():
    x, y = normal(60, 3), torch.arange(60) % 3
    run = run_of((x[:40], y[:40]), (x[40:], y[40:]), Echo())
    result = calibration_error(run)
    assert result.details["split"] == "validation"
    assert "20 validation examples" in result.status.sentence
    assert result.cost.forwards == pytest.approx(1)
    assert calibration_error(run_of((x, y), model=Echo())).details["split"] == "train"
    assert calibration_error.spec.price(run).forwards == 1


def test_refusals():
    with pytest.raises(InputError, match="bins is 0; allowed: 1 or more"):
        calibration_error(calibrated(50, 0, say=echo), 0)
    numbers = Objective(Echo(), nn.functional.mse_loss, (normal(20, 1), normal(20, 1)))
    assert "no class scores" in calibration_error(numbers).status.sentence
    one_hot = nn.functional.one_hot(torch.arange(20) % 2).double()
    scores = Objective(Echo(), nn.functional.mse_loss, (normal(20, 2), one_hot))
    assert "no probabilities" in calibration_error(scores).status.sentence
    assert "too few" in calibration_error(calibrated(3, 0, say=echo)).status.sentence
    broken = calibrated(50, 0, say=echo)
    broken.model.scale.data.fill_(math.nan)
    assert calibration_error(broken).status.state is State.NON_FINITE
    late = calibration_error(calibrated(50, 0, say=echo), budget=Budget(seconds=1e-9))
    assert late.status.state is State.OUT_OF_BUDGET
