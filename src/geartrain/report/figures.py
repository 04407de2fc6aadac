"""Charts of a diagnosis as inline SVG: the run's curves, the forks beside the original, the spectrum.

The drawings take their colours from the page's style sheet, so they follow its light and dark palette,
and are complete without JavaScript. The numbers travel along (`Figure.data`) for a page that can show
values under the pointer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from geartrain.records import Curve, ForkResult, Measurement
from geartrain.report.axes import Axis, linear_axis, log_axis
from geartrain.report.words import gain, number, plain, short_number

_SPLIT = re.compile(r"\b(training|train|validation|valid|val|test)\b", re.IGNORECASE)
_LONG = {"train": "training", "valid": "validation", "val": "validation"}
_MOST_POINTS = 240
_FEW_POINTS = 12
# A linear axis hides everything but the largest values beyond about this ratio.
_LOG_RATIO = 30.0
# Below this ratio a logarithmic axis looks like the linear one: no use offering it.
_LOG_WORTH = 3.0
_STRETCHES = 60
# Distance travelled up and down over the distance between extremes; a smooth curve has 1 to 3.
_ROUGH = 6.0
_DENSITY_DECADES = 6


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: Its label.
        x: Horizontal positions, increasing.
        y: Values; gaps where they are not finite.
        role: Style class: ``"a"``, ``"b"``, ``"c"``, ``"d"`` or ``"reference"``.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    role: str

    @property
    def last(self) -> str:
        """The last value in words."""
        if not self.y.size:
            return "no values"
        return number(float(self.y[-1])) if math.isfinite(self.y[-1]) else "not finite"

    @property
    def values(self) -> np.ndarray:
        """The finite values."""
        return self.y[np.isfinite(self.y)]


@dataclass(frozen=True)
class Figure:
    """A drawn chart and what the page writes around it.

    Attributes:
        title: Heading.
        svg: The drawing.
        lines: What was drawn, for the legend.
        data: The numbers as JSON, for the values under the pointer.
        key: Unique name on the page.
        switchable: Whether both a linear and a logarithmic version were drawn.
        log: Whether the logarithmic one is shown first.
        note: Something about the figure in words.
    """

    title: str
    svg: Markup
    lines: tuple[Line, ...]
    data: str
    key: str
    switchable: bool
    log: bool
    note: str = ""


@dataclass(frozen=True)
class Frame:
    """Size of a drawing and the margins around its plotting area, in pixels."""

    width: int = 340
    height: int = 190
    left: int = 46
    right: int = 10
    top: int = 10
    bottom: int = 26

    @property
    def x(self) -> tuple[float, float]:
        """Left and right edge of the plotting area."""
        return float(self.left), float(self.width - self.right)

    @property
    def y(self) -> tuple[float, float]:
        """Bottom and top edge of the plotting area (pixels grow downwards)."""
        return float(self.height - self.bottom), float(self.top)


def curves(every: Sequence[Curve], key: str) -> list[Figure]:
    """The run's curves: training and validation of one quantity share a panel, all panels share steps."""
    panels: dict[tuple[str, str], list[Line]] = {}
    for curve in every:
        title, label = _panel_and_label(curve)
        lines = panels.setdefault((title, curve.unit), [])
        lines.append(_line(label, curve.steps, curve.values, "abcd"[len(lines) % 4]))
    frame = Frame()
    x_axis = _steps_axis([line for lines in panels.values() for line in lines], frame)
    return [
        # Accuracies and other pure numbers live between bounds, where ratios say little.
        _chart(
            lines,
            frame,
            x_axis,
            title=_panel_title(title, unit),
            key=f"{key}-curve{i}",
            bounded=unit in {"", "1"},
        )
        for i, ((title, unit), lines) in enumerate(panels.items())
    ]


def forks(every: Sequence[ForkResult], key: str) -> list[Figure]:
    """Each fork against the original, in the order given; forks of one checkpoint share both axes."""
    return [
        _fork_chart(fork, [f for f in every if f.point == fork.point], f"{key}-fork{i}")
        for i, fork in enumerate(every)
    ]


