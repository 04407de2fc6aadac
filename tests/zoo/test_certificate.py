"""The certificate passes what is true, fails what is false, and says why."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from geartrain import zoo
from geartrain.errors import InputError, UnknownNameError
from geartrain.objective import Objective
from geartrain.records import Measurement, State, Status
from geartrain.report import certificate as page
from geartrain.zoo import Toy, Truth, certificate
from geartrain.zoo._base import trial_result
from geartrain.zoo.certificate import check_quantity, check_toy, verdict
from geartrain.zoo.checking import check_all


def measured(value: Any = 1.0, error: Any = 0.0, state=State.ESTIMATE) -> Measurement:
    dims = ("point",) if np.ndim(value) else ()
    return Measurement("mine", value, "1", Status(state, "So it is."), standard_error=error, dims=dims)


def judged(truth, value, error=0.0, state=State.ESTIMATE, **more):
    value, error = (
        np.asarray(value, dtype=float),
        np.broadcast_to(np.asarray(error, dtype=float), np.shape(value)),
    )
    found = measured(value if value.ndim else float(value), state=state)
    return verdict(value, error, Truth(truth, **more), found)


# ------------------------------------------------------------------ the rule


@pytest.mark.parametrize(
    ("value", "error", "tolerance", "passes"),
    [
        (10.09, 0.0, 0.01, True),
        (10.11, 0.0, 0.01, False),
        (10.39, 0.1, 0.0, True),
        (10.41, 0.1, 0.0, False),
        (10.49, 0.1, 0.01, True),
        (10.51, 0.1, 0.01, False),
        (10.11, math.nan, 0.01, False),
    ],
)
def test_tolerance_and_four_standard_errors_add_up(value, error, tolerance, passes):
    z, relative, passed, _ = judged(10.0, value, error, tolerance=tolerance)
    assert passed is passes
    assert relative == pytest.approx(abs(value - 10) / 10)
    assert math.isnan(z) or (abs(z) <= 4) is passes


def test_size_is_that_of_the_largest_entry_and_one_for_zero():
    assert judged(np.array([100.0, 0.0]), [100.0, 0.9], tolerance=0.01)[2]
    assert not judged(np.array([100.0, 0.0]), [100.0, 1.1], tolerance=0.01)[2]
    assert judged(0.0, 0.009, tolerance=0.01)[2]
    assert judged(1e-17, 2e-17, tolerance=1e-9)[2]


def test_an_error_excuses_nothing_where_the_truth_is_strict():
    assert judged(1.0, 1.1, 0.1)[2]
    assert not judged(1.0, 1.1, 0.1, strict=True)[2]


def test_an_error_as_large_as_the_truth_proves_nothing():
    *_, passed, why = judged(1.0, 1.0, 0.6)
    assert not passed
    assert "too large to prove" in why
    assert judged(0.0, 0.1, 0.6)[2]  # of nothing there is no share


@pytest.mark.parametrize("state", [State.NOT_CONVERGED, State.OUT_OF_BUDGET, State.INTERRUPTED])
def test_an_answer_that_is_not_final_fails_with_its_own_words(state):
    *_, passed, why = judged(1.0, 1.0, state=state)
    assert not passed
    assert why == f"{state.value}: So it is."


def test_where_there_is_no_such_quantity_the_instrument_must_say_so():
    assert judged(math.nan, math.nan, state=State.NOT_APPLICABLE)[2]
    assert not judged(math.nan, 1.0)[2]
    assert not judged(1.0, math.nan, state=State.NOT_APPLICABLE)[2]


def test_another_shape_fails():
    *_, passed, why = judged(np.ones(2), np.ones(3))
    assert not passed
    assert "shape (2,)" in why


# ------------------------------------------------------------------ a toy of our own


class _Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, scale):
        return scale * self.x


@dataclass(frozen=True)
class Bowl(Toy):
    """½ Σ x² a, a = (4, 1, 1)."""

    title: ClassVar[str] = "Bowl"

    def make_objective(self) -> Objective:
        rows = torch.tensor([[4.0, 1.0, 1.0]], dtype=torch.float64).sqrt()
        return Objective(
            _Point(), lambda out, y: 0.5 * ((out - y) ** 2).sum(), (rows, torch.zeros_like(rows))
        )

    def truths(self) -> dict[str, Truth]:
        return {
            "hessian_trace": Truth(6.0),
            "the_top": Truth(4.0, 1e-3, instrument="hessian_spectrum", options={"k": 1}, extract=np.max),
            "curvature_along_gradient.best_step": Truth(18 / 66, reading="best_step"),
            "coin": Truth(0.5, 0.0, trial=lambda g: _coin(g)),
            "ntk_alignment": Truth(math.nan),
        }

    def draw(self, figure):
        figure.subplots().set_xlabel("x")


def _coin(generator) -> Measurement:
    throws = torch.randint(2, (400,), generator=generator).double().numpy()
    return trial_result("coin", throws.mean(), throws.std(ddof=1) / 20)


def test_every_truth_is_met():
    cells = check_toy(Bowl())
    assert [c.quantity for c in cells] == list(Bowl().truth)
    assert [c.passed for c in cells] == [True] * 5, [c.explanation for c in cells]
    assert [c.instrument for c in cells][:4] == [
        "hessian_trace",
        "hessian_spectrum",
        "curvature_along_gradient",
        "trial",
    ]
    assert all(c.cost.seconds > 0 for c in cells)


@pytest.mark.parametrize(
    "quantity", ["hessian_trace", "the_top", "curvature_along_gradient.best_step", "coin"]
)
def test_a_wrong_truth_fails(quantity, monkeypatch):
    right = Bowl().truths()

    def wrong(self):
        return right | {quantity: dataclasses.replace(right[quantity], value=1.5 * right[quantity].value)}

    monkeypatch.setattr(Bowl, "truths", wrong)
    failed = [c for c in check_toy(Bowl()) if not c.passed]
    assert [c.quantity for c in failed] == [quantity]
    assert failed[0].unexplained
    assert failed[0].explanation.startswith("Outside a tolerance")


def test_a_broken_truth_is_a_failed_cell_and_the_others_still_count(monkeypatch):
    broken = {
        "nothing": Truth(1.0, instrument="hessian_trase"),
        "hessian_trace": Truth(6.0, reading="trase"),
        "weight_norm": Truth(1.0, subject=lambda toy: 1 / 0),
        "curvature_along_gradient": Truth(66 / 18),
    }
    monkeypatch.setattr(Bowl, "truths", lambda self: broken)
    cells = check_toy(Bowl())
    assert [c.passed for c in cells] == [False, False, False, True]
    assert "Did you mean" in cells[0].explanation
    assert "no detail 'trase'" in cells[1].explanation
    assert cells[2].explanation == "ZeroDivisionError: division by zero"
    assert all(c.unexplained for c in cells[:3])


def test_cells_depend_on_the_seed_only():
    def again(seed):
        return [
            c.value for c in check_toy(Bowl(), torch.Generator().manual_seed(seed)) if c.quantity == "coin"
        ]

    assert again(1) == again(1) != again(2)
    alone = check_quantity(Bowl(), "coin").value
    assert alone == next(c.value for c in check_toy(Bowl()) if c.quantity == "coin")


def test_an_extract_carries_the_error_along():
    value, error = certificate._through(lambda v: v[0] * v[1], np.array([2.0, 5.0]), np.array([0.1, 0.2]))
    assert value == 10.0
    assert error == pytest.approx(math.hypot(5 * 0.1, 2 * 0.2))


def test_an_unknown_quantity_is_refused():
    with pytest.raises(InputError, match="knows no truth named 'x'; it knows: hessian_trace"):
        check_quantity(Bowl(), "x")


# ------------------------------------------------------------------ the whole certificate


@pytest.fixture(scope="module")
def certified():
    told = []
    found = check_all(["quadratic"], progress=lambda share, words: told.append((share, words)))
    return found, told


def test_all_of_a_toy(certified):
    found, told = certified
    assert found.passed, found.failures
    assert len(found.cells) == len(zoo.get("quadratic").truth)
    assert found.filled == len({c.instrument for c in found.cells} - {"trial"})
    assert told[0][0] == 0.0
    assert told[-1] == (1.0, "done")
    assert found.sentence.startswith(f"{len(found.cells)} of {len(found.cells)} quantities agree with theory")


def test_json_has_the_promised_keys(certified):
    plain = json.loads(json.dumps(certified[0].to_dict(), allow_nan=False))
    wanted = {"toy", "instrument", "value", "truth", "z", "relative_error", "passed", "explanation", "cost"}
    assert all(wanted <= cell.keys() for cell in plain["cells"])


def test_quick_takes_each_instrument_once():
    found = check_all(["step-chain"], quick=True)
    tools = [c.instrument for c in found.cells]
    assert len(tools) == len(set(tools))
    assert "trial" not in tools


def test_what_time_does_not_allow_is_listed():
    found = check_all(["quadratic"], seconds=1e-9)
    assert not found.cells
    assert len(found.skipped) == len(zoo.get("quadratic").truth)
    assert "quantities left: out of time" in found.sentence


def test_unknown_toys_are_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'quadratic'"):
        check_all(["quadrtic"])


def test_the_page_is_complete_and_loads_nothing(certified):
    found, _ = certified
    wrong = dataclasses.replace(found.cells[0], passed=False, toy="<b>evil</b>", value=np.arange(9.0))
    doubt = dataclasses.replace(found.cells[1], passed=False, state="not converged", z=math.nan)
    html = page.render(dataclasses.replace(found, cells=(wrong, doubt, *found.cells[2:])))
    assert html.lstrip().startswith("<!doctype html>")
    assert "<b>evil</b>" not in html
    assert "&lt;b&gt;evil" in html
    assert "(9 values)" in html
    assert "failed, and says so" in html
    assert 'src="' not in html
    assert "http" not in html.replace("http-equiv", "")
    assert all(f">{c.instrument}</th>" in html for c in found.cells)
