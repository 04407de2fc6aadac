"""A diagnosis that is made up, so that the command line is tested without minutes of measuring."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from geartrain import diagnosis
from geartrain.diagnosis import Diagnosis
from geartrain.records import BudgetReport, Finding

SCRIPT = """
import torch
from torch import nn
import geartrain as gt
from neighbour import STEP

def make_run(seed=0, device="cpu"):
    print("made by the user's code")
    torch.manual_seed(seed)
    model = nn.Linear(3, 2).to(device)
    data = torch.randn(16, 3), torch.randint(2, (16,))
    return gt.Run(model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=STEP), data, batch_size=8,
                  epochs=3, name=f"mine {seed}")

def plain():
    return make_run()

def greedy(size):
    return make_run()

def number():
    return 3

def broken():
    raise ValueError("the data file\\nis missing")

def leaves():
    raise SystemExit(3)

constant = 3
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    (tmp_path / "mytrain.py").write_text(SCRIPT)
    (tmp_path / "neighbour.py").write_text("STEP = 0.1\n")
    (tmp_path / "ruined.py").write_text("import no_such_package_at_all\n")
    (tmp_path / "leaver.py").write_text("raise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "mytrain", raising=False)
    monkeypatch.delitem(__import__("sys").modules, "neighbour", raising=False)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    return tmp_path / "mytrain.py"


def make_up(
    run, *, healthy: bool = True, mechanism: str = "lr_too_high", interrupted: bool = False
) -> Diagnosis:
    finding = Finding(
        mechanism,
        "Some title",
        "It says.",
        "It says here.",
        0.97,
        (),
        "Do this.",
        None,
        None,
        None,
        0,
        True,
        "theorem",
        False,
    )
    return Diagnosis(
        name=run.name,
        sentence="Nothing is wrong." if healthy else "The step is too large.",
        healthy=healthy,
        findings=() if healthy else (finding,),
        ruled_out=(),
        surprises=(),
        curves=(),
        forks=(),
        measurements={},
        spectrum=None,
        setting={},
        budget=BudgetReport(60.0, 1.0, {"watch": 1.0}, "plan"),
        calibration="Uncalibrated.",
        interrupted=interrupted,
        reproduce="",
        versions={},
        seed=0,
        created="2030-01-01T00:00:00+00:00",
    )


@pytest.fixture
def diagnosed(monkeypatch):
    """Calls of the made-up `diagnose`; `verdicts` by name of the run says what it answers."""
    seen = SimpleNamespace(calls=[], verdicts={}, error=None)

    def diagnose(run, budget="60s", *, seed=0, progress=None, reproduce=None):
        seen.calls.append(SimpleNamespace(run=run, budget=budget, seed=seed, reproduce=reproduce))
        if seen.error is not None:
            raise seen.error
        print("printed by the user's step")
        for share, words in ((0.0, "watching"), (0.55, "trying"), (0.56, "trying"), (1.0, "done")):
            progress(share, words)
        return dataclasses.replace(make_up(run, **seen.verdicts.get(run.name, {})), reproduce=reproduce)

    monkeypatch.setattr(diagnosis, "diagnose", diagnose)
    return seen
