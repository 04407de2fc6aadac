"""Symmetric operators known only by their products, and the meter that counts, limits and checks them.

Everything in this package works on a plain closure ``matvec(v) -> A v`` over flat vectors, a size, a dtype,
a device and an explicit generator. Nothing here knows what the matrix means.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch
from torch import Tensor

from geartrain._torch.finite import finite
from geartrain.errors import InputError, NonFiniteError

Matvec = Callable[[Tensor], Tensor]
ShouldStop = Callable[[], bool]


class Stop(Enum):
    """Why an iteration ended; the value is the sentence shown to people."""

    CONVERGED = "every residual asked for is below the tolerance"
    COMPLETE = "the Krylov space holds everything that can be reached: exact up to rounding"
    STEPS_DONE = "the fixed number of steps was taken"
    OUT_OF_PRODUCTS = "the budget of products was spent first"
    INTERRUPTED = "the time was over or a stop was asked for first"
    NEGATIVE_CURVATURE = "a direction of negative or zero curvature was met"


class Meter:
    """A product that counts itself, refuses non-finite results, and knows when to stop.

    Args:
        matvec: ``v -> A v`` for flat vectors; must not keep or change ``v``.
        n: Length of the vectors.
        dtype: Their dtype.
        device: Where they live.
        max_products: Number of products allowed; ``None`` for no limit.
        should_stop: Asked before each product; ``True`` ends the iteration.

    Raises:
        InputError: The size or the limit is not a sensible number.
    """

    def __init__(
        self,
        matvec: Matvec,
        n: int,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        max_products: int | None = None,
        should_stop: ShouldStop | None = None,
    ) -> None:
        if n < 1:
            raise InputError(f"The operator has size {n}; allowed: 1 or more.")
        if max_products is not None and max_products < 0:
            raise InputError(f"max_products is {max_products}; allowed: 0 or more, or None for no limit.")
        self.n = n
        self.dtype = dtype
        self.device = torch.device(device)
        self.products = 0
        self._matvec = matvec
        self._limit = max_products
        self._should_stop = should_stop

    def blocked(self, upcoming: int = 1) -> Stop | None:
        """Why the next ``upcoming`` products may not be taken, or ``None`` if they may."""
        if self._limit is not None and self.products + upcoming > self._limit:
            return Stop.OUT_OF_PRODUCTS
        if self._should_stop is not None and self._should_stop():
            return Stop.INTERRUPTED
        return None

    @property
    def remaining(self) -> int | None:
        """Products left, or ``None`` without a limit."""
        return None if self._limit is None else max(self._limit - self.products, 0)

    def __call__(self, vector: Tensor) -> Tensor:
        """One product.

        Raises:
            InputError: The closure returned a vector of another shape.
            NonFiniteError: The product holds a NaN or an infinity.
        """
        product = self._matvec(vector)
        self.products += 1
        if product.shape != (self.n,):
            raise InputError(
                f"matvec returned shape {tuple(product.shape)}; allowed: ({self.n},), one entry per unknown."
            )
        product = product.detach()
        if not finite(product):
            raise NonFiniteError(
                f"Product number {self.products} with the operator holds NaN or infinity; "
                "check that the loss and its gradient are finite at this point."
            )
        return product

    def random(self, generator: torch.Generator | None) -> Tensor:
        """A standard normal vector, shape (n,)."""
        return random_normal((self.n,), generator, self.dtype, self.device)


def default_generator(generator: torch.Generator | None) -> torch.Generator:
    """The given generator, or a fresh one with seed 0: the global random state is never touched."""
    return torch.Generator().manual_seed(0) if generator is None else generator


def random_normal(
    shape: tuple[int, ...], generator: torch.Generator | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Standard normal numbers drawn where the generator lives: a seed means the same on every device."""
    generator = default_generator(generator)
    return torch.randn(shape, generator=generator, dtype=dtype, device=generator.device).to(device)