def spectrum(density: Measurement, key: str, width: int) -> Markup | None:
    """The spectral density on a logarithmic axis with its error band and a tick per known eigenvalue.

    Returns:
        The drawing, ``width`` pixels wide, or ``None`` where there is no positive finite density.
    """
    grid, values, error = _density_arrays(density)
    if values.size < 2 or not (values > 0).any():
        return None
    frame = Frame(width=width, height=300 if width > 500 else 240, left=50, bottom=46)
    known = _known_eigenvalues(density)
    top = float((values + error).max())
    floor = max(top * 10.0**-_DENSITY_DECADES, 1e-300)
    y_axis = Axis(floor, top * 1.6, *frame.y, log=True)
    x_axis = linear_axis([grid, np.array(known)], *frame.x, pad=0.01)
    x_axis = Axis(min(float(grid.min()), *known, 0.0), x_axis.high, *frame.x)
    band = _band(x_axis, y_axis, grid, np.maximum(values - error, floor), np.maximum(values + error, floor))
    # What lies below the floor leaves the plot at its lower edge instead of running along it.
    curve = _path(x_axis.pixels(grid), y_axis.pixels(np.maximum(values, floor * 1e-3)))
    inner = Markup("").join(
        [
            _negative_side(x_axis, frame),
            _grid(y_axis, frame),
            _x_ticks(x_axis, frame, f"eigenvalue{_bracketed(eigenvalue_unit(density))}", rug=True),
            _clip(frame, f"{key}-clip{width}"),
            Markup(
                '<g clip-path="url(#{})"><path class="band" d="{}"/><path class="line a" d="{}"/></g>'
            ).format(f"{key}-clip{width}", band, curve),
            *(_rug(x_axis, frame, value) for value in known),
        ]
    )
    title = "Spectral density of the Hessian"
    text = f"{values.size} grid points from {number(float(grid.min()))} to {number(float(grid.max()))}."
    return _svg(frame, inner, title=title, description=text, key=f"{key}-spectrum{width}")


def eigenvalue_unit(density: Measurement) -> str:
    """Unit of the eigenvalues under a density, which itself is counted per unit of eigenvalue.

    >>> from geartrain.records import State, Status
    >>> eigenvalue_unit(Measurement("hessian_density", 0.0, "θ²/ℓ", Status(State.EXACT, "")))
    'ℓ/θ²'
    """
    above, slash, below = density.unit.partition("/")
    return f"{below}/{above}" if slash else density.unit


def _fork_chart(fork: ForkResult, siblings: Sequence[ForkResult], key: str) -> Figure:
    frame = Frame(width=340, height=150)
    lines = [
        _line("original", fork.step_axis, fork.reference, "reference"),
        _line("fork", fork.step_axis, fork.losses, "a"),
    ]
    everyone = [line for f in siblings for line in _fork_lines(f)]
    x_axis = _steps_axis(everyone, frame)
    # A fork that diverged must not flatten the others; its line leaves the panel at the top.
    shown = [f.reference for f in siblings] + [f.losses for f in siblings if not f.diverged]
    words = f"{plain(fork.name)}: gain {gain(fork.gain, fork.gain_error)}"
    return _chart(lines, frame, x_axis, title=plain(fork.name), key=key, y_values=shown, description=words)


def _fork_lines(fork: ForkResult) -> list[Line]:
    return [
        _line("", fork.step_axis, fork.reference, "reference"),
        _line("", fork.step_axis, fork.losses, "a"),
    ]


def _chart(
    lines: Sequence[Line],
    frame: Frame,
    x_axis: Axis,
    *,
    title: str,
    key: str,
    y_values: Sequence[np.ndarray] | None = None,
    description: str = "",
    bounded: bool = False,
    word: str = "step",
) -> Figure:
    values = [line.y for line in lines] if y_values is None else y_values
    linear, log = linear_axis(values, *frame.y), log_axis(values, *frame.y)
    ratio = _ratio(values)
    if bounded or ratio < _LOG_WORTH or any((line.values <= 0).any() for line in lines):
        log = None
    log_first = log is not None and ratio > _LOG_RATIO
    layers = [_layer(lines, frame, x_axis, linear, f"{key}-clip", "linear")]
    if log is not None:
        layers.append(_layer(lines, frame, x_axis, log, f"{key}-clip", "log"))
    inner = Markup("").join([_clip(frame, f"{key}-clip"), _x_ticks(x_axis, frame, word), *layers])
    text = description or ". ".join(_describe(line) for line in lines)
    svg = _svg(frame, inner, title=title, description=text, key=key)
    data = _data(lines, x_axis, linear, log)
    return Figure(title, svg, tuple(lines), data, key, log is not None, log_first, _note(lines))


