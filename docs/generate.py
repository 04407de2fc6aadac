"""Writes the pages that are made from the code: ``python docs/generate.py``.

docs/instruments.md lists the instruments, docs/instruments/FAMILY.md explains them family by family, and
docs/mechanisms.md says what each mechanism predicts, docs/zoo.md lists the toys, and docs/zoo/NAME.md explains one, with
its picture docs/zoo/NAME.svg. docs/claims.md lists the claims with the verdicts of the records in evidence/claims.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from geartrain import claims, instruments, mechanisms, zoo
from geartrain.cli._zoo import picture
from geartrain.records import format_number

HERE = Path(__file__).parent
RECORDS = HERE.parent / "evidence" / "claims"
SUBJECTS = {
    "objective": "an objective",
    "pair": "two objectives",
    "run": "a run",
    "history": "a run's history",
    "data": "the data of either",
}
PARTS = ("Cost", "Assumes", "Misleads")


def pages() -> dict[str, str]:
    """Text of every generated page, by path relative to the docs folder."""
    made = {"instruments.md": instruments_page(), "mechanisms.md": mechanisms_page()}
    predictions = predicting()
    for family, names in own_families().items():
        made[f"instruments/{family}.md"] = family_page(family, names, predictions)
    made["zoo.md"] = zoo_page()
    made["claims.md"] = claims_page()
    return made | {f"zoo/{name}.md": toy_page(name) for names in own_toys().values() for name in names}


def own_families() -> dict[str, list[str]]:
    """Families of geartrain's own instruments; those of other packages have pages of their own."""
    return {family: names for family, names in instruments.families().items() if family}


