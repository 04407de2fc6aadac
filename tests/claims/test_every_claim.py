"""What every claim of the book has to be: complete, cheap to look at, and with a record that its rule still judges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geartrain import claims
from geartrain.claims._base import SCALES, SECTIONS
from geartrain.claims.rules import Every, Interval, Some

EVIDENCE = Path(__file__).parents[2] / "evidence" / "claims"
RECORDS = sorted(p.parent.name for p in EVIDENCE.glob("*/record.json"))


@pytest.mark.parametrize("name", claims.names())
def test_is_complete(name):
    claim = claims.get(name)
    assert claim.name == name
    assert claim.title
    assert claim.statement.endswith(".")
    assert claim.scope.endswith(".")
    assert claim.source.quotes
    assert claim.ledger
    assert claim.seeds >= 8
    assert set(SECTIONS) <= set(claim.text), set(SECTIONS) - set(claim.text)
    assert any(part.bears for part in claim.parts.values())
    for scale in SCALES:
        cells = claim.cells(scale)
        assert cells
        assert json.loads(json.dumps(cells)) == cells
    assert len(claim.cells("quick")) <= len(claim.cells("full")) <= len(claim.cells("long"))


@pytest.mark.parametrize("name", claims.names())
def test_has_a_control_that_can_refute(name):
    rules = [part.rule for part in claims.get(name).parts.values()]
    bands = [r.rule if isinstance(r, (Every, Some)) else r for r in rules]
    assert any(not isinstance(band, Interval) or band.control is not None for band in bands)


@pytest.mark.parametrize("name", RECORDS)
def test_the_record_is_judged_by_todays_rule(name):
    said = json.loads((EVIDENCE / name / "record.json").read_bytes())
    verdict = claims.load(EVIDENCE / name)
    assert not verdict.withheld
    assert verdict.outcome == said["outcome"]
    for part, recorded in zip(verdict.parts, said["parts"], strict=True):
        assert part.outcome == recorded["outcome"]
        for effect_name, effect in part.finding.effects.items():
            assert effect.value == pytest.approx(recorded["effects"][effect_name]["value"], nan_ok=True)
