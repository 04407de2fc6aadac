import math

import pytest
from tests import healthy, planted

# Bounds on the final validation loss: (above, below). The healthy run ends near 0.13; chance is log(10) = 2.30.
ENDS = {
    "healthy": (0, 0.2),
    "lr 2": (1.5, math.inf),
    "lr 30": (100, math.inf),
    "lr 1e-5": (2.25, 2.45),
    "eight sigmoid layers": (2.25, 2.35),
    "dead relu": (0.7, 2.35),
    "inputs scaled 1 to 1e-3": (1.2, 1.6),
    "batch 1": (0.7, math.inf),
    "random labels": (2.29, 2.5),
}


def test_every_planted_run_is_tested_here():
    assert set(ENDS) == set(planted.CAUSES)


@pytest.mark.parametrize("fault", ENDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_fault_hurts_and_nothing_hurts_the_healthy_run(fault, seed):
    run = planted.planted_run(fault, seed)
    run.train()
    above, below = ENDS[fault]
    assert above < run.history.evaluations[-1]["validation_loss"] < below


def test_unknown_faults_are_refused():
    with pytest.raises(KeyError, match="no planted run 'gremlins'"):
        planted.planted_run("gremlins")


# Bounds on the final validation loss of the healthy runs of other kinds.
HEALTHY_ENDS = {"tanh mlp": 0.09, "transformer": 1.93, "small batch": 0.17}
# These three are built-in runs, which test_builtin.py trains.
BUILT_IN = {"cnn", "gru", "regression"}


def test_every_healthy_run_is_tested_here():
    assert set(HEALTHY_ENDS) | BUILT_IN == set(healthy.HEALTHY)


@pytest.mark.parametrize("name", HEALTHY_ENDS)
def test_healthy_runs_generalise(name):
    run = healthy.HEALTHY[name](0)
    run.train()
    losses = [row["validation_loss"] for row in run.history.evaluations]
    assert losses[-1] < HEALTHY_ENDS[name]
    # The noise of 169 held-out examples, which is all that breast cancer leaves, is some 10 %.
    assert losses[-1] < 1.15 * min(losses)
