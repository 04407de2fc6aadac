import numpy as np
import pytest

from geartrain import instruments
from geartrain.records import State
from geartrain.run import History


def norms(count=600, seed=0):
    return np.exp(0.2 * np.random.default_rng(seed).standard_normal(count))


def watched(values):
    return History({"step": list(range(len(values))), "grad_norm": list(map(float, values))})


def test_the_largest_ratio_is_found_where_it_was_planted():
    values = norms()
    values[400] *= 50
    result = instruments.gradient_spikes(watched(values))
    # The median of an even number of logarithms is a geometric mean of the middle two.
    assert float(result) == pytest.approx(values[400] / np.median(values[350:400]), rel=1e-3)
    assert result.details["steps"] == [400]
    assert result.details["largest_step"] == 400
    assert result.details["rate"] == pytest.approx(1000 / 600)


def test_noise_has_no_jumps_and_units_do_not_matter():
    values = norms()
    result = instruments.gradient_spikes(watched(values))
    assert result.details["count"] == 0
    assert float(result) < 3
    assert float(instruments.gradient_spikes(watched(1e-9 * values))) == pytest.approx(float(result))


def test_a_gradient_that_vanishes_has_no_level():
    assert instruments.gradient_spikes(watched(np.zeros(100))).status.state is State.NOT_APPLICABLE
