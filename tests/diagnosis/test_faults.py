"""Every planted fault is found: its mechanism, or one that is an equally good name for it, comes first."""

import warnings

import pytest
from tests import faults, planted

import geartrain as gt
from geartrain import mechanisms

# Fault -> why it is not found yet.
KNOWN_MISSES: dict[str, str] = {}


def _marked(fault):
    reason = KNOWN_MISSES.get(fault)
    return pytest.param(fault, marks=pytest.mark.xfail(strict=True, reason=reason) if reason else ())


def diagnosed(fault):
    with warnings.catch_warnings():
        # One of the faults is what torch warns of here.
        warnings.filterwarnings("ignore", message="Using a target size")
        return gt.diagnose(faults.fault_run(fault), "30s")


@pytest.mark.parametrize("fault", [_marked(fault) for fault in faults.FAULTS])
def test_planted_fault_comes_first(fault):
    diagnosis = diagnosed(fault)
    assert not diagnosis.healthy
    first = diagnosis.findings[0]
    assert first.mechanism in faults.EXPECTED[fault]
    assert first.probability > 0.5


def test_known_misses_are_faults():
    assert set(KNOWN_MISSES) <= set(faults.FAULTS)


def test_every_mechanism_is_planted_somewhere():
    expected = [*faults.EXPECTED.values(), *(c for c in planted.CAUSES.values() if c)]
    assert {names[0] for names in expected} == set(mechanisms.names())
