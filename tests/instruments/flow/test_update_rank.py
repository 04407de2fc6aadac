"""Rank of updates: at most the batch, exactly one for one example, sign updates, relations, refusals."""

from __future__ import annotations

import numpy as np
import torch
from tests.training_toys import classifier, fingerprint, fragile_run, sgd_bowl
from torch import nn

from geartrain.instruments import _window, update_rank
from geartrain.records import State
from geartrain.run import Run


def double_classifier(**options: object) -> Run:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7)).double()
    x, y = torch.randn(64, 6).double(), torch.randn(64, 7).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    return Run(model, nn.functional.mse_loss, optimizer, (x, y), **{"batch_size": 8, **options})


def test_one_example_is_one_direction():
    result = update_rank(double_classifier(batch_size=1))
    # Rounding of the weights (1e-16) against updates of 1e-3 leaves singular values of 1e-12 or so.
    np.testing.assert_allclose(result.value, 1.0, atol=1e-8)
    np.testing.assert_allclose(result.details["stable_rank"], 1.0, atol=1e-12)
    assert result.coords["layer"] == ["0", "2"]


def test_at_most_the_batch():
    result = update_rank(double_classifier(batch_size=2))
    assert np.all(result.details["per_step"] <= 2 + 1e-6)
    assert np.all(result.details["per_step"] >= 1 - 1e-6)
    assert np.all(result.details["of_sum"] > 2)


def test_equals_the_definition():
    run = double_classifier()
    taken = _window.window(run, 16)
    result = update_rank(run)
    place = taken.layout.slices()["0.weight"]
    each = []
    for update in taken.updates:
        values = np.linalg.svd(update[place].reshape(8, 6).numpy(), compute_uv=False)
        shares = values / values.sum()
        each.append(np.exp(-(shares * np.log(shares)).sum()))
    assert abs(result.value[0] - np.mean(each)) < 1e-9
    assert abs(result.standard_error[0] - np.std(each, ddof=1) / 4) < 1e-9


def test_the_mean_and_its_error_over_seeds():
    # The error is that of a mean over steps: it covers the mean over many more steps of the same (nearly still) run.
    run = double_classifier()
    long = update_rank(run, steps=120).details["per_step"][:, 0]
    covered = []
    for seed in range(200):
        some = np.random.default_rng(seed).choice(long, 25)
        covered.append(abs(some.mean() - long.mean()) <= 2 * some.std(ddof=1) / 5)
    assert np.mean(covered) >= 0.88
    short = update_rank(run, steps=25)
    assert abs(short.value[0] - long.mean()) <= 4 * short.standard_error[0]


def test_the_learning_rate_does_not_matter_and_sign_updates_differ():
    slow = update_rank(double_classifier(), steps=1).value
    run = double_classifier()
    run.optimizer.param_groups[0]["lr"] = 1e-4
    np.testing.assert_allclose(update_rank(run, steps=1).value, slow, rtol=1e-6)
    signs = double_classifier()
    signs.replace_optimizer(torch.optim.Adam(signs.model.parameters(), lr=1e-3))
    assert np.all(update_rank(signs, steps=1).value > slow)


def test_the_run_is_as_it_was_and_the_window_is_shared():
    run = fragile_run()
    before = fingerprint(run)
    first = update_rank(run)
    assert first.cost.gradients == 48
    assert update_rank.spec.price(run).gradients == 48
    assert update_rank(run).cost.gradients == 0
    assert fingerprint(run) == before


def test_where_there_is_none():
    still = update_rank(sgd_bowl([1.0, 2.0], lr=0.0))
    assert still.status.state is State.NOT_APPLICABLE
    assert "None of 16 steps moved a matrix" in still.status.sentence
    assert update_rank(sgd_bowl([1.0], lr=1e300)).status.state is State.NON_FINITE
    assert update_rank(classifier(), steps=0).status.state is State.OUT_OF_BUDGET
    scale = nn.LayerNorm(3).double()
    x = torch.randn(8, 3).double()
    run = Run(
        scale, nn.functional.mse_loss, torch.optim.SGD(scale.parameters(), lr=0.1), (x, x), batch_size=8
    )
    assert "No parameter is a matrix" in update_rank(run).status.sentence
    one = update_rank(double_classifier(), steps=1)
    assert np.isnan(one.standard_error).all()
