"""A linear teacher and a narrow student: the floor, the way to it, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.companions.linear_teacher_student import LinearTeacherStudent


@pytest.mark.parametrize("hidden", [1, 2, 3, 4])
def test_training_ends_at_the_floor_whatever_the_width(hidden):
    toy = LinearTeacherStudent(hidden=hidden)
    assert toy.floor == pytest.approx(0.5 * sum(s**2 for s in (3.0, 2.0, 1.2, 0.7)[hidden:]))
    assert_agrees(toy, {"floor", "best_student", "loss", "learnt_strengths"})


def test_the_finished_student_is_at_rest():
    toy = LinearTeacherStudent()
    done = toy.student(1.0).objective()
    assert float(done.value()) == pytest.approx(toy.floor, rel=1e-12)
    assert float(done.gradient().norm()) < 1e-12


def test_the_flow_starts_at_progress_and_ends_at_the_teacher():
    toy = LinearTeacherStudent(hidden=3, progress=0.1)
    np.testing.assert_allclose(toy.strengths_after(0.0), [0.3, 0.2, 0.12])
    np.testing.assert_allclose(toy.strengths_after(50.0), [3.0, 2.0, 1.2])


def test_the_gradient_of_the_matrices_is_the_objectives():
    toy = LinearTeacherStudent(progress=0.5)
    flat = np.concatenate([w.ravel() for w in toy.now.weights]) + 0.1
    loss, slope = toy.slope(flat)
    place = torch.from_numpy(flat)
    assert float(toy.objective.value(place)) == pytest.approx(loss)
    np.testing.assert_allclose(toy.objective.gradient(place).numpy(), slope, atol=1e-12)


def test_every_instrument_meets_its_truth():
    assert_agrees(LinearTeacherStudent())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    count = int(draw.integers(2, 5))
    toy = LinearTeacherStudent(
        seed=seed,
        strengths=tuple(float(s) for s in np.cumsum(draw.uniform(0.3, 1.0, count))[::-1]),
        dimension=int(draw.integers(count, 7)),
        hidden=int(draw.integers(1, count + 1)),
        progress=draw.uniform(0.05, 0.8),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strengths": (1.0, 2.0)}, "the largest first, no two equal"),
        ({"hidden": 5}, "hidden 5; allowed: .* and 1 to 4 hidden units"),
        ({"progress": 1.0}, "progress is 1.0; allowed: 0.01 to below 1"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        LinearTeacherStudent.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(LinearTeacherStudent())
