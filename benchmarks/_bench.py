"""The frame of the benchmarks: paired timing, accuracy beside it, a JSON record, and tables for the docs.

A benchmark is a script ``benchmarks/<name>.py`` with two names; nothing else has to be registered::

    TITLE = "Curvature"

    def run(bench: Bench) -> None:
        sides = {"gradient": lambda: ..., "geartrain": lambda: ..., "curvlinops 3.0.1": lambda: ...}
        timing = bench.paired("product, MLP", sides, base="gradient")   # alternating, in one process
        table = bench.table("One Hessian product, in gradients", ["network", "geartrain", "peer", "error", "goal"])
        table.row("MLP", timing["geartrain"], timing["curvlinops 3.0.1"], 2e-6, bench.goal(timing["geartrain"] <= 1.5))
        table.note("Why something fell short.")
        bench.keep("product, MLP, accuracy", {"geartrain": 2e-6})       # anything else for the JSON record

- ``timing[side]`` is a `Ratio`: seconds of that side over those of ``base``, the median over the repeats, with their
  quartiles; ``timing.over(a, b)`` compares any two. It compares with numbers and prints as ``1.42 (1.40-1.45)``.
- ``bench.peer("curvlinops", "3.0.1")`` imports another package, or returns ``None`` and puts the sentence into the
  page: a missing or broken peer never stops a benchmark, and the script stays able to run it where it is there.
- ``bench.quick`` is True under ``--quick`` (a smoke test: fewer repeats, numbers meaningless).
- Every side must return its result, so that accuracy is measured on what was timed: ``timing.results[side]``.

``python benchmarks/run.py [name ...]`` runs them, writes ``benchmarks/results/<name>.json`` and makes
``docs/benchmarks.md`` anew from all records there.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
PEERS = (
    "curvlinops-for-pytorch", "hessian-eigenthings", "pyhessian", "backpack-for-pytorch", "cockpit-for-pytorch",
    "devinterp", "neural-tangents", "jax", "blackjax",
)  # fmt: skip


@dataclass(frozen=True)
class Ratio:
    """A ratio of times, paired repeat by repeat: median and quartiles."""

    median: float
    low: float
    high: float
    repeats: int

    @staticmethod
    def of(above: list[float], below: list[float]) -> Ratio:
        ratios = sorted(a / b for a, b in zip(above, below, strict=True))
        low, high = np.quantile(ratios, [0.25, 0.75])
        return Ratio(statistics.median(ratios), float(low), float(high), len(ratios))

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.low)}-{number(self.high)})"

    def __float__(self) -> float:
        return self.median

    def __le__(self, other: float) -> bool:
        return self.median <= other

    def __ge__(self, other: float) -> bool:
        return self.median >= other


@dataclass(frozen=True)
class Timing:
    """Seconds of every side in every repeat, and what the last repeat of each returned."""

    seconds: Mapping[str, list[float]]
    base: str
    results: Mapping[str, Any]

    def __getitem__(self, side: str) -> Ratio:
        return self.over(side, self.base)

    def __contains__(self, side: str) -> bool:
        return side in self.seconds

    def get(self, side: str) -> Ratio | None:
        return self[side] if side in self else None

    def over(self, side: str, base: str) -> Ratio:
        return Ratio.of(self.seconds[side], self.seconds[base])

    def median(self, side: str) -> float:
        return statistics.median(self.seconds[side])


@dataclass
class Table:
    """Rows for people; cells are numbers, ratios or text, ``None`` where there is nothing to say."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, *cells: Any) -> None:
        if len(cells) != len(self.columns):
            raise ValueError(f"{self.title}: {len(cells)} cells for {len(self.columns)} columns")
        self.rows.append([cell(c) for c in cells])

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


