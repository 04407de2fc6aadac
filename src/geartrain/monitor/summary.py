"""The state of a watched loop as a table for the terminal."""

from __future__ import annotations

import io
import math
import shutil
from typing import TYPE_CHECKING

import numpy as np

from geartrain._torch import rng
from geartrain.records import format_number

if TYPE_CHECKING:
    from rich.table import Table

    from geartrain.monitor.watch import Monitor

_LAYER_COLUMNS = {
    "param_norm": "|θ|",
    "grad_norm": "|∂L/∂θ|",
    "update_ratio": "|Δθ|/|θ|",
    "activation_rms": "out rms",
    "gradient_rms": "∂out rms",
}
_NUMBERS = {
    "loss": "loss",
    "lr": "step size",
    "grad_norm": "gradient norm",
    "used_grad_norm": "gradient norm used",
    "update_ratio": "update / weights",
    "cosine": "cosine of successive updates",
    "back_and_forth": "share taken back",
    "gauge": "step-length gauge",
    "noise_over_batch": "noise scale / batch",
}


def render(monitor: Monitor) -> str:
    """Plain text, as wide as the terminal (80 columns where there is none)."""
    from rich.console import Console

    width = min(max(shutil.get_terminal_size(fallback=(80, 24)).columns, 60), 110)
    with rng.preserved():  # the terminal library draws numbers
        console = Console(
            file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False
        )
        with console.capture() as capture:
            console.print(headline(monitor), markup=False, highlight=False)
            for table in (_numbers(monitor), _layers(monitor), _groups(monitor)):
                if table.row_count:
                    console.print(table, highlight=False)
            for alarm in monitor.alarms:
                console.print(f"! {alarm}", markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def headline(monitor: Monitor) -> str:
    """One line: how much was watched, and what it cost."""
    overhead = monitor.governor.overhead
    cost = f", {100 * overhead:.1f} % overhead" if math.isfinite(overhead) else ""
    share = monitor.governor.share
    allowed = f" of {100 * share:.3g} % allowed" if share is not None else ""
    skipped = f", {monitor.skipped_steps} skipped" if monitor.skipped_steps else ""
    alarms = len(monitor.alarms)
    words = f"{alarms} alarm{'s' if alarms != 1 else ''}" if alarms else "no alarms"
    return f"{monitor.name}: {monitor.steps} steps{skipped}, {words}{cost}{allowed}"


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", overflow="fold")
    return table


def _numbers(monitor: Monitor) -> Table:
    table = _table("", "first", "median of last 16", "last")
    for name, words in _NUMBERS.items():
        column = monitor.history.column(name)
        known = column[np.isfinite(column)]
        if len(known):
            cells = (known[0], float(np.median(known[-16:])), known[-1])
            table.add_row(words, *(format_number(float(c)) for c in cells))
    return table


def _layers(monitor: Monitor) -> Table:
    shown = {n: w for n, w in _LAYER_COLUMNS.items() if n in monitor.tables}
    table = _table("layer", *shown.values())
    medians = {n: monitor.tables[n].median() for n in shown}
    for layer in dict.fromkeys(layer for n in shown for layer in medians[n]):
        cells = [medians[n].get(layer) for n in shown]
        table.add_row(_text(layer), *("" if c is None else format_number(c) for c in cells))
    return table


def _text(words: str) -> str:
    from rich.markup import escape

    return escape(words)


def _groups(monitor: Monitor) -> Table:
    table = _table("group", "every", "times", "ms each")
    for name, account in monitor.governor.accounts.items():
        cost = account.cost
        period = account.off or f"{account.period} steps"
        each = "" if cost is None else format_number(1e3 * cost)
        table.add_row(name, period, str(account.occurrences), each)
    return table
