"""Claims: what is said about learning, as preregistered experiments with controls, intervals and verdicts.

``geartrain.claims.get("lottery-ticket").run()`` tests one; `names` lists them. One file holds one claim, a folder one
theme. Other packages add theirs through the entry point ``geartrain.claims``.
"""

from __future__ import annotations

from geartrain.claims._base import Claim, Part, Source
from geartrain.claims.effect import Effect, Finding
from geartrain.claims.results import Cell, Results
from geartrain.claims.rules import Decision, Every, Interval, Outcome, Rule, Some, above, below, within
from geartrain.claims.verdict import PartVerdict, Verdict
from geartrain.errors import InputError, UnknownNameError
from geartrain.registry import Registry

_registry = Registry("claim", __name__, "geartrain.claims", attribute="CLAIM", in_families=True)

__all__ = [
    "Cell", "Claim", "Decision", "Effect", "Every", "Finding", "Interval", "Outcome", "Part", "PartVerdict",
    "Results", "Rule", "Some", "Source", "Verdict", "above", "below", "families", "get", "load", "names", "within",
]  # fmt: skip


def names() -> list[str]:
    """Names of all claims, sorted."""
    return [name.replace("_", "-") for name in _registry.names()]


def families() -> dict[str, list[str]]:
    """Names of the claims of each theme."""
    return {f: [n.replace("_", "-") for n in names] for f, names in _registry.families().items()}


def get(name: str) -> Claim:
    """The claim of that name.

    Raises:
        UnknownNameError: There is none.
        InputError: Another package registered under that name what is no claim.
    """
    known = {found.replace("_", "-"): found for found in _registry.names()}
    wanted = name.replace("_", "-")
    if wanted not in known:
        raise UnknownNameError("claim", name, sorted(known))
    found = _registry.get(known[wanted])
    if not (isinstance(found, type) and issubclass(found, Claim)):
        raise InputError(
            f"The claim {wanted!r} is registered as {found!r}; it must be a class derived from Claim."
        )
    return found()


# A record is read back with the claims' help, so that it comes after the registry.
from geartrain.claims.record import load  # noqa: E402
