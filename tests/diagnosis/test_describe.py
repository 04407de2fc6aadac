"""The verdict's sentence where little was seen, and the numbers in a finding's sentence."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from geartrain.diagnosis import describe, weigh
from geartrain.records import Gear


def evidence(*, steps: int, complete: bool, forks: bool) -> Any:
    watched = SimpleNamespace(steps=steps, complete=complete)
    history = SimpleNamespace(failure=None)
    return SimpleNamespace(watched=watched, history=history, forks={"lr / 10": object()} if forks else {})


@pytest.mark.parametrize(
    ("steps", "complete", "forks", "sentence"),
    [
        (300, True, True, "Nothing is wrong with this run."),
        (1200, False, True, "Nothing is wrong with this run in the 1,200 steps that were watched."),
        (
            1,
            False,
            False,
            "Nothing wrong was found in the one step that was watched, but there was no time to try anything.",
        ),
    ],
)
def test_a_run_is_not_called_healthy_because_nothing_was_tried(
    steps: int, complete: bool, forks: bool, sentence: str
) -> None:
    assert describe.verdict((), evidence(steps=steps, complete=complete, forks=forks), False) == sentence


@pytest.mark.parametrize(
    ("error", "shown"), [(0.88, "0.419 ± 0.88"), (0.0, "0.419"), (float("nan"), "0.419")]
)
def test_a_finding_tells_the_error_of_what_it_rests_on(error: float, shown: str) -> None:
    gear = Gear("fork:lr / 10", "gain", "above 0.1", "", 0.419, error, "1", "kept", 1.0, 1.2, False, True)
    assert weigh._value(gear) == shown
