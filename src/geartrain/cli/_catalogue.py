"""``geartrain instruments`` and ``geartrain mechanisms``."""

from __future__ import annotations

from geartrain.cli import _output


def instruments(*, json: bool) -> int:
    """Name, unit and one line of every instrument, by family."""
    from geartrain import instruments as registry

    rows = [
        {
            "family": family,
            "name": name,
            "needs": registry.get(name).spec.needs,
            "unit": registry.get(name).spec.unit,
            "summary": _sentence(registry.get(name).spec.summary),
        }
        for family, names in registry.families().items()
        for name in names
    ]
    return _show(rows, ("name", "unit", "summary"), json=json, heading="family")


def mechanisms(*, json: bool) -> int:
    """Name and statement of every mechanism."""
    from geartrain import mechanisms as registry

    found = [registry.get(name) for name in registry.names()]
    rows = [{"name": m.name, "title": m.title, "summary": _sentence(m.statement)} for m in found]
    return _show(rows, ("name", "summary"), json=json)


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _show(
    rows: list[dict[str, str]], columns: tuple[str, ...], *, json: bool, heading: str | None = None
) -> int:
    if json:
        _output.as_json(rows)
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    last = None
    for row in rows:
        if heading is not None and row[heading] != last:
            last = row[heading]
            table.add_row(Text(last or "other packages", style="bold"))
        table.add_row(*(row[column] for column in columns))
    _output.console().print(table)
    return 0
