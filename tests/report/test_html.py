from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from geartrain.diagnosis.result import Diagnosis
from geartrain.records import BudgetReport
from geartrain.report import html

VOID = {"meta", "link", "input", "br", "hr", "img", "col"}


class Page(HTMLParser):
    """Reads a page, notes every tag that does not close where it should, and collects what it says."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"style", "script"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


@pytest.fixture(scope="session")
def bare(healthy: Diagnosis) -> Diagnosis:
    """Interrupted before anything was measured."""
    return dataclasses.replace(
        healthy,
        findings=(),
        ruled_out=(),
        curves=(),
        forks=(),
        measurements={},
        spectrum=None,
        setting={},
        budget=BudgetReport(60.0, 0.1, {}, ""),
        calibration="",
        interrupted=True,
    )


@pytest.fixture(params=["healthy", "too_high", "ugly", "bare"])
def diagnosis(request: pytest.FixtureRequest) -> Diagnosis:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[html.render, html.render_notebook], ids=["page", "notebook"])
def rendered(request: pytest.FixtureRequest, diagnosis: Diagnosis) -> str:
    return request.param(diagnosis)


def test_every_tag_closes_where_it_should(rendered: str) -> None:
    assert Page(rendered).faults == []


def test_nothing_is_loaded_from_anywhere(rendered: str) -> None:
    page = Page(rendered)
    loads = page.values("src") + page.values("href") + page.values("xlink:href") + page.values("action")
    assert all(target.startswith(("#", "data:")) for target in loads)
    assert not re.search(r"https?://|@import", rendered)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", rendered))


def test_ids_are_unique_and_references_lead_somewhere(rendered: str) -> None:
    page = Page(rendered)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    named = [name for value in page.values("aria-labelledby") for name in value.split()]
    clips = re.findall(r"url\(#([^)]*)\)", rendered)
    anchors = [target[1:] for target in page.values("href") if target.startswith("#")]
    assert {*named, *clips, *anchors, *page.values("for")} <= set(ids)


def test_drawings_have_no_impossible_coordinates(rendered: str) -> None:
    page = Page(rendered)
    assert not any(re.search("nan|inf", path, re.IGNORECASE) for path in page.values("d"))
    numbers = [float(x) for path in page.values("d") for x in re.findall(r"-?\d+\.?\d*", path)]
    assert all(abs(x) < 1e5 for x in numbers)


def test_is_small_enough_to_mail(rendered: str) -> None:
    assert len(rendered.encode()) < 600_000


def test_the_same_diagnosis_gives_the_same_page(diagnosis: Diagnosis) -> None:
    assert html.render(diagnosis) == html.render(diagnosis)


def test_names_of_the_user_are_text_and_nothing_else(ugly: Diagnosis) -> None:
    for rendered in (html.render(ugly), html.render_notebook(ugly)):
        assert "<script>alert" not in rendered
        assert "<script>alert('x')</script> & \"run\"" in Page(rendered).text
        assert "\x1b" not in rendered


def test_only_our_own_script_runs(ugly: Diagnosis) -> None:
    page = Page(html.render(ugly))
    assert sum(html.render(ugly).count(tag) for tag in ("<script>", "<script ")) == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script" not in html.render_notebook(ugly)


def test_page_starts_with_the_verdict_and_what_would_help(too_high: Diagnosis) -> None:
    text = Page(html.render(too_high)).text
    order = [
        too_high.sentence,
        "Step size too high 97%",
        "Uncalibrated. The weights are the defaults",
        "What would help",
        "Divide the learning rate by ten",
        "1.45 → 0.596",
        "training loss at the end: original → with this change",
        "+38.2 ± 1.4%",
        "of the baseline loss won back",
        "The run",
        "Why",
        "What was tried",
        "Curvature spectrum",
        "What was ruled out, and why",
        "Surprises",
        "Everything measured",
        "Cost",
        "How to reproduce",
    ]
    places = [text.find(words) for words in order]
    assert -1 not in places
    assert places == sorted(places)


@pytest.mark.parametrize(
    "words",
    [
        "incomplete explanation",
        "knob-only",
        "1.840 ± 0.070",
        "−0.610 ± 0.030",
        "not measured",
        "Note: The budget did not reach it.",
        "tried on a fork",
        "Gearsiness 5",
        "✗ diverged",
        "ended early",
        "within two standard errors of no change",
        "✗ fork: 3 of 31 values not finite, the first at step 512.",
        "184 (residual 2.0×10⁻⁶)",
        "share below zero 12%",
        "Vanishing gradients 9% share of units that never fire: expected above 0.5, measured 0.0310 ± 0.0040",
        "12 values, 0.00100 to 2.00",
        "not applicable: The step is the user's own.",
        "Quoted 60.0 s, spent 57.9 s.",
        "Skipped for lack of budget: local learning coefficient, fork: lr / 100.",
        'gt.diagnose(run, budget="60s", seed=0)',
        "torch 2.9.0",
    ],
)
def test_page_says(too_high: Diagnosis, words: str) -> None:
    assert words in Page(html.render(too_high)).text


def test_leading_findings_are_open_and_the_rest_folded(too_high: Diagnosis) -> None:
    page = html.render(too_high)
    assert '<article class="finding" id="lr_too_high">' in page
    assert '<article class="finding" id="batch_too_small">' in page
    assert '<details class="finding" id="too_few_steps">' in page


def test_a_healthy_page_is_useful(healthy: Diagnosis) -> None:
    text = Page(html.render(healthy)).text
    assert "Healthy nearest: Overfitting 31%" in text
    assert "Nothing needs to be changed." in text
    assert "Best of 2 changes tried, “batch × 4”: +1.2 ± 1.4% within two standard errors of no change" in text
    assert "26 mechanisms weighed against 3 measurements and 2 forks." in text
    assert "Uncalibrated" not in text


def test_an_interrupted_diagnosis_says_so(bare: Diagnosis) -> None:
    text = Page(html.render(bare)).text
    for words in (
        "Ended early.",
        "No curves were recorded.",
        "No forks were run.",
        "Not measured.",
        "Nothing was ruled out.",
    ):
        assert words in text


def test_every_drawing_has_a_title_and_a_description(rendered: str) -> None:
    for drawing in re.findall(r'<svg [^>]*role="img".*?</svg>', rendered, re.DOTALL):
        assert "<title" in drawing
        assert "<desc" in drawing


def test_numbers_under_the_pointer_are_plain_json(diagnosis: Diagnosis) -> None:
    for data in Page(html.render(diagnosis)).values("data-plot"):
        plot = json.loads(data, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
        assert all(len(line["x"]) == len(line["y"]) for line in plot["lines"])


def test_diagnosis_displays_itself(too_high: Diagnosis, tmp_path) -> None:
    assert too_high.to_html(tmp_path / "report.html").read_text(encoding="utf-8") == html.render(too_high)
    assert too_high._repr_html_() == html.render_notebook(too_high)
