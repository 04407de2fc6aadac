"""Ways to compute the losses and gradients of many networks: one per file, found by scanning this folder."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType

from geartrain.errors import UnknownNameError


@functools.cache
def names() -> tuple[str, ...]:
    """Names of the engines there are: the files of this folder, without the underscored ones."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def get(name: str) -> ModuleType:
    """The engine's module, with its `supports` and `build`.

    Raises:
        UnknownNameError: There is no such engine.
    """
    if name not in names():
        raise UnknownNameError("engine", name, names())
    return importlib.import_module(f"{__name__}.{name}")
