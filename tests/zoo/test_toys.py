"""Every toy of the registry keeps every promise; toys of other packages are found and held to the same ones."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from geartrain import testing, zoo
from geartrain.errors import InputError, UnknownNameError
from geartrain.testing import ConformanceError, check_toy
from geartrain.testing.toys import varied
from geartrain.zoo import Truth
from geartrain.zoo.checking import check_all
from geartrain.zoo.curvature.quadratic import Quadratic

# These are kept by each toy's own test (all truths, a few at other parameters, its picture), not here once more.
BY_THE_TOYS_OWN_TEST = {"tells_the_truth", "holds_elsewhere", "can_be_drawn"}
PROMISES = sorted(set(testing.TOY_CHECKS) - BY_THE_TOYS_OWN_TEST)


@pytest.mark.parametrize("name", zoo.names())
def test_every_toy_keeps_its_promises(name: str) -> None:
    check_toy(zoo.kind(name), checks=PROMISES)


@pytest.mark.parametrize("name", [n for names in zoo.families().values() for n in names])
def test_every_toy_has_a_test_of_its_own_that_meets_its_truths(name: str) -> None:
    family = next(f for f, names in zoo.families().items() if name in names)
    path = Path(__file__).parent / family / f"test_{name.replace('-', '_')}.py"
    assert path.is_file(), f"{path} is missing"
    text = path.read_text(encoding="utf-8")
    assert re.search(r"\b(assert_agrees|check_toy|check_all)\(", text)
    assert "assert_draws(" in text
    assert re.search(r"def test_truths_hold_(for_(random|other)|at|whatever)_?", text)


def test_drawn_parameters_differ_and_are_allowed() -> None:
    drawn = [varied(zoo.get("quadratic"), seed) for seed in range(20)]
    for name in ("seed", "dimension", "spectrum", "largest", "covariance"):
        assert len({str(toy.parameters[name]) for toy in drawn}) > 1, name
    assert varied(zoo.get("quadratic"), 3) == varied(zoo.get("quadratic"), 3)


# ------------------------------------------------------------------ broken promises are found


@dataclass(frozen=True)
class Fine(Quadratic):
    """A toy that keeps all promises, to be broken one at a time."""

    called: ClassVar[str] = "fine"
    dimension: int = 8
    examples: int = 12
    noise: float = 0.0


Fine.__module__ = Quadratic.__module__  # which explains it


def test_a_fine_toy_passes() -> None:
    check_toy(Fine)


def _wrong(toy: Any) -> dict[str, Truth]:
    right = Quadratic.truths(toy)
    trace = right["hessian_trace"]
    return right | {"hessian_trace": dataclasses.replace(trace, value=2.0 * trace.value)}


def _only_at_home(toy: Any) -> dict[str, Truth]:
    home = Fine().eigenvalues.sum()
    trace = dataclasses.replace(Quadratic.truths(toy)["hessian_trace"], value=float(home))
    return {"hessian_trace": trace}


def _chance(toy: Any) -> dict[str, Truth]:
    """Draws from the program's own random numbers."""
    return {"hessian_trace": Truth(float(torch.rand(())))}


def _one(**how: Any) -> Any:
    return lambda toy: {"hessian_trace": dataclasses.replace(Truth(1.0), **how)}


@pytest.mark.parametrize(
    ("promise", "changes", "message"),
    [
        ("explains_itself", {"title": ""}, "has a title"),
        ("explains_itself", {"__module__": "geartrain.errors"}, "is explained at the top of its file"),
        ("knows_something", {"truths": lambda toy: {}}, "knows something exactly"),
        (
            "knows_something",
            {"truths": lambda toy: {"hessian_trace": 3.0}},
            "states a Truth about hessian_trace",
        ),
        ("knows_something", {"truths": _one(value=float("inf"))}, "is finite about hessian_trace"),
        ("knows_something", {"truths": _one(tolerance=1.5)}, r"has a tolerance in \[0, 1\)"),
        ("knows_something", {"truths": _one(source=" ")}, "cites or derives"),
        ("knows_something", {"truths": _one(instrument="trase")}, "names an instrument"),
        ("is_made_alike", {"truths": _chance}, "is the same every time it is made"),
        ("is_made_alike", {"__post_init__": lambda toy: torch.rand(1)}, "leaves the random numbers alone"),
        ("tells_the_truth", {"truths": _wrong}, "tells the truth"),
        ("holds_elsewhere", {"truths": _only_at_home}, "holds at other parameters"),
        ("can_be_drawn", {"draw": lambda toy, figure: None}, "draws a picture"),
        ("can_be_drawn", {"draw": lambda toy, figure: figure.add_subplot()}, "labels what it draws"),
    ],
)
def test_a_broken_promise_is_found(promise: str, changes: dict[str, Any], message: str) -> None:
    broken = dataclasses.dataclass(frozen=True)(type("Fine", (Fine,), {"__module__": __name__, **changes}))
    with pytest.raises(ConformanceError, match=f"fine: broken promise '.*{message}"):
        check_toy(broken, checks=[promise])


