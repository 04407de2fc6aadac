"""Basins: shares with errors, transitions, descent and linking."""

import math

import pytest
import torch
from torch import nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.sampling import FunctionPotential, Potential
from geartrain.sampling.occupancy import descend, find_basins, occupancy
from geartrain.sampling.symmetries import find_symmetries
from geartrain.sampling.truths import GaussianBasins


def two_state(stay_first, stay_second, chains, draws, seed):
    """A Markov chain between two basins, started in equilibrium."""
    g = torch.Generator().manual_seed(seed)
    share = (1 - stay_second) / (2 - stay_first - stay_second)
    state = (torch.rand(chains, generator=g) >= share).long()
    labels = [state]
    for u in torch.rand(draws - 1, chains, generator=g):
        leave = torch.where(state == 0, u > stay_first, u > stay_second)
        state = torch.where(leave, 1 - state, state)
        labels.append(state)
    return torch.stack(labels, 1), share


def test_shares_cover_and_transitions_are_those_of_the_chain():
    covered = 0
    for seed in range(60):
        labels, share = two_state(0.9, 0.8, 4, 400, seed)
        found = occupancy(labels + 5)
        first = 0 if float((labels == 0).double().mean()) >= 0.5 else 1
        covered += abs(float(found.shares[first]) - share) < 1.96 * float(found.standard_error[first])
    # Binomial(60, .95) has sd 1.7; the error from 4 chains and ~230 effective draws costs a little.
    assert covered >= 57 - 1 - 3 * 1.7
    labels, share = two_state(0.9, 0.8, 8, 5000, 0)
    found = occupancy(labels)
    wanted = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    # Binomial error of a row with a third of 40,000 visits: at most sqrt(.16/13,000) = 0.0035.
    torch.testing.assert_close(found.transitions, wanted, rtol=0, atol=4 * 0.0035)
    assert found.chains_by_basin.tolist() == [8, 8]
    assert "crossings per chain" in found.sentence


def test_chains_that_never_cross_say_so():
    found = occupancy(torch.arange(4)[:, None].expand(4, 50) // 2)
    assert found.shares.tolist() == [0.5, 0.5]
    # Four chains, two in each: the share is a mean of four coins, sd .577/2 = .289.
    assert found.standard_error.tolist() == pytest.approx([0.2887] * 2, abs=0.02)
    assert found.crossings == 0
    assert "not of the posterior" in str(found)
    one = occupancy(torch.zeros(4, 50, dtype=torch.long))
    assert "All draws lie in one basin" in one.sentence
    assert math.isnan(float(one.standard_error[0]))


def test_unknown_draws_are_not_counted():
    labels = torch.zeros(3, 20, dtype=torch.long)
    labels[1, 5:] = 1
    labels[2, 3:] = -1
    found = occupancy(labels)
    assert found.shares.tolist() == [28 / 43, 15 / 43]
    assert found.crossings == 1
    assert found.transitions[0].sum() == 1


def basins():
    return GaussianBasins(
        torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 4.0]], dtype=torch.float64),
        torch.tensor([0.4, 0.4, 0.3], dtype=torch.float64),
        torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    )


def test_basins_are_found_by_descent():
    truth = basins()
    draws = truth.sample(400, torch.Generator().manual_seed(0))
    positions = draws.view(4, 100, 2)
    found = find_basins(FunctionPotential(truth.energy, 2), positions)
    assert found.num_basins == 3
    by_hand = torch.stack([(truth.basin(draws) == k).double().mean() for k in range(3)])
    assert sorted(found.shares.tolist()) == pytest.approx(sorted(by_hand.tolist()), abs=1e-9)
    # Energy at the bottom: -log(share / (2 pi scale^2)), neighbours being far away.
    depth = -torch.log(truth.shares / (2 * math.pi * truth.scales**2))
    assert sorted(found.energies.tolist()) == pytest.approx(sorted(depth.tolist()), abs=1e-4)
    labelled = find_basins(FunctionPotential(truth.energy, 2), positions, label=truth.basin, every=2)
    assert labelled.labels.shape == (4, 50)


def test_descent_reaches_the_minimum_whatever_the_scale():
    g = torch.Generator().manual_seed(0)
    for factor in (1e-3, 1.0, 1e3):
        h = factor * torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)
        potential = FunctionPotential(lambda w, h=h: 0.5 * (h * (w - 1) ** 2).sum(1), 3)
        start = torch.randn(20, 3, generator=g).double()
        end = descend(potential, start, steps=400)
        assert float((end - 1).abs().max()) < 1e-3


def test_a_ring_of_minima_is_one_basin_and_a_wall_makes_two():
    # Along x the potential is a double well of the given height; 1 is what a walker passes easily.
    for height, number in [(0.3, 1), (20.0, 2)]:
        potential = FunctionPotential(lambda w, h=height: h * (w[:, 0] ** 2 - 1) ** 2 + w[:, 1] ** 2, 2)
        positions = torch.randn(2, 30, 2, generator=torch.Generator().manual_seed(1)).double()
        assert find_basins(potential, positions).num_basins == number


def test_copies_of_a_network_are_one_basin_after_division():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1, bias=False)).double()
    x = torch.linspace(-2, 2, 16, dtype=torch.float64)[:, None]
    objective = Objective(model, nn.functional.mse_loss, (x, torch.tanh(2 * x)))
    potential = Potential(objective, n_beta=100.0, prior_precision=0.1)
    positions = torch.tensor([[2.0, 1.0], [-2.0, -1.0]], dtype=torch.float64)[:, None].expand(2, 5, 2)
    positions = positions + 0.05 * torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0)).double()
    assert find_basins(potential, positions).num_basins == 2
    assert find_basins(potential, positions, symmetries=find_symmetries(objective)).num_basins == 1


def test_positions_that_are_not_finite_are_unknown():
    truth = basins()
    positions = truth.sample(20, torch.Generator().manual_seed(0)).view(2, 10, 2)
    positions[1, 4:] = math.nan
    found = find_basins(FunctionPotential(truth.energy, 2), positions)
    assert (found.labels[1, 4:] == -1).all()
    assert (found.labels[0] >= 0).all()


def test_messages():
    with pytest.raises(InputError, match="must be integers"):
        occupancy(torch.zeros(3, 4))
    with pytest.raises(InputError, match="at least one of them 0 or more"):
        occupancy(-torch.ones(3, 4, dtype=torch.long))
    with pytest.raises(InputError, match=r"shape \(3, 2\); they must be \(chains, draws, 2\)"):
        find_basins(FunctionPotential(basins().energy, 2), torch.zeros(3, 2))


def test_too_few_draws_for_an_error_say_so():
    found = occupancy(torch.tensor([[0, 1, 1], [0, 0, 1]]))
    assert "50 % (error unknown)" in found.sentence
