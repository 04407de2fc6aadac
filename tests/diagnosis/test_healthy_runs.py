"""Healthy runs of other kinds: no finding above one half."""

from __future__ import annotations

import pytest
from tests import healthy

import geartrain as gt


@pytest.mark.slow
@pytest.mark.parametrize("name", list(healthy.HEALTHY))
def test_nothing_is_found(name: str) -> None:
    diagnosis = gt.diagnose(healthy.HEALTHY[name](0), "15s")
    assert diagnosis.healthy, diagnosis.sentence
    assert max((f.probability for f in diagnosis.findings), default=0.0) <= 0.5
