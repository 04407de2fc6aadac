"""What every layer hands to the next: frozen records, plain enough for JSON.

A *measurement* is one quantity with its error, unit, status and cost. A *diagnosis* is made of findings,
predictions, forks and curves. Nothing here computes; nothing here needs a model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import xarray


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


class State(Enum):
    """Whether a measurement can be trusted; the value is the word shown to people."""

    EXACT = "exact"
    CONVERGED = "converged"
    ESTIMATE = "estimate"  # a fixed number of samples; the standard error says how good it is
    NOT_CONVERGED = "not converged"
    OUT_OF_BUDGET = "out of budget"
    INTERRUPTED = "interrupted"
    NOT_APPLICABLE = "not applicable"
    NON_FINITE = "not finite"


@dataclass(frozen=True)
class Status:
    """State of a measurement and one sentence for people."""

    state: State
    sentence: str

    @property
    def usable(self) -> bool:
        """Whether the value means anything at all (it may still carry a large error)."""
        return self.state not in {State.NOT_APPLICABLE, State.NON_FINITE}

    def __str__(self) -> str:
        return f"{self.state.value}: {self.sentence}"


@dataclass(frozen=True)
class Cost:
    """What a measurement spent, or (as a price) what it will spend.

    Attributes:
        forwards: Forward passes over the data measured.
        gradients: Gradients (one forward and one backward pass each).
        products: Matrix-vector products with a curvature matrix.
        seconds: Wall-clock seconds.
        peak_bytes: Extra memory held at the worst moment, in bytes, where it is known.
    """

    forwards: float = 0.0
    gradients: float = 0.0
    products: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forwards + other.forwards,
            self.gradients + other.gradients,
            self.products + other.products,
            self.seconds + other.seconds,
            max(self.peak_bytes, other.peak_bytes),
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.forwards - other.forwards,
            self.gradients - other.gradients,
            self.products - other.products,
            self.seconds - other.seconds,
            self.peak_bytes,
        )


@dataclass(frozen=True)
class Measurement:
    """One measured quantity.

    Attributes:
        name: Name of the instrument.
        value: A float, or an array whose axes ``dims`` names.
        unit: Unit in terms of loss ``ℓ`` and parameter ``θ`` (``"ℓ/θ²"``), ``"1"`` for pure numbers.
        standard_error: Same shape as ``value``; 0 where the value is exact, NaN where no error is known.
        dims: Names of the axes of ``value``.
        coords: Labels along the axes, by name of the axis.
        status: Whether it converged, in one sentence.
        cost: What it took.
        details: Further named quantities that came with it (residuals, densities, counts, ...).
    """

    name: str
    value: float | np.ndarray
    unit: str
    status: Status
    standard_error: float | np.ndarray = 0.0
    dims: tuple[str, ...] = ()
    coords: Mapping[str, Any] = field(default_factory=_nothing)
    cost: Cost = Cost()
    details: Mapping[str, Any] = field(default_factory=_nothing)

    def __post_init__(self) -> None:
        if np.ndim(self.value) != len(self.dims):
            raise ValueError(
                f"{self.name}: value has {np.ndim(self.value)} axes but dims names {len(self.dims)}: {self.dims}"
            )

    @property
    def exact(self) -> bool:
        """Whether the value carries no estimation error."""
        return self.status.state is State.EXACT

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        if np.ndim(self.value) == 0:
            if math.isnan(float(self.value)):
                return f"{self.name}: no value ({self.status.state.value})"
            spread = float(self.standard_error)
            known = " (error unknown)" if math.isnan(spread) else f" ± {format_number(spread)}"
            error = "" if self.exact else known
            unit = "" if self.unit == "1" else f" {self.unit}"
            return (
                f"{self.name} = {format_number(float(self.value))}{error}{unit} ({self.status.state.value})"
            )
        head = ", ".join(format_number(float(v)) for v in np.ravel(self.value)[:6])
        more = ", ..." if np.size(self.value) > 6 else ""
        return f"{self.name}[{', '.join(self.dims)}] = [{head}{more}] {self.unit} ({self.status.state.value})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN and infinities become strings (see `jsonable`)."""
        return jsonable(self)

    def to_xarray(self) -> xarray.DataArray:
        """A labelled array with unit, status and cost as attributes (needs the extra ``xarray``)."""
        import xarray

        known = {k: list(v) for k, v in self.coords.items() if k in self.dims}
        array = xarray.DataArray(np.asarray(self.value), dims=self.dims, coords=known, name=self.name)
        array.attrs = {"unit": self.unit, "status": str(self.status), **dataclasses.asdict(self.cost)}
        error = np.asarray(self.standard_error)
        array.attrs["standard_error"] = error.tolist()
        return array


Verdict = Literal["kept", "broken", "unclear", "not measured"]


