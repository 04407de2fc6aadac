"""The evidence book: complete pages that load nothing, with the numbers of the record."""

from __future__ import annotations

import re

import pytest
from tests.claims import small_effect

from geartrain import claims
from geartrain.errors import InputError
from geartrain.report import book


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(claims._registry, "names", lambda: ["other_claim", "small_effect"])
    monkeypatch.setattr(claims._registry, "families", lambda: {"tests": ["other_claim", "small_effect"]})
    monkeypatch.setitem(claims._registry._loaded, "small_effect", small_effect.CLAIM)
    other = type(
        "Other", (small_effect.CLAIM,), {"title": "Another <b>one</b>", "__module__": "x.other_claim"}
    )
    monkeypatch.setitem(claims._registry._loaded, "other_claim", other)


@pytest.fixture
def record(tmp_path):
    claims.get("small-effect").run(folder=tmp_path / "a" / "b", workers=0, progress=False)
    return tmp_path / "a"


def test_pages_hold_the_verdict_and_load_nothing(record, tmp_path):
    index = book.write(record, tmp_path / "book")
    page = (tmp_path / "book" / "small-effect.html").read_text()
    verdict = claims.load(record / "b")
    assert book.effect(verdict.effect) in page
    assert verdict.registration in page
    assert "geartrain claims run small-effect" in page
    assert "What would change our mind" in page
    assert "<svg" in page
    assert not re.search(r'(src|href)="(?!index\\.html|data:|https://arxiv)[a-z]+:', page)
    text = index.read_text()
    assert 'href="small-effect.html"' in text
    assert "not run" in text
    assert "Another &lt;b&gt;one&lt;/b&gt;" in text


def test_the_best_record_is_shown(record, tmp_path):
    claims.get("small-effect").run(folder=tmp_path / "a" / "quick", workers=0, progress=False, scale="quick")
    assert book.best_records(tmp_path / "a") == {"small-effect": record / "b"}


def test_a_changed_rule_is_said_on_the_page(record, tmp_path, monkeypatch):
    monkeypatch.setattr(small_effect.CLAIM, "version", 2)
    book.write(record, tmp_path / "book")
    page = (tmp_path / "book" / "small-effect.html").read_text()
    assert "No verdict: the rule or the analysis changed after the data" in page


def test_nothing_to_show(tmp_path):
    with pytest.raises(InputError, match="geartrain claims run NAME"):
        book.write(tmp_path, tmp_path / "book")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a `b < c` d", "<p>a <code>b &lt; c</code> d</p>"),
        ("arXiv 2003.01897", '<p><a href="https://arxiv.org/abs/2003.01897">arXiv:2003.01897</a></p>'),
        ("- one\n- two", "<ul><li>one</li><li>two</li></ul>"),
    ],
)
def test_prose(text, shown):
    assert book.prose(text) == shown
