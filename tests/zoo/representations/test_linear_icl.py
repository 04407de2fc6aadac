"""Linear regression in context: reference errors, the hand-set layer, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.representations.linear_icl import LinearIcl


@pytest.mark.parametrize(("d", "context", "least"), [(10, 20, 3.54839), (5, 10, 1.875)])
def test_the_reference_numbers(d, context, least):
    toy = LinearIcl(d=d, context=context)
    assert toy.error(toy.best_step) == pytest.approx(least, rel=1e-5)
    assert toy.error(0.0) == d
    assert_agrees(toy, {"error", "error_at_best_step", "error_of_least_squares", "mean_curvature"})


def test_the_layer_answers_like_a_step_of_gradient_descent():
    toy = LinearIcl(d=4, context=7, step=0.8)
    prompts, _, _ = toy.draws(20, torch.Generator().manual_seed(5))
    x, y, query = prompts[:, :-1, :-1].numpy(), prompts[:, :-1, -1].numpy(), prompts[:, -1, :-1].numpy()
    by_hand = [
        0.8 / 7 * sum(b * (a @ q) for a, b in zip(xs, ys, strict=True))
        for xs, ys, q in zip(x, y, query, strict=True)
    ]
    with torch.no_grad():
        np.testing.assert_allclose(toy.layer()(prompts)[:, 0].numpy(), by_hand, atol=1e-12)


def test_the_query_sees_no_answer():
    toy = LinearIcl()
    prompts = toy.data[0].clone()
    prompts[:, -1, -1] = 1e6
    with torch.no_grad():
        assert torch.equal(toy.layer()(prompts), toy.layer()(toy.data[0]))


def test_the_best_step_is_the_best():
    toy = LinearIcl(d=6, context=9)
    steps = np.linspace(0.01, 1.5, 1000)
    assert steps[np.argmin([toy.error(s) for s in steps])] == pytest.approx(toy.best_step, abs=2e-3)


def test_every_instrument_meets_its_truth():
    assert_agrees(LinearIcl())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = LinearIcl(
        seed=seed,
        d=int(draw.integers(2, 5)),
        context=int(draw.integers(2, 20)),
        step=draw.uniform(0.1, 1.5),
        prompts=int(draw.integers(20, 100)),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"d": 0}, "d is 0, context 10; allowed: d from 1 to 10"),
        ({"prompts": 3}, "prompts is 3, samples 20000; allowed: 4 to 100"),
        ({"step": 0.0}, "step is 0.0; allowed: above 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        LinearIcl.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(LinearIcl(samples=1000))