def _layer(lines: Sequence[Line], frame: Frame, x_axis: Axis, y_axis: Axis, clip: str, name: str) -> Markup:
    trends = [_trend(line) for line in lines]
    raw = [_drawn(line, i, x_axis, y_axis, " raw") for i, line in enumerate(lines) if trends[i]]
    paths = [_drawn(trends[i] or line, i, x_axis, y_axis) for i, line in enumerate(lines)]
    marks = [_not_finite_mark(line, x_axis, frame) for line in lines]
    return Markup('<g class="{}">{}<g clip-path="url(#{})">{}</g>{}</g>').format(
        name, _grid(y_axis, frame), clip, Markup("").join(raw + paths), Markup("").join(marks)
    )


def _drawn(line: Line, index: int, x_axis: Axis, y_axis: Axis, style: str = "") -> Markup:
    kept = _thin(line)
    path = _path(x_axis.pixels(line.x[kept]), y_axis.pixels(line.y[kept]))
    drawn = Markup('<path class="line {}{}" data-line="{}" d="{}"/>').format(line.role, style, index, path)
    return drawn + _points(line, index, x_axis, y_axis) if line.values.size <= _FEW_POINTS else drawn


def _points(line: Line, index: int, x_axis: Axis, y_axis: Axis) -> Markup:
    """A dot per value: a short line alone does not show where it was measured, a single value not at all."""
    places = zip(x_axis.pixels(line.x).tolist(), y_axis.pixels(line.y).tolist(), strict=True)
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places if not math.isnan(x + y))
    return Markup('<path class="line {} points" data-line="{}" d="{}"/>').format(line.role, index, path)


def _trend(line: Line) -> Line | None:
    """Medians over stretches of a line too rough to read, else None."""
    if line.y.size <= _MOST_POINTS or not _rough(line.values):
        return None
    middles = [
        (float(x.mean()), _median(y))
        for x, y in zip(*(np.array_split(v, _STRETCHES) for v in (line.x, line.y)), strict=True)
    ]
    x, y = np.array(middles).T
    return Line(line.name, x, y, line.role)


def _rough(values: np.ndarray) -> bool:
    if values.size < 2:
        return False
    scales = [values] if values.min() <= 0 else [values, np.log(values)]
    # Scaled down first: the distance travelled by a diverging loss overflows.
    return any(
        float(np.abs(np.diff(v / (np.abs(v).max() or 1.0))).sum()) > _ROUGH * _spread(v) > 0 for v in scales
    )


def _spread(values: np.ndarray) -> float:
    scaled = values / (np.abs(values).max() or 1.0)
    return float(scaled.max() - scaled.min())


