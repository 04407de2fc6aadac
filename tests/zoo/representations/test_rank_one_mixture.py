"""A mixture of rank-one machines: additivity, the fewest components, recovery, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.representations.rank_one_mixture import RankOneMixture, repelled


def test_the_components_are_as_planted():
    toy = RankOneMixture()
    u, v = toy.parts
    assert u.shape == v.shape == (64, 32)
    for rows in (u, v):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-12)
        assert np.abs(rows @ rows.T - np.eye(64)).max() < 0.5
    np.testing.assert_allclose(toy.weight, sum(np.outer(a, b) for a, b in zip(u, v, strict=True)), atol=1e-12)


def test_gates_open_as_often_as_promised():
    toy = RankOneMixture(gates=3.0)
    counts = (toy.draws(20_000, torch.Generator().manual_seed(1))[1] > 0).sum(1)
    assert abs(counts.mean() - 3) < 4 * np.sqrt(3 * (1 - 3 / 64) / 20_000)


def test_dense_inputs_hide_the_parts():
    """With six gates open in the mean, hardly any input has a single one: recovery must fail, and says so."""
    toy = RankOneMixture(dimension=16, components=32, samples=1000)
    object.__setattr__(toy, "gates", 8.0)
    assert float(toy._recover(torch.Generator().manual_seed(0))) < 0.95


def test_too_many_directions_are_refused():
    with pytest.raises(InputError, match="12 unit vectors in 2 dimensions did not come apart"):
        repelled(12, 2, torch.Generator().manual_seed(0))


def test_every_instrument_meets_its_truth():
    assert_agrees(RankOneMixture())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    dimension = int(draw.integers(6, 14))
    toy = RankOneMixture(
        seed=seed,
        dimension=dimension,
        components=int(draw.integers(6, dimension + 3)),
        gates=draw.uniform(1, 2.5),
        share=draw.uniform(0.2, 1),
    )
    assert_agrees_in_part(toy, set(toy.truth) - {"loss_plane"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimension": 3}, "dimension is 3, components 64; allowed: 4 to 40, and 4 to twice"),
        ({"gates": 0.0}, "gates is 0.0, share 0.5; allowed: ½ to 4"),
        ({"samples": 10}, "samples is 10; allowed: 1000 or more"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        RankOneMixture.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(RankOneMixture())
