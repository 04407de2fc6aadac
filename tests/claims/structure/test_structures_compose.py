"""The claim structures-compose: its units against closed forms, its analysis on planted times."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geartrain import claims
from geartrain.claims.rules import Outcome
from geartrain.claims.structure.structures_compose import CLAIM
from geartrain.zoo.landscapes.product_saddle import ProductSaddle

_SPREAD = np.array([0.92, 0.95, 0.98, 0.99, 1.01, 1.02, 1.05, 1.08])
_TRANSPLANT = {"right": 100, "wrong": 900, "half": 400, "random": 800, "scratch": 900, "parts": 80}
_CONTINUED = {
    "own": 80, "half": 150, "unrelated": 900, "frozen": 90, "alone": 700, "at_once": 160, "unrelated_at_once": 850,
    "before_own": 140, "before_half": 140, "before_unrelated": 140,
}  # fmt: skip
_TARGETS = {"A+B+AB": 160, "A+AB": 210, "C+AB": 700, "AB": 600, "√3·AB": 480}


def _results(**changed: dict[str, float]) -> claims.Results:
    """Times of eight seeds around given ones."""
    seeds = tuple(range(8))

    def times(**means: float) -> dict[str, np.ndarray]:
        return {n: np.round(m * np.roll(_SPREAD, i)).astype(int) for i, (n, m) in enumerate(means.items())}

    told: dict[str, Any] = {"targets": _TARGETS, "transplant": _TRANSPLANT, "continued": _CONTINUED}
    told = {name: values | changed.get(name, {}) for name, values in told.items()}
    flows = {"full": np.tile([3.0, 11.2, 333.0], (8, 1)), "reduced": np.tile([3.0, 11.2, 333.3], (8, 1))}
    cosines = {f"cosine_{n}": np.full(8, 0.9) for n in ("own", "half", "unrelated", "before")}
    cells = [claims.Cell({"part": "ode", "start": 0.1}, seeds, flows)]
    for target, mean in told["targets"].items():
        config = {"part": "targets", "d": 30, "target": target, "budget": 30_000}
        cells.append(claims.Cell(config, seeds, times(time=mean)))
    config = {"part": "transplant", "bits": 2, "d": 30, "budget": 20_000}
    cells.append(claims.Cell(config, seeds, times(**told["transplant"])))
    config = {"part": "continued", "d": 30, "budget": 30_000}
    return claims.Results([*cells, claims.Cell(config, seeds, times(**told["continued"]) | cosines)])


def _outcomes(results: claims.Results) -> dict[str, Outcome]:
    claim = CLAIM()
    found = claim.analyse(results)
    return {name: part.rule.decide(found[name]).outcome for name, part in claim.parts.items()}


def test_planted_reuse_is_supported() -> None:
    """All parts, with the medians' ratio as the estimand."""
    results = _results()
    assert set(_outcomes(results).values()) == {Outcome.SUPPORTED}
    effect = CLAIM().analyse(results)["b"].effects["30 inputs, against AB"]
    assert effect.value == pytest.approx(math.log(600 / 160), abs=0.03)


def test_no_reuse_is_refuted() -> None:
    """Parts that save nothing; and a scaffold that helps by its size alone."""
    assert _outcomes(_results(targets={"A+B+AB": 600.0}))["b"] is Outcome.REFUTED
    assert _outcomes(_results(targets={"√3·AB": 170.0}))["b"] is Outcome.REFUTED
    assert _outcomes(_results(transplant={"right": 800.0}))["c"] is Outcome.REFUTED
    assert _outcomes(_results(continued={"own": 700.0}))["d"] is Outcome.REFUTED
    assert _outcomes(_results(continued={"frozen": 900.0}))["f"] is Outcome.REFUTED


def test_a_control_that_helps_forbids_support() -> None:
    """Wrong parts that help as much refute; wrong parts that help a little leave it open."""
    assert _outcomes(_results(targets={"C+AB": 160.0}))["b"] is Outcome.REFUTED
    assert _outcomes(_results(targets={"C+AB": 350.0}))["b"] is Outcome.INCONCLUSIVE
    assert _outcomes(_results(transplant={"wrong": 100.0}))["c"] is Outcome.REFUTED
    assert _outcomes(_results(continued={"unrelated_at_once": 1700.0}))["d"] is Outcome.INCONCLUSIVE


def test_unfinished_runs_count_as_the_whole_budget() -> None:
    """Slow arms that never learn support the claim, a fast arm that never learns refutes it; divergence is no time."""
    results = _results()
    cell = results.one(part="transplant")
    cell["wrong"][:] = -1
    wrong = CLAIM().analyse(results)["c"].effects["parts of 2 bits, wrong"]
    assert wrong.value == pytest.approx(math.log(20_000 / 100), abs=0.02)
    cell["right"][:] = -1
    assert _outcomes(results)["c"] is Outcome.REFUTED
    cell["right"][0] = -2
    assert "diverged" in CLAIM().analyse(results)["c"].invalid


def test_flow_of_five_numbers() -> None:
    """With no pay-off of their own it is a product of five, whose time is an integral."""
    found = CLAIM().compute({"part": "ode", "start": 0.2}, [0, 1])
    dims, full = found["full"]
    assert dims == ("seed", "payoff")
    np.testing.assert_allclose(full[:, 2], ProductSaddle(k=5, start=0.2).half_time, rtol=1e-4)
    np.testing.assert_allclose(full, found["reduced"][1], rtol=1e-4)


def test_runs_from_end_to_end(tmp_path: Path) -> None:
    """At the smallest scale, with its record and figure."""
    verdict = CLAIM().run(scale="test", workers=0, progress=False, folder=tmp_path)
    assert verdict.withheld.startswith("a test run")
    assert not verdict.invalid
    assert (tmp_path / "figure.svg").exists()
