"""Measuring by name: what instruments are handed, of objectives, pairs and runs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from tests.made import normal, objective_of, run_of
from torch import nn

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments._pair import other_objective, same_architecture
from geartrain.measuring import reference_for, subject_for


def labels(count: int) -> torch.Tensor:
    return torch.arange(count) % 3


def trained() -> gt.Run:
    x = normal(60, 4, dtype=torch.float32)
    run = run_of((x[:40], labels(40)), (x[40:], labels(20)))
    run.advance(3)
    return run


def test_a_run_is_compared_with_its_own_start() -> None:
    run = trained()
    start = run_of((normal(60, 4, dtype=torch.float32)[:40], labels(40))).objective()
    before = [p.clone() for p in run.model.parameters()]
    other = reference_for(run, "distance")
    assert torch.equal(other.parameters(), start.parameters())
    assert not torch.equal(other.parameters(), run.objective().parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    assert run.step_count == 3


def test_the_start_is_kept_from_the_first_step_on_only() -> None:
    run = trained()
    origin = run.origin
    run.advance(2)
    assert run.origin is origin
    assert origin is not None
    assert origin.step == 0


def test_a_fork_is_not_taken_for_the_start() -> None:
    run = run_of((normal(60, 4, dtype=torch.float32), labels(60)))
    run.fork(gt.Change(lr=3.0), steps=2)
    assert run.origin is None


def test_validation_data_and_the_size_of_the_probe_are_chosen_by_name() -> None:
    run = trained()
    assert subject_for("objective", run, "x", on="validation").num_examples == 20
    assert subject_for("objective", run, "x", probe=None).num_examples == 40
    assert subject_for("objective", run, "x", probe=7).num_examples == 7
    assert subject_for("history", run, "x") is run.history
    found = gt.measure(run, "activation_flow", on="validation", probe=None)["activation_flow"]
    expected = gt.instruments.activation_flow(run.objective("validation", probe=None))
    np.testing.assert_array_equal(found.value, expected.value)


def test_what_one_needs_is_not_passed_to_the_next() -> None:
    found = gt.measure(trained(), ["distance_from_init", "activation_flow"])
    assert list(found) == ["distance_from_init", "activation_flow"]


class TestOther:
    def test_what_may_be_compared(self) -> None:
        objective = trained().objective()
        vector = objective.parameters() + 1.0
        for other in (objective.of(objective.model), objective.model):
            twin = other_objective(objective, other, "x")
            assert torch.equal(twin.parameters(), objective.parameters())
            assert torch.equal(twin.batches[0][0], objective.batches[0][0])
        moved = other_objective(objective, vector, "x")
        assert torch.equal(moved.parameters(), vector)
        assert not torch.equal(objective.parameters(), vector)
        assert same_architecture(objective, moved)
        weights = objective.restrict("*weight")
        assert other_objective(weights, objective.model, "x").layout.names == weights.layout.names
        wider = objective.of(nn.Sequential(nn.Flatten(), nn.Linear(4, 9), nn.Linear(9, 3)))
        assert not same_architecture(objective, wider)

    def test_what_may_not(self) -> None:
        objective = trained().objective()
        with pytest.raises(InputError, match=r"other has shape \(3,\); the model has 15 parameters"):
            other_objective(objective, torch.ones(3), "x")
        with pytest.raises(InputError, match="x: other is a str; pass an Objective, a model, or a vector"):
            other_objective(objective, "there", "x")
        with pytest.raises(InputError, match="x compares two states; pass other="):
            reference_for(objective, "x")


def test_twins_count_on_one_meter_in_units_of_the_original() -> None:
    objective = objective_of(normal(40, 3), normal(40, 1))
    objective.gradient()
    objective.of(objective.model).gradient()
    objective.restrict("*weight").gradient()
    half = objective.on((normal(20, 3), normal(20, 1)))
    half.gradient()
    assert objective.work.gradients == pytest.approx(3.5)
    half.charge(forwards=2, products=1)
    assert (objective.work.forwards, objective.work.products) == pytest.approx((1.0, 0.5))


def test_the_public_name_is_the_function_whatever_was_imported_first() -> None:
    code = "import geartrain.measuring, geartrain.testing, geartrain as gt; assert callable(gt.measure), gt.measure"
    subprocess.run([sys.executable, "-c", code], check=True)
