"""Modular addition: accuracy, exact means of the logits, spectra of the layers, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.functions.modular_addition import ModularAddition, squared_singular_values


@pytest.mark.parametrize("p", [23, 53])
def test_every_answer_is_right_with_500_neurons(p):
    toy = ModularAddition(p=p)
    outputs = toy.objective.outputs().numpy()
    right = toy.pairs.sum(1) % p
    assert (outputs.argmax(1) == right).all()
    assert outputs[np.arange(p * p), right].mean() / 500 == pytest.approx(0.5, abs=1e-9)
    np.testing.assert_allclose(outputs, toy.logits.reshape(p * p, p), atol=1e-9)


def test_every_answer_is_right_for_the_largest_prime():
    assert ModularAddition(p=113).right_share == 1.0


def test_too_few_neurons_make_mistakes():
    toy = ModularAddition(neurons=10)
    assert toy.right_share < 1
    assert "selective_risk" not in toy.truth


def test_mean_logits_are_exact_for_any_phases():
    toy = ModularAddition(p=13, neurons=7, seed=5)
    a, b, c = np.indices(toy.logits.shape)
    right = (a + b - c) % 13 == 0
    assert toy.logits[right].mean() == pytest.approx(3.5, abs=1e-12)
    assert toy.logits[~right].mean() == pytest.approx(-7 / 24, abs=1e-12)


def test_expected_wrong_logit_over_the_phases_is_half_a_sum_of_cosines():
    p, k = 7, np.array([2])
    found = []
    for seed in range(2000):
        toy = ModularAddition(p=p, neurons=1, frequencies=2, seed=seed)
        if toy.waves[0][0] == k:
            found.append(toy.logits[1, 3])  # a + b = 4
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / len(found) ** 0.5
    expected = 0.5 * np.cos(2 * np.pi / p * k * (4 - np.arange(p)))
    assert (np.abs(mean - expected) < 4 * error).all()


@pytest.mark.parametrize("seed", range(3))
def test_spectrum_of_the_waves(seed):
    toy = ModularAddition(p=11, neurons=20, seed=seed)
    k, phi, _ = toy.waves
    expected = np.sort(squared_singular_values(11, k, phi))[::-1]
    found = np.linalg.svd(toy.tables[0], compute_uv=False) ** 2
    np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-10)
    np.testing.assert_allclose(found[len(expected) :], 0, atol=1e-10)


def test_every_instrument_meets_its_truth():
    assert_agrees(zoo.get("modular-addition"))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    p = int(draw.choice([5, 7, 11, 13, 17]))
    frequencies = int(draw.integers(1, (p - 1) // 2 + 1))
    neurons = int(draw.integers(1, 200))
    assert_agrees_in_part(
        zoo.get("modular-addition", p=p, neurons=neurons, frequencies=frequencies, seed=seed)
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"p": 9}, "p is 9; allowed: primes from 5 to 113"),
        ({"p": 3}, "p is 3; allowed: primes from 5 to 113"),
        ({"neurons": 0}, "neurons is 0; allowed: 1 or more"),
        ({"frequencies": 12}, r"frequencies is 12; allowed: 1 to \(p - 1\)/2 = 11"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("modular-addition", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("modular-addition"))
