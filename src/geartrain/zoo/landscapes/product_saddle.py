r"""The product saddle: what it costs to build k things at once.

$L = \tfrac12 \big(g - \theta_1\theta_2\cdots\theta_k\big)^2$: a structure that pays only when all of its k parts
are there. Each part's slope is the product of the *others*. While all are small, nothing that is done to one of
them makes a difference; the origin is a saddle of order k, and the loss rests on a plateau before it falls within a
short time.

**How long?** From $\theta_i = \varepsilon$ the parts stay equal (and in general every $\theta_i^2 - \theta_j^2$ is
conserved: the gradient's components satisfy $\theta_i \partial_i L = \theta_j \partial_j L$). So $\dot\theta = (g -
\theta^k)\,\theta^{k-1}$, and the time until the product is g/2 is

$$T = \int_\varepsilon^{(g/2)^{1/k}} \frac{d\theta}{(g - \theta^k)\,\theta^{k-1}}.$$

For k = 2 this is exactly $\ln\big((g - \varepsilon^2)/\varepsilon^2\big)/2g$: a logarithm, since each part grows at
a rate that the other sets. For k > 2 it is $\varepsilon^{2-k}/(g(k-2))$ to leading order: a *power* of how far away
one starts. One part more costs a factor 1/ε. That is why structures with a path on which each part pays by itself
(see composition-ode) are found, and others are not.

**The way out.** At equal parts the Hessian has $k\theta^{2k-2} - (k-1)(g - \theta^k)\theta^{k-2}$ along (1, ..., 1)
and $(g - \theta^k)\theta^{k-2}$ in the k - 1 other directions: one direction down, the rest up, all vanishing like
$\theta^{k-2}$. For k ≥ 3 the plateau is flat to second order, and an instrument that looks for negative curvature
finds next to none although the loss is far from done.

**Symmetry.** $\theta_i \to s\theta_i$, $\theta_j \to \theta_j/s$: k - 1 directions in which nothing changes.

**What to vary.** `k`, `start` (ε), `gain` (g). `at` is the share of $g^{1/k}$ at which the instruments look: ε by
default, near 1 for the end.

Sources: textbook; Saxe, McClelland, Ganguli 2014, arXiv 1312.6120 (k = 2).

Ledger: 1.8, 1.11
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import History, Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo.landscapes._monomials import Monomials, monomial_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FLOW = "dθ/dt = (g - θᵏ)θᵏ⁻¹, as an integral over θ."
_RECORDED = 1000


@dataclass(frozen=True)
class ProductSaddle(Toy):
    """½(g - Πθ_i)², started at equal small parts.

    Attributes:
        k: Parts, 2 to 8.
        gain: g, what the product should be.
        start: ε, every part at the start; below (g/2)^(1/k).
        at: Where the instruments look: every part there, as a share of g^(1/k); the start if omitted.
        step: Step size of the run times the largest curvature at the minimum, kg^(2-2/k); 0 to 0.5.
    """

    title: ClassVar[str] = "Product saddle"
    ledger: ClassVar[tuple[str, ...]] = ("1.8", "1.11")

    k: int = 3
    gain: float = 1.0
    start: float = 0.1
    at: float | None = None
    step: float = 0.3

    def __post_init__(self) -> None:
        if not 2 <= self.k <= 8:
            raise InputError(f"k is {self.k}; allowed: 2 to 8.")
        if not self.gain > 0 or not 0 < self.start < self.end:
            raise InputError(
                f"gain is {self.gain} and start {self.start}; allowed: a positive gain, and a positive start below "
                "(gain/2)^(1/k), so that the flow passes half of the gain."
            )
        if (self.at is not None and not 0.01 <= self.at < 1) or not 0 < self.step <= 0.5:
            raise InputError(
                f"at is {self.at} and step {self.step}; allowed: 0.01 to below 1, and above 0 to 0.5."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def loss(self) -> Monomials:
        """The loss as a function of the parts."""
        return Monomials((tuple(range(self.k)),), (self.gain,), (1.0,), (self.k,))

    @property
    def place(self) -> np.ndarray:
        """Where the instruments look."""
        part = self.start if self.at is None else self.at * self.gain ** (1 / self.k)
        return np.full(self.k, part)

    @property
    def minimum(self) -> np.ndarray:
        """The balanced minimum."""
        return np.full(self.k, self.gain ** (1 / self.k))

    @property
    def rate(self) -> float:
        """Step size of the run."""
        return self.step / (self.k * self.gain ** (2 - 2 / self.k))

    def make_objective(self) -> Objective:
        """The loss where the instruments look."""
        return self.loss.objective(self.place)

    def make_run(self) -> Run:
        """Gradient descent from there."""
        return self.loss.run(self.place, self.rate, "product-saddle")

    # ------------------------------------------------------------------ what is known

    @property
    def end(self) -> float:
        """A part when the product is g/2."""
        return (self.gain / 2) ** (1 / self.k)

    def time(self, part: float) -> float:
        """When the parts, equal from the start, have grown to that size."""

        def slowness(log_theta: float) -> float:
            theta = np.exp(log_theta)
            return theta ** (2 - self.k) / (self.gain - theta**self.k)

        return quad(slowness, np.log(self.start), np.log(part), epsabs=0, epsrel=1e-11, limit=200)[0]

    @property
    def half_time(self) -> float:
        """T, when the product is g/2."""
        return self.time(self.end)

    @property
    def leading(self) -> float:
        """T to leading order in ε."""
        if self.k == 2:
            return float(np.log(self.gain**0.5 / self.start)) / self.gain
        return self.start ** (2 - self.k) / (self.gain * (self.k - 2))

    def part_at_loss(self, loss: float) -> float:
        """The size of the parts at which the loss is that."""
        return (self.gain - np.sqrt(2 * loss)) ** (1 / self.k)

    @property
    def plateau(self) -> float:
        """Share of T in which the loss falls by less than a hundredth of its range, over fiftieths of T."""
        first, last = 0.5 * (self.gain - self.start**self.k) ** 2, 0.98 * self.half_time
        begin = brentq(lambda part: self.time(part) - last, self.start, self.end, xtol=1e-14)
        # The loss times dt over the last fiftieth: dt = dθ / ((g - θᵏ)θᵏ⁻¹).
        area = quad(lambda part: 0.5 * (self.gain - part**self.k) / part ** (self.k - 1), begin, self.end)[0]
        lowest = area / (0.02 * self.half_time)
        return self.time(self.part_at_loss(first - 0.01 * (first - lowest))) / self.half_time

    def truths(self) -> dict[str, Truth]:
        """The time, the plateau, the conserved differences, and all that the derivatives decide."""
        theta, g, k = float(self.place[0]), self.gain, self.k
        out = k * theta ** (2 * k - 2) - (k - 1) * (g - theta**k) * theta ** (k - 2)
        across = (g - theta**k) * theta ** (k - 2)
        return {
            **monomial_truths(self.loss, self.place, self.minimum, ProductSaddle.at_minimum, self.rate),
            "half_time": Truth(self.half_time, 1e-4, source=_FLOW, trial=self._half_time),
            "conserved": Truth(
                np.zeros(k - 1),
                1e-4,
                source="θ_i ∂_iL = θ_j ∂_jL, so θ_i² - θ_j² stands still.",
                trial=self._conserved,
            ),
            "loss_plateau": Truth(
                self.plateau,
                0.03,
                assumptions="Recorded until the product is g/2.",
                source=_FLOW,
                subject=ProductSaddle.recorded,
            ),
            "eigenvalues": Truth(
                np.array([out, across] if k > 2 else sorted([out, across], reverse=True)),
                1e-9,
                source="(1, ..., 1) and across it; see the text.",
                instrument="hessian_spectrum",
                options={"k": k, "tol": 1e-8, "confirm": True},
                extract=lambda values: values if k == 2 else _single_and_rest(values),
            ),
        }

    def at_minimum(self) -> Objective:
        """The loss at the balanced minimum."""
        return self.loss.objective(self.minimum)

    def history(self) -> History:
        """The loss along the flow, at equal times until the product is g/2."""
        times = np.linspace(0, self.half_time, _RECORDED)
        found = solve_ivp(
            lambda t, theta: (self.gain - theta**self.k) * theta ** (self.k - 1),
            (0, times[-1]),
            [self.start],
            "LSODA",
            t_eval=times,
            rtol=1e-9,
            atol=1e-12,
        )
        losses = 0.5 * (self.gain - found.y[0] ** self.k) ** 2
        return History({"step": list(range(_RECORDED)), "loss": losses.tolist()})

    def recorded(self) -> Run:
        """A run that has recorded the loss along the flow."""
        run = self.make_run()
        run.history = self.history()
        return run

    def _half_time(self, generator: torch.Generator) -> Measurement:
        """The flow of all parts, simulated."""
        time = self.loss.flow(np.full(self.k, self.start), range(self.k), self.gain / 2, 3 * self.half_time)
        return trial_result("half_time", time, unit="θ²/ℓ")

    def _conserved(self, generator: torch.Generator) -> Measurement:
        """Change of θ_i² - θ_1² along a simulated flow from unequal parts, relative to g^(2/k)."""
        spread = torch.rand(self.k, generator=generator, dtype=torch.float64).numpy()
        start = self.minimum * (0.3 + 0.6 * spread)
        found = solve_ivp(
            lambda t, theta: -self.loss.gradient(theta),
            (0, 5 / self.gain ** (2 - 2 / self.k)),
            start,
            "LSODA",
            rtol=1e-9,
            atol=1e-12,
        )
        squares = found.y[:, [0, -1]] ** 2
        change = np.diff(squares[1:] - squares[:1], axis=1)[:, 0]
        return trial_result("conserved", change / self.minimum[0] ** 2)

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The loss against time for several k, in units of their own half-time."""
        left, right = figure.subplots(1, 2)
        for k in sorted({2, 3, 4, self.k}):
            toy = ProductSaddle(k=k, gain=self.gain, start=self.start)
            losses = toy.history().columns["loss"]
            left.plot(np.linspace(0, 1, len(losses)), losses, label=f"k = {k}, T = {toy.half_time:.4g}")
            starts = np.geomspace(0.01, 0.3, 12) * toy.end
            times = [ProductSaddle(k=k, gain=self.gain, start=float(s)).half_time for s in starts]
            right.loglog(starts, times, "o-", ms=3, label=f"k = {k}")
        left.set(xlabel="time over half-time T", ylabel="loss (ℓ)", title="plateau and fall")
        right.set(xlabel="start ε (θ)", ylabel="half-time T (θ²/ℓ)", title="one part more: a factor 1/ε")
        left.legend(fontsize=8)
        right.legend(fontsize=8)


def _single_and_rest(values: np.ndarray) -> np.ndarray:
    """The eigenvalue that stands alone, and the one that the others share."""
    ordered = np.sort(values)
    alone = ordered[0] if ordered[1] - ordered[0] > ordered[-1] - ordered[-2] else ordered[-1]
    return np.array([alone, np.median(ordered)])


TOY = ProductSaddle
