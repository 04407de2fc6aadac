"""Forward and backward passes of the layers that the stack engine knows: one file per kind, found by a scan.

A file may define any of three tables; each maps what stands in a model to a function that makes the `Layer`, or raises
`Declined` with the reason in one sentence::

    MODULES   = {nn.Linear: maker(module, names)}       # exact types; names: the module's parameters -> the model's
    FUNCTIONS = {torch.relu: maker(*args, **kwargs)}    # with the arguments as they stand in the traced graph
    METHODS   = {"relu": maker(self, *args, **kwargs)}
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from geartrain.ensemble.engines._stack._layer import Layer


@functools.cache
def table(kind: str) -> dict[Any, Callable[..., Layer]]:
    """All entries of ``MODULES``, ``FUNCTIONS`` or ``METHODS`` of the files of this folder."""
    entries: dict[Any, Callable[..., Layer]] = {}
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        if not found.name.startswith("_"):
            entries |= getattr(importlib.import_module(f"{__name__}.{found.name}"), kind, {})
    return entries
