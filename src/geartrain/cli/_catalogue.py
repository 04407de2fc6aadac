"""``geartrain instruments`` and ``geartrain mechanisms``."""

from __future__ import annotations

from geartrain.cli import _output


def instruments(*, json: bool) -> int:
    """Name, unit and one line of every instrument."""
    from geartrain import instruments as registry

    specs = [registry.get(name).spec for name in registry.names()]
    rows = [
        {"name": s.name, "needs": s.needs, "unit": s.unit, "summary": _sentence(s.summary)} for s in specs
    ]
    return _show(rows, ("name", "unit", "summary"), json=json)


def mechanisms(*, json: bool) -> int:
    """Name and statement of every mechanism."""
    from geartrain import mechanisms as registry

    found = [registry.get(name) for name in registry.names()]
    rows = [{"name": m.name, "title": m.title, "summary": _sentence(m.statement)} for m in found]
    return _show(rows, ("name", "summary"), json=json)


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _show(rows: list[dict[str, str]], columns: tuple[str, ...], *, json: bool) -> int:
    if json:
        _output.as_json(rows)
        return 0
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    _output.console().print(table)
    return 0
