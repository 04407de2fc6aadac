"""Ways to move a chain by one step: one per file, found by scanning this folder."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any

from geartrain.errors import InputError, UnknownNameError
from geartrain.sampling.kernels._base import Info, Kernel, State, Stream

__all__ = ["Info", "Kernel", "State", "Stream", "get", "make", "names"]


@functools.cache
def names() -> tuple[str, ...]:
    """Names of the kernels there are: the files of this folder, without the underscored ones."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def get(name: str) -> type[Kernel]:
    """The class of that name.

    Raises:
        UnknownNameError: There is no such kernel.
    """
    if name not in names():
        raise UnknownNameError("kernel", name, names())
    return importlib.import_module(f"{__name__}.{name}").KERNEL


def make(kernel: str | Kernel, **options: Any) -> Kernel:
    """A kernel from its name and options, or the one that was given.

    Raises:
        UnknownNameError: There is no such kernel.
        InputError: Neither a name nor a kernel, or options beside a finished kernel.

    >>> make("sgld", step_size=0.1)
    SGLD(step_size=0.1, noise_level=1.0)
    """
    if isinstance(kernel, Kernel):
        if any(value not in (None, "auto") for value in options.values()):
            raise InputError(
                f"The kernel is finished ({kernel}); give it its options itself: {', '.join(options)}."
            )
        return kernel
    if not isinstance(kernel, str):
        raise InputError(f"kernel is {kernel!r}; it must be a Kernel or one of: {', '.join(names())}.")
    return get(kernel)(**{name: value for name, value in options.items() if value is not None})
