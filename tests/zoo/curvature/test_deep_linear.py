"""The deep linear network: Saxe's curves, conservation, the feature ansatz, every instrument."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.curvature.deep_linear import DeepLinear


def test_the_reference_trajectory():
    toy = DeepLinear(strengths=(2.0,))
    assert toy.mode_strengths(2.5)[0] == pytest.approx(1.83359, rel=1e-5)
    assert toy.mode_strengths(3.5)[0] == pytest.approx(1.99668, rel=1e-5)
    assert toy.half_times()[0] == pytest.approx(1.90010, rel=1e-5)
    learnt = toy.descend(3500)[:, 0] ** 2
    assert learnt[2500] == pytest.approx(1.83359, rel=2e-3)  # descent lags behind flow by O(η)
    assert learnt[3500] == pytest.approx(1.99668, rel=1e-3)


def test_descent_is_what_pytorch_does():
    toy = DeepLinear(depth=3, start=0.1, step=0.01)
    run = toy.make_run()
    run.advance(50)
    trained = [p.detach().numpy() for p in run.model.parameters()]
    expected = toy.chain(toy.descend(50)[-1]).weights
    for mine, theirs in zip(trained, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-13)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_integral_of_the_flow_gives_its_half_times(depth):
    toy = DeepLinear(depth=depth, start=0.02)
    for k, half in enumerate(toy.half_times()):
        assert toy.mode_strengths(half)[k] == pytest.approx(toy.strengths[k] / 2, rel=1e-6)


def test_balance_drifts_with_the_step_only():
    drifts = []
    for step in (2e-2, 1e-2):
        toy = DeepLinear(depth=3, start=0.1, step=step, seed=1)
        # Unbalanced on purpose: balance of aligned modes is kept to rounding.
        weights = tuple(w * f for w, f in zip(toy.at_start.weights, (1.5, 1.0, 0.7), strict=True))
        chain = type(toy.at_start)(toy.at_start.inputs, toy.at_start.targets, weights)
        run = chain.run(step, 1000)
        balance = [w[1].T @ w[1] - w[0] @ w[0].T for w in (weights,)]
        run.advance(round(2.0 / step))
        after = [p.detach().numpy() for p in run.model.parameters()]
        drifts.append(np.linalg.norm(after[1].T @ after[1] - after[0] @ after[0].T - balance[0]))
    assert drifts[0] / drifts[1] == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("depth", [2, 4])
def test_the_feature_ansatz_holds_for_balanced_nets(depth):
    now = DeepLinear(depth=depth, start=0.05, time=3.0).now
    for layer, (after, _) in enumerate(now.sides):
        w = now.weights[layer]
        outer = (after @ w).T @ (after @ w)  # of the function's derivative in the layer's input
        values, vectors = np.linalg.eigh(outer)
        root = (vectors * values.clip(0) ** (1 / (depth - layer))) @ vectors.T
        np.testing.assert_allclose(w.T @ w, root, atol=1e-10)
        np.testing.assert_allclose(
            after.T @ after, np.linalg.matrix_power(w @ w.T, depth - 1 - layer), atol=1e-10
        )


def test_every_instrument_meets_its_truth():
    assert_agrees(DeepLinear())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    start = draw.uniform(0.01, 0.2)
    strengths = tuple(float(s) for s in draw.uniform(0.5, 2.0, size=int(draw.integers(2, 5))))
    toy = DeepLinear(depth=int(draw.integers(2, 5)), strengths=strengths, start=start, seed=seed)
    half = float(np.median(toy.half_times()))
    assert_agrees_in_part(replace(toy, time=half * draw.uniform(0.5, 1.2)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 1}, "depth is 1; allowed: 2 to 6"),
        ({"strengths": (0.0005,)}, "numbers above the start"),
        ({"start": 0.0}, "never leaves its saddle"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        DeepLinear(**wrong)


def test_it_can_be_drawn():
    assert_draws(DeepLinear(step=0.01))
