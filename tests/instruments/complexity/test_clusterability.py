"""Clusterability: planted blocks, shuffled networks, cuts by brute force, relations, refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from tests.made import normal, objective_of
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import clusterability
from geartrain.instruments.complexity.clusterability import best_cut, chain_of, normalised_cut
from geartrain.objective import Objective
from geartrain.records import State


def chain(*matrices: torch.Tensor) -> Objective:
    layers = []
    for matrix in matrices:
        layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False).double()
        layer.weight.data = matrix.double()
        layers += [layer, nn.ReLU()]
    x = normal(4, matrices[0].shape[1])
    return objective_of(x, normal(4, matrices[-1].shape[0]), nn.Sequential(*layers[:-1]))


def blocks(groups: int, size: int, between: float = 0.0, seed: int = 0) -> torch.Tensor:
    inside = torch.block_diag(*[torch.ones(size, size)] * groups)
    noise = torch.rand(inside.shape, generator=torch.Generator().manual_seed(seed))
    return inside * (0.5 + noise) + between * (1 - inside)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_separate_blocks_are_cut_for_nothing():
    result = clusterability(chain(blocks(4, 5), -blocks(4, 5, seed=1)), generator=generator(0))
    assert result.details["ncut"] == pytest.approx(0, abs=1e-12)
    assert float(result) < -4
    assert result.details["p_value"] == pytest.approx(1 / 51)
    labels = np.array(result.details["labels"]).reshape(3, 4, 5)
    assert all(len(set(labels[:, g].ravel())) == 1 for g in range(4))


def test_weak_bridges_have_a_known_cut():
    """One layer, two groups of m inputs and outputs: each side leaves with e of its volume 2m² + 2m²e."""
    m, e = 6, 0.02
    weights = torch.block_diag(torch.ones(m, m), torch.ones(m, m))
    weights = weights + e * (1 - weights)
    result = clusterability(chain(weights), clusters=2, shuffles=8)
    assert result.details["ncut"] == pytest.approx(2 * e / (1 + e))


def test_the_cut_is_the_best_of_all_for_small_graphs():
    random = np.random.default_rng(0)
    close = 0
    for seed in range(20):
        half = random.random((3, 4)) ** 3
        graph = np.block([[np.zeros((4, 4)), half.T], [half, np.zeros((3, 3))]])
        cuts = [
            normalised_cut(graph, np.array((0, *g))) for g in itertools.product((0, 1), repeat=6) if any(g)
        ]
        found = best_cut(graph, 2, np.random.default_rng(seed))[0]
        assert found >= min(cuts) - 1e-12
        close += found <= 1.02 * min(cuts)
    assert close >= 15  # spectral clustering is a relaxation: nearly always optimal at this size, never below


def test_z_of_random_networks_is_that_of_chance():
    """Independent equal weights are exchangeable, so the rank among the shuffles is uniform."""
    ranks, scores = [], []
    for seed in range(40):
        weights = torch.rand(8, 8, generator=generator(seed)) ** 2
        result = clusterability(chain(weights), clusters=2, shuffles=19, generator=generator(seed + 1000))
        ranks.append(result.details["p_value"])
        scores.append(float(result))
    # p takes the values 1/20 ... 1; half a step down it is compared with the uniform law.
    assert kstest(np.array(ranks) - 0.025, "uniform").pvalue > 1e-3
    assert abs(np.mean(scores)) <= 4 * np.std(scores, ddof=1) / np.sqrt(40)


def test_names_scales_and_signs_of_units_do_not_matter():
    w = blocks(3, 4, 0.1)
    flip = torch.where(torch.rand(w.shape, generator=generator(5)) > 0.5, 1.0, -1.0)
    order = torch.randperm(12, generator=generator(6))
    cuts = [
        clusterability(chain(m), clusters=3, shuffles=8).details["ncut"]
        for m in (w, 9 * w * flip, w[order][:, order])
    ]
    assert cuts[0] == pytest.approx(cuts[1])
    assert cuts[0] == pytest.approx(cuts[2])


def test_chains():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(20, 7), nn.Linear(4, 4)
    )
    objective = Objective(
        model, batch_loss=lambda m, b: m[0](b).mean(), data=normal(2, 1, 6, 6, dtype=torch.float32)
    )
    shapes = [w.shape for w in chain_of(objective)]
    assert shapes == [(3, 1), (5, 3), (7, 5)]  # 20 = 5 channels x 4 places; 4 follows nothing
    kernel = model[0].weight.detach().abs().sum((2, 3)).double().numpy()
    np.testing.assert_allclose(chain_of(objective)[0], kernel)


def test_large_graphs_give_the_cut_of_small_ones():
    w = torch.kron(blocks(3, 4, 0.05), torch.ones(20, 20))
    large, small = (
        clusterability(chain(m), clusters=3, shuffles=8).details["ncut"] for m in (w, blocks(3, 4, 0.05))
    )
    assert large == pytest.approx(small, rel=1e-6)


def test_budget_not_applicable_refusals():
    objective = chain(blocks(2, 4))
    assert clusterability(objective, budget="1ms", shuffles=5000).status.state is State.OUT_OF_BUDGET
    assert clusterability(objective).cost.forwards == 0
    assert "All weights of a layer are alike" in clusterability(chain(torch.ones(6, 6))).status.sentence
    assert "at least 8 neurons" in clusterability(chain(torch.ones(2, 3))).status.sentence
    with pytest.raises(InputError, match="clusters is 1 and shuffles 50; allowed"):
        clusterability(objective, clusters=1)
