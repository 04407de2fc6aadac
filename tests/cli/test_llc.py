"""``geartrain llc``."""

from __future__ import annotations

import json

import pytest

from geartrain.cli import main

SCRIPT = """
import torch
import geartrain as gt


def tiny(seed=0):
    torch.manual_seed(seed)
    x = torch.randn(64, 2)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    data = (x, x.sum(1, keepdim=True) + 0.3 * torch.randn(64, 1))
    return gt.Run(model, torch.nn.functional.mse_loss, optimizer, train=data, batch_size=64, name="tiny")
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SCRIPT)
    return "mine.py:tiny"


def test_prints_and_writes_the_page(script, tmp_path, capsys):
    assert main(["llc", script, "--steps", "60", "--set", "chains=2", "draws=40", "--out", "pages"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("learning_coefficient = ")
    assert "2 chains x 40 draws" in out
    assert "Sampler health: pages/tiny-llc.html" in out
    assert "tiny" in (tmp_path / "pages" / "tiny-llc.html").read_text()


def test_json(script, capsys):
    assert main(["llc", script, "--steps", "60", "--json", "--set", "chains=2", "draws=40"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["name"] == "learning_coefficient"
    assert "Sampler health: " in told.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "-1"], "--steps is -1; it must be 0 or more."),
        (["--set", "stride=2"], "learning_coefficient has no option 'stride'."),
        (["--budget", "soon"], "budget is 'soon'; allowed: a positive time"),
    ],
)
def test_bad_usage(script, capsys, words, message):
    assert main(["llc", script, *words]) == 2
    assert message in capsys.readouterr().err
