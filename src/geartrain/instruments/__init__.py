"""Instruments: named quantities measured on an `Objective` or a `Run`, one per file, a folder for each family.

``geartrain.instruments.hessian_spectrum(objective)`` calls one; `names` lists them; `get` fetches one by name.
Other packages add theirs through the entry point ``geartrain.instruments``.
"""

from __future__ import annotations

from typing import Any

from geartrain.registry import Registry

_registry = Registry("instrument", __name__, "geartrain.instruments")


def names() -> list[str]:
    """Names of all instruments, sorted."""
    return _registry.names()


def get(name: str) -> Any:
    """The instrument of that name.

    Raises:
        UnknownNameError: There is none.
    """
    return _registry.get(name)


def families() -> dict[str, list[str]]:
    """Names of the instruments of each family (curvature, noise, motion, ...)."""
    return _registry.families()


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return get(name)
    except KeyError as error:
        raise AttributeError(str(error)) from None


def __dir__() -> list[str]:
    return [*names(), "families", "get", "names"]
