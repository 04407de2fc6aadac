"""What a toy is: a small system with parameters, an objective or a sampler of its own, and truths in closed form."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from geartrain.errors import InputError, UnsupportedError
from geartrain.objective import Objective
from geartrain.records import Measurement, State, Status
from geartrain.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Trial = Callable[[torch.Generator], Measurement]
"""An experiment of the toy's own: takes a generator, returns a number with its error."""


@dataclass(frozen=True)
class Truth:
    """What theory says about one quantity of a toy.

    Attributes:
        value: The number, or an array; NaN where the instrument must say that there is no such quantity.
        tolerance: How far a perfect instrument may be from it for reasons that are the theory's or arithmetic's (an
            asymptotic formula, rounding), as a fraction of the value's size; errors of estimation come on top.
        assumptions: Under which conditions it holds, one sentence.
        source: Derivation in a line, or the citation.
        instrument: Name of the instrument that should find it; by default the quantity's own name up to a dot.
        reading: What of the measurement is compared: ``"value"`` or a key of its details.
        error: Key of the details that holds the standard error of the reading; ``<reading>_error`` by default.
        strict: The truth is about these very data: the tolerance alone decides, and a standard error excuses nothing.
        options: Options of the instrument.
        subject: What it is measured on, where that is not the toy's objective (or run): a function of the toy.
        other: The second state, for instruments that compare two: a function of the toy.
        trial: The toy's own experiment, for quantities that no instrument measures.
        extract: From what was read to what is compared (``numpy.sort``, a ratio of entries, ...).
    """

    value: float | np.ndarray
    tolerance: float = 1e-6
    assumptions: str = "None."
    source: str = "Textbook."
    instrument: str | None = None
    reading: str = "value"
    error: str | None = None
    strict: bool = False
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    subject: Callable[[Any], Any] | None = None
    other: Callable[[Any], Any] | None = None
    trial: Trial | None = None
    extract: Callable[[np.ndarray], Any] | None = None

    def __float__(self) -> float:
        return float(self.value)


@dataclass(frozen=True)
class Toy:
    """A small system with known truth. A file of the zoo holds one frozen subclass, bound to ``TOY``.

    The order of a file is: what the model is and teaches (module docstring), the class with its parameters, how it is
    made (`make_objective`, `make_run`), what is known exactly (`truths`), its picture (`draw`).

    Attributes:
        called: Its name in the zoo, where that is not the name of its file (several toys in one file, say).
        title: For people.
        ledger: Ids of what the source documents say that it answers to.
        seed: Of everything random in making it.
    """

    called: ClassVar[str] = ""
    title: ClassVar[str] = ""
    ledger: ClassVar[tuple[str, ...]] = ()

    seed: int = 0

    @classmethod
    def make(cls, **parameters: Any) -> Self:
        """One with these parameters.

        Raises:
            InputError: There is no such parameter.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for name in parameters:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise InputError(f"{cls.name()} has no parameter {name!r}; it has: {', '.join(known)}.{hint}")
        return cls(**parameters)

    @classmethod
    def name(cls) -> str:
        """Its name in the zoo: that of its file, with hyphens, unless it is `called` otherwise."""
        return cls.called or cls.__module__.rpartition(".")[2].replace("_", "-")

    @property
    def label(self) -> str:
        """What a certificate calls it: its name; of a toy made from others, how it was made."""
        return self.name()

    @property
    def parameters(self) -> dict[str, Any]:
        """What it was made with."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @cached_property
    def objective(self) -> Objective:
        """Its loss as a function of its parameters.

        Raises:
            UnsupportedError: It has none.
        """
        with _own_randomness():
            return self.make_objective()

    @cached_property
    def run(self) -> Run:
        """The training run that goes with it.

        Raises:
            UnsupportedError: It has none.
        """
        with _own_randomness():
            return self.make_run()

    @cached_property
    def truth(self) -> Mapping[str, Truth]:
        """Everything known exactly, by quantity.

        A quantity is an instrument's name (``"hessian_trace"``), one with a reading behind a dot
        (``"gradient_noise_scale.covariance_trace"``), or one of the toy's own, checked by a trial.
        """
        with _own_randomness():
            return MappingProxyType(self.truths())

    def make_objective(self) -> Objective:
        """Build the objective; overridden by toys that have one."""
        raise UnsupportedError(
            f"{self.name()} is no loss over parameters; see its truths and trials instead."
        )

    def make_run(self) -> Run:
        """Build the run; overridden by toys that are trained."""
        raise UnsupportedError(
            f"{self.name()} is not trained by a loop of its own; use its objective or trials."
        )

    def truths(self) -> dict[str, Truth]:
        """What is known, computed from the parameters; overridden by every toy."""
        raise NotImplementedError

    def draw(self, figure: Figure) -> None:
        """Draw what it shows into an empty matplotlib figure; overridden by every toy."""
        raise NotImplementedError

    def __add__(self, other: Toy) -> Toy:
        """The sum of both losses, each over parameters of its own: `geartrain.zoo.total`."""
        from geartrain.zoo.composite import total

        return total(self, other)

    def __mul__(self, factor: float) -> Toy:
        """The loss times a positive number: `geartrain.zoo.scaled`."""
        from geartrain.zoo.composite import scaled

        return scaled(self, factor)

    __rmul__ = __mul__

    def generator(self) -> torch.Generator:
        """A fresh source of randomness, seeded by the toy's seed. Not that of ``torch.manual_seed(seed)``."""
        return torch.Generator().manual_seed(0x9E3779B97F4A7C15 * (self.seed + 1) % 2**63)


def _own_randomness() -> AbstractContextManager[None]:
    """The program's random numbers stay as they are: layers of PyTorch draw weights before a toy sets its own."""
    return torch.random.fork_rng(devices=[])


def trial_result(
    quantity: str,
    value: Any,
    standard_error: Any = 0.0,
    sentence: str = "An experiment of the toy's own.",
    *,
    unit: str = "1",
) -> Measurement:
    """What a trial returns: a number or an array with its standard error (0 = no error of estimation)."""
    array, error = np.asarray(value, dtype=float), np.asarray(standard_error, dtype=float)
    status = Status(State.ESTIMATE if error.any() else State.EXACT, sentence)
    dims = ("point", "other")[: array.ndim]
    if array.ndim == 0:
        return Measurement(quantity, float(array), unit, status, standard_error=float(error))
    return Measurement(quantity, array, unit, status, standard_error=error, dims=dims)
