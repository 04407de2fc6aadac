"""Distribution shift: closed-form AUC, no shift, changed scale, labels, tokens, relations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tests.made import Next, normal, run_of, same, seeded, sequence_loss, words

from geartrain.instruments import distribution_shift
from geartrain.records import State
from geartrain.run import Run


def shifted(gap: float, *, scale: float = 1.0, examples: int = 900, features: int = 3, seed: int = 0) -> Run:
    x = normal(2 * examples, features, seed=seed)
    held = scale * x[examples:]
    held[:, 0] += gap
    return run_of((x[:examples], x[:examples, :1]), (held, held[:, :1]))


@pytest.mark.parametrize("gap", [0.5, 1.0, 3.0])
def test_two_gaussians(gap):
    # The best score is linear: AUC = Φ(gap / √2). Estimating the direction costs a little.
    result = distribution_shift(shifted(gap))
    truth = norm.cdf(gap / math.sqrt(2))
    assert truth - 0.02 - 4 * result.standard_error < result.value < truth + 4 * result.standard_error


def test_no_shift_is_one_half_within_its_error():
    results = [distribution_shift(shifted(0.0, examples=120, features=6, seed=s)) for s in range(40)]
    values = np.array([r.value for r in results])
    assert abs(values.mean() - 0.5) < 4 * values.std(ddof=1) / math.sqrt(40)
    z = (values - 0.5) / [r.standard_error for r in results]
    assert np.mean(np.abs(z) < 2.5) >= 0.9


def test_a_changed_scale_is_seen():
    assert distribution_shift(shifted(0.0, scale=2.0)).value > 0.75
    assert distribution_shift(shifted(0.0, scale=1 / 255)).value > 0.95


def test_relations():
    run = shifted(0.7, examples=200)
    value = distribution_shift(run).value
    (x, y), (held, held_y) = run.train_data, run.validation_data
    scales = torch.tensor([1.0, 1e4, 1e-4]).double()
    rescaled = distribution_shift(run_of((x * scales, y), (held * scales, held_y))).value
    assert rescaled == pytest.approx(value, abs=0.02)
    swapped = distribution_shift(run_of((held, held_y), (x, y))).value
    assert swapped == pytest.approx(value, abs=0.03)


def test_labels_that_moved():
    x = normal(200, 2)
    labels = torch.tensor([0, 1]).repeat(50)
    rare = torch.tensor([0, 0, 0, 1]).repeat(25)
    details = distribution_shift(run_of((x[:100], labels), (x[100:], rare))).details
    assert details["label_shift"] == pytest.approx(0.25)
    assert details["label_shift_null"] < 0.1
    assert math.isnan(distribution_shift(shifted(0.0)).details["label_shift"])


def test_tokens():
    first, second = words(200, 12), words(200, 12, seed=1)
    alike = distribution_shift(run_of(first, second, Next(), sequence_loss))
    assert abs(alike.value - 0.5) < 4 * alike.standard_error
    assert alike.details["token_shift"] < 2 * alike.details["token_shift_null"]
    other = tuple(torch.where(t == 0, 1, t) for t in second)
    moved = distribution_shift(run_of(first, other, Next(), sequence_loss))
    assert moved.value > 0.8
    # All of word 0 has become word 1: total variation = the share of word 0, about 1/7.
    assert moved.details["token_shift"] == pytest.approx(1 / 7, abs=0.03)


def test_different_lengths_are_compared_by_their_summaries():
    x, held = normal(60, 3), 5 + normal(60, 4)
    result = distribution_shift(run_of((x, x[:, :1]), (held, held[:, :1])))
    assert result.value == 1.0


def test_generator():
    run = shifted(0.3, examples=60)
    values = [distribution_shift(run, generator=seeded(s)).value for s in (1, 1, 2)]
    assert same(values[0], values[1])
    assert values[0] != values[2]


def test_not_applicable():
    x = normal(30, 2)
    assert distribution_shift(run_of((x, x))).status.state is State.NOT_APPLICABLE
    assert not distribution_shift(run_of((x, x), (x[:5], x[:5]))).status.usable