@dataclass(frozen=True)
class Gear:
    """A prediction of a mechanism beside what was measured.

    Attributes:
        observable: Name of the observable, for example ``"edge_of_stability@middle"``.
        title: Short words for people: ``"step size x sharpness / threshold"``.
        expected: The prediction in words and numbers: ``"above 1"``.
        theory: Why the mechanism must turn this gear, with its source.
        measured: The number, or ``None`` if it was not measured.
        standard_error: Its standard error; 0 for exact, NaN for unknown.
        unit: Unit of the number.
        verdict: Kept, broken, unclear (within the error or close to the threshold), or not measured.
        degree: From -1 (clearly broken) to +1 (clearly kept).
        weight: Log-odds that this gear added to the mechanism (negative when it counted against it).
        internal: Whether it looks inside the network or the update (not at a knob or a loss curve).
        intervention: Whether it comes from a fork (something was *tried*).
        note: Why it was not measured, or what the instrument's status says.
    """

    observable: str
    title: str
    expected: str
    theory: str
    measured: float | None
    standard_error: float
    unit: str
    verdict: Verdict
    degree: float
    weight: float
    internal: bool
    intervention: bool
    note: str = ""


@dataclass(frozen=True)
class ForkResult:
    """A fork: the same state continued under a changed setting, beside the original.

    Attributes:
        name: Short name, ``"lr / 10"``.
        description: What was changed, one sentence.
        point: Name of the checkpoint it left from.
        start: Step of that checkpoint.
        steps: Optimizer steps actually taken in the fork.
        step_axis: Step numbers of the losses, shape (points,).
        losses: Training loss of the fork on the fixed probe, shape (points,).
        reference: The original's loss on the same probe at the same steps, shape (points,).
        gain: (reference - fork) / baseline at the end: share of the loss of the best constant predictor
            that the change recovers; 1 = everything, negative = worse.
        gain_error: Standard error of the gain (over probe examples, paired).
        validation_gain: The same on the validation data, NaN where there are none.
        validation_gain_error: Its standard error.
        diverged: Whether the loss became non-finite or exceeded ten times where it left from.
        seconds: Wall-clock seconds.
        complete: False when the budget ended it early.
    """

    name: str
    description: str
    point: str
    start: int
    steps: int
    step_axis: np.ndarray
    losses: np.ndarray
    reference: np.ndarray
    gain: float
    gain_error: float
    validation_gain: float
    validation_gain_error: float
    diverged: bool
    seconds: float
    complete: bool = True
    details: Mapping[str, Any] = field(default_factory=_nothing)


@dataclass(frozen=True)
class Finding:
    """A mechanism with its probability and its gears.

    Attributes:
        mechanism: Name from the vocabulary, ``"lr_too_high"``.
        title: The same for people, ``"Step size too high"``.
        statement: What the mechanism says, one or two sentences.
        sentence: What it says about *this* run, with numbers.
        probability: How likely, given everything measured.
        predictions: Its gears, the heaviest first.
        remedy: What to do, one sentence.
        remedy_fork: Name of the fork that tried it, or ``None``.
        remedy_effect: Share of the baseline loss that the remedy won back on the fork, or ``None``.
        remedy_effect_error: Its standard error.
        gearsiness: Number of independent internal measurements that the mechanism commits to.
        knob_only: True when it commits to none: shallow, and marked so.
        principled: Where its thresholds come from (theorem, heuristic, convention).
        incomplete: True when it wins although one of its gears is clearly broken.
    """

    mechanism: str
    title: str
    statement: str
    sentence: str
    probability: float
    predictions: tuple[Gear, ...]
    remedy: str
    remedy_fork: str | None
    remedy_effect: float | None
    remedy_effect_error: float | None
    gearsiness: int
    knob_only: bool
    principled: str
    incomplete: bool


@dataclass(frozen=True)
class Curve:
    """One line of the run: values over steps."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    unit: str


@dataclass(frozen=True)
class BudgetReport:
    """What was promised and what was spent, in seconds.

    Attributes:
        quoted: Seconds promised beforehand.
        spent: Seconds used.
        stages: Seconds per stage (``"watch"``, ``"examine"``, ``"forks"``, ...), in order.
        plan: The plan as it was quoted, one sentence.
        skipped: What the budget did not reach, by name.
    """

    quoted: float
    spent: float
    stages: Mapping[str, float]
    plan: str
    skipped: tuple[str, ...] = ()


def jsonable(thing: Any) -> Any:
    """Plain JSON types: arrays become lists; NaN and infinities become the strings "nan", "inf", "-inf"."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return {f.name: jsonable(getattr(thing, f.name)) for f in dataclasses.fields(thing)}
    if isinstance(thing, Enum):
        return thing.value
    if isinstance(thing, Mapping):
        return {str(k): jsonable(v) for k, v in thing.items()}
    if isinstance(thing, np.ndarray):
        return jsonable(thing.tolist())
    if isinstance(thing, (list, tuple, set, frozenset)):
        return [jsonable(v) for v in thing]
    if isinstance(thing, np.generic):
        return jsonable(thing.item())
    if isinstance(thing, float) and not math.isfinite(thing):
        return repr(thing)
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    return str(thing)


def format_number(x: float, digits: int = 3) -> str:
    """A number as people write it: 3 significant digits, powers of ten only when they help.

    >>> format_number(0.12345), format_number(1234567.0), format_number(3.2e-9), format_number(0.0)
    ('0.123', '1.23e6', '3.20e-9', '0')
    """
    if not math.isfinite(x):
        return {"inf": "∞", "-inf": "-∞"}.get(repr(x), "NaN")
    if x == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(x)))
    if -4 < magnitude < 5:
        return f"{x:.{max(digits - 1 - magnitude, 0)}f}"
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"
