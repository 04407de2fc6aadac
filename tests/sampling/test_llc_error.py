"""The error of a mean over chains: coverage on autocorrelated and on skewed traces, and the cases at the edge."""

import math

import numpy as np
import pytest
import torch

from geartrain.sampling.learning_coefficient.error import across_chains, mean_of


def traces(estimates, chains, draws, memory, seed=0):
    """Stationary AR(1) chains, shape (estimates, chains, draws)."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(estimates, chains, draws, generator=g, dtype=torch.float64)
    x = torch.empty_like(noise)
    x[..., 0] = noise[..., 0]
    for t in range(1, draws):
        x[..., t] = memory * x[..., t - 1] + math.sqrt(1 - memory**2) * noise[..., t]
    return x


@pytest.mark.parametrize("skewed", [False, True], ids=["normal", "skewed"])
def test_coverage(skewed):
    x = traces(300, 8, 200, 0.9)
    x, truth = (x.square(), 1.0) if skewed else (x, 0.0)
    found = [mean_of(one) for one in x]
    hits = sum(abs(m.value - truth) < m.half_width() for m in found) / len(found)
    assert 0.915 < hits < 0.99
    stated = math.sqrt(np.mean([m.error**2 for m in found]))
    spread = np.std([m.value for m in found], ddof=1)
    assert stated == pytest.approx(spread, rel=0.16)  # spread of a spread of 300: 4 %, of the errors: as much


def test_chains_that_disagree_are_believed():
    x = traces(1, 8, 200, 0.5)[0] + torch.arange(8)[:, None]
    found = mean_of(x)
    assert found.error == found.between
    assert found.between == pytest.approx(float(x.mean(1).std()) / math.sqrt(8))


def test_one_chain():
    found = mean_of(traces(1, 1, 400, 0.5)[0])
    assert math.isnan(found.between)
    assert found.error == found.within > 0
    assert found.half_width() > found.error


def test_constant():
    found = mean_of(torch.zeros(4, 10))
    assert found.error == 0 == found.half_width()


def test_across_chains():
    assert across_chains(torch.tensor([1.0, 3.0])) == (2.0, 1.0)
    assert math.isnan(across_chains(torch.tensor([1.0]))[1])
