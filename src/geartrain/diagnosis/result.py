"""The answer of `geartrain.diagnose`: mechanisms ranked, with their gears, remedies tried, surprises and cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geartrain._torch import rng
from geartrain.errors import InputError
from geartrain.records import BudgetReport, Curve, Finding, ForkResult, Measurement, jsonable


@dataclass(frozen=True)
class Diagnosis:
    """What is going on in a run, what would help (having tried it), and how sure that is.

    Attributes:
        name: Name of the run.
        sentence: The verdict in one sentence.
        healthy: True when no mechanism is more likely than not.
        findings: Mechanisms that are still possible, most probable first.
        ruled_out: Mechanisms that the evidence speaks against, least probable last.
        surprises: Gears that turned the other way, each one sentence.
        curves: The run's curves (training loss, validation loss, metric, learning rate, ...).
        forks: Everything that was tried, beside the original.
        measurements: Every observable by name, for example ``"edge_of_stability@middle"``.
        spectrum: Spectral density of the Hessian at the last point examined, where it was affordable.
        setting: The run's setting in words: optimizer, step size, batch, sizes of model and data.
        budget: Seconds promised and spent.
        calibration: How the probabilities were come by, one sentence.
        interrupted: True when the user or the budget ended it early.
        reproduce: A command or lines of Python that give this diagnosis again.
        versions: Versions of geartrain, torch, Python.
        seed: Seed of everything random in the diagnosis.
        created: UTC time, ISO 8601.
    """

    name: str
    sentence: str
    healthy: bool
    findings: tuple[Finding, ...]
    ruled_out: tuple[Finding, ...]
    surprises: tuple[str, ...]
    curves: tuple[Curve, ...]
    forks: tuple[ForkResult, ...]
    measurements: Mapping[str, Measurement]
    spectrum: Measurement | None
    setting: Mapping[str, str]
    budget: BudgetReport
    calibration: str
    interrupted: bool
    reproduce: str
    versions: Mapping[str, str]
    seed: int
    created: str

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return jsonable(self)

    def to_json(self, path: str | Path) -> Path:
        """Write everything as JSON and return the path.

        Raises:
            InputError: The folder cannot be written.
        """
        return _write(Path(path), json.dumps(self.to_dict(), indent=1))

    def to_html(self, path: str | Path) -> Path:
        """Write the report, one offline file, and return its path.

        Raises:
            InputError: The folder cannot be written.
        """
        from geartrain.report import html

        return _write(Path(path), html.render(self))

    def _repr_html_(self) -> str:
        from geartrain.report import html

        return html.render_notebook(self)

    def __str__(self) -> str:
        from geartrain.report import terminal

        with rng.preserved():  # the terminal library draws numbers
            return terminal.render(self)

    def __repr__(self) -> str:
        return f"<Diagnosis of {self.name}: {self.sentence}>"


def _write(path: Path, text: str) -> Path:
    """Write whole or not at all: a reader never sees half a report."""
    scratch = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {error.strerror or error}. Choose a folder that you may write to (--out FOLDER)."
        ) from error
    return path