def _median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def _thin(line: Line) -> np.ndarray:
    """Indices of at most about ``_MOST_POINTS`` points that keep every peak, trough and gap."""
    n = line.y.size
    if n <= _MOST_POINTS:
        return np.arange(n)
    kept = {0, n - 1}
    for bucket in np.array_split(np.arange(n), _MOST_POINTS // 2):
        finite = bucket[np.isfinite(line.y[bucket])]
        if finite.size < bucket.size:
            kept.add(int(bucket[~np.isfinite(line.y[bucket])][0]))
        if finite.size:
            kept |= {int(finite[line.y[finite].argmin()]), int(finite[line.y[finite].argmax()])}
    return np.array(sorted(kept))


def _path(x: np.ndarray, y: np.ndarray) -> str:
    parts, pen_down = [], False
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        if math.isnan(a) or math.isnan(b):
            pen_down = False
            continue
        # A point between two gaps shows as a dot: a line of no length with round caps.
        parts.append(f"L{a:.1f} {b:.1f}" if pen_down else f"M{a:.1f} {b:.1f}h0")
        pen_down = True
    return "".join(parts)


def _band(x_axis: Axis, y_axis: Axis, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    there = _path(x_axis.pixels(x), y_axis.pixels(high))
    back = _path(x_axis.pixels(x[::-1]), y_axis.pixels(low[::-1]))
    return f"{there}{back.replace('M', 'L', 1)}Z" if there and back else ""


def _grid(axis: Axis, frame: Frame) -> Markup:
    left, right = frame.x
    return Markup("").join(
        Markup(
            '<path class="grid" d="M{0:.0f} {2:.1f}H{1:.0f}"/>'
            '<text x="{3:.0f}" y="{4:.1f}" class="y">{5}</text>'
        ).format(left, right, y, left - 6, y + 3.5, short_number(tick))
        for tick, y in _placed(axis, max(3, frame.height // 45))
    )


def _x_ticks(axis: Axis, frame: Frame, label: str, *, rug: bool = False) -> Markup:
    base, (left, right) = frame.y[0], frame.x
    row = base + (27 if rug else 16)
    ticks = [
        Markup(
            '<path class="tick" d="M{0:.1f} {1:.0f}v4"/><text x="{0:.1f}" y="{2:.0f}" class="x">{3}</text>'
        ).format(x, base, row, short_number(tick))
        for tick, x in _placed(axis, max(4, frame.width // 90))
        # The word for the axis stands at its right end; a number there would run into it.
        if rug or x < right - 44
    ]
    word = Markup('<text x="{:.0f}" y="{:.0f}" class="word">{}</text>').format(
        right, row + (15 if rug else 0), label
    )
    line = Markup('<path class="axis" d="M{:.0f} {:.0f}H{:.0f}"/>').format(left, base, right)
    return Markup("").join([line, *ticks, word])


def _placed(axis: Axis, count: int) -> list[tuple[float, float]]:
    ticks = axis.ticks(count)
    return list(zip(ticks, axis.pixels(np.array(ticks)).tolist(), strict=True))


def _rug(axis: Axis, frame: Frame, value: float) -> Markup:
    x = float(axis.pixels(np.array([value]))[0])
    return Markup('<path class="rug" d="M{:.1f} {:.0f}v9"><title>{}</title></path>').format(
        x, frame.y[0] + 5, f"eigenvalue {number(value)}"
    )


def _negative_side(axis: Axis, frame: Frame) -> Markup:
    zero = float(axis.pixels(np.array([0.0]))[0])
    left, (bottom, top) = frame.x[0], frame.y
    if not left < zero:
        return Markup("")
    return Markup('<path class="negative" d="M{:.1f} {:.0f}H{:.1f}V{:.0f}H{:.1f}Z"/>').format(
        left, bottom, zero, top, left
    )


def _not_finite_mark(line: Line, x_axis: Axis, frame: Frame) -> Markup:
    bad = np.flatnonzero(~np.isfinite(line.y))
    x = float(x_axis.pixels(line.x[bad[:1]])[0]) if bad.size else math.nan
    if math.isnan(x):
        return Markup("")
    return Markup('<path class="lost {}" d="M{:.1f} {:.1f}l7 7m0 -7l-7 7"/>').format(
        line.role, x - 3.5, frame.top + 1.0
    )


def _clip(frame: Frame, name: str) -> Markup:
    (left, right), (bottom, top) = frame.x, frame.y
    return Markup('<clipPath id="{}"><path d="M{:.0f} {:.0f}H{:.0f}V{:.0f}H{:.0f}Z"/></clipPath>').format(
        name, left - 2, bottom + 1, right + 2, top - 2, left - 2
    )


def _svg(frame: Frame, inner: Markup, *, title: str, description: str, key: str) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-labelledby="{k}-t {k}-d"><title id="{k}-t">{t}</title>'
        '<desc id="{k}-d">{d}</desc>{inner}</svg>'
    ).format(w=frame.width, h=frame.height, k=key, t=title, d=description, inner=inner)


def _data(lines: Sequence[Line], x_axis: Axis, linear: Axis, log: Axis | None) -> str:
    axes = {
        name: _axis_data(axis) for name, axis in (("x", x_axis), ("linear", linear), ("log", log)) if axis
    }
    points = [
        {"x": _rounded(line.x[kept]), "y": _rounded(line.y[kept])} for line in lines for kept in [_thin(line)]
    ]
    return json.dumps({**axes, "lines": points}, separators=(",", ":"))


def _axis_data(axis: Axis) -> list[float]:
    return [float(f"{v:.6g}") for v in (axis.low, axis.high, axis.start, axis.end)]


def _rounded(values: np.ndarray) -> list[float | None]:
    return [
        float(f"{v:.4g}") if abs(v) < 1e4 else round(v, 3) if math.isfinite(v) else None
        for v in values.tolist()
    ]


def _line(name: str, x: np.ndarray, y: np.ndarray, role: str) -> Line:
    across, up = np.ravel(np.asarray(x, dtype=float)), np.ravel(np.asarray(y, dtype=float))
    n = min(across.size, up.size)
    kept = np.isfinite(across[:n])
    return Line(plain(name), across[:n][kept], up[:n][kept], role)


def _steps_axis(lines: Iterable[Line], frame: Frame) -> Axis:
    return linear_axis([line.x for line in lines], *frame.x, pad=0.0)


def _panel_and_label(curve: Curve) -> tuple[str, str]:
    name = plain(curve.name).replace("_", " ")
    part = _SPLIT.search(name)
    rest = " ".join(_SPLIT.sub(" ", name, count=1).split())
    if part is None or not rest:
        return name, name
    word = part.group(0).lower()
    return rest, _LONG.get(word, word)


def _panel_title(title: str, unit: str) -> str:
    return f"{title[:1].upper()}{title[1:]}{_bracketed(unit)}"


def _bracketed(unit: str) -> str:
    return "" if unit in {"", "1"} else f" ({plain(unit)})"


def _ratio(arrays: Sequence[np.ndarray]) -> float:
    values = np.concatenate([np.ravel(np.asarray(a, dtype=float)) for a in arrays])
    values = values[np.isfinite(values) & (values > 0)]
    return float(np.exp(np.log(values.max()) - np.log(values.min()))) if values.size else 1.0


def _describe(line: Line) -> str:
    if line.values.size == 0:
        return f"{line.name}: no finite values"
    low, high = number(float(line.values.min())), number(float(line.values.max()))
    return f"{line.name}: starts at {number(float(line.y[0]))}, ends at {line.last}, between {low} and {high}"


def _note(lines: Sequence[Line]) -> str:
    notes = [_lost(line) for line in lines if line.values.size < line.y.size]
    if any(_trend(line) for line in lines):
        notes.append(f"Faint: every value. Solid: medians over {_STRETCHES} stretches.")
    return " ".join(notes)


def _lost(line: Line) -> str:
    missing, first = line.y.size - line.values.size, float(line.x[~np.isfinite(line.y)][0])
    amount = f"{missing:,} of {line.y.size:,} values not finite"
    return f"✗ {line.name}: {amount}, the first at step {short_number(first)}."


def _density_arrays(density: Measurement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.ravel(np.asarray(density.value, dtype=float))
    grid = np.ravel(np.asarray(density.coords.get("eigenvalue", np.arange(values.size)), dtype=float))
    error = np.broadcast_to(np.asarray(density.standard_error, dtype=float), values.shape)
    kept = (
        np.isfinite(values) & np.isfinite(grid)
        if grid.size == values.size
        else np.zeros(values.shape, dtype=bool)
    )
    grid = grid if grid.size == values.size else np.zeros(values.shape)
    return grid[kept], values[kept], np.nan_to_num(error[kept], nan=0.0, posinf=0.0)


def _known_eigenvalues(density: Measurement) -> list[float]:
    found = [
        np.ravel(np.asarray(density.details.get(k, ()), dtype=float)) for k in ("eigenvalues", "smallest")
    ]
    values = np.concatenate(found)
    return [float(v) for v in values[np.isfinite(values)]]
