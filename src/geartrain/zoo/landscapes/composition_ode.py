r"""Structures that combine: two circuits that are useful by themselves become parts of a third.

> "maybe it's possible to have structures which were initially independent be combined into larger structures? [...]
> i think identifying and very clearly understanding any toy example where this shows up would plausibly be better
> than anything else published in interp this year."

Five numbers: a circuit $a = a_1a_2$, a circuit $b = b_1b_2$, and a combiner c that uses both.

$$L = \tfrac12\big[u_A(1 - a)^2 + u_B(1 - b)^2 + (1 - c\,a\,b)^2\big]$$

$u_A$ and $u_B$ say whether the circuits pay **by themselves**. The composed structure $c\,ab$ pays in any case, and
the answer in the end is the same: all products 1. What differs is the way. All five numbers start at ε, and the
flow's times are:

* **both** pay: each circuit is a product of two and grows exponentially, in a time $\ln(1/\varepsilon) + O(1)$;
  then c sees slope;
* **one** pays: it comes first, but the other must be built together with the combiner, a product of three:
  $1/\varepsilon + \ln(1/\varepsilon) + O(1)$;
* **none** pays: a product of five, all at once: $\varepsilon^{-3}/3$ to leading order (see product-saddle).

With ε = 0.1: 3.0, 11.2 and 333.3. Nothing about the composed structure changed, only whether its parts had a reason
to exist.

**The effective loss.** What c experiences, the circuits being what they are, is $\tfrac12(1 - ab\,c)^2$ plus a
constant: a parabola of curvature $(ab)^2$. While a and b are ε², that is $\varepsilon^8$, nothing; once they are
built, it is 1. "Useful" is relative to what else is there.

**Causal controls.** Speed alone does not show that the circuits *caused* it. So:

* *finished circuits, frozen*: with a = b = 1 held, c gets there in $\ln 2(1 - \varepsilon)$, faster than any of the
  above: they suffice;
* *unfinished circuits, frozen*: with $a = b = \varepsilon^2$ held, it takes $\varepsilon^{-8}\ln(2 -
  2\varepsilon^5)$: they are needed;
* *knock-out*: with $a_1 = 0$, the slope on c is exactly 0, whatever b and c are.

**What to vary.** `payoff` and `start` (ε) for the times; `place` for where the instruments look.

Sources: the quotation is a short post by Kaarel on learning theory, footnote 8; the model is by design; Saxe et al.
2014, arXiv 1312.6120 (products).

Ledger: 1.14, 1.15, 1.16
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import torch
from scipy.integrate import solve_ivp

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo.landscapes._monomials import Monomials, monomial_truths
from geartrain.zoo.landscapes.product_saddle import ProductSaddle

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

Payoff = Literal["both", "one", "none"]
PAYOFFS: tuple[Payoff, ...] = get_args(Payoff)
_A, _B, _WHOLE = (0, 1), (2, 3), (0, 1, 2, 3, 4)
_REDUCED = (
    "a₁ = a₂ and b₁ = b₂ throughout: da/dt = 2a[u(1-a) + (1-cab)cb], dc/dt = (1-cab)ab, solved to 1e-10."
)


@dataclass(frozen=True)
class CompositionOde(Toy):
    """Two circuits, a combiner, and pay-offs that are switched on or off.

    Attributes:
        payoff: Which circuits pay by themselves where the instruments look: ``"both"``, ``"one"`` (a), ``"none"`` (the
            truths about times cover all three).
        start: ε, all five numbers at the start of the flow; 0.01 to 0.3.
        place: a₁, a₂, b₁, b₂, c where the instruments look; none 0.
        step: Step size of the run times the largest |curvature| there; 0 to 0.5.
    """

    title: ClassVar[str] = "Composed circuits"
    ledger: ClassVar[tuple[str, ...]] = ("1.14", "1.15", "1.16")

    payoff: Payoff = "both"
    start: float = 0.1
    place: tuple[float, float, float, float, float] = (0.8, 0.7, 0.5, 0.9, 0.3)
    step: float = 0.2

    def __post_init__(self) -> None:
        if self.payoff not in PAYOFFS:
            raise InputError(f"payoff is {self.payoff!r}; allowed: {', '.join(PAYOFFS)}.")
        if not 0.01 <= self.start <= 0.3 or not 0 < self.step <= 0.5:
            raise InputError(
                f"start is {self.start} and step {self.step}; allowed: 0.01 to 0.3, and above 0 to 0.5."
            )
        if len(self.place) != 5 or 0.0 in self.place or self.place == (1.0,) * 5:
            raise InputError(
                f"place is {self.place}; allowed: five numbers, none of them 0, not all of them 1 (the minimum)."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def loss(self) -> Monomials:
        """The loss as a function of the five numbers; what does not pay is left out."""
        sets = {"both": (_A, _B, _WHOLE), "one": (_A, _WHOLE), "none": (_WHOLE,)}[self.payoff]
        ones = (1.0,) * len(sets)
        return Monomials(sets, ones, ones, (2, 2, 1))

    @property
    def rate(self) -> float:
        """Step size of the run."""
        values = np.linalg.eigvalsh(self.loss.hessian(np.array(self.place)))
        return self.step / max(float(np.abs(values).max()), 1.0)

    def make_objective(self) -> Objective:
        """The loss where the instruments look."""
        return self.loss.objective(np.array(self.place))

    def make_run(self) -> Run:
        """Gradient descent from there."""
        return self.loss.run(np.array(self.place), self.rate, "composition-ode")

    def at_minimum(self) -> Objective:
        """The loss where everything is 1."""
        return self.loss.objective(np.ones(5))

    def combiner(self) -> Objective:
        """The loss as a function of c alone."""
        return self.objective.restrict("*parts.2*")

    # ------------------------------------------------------------------ what is known

    @property
    def circuits(self) -> float:
        """Product ab where the instruments look."""
        return math.prod(self.place[:4])

    def stages(self) -> np.ndarray:
        """Times at which a, b and c·ab pass ½, from the reduced equations; NaN for a circuit that comes later."""
        own = {"both": (1, 1), "one": (1, 0), "none": (0, 0)}[self.payoff]

        def slope(t: float, y: np.ndarray) -> list[float]:
            a, b, c = y
            missing = 1 - c * a * b
            return [
                2 * a * (own[0] * (1 - a) + missing * c * b),
                2 * b * (own[1] * (1 - b) + missing * c * a),
                missing * a * b,
            ]

        marks = [lambda t, y: y[0] - 0.5, lambda t, y: y[1] - 0.5, lambda t, y: y[0] * y[1] * y[2] - 0.5]
        return _crossings(slope, [self.start**2, self.start**2, self.start], marks, self._horizon)

    @property
    def _horizon(self) -> float:
        return 30 + self.start**-3

    def truths(self) -> dict[str, Truth]:
        """What is seen from the place, the effective loss of c, the times, the controls."""
        here, eps, ab = np.array(self.place), self.start, self.circuits
        c = self.place[4]
        rest = self.loss.loss(here) - 0.5 * (1 - ab * c) ** 2
        t = np.linspace(-1, 1, 21)
        effective = "L(c) = ½(1 - ab·c)² + const."
        found = {
            **monomial_truths(self.loss, here, np.ones(5), CompositionOde.at_minimum, self.rate),
            "loss_slice.effective": Truth(
                rest + 0.5 * (1 - ab * (c + t)) ** 2,
                1e-9,
                source=effective,
                subject=CompositionOde.combiner,
                options={"direction": torch.ones(1, dtype=torch.float64)},
            ),
            "hessian_trace.effective": Truth(ab**2, 1e-9, source=effective, subject=CompositionOde.combiner),
            "loss_slice.knocked_out": Truth(
                np.full(21, self._own((0.0, *self.place[1:])) + 0.5),
                1e-9,
                source="With a₁ = 0 the loss does not depend on c.",
                subject=CompositionOde.knocked_out,
                options={"direction": torch.ones(1, dtype=torch.float64)},
            ),
            "time_with_finished_circuits": Truth(
                math.log(2 * (1 - eps)), 1e-4, source="dc/dt = 1 - c.", trial=lambda g: self._frozen(1.0)
            ),
            "log_time_with_unfinished_circuits": Truth(
                math.log(eps**-8 * math.log(2 - 2 * eps**5)),
                1e-4,
                source="dc/dt = (1 - ab·c)ab with ab = ε⁴.",
                trial=lambda g: self._frozen(eps, log=True),
            ),
            "time_at_once": Truth(
                ProductSaddle(k=5, start=eps).half_time,
                1e-3,
                source="None pays: a product of five, as an integral.",
                trial=lambda g: trial_result("time", _followed("none", self.start)[2]),
            ),
        }
        for payoff in PAYOFFS:
            toy = replace(self, payoff=payoff)
            found[f"stages.{payoff}"] = Truth(toy.stages(), 1e-3, source=_REDUCED, trial=toy._stages)
        return found

    def _own(self, place: tuple[float, ...]) -> float:
        """What the circuits' own pay-offs add to the loss."""
        a, b = place[0] * place[1], place[2] * place[3]
        shares = {"both": (1, 1), "one": (1, 0), "none": (0, 0)}[self.payoff]
        return 0.5 * (shares[0] * (1 - a) ** 2 + shares[1] * (1 - b) ** 2)

    def knocked_out(self) -> Objective:
        """The loss as a function of c alone, one half of the circuit a taken out."""
        return self.loss.objective(np.array([0.0, *self.place[1:]])).restrict("*parts.2*")

    # ------------------------------------------------------------------ experiments

    def _stages(self, generator: torch.Generator) -> Measurement:
        return trial_result("stages", _followed(self.payoff, self.start), unit="θ²/ℓ")

    def _frozen(self, part: float, *, log: bool = False) -> Measurement:
        """Time until c·ab is ½ while all four halves of the circuits are held at a value."""
        objective = self.loss.objective(np.array([part] * 4 + [self.start])).restrict("*parts.2*")
        ab = part**4

        def slope(t: float, c: np.ndarray) -> np.ndarray:
            # Time in units of 1/ab², or the solver would have to count up to ε⁻⁸.
            return -objective.gradient(torch.from_numpy(c)).numpy() / ab**2

        passed = _crossings(slope, [self.start], [lambda t, c: c[0] * ab - 0.5], 10.0, 1e-8)[0] / ab**2
        return trial_result("time", math.log(passed) if log else passed, unit="θ²/ℓ")

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The composed structure against time for the three pay-offs, and its time against ε."""
        left, right = figure.subplots(1, 2)
        starts = np.geomspace(0.02, 0.3, 8)
        for payoff in PAYOFFS:
            toy = replace(self, payoff=payoff)
            end = 4 * toy.stages()[2]
            times = np.linspace(1e-2, end, 2000)
            found = solve_ivp(
                lambda t, y, loss=toy.loss: -loss.gradient(y),
                (0, end),
                [self.start] * 5,
                "LSODA",
                t_eval=times,
            )
            left.semilogx(times, found.y.prod(0), label=f"{payoff} pay")
            half = [replace(toy, start=float(s)).stages()[2] for s in starts]
            right.loglog(starts, half, "o-", ms=3, label=f"{payoff} pay")
        left.set(xlabel="time (θ²/ℓ)", ylabel="composed structure c·ab", title=f"ε = {self.start:g}")
        right.set(xlabel="start ε (θ)", ylabel="time until c·ab = ½ (θ²/ℓ)", title="ln 1/ε, 1/ε, ε⁻³/3")
        right.set_xticks([0.02, 0.05, 0.1, 0.2], ["0.02", "0.05", "0.1", "0.2"])
        right.minorticks_off()
        left.legend(fontsize=8)
        right.legend(fontsize=8)


@lru_cache(maxsize=32)
def _followed(payoff: Payoff, start: float) -> np.ndarray:
    """Times of the stages from the flow of all five numbers, with the gradient of the objective."""
    toy = CompositionOde(payoff=payoff, start=start)

    def slope(t: float, theta: np.ndarray) -> np.ndarray:
        return -toy.objective.gradient(torch.from_numpy(theta)).numpy()

    marks = [
        lambda t, y: y[0] * y[1] - 0.5,
        lambda t, y: y[2] * y[3] - 0.5,
        lambda t, y: y.prod() - 0.5,
    ]
    return _crossings(slope, [start] * 5, marks, toy._horizon, 1e-6)


def _crossings(
    slope: Callable[[float, np.ndarray], list[float] | np.ndarray],
    start: list[float],
    marks: list[Callable[[float, np.ndarray], float]],
    horizon: float,
    tol: float = 1e-10,
) -> np.ndarray:
    """First times at which the marks are 0."""
    found = solve_ivp(slope, (0, horizon), np.array(start), "LSODA", rtol=tol, atol=1e-12, events=marks)
    return np.array([float(times[0]) if len(times) else math.nan for times in found.t_events])


TOY = CompositionOde
