"""The zoo: toy models whose truth is known, one per file, a folder for each family.

``geartrain.zoo.get("deep-linear", depth=3)`` makes one; `names` lists them. Every toy exists so that an instrument can
be wrong in public: the instrument is run on the toy and its answer is compared with a formula. Other packages add
theirs through the entry point ``geartrain.toys``.
"""

from __future__ import annotations

from typing import Any

from geartrain.registry import Registry
from geartrain.zoo._base import Toy, Truth

_registry = Registry("toy", __name__, "geartrain.toys", attribute="TOY", in_families=True)

__all__ = ["Toy", "Truth", "families", "get", "kind", "names"]


def names() -> list[str]:
    """Names of all toys, sorted: ``"crater-valley"``, ``"deep-linear"``, ..."""
    return [name.replace("_", "-") for name in _registry.names()]


def families() -> dict[str, list[str]]:
    """Names of the toys of each family."""
    return {f: [n.replace("_", "-") for n in names] for f, names in _registry.families().items()}


def kind(name: str) -> type[Toy]:
    """The class of toys of that name.

    Raises:
        UnknownNameError: There is none.
    """
    return _registry.get(name.replace("-", "_"))


def get(name: str, **parameters: Any) -> Toy:
    """The toy of that name, with some of its parameters changed.

    Raises:
        UnknownNameError: There is none.
        InputError: It has no such parameter, or a value is not allowed.

    >>> get("quadratic").truth["hessian_trace"].source[:8]
    'Textbook'
    """
    return kind(name).make(**parameters)
