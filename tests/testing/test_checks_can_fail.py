"""Each promise can be broken, and the check for it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from geartrain import testing
from geartrain.budget import Budget
from geartrain.errors import InputError, UnknownNameError
from geartrain.instruments._base import instrument
from geartrain.records import Cost, Measurement, State, Status
from geartrain.testing import ConformanceError, check_instrument

DOC = """Measure something.

**Cost** nothing. **Assumes** nothing. **Misleads** always.

Returns:
    A number.
"""
ESTIMATE = Status(State.ESTIMATE, "A number.")


def made(
    body: Callable[..., Any],
    *,
    doc: str = DOC,
    price: Cost | None = None,
    unit: str = "1",
    family: str | None = "mine",
) -> Any:
    def mine(
        objective: Any,
        *,
        generator: torch.Generator | None = None,
        budget: Budget | int | str | None = None,
    ) -> Measurement:
        return body(objective, generator, budget)

    mine.__doc__ = doc
    quoted = price or Cost()
    return instrument(needs="objective", unit=unit, price=lambda subject: quoted, family=family)(mine)


def answer(value: Any = 1.0, status: Status = ESTIMATE, **more: Any) -> Measurement:
    return Measurement("mine", value, "1", status, **more)


def test_an_honest_one_passes() -> None:
    check_instrument(made(lambda *_: answer()))


def test_unknown_checks_and_subjects_are_named() -> None:
    with pytest.raises(
        UnknownNameError, match=r"no conformance check named 'speeks'\. Did you mean 'speaks'"
    ):
        check_instrument(made(lambda *_: answer()), checks=["speeks"])
    with pytest.raises(UnknownNameError, match="no test subject named 'clasifier'"):
        check_instrument(made(lambda *_: answer()), checks=["answers"], subject="clasifier")


def test_only_instruments_can_be_checked() -> None:
    with pytest.raises(InputError, match="has no spec; make it with the decorator"):
        check_instrument(lambda objective: answer())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": ""}, "has a unit"),
        ({"doc": ""}, "says in one line"),
        ({"doc": DOC.replace("**Misleads**", "")}, r"has \*\*Misleads\*\*"),
        ({"family": ""}, "belongs to a family"),
    ],
)
def test_silence_is_found(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_instrument(made(lambda *_: answer(), **options), checks=["speaks"])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (3.0, "returns a Measurement"),
        (Measurement("yours", 1.0, "1", ESTIMATE), "returns its own name"),
        (Measurement("mine", 1.0, "", ESTIMATE), "returns a unit"),
        (answer(status=Status(State.ESTIMATE, "no full stop")), "is a sentence"),
        (answer(standard_error=-1.0), "no negative error"),
        (answer(status=Status(State.EXACT, "Exact."), standard_error=0.1), "no error where it is exact"),
        (answer(status=Status(State.NOT_APPLICABLE, "There is none.")), "has no value where there is none"),
        (answer(np.ones(3), dims=("eig",), standard_error=np.ones(2)), "an error for each value"),
        (answer(np.ones(3), dims=("eig",), coords={"eig": [1, 2]}), "labels every entry"),
    ],
)
def test_malformed_answers_are_found(result: Any, message: str) -> None:
    instrument = made(lambda *_: answer())
    with pytest.raises(ConformanceError, match=message):
        testing.instruments._well_formed(instrument, result)


def test_chance_is_found() -> None:
    with pytest.raises(ConformanceError, match="repeats its value bit for bit"):
        check_instrument(made(lambda *_: answer(float(torch.rand(())))), checks=["answers_twice_alike"])


def change_parameter(objective: Any, *_: Any) -> Measurement:
    with torch.no_grad():
        next(objective.model.parameters()).add_(1e-7)
    return answer()


def change_gradient(objective: Any, *_: Any) -> Measurement:
    objective.model(torch.ones(1, 4)).sum().backward()
    return answer()


def change_mode(objective: Any, *_: Any) -> Measurement:
    objective.model.eval()
    return answer()


def leave_a_hook(objective: Any, *_: Any) -> Measurement:
    objective.model.register_forward_hook(lambda *_: None)
    return answer()


def draw(*_: Any) -> Measurement:
    torch.rand(1)
    return answer()


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (change_parameter, "parameters"),
        (change_gradient, "gradients"),
        (change_mode, "training modes"),
        (leave_a_hook, "hooks"),
        (draw, "torch random numbers"),
    ],
)
def test_traces_are_found(body: Callable[..., Any], what: str) -> None:
    with pytest.raises(ConformanceError, match=f"leaves the program as it was.*changed:.*{what}"):
        check_instrument(made(body), checks=["answers"])


def spend(gradients: int) -> Callable[..., Measurement]:
    def body(objective: Any, *_: Any) -> Measurement:
        for _ in range(gradients):
            objective.gradient()
        return answer(float(objective.gradient().norm()))

    return body


@pytest.mark.parametrize(("quoted", "spent"), [(0, 3), (20, 4)])
def test_wrong_prices_are_found(quoted: int, spent: int) -> None:
    with pytest.raises(ConformanceError, match=f"{quoted} gradients quoted, {spent + 1} spent"):
        check_instrument(made(spend(spent), price=Cost(gradients=quoted)), checks=["keeps_its_price"])


def test_deaf_ears_for_the_budget_are_found() -> None:
    def body(objective: Any, *_: Any) -> Measurement:
        for _ in range(40):
            objective.hvp(torch.ones(objective.num_params))
        return answer()

    with pytest.raises(ConformanceError, match="says that a budget of 0 was too little"):
        check_instrument(made(body, price=Cost(products=40)), checks=["obeys_an_empty_budget"])


def test_numbers_from_a_broken_model_are_found() -> None:
    def body(objective: Any, *_: Any) -> Measurement:
        return answer(float(torch.nan_to_num(objective.parameters()).norm()))

    with pytest.raises(ConformanceError, match="gives no number for a broken model"):
        check_instrument(made(body), checks=["refuses_nan"])


def test_swallowed_interruptions_are_found() -> None:
    def body(objective: Any, *_: Any) -> Measurement:
        try:
            objective.gradient()
        except KeyboardInterrupt:
            return answer(-1.0)
        return answer()

    with pytest.raises(ConformanceError, match="says that it was interrupted"):
        check_instrument(made(body), checks=["survives_interruption"])


def test_traces_of_interruptions_are_found() -> None:
    def body(objective: Any, *_: Any) -> Measurement:
        objective.model.eval()
        objective.gradient()
        objective.model.train()
        return answer()

    with pytest.raises(ConformanceError, match=r"when it is interrupted.*training modes"):
        check_instrument(made(body), checks=["survives_interruption"])


def test_a_taste_for_one_precision_is_found() -> None:
    def body(objective: Any, *_: Any) -> Measurement:
        if objective.dtype is torch.float64:
            return Measurement(
                "mine", float("nan"), "1", Status(State.NOT_APPLICABLE, "Not in double precision.")
            )
        return answer()

    with pytest.raises(ConformanceError, match="answers in both precisions"):
        check_instrument(made(body), checks=["respects_the_type"])


def test_muttered_refusals_are_found() -> None:
    def body(objective: Any, *_: Any) -> Measurement:
        if objective.num_examples == 1:
            raise InputError("too few")
        return answer()

    with pytest.raises(ConformanceError, match="refuses in a sentence"):
        check_instrument(made(body), checks=["measures_one_example"])
