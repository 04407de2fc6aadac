"""The calibration certificate as one offline HTML page: a heat map of instruments against toys, then every cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from geartrain import instruments, zoo
from geartrain.report import words
from geartrain.report.html import _environment
from geartrain.zoo.certificate import TRIAL, Cell, Certificate

_GRADES = ((1e-6, "to rounding"), (1e-3, "to 0.1 %"), (1e-2, "to 1 %"), (math.inf, "within its own error"))
_MOST_ENTRIES = 3
_OTHERS = "others"


@dataclass(frozen=True)
class Square:
    """A square of the heat map: the worst of an instrument's quantities on a toy."""

    style: str
    glyph: str
    words: str
    toy: str


@dataclass(frozen=True)
class Column:
    """A toy, and the first of its family if it is that: families stand apart."""

    name: str
    family: str
    starts: int


def render(certificate: Certificate) -> str:
    """The certificate as a complete page that loads nothing from anywhere."""
    cells = certificate.cells
    toys = _columns({c.toy for c in cells})
    family = {name: family for family, names in instruments.families().items() for name in names}
    family[TRIAL] = "the toys' own"
    tools = sorted({c.instrument for c in cells}, key=lambda t: (t == TRIAL, family.get(t, ""), t))
    by_place: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        by_place.setdefault((cell.instrument, cell.toy), []).append(cell)
    rows = [
        (family.get(t) or _OTHERS, t, [_square(by_place.get((t, toy.name), [])) for toy in toys])
        for t in tools
    ]
    context = {
        "c": certificate,
        "toys": toys,
        "families": [(name, list(found)) for name, found in groupby(rows, key=lambda row: row[0])],
        "grades": [(f"g{i}", told) for i, (_, told) in enumerate(_GRADES)],
        "failures": certificate.failures,
        "by_toy": [(toy.name, [c for c in cells if c.toy == toy.name]) for toy in toys],
        "anchor": _anchor,
        "shown": _shown,
        "deviation": _deviation,
        "verdict": _verdict,
        "spent": words.seconds(sum(c.cost.seconds for c in cells)),
    }
    return _environment().get_template("certificate.html").render(**context)


def _columns(toys: set[str]) -> list[Column]:
    """Toys by family, those of other packages and those made of toys last; ``starts`` is the size of a new family."""
    own = {name: family for family, names in zoo.families().items() for name in names}
    families = {toy: own.get(toy) or _OTHERS for toy in toys}
    ordered = sorted(toys, key=lambda t: (families[t] == _OTHERS, families[t], t))
    found = []
    for family, members in groupby(ordered, key=families.__getitem__):
        names = list(members)
        found += [Column(name, family, len(names) * (name == names[0])) for name in names]
    return found


def _anchor(toy: str) -> str:
    return "toy-" + "".join(c if c.isalnum() else "-" for c in toy)


def _square(cells: list[Cell]) -> Square | None:
    """The worst of them decides the colour; its words are those of a tooltip and of a screen reader."""
    if not cells:
        return None
    worst = max(cells, key=lambda c: (not c.passed, c.unexplained, _order(c.relative_error)))
    told = f"{worst.instrument} on {worst.toy}: {_verdict(worst)}, {_deviation(worst)}"
    told += f" (worst of {len(cells)})" if len(cells) > 1 else ""
    if not worst.passed:
        return Square(
            "silent" if worst.unexplained else "marked", "✗" if worst.unexplained else "·", told, worst.toy
        )
    return Square(f"g{_grade(worst.relative_error)}", "", told, worst.toy)


def _grade(error: float) -> int:
    return next(i for i, (limit, _) in enumerate(_GRADES) if not error > limit)


def _order(x: float) -> float:
    return x if math.isfinite(x) else 0.0


def _verdict(cell: Cell) -> str:
    if cell.passed:
        return "passed"
    return (
        "failed" if cell.unexplained else "failed, and says so" if cell.state != "error" else "failed: error"
    )


def _deviation(cell: Cell) -> str:
    """``0.52 %, 1.3 standard errors``."""
    if not math.isfinite(cell.relative_error):
        return "as it should, without a value" if cell.passed else "no value"
    size = cell.relative_error
    percent = "to rounding" if size <= 1e-12 else f"{words.number(100 * size, 2)} %"
    return percent + (f", z = {words.signed(cell.z)}" if math.isfinite(cell.z) else "")


def _shown(value: Any) -> str:
    """A number, or the first few of an array."""
    array = np.asarray(value, dtype=float)
    if array.ndim == 0:
        return words.number(float(array), 5) if math.isfinite(float(array)) else "none"
    head = ", ".join(words.number(v, 4) for v in array.ravel()[:_MOST_ENTRIES])
    return head + (f", ... ({array.size} values)" if array.size > _MOST_ENTRIES else "")