class Bench:
    """What a benchmark gets: timing, peers, and somewhere to put its tables."""

    def __init__(self, name: str, *, quick: bool = False) -> None:
        self.name = name
        self.quick = quick
        self.tables: list[Table] = []
        self.missing: dict[str, str] = {}
        self.record: dict[str, Any] = {"timings": {}, "kept": {}}

    def paired(
        self,
        label: str,
        sides: Mapping[str, Callable[[], Any]],
        *,
        base: str,
        repeats: int = 7,
        at_least: float = 0.02,
        heavy: bool = False,
    ) -> Timing:
        """Time every side once per repeat, the order turning from repeat to repeat, in one process.

        Time is processor time, which other programs on the machine disturb least. A side that takes less than
        ``at_least`` seconds is called several times per repeat and averaged. A side that raises is left out, with its
        message in the page. Every side runs once beforehand; with ``heavy`` that counts as the first repeat.
        """
        repeats = 1 if self.quick else repeats
        seconds: dict[str, list[float]] = {}
        calls, results = {}, {}
        for name, side in sides.items():
            start = time.process_time()
            if not self._works(label, name, side, results):
                continue
            spent = time.process_time() - start
            calls[name] = max(1, math.ceil(at_least / max(spent, 1e-6)))
            # A short side is disturbed by its first call; only what is long may count it.
            seconds[name] = [spent] if heavy and calls[name] == 1 and spent > 0.5 else []
        names = list(seconds)
        for repeat in range(repeats):
            turn = repeat % len(names)
            for name in names[turn:] + names[:turn]:
                if len(seconds[name]) == repeats:
                    continue
                start = time.process_time()
                for _ in range(calls[name]):
                    results[name] = sides[name]()
                seconds[name].append((time.process_time() - start) / calls[name])
        self.record["timings"][label] = {"base": base, "seconds": seconds}
        return Timing(seconds, base, results)

    def _works(self, label: str, name: str, function: Callable[[], Any], results: dict[str, Any]) -> bool:
        try:
            results[name] = function()
        except Exception as error:  # a peer may fail in any way; that is a result, and must not stop the rest
            if name.startswith(("geartrain", "gradient")):
                raise
            line = str(error).strip().splitlines()[0] if str(error).strip() else ""
            self.missing[f"{name} ({label})"] = f"{type(error).__name__}: {line}"[:200]
            return False
        return True

    def peer(self, module: str, version: str | None = None) -> Any:
        """Another package, or ``None`` where it cannot be imported."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return importlib.import_module(module)
        except Exception as error:  # old packages fail on import in many ways
            wanted = f" ({version} wanted)" if version else ""
            self.missing[module] = f"not measured{wanted}: {type(error).__name__}: {error}"[:200]
            return None

    def table(self, title: str, columns: list[str]) -> Table:
        self.tables.append(Table(title, columns))
        return self.tables[-1]

    def keep(self, label: str, values: Any) -> None:
        self.record["kept"][label] = values

    @staticmethod
    def goal(met: bool | None) -> str:
        return {True: "met", False: "**missed**", None: "not measured"}[met]

    def to_dict(self, seconds: float) -> dict[str, Any]:
        return {
            "name": self.name,
            "seconds": seconds,
            "machine": machine(),
            "tables": [vars(t) for t in self.tables],
            "not_measured": self.missing,
            **self.record,
        }


def machine() -> dict[str, Any]:
    """Versions and processor, so that a table says where it comes from."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    for package in ("scipy", "geartrain", *PEERS):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"cpu": _cpu(), "cores": _cores(), "threads": torch.get_num_threads(), "versions": versions}


def _cores() -> int | None:
    import os

    return os.cpu_count()


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def number(x: float) -> str:
    """Three digits: enough for a ratio, and no more than it is worth."""
    if not math.isfinite(x):
        return str(x)
    if x == 0:
        return "0"
    return f"{x:.1e}" if abs(x) < 1e-2 else f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def cell(thing: Any) -> str:
    if thing is None:
        return "-"
    if isinstance(thing, bool):
        return "yes" if thing else "no"
    return number(float(thing)) if isinstance(thing, (int, float, np.generic)) else str(thing)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread, as the ratios of small operations would otherwise be those of the scheduler."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def save(bench: Bench, seconds: float) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{bench.name}.json"
    path.write_text(json.dumps(bench.to_dict(seconds), indent=1, default=_plain) + "\n")
    return path


def _plain(thing: Any) -> Any:
    if isinstance(thing, np.ndarray):
        return thing.tolist()
    return float(thing) if hasattr(thing, "__float__") else str(thing)


def write_page(titles: Mapping[str, str]) -> None:
    """The docs page, from every record there is; ``titles`` gives the order and the headings."""
    parts = [INTRODUCTION]
    for name, title in titles.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            parts.append(_section(title, json.loads(path.read_text())))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n\n".join(parts) + "\n")


INTRODUCTION = """# Benchmarks

Made by `python benchmarks/run.py`; do not edit. Both sides of every comparison run in one process, by turns, on the
same data, and the accuracy of both stands beside their times. Time is processor time of one thread. A ratio is the
median over the repeats, with its quartiles in brackets. "In gradients" means: in units of one forward and backward
pass over the same data."""


def _section(title: str, record: dict[str, Any]) -> str:
    place = record["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in place["versions"].items())
    parts = [
        f"## {title}",
        f"Measured on {place['cpu']} ({place['threads']} of {place['cores']} cores) in {record['seconds']:.0f} s with "
        f"{versions}. Record: `benchmarks/results/{record['name']}.json`.",
    ]
    parts += [_rendered(table) for table in record["tables"]]
    if record["not_measured"]:
        lines = [f"- {name}: {why}" for name, why in record["not_measured"].items()]
        parts.append("Not measured:\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _rendered(table: dict[str, Any]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

    rows = [line(table["columns"]), line(["---"] * len(table["columns"])), *map(line, table["rows"])]
    notes = "".join(f"\n\n{note}" for note in table["notes"])
    return f"### {table['title']}\n\n" + "\n".join(rows) + notes