def instruments_page() -> str:
    lines = [
        "# Instruments",
        "",
        "Made by `docs/generate.py`. `geartrain measure NAME TARGET` reads one; `help(geartrain.instruments.NAME)` has the formulas.",
        "Each name links to what the number means, what it costs, what it assumes and when it misleads.",
        "",
    ]
    for family, names in own_families().items():
        title = essay(family)[0].partition(":")[0]
        lines += [
            f"## [{title}](instruments/{family}.md)",
            "",
            "| instrument | of | unit | what it does |",
            "|---|---|---|---|",
        ]
        for name in names:
            spec = instruments.get(name).spec
            link = f"[`{name}`](instruments/{family}.md#{name})"
            lines.append(f"| {link} | {SUBJECTS[spec.needs]} | {cell(spec.unit)} | {cell(spec.summary)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def family_page(family: str, names: list[str], predictions: dict[str, list[str]]) -> str:
    first, rest = essay(family)
    lines = [f"# {first.rstrip('.')}", "", "Made by `docs/generate.py` from the code.", ""]
    lines += [rest, ""] if rest else []
    for name in names:
        item = instruments.get(name)
        found = parts_of(item)
        lines += [f'<a id="{name}"></a>', "", f"## `{name}`", "", found["summary"], ""]
        lines += [
            f"*Of {SUBJECTS[item.spec.needs]}; unit {item.spec.unit}.* `geartrain measure {name} digits`",
            "",
        ]
        lines += [line for part in PARTS if part in found for line in (f"**{part}** {found[part]}", "")]
        if "References" in found:
            lines += [f"**References** {found['References']}", ""]
        told = predictions.get(name, [])
        verdict = "; ".join(told) if told else "none; it is for looking."
        lines += [f"**Mechanisms that predict it** {verdict}", ""]
    return "\n".join(lines).rstrip() + "\n"


def essay(family: str) -> tuple[str, str]:
    """First line and the rest of what a family says about itself."""
    document = inspect.getdoc(importlib.import_module(f"geartrain.instruments.{family}")) or family
    first, _, rest = document.partition("\n")
    return first.strip(), rest.strip()


def parts_of(item: Any) -> dict[str, str]:
    """The paragraphs of an instrument's docstring that a reader of the docs wants."""
    document = inspect.getdoc(item) or ""
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", document)]
    found = {"summary": paragraphs[0]}
    for paragraph in paragraphs:
        for part in re.split(r"(?=\*\*(?:Cost|Assumes|Misleads)\*\*)", paragraph):
            match = re.match(r"\*\*(Cost|Assumes|Misleads)\*\*[:,]?\s*(.*)", part)
            if match:
                found[match[1]] = match[2].strip()
    references = re.search(r"^References:\s*\n(.*?)(?=^\S|\Z)", document, re.DOTALL | re.MULTILINE)
    if references:
        found["References"] = " ".join(references[1].split(">>>")[0].split())
    return found


def predicting() -> dict[str, list[str]]:
    """What mechanisms say about each instrument, directly or through a derived observable."""
    from geartrain.diagnosis.derived import parts

    told: dict[str, dict[str, None]] = {}
    for mechanism in mechanisms.all_mechanisms():
        for p in mechanism.predictions:
            line = f"[`{mechanism.name}`](../mechanisms.md#{mechanism.name}) ({p.title}: {p.expect})"
            for observable in re.split(r" [-|] ", p.observable):
                for source in parts(observable) or (observable,):
                    told.setdefault(re.split(r"[.@:]", source)[0], {})[line] = None
    return {name: list(lines) for name, lines in told.items()}


def mechanisms_page() -> str:
    lines = [
        "# Mechanisms",
        "",
        "Made by `docs/generate.py`. Weights are log-odds (kept / broken); not calibrated yet.",
        "",
    ]
    for mechanism in mechanisms.all_mechanisms():
        lines += [f'<a id="{mechanism.name}"></a>', ""]
        lines += [f"## `{mechanism.name}`: {mechanism.title}", "", mechanism.statement, ""]
        lines += ["| it predicts | expected | weight | because |", "|---|---|---|---|"]
        for p in mechanism.predictions:
            weight = f"+{p.weight:g} / −{p.counter:g}"
            lines.append(f"| {p.title} | {p.expect} | {weight} | {p.theory} |")
        lines += ["", f"**Remedy.** {mechanism.remedy}", ""]
        lines += [f"- Tried on a fork, *{i.name}*: {i.description}" for i in mechanism.interventions]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def claims_page() -> str:
    lines = [
        "# Claims",
        "",
        "Made by `docs/generate.py` from the claims' files and the records in `evidence/claims`. What is said about learning, as",
        "experiments that can come out against it: estimand, control, rule and seeds are registered before the data, and code",
        "decides from intervals. `geartrain claims show NAME` explains one, `run` repeats it, and",
        "`geartrain claims report --records evidence/claims` writes the book: a page for each, with figure, numbers and protocol.",
        "",
        "*Supported*: the whole 95 % interval lies where the claim foretold it, and the control is quiet. *Refuted*: it lies wholly",
        "elsewhere, or the control shows the same effect. *Inconclusive*: anything else. Every verdict holds for its scope only.",
        "",
    ]
    for theme, names in claims.families().items():
        if not theme:
            continue
        lines += [f"## {theme.capitalize()}", ""]
        for name in names:
            lines += claim_lines(name)
    return "\n".join(lines).rstrip() + "\n"


def claim_lines(name: str) -> list[str]:
    claim, record = claims.get(name), RECORDS / name / "record.json"
    said = json.loads(record.read_bytes()) if record.exists() else None
    outcome = "not run yet" if said is None else said["outcome"]
    lines = [f"### {claim.title}: {outcome}", "", f"`{name}`. {claim.statement}", ""]
    if said is not None:
        lines += ["| part | estimand | found | verdict |", "|---|---|---|---|"]
        for part in said["parts"]:
            found = "; ".join(
                f"{k + ': ' if k else ''}{interval(e)}" for k, e in list(part["effects"].items())[:4]
            )
            more = "; ..." if len(part["effects"]) > 4 else ""
            mark = part["outcome"] + ("" if part["bears"] else " (side question)")
            lines.append(f"| {part['name']} | {cell(part['asks'])} | {cell(found + more)} | {mark} |")
        lines += ["", f"{len(said['seeds'])} seeds; scope: {said['scope']}", ""]
    return lines


def interval(effect: dict[str, Any]) -> str:
    value, low, high = (effect[k] for k in ("value", "low", "high"))
    if value is None or low is None:
        return "no value"
    unit = "" if effect["unit"] == "1" else f" {effect['unit']}"
    if low == value == high:
        return f"{format_number(value)}{unit}"
    return f"{format_number(value)} [{format_number(low)}, {format_number(high)}]{unit}"


def own_toys() -> dict[str, list[str]]:
    """Families of geartrain's own toys."""
    return {family: names for family, names in zoo.families().items() if family}


def zoo_page() -> str:
    lines = [
        "# The zoo",
        "",
        "Made by `docs/generate.py`. Toy models whose truth is known in closed form; every instrument is calibrated on them:",
        "`geartrain zoo check` writes the certificate. `geartrain zoo show NAME` explains one, `plot` draws it, `train` trains it.",
        "",
        "New known systems are made of these: `a + b` (losses over different parameters add: spectra unite, traces and learning",
        "coefficients add), `c * a` (every quantity times c to the power of the loss in its unit) and `zoo.product(a, b)` (every pair",
        'of examples: gradient variances add). `geartrain zoo check "quadratic + 2 * pca-landscape"` checks one.',
        "Other packages add toys through the entry point `geartrain.zoo`; `geartrain.testing.check_toy` holds them to the same promises.",
        "",
    ]
    for family, names in own_toys().items():
        document = inspect.getdoc(importlib.import_module(f"geartrain.zoo.{family}")) or family
        title, _, rest = document.partition("\n")[0].partition(":")
        lines += [
            f"## {title}",
            "",
            rest.strip()[:1].upper() + rest.strip()[1:],
            "",
            "| toy | what it is | truths |",
            "|---|---|---|",
        ]
        for name in names:
            lines.append(
                f"| [`{name}`](zoo/{name}.md) | {cell(toy_text(name)[0])} | {len(zoo.get(name).truth)} |"
            )
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def toy_page(name: str) -> str:
    toy = zoo.get(name)
    title, text = toy_text(name)
    lines = [f"# {title}", "", f"`{name}`. Made by `docs/generate.py` from the code.", "", text, ""]
    lines += [
        f"![{toy.title}]({name}.svg)",
        "",
        "## Parameters",
        "",
        "| parameter | default | meaning |",
        "|---|---|---|",
    ]
    meanings = attributes_of(type(toy))
    lines += [
        f"| `{k}` | {cell(repr(v))} | {cell(meanings.get(k, 'Of everything random in making it.'))} |"
        for k, v in toy.parameters.items()
    ]
    lines += [
        "",
        "## Known exactly",
        "",
        "| quantity | truth | tolerance | found by | why |",
        "|---|---|---|---|---|",
    ]
    for quantity, truth in toy.truth.items():
        by = "a trial" if truth.trial is not None else f"`{truth.instrument or quantity.partition('.')[0]}`"
        why = truth.source + ("" if truth.assumptions in ("", "None.") else f" Assumes: {truth.assumptions}")
        lines.append(
            f"| `{quantity}` | {shown(truth.value)} | {truth.tolerance:g} | {by} | {cell(' '.join(why.split())).replace('*', chr(92) + '*')} |"
        )
    lines += ["", f"Try: `geartrain zoo show {name}`, `geartrain zoo check {name}`.", ""]
    return "\n".join(lines).rstrip() + "\n"


def toy_text(name: str) -> tuple[str, str]:
    """Title and text of a toy's file."""
    document = inspect.getdoc(inspect.getmodule(zoo.kind(name))) or name
    first, _, rest = document.partition("\n")
    return first.strip("# ").rstrip("."), rest.strip()


def attributes_of(kind: type) -> dict[str, str]:
    """What the docstring of a class says about each of its attributes."""
    section = re.search(r"^Attributes:\s*\n(.*)", inspect.getdoc(kind) or "", re.DOTALL | re.MULTILINE)
    found = re.split(r"^    (\w+): ", section[1] if section else "", flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in zip(found[1::2], found[2::2], strict=True)}


def shown(value: Any) -> str:
    """A number to the digits that are the same on every machine, or the first few of an array."""
    array = np.ravel(np.asarray(value, dtype=float))
    head = ", ".join(
        "0" if abs(v) < 1e-9 else "none" if np.isnan(v) else format_number(float(v), 4) for v in array[:4]
    )
    return head if array.size == 1 else f"{head}{', ...' if array.size > 4 else ''} ({array.size} values)"


def cell(text: str) -> str:
    """Text that does not break a table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    for path, text in pages().items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_text(text, encoding="utf-8")
    for name in (name for names in own_toys().values() for name in names):
        picture(zoo.get(name), HERE / "zoo" / f"{name}.svg")
