"""The report: one offline HTML page, and a compact fragment of it for notebooks.

Templates, style and script lie in ``templates/`` and are written into the page, so that the file can be
mailed, archived and opened without a network. Both are complete without JavaScript.
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from geartrain.diagnosis.result import Diagnosis
from geartrain.records import Finding, Measurement
from geartrain.report import figures, words

if TYPE_CHECKING:
    import jinja2

_WIDE, _NARROW = 1000, 350


def render(diagnosis: Diagnosis) -> str:
    """The diagnosis as a complete page that loads nothing from anywhere."""
    return _environment().get_template("page.html").render(**_context(diagnosis))


def render_notebook(diagnosis: Diagnosis) -> str:
    """The diagnosis as a fragment for a notebook cell; it takes over the notebook's own colours."""
    return _environment().get_template("notebook.html").render(**_context(diagnosis))


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("geartrain.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_clean,
    )
    environment.globals.update(words=words, math=math, asset=functools.partial(_asset, environment))
    return environment


def _clean(value: Any) -> Any:
    """What a template writes: markup as it is, text without control characters."""
    return value if isinstance(value, Markup) else words.plain(value)


def _asset(environment: jinja2.Environment, name: str) -> Markup:
    """A style sheet or script of ours, to be written into the page as it is."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def _context(diagnosis: Diagnosis) -> dict[str, Any]:
    # Several reports may share one notebook page: the names in their drawings must differ.
    key = "g" + hashlib.sha256(f"{diagnosis.name}|{diagnosis.created}".encode()).hexdigest()[:8]
    leading = words.leading(diagnosis)
    forks = list(zip(diagnosis.forks, figures.forks(diagnosis.forks, key), strict=True))
    return {
        "d": diagnosis,
        "key": key,
        "leading": leading,
        "lesser": words.lesser(diagnosis),
        "curves": figures.curves(diagnosis.curves, key),
        "forks": forks,
        "fork_groups": _by_checkpoint(forks),
        "help_fork": _help_fork(diagnosis, leading, key),
        "spectrum": _spectrum(diagnosis.spectrum, key),
        "eigenvalues": _eigenvalues(diagnosis.spectrum),
        "heaviest": _heaviest_weight(diagnosis),
    }


def _by_checkpoint(
    forks: list[tuple[Any, figures.Figure]],
) -> list[tuple[Any, list[tuple[Any, figures.Figure]]]]:
    """Forks by the checkpoint they left from, earliest first; within one, the greatest gain first."""
    groups: dict[str, list[tuple[Any, figures.Figure]]] = {}
    for fork, figure in sorted(forks, key=lambda pair: (pair[0].start, -_order(pair[0].gain))):
        groups.setdefault(fork.point, []).append((fork, figure))
    return [(members[0][0], members) for members in groups.values()]


def _order(gain: float) -> float:
    return gain if math.isfinite(gain) else -math.inf


def _help_fork(
    diagnosis: Diagnosis, leading: tuple[Finding, ...], key: str
) -> tuple[Any, figures.Figure] | None:
    """The fork that tried the leading remedy (for a healthy run: the best of all), drawn."""
    if leading:
        fork = words.remedy_fork(diagnosis, leading[0])
    else:
        fork = words.best_fork(diagnosis)
    return None if fork is None else (fork, figures.forks([fork], f"{key}-help")[0])


def _spectrum(density: Measurement | None, key: str) -> tuple[Markup, Markup] | None:
    """The spectrum drawn for wide and for narrow screens, where text must not shrink with the drawing."""
    if density is None or not density.status.usable:
        return None
    wide, narrow = (figures.spectrum(density, key, width) for width in (_WIDE, _NARROW))
    return (wide, narrow) if wide is not None and narrow is not None else None


def _eigenvalues(density: Measurement | None) -> list[tuple[str, str]]:
    """What is known about single eigenvalues, as names and values."""
    if density is None:
        return []
    details, unit = (
        density.details,
        f" ({figures.eigenvalue_unit(density)})" if words.unit_suffix(density.unit) else "",
    )
    facts = [
        (f"largest{unit}", _with_residuals(details.get("eigenvalues"), details.get("residuals"))),
        (f"smallest{unit}", _with_residuals(details.get("smallest"), None)),
    ]
    negative = details.get("negative_mass")
    if negative is not None:
        facts.append(("share below zero", words.share(float(negative))))
    return [(name, value) for name, value in facts if value]


def _with_residuals(values: Any, residuals: Any) -> str:
    """The first few numbers with their residuals."""
    numbers = [] if values is None else np.ravel(np.asarray(values, dtype=float)).tolist()
    left = [] if residuals is None else np.ravel(np.asarray(residuals, dtype=float)).tolist()
    # Lanczos gives all of them one bound: said once, it does not drown the numbers.
    common = len(left) >= len(numbers) > 1 and max(left) <= 1.01 * min(left)
    parts = [
        words.number(v) + (f" (residual {words.number(left[i], 2)})" if i < len(left) and not common else "")
        for i, v in enumerate(numbers[:8])
    ]
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return ", ".join(parts) + more + (f" (residual of each {words.number(left[0], 2)})" if common else "")


def _heaviest_weight(diagnosis: Diagnosis) -> float:
    """The largest log-odds of any gear shown, so that all bars share one scale."""
    weights = [abs(g.weight) for f in diagnosis.findings for g in f.predictions if math.isfinite(g.weight)]
    return max([*weights, 1e-9])
