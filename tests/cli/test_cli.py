"""Every command, exit code and message of the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import geartrain
from geartrain import instruments, mechanisms
from geartrain.builtin import _broken_digits
from geartrain.cli import main
from geartrain.cli._checks import file_name


def said(capsys, *argv):
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


BROKEN = _broken_digits.make_run().name


# ---------------------------------------------------------------- diagnose


def test_a_built_in_run(capsys, tmp_path, diagnosed):
    code, out, err = said(
        capsys, "diagnose", "digits", "--out", str(tmp_path / "new" / "folder"), "--seed", "4"
    )
    assert code == 0
    assert "Nothing is wrong." in out
    assert "printed by the user's step" in err
    report = tmp_path / "new" / "folder" / "digits.html"
    assert f"Report: {report}" in out
    assert report.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")
    (call,) = diagnosed.calls
    assert (call.budget, call.seed) == ("60s", 4)
    assert call.reproduce == "geartrain diagnose digits --budget 60s --seed 4"


def test_progress_is_plain_where_there_is_no_terminal(capsys, tmp_path, diagnosed):
    _, _, err = said(capsys, "diagnose", "digits", "--out", str(tmp_path))
    lines = [line for line in err.splitlines() if line.startswith("Diagnosing digits:")]
    assert [re.search(r"(\d+) %", line)[1] for line in lines] == ["0", "50", "100"]


@pytest.mark.parametrize("target", ["mytrain.py:make_run", "mytrain:make_run"])
def test_a_run_of_ones_own(capsys, script, diagnosed, target):
    code, out, err = said(capsys, "diagnose", target, "--seed", "3", "--budget", "2min")
    assert code == 0
    assert (script.parent / "geartrain-reports" / "mine-3.html").is_file()
    assert "made by the user's code" in err
    assert "made by" not in out
    assert diagnosed.calls[0].budget == "2min"


def test_a_function_without_arguments(capsys, script, diagnosed):
    assert said(capsys, "diagnose", f"{script}:plain")[0] == 0
    weights = [call.run.model.weight for call in diagnosed.calls]
    assert said(capsys, "diagnose", f"{script}:plain")[0] == 0
    assert torch.equal(weights[0], diagnosed.calls[1].run.model.weight)


def test_json_is_the_only_thing_on_standard_output(capsys, script, diagnosed):
    code, out, err = said(capsys, "diagnose", "mytrain.py:make_run", "--json")
    assert code == 0
    assert json.loads(out)["name"] == "mine 0"
    assert "Report: " in err


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (
            ["diagnos", "digits"],
            2,
            "There is no command 'diagnos'. Did you mean 'diagnose'? See geartrain --help.",
        ),
        (
            ["diagnose", "digit"],
            2,
            "There is no built-in run named 'digit'. Did you mean 'digits'? For a run of",
        ),
        (["diagnose", "zzz"], 2, "named 'zzz'. Known: breast-cancer, diabetes, digits, mnist, text."),
        (["diagnose", "mytrain.py"], 2, "mytrain.py names no function; write mytrain.py:make_run"),
        (["diagnose", "mytrian.py:make_run"], 2, "There is no file mytrian.py. Did you mean 'mytrain.py'"),
        (
            ["diagnose", "nowhere/x.py:make_run"],
            2,
            "There is no file nowhere/x.py. There is no Python file in that",
        ),
        (
            ["diagnose", "mytrain.py:make_rum"],
            2,
            "mytrain.py has no function 'make_rum'. Did you mean 'make_run'?",
        ),
        (
            ["diagnose", "mytrain.py:constant"],
            2,
            "mytrain.py:constant is an int; it must be a function that returns",
        ),
        (
            ["diagnose", ":make_run"],
            2,
            "TARGET is ':make_run'; allowed: a built-in name, FILE.py:FUNCTION or mod",
        ),
        (
            ["diagnose", "no_such_module:make_run"],
            2,
            "There is no module 'no_such_module'. Modules are looked for in",
        ),
        (
            ["diagnose", "mytrain.py:plain", "--device", "cuda"],
            1,
            "--device cuda was asked for, but PyTorch finds no",
        ),
        (
            ["diagnose", "digits", "--device", "cuda:7"],
            1,
            "--device cuda:7 was asked for, but PyTorch finds no CUDA",
        ),
        (
            ["diagnose", "digits", "--device", "mps"],
            1,
            "--device mps was asked for, but PyTorch finds none here",
        ),
        (["diagnose", "digits", "--device", "gpu"], 2, "--device is 'gpu'; allowed: cpu, cuda, cuda:N, mps."),
        (
            ["diagnose", "digits", "--budget", "soon"],
            2,
            "--budget: budget is 'soon'; allowed: a positive time",
        ),
        (["diagnose", "digits", "--budget", "-3s"], 2, ""),
        (
            ["diagnose", "digits", "--out", "mytrain.py"],
            1,
            "The report folder mytrain.py is a file. Choose another with --out FOLDER.",
        ),
        (
            ["diagnose", "digits", "--out", "/proc/reports"],
            1,
            "The report folder /proc/reports cannot be written to",
        ),
        (
            ["diagnose", "ruined.py:make_run"],
            1,
            "ruined.py could not be loaded: ModuleNotFoundError: No module named",
        ),
        (
            ["diagnose", "ruined:make_run"],
            1,
            "ruined could not be loaded: No module named 'no_such_package_at_all'.",
        ),
        (
            ["diagnose", "mytrain.py:number"],
            1,
            "mytrain.py:number returned an int; it must return a geartrain.Run.",
        ),
        (
            ["diagnose", "mytrain.py:greedy"],
            1,
            "mytrain.py:greedy needs the arguments size; it may only need seed",
        ),
        (["diagnose", "mytrain.py:broken"], 1, "ValueError: the data file is missing"),
        (["diagnose", "mytrain.py:leaves"], 1, "mytrain.py:leaves called exit(3) before it returned"),
        (["diagnose", "leaver.py:make_run"], 1, "leaver.py called exit() while it was loaded; put what runs"),
        (["diagnose", "leaver:make_run"], 1, "leaver called exit() while it was loaded; put what runs"),
        (["diagnose", "/tmp/folder:make_run"], 2, "/tmp/folder is no Python file; a file is written FILE.py"),
        (["diagnose"], 2, "geartrain diagnose needs TARGET. See geartrain diagnose --help."),
        (["measure"], 2, "geartrain measure needs NAME and TARGET. See geartrain measure --help."),
        (
            ["diagnose", "digits", "--bugdet", "3s"],
            2,
            "geartrain diagnose has no option '--bugdet'. Did you mean '--budget'",
        ),
        (["diagnose", "digits", "--nonsense=1"], 2, "geartrain diagnose has no option '--nonsense'."),
        (["diagnose", "digits", "more"], 2, "Unrecognized options: more. See geartrain diagnose --help."),
        (["--nonsense"], 2, "Unrecognized options: --nonsense. See geartrain --help."),
        (["diagnose", "digits", "--seed", "x"], 2, "--seed is 'x'; it must be a whole number. See gear"),
        (
            ["measure", "hessian_trac", "digits"],
            2,
            "There is no instrument named 'hessian_trac'. Did you mean",
        ),
        (["measure", "hessian_trace", "digits", "--steps", "-1"], 2, "--steps is -1; it must be 0 or more."),
        (["measure", "hessian_trace", "digits", "--budget", "much"], 2, "--budget: budget is 'much'"),
        (
            ["completion", "powershell"],
            2,
            "invalid choice 'powershell' for argument 'shell'. Expected one of",
        ),
    ],
)
def test_what_cannot_be(capsys, script, diagnosed, argv, code, message):
    got, out, err = said(capsys, *argv)
    assert got == code
    assert out == ""
    assert not list(script.parent.glob("geartrain-reports/*"))
    assert not diagnosed.calls  # found out before the long work
    assert "Traceback" not in err
    if message:
        line = next(line for line in err.splitlines() if line.startswith("geartrain: "))
        assert "│" not in err  # one line, no box
        assert line.startswith(f"geartrain: {message}") or message in line


def test_a_device_that_the_function_cannot_take(capsys, script, diagnosed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    code, _, err = said(capsys, "diagnose", "mytrain.py:plain", "--device", "cuda")
    assert code == 2
    assert "--device cuda was asked for, but mytrain.py:plain takes no device; let it accept one." in err
    assert said(capsys, "diagnose", "digits", "--device", "cuda:1")[0] == 1


def test_training_code_that_raises(capsys, script, diagnosed, monkeypatch):
    diagnosed.error = RuntimeError("mat1 and mat2\nshapes cannot be multiplied")
    code, _, err = said(capsys, "diagnose", "digits", "--out", str(script.parent))
    assert code == 1
    assert "geartrain: RuntimeError: mat1 and mat2 shapes cannot be multiplied\n" in err
    assert "Set GEARTRAIN_TRACEBACK=1 to see where it happened." in err
    assert "Traceback" not in err
    monkeypatch.setenv("GEARTRAIN_TRACEBACK", "1")
    _, _, err = said(capsys, "diagnose", "digits", "--out", str(script.parent))
    assert "Traceback (most recent call last)" in err


def test_an_interruption_outside_the_diagnosis(capsys, script, diagnosed):
    diagnosed.error = KeyboardInterrupt()
    code, _, err = said(capsys, "diagnose", "digits", "--out", str(script.parent))
    assert code == 1
    assert "interrupted before there was anything to show" in err


def test_an_interrupted_diagnosis_is_shown(capsys, tmp_path, diagnosed):
    diagnosed.verdicts = {"digits": {"interrupted": True}}
    code, out, _ = said(capsys, "diagnose", "digits", "--out", str(tmp_path))
    assert code == 0
    assert "Ended early" in out


# ---------------------------------------------------------------- measure and the lists


def test_measure(capsys, script):
    code, out, err = said(capsys, "measure", "hessian_trace", "mytrain.py:make_run", "--steps", "3")
    assert code == 0
    assert re.match(r"hessian_trace = [-\d.e]+ ℓ/θ² \(exact\)", out)
    assert "unit    ℓ/θ²" in out
    assert "status  " in out
    assert re.search(r"cost    .*products", out)
    assert "hessian_trace of mine 0 after 3 steps costs" in err


def test_measure_lists_the_entries_of_vectors(capsys, script):
    code, out, _ = said(capsys, "measure", "hessian_spectrum", "mytrain.py:make_run")
    assert code == 0
    assert len(re.findall(r"^  \S+: [-\d.e]+ ± [-\d.e]+$", out, re.M)) >= 3


def test_a_long_vector_is_cut_short(capsys, script):
    code, out, _ = said(capsys, "measure", "hessian_density", "mytrain.py:make_run")
    assert code == 0
    assert re.search(r"^  \.\.\. and \d+ more; --json prints them all$", out, re.M)
    assert len(out.splitlines()) < 30
    assert re.search(r"^  -?\d\.\d{1,6}: ", out, re.M)  # labels as people write numbers


def test_measure_where_there_is_nothing_to_measure(capsys, script):
    code, out, err = said(capsys, "measure", "dead_units", "mytrain.py:make_run")
    assert code == 0
    assert out.startswith("dead_units: no value (not applicable)\n")
    assert "NaN" not in out
    assert "costs 1 forward pass." in err


def test_measure_as_json(capsys, script):
    code, out, _ = said(capsys, "measure", "hessian_trace", "mytrain.py:make_run", "--json", "--budget", "5")
    assert code == 0
    assert json.loads(out)["name"] == "hessian_trace"


@pytest.mark.parametrize(("command", "registry"), [("instruments", instruments), ("mechanisms", mechanisms)])
def test_lists(capsys, command, registry):
    code, out, _ = said(capsys, command)
    assert code == 0
    assert all(name in out for name in registry.names())
    code, out, _ = said(capsys, command, "--json")
    rows = json.loads(out)
    assert sorted(row["name"] for row in rows) == registry.names()
    assert all(row["summary"] for row in rows)


# ---------------------------------------------------------------- demo


def test_demo_right(capsys, tmp_path, diagnosed):
    diagnosed.verdicts = {BROKEN: {"healthy": False}}
    code, out, _ = said(capsys, "demo", "--out", str(tmp_path))
    assert code == 0
    assert "The healthy run: right, healthy is what was expected." in out
    assert "Its broken twin: right, lr_too_high is what was planted." in out
    assert {p.name for p in tmp_path.iterdir()} == {f"{file_name(BROKEN)}.html", "digits.html"}
    assert sum(call.budget for call in diagnosed.calls) <= 60


@pytest.mark.parametrize(
    "verdicts",
    [
        {BROKEN: {"healthy": True}},
        {BROKEN: {"healthy": False, "mechanism": "label_noise"}},
        {"digits": {"healthy": False}, BROKEN: {"healthy": False}},
    ],
)
def test_demo_wrong(capsys, tmp_path, diagnosed, verdicts):
    diagnosed.verdicts = verdicts
    code, out, _ = said(capsys, "demo", "--out", str(tmp_path))
    assert code == 1
    assert "WRONG" in out


# ---------------------------------------------------------------- help, version, completion


def test_help_and_version(capsys):
    for argv in ([], ["--help"], ["-h"], ["diagnose", "--help"], ["measure", "-h"]):
        code, out, _ = said(capsys, *argv)
        assert code == 0
        assert "geartrain" in out
    assert said(capsys, "--version")[1] == "geartrain 0.1.0\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(capsys, shell):
    code, out, _ = said(capsys, "completion", shell)
    assert code == 0
    assert "diagnose" in out
    assert "instruments" in out


# ---------------------------------------------------------------- as a process


SOURCE = str(Path(geartrain.__file__).parents[1])
ENVIRONMENT = {**os.environ, "PYTHONPATH": SOURCE}


def process(*argv, cwd):
    return subprocess.run(
        [sys.executable, "-m", "geartrain.cli", *argv],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from geartrain.cli import main; assert main(['--help']) == 0;"
        "heavy = {'torch', 'numpy', 'scipy', 'jinja2', 'sklearn'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_process_answers_with_codes(script):
    done = process("diagnose", "mytrain.py:make_run", "--budget", "3s", "--json", cwd=script.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "mine 0"
    assert (script.parent / "geartrain-reports" / "mine-0.html").is_file()
    wrong = process("diagnose", "mytrain.py:nothing", cwd=script.parent)
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1


def test_a_terminal_without_unicode_loses_letters_and_not_the_result(script):
    for argv in (["instruments"], ["diagnose"]):
        done = subprocess.run(
            [sys.executable, "-m", "geartrain.cli", *argv],
            cwd=script.parent,
            env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            check=False,
        )
        assert b"UnicodeEncodeError" not in done.stderr
        assert done.returncode == (0 if argv == ["instruments"] else 2)
    assert done.stderr.splitlines() == [
        b"geartrain: geartrain diagnose needs TARGET. See geartrain diagnose --help."
    ]


def test_a_reader_that_goes_away_is_no_error(script):
    command = f"{sys.executable} -m geartrain.cli mechanisms | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=script.parent,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Error" not in done.stderr


def test_measure_on_other_data_with_options(capsys, script):
    code, out, err = said(
        capsys, "measure", "hessian_spectrum", "breast-cancer", "--on", "validation", "--probe", "20",
        "--set", "k=3", "operator=ggn",
    )  # fmt: skip
    assert code == 0, err
    assert len([line for line in out.splitlines() if line.startswith("  ")]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "k3"], "--set 'k3' is not OPTION=VALUE, such as k=20."),
        (["--set", "kk=3"], "hessian_spectrum has no option 'kk'."),
        (["--set", "generator=3"], "--set cannot give generator; use --seed."),
        (
            ["--other", "mytrain.py:make_run"],
            "hessian_spectrum measures one state; --other is for instruments",
        ),
        (["--probe", "-1"], "--probe is -1; it must be 0 (all examples) or more."),
    ],
)
def test_measure_refuses_odd_options(capsys, script, words, message):
    code, _, err = said(capsys, "measure", "hessian_spectrum", "mytrain.py:make_run", *words)
    assert code == 2
    assert message in err
