"""Parallel tempering on a potential with two basins, against quadrature."""

import math

import pytest
import torch

from geartrain.errors import InputError
from geartrain.records import State
from geartrain.sampling import FunctionPotential, sample, temper
from geartrain.sampling.kernels.sgld import SGLD


def loss(w):
    """Two basins of different depth and width."""
    x = w[:, 0]
    return 6 * (x**2 - 1) ** 2 + 0.5 * x


LADDER = (1.0, 0.5, 0.25, 0.1)


@pytest.fixture(scope="module")
def basins():
    return FunctionPotential(loss, 1, prior_precision=0.2)


def truths(beta):
    """Share of the right basin and mean loss at that temperature."""
    x = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    values = loss(x[:, None])
    weight = torch.exp(-beta * values - 0.1 * x**2)
    weight /= weight.sum()
    return float(weight[x > 0].sum()), float((weight * values).sum())


@pytest.fixture(scope="module")
def tempered(basins):
    return temper(
        basins, LADDER, chains=24, draws=400, burn_in=150, steps=3, start=torch.tensor([1.0]), keep_levels=4
    )


def test_a_cold_chain_alone_stays_where_it_began(basins):
    draws = sample(basins, "hmc", chains=4, draws=100, start=torch.tensor([1.0]), step_size=0.1, steps=3)
    assert draws.rhat("positions").max() < 1.2  # nothing in sight says that half of the mass is missing
    assert bool((draws.positions > 0).all())


@pytest.mark.parametrize("level", range(len(LADDER)))
def test_shares_and_losses_at_every_level(tempered, level):
    share, mean = truths(LADDER[level])
    right = (tempered.positions[level, ..., 0] > 0).double().mean(1)  # one independent number per chain
    for seen, truth in ((right, share), (tempered.losses[level].mean(1), mean)):
        assert abs(seen.mean() - truth) < 4 * seen.std() / math.sqrt(len(seen))
    assert right.std() < 0.25


def test_the_ladder_conducts(tempered):
    assert bool((tempered.swap_rate > 0.4).all())
    assert int(tempered.round_trips.sum()) > 100
    assert tempered.cold().shape == (24, 400, 1)
    assert bool(((tempered.acceptance - 0.8).abs() < 0.12).all())
    assert bool((tempered.step_size.diff() > 0).all())  # hot levels take longer steps
    assert "round trips" in str(tempered)


def test_a_broken_rung_is_named():
    stiff = FunctionPotential(lambda w: 1e4 * (w**2).sum(1), 5, prior_precision=1.0)
    seen = temper(stiff, (1.0, 1e-4), chains=2, draws=60, steps=3)
    assert "put levels in between" in seen.notes[0]


def test_a_budget_is_kept(basins):
    seen = temper(basins, (1.0, 0.5), chains=2, draws=500, burn_in=5, budget=400, steps=3)
    assert seen.status.state is State.OUT_OF_BUDGET
    assert 0 < seen.losses.shape[2] < 500


def test_same_seed_same_bits(basins):
    a, b = (temper(basins, (1.0, 0.5), chains=2, draws=20, steps=3, generator=3) for _ in range(2))
    assert torch.equal(a.positions, b.positions)


def test_messages(basins):
    with pytest.raises(InputError, match="two or more finite numbers"):
        temper(basins, (1.0,))
    with pytest.raises(InputError, match="mass='unit'"):
        temper(basins, (1.0, 0.5), mass="diagonal")
    by_example = FunctionPotential(
        lambda w, rows: w[:, :1].square() * torch.ones(len(rows)), 1, num_examples=8, batch_size=2
    )
    with pytest.raises(InputError, match="batch_size=None"):
        temper(by_example, (1.0, 0.5), SGLD(0.1))
    odd = FunctionPotential(lambda w: w[:, 0].log(), 1)
    with pytest.raises(InputError, match="start where the loss is not finite"):
        temper(odd, (1.0, 0.5), chains=1, start=torch.tensor([[1.0], [-1.0]]), step_size=0.1)
