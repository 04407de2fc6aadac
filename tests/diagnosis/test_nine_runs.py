"""Nine runs on digits: the planted cause comes first, and the healthy run is met with silence."""

from __future__ import annotations

import pytest
from tests import planted

import geartrain as gt

SEEDS = (0, 1, 2)
CASES = [(fault, 0) for fault in planted.CAUSES if fault != "healthy"]
"""Their other seeds are in evidence/diagnosis, which runs all of them."""


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "seed"), CASES)
def test_names_the_planted_cause_first(fault: str, seed: int) -> None:
    diagnosis = gt.diagnose(planted.planted_run(fault, seed), "60s")
    assert not diagnosis.healthy
    first = diagnosis.findings[0]
    assert first.mechanism in planted.CAUSES[fault]
    assert first.probability > 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_is_silent_on_the_healthy_one(seed: int) -> None:
    diagnosis = gt.diagnose(planted.planted_run("healthy", seed), "60s")
    assert diagnosis.healthy
    assert all(f.probability <= 0.5 for f in diagnosis.findings)
    assert len(diagnosis.forks) >= 2, "healthy means that remedies were tried and did not help"
