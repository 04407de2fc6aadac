"""Forgetting and learning speed: weights that flip or grow by a known law, both read from one replay."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.made import Next, linear, sequence_loss, words
from tests.training_toys import classifier, fingerprint, fragile_run
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import example_forgetting, label_memorisation, learning_speed
from geartrain.instruments.data import _learning
from geartrain.instruments.data.example_forgetting import forgetting_events
from geartrain.instruments.data.learning_speed import _answer, learnt_at
from geartrain.records import State
from geartrain.run import Run


def flipping() -> Run:
    """w = 1, -1, 1, ...: outputs change sign at every step (η λ = 2); one example has input 0 and is never right."""
    x, y = torch.tensor([[1.0], [3.0], [-2.0], [0.0]]), torch.tensor([[1.0], [1.0], [1.0], [1.0]])
    loss = lambda out, y: (out[0] ** 2).mean()  # noqa: E731
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    return Run(model, loss, torch.optim.SGD(model.parameters(), 1.0), (x, y), batch_size=4, shuffle=False)


def growing(inputs: list[float], labels: list[float] | None = None) -> Run:
    """w_t = 1 - 2^-t."""
    x = torch.tensor(inputs).double()[:, None]
    y = torch.tensor(labels or [1.0] * len(inputs)).double()[:, None]
    loss = lambda out, y: (out[0, 0] / x[0, 0] - 1) ** 2  # noqa: E731
    model = linear([0.0])
    return Run(
        model, loss, torch.optim.SGD(model.parameters(), 0.25), (x, y), batch_size=len(x), shuffle=False
    )


@pytest.mark.parametrize("steps", [1, 6, 9])
def test_flipping_weights_forget_at_every_other_step(steps):
    result = example_forgetting(flipping(), steps=steps, every=1)
    # Right at even steps (x > 0) or at odd ones (x < 0); an input of 0 never.
    even, odd = math.ceil(steps / 2), steps // 2
    assert result.details["events"].tolist() == [even, even, odd, 0]
    assert float(result) == pytest.approx((2 * even + odd) / 4)
    assert result.details["never_learnt"] == 0.25
    assert result.standard_error == pytest.approx(np.std([even, even, odd, 0], ddof=1) / 2)


def test_rare_looks_miss_what_happens_in_between():
    assert float(example_forgetting(flipping(), steps=8, every=2)) == 0
    assert float(example_forgetting(flipping(), steps=8, every=1)) == 3.0


def test_growing_weights_learn_in_the_order_of_their_inputs():
    """Right once (1 - 2^-t) x > ½: after t = -log₂(1 - 1/(2x)) steps."""
    inputs = [4.0, 0.51, 0.6, 1.01, 0.4, 0.0]
    run = growing(inputs, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    result = learning_speed(run, steps=12, every=1)
    truth = [math.ceil(-math.log2(1 - 1 / (2 * x))) for x in inputs[:4]]
    assert result.details["step"].tolist() == [*truth, math.inf, 0.0]
    assert result.details["first"][:5] == (5, 0, 3, 2, 1)
    assert result.details["last"][0] == 4
    assert result.details["never"] == pytest.approx(1 / 6)
    assert float(result) == sorted([*truth, math.inf, 0.0])[2]
    assert float(example_forgetting(run, steps=12, every=1)) == 0


def test_flipping_weights_never_learn_for_good():
    result = learning_speed(flipping(), steps=7, every=1)
    assert result.details["step"].tolist() == [math.inf, math.inf, 7.0, math.inf]
    assert result.status.state is State.NOT_CONVERGED
    assert float(result) == 7
    assert math.isnan(result.standard_error)


def test_both_numbers_of_one_replay_agree():
    """Learnt for good without an event = right from the first right look on."""
    run = classifier()
    run.advance(30)
    taken = _learning.replay(run, 40, 2, "origin", 96, _clock())
    assert taken is not None
    events = example_forgetting(run, learning=taken).details["events"]
    step = learning_speed(run, learning=taken).details["step"]
    for e, s, column in zip(events, step, taken.correct.T, strict=True):
        changes = int((column[:-1] != column[1:]).sum())
        assert changes == 2 * e + (int(column[-1]) - int(column[0]))
        if math.isfinite(s):
            assert column[taken.steps >= s].all()


def _clock():
    from geartrain.budget import Budget

    return Budget().start()


def test_the_errors_cover_over_seeds():
    """Items are independent: events binomial, times geometric; 200 data sets of 80 items."""
    random = np.random.default_rng(0)
    hit = {"events": 0, "speed": 0}
    steps = np.arange(60)
    median = math.ceil(math.log(0.5) / math.log(0.9))  # geometric: P(T > t) = 0.9^t
    for _ in range(200):
        correct = random.random((21, 80)) < 0.5
        events = forgetting_events(correct).astype(float)
        hit["events"] += abs(events.mean() - 20 / 4) <= 2 * events.std(ddof=1) / math.sqrt(80)
        times = random.geometric(0.1, size=80)
        right = steps[:, None] >= times[None, :]
        taken = _learning.Learning(steps, right, np.arange(80), True)
        result = _answer(learnt_at(right, steps), taken)
        hit["speed"] += abs(float(result) - median) <= 2 * result.standard_error
    assert hit["events"] >= binom.ppf(0.001, 200, 0.95)
    assert hit["speed"] >= binom.ppf(0.001, 200, 0.95)


def test_replay_from_the_origin_repeats_what_happened():
    run, twin = classifier(), classifier()
    run.advance(20)
    first = learning_speed(run, steps=20, every=5).details["step"]
    second = learning_speed(twin, steps=20, every=5).details["step"]
    np.testing.assert_array_equal(first, second)
    here = learning_speed(run, steps=20, every=5, start="here").details["step"]
    assert (here <= first).mean() > 0.8


@pytest.mark.parametrize("instrument", [example_forgetting, learning_speed])
def test_the_run_is_put_back(instrument):
    torch.manual_seed(3)
    run = fragile_run()
    run.advance(4)
    before = fingerprint(run)
    assert instrument(run, steps=6).status.usable
    assert fingerprint(run) == before


@pytest.mark.parametrize("instrument", [example_forgetting, learning_speed, label_memorisation])
def test_a_run_that_was_never_trained_has_no_beginning_yet(instrument):
    run = classifier()
    assert instrument(run, steps=3).status.usable
    assert run.origin is None
    assert run.stream.num_examples == 96


def test_every_place_of_a_sequence_is_an_item():
    model = Next()
    run = Run(model, sequence_loss, torch.optim.SGD(model.parameters(), 0.1), words(), batch_size=10)
    result = example_forgetting(run, steps=4, every=2)
    assert len(result.details["events"]) == 40 * 9
    assert result.details["examples"][:10].tolist() == [0] * 9 + [1]


def test_the_numbers_of_the_examples_are_those_of_the_data():
    inputs = torch.arange(600.0)[:, None]
    run = Run(
        model := nn.Linear(1, 1),
        nn.functional.mse_loss,
        torch.optim.SGD(model.parameters(), 1e-9),
        (inputs, (inputs > 300).float()),
        batch_size=100,
    )
    numbers = _learning.numbers_of(run, 100, 100)
    assert torch.equal(run.probe("train", 100)[0][:, 0], inputs[numbers, 0])


def test_cost_budget_not_applicable_refusals():
    run = classifier()
    run.advance(2)
    for instrument in (example_forgetting, learning_speed):
        result = instrument(run)
        price = instrument.spec.price(run)
        assert result.cost.gradients == price.gradients == 64
        assert result.cost.forwards == pytest.approx(price.forwards)
        assert instrument(run, budget=0).status.state is State.OUT_OF_BUDGET
        cut = instrument(run, budget=10)
        assert cut.status.state is State.OUT_OF_BUDGET
        assert cut.cost.gradients <= 22
        with pytest.raises(InputError, match="start is 'end'; allowed: 'origin'"):
            instrument(run, start="end")
        with pytest.raises(InputError, match="steps is 0 and every None; both must be"):
            instrument(run, steps=0)
        x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
        model = nn.Linear(2, 1)
        numbers = Run(
            model,
            nn.functional.mse_loss,
            torch.optim.SGD(model.parameters(), 0.1),
            (x, x[:, :1]),
            batch_size=5,
        )
        assert "no example is right or wrong" in instrument(numbers).status.sentence
