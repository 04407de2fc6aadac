"""The claim leap-complexity: its unit, its analysis on planted powers of d."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geartrain import claims
from geartrain.claims.rules import Outcome
from geartrain.claims.structure.leap_complexity import CLAIM, RATES, TARGETS
from geartrain.instruments import leap as measured
from geartrain.zoo.functions.hypercube_fourier import HypercubeFourier

_INPUTS = (15, 30, 60, 120, 240)
_SPREAD = np.array([0.92, 0.95, 0.98, 0.99, 1.01, 1.02, 1.05, 1.08])
_PAPER = {"staircase": 1.0, "two at once": 1.0, "three at once": 2.0, "disjoint": 2.0}


def _results(exponents: dict[str, float], constant: float = 0.0) -> claims.Results:
    """Times like d^exponent at a step of 0.2; the constant step grows like d^constant more slowly."""
    cells = []
    for i, (target, power) in enumerate(exponents.items()):
        for d in _INPUTS:
            times = np.full((8, len(RATES)), -1)
            times[:, RATES.index(0.2)] = np.round(5 * d**power * np.roll(_SPREAD, i))
            times[:, RATES.index(0.05)] = (
                np.round(100 * d ** (power - constant) * _SPREAD) if constant else -1
            )
            cells.append(claims.Cell({"target": target, "d": d}, tuple(range(8)), {"time": times}))
    return claims.Results(cells)


def _outcome(found: dict[str, claims.Finding], part: str = "a") -> Outcome:
    return CLAIM.parts[part].rule.decide(found[part]).outcome


@pytest.mark.parametrize(("target", "leap"), list(zip(TARGETS, (1, 2, 3, 3), strict=True)))
def test_leaps_of_the_targets(target: str, leap: int) -> None:
    """The instrument finds on data what is said of the targets."""
    toy = HypercubeFourier(d=6, sets=TARGETS[target])
    assert float(measured(toy.objective)) == leap


def test_planted_exponents_are_found() -> None:
    """The paper's powers: exponents to a hundredth, a supported; b and c as well."""
    found = CLAIM().analyse(_results(_PAPER))
    assert found["a"].numbers["exponent, three at once (leap 3)"].value == pytest.approx(2.0, abs=0.01)
    assert found["a"].effects[""].value == pytest.approx(1.0, abs=0.01)
    assert [_outcome(found, part) for part in "abc"] == [Outcome.SUPPORTED] * 3


def test_equal_exponents_are_refuted() -> None:
    """Nothing depends on the leap."""
    assert _outcome(CLAIM().analyse(_results(dict.fromkeys(TARGETS, 1.0)))) is Outcome.REFUTED


def test_a_control_like_the_staircase_forbids_support() -> None:
    """If the disjoint sum is as easy as the staircase, it was not the leap."""
    assert _outcome(CLAIM().analyse(_results(_PAPER | {"disjoint": 1.0}))) is Outcome.INCONCLUSIVE


def test_what_is_never_learnt_gives_no_verdict() -> None:
    """Neither for a target nor for the constant step."""
    results = _results(_PAPER)
    found = CLAIM().analyse(results)
    assert "not learnt" in found["d"].invalid
    assert not found["a"].invalid
    results.one(target="staircase", d=30)["time"][:] = -1
    assert "staircase was not learnt" in CLAIM().analyse(results)["a"].invalid


def test_the_constant_step_is_judged_by_itself() -> None:
    """It has the same powers less a half: the difference stays."""
    found = CLAIM().analyse(_results(_PAPER, constant=0.5))
    assert found["d"].effects[""].value == pytest.approx(1.0, abs=0.01)
    assert not found["d"].invalid


def test_the_best_step_is_chosen_and_slow_ones_given_up() -> None:
    """The constant step has the whole budget; a step that needs a quarter more than the best is not awaited."""
    cell = {"target": "staircase", "d": 8, "width": 32, "budget": 800}
    (_, times) = CLAIM().compute(cell, [0, 1])["time"]
    assert times.shape == (2, len(RATES))
    assert (times[:, 0] > 0).all()
    best = min(np.median(column) for column in times.T if (column > 0).all())
    assert times.max() <= max(times[:, 0].max(), 1.25 * max(best, np.median(times[:, 0])) + 10)
    assert (times[:, RATES.index(0.025)] == -1).all()


def test_runs_from_end_to_end(tmp_path: Path) -> None:
    """At the smallest scale, with its record and figure."""
    verdict = CLAIM().run(scale="test", workers=0, progress=False, folder=tmp_path)
    assert verdict.withheld.startswith("a test run")
    assert not verdict.invalid
    assert (tmp_path / "figure.svg").exists()
