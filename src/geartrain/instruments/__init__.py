"""Instruments: named quantities measured on an `Objective` or a `Run`, one per file.

``geartrain.instruments.hessian_spectrum(objective)`` calls one; `names` lists them; `get` fetches one by name.
Other packages add theirs through the entry point ``geartrain.instruments``.
"""

from __future__ import annotations

import sys
import types
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


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return get(name)
    except KeyError as error:
        raise AttributeError(str(error)) from None


def __dir__() -> list[str]:
    return [*names(), "get", "names"]


class _Package(types.ModuleType):
    """Lets a file and the function in it share one name.

    Importing ``instruments/hessian_spectrum.py`` makes Python bind the *module* to the package;
    users expect ``instruments.hessian_spectrum`` to be the function, whatever was imported first.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType) and value.__name__ == f"{self.__name__}.{name}":
            value = getattr(value, name, value)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
