from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from geartrain.diagnosis.result import Diagnosis
from geartrain.report import terminal


@pytest.fixture(params=["healthy", "too_high", "ugly"])
def diagnosis(request: pytest.FixtureRequest) -> Diagnosis:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("width", [48, 80, 100])
def test_no_line_is_wider_than_the_terminal(
    diagnosis: Diagnosis, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert max(cell_len(line) for line in terminal.render(diagnosis).splitlines()) <= width


def test_plain_text_has_no_control_characters(diagnosis: Diagnosis) -> None:
    assert not [c for c in terminal.render(diagnosis) if ord(c) < 32 and c != "\n"]


def test_verdict_first_then_gears_remedy_and_cost(
    too_high: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = terminal.render(too_high)
    order = [
        "The step size is too high",
        "Uncalibrated: The weights",
        "Step size too high, 97% [incomplete explanation]",
        "✓  step size x sharpness / 2",
        "✗  share of update along the top",
        "~  oscillation period in steps",
        "·  sharpness falls when the step",
        "Remedy: Divide the learning rate by ten",
        "Fork “lr / 10”: training loss 1.45 → 0.596, +38.2 ± 1.4%",
        "Batch too small, 58%",
        "Possible, not likely: Too few steps 22%",
        "Ruled out (23): Vanishing gradients",
        "Surprises: The update lies less",
        "Cost: 57.9 s spent",
    ]
    places = [text.find(words) for words in order]
    assert -1 not in places
    assert places == sorted(places)


def test_a_healthy_run_names_the_nearest_suspicions(
    healthy: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = " ".join(terminal.render(healthy).split())
    assert text.startswith(healthy.sentence)
    assert "Nearest suspicions: Overfitting (31%) and Step size too low (12%)." in text


def test_brackets_in_a_name_are_no_markup(ugly: Diagnosis) -> None:
    assert "[bold]" in terminal.render(ugly)


def test_colour_only_where_the_console_has_it(too_high: Diagnosis) -> None:
    coloured, plain = io.StringIO(), io.StringIO()
    terminal.print_diagnosis(
        too_high, Console(file=coloured, force_terminal=True, color_system="standard", width=80)
    )
    terminal.print_diagnosis(too_high, Console(file=plain, width=80))
    assert "\x1b[" in coloured.getvalue()
    assert "\x1b[" not in plain.getvalue()


def test_diagnosis_prints_itself(too_high: Diagnosis) -> None:
    assert str(too_high) == terminal.render(too_high)


def test_lines_stay_readable_on_a_wide_terminal(too_high: Diagnosis) -> None:
    out = io.StringIO()
    terminal.print_diagnosis(too_high, Console(file=out, width=240))
    assert max(cell_len(line) for line in out.getvalue().splitlines()) <= 110


def test_a_heading_ends_without_a_space(too_high: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    terminal.print_diagnosis(too_high, Console(file=out, width=80))
    assert "Batch too small, 58%\n" in out.getvalue()
