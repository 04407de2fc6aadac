"""Writes docs/instruments.md and docs/mechanisms.md from the code: ``python docs/generate.py``."""

from __future__ import annotations

from pathlib import Path

from geartrain import instruments, mechanisms

HERE = Path(__file__).parent
SUBJECTS = {
    "objective": "an objective",
    "pair": "two objectives",
    "run": "a run",
    "history": "a run's history",
    "data": "the data of either",
}


def instruments_page() -> str:
    lines = [
        "# Instruments",
        "",
        "Made by `docs/generate.py`. `geartrain measure NAME TARGET` reads one; `help(geartrain.instruments.NAME)` says what",
        "the number means, what it costs, what it assumes and when it misleads.",
        "",
        "| instrument | of | unit | what it does |",
        "|---|---|---|---|",
    ]
    for name, item in instruments._registry.items():
        lines.append(f"| `{name}` | {SUBJECTS[item.spec.needs]} | {item.spec.unit} | {item.spec.summary} |")
    return "\n".join(lines) + "\n"


def mechanisms_page() -> str:
    lines = [
        "# Mechanisms",
        "",
        "Made by `docs/generate.py`. Weights are log-odds (kept / broken); not calibrated yet.",
        "",
    ]
    for mechanism in mechanisms.all_mechanisms():
        lines += [f"## `{mechanism.name}`: {mechanism.title}", "", mechanism.statement, ""]
        lines += ["| it predicts | expected | weight | because |", "|---|---|---|---|"]
        for p in mechanism.predictions:
            weight = f"+{p.weight:g} / −{p.counter:g}"
            lines.append(f"| {p.title} | {p.expect} | {weight} | {p.theory} |")
        lines += ["", f"**Remedy.** {mechanism.remedy}", ""]
        lines += [f"- Tried on a fork, *{i.name}*: {i.description}" for i in mechanism.interventions]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    (HERE / "instruments.md").write_text(instruments_page(), encoding="utf-8")
    (HERE / "mechanisms.md").write_text(mechanisms_page(), encoding="utf-8")
