"""New known systems from old ones: sums, multiples and products of toys, with the truths that theory carries over.

A loss that is a sum of losses over *different* parameters, L(a, b) = L₁(a) + L₂(b), has a Hessian of two blocks. So the
spectra unite, traces and losses add, diagonals and layers stand side by side, and so do the directions in which nothing
changes. The volume {L < ε} is a convolution of two volumes; if these grow as ε^λ₁ and ε^λ₂, it grows as ε^(λ₁+λ₂):
learning coefficients add. That is `total`, written ``a + b``.

A multiple c·L multiplies every quantity by c to the power in which the loss enters its unit: curvature (ℓ/θ²) by c,
the covariance of gradients (ℓ²/θ²) by c², the best step (θ²/ℓ) by 1/c, shares and ratios not at all. Dimensional
analysis is the whole proof. That is `scaled`, written ``c * a``.

A product takes every pair of an example of the one toy and an example of the other, as independent data do. Loss and
Hessian are those of the sum; and because the two parts of an example are drawn independently, the covariance of its
gradients has two blocks as well, so that variances add. That is `product`.

Everything else is left out: a composite knows what can be proved of it, and nothing more. Composites are toys: they
can be composed again, measured, checked and drawn. ``zoo.get("quadratic + 2 * pca-landscape")`` makes one from words.

Sources: textbook; Watanabe 2009, *Algebraic Geometry and Statistical Learning Theory*, remark 7.3 for sums of learning
coefficients. Ledger: 0.2, 2.14
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import _carry, _joined
from geartrain.zoo._base import Toy, Truth

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def total(*toys: Toy) -> Toy:
    """The sum of their losses, each over parameters of its own; also ``a + b``.

    Raises:
        InputError: There are none, or one of them is no loss over parameters.

    >>> from geartrain import zoo
    >>> both = zoo.get("quadratic", largest=4.0, condition=4.0) + zoo.get("quadratic", largest=3.0, condition=4.0)
    >>> both.truth["hessian_spectrum"].value[:2].round(3)
    array([4.   , 3.766])
    """
    if not toys:
        raise InputError("A total of no toys was asked for; give one or more, such as total(a, b).")
    for toy in toys:
        _need_loss(toy)
    return reduce(lambda a, b: Total(first=a, second=b), toys)


def scaled(toy: Toy, factor: float) -> Toy:
    """The toy with its loss multiplied by a positive number; also ``c * a``.

    Raises:
        InputError: The factor is not positive, or the toy is no loss over parameters.

    >>> from geartrain import zoo
    >>> float(zoo.scaled(zoo.get("quadratic", largest=4.0), 10.0).truth["hessian_spectrum"].value[0])
    40.0
    """
    _need_loss(toy)
    return Scaled(toy=toy, factor=factor)


def product(first: Toy, second: Toy) -> Toy:
    """The sum of their losses on independent data: every pair of an example of each.

    Raises:
        InputError: There are too many pairs, or one of them is no loss over parameters.
    """
    for toy in (first, second):
        _need_loss(toy)
    return Product(first=first, second=second)


def parse(words: str, find: Callable[[str], Toy]) -> Toy:
    """The toy that an expression means: names, numbers in front of them with ``*``, and ``+`` between.

    Args:
        words: ``"quadratic + 2 * pca-landscape"``.
        find: From a name to its toy.

    Raises:
        InputError: It is no such expression.
    """
    parts = []
    for term in words.split("+"):
        match = re.fullmatch(r"\s*(?:([0-9.]+(?:e-?[0-9]+)?)\s*\*\s*)?([a-z][\w-]*)\s*", term)
        if match is None:
            raise InputError(
                f"{words!r} is no sum of toys: {term.strip()!r} is neither a name nor NUMBER * NAME. "
                "Write it as in 'quadratic + 2 * pca-landscape'."
            )
        toy = find(match[2])
        parts.append(scaled(toy, float(match[1])) if match[1] else toy)
    return total(*parts)


@dataclass(frozen=True, kw_only=True)
class Total(Toy):
    """L₁(a) + L₂(b).

    Attributes:
        first: The one toy.
        second: The other.
    """

    called: ClassVar[str] = "total"
    title: ClassVar[str] = "A sum of toys"
    ledger: ClassVar[tuple[str, ...]] = ("0.2", "2.14")

    first: Toy
    second: Toy

    @property
    def label(self) -> str:
        """``"a + b"``."""
        return f"{self.first.label} + {self.second.label}"

    def make_objective(self) -> Objective:
        """The sum of both objectives."""
        return _joined.summed(self.first.objective, self.second.objective)

    def truths(self) -> dict[str, Truth]:
        """What follows from both sides' truths: see the module's text."""
        return _carry.added(self.first, self.second, _joined.summed)

    def draw(self, figure: Figure) -> None:
        """Both pictures, side by side."""
        _draw_both(figure, self.first, self.second)


@dataclass(frozen=True, kw_only=True)
class Product(Toy):
    """L₁(a) + L₂(b) on all pairs of an example of each.

    Attributes:
        first: The one toy.
        second: The other.
    """

    called: ClassVar[str] = "product"
    title: ClassVar[str] = "Toys on independent data"
    ledger: ClassVar[tuple[str, ...]] = ("0.2", "4.4")

    first: Toy
    second: Toy

    def __post_init__(self) -> None:
        _joined.check_pairs(self.first.objective, self.second.objective)

    @property
    def label(self) -> str:
        """``"product(a, b)"``."""
        return f"product({self.first.label}, {self.second.label})"

    def make_objective(self) -> Objective:
        """Both losses, averaged over all pairs."""
        return _joined.paired(self.first.objective, self.second.objective)

    def truths(self) -> dict[str, Truth]:
        """Those of the sum, and the noise of the gradients."""
        summed = _carry.added(self.first, self.second, _joined.paired)
        return summed | _carry.noise(self.first, self.second, _joined.paired)

    def draw(self, figure: Figure) -> None:
        """Both pictures, side by side."""
        _draw_both(figure, self.first, self.second)


@dataclass(frozen=True, kw_only=True)
class Scaled(Toy):
    """c·L.

    Attributes:
        toy: The toy.
        factor: c, positive.
    """

    called: ClassVar[str] = "scaled"
    title: ClassVar[str] = "A multiple of a toy"
    ledger: ClassVar[tuple[str, ...]] = ("0.2",)

    toy: Toy
    factor: float

    def __post_init__(self) -> None:
        if not (self.factor > 0 and math.isfinite(self.factor)):
            raise InputError(f"factor is {self.factor}; allowed: positive numbers. Minima stay minima then.")

    @property
    def label(self) -> str:
        """``"2 * a"``, or with a sum ``"2 * (a + b)"``."""
        inner = self.toy.label
        return f"{self.factor:g} * ({inner})" if " + " in inner else f"{self.factor:g} * {inner}"

    def make_objective(self) -> Objective:
        """The objective times the factor."""
        return _joined.multiplied(self.toy.objective, self.factor)

    def truths(self) -> dict[str, Truth]:
        """Each times the factor to the power in which the loss enters its unit."""
        return _carry.multiplied(self.toy, self.factor)

    def draw(self, figure: Figure) -> None:
        """The picture of the toy as it was."""
        self.toy.draw(figure)
        figure.suptitle(f"times {self.factor:g}")


def _need_loss(toy: Any) -> None:
    if not isinstance(toy, Toy):
        raise InputError(
            f"A {type(toy).__name__} cannot be composed; only toys can, such as zoo.get('quadratic')."
        )
    if type(toy).make_objective is Toy.make_objective:
        raise InputError(f"{toy.label} cannot be composed: it is no loss over parameters.")


def _draw_both(figure: Figure, first: Toy, second: Toy) -> None:
    parts: Any = figure.subfigures(1, 2)
    for part, toy in zip(parts, (first, second), strict=True):
        toy.draw(part)
        part.suptitle(toy.label, fontsize=9)
