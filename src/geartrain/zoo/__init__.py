"""The zoo: toy models whose truth is known, one per file, a folder for each family.

``geartrain.zoo.get("deep-linear", depth=3)`` makes one; `names` lists them. Every toy exists so that an instrument can
be wrong in public: the instrument is run on the toy and its answer is compared with a formula. Toys can be added,
multiplied by numbers and paired (`total`, `scaled`, `product`), and keep what theory carries over. Other packages add
theirs through the entry point ``geartrain.zoo``.
"""

from __future__ import annotations

from typing import Any

from geartrain.errors import InputError, UnknownNameError
from geartrain.registry import Registry
from geartrain.zoo._base import Toy, Truth

_registry = Registry("toy", __name__, "geartrain.zoo", attribute="TOY", in_families=True)

__all__ = ["Toy", "Truth", "families", "get", "kind", "names", "product", "scaled", "total"]


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
        InputError: Another package registered under that name what is no toy, or goes by another name.
    """
    wanted = name.replace("_", "-")
    known = {found.replace("_", "-"): found for found in _registry.names()}
    if wanted not in known:
        raise UnknownNameError("toy", name, sorted(known))
    found = _registry.get(known[wanted])
    if not (isinstance(found, type) and issubclass(found, Toy)):
        raise InputError(
            f"The toy {wanted!r} is registered as {found!r}; it must be a class derived from zoo.Toy."
        )
    if found.name() != wanted:
        raise InputError(
            f"The toy {wanted!r} calls itself {found.name()!r}. Keep it in a file of that name, or give the class "
            f'called: ClassVar[str] = "{wanted}".'
        )
    return found


def get(name: str, **parameters: Any) -> Toy:
    """The toy of that name, with some of its parameters changed; or a sum such as ``"quadratic + 2 * deep-linear"``.

    Raises:
        UnknownNameError: There is none.
        InputError: It has no such parameter, or a value is not allowed.

    >>> get("quadratic", spectrum="clustered", dimension=4, condition=4.0).truth["hessian_trace"].value
    np.float64(4.5)
    """
    if "+" not in name and "*" not in name:
        return kind(name).make(**parameters)
    if parameters:
        raise InputError(
            f"{name!r} is made of several toys; give parameters to each: get(a, ...) + get(b, ...)."
        )
    return composite.parse(name, get)


# Composites are toys themselves, so that they come after the registry that they look things up in.
from geartrain.zoo import composite  # noqa: E402
from geartrain.zoo.composite import product, scaled, total  # noqa: E402
