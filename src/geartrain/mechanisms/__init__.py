"""Mechanisms: hypotheses with gears, one per file.

Each says what it claims, what it predicts of which observable and why (with the theory behind the threshold), what
can be tried on a fork, and what to do. Other packages add theirs through the entry point ``geartrain.mechanisms``.
"""

from __future__ import annotations

from geartrain.mechanisms._base import Expect as Expect
from geartrain.mechanisms._base import Intervention as Intervention
from geartrain.mechanisms._base import Mechanism as Mechanism
from geartrain.mechanisms._base import Prediction as Prediction
from geartrain.registry import Registry

_registry = Registry("mechanism", __name__, "geartrain.mechanisms", attribute="MECHANISM")


def names() -> list[str]:
    """Names of all mechanisms, sorted."""
    return _registry.names()


def get(name: str) -> Mechanism:
    """The mechanism of that name.

    Raises:
        UnknownNameError: There is none.
    """
    return _registry.get(name)


def all_mechanisms() -> list[Mechanism]:
    """Every mechanism, by name."""
    return [mechanism for _, mechanism in _registry.items()]
