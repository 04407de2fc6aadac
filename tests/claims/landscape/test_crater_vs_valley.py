"""The claim crater-vs-valley: networks against torch, weights against their formula, analysis on planted shares."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from geartrain import claims
from geartrain.claims.landscape import crater_vs_valley as tested
from geartrain.claims.landscape.crater_vs_valley import (
    ARMS,
    CLAIM,
    CRATER,
    OTHER,
    TILTED,
    TILTED_OTHER,
    VALLEY,
)
from geartrain.claims.rules import Outcome
from geartrain.zoo.landscapes.crater_valley import CraterValley


def _results(reach: dict[str, tuple[float, ...]], back: dict[str, int] | None = None) -> claims.Results:
    """Exact volumes; networks of which these shares of 64 starts arrive for k = 2, 3, 4, 5."""
    seeds = tuple(range(8))
    cells = []
    for k in (2, 4, 6, 8):
        volumes = {kind: CraterValley(kind=kind, k=k).reach for kind in ("needle", "half", "staircase")}
        arrays = {kind: np.full(8, v) for kind, v in volumes.items()} | {"separable": np.ones(8)}
        cells.append(claims.Cell({"part": "toy", "k": k}, seeds, arrays))
    cells.append(claims.Cell({"part": "near", "k": 4}, seeds, {"apart": np.zeros((8, 4))}))
    for arm in ARMS:
        for k, share in zip((2, 3, 4, 5), reach.get(arm, reach[CRATER]), strict=True):
            times = np.full(64, -1)
            times[: round(64 * share)] = 1500
            config = {"part": "nets", "k": k, "arm": arm, "starts": 8, "steps": 8000}
            cells.append(
                claims.Cell(
                    config, seeds, {"time": np.random.default_rng(k).permutation(times).reshape(8, 8)}
                )
            )
    around: dict[str, Any] = {"loss": np.zeros(8)}
    for arm in (CRATER, TILTED, TILTED_OTHER):
        came = np.arange(16) < (back or {}).get(arm, 4)
        around |= {
            f"back, {arm}": np.tile(np.where(came, 100, -1), (8, 1)),
            f"radius, {arm}": np.ones((8, 16)),
        }
    cells.append(claims.Cell({"part": "around", "k": 3}, seeds, around))
    return claims.Results(cells)


def _outcomes(results: claims.Results) -> dict[str, Outcome]:
    found = CLAIM().analyse(results)
    return {name: part.rule.decide(found[name]).outcome for name, part in CLAIM.parts.items()}


_FALLING, _HIGH = (0.95, 0.6, 0.3, 0.12), (0.95, 0.95, 0.95, 0.95)


def test_planted_valleys_are_supported() -> None:
    """All parts; the toy's slopes are exact."""
    results = _results({CRATER: _FALLING, VALLEY: _HIGH, TILTED: _HIGH}, {TILTED: 15})
    assert set(_outcomes(results).values()) == {Outcome.SUPPORTED}
    found = CLAIM().analyse(results)
    assert max(abs(e.value) for e in found["a"].effects.values()) < 1e-6
    assert found["c"].effects[""].value == pytest.approx(math.log(0.95 / 0.12), abs=0.1)
    assert found["c"].numbers["k = 5, valley, at a quarter of the budget"].value == pytest.approx(
        0.95, abs=0.02
    )


def test_equal_reach_is_refuted() -> None:
    """Valleys that make no difference, in all three questions about networks."""
    found = _outcomes(_results({CRATER: _HIGH}))
    assert [found[part] for part in "cdef"] == [Outcome.REFUTED] * 4


def test_irrelevant_terms_with_the_same_effect_refute() -> None:
    """If terms that lead nowhere do as much, it was not the way."""
    found = _outcomes(
        _results({CRATER: _FALLING, VALLEY: _HIGH, OTHER: _HIGH, TILTED: _HIGH, TILTED_OTHER: _HIGH})
    )
    assert found["c"] is found["d"] is Outcome.REFUTED


def test_weights_have_the_same_values_and_correlate_as_foretold() -> None:
    """Both weighted arms: the same list of weights; the parity's correlation with each step is 0.8/(k - 1)."""
    k = 4
    equal, tilted, other = (tested._task(k, arm) for arm in (CRATER, TILTED, TILTED_OTHER))
    assert torch.equal(equal.target, tilted.target)
    assert torch.equal(equal.target, other.target)
    np.testing.assert_allclose(np.sort(tilted.weight.numpy()), np.sort(other.weight.numpy()), atol=1e-9)
    assert float(tilted.weight.min()) > 0
    assert float(tilted.weight.sum()) == pytest.approx(1.0, abs=1e-6)
    for task, first in ((tilted, 0), (other, k)):
        for j in range(1, k):
            step = task.x[:, first : first + j].prod(1)
            assert float((task.weight * task.top * step).sum()) == pytest.approx(0.8 / (k - 1), abs=1e-6)
            assert float((task.top * step).mean()) == 0.0


@pytest.mark.parametrize("arm", [VALLEY, TILTED])
def test_descent_is_torch_descent(arm: str) -> None:
    """Networks side by side have the weights of torch.optim.SGD on the weighted loss."""
    task, start = tested._task(3, arm), tested._fresh([0, 1], 2, 3)
    _, ends = tested._descend(start, task, 20, stop=False)
    for row in range(4):
        model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1))
        for parameter, value in zip(model.parameters(), start, strict=True):
            parameter.data = value[row].reshape(parameter.shape).clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        for _ in range(21):
            optimizer.zero_grad()
            (0.5 * task.weight * (model(task.x)[:, 0] - task.target) ** 2).sum().backward()
            optimizer.step()
        for parameter, value in zip(model.parameters(), ends, strict=True):
            np.testing.assert_allclose(value[row].ravel(), parameter.detach().ravel(), atol=2e-6)


def test_stopping_does_not_change_arrivals() -> None:
    """Networks that have arrived leave; the others arrive at the same step."""
    task, start = tested._task(2, CRATER), tested._fresh([0, 1], 4, 2)
    stopped, _ = tested._descend(start, task, 400)
    followed, _ = tested._descend(start, task, 400, stop=False)
    assert (stopped > 0).any()
    np.testing.assert_array_equal(stopped, followed)


def test_runs_from_end_to_end(tmp_path: Path) -> None:
    """At the smallest scale, with its record and figure; the instruments pass their gate."""
    verdict = CLAIM().run(scale="test", workers=0, progress=False, folder=tmp_path)
    assert verdict.withheld.startswith("a test run")
    assert "failed on the zoo" not in verdict.withheld
    assert not verdict.invalid
    assert (tmp_path / "figure.svg").exists()
