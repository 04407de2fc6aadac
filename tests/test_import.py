"""``import geartrain`` stays light, and every public name is there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import geartrain

# What torch, numpy and scipy bring along themselves is theirs; the probe below subtracts it.
PROBE = """
import json, sys
def tops():
    return {name.partition(".")[0] for name in sys.modules}
import torch, numpy, scipy, scipy.linalg, scipy.stats, scipy.optimize, scipy.sparse, scipy.special, scipy.interpolate
import torch.func, torch.utils.data, torch.nn.attention
before = tops()
import geartrain
STATEMENT
own = {m for m in tops() - before if not m.startswith("_") and m not in sys.stdlib_module_names}
print(json.dumps(sorted(own)))
"""


def loaded(statement: str) -> list[str]:
    code = PROBE.replace("STATEMENT", statement)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "geartrain.Objective, geartrain.Run, geartrain.measure",
        "[geartrain.instruments.get(name) for name in geartrain.instruments.names()]",
        "geartrain.diagnose",
        "[geartrain.mechanisms.get(name) for name in geartrain.mechanisms.names()]",
    ],
)
def test_only_torch_numpy_and_scipy_are_loaded(statement):
    assert loaded(statement) == ["geartrain"]


def test_import_alone_loads_nothing_else():
    code = "import sys, geartrain; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", geartrain.__all__)
def test_public_names_are_there(name):
    assert getattr(geartrain, name) is not None
    assert name in dir(geartrain)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'geartrain' has no attribute 'nothing'"):
        geartrain.nothing  # noqa: B018


def test_the_package_says_that_it_is_typed():
    from importlib.resources import files

    assert files("geartrain").joinpath("py.typed").is_file()
