"""The map from parameters to functions: the counts, the sampled shares, every instrument."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.functions import boolean_map
from geartrain.zoo.functions.boolean_map import ALWAYS_0, ALWAYS_1, PARITY, POINTS, BooleanMap, owners


def test_the_five_counts_of_the_enumeration():
    counts = owners()
    assert counts.sum() == 3**11 == 177_147
    assert np.count_nonzero(counts) == 220
    assert (counts[ALWAYS_0], counts[ALWAYS_1]) == (88_378, 41_204)
    assert counts[PARITY] == counts[255 - PARITY] == 0
    assert [PARITY >> i & 1 for i in range(8)] == (POINTS.sum(1) % 2).tolist()


def test_counts_are_those_of_running_every_network():
    np.testing.assert_array_equal(owners(), boolean_map._every_network())


def test_counts_do_not_depend_on_the_order_of_the_inputs():
    counts = owners()
    for order in itertools.permutations(range(3)):
        place = (POINTS[:, order] @ [4, 2, 1]).astype(int)  # number of the input with its bits exchanged
        swapped = [sum((f >> i & 1) << place[i] for i in range(8)) for f in range(256)]
        np.testing.assert_array_equal(counts[swapped], counts)


def test_sampled_shares_of_common_functions_are_the_enumerated_ones():
    toy = zoo.get("boolean-map")
    draws = torch.randint(-1, 2, (50_000, 11), generator=toy.generator()).numpy()
    found = np.bincount(boolean_map._run(draws), minlength=256) / 50_000
    common = np.argsort(owners())[::-1][:10]
    expected = owners()[common] / 3**11
    assert (np.abs(found[common] - expected) < 3 * np.sqrt(expected * (1 - expected) / 50_000)).all()


def test_larger_networks_are_lopsided_around_a_fair_mean():
    shares = BooleanMap().deep_shares(torch.Generator().manual_seed(0))
    assert shares.mean() == pytest.approx(0.5, abs=4 * shares.std() / len(shares) ** 0.5)
    assert ((shares == 0) | (shares == 1)).mean() > 0.1  # 2 of 2^32 functions


def test_every_instrument_meets_its_truth():
    assert_agrees(zoo.get("boolean-map"))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_networks(seed):
    network = tuple(int(w) for w in np.random.default_rng(seed).integers(-1, 2, 11))
    assert_agrees_in_part(zoo.get("boolean-map", network=network, bits=3 + seed), count=12)


def test_truths_hold_for_a_network_of_zeros():
    toy = zoo.get("boolean-map", network=(0,) * 11)
    assert np.isnan(toy.truth["walsh_spectrum"].value).all()
    assert_agrees_in_part(toy, count=16)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": (1, 2)}, "11 numbers, each -1, 0 or 1"),
        ({"network": (2,) * 11}, "11 numbers, each -1, 0 or 1"),
        ({"samples": 10}, "samples is 10; allowed: 100 or more"),
        ({"bits": 9}, "bits is 9; allowed: 2 to 8"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("boolean-map", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("boolean-map"))