def test_an_unknown_promise_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no conformance check named 'tells_lies'"):
        check_toy(Fine, checks=["tells_lies"])


# ------------------------------------------------------------------ toys of other packages

FOREIGN = '''
"""Springs: the energy of independent springs.

L(x) = 1/2 sum k x^2 with stiffnesses k. Every spring moves for itself, so the Hessian is diagonal.

**What it shows.** Nothing new; it shows how a package adds a toy of its own.

**Derivation.** The second derivative of 1/2 k x^2 is k.

**What to vary.** The stiffnesses.

Sources: textbook.
Ledger: none.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import Toy, Truth


class Ends(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.x = nn.Parameter(torch.ones(count, dtype=torch.float64))

    def forward(self):
        return self.x


@dataclass(frozen=True)
class Springs(Toy):
    """Independent springs."""

    called: ClassVar[str] = "my-springs"
    title: ClassVar[str] = "Springs"
    stiffness: tuple[float, ...] = (3.0, 2.0, 1.0)

    def __post_init__(self):
        if min(self.stiffness) <= 0:
            raise InputError("stiffness must be positive.")

    def make_objective(self):
        k = torch.tensor(self.stiffness, dtype=torch.float64)
        loss = lambda model, batch: 0.5 * (k * model() ** 2).sum() + 0 * batch.sum()
        return Objective(Ends(len(k)), data=[torch.zeros(1, 1).double()], batch_loss=loss)

    def truths(self):
        k = np.sort(self.stiffness)[::-1]
        return {
            "hessian_trace": Truth(float(k.sum()), source="Sum of the stiffnesses."),
            "hessian_spectrum": Truth(k, source="The stiffnesses.", options={"k": len(k), "confirm": True}),
        }

    def draw(self, figure):
        axes = figure.add_subplot()
        axes.bar(range(len(self.stiffness)), self.stiffness)
        axes.set(xlabel="spring", ylabel="stiffness")


class Nothing:
    pass
'''


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with entry points, as pip would leave it."""
    (tmp_path / "springs_for_geartrain.py").write_text(FOREIGN)
    metadata = tmp_path / "springs_for_geartrain-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: springs-for-geartrain\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[geartrain.zoo]\n"
        "my-springs = springs_for_geartrain:Springs\n"
        "other-name = springs_for_geartrain:Springs\n"
        "no-toy = springs_for_geartrain:Nothing\n"
        "gone = no_such_package:Toy\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(zoo._registry, "_loaded", dict(zoo._registry._loaded))
    return tmp_path


def test_a_toy_of_another_package_is_found_and_kept_to_its_promises(foreign: Path) -> None:
    assert "my-springs" in zoo.names()
    assert "my-springs" in zoo.families()[""]
    assert zoo.get("my-springs", stiffness=(5.0, 1.0)).truth["hessian_trace"].value == 6.0
    check_toy(zoo.kind("my-springs"))
    check_toy(zoo.kind("my-springs"), parameters=[{"stiffness": (7.0, 0.5)}, {"stiffness": (1.0,)}])


def test_it_is_checked_and_composed_like_our_own(foreign: Path) -> None:
    found = check_all(["my-springs", "my-springs + 2 * quadratic"])
    assert found.passed
    assert {c.toy for c in found.cells} == {"my-springs", "my-springs + 2 * quadratic"}


def test_a_toy_that_cannot_be_loaded_spoils_nothing_else(foreign: Path) -> None:
    found = check_all(["gone", "my-springs"])
    assert [c.passed for c in found.cells] == [False, True, True]
    assert "No module named 'no_such_package'" in found.cells[0].explanation


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other-name", "The toy 'other-name' calls itself 'my-springs'. Keep it in a file of that name"),
        ("no-toy", "it must be a class derived from zoo.Toy"),
        ("my-sprigns", "There is no toy named 'my-sprigns'. Did you mean 'my-springs'"),
    ],
)
def test_mistakes_of_other_packages_are_told(foreign: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        zoo.kind(name)
