"""Truths of motion: what a run on a parabola shows, and what it cannot show."""

from __future__ import annotations

import numpy as np
import pytest

from geartrain.zoo._descent import STEPS, down_a_parabola, motion_truths

RATIOS = {"update_cosine", "update_autocorrelation", "step_length_gauge", "curvature_along_update"}


def told(step, gap=(1.0, 1.0), values=(2.0, 1.0)):
    path = down_a_parabola(np.diag(values), np.array(gap), step, np.ones(len(values)))
    return motion_truths(path, 1)


def test_a_mode_shrinks_by_its_factor_in_every_step():
    found = told(0.1, gap=(1.0,), values=(2.0,))
    np.testing.assert_allclose(found["update_norm"].value, 0.2 * 0.8 ** np.arange(STEPS))
    np.testing.assert_allclose(found["update_cosine"].value, 1.0)
    np.testing.assert_allclose(found["curvature_along_update"].value, 2.0)
    assert float(found["path_length"]) == pytest.approx(1 - 0.8**STEPS)
    assert float(found["back_and_forth"]) == 0.0


def test_beyond_the_inverse_of_the_curvature_it_goes_back_and_forth():
    assert float(told(0.9, gap=(1.0,), values=(2.0,))["back_and_forth"]) == 1.0


def test_a_run_that_arrives_in_one_step_has_no_directions_afterwards():
    """With the step 1/λ the gap is gone after one step: cosines of what follows are 0/0."""
    found = told(0.5, gap=(1.0,), values=(2.0,))
    assert not RATIOS & found.keys()
    assert "back_and_forth" not in found
    np.testing.assert_allclose(found["update_norm"].value, [1.0] + [0.0] * (STEPS - 1), atol=1e-15)
    assert np.isfinite([float(found[n]) for n in ("path_length", "predicted_decrease")]).all()
    assert told(0.5).keys() >= RATIOS  # the other mode is still on its way


def test_a_run_that_begins_at_the_minimum_shows_nothing():
    assert told(0.1, gap=(0.0, 0.0)) == {}


def test_a_direction_that_is_not_moved_along_is_not_judged():
    assert "back_and_forth" not in told(0.1, gap=(0.0, 1.0))
