"""The monitor and its governor in a loop, by a clock that is told how long everything takes."""

from __future__ import annotations

import numpy as np
import torch
from tests.monitor import loops

import geartrain as gt


def timed(monitor, clock, name, seconds):
    """Make a group take so long."""
    group = monitor._loop.groups[name]
    real = group.gradients

    def slow(scene):
        clock.wait(seconds)
        real(scene)

    group.gradients = slow


def run(costs, *, step=1.0, steps=400, look=0.0, **options):
    clock = loops.Clock(look)
    model = loops.plain_mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = gt.watch(model, optimizer, clock=clock, **options)
    for name, seconds in costs.items():
        timed(monitor, clock, name, seconds)
    inputs, targets = loops.examples(8, dtype=torch.float64)
    with monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            monitor.loss(loops.loss_of(model(inputs), targets)).backward()
            clock.wait(step)
            optimizer.step()
    return monitor


def test_cheap_groups_are_measured_as_often_as_they_may():
    monitor = run({}, steps=150)
    norms = np.isfinite(monitor.history.column("grad_norm"))
    assert norms[40:].all()
    assert np.isfinite(monitor.history.column("cosine"))[40:].all()
    assert np.isfinite(monitor.history.column("noise_over_batch"))[40:].sum() in (10, 11, 12)


def test_dear_groups_are_spaced():
    """Half a step each, 5 % of the time for all: every tenth step for one of them alone, less for several."""
    monitor = run({"noise": 0.5, "updates": 0.25})
    assert monitor.governor.overhead <= 0.065
    tail = slice(200, None)
    assert np.isfinite(monitor.history.column("grad_norm"))[tail].all()
    readings = np.isfinite(monitor.history.column("noise_over_batch"))[tail].sum()
    assert 5 <= readings <= 12
    account = monitor.governor.accounts["noise"]
    assert abs(account.cost - 0.5) < 1e-9
    assert account.period >= 16


def test_the_share_is_what_was_asked_for():
    for share in (0.01, 0.1):
        monitor = run({"noise": 0.5, "updates": 0.5, "flow": 0.5}, overhead=share, steps=1500)
        assert monitor.governor.overhead <= 1.2 * share
    assert "10 % allowed" in repr(monitor)


def test_losses_are_noted_at_every_step_even_so():
    monitor = run({"noise": 5.0, "updates": 5.0, "flow": 5.0, "norms": 5.0}, steps=100)
    assert np.isfinite(monitor.history.column("loss")).all()
    assert len(monitor.history) == 100


def test_where_looking_on_is_too_dear_steps_are_slept_through():
    """Every reading of the clock takes 2 % of a step: the hooks alone would be beyond 5 %."""
    monitor = run({}, look=0.02, steps=3000)
    assert monitor.steps == 3000
    assert monitor.governor.overhead < 0.12
    assert len(monitor.history) < 1500
    awake = np.diff(monitor.history.column("step"))
    assert awake.max() > 32
    full = run({}, look=0.02, steps=300, overhead=None)
    assert full.governor.overhead > 0.3


def test_fixed_periods():
    monitor = run({}, steps=40, every={"noise": 4, "flow": 0})
    column = np.isfinite(monitor.history.column("noise_over_batch"))
    assert np.flatnonzero(column).tolist() == list(range(0, 40, 4))
    assert "activation_rms" not in monitor.tables
    assert monitor.governor.accounts["flow"].off == "never"


def test_times_are_on_the_account_of_those_who_spent_them():
    monitor = run({"noise": 0.5}, steps=60, every=1, overhead=None)
    accounts = monitor.governor.accounts
    assert accounts["noise"].spent == np.float64(0.5) * 60
    assert accounts["norms"].spent == 0.0
    assert monitor.governor.own == accounts["noise"].spent
    assert abs(monitor.governor.plain - 1.0) < 1e-9
