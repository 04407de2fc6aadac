"""Entropy-coded size: the code by its definition, known distributions, bounds, relations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.bowls import bowl, generator
from tests.training_toys import classifier

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import bits_per_parameter, entropy_coded_size
from geartrain.instruments.complexity.entropy_coded_size import HEADER, krichevsky_trofimov
from geartrain.records import State


def stored(weights) -> gt.Objective:
    """Half the squared distance from these weights, at them."""
    w = torch.as_tensor(weights).double()
    model = bowl(torch.ones(len(w)), x=w).model
    return gt.Objective(
        model, lambda out, y: 0.5 * ((out - y) ** 2).sum(), (torch.ones_like(w)[None], w[None].clone())
    )


def test_the_code_is_the_product_of_its_predictions():
    symbols, k = [0, 2, 2, 1, 0, 2, 2, 2], 4
    seen, bits = np.zeros(k), 0.0
    for s in symbols:
        bits -= math.log2((seen[s] + 0.5) / (seen.sum() + k / 2))
        seen[s] += 1
    assert krichevsky_trofimov(np.array([2.0, 1.0, 5.0]), k) == pytest.approx(bits)


def test_two_values_in_known_shares():
    """n h(p) bits, and about ½ log₂ n for learning p."""
    n, ones = 4096, 410
    weights = torch.zeros(n).double()
    weights[:ones] = 1.0
    result = entropy_coded_size(stored(weights), bits=1, generator=generator())
    p = ones / n
    entropy = -n * (p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert result.details["entropy"] == pytest.approx(entropy)
    # With one bit and a random shift the values may also fall two steps apart: one more possible symbol, unused.
    for symbols in (2, 3):
        exact = krichevsky_trofimov(np.array([n - ones, ones]), symbols) + HEADER
        if abs(float(result) - exact) < 1:
            break
    assert entropy + HEADER < float(result) < entropy + HEADER + 1.5 * math.log2(n)
    assert result.details["fixed_length"] == n
    assert result.details["raw"] == 64 * n


def test_uniform_weights_need_all_their_bits():
    """Uniform weights need b bits each, normal ones of the same range far fewer.

    A shift by u of a step leaves 2^b - 1 whole cells and two that share one: b + h(u) / 2^b bits, E h(u) = 1/(2 ln 2).
    Learning k frequencies takes (k - 1)/2 · log₂ n bits in all, but for a term of order k.
    """
    random = np.random.default_rng(0)
    flat = stored(random.uniform(-1, 1, 20_000))
    size = (float(entropy_coded_size(flat, bits=5, generator=generator())) - HEADER) / 20_000
    truth = 5 + 1 / (2 * math.log(2)) / 2**5 + 16 * math.log2(20_000) / 20_000
    assert size == pytest.approx(truth, abs=0.01)
    normal = random.standard_normal(20_000)
    width = normal.max() - normal.min()
    size = (float(entropy_coded_size(stored(normal), bits=6, generator=generator())) - HEADER) / 20_000
    # Entropy of a normal in steps Δ: ½ log₂(2πe) - log₂ Δ.
    assert size == pytest.approx(0.5 * math.log2(2 * math.pi * math.e) - math.log2(width / 2**6), abs=0.05)


def test_scaling_weights_keeps_the_size():
    weights = np.random.default_rng(1).standard_normal(300)
    sizes = [float(entropy_coded_size(stored(f * weights), bits=4, generator=generator())) for f in (1, 1e-3)]
    assert sizes[0] == pytest.approx(sizes[1])


def test_a_rise_finds_the_grid_and_layers_add_up():
    run = classifier()
    run.advance(40)
    objective = run.objective()
    result = entropy_coded_size(objective, generator=generator())
    assert result.details["bits"] == pytest.approx(
        float(bits_per_parameter(objective, generator=generator()))
    )
    assert sum(result.details["by_layer"].values()) == pytest.approx(float(result))
    assert result.details["entropy"] + 4 * HEADER < float(result)
    assert result.details["ratio"] == pytest.approx(32 * objective.num_params / float(result))
    assert result.cost.forwards == entropy_coded_size.spec.price(objective).forwards


def test_a_codebook_pays_for_its_values():
    weights = [0.0, 1.0] * 50
    result = entropy_coded_size(stored(weights), bits=1, method="codebook")
    assert result.status.state is State.EXACT
    exact = krichevsky_trofimov(np.array([50.0, 50.0]), 2) + HEADER + 64
    assert float(result) == pytest.approx(exact)


def test_budget_and_refusals():
    objective = stored([0.1, 0.2, 0.5])
    assert entropy_coded_size(objective, budget=0).status.state is State.OUT_OF_BUDGET
    assert entropy_coded_size(objective, budget=2).status.state is State.OUT_OF_BUDGET
    assert "16 bits" in entropy_coded_size(objective, rise=1e-300).status.sentence
    with pytest.raises(InputError, match="bits is 0; allowed: above 0 and at most 24"):
        entropy_coded_size(objective, bits=0)
    with pytest.raises(InputError, match="samples is 1; at least 2"):
        entropy_coded_size(objective, samples=1)
