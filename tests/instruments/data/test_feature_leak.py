"""Feature leak: planted leaks, chance level, copies, relations."""

from __future__ import annotations

import math

import pytest
import torch
from tests.made import Next, normal, run_of, seeded, sequence_loss, words
from torch.nn import functional

from geartrain import datasets
from geartrain.instruments import feature_leak
from geartrain.records import State


def labelled(examples: int = 600, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return normal(examples, 5, seed=11), torch.randint(classes, (examples,), generator=seeded(12))


def test_the_label_among_the_features():
    x, y = labelled()
    x[:, 3] = 0.01 * y - 5
    result = feature_leak(run_of((x, y)))
    assert result.value == 1
    assert result.details["feature"] == 3
    assert result.details["runner_up"] < 0.2
    assert result.details["lead"] > 0.8


def test_nothing_to_leak():
    result = feature_leak(run_of(labelled()))
    # The best of five at chance level; standard deviation of a balanced accuracy is about 0.02.
    assert result.value < 0.12
    assert result.details["one_class_power"] < 0.25


def test_a_known_share():
    # The feature is the label with probability 0.6, else one of the four at random: right with 0.7.
    x, y = labelled(1000)
    known = torch.rand(1000, generator=seeded(13)) < 0.6
    x[:, 0] = torch.where(known, y, torch.randint(4, (1000,), generator=seeded(14))).double()
    result = feature_leak(run_of((x, y)))
    assert abs(result.value - 0.6) < 4 * result.standard_error


def test_a_one_hot_code_of_the_label():
    x, y = labelled(1000, 8)
    result = feature_leak(run_of((torch.cat([x, functional.one_hot(y).double()], 1), y)))
    assert result.value < 0.3
    assert result.details["one_class_power"] == pytest.approx(1)


def test_numbers():
    x, _ = labelled()
    target = normal(600, 1, seed=15)
    x[:, 2] = target[:, 0] ** 3
    result = feature_leak(run_of((x, target)))
    assert result.value > 0.98
    assert result.details["feature"] == 2
    noisy = target + normal(600, 1, seed=16)
    half = feature_leak(run_of((x, noisy)))
    assert abs(half.value - 0.5) < 0.1
    assert math.isnan(half.details["one_class_power"])


def test_honest_digits():
    data = datasets.digits.load()
    details = feature_leak(run_of(data.train, data.validation)).details
    assert details["duplicate_share"] == 0
    assert details["one_class_power"] < 0.8
    assert details["lead"] < 0.1


def test_monotone_changes_and_order_do_not_matter():
    x, y = labelled()
    x[:, 1] += y
    value = feature_leak(run_of((x, y))).value
    changed = x.clone()
    changed[:, 1] = x[:, 1].exp() * 1000
    assert feature_leak(run_of((changed, y))).value == pytest.approx(value, abs=0.03)
    assert feature_leak(run_of((x[:, [1, 0, 2, 3, 4]], (y + 1) % 4))).value == pytest.approx(value, abs=1e-12)


def test_copies_in_the_validation_data():
    x, y = labelled()
    held = torch.cat([x[:30], normal(70, 5, seed=17)]), y[:100]
    assert feature_leak(run_of((x, y), held)).details["duplicate_share"] == pytest.approx(0.3)
    assert math.isnan(feature_leak(run_of((x, y))).details["duplicate_share"])


def test_tokens_have_copies_only():
    text, other = words(), words(seed=1)
    held = tuple(torch.cat([a[:10], b[:10]]) for a, b in zip(text, other, strict=True))
    result = feature_leak(run_of(text, held, Next(), sequence_loss))
    assert result.status.state is State.NOT_APPLICABLE
    assert result.details["duplicate_share"] == pytest.approx(0.5)


def test_not_applicable_without_varying_targets():
    assert not feature_leak(run_of((normal(40, 2), torch.zeros(40, dtype=torch.long)))).status.usable


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_targets_that_are_the_inputs_are_no_leak(noise):
    """Autoencoders, denoising ones too: that every feature tells its own target is the task."""
    x = normal(300, 6, seed=3)
    result = feature_leak(run_of((x + noise * normal(300, 6, seed=4), x)))
    assert result.status.state is State.NOT_APPLICABLE
    assert "themselves" in result.status.sentence
    assert feature_leak(run_of((x, x.roll(1, dims=1)))).value > 0.9
