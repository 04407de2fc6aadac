import math

import pytest
import torch

from geartrain import builtin
from geartrain.builtin import _broken_digits
from geartrain.errors import UnknownNameError
from geartrain.run import Run

# name -> (bound on the final validation loss, on the final metric); both reached by seeds 0 to 2 with room to spare
REACHED = {
    "breast-cancer": (0.10, 0.95),
    "diabetes": (0.56, 0.45),
    "digits": (0.16, 0.94),
    "mnist": (0.24, 0.93),
    "text": (1.88, 0.45),
}


def test_every_built_in_run_is_tested_here():
    assert builtin.names() == sorted(REACHED)


@pytest.mark.parametrize("name", REACHED)
def test_it_generalises(name):
    run = builtin.get(name)(seed=0)
    run.train()
    final = run.history.evaluations[-1]
    assert run.history.failure is None
    assert final["validation_loss"] < REACHED[name][0]
    assert final["metric"] > REACHED[name][1]
    losses = [row["validation_loss"] for row in run.history.evaluations]
    # Not overfitted: the end is as good as the best epoch, but for the noise of a small validation set.
    assert losses[-1] < 1.1 * min(losses)


@pytest.mark.parametrize("name", REACHED)
def test_the_seed_decides_the_weights(name):
    make_run = builtin.get(name)
    first, again, other = (
        torch.cat([p.detach().flatten() for p in make_run(seed=seed).model.parameters()])
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_twice_gives_the_same_bits():
    losses = []
    for _ in range(2):
        run = builtin.get("digits")(seed=1)
        run.train()
        losses.append(run.history.column("loss").tolist())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", REACHED)
def test_runs_carry_their_name(name):
    run = builtin.get(name)()
    assert isinstance(run, Run)
    assert run.name == name


def test_underscores_do_for_hyphens():
    assert builtin.get("breast_cancer") is builtin.get("breast-cancer")


@pytest.mark.parametrize("name", ["digit", "_broken_digits", "-metrics"])
def test_unknown_names_are_refused(name):
    with pytest.raises(UnknownNameError, match="There is no built-in run named"):
        builtin.get(name)


def test_the_broken_twin_ends_above_where_it_began():
    run = _broken_digits.make_run(seed=0)
    run.train()
    assert run.history.evaluations[-1]["validation_loss"] > 2 * math.log(10)
