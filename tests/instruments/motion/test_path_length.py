"""Path length: closed form on a bowl, the triangle inequality, history and window, moves from outside."""

from __future__ import annotations

import math

import pytest
import torch
from tests.training_toys import bowl_run, classifier, fingerprint, fragile_run, sgd_bowl

import geartrain as gt
from geartrain.instruments import _window, path_length
from geartrain.records import State


@pytest.mark.parametrize("product", [0.3, 0.9, 1.5, 1.9])
def test_one_mode_in_closed_form(product):
    run = sgd_bowl([1.0], lr=product)
    run.advance(9)
    m, a = 1 - product, abs(1 - product)
    result = path_length(run)
    assert float(result) == pytest.approx(product * (1 - a**9) / (1 - a), rel=1e-10)
    assert result.details["distance"] == pytest.approx(1 - m**9, rel=1e-10)
    ratio = (1 - m**9) / (1 - a**9) * (1 - a) / (1 - m)
    assert result.details["efficiency"] == pytest.approx(ratio, rel=1e-10)
    assert result.status.state is State.EXACT
    assert result.details["source"] == "history"
    assert result.cost.gradients == 0


def test_before_the_first_step_it_is_that_of_the_next_ones():
    run = sgd_bowl([1.0], lr=1.5)
    ahead = path_length(run, steps=9)
    assert ahead.details["source"] == "window"
    assert path_length.spec.price(run, steps=9).gradients == 27
    run.advance(9)
    assert float(path_length(run)) == pytest.approx(float(ahead), rel=1e-10)
    assert path_length.spec.price(run).gradients == 0


def test_a_random_walk_gains_the_root_of_its_steps():
    torch.manual_seed(0)
    run = bowl_run([1e-12] * 2000, lambda p: torch.optim.SGD(p, lr=1.0))
    plain = run.batch_loss
    run.batch_loss = lambda model, batch: (
        plain(model, batch) + (model.weight * torch.randn(2000).double()).sum()
    )
    run.advance(40)
    details = path_length(run).details
    # The angle between two of 2,000-dimensional steps is 90° within 1/√2000; 780 pairs.
    assert details["random_walk"] == pytest.approx(1 / math.sqrt(40), rel=1e-2)
    assert details["efficiency"] == pytest.approx(details["random_walk"], rel=0.05)


def test_gears_that_must_agree():
    run = classifier()
    run.advance(12)
    result = path_length(run)
    assert float(result) == pytest.approx(run.history.column("update_norm").sum())
    distance = gt.measure(run, "distance_from_init")["distance_from_init"]
    assert result.details["distance"] == pytest.approx(float(distance), rel=1e-6)
    assert float(distance) <= float(result)
    assert sum(result.details["halves"]) == pytest.approx(float(result))


def test_a_move_from_outside_is_noticed():
    run = sgd_bowl([1.0], lr=0.1)
    run.advance(3)
    with torch.no_grad():
        run.model.weight.add_(10)
    assert "something besides the optimizer moved" in path_length(run).status.sentence


def test_the_run_is_as_it_was():
    run = fragile_run()
    before = fingerprint(run)
    path_length(run)
    assert fingerprint(run) == before


def test_a_given_window():
    run = classifier()
    run.advance(3)
    taken = _window.window(run, 5)
    result = path_length(run, window=taken)
    assert float(result) == pytest.approx(taken.norms().sum())
    assert result.details["steps"] == 5


def test_where_there_is_none():
    still = path_length(sgd_bowl([1.0], lr=0.0), steps=4)
    assert float(still) == 0
    assert "none of them moved" in still.status.sentence
    broken = path_length(sgd_bowl([1.0], lr=1e300), steps=4)
    assert broken.status.state is State.NON_FINITE
    run = classifier()
    run.advance(2)
    with torch.no_grad():
        run.model[0].weight[0, 0] = math.nan
    assert path_length(run).status.state is State.NON_FINITE
    assert "is NaN by now" in path_length(run).status.sentence
    run = classifier()
    run.advance(2)
    run.origin = None
    assert "where they began is not known" in path_length(run).status.sentence
