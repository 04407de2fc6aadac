"""Walking or jumping: lag exponents, what successive steps say, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import instruments, zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.walk_or_jump import WalkOrJump


@pytest.mark.parametrize(("kind", "exponent"), [("walk", 1.0), ("jump", 0.0)])
@pytest.mark.parametrize("seed", range(3))
def test_the_lag_exponent_tells_them_apart(kind, exponent, seed):
    path = WalkOrJump(kind=kind, dimension=1000, seed=seed).places(100)
    lags = np.array([1, 2, 4, 8, 16])
    msd = [((path[k:] - path[:-k]) ** 2).sum(1).mean() for k in lags]
    assert np.polyfit(np.log(lags), np.log(msd), 1)[0] == pytest.approx(exponent, abs=0.05)


@pytest.mark.parametrize("kind", ["walk", "jump"])
def test_lengths_of_steps_are_even_in_both(kind):
    path = WalkOrJump(kind=kind, dimension=2000).places(60)
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    # A length varies by 1/√(2d), for jumps by a little more.
    assert lengths.std() / lengths.mean() < 2 / np.sqrt(4000)


def test_looking_does_not_move_it():
    seen, alone = WalkOrJump(dimension=500), WalkOrJump(dimension=500)
    instruments.update_cosine(seen.run)
    np.testing.assert_array_equal(seen.places(5), alone.places(5))
    seen.run.advance(3)
    instruments.update_norm(seen.run)
    alone.run.advance(3)
    for a, b in zip(seen.run.model.parameters(), alone.run.model.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


@pytest.mark.parametrize("kind", ["walk", "jump"])
def test_every_instrument_meets_its_truth(kind):
    assert_agrees(WalkOrJump(kind=kind))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    kind = "walk" if seed % 2 else "jump"
    size, dimension = float(np.exp(draw.uniform(-5, 3))), int(draw.integers(500, 5000))
    assert_agrees_in_part(WalkOrJump(kind=kind, size=size, dimension=dimension, seed=seed))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "run"}, "kind is 'run'; allowed: 'walk' or 'jump'"),
        ({"dimension": 3}, "dimension is 3 and size 0.1; allowed: 400 to 100000"),
        ({"size": 0.0}, "size 0.0; allowed"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("walk-or-jump", **wrong)


def test_it_can_be_drawn():
    assert_draws(WalkOrJump(dimension=500))
