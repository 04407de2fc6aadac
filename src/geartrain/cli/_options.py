"""``--set k=20 operator=ggn``: options of an instrument, checked against its signature."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from geartrain.cli._usage import UsageError, nearest

_GIVEN_OTHERWISE = {"generator": "--seed", "budget": "--budget", "other": "--other"}


def parse(words: Iterable[str], instrument: Callable[..., Any]) -> dict[str, Any]:
    """Options by name; values are read as Python literals where they are such, else as text.

    Raises:
        UsageError: A word is not OPTION=VALUE, or the instrument has no such option.
    """
    known = list(inspect.signature(instrument).parameters.values())[1:]
    names = [p.name for p in known if p.name not in _GIVEN_OTHERWISE]
    chosen: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"--set {word!r} is not OPTION=VALUE, such as k=20.")
        if name in _GIVEN_OTHERWISE:
            raise UsageError(f"--set cannot give {name}; use {_GIVEN_OTHERWISE[name]}.")
        if name not in names:
            hint = nearest(name, names) if names else "It has no options."
            label = getattr(instrument, "__name__", "This instrument")
            raise UsageError(f"{label} has no option {name!r}. {hint}")
        chosen[name] = _value(value)
    return chosen


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
