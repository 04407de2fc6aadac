"""``geartrain claims list | show | run | report``: results, files, exit codes and messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.claims import small_effect

from geartrain import claims
from geartrain.cli import main


@pytest.fixture(autouse=True)
def known(monkeypatch: Any) -> None:
    monkeypatch.setattr(claims._registry, "names", lambda: ["small_effect"])
    monkeypatch.setattr(claims._registry, "families", lambda: {"tests": ["small_effect"]})
    monkeypatch.setitem(claims._registry._loaded, "small_effect", small_effect.CLAIM)


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["claims", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_list(capsys: Any) -> None:
    code, out, _ = said(capsys, "list")
    assert code == 0
    assert "small-effect" in out
    code, out, _ = said(capsys, "list", "--json")
    assert json.loads(out)[0]["summary"] == small_effect.CLAIM.statement


def test_a_claim_that_cannot_be_loaded_does_not_spoil_the_list(capsys: Any, monkeypatch: Any) -> None:
    def broken(name: str) -> Any:
        raise ImportError("no such thing")

    monkeypatch.setattr(claims, "get", broken)
    code, out, _ = said(capsys, "list")
    assert code == 0
    assert "cannot be loaded" in out


def test_show_tells_statement_protocol_and_rule(capsys: Any) -> None:
    code, out, _ = said(capsys, "show", "small-effect")
    assert code == 0
    for part in (
        small_effect.CLAIM.statement,
        "Protocol",
        "Supported if the 95 % interval lies above 0.500",
        "Scope:",
    ):
        assert part in out
    code, out, _ = said(capsys, "show", "small-effect", "--json")
    assert json.loads(out)["parts"]["a"]["bears"] is True


def test_run_prints_the_verdict_and_keeps_the_record(capsys: Any, tmp_path: Path) -> None:
    code, out, err = said(capsys, "run", "small-effect", "--out", str(tmp_path), "--workers", "0")
    assert code == 0
    assert "small-effect is supported" in out
    assert "minutes on two cores" in err
    assert (tmp_path / "record.json").exists()


def test_run_all_quick_as_json(capsys: Any, tmp_path: Path) -> None:
    code, out, _ = said(capsys, "run", "--all", "--quick", "--json", "--out", str(tmp_path), "--workers", "0")
    assert code == 0
    (verdict,) = json.loads(out)
    assert verdict["outcome"] == "inconclusive"
    assert (tmp_path / "small-effect" / "record.json").exists()


def test_report_writes_the_book(capsys: Any, tmp_path: Path) -> None:
    said(capsys, "run", "small-effect", "--out", str(tmp_path / "a"), "--workers", "0")
    code, out, _ = said(capsys, "report", "--records", str(tmp_path), "--out", str(tmp_path / "book"))
    assert code == 0
    assert str(tmp_path / "book" / "index.html") in out


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (("run",), 2, "Name the claims to run, or --all"),
        (("run", "small-effect", "--all"), 2, "Name the claims to run, or --all"),
        (("run", "small-effect", "--quick", "--long"), 2, "exclude one another"),
        (("run", "small-effect", "--budget", "soon"), 2, "--budget"),
        (("run", "small-efect"), 1, "small-effect"),
        (("rn",), 2, "There is no command 'claims rn'"),
        (("run", "small-effect", "--quik"), 2, "has no option '--quik'"),
        (("report", "--records", "nowhere"), 1, "no record of a claim"),
    ],
)
def test_mistakes(capsys: Any, tmp_path: Path, monkeypatch: Any, argv: Any, code: int, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    found, _, err = said(capsys, *argv)
    assert found == code
    assert told in " ".join(err.split())
