"""``geartrain zoo list | show | train | plot | check``: results, files, exit codes and messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from geartrain import zoo
from geartrain.cli import main
from geartrain.zoo.certificate import Certificate


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["zoo", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def words(text: str) -> str:
    return " ".join(text.split())


# ---------------------------------------------------------------- list, show, train, plot


def test_the_list_names_every_toy(capsys: Any) -> None:
    code, out, _ = said(capsys, "list")
    assert code == 0
    for family, names in zoo.families().items():
        assert family in out
        assert all(re.search(rf"^{name} ", out, re.MULTILINE) for name in names)
    code, out, _ = said(capsys, "list", "--json")
    rows = json.loads(out)
    assert {row["name"] for row in rows} == set(zoo.names())
    assert all(row["title"] and row["summary"] for row in rows)


def test_a_toy_that_cannot_be_loaded_does_not_spoil_the_list(capsys: Any, monkeypatch: Any) -> None:
    kind = zoo.kind

    def broken(name: str) -> Any:
        if name == "quadratic":
            raise ImportError("no such thing")
        return kind(name)

    monkeypatch.setattr(zoo, "kind", broken)
    code, out, _ = said(capsys, "list")
    assert code == 0
    assert "cannot be loaded: ImportError: no such thing" in words(out)


def test_show_explains(capsys: Any) -> None:
    code, out, _ = said(capsys, "show", "quadratic", "--set", "largest=4.0", "spectrum=power-law")
    assert code == 0
    assert "quadratic: The quadratic" in out
    assert "  largest = 4.0\n  condition = 100.0" in out
    assert "hessian_spectrum = [4.000," in out
    code, out, _ = said(capsys, "show", "quadratic", "--json")
    plain = json.loads(out)
    assert plain["parameters"]["dimension"] == 24
    assert plain["truths"]["hessian_trace"]["instrument"] == "hessian_trace"
    assert plain["truths"]["best_contraction"]["instrument"] is None


def test_sums_are_written_as_they_are_meant(capsys: Any) -> None:
    code, out, _ = said(capsys, "show", "quadratic + 2 * pca-landscape")
    assert code == 0
    assert "quadratic + 2 * pca-landscape: A sum of toys" in out
    assert "hessian_trace = " in out


def test_train_prints_the_losses(capsys: Any) -> None:
    code, out, _ = said(capsys, "train", "quadratic", "--set", "step=1.0")
    assert code == 0
    losses = [float(x) for x in re.findall(r"step +\d+  loss (\S+)", out)]
    assert len(losses) == 12
    assert losses == sorted(losses, reverse=True)
    code, out, _ = said(capsys, "train", "quadratic", "--json")
    assert json.loads(out)["steps"] == zoo.get("quadratic").run.total_steps


def test_a_toy_without_a_run_says_which_have_one(capsys: Any) -> None:
    code, _, err = said(capsys, "train", "perceptron-prior")
    assert code == 1
    assert "These have a run: " in err
    assert "quadratic" in err


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_plot_draws_a_file(capsys: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"picture.{suffix}"
    code, out, _ = said(capsys, "plot", "step-chain", "--out", str(path))
    assert code == 0
    assert f"Picture: {path}" in out
    assert path.stat().st_size > 2000


def test_the_same_toy_gives_the_same_picture(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    said(capsys, "plot", "quadratic + step-chain")
    first = (tmp_path / "quadratic-step-chain.svg").read_bytes()
    said(capsys, "plot", "quadratic + step-chain")
    assert (tmp_path / "quadratic-step-chain.svg").read_bytes() == first


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["lst"], 2, "There is no command 'zoo lst'. Did you mean 'list' or 'plot'?"),
        (["show", "quadrtic"], 2, "There is no toy named 'quadrtic'. Did you mean 'quadratic'"),
        (["check", "quadrtic"], 2, "There is no toy named 'quadrtic'"),
        (["show", "quadratic + 2"], 2, "'2' is neither a name nor NUMBER * NAME"),
        (
            ["show", "quadratic", "--set", "size=3"],
            2,
            "quadratic has no parameter 'size'; it has: seed, dimen",
        ),
        (["show", "quadratic", "--set", "size"], 2, "--set 'size' is not PARAMETER=VALUE, such as seed=1."),
        (["show", "quadratic", "--set", "dimension=1"], 2, "dimension is 1; it must be 4 or more."),
        (["check", "--budget", "soon"], 2, "--budget: budget is 'soon'; allowed: a positive time"),
        (["check", "--out", "/proc/x"], 1, "The report folder /proc/x cannot be written to"),
        (["check", "--quik"], 2, "geartrain zoo check has no option '--quik'. Did you mean '--quick' or"),
        (["plot", "step-chain", "--out", "x.txt"], 1, "--out x.txt: Format 'txt' is not supported"),
    ],
)
def test_mistakes_are_told(
    capsys: Any, tmp_path: Path, monkeypatch: Any, argv: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found, out, err = said(capsys, *argv)
    assert found == code
    assert message in words(err)
    assert not out


# ---------------------------------------------------------------- check


def test_a_check_says_its_cost_and_writes_the_certificate(capsys: Any, tmp_path: Path) -> None:
    code, out, err = said(capsys, "check", "tiny-programs", "label-noise-hyperbola", "--out", str(tmp_path))
    assert code == 0
    assert re.match(r"\d+ quantities of 2 toys: (about \d+|less than 1) s\.", err)
    assert "quantities agree with theory: " in out
    assert f"Certificate: {tmp_path / 'certificate.html'}" in out
    page = (tmp_path / "certificate.html").read_text(encoding="utf-8")
    assert "<title>geartrain calibration certificate</title>" in page
    found = Certificate.from_dict(json.loads((tmp_path / "certificate.json").read_text(encoding="utf-8")))
    assert {c.toy for c in found.cells} == {"tiny-programs", "label-noise-hyperbola"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["certificate.html", "certificate.json"]


def test_json_is_the_only_thing_on_standard_output(capsys: Any, tmp_path: Path) -> None:
    code, out, _ = said(capsys, "check", "tiny-programs", "--json", "--out", str(tmp_path))
    assert code == 0
    plain = json.loads(out)
    assert plain["passed"] is True
    assert plain == json.loads((tmp_path / "certificate.json").read_text(encoding="utf-8"))


def test_what_disagrees_is_told_and_the_exit_code_is_1(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    import dataclasses

    kind = zoo.kind("tiny-programs")
    right = zoo.get("tiny-programs").truths()
    wrong = dataclasses.replace(right["hessian_trace"], value=2 * right["hessian_trace"].value + 1)
    monkeypatch.setattr(kind, "truths", lambda self: {**right, "hessian_trace": wrong})
    code, out, _ = said(capsys, "check", "tiny-programs", "--out", str(tmp_path))
    assert code == 1
    assert "tiny-programs: hessian_trace = " in out
    assert "1 failure unexplained." in out


def test_it_resumes(capsys: Any, tmp_path: Path) -> None:
    said(capsys, "check", "tiny-programs", "--out", str(tmp_path))
    code, _, err = said(capsys, "check", "tiny-programs", "--resume", "--out", str(tmp_path))
    assert code == 0
    count = len(zoo.get("tiny-programs").truth)
    assert f"{count} quantities of 1 toy, {count} of them kept from before: less than 1 s." in err


@pytest.mark.parametrize(
    ("there", "message"),
    [(None, "but there is none"), ("{}", "no certificate"), ("{", "JSON|delimiter|Expecting")],
)
def test_there_must_be_something_to_resume(
    capsys: Any, tmp_path: Path, there: str | None, message: str
) -> None:
    if there is not None:
        (tmp_path / "certificate.json").write_text(there)
    code, _, err = said(capsys, "check", "tiny-programs", "--resume", "--out", str(tmp_path))
    assert code == 1
    assert re.search(message, err)
    assert "Leave --resume out to begin anew." in err
    assert said(capsys, "check", "tiny-programs", "--out", str(tmp_path))[0] == 0


def test_a_small_budget_leaves_the_rest_and_says_so(capsys: Any, tmp_path: Path) -> None:
    code, out, _ = said(capsys, "check", "quadratic", "--budget", "1s", "--out", str(tmp_path))
    assert code == 0
    assert "left: out of time." in out
    assert said(capsys, "check", "quadratic", "--budget", "1ms", "--out", str(tmp_path))[0] == 1


def test_every_instrument_once(capsys: Any, tmp_path: Path) -> None:
    """The reduced form: a few seconds over the whole zoo."""
    code, out, err = said(capsys, "check", "--quick", "--out", str(tmp_path))
    assert code == 0, out + err
    found = json.loads((tmp_path / "certificate.json").read_text(encoding="utf-8"))
    tools = [cell["instrument"] for cell in found["cells"]]
    assert len(tools) == len(set(tools)) >= 85


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_keeps_what_there_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "geartrain.cli", "zoo", "check", "quadratic", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if " 10 %" in line or " 20 %" in line:
            break
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, out + err
    assert "it was interrupted before the rest" in out
    assert "Interrupted; what was done is kept. Go on with --resume." in err
    found = Certificate.from_dict(json.loads((tmp_path / "certificate.json").read_text(encoding="utf-8")))
    assert found.interrupted
    assert found.cells
    assert found.skipped
