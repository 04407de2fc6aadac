"""Margins: quantiles of known ones, distances to the boundary of linear networks, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from tests.made import Next, linear, normal, objective_of, sequence_loss, words
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import margin_distribution
from geartrain.instruments.function.margin_distribution import LEVELS, quantile
from geartrain.objective import Objective


def test_known_margins():
    x = torch.arange(1.0, 102.0).double()[:, None]
    objective = objective_of(x, torch.zeros(101).long(), linear([1.0], [0.0], [-5.0]))
    result = margin_distribution(objective)
    np.testing.assert_allclose(result.value, 1 + 100 * np.array(LEVELS))
    assert result.coords["point"] == ["5%", "25%", "50%", "75%", "95%"]
    assert result.details["smallest"] == 1
    assert result.details["negative"] == 0
    assert result.cost.forwards == margin_distribution.spec.price(objective).forwards == 1


def test_distances_to_the_boundary_of_a_linear_network():
    x, w = normal(200, 3), torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 2.0]]).double()
    y = (x[:, 0] > 0).long()
    result = margin_distribution(objective_of(x, y, linear(*w.tolist())), "input")
    normal_vector = (w[0] - w[1]).numpy()
    signed = (x.numpy() @ normal_vector) * np.where(y.numpy() == 0, 1, -1) / np.linalg.norm(normal_vector)
    size = math.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())
    assert result.details["input_scale"] == pytest.approx(size)
    np.testing.assert_allclose(result.value, np.quantile(signed / size, LEVELS), rtol=1e-10)
    assert (result.cost.forwards, result.cost.gradients) == (1, 1)
    assert margin_distribution.spec.price(None, "input").gradients == 1


def test_scaling_the_head_scales_outputs_and_not_distances():
    x, y = normal(80, 3), torch.arange(80) % 3
    weights = normal(3, 3, seed=2)
    one, nine = (objective_of(x, y, linear(*(f * weights).tolist())) for f in (1.0, 9.0))
    np.testing.assert_allclose(margin_distribution(nine).value, 9 * margin_distribution(one).value)
    inner = [margin_distribution(o, "input").value for o in (one, nine)]
    np.testing.assert_allclose(inner[0], inner[1])
    yes_no = Objective(
        linear((weights[1] - weights[0]).tolist()),
        nn.functional.binary_cross_entropy_with_logits,
        (x, (y == 1).double()[:, None]),
    )
    two = objective_of(x, (y == 1).long(), linear(*weights[:2].tolist()))
    for space in ("output", "input"):
        np.testing.assert_allclose(
            margin_distribution(yes_no, space).value, margin_distribution(two, space).value, rtol=1e-9
        )


@pytest.mark.parametrize("places", [1, 3])
def test_coverage(places):
    held = np.zeros(len(LEVELS))
    truth = norm.ppf(LEVELS)
    groups = np.repeat(np.arange(100), places)
    for seed in range(200):
        values = np.repeat(np.random.default_rng(seed).normal(size=100), places)
        found = np.array([quantile(values, level, groups) for level in LEVELS])
        held += np.abs(found[:, 0] - truth) <= 2 * found[:, 1]
    # Of 100 values five lie below the 5 % quantile: its interval is promised at 90 %, the others at 95.
    assert np.all(held >= binom.ppf(0.001, 200, [0.90, 0.95, 0.95, 0.95, 0.90]))


def test_tokens_have_output_margins_only():
    objective = Objective(Next(), sequence_loss, words(20))
    assert margin_distribution(objective).details["rows"] == 180
    assert "use space='output'" in margin_distribution(objective, "input").status.sentence
    with pytest.raises(InputError, match="space is 'weight'; allowed: 'output' or 'input'"):
        margin_distribution(objective, "weight")
    assert not margin_distribution(objective_of(normal(20, 2), normal(20, 1))).status.usable
