r"""Label noise on a hyperbola: a random walk along the minima that goes somewhere.

$L = \tfrac12 (w_1 w_2 - y)^2$ with labels $y = 1 + \xi$, $\xi = \pm\sigma$ afresh at each step. All of $w_1w_2
= 1$ is minimal, and on it the trace of the Hessian, $w_1^2 + w_2^2$, is anything from 2 upwards. Does SGD care
which minimum it sits in? With label noise it does: it slides to the flattest one. Two parameters show the whole
*implicit regularisation by noise*, and the reason can be written in one line.

**The exact recursion.** With $e = w_1w_2 - 1 - \xi$ a step is $w_1 \leftarrow w_1 - \eta e w_2$, $w_2
\leftarrow w_2 - \eta e w_1$. For the imbalance $D = w_1^2 - w_2^2$ all cross terms cancel:

$$D \leftarrow D\,(1 - \eta^2 e^2).$$

* Gradient flow ($\eta\to0$) conserves $D$: the textbook conservation law of products.
* Descent without noise has $e \to 0$ quickly and keeps what is left of $D$ for ever.
* Label noise never lets $e$ rest; $D$ shrinks by $\eta^2 e^2$ per step, always towards the balanced minimum.

**How fast?** Near the hyperbola $r = w_1w_2 - 1$ obeys $r \leftarrow (1-\eta T)\,r + \eta T\xi$ with $T = w_1^2
+ w_2^2$, so that $E r^2 = \sigma^2\,\eta T/(2-\eta T)$ and

$$\frac{d \ln D}{d\,\text{step}} = -\eta^2\sigma^2\,\frac{2}{2-\eta T}, \qquad T = \sqrt{D^2 + 4 (w_1 w_2)^2}.$$

The usual $e^{-\eta^2\sigma^2 t}$ leaves the last factor out: it is 2 % at $T = 2$, but 10 % at the default
start. The walk is slow, with a clock of $1/\eta^2\sigma^2$ = 2,500 steps against some ten for the loss.

**The objective** has the two labels $1\pm\sigma$ as its data; at the start it is at its minimum, so that its
gradient is zero while the examples' gradients are not: all signal is gone, only noise is left, and yet
everything still moves.

**What to vary.** `noise` (0: nothing moves), `step`, `start` (the first weight; the second is its inverse).

Sources: Blanc, Gupta, Valiant, Valiant 2019, arXiv 1904.09080; Damian, Ma, Lee 2021, arXiv 2106.06530; Li,
Wang, Arora 2021, arXiv 2110.06914.
Ledger: 1.20.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._chain import LinearChain, chain_truths, pair_truths
from geartrain.zoo._losses import half_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WALKERS = 400
"""Runs that are simulated side by side."""
EPOCH = 100
"""Steps in an epoch of the run."""
_SOURCE = "One step, multiplied out; Blanc et al. 2019, arXiv 1904.09080."


@dataclass(frozen=True)
class LabelNoiseHyperbola(Toy):
    """½ (w₁w₂ - 1 ∓ σ)² at a minimum of its mean.

    Attributes:
        start: First weight; the second is 1/start.
        noise: Size σ of the noise ±σ on the label.
        step: η.
    """

    title: ClassVar[str] = "Label noise on a hyperbola"
    ledger: ClassVar[tuple[str, ...]] = ("1.20",)

    start: float = 3.0
    noise: float = 1.0
    step: float = 0.02

    def __post_init__(self) -> None:
        if not 1 < self.start <= 10:
            raise InputError(f"start is {self.start}; allowed: above 1 (the balanced minimum) and up to 10.")
        if not 0 < self.noise <= 3:
            raise InputError(
                f"noise is {self.noise}; allowed: above 0 and up to 3. Without it nothing moves."
            )
        sharpest = self.start**2 + self.start**-2
        if not 0 < self.step * sharpest * max(1.0, self.noise) <= 0.5:
            raise InputError(
                f"step is {self.step}; allowed: above 0 and up to {0.5 / (sharpest * max(1.0, self.noise)):.3g} here, "
                "a quarter of the largest stable step, so that the walk stays near its minima."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def chain(self) -> LinearChain:
        """The two weights as a chain of two layers of width one, with both labels as data."""
        labels = np.array([[1 + self.noise], [1 - self.noise]])
        return LinearChain(np.ones((2, 1)), labels, (np.array([[self.start]]), np.array([[1 / self.start]])))

    @cached_property
    def unfitted(self) -> LinearChain:
        """The same data at weights that fit nothing, (1, 1/2), for comparisons."""
        return replace(self.chain, weights=(np.array([[1.0]]), np.array([[0.5]])))

    def make_objective(self) -> Objective:
        """The mean over both labels."""
        return self.chain.objective()

    def make_run(self) -> Run:
        """SGD with one label per step, its noise drawn afresh: the epoch's number is the seed."""
        model = self.chain.model()
        optimizer = torch.optim.SGD(model.parameters(), lr=self.step)
        return Run(model, half_square, optimizer, partial(_labels, self.noise, self.seed), epochs=100)

    # ------------------------------------------------------------------ what is known

    @property
    def imbalance(self) -> float:
        """D at the start."""
        return self.start**2 - self.start**-2

    @property
    def trace(self) -> float:
        """Trace of the Hessian at the start."""
        return self.start**2 + self.start**-2

    @property
    def patience(self) -> int:
        """Steps of a walk: four times the clock 1/(ησ)², 40,000 at most."""
        return min(40_000, math.ceil(4 / (self.step * self.noise) ** 2))

    def rate(self, imbalance: float) -> float:
        """-d ln D per step at this imbalance."""
        trace = math.hypot(imbalance, 2.0)
        return (self.step * self.noise) ** 2 * 2 / (2 - self.step * trace)

    def decay(self, steps: int) -> np.ndarray:
        """Predicted ln D after 0, 1, ..., steps, shape (steps + 1,)."""
        found = [math.log(self.imbalance)]
        for _ in range(steps):
            found.append(found[-1] - self.rate(math.exp(found[-1])))
        return np.array(found)

    @property
    def resting_trace(self) -> float:
        """E[w₁² + w₂²] after all imbalance is gone: w₁ = w₂ = √P and P - 1 has mean ησ²/2 - E r² to first order."""
        eta, variance = self.step, self.noise**2
        return 2 * (1 + eta * variance / 2 - variance * 2 * eta / (2 - 2 * eta))

    def truths(self) -> dict[str, Truth]:
        """Curvature and noise at the start; the recursion, the rate and the end of the walk."""
        truths = chain_truths(self.chain)
        truths |= pair_truths(self.chain, self.unfitted, _at_unfitted)
        known = partial(Truth, source=_SOURCE)
        near = partial(known, assumptions="Small steps: the loss is always near its stationary value.")
        half = self.patience // 4
        return truths | {
            "hessian_trace": known(self.trace),
            "input_affinity": known(math.nan, assumptions="There is one input."),
            "constant_loss": known(
                self.noise**2 / 2, 1e-5, assumptions="Nothing but the label's noise is left."
            ),
            "label_disagreement_floor": known(1.0, assumptions="One input, two labels."),
            "label_disagreement_floor.floor_loss": known(self.noise**2, reading="floor_loss"),
            "imbalance": known(1.0, 1e-9, trial=self._follow_the_recursion),
            "imbalance.without_noise": known(1.0, 1e-9, trial=self._descend_without_noise),
            "decay_of_imbalance": near(
                float(self.decay(half)[-1] - math.log(self.imbalance)), 0.03, trial=self._walk
            ),
            "resting_trace": near(self.resting_trace, 0.01, trial=self._rest),
        }

    def walk(
        self, generator: torch.Generator, steps: int, start: float | None = None
    ) -> Iterator[np.ndarray]:
        """Weights of many runs side by side after 0, 1, ... steps, each of shape (2, runs)."""
        first = self.start if start is None else start
        w = np.array([[first], [1 / first]]) * np.ones(WALKERS)
        yield w
        for begin in range(0, steps, 1000):
            size = min(1000, steps - begin)
            signs = torch.randint(2, (size, WALKERS), generator=generator).numpy() * 2 - 1
            for sign in signs:
                error = w[0] * w[1] - 1 - self.noise * sign
                w = w - self.step * error * w[::-1]
                yield w

    def _follow_the_recursion(self, generator: torch.Generator) -> Measurement:
        """Imbalance after a walk, over the product of its factors 1 - η²e² read off each step."""
        product, before, ratios = np.ones(WALKERS), None, np.ones(WALKERS)
        for w in self.walk(generator, 500):
            if before is not None:
                error = (w[0] - before[0]) / (-self.step * before[1])
                product = product * (1 - (self.step * error) ** 2)
            before = w
            ratios = (w[0] ** 2 - w[1] ** 2) / (self.imbalance * product)
        worst = ratios[np.abs(ratios - 1).argmax()]
        return trial_result("imbalance", worst)

    def _descend_without_noise(self, generator: torch.Generator) -> Measurement:
        """What noiseless descent from a minimum leaves of the imbalance, as a share."""
        w = np.array([self.start, 1 / self.start])
        for _ in range(1000):
            w = w - self.step * (w[0] * w[1] - 1) * w[::-1]
        return trial_result("imbalance.without_noise", (w[0] ** 2 - w[1] ** 2) / self.imbalance)

    def _walk(self, generator: torch.Generator) -> Measurement:
        """Change of ln D after a quarter of the walk."""
        *_, last = self.walk(generator, self.patience // 4)
        change = np.log((last[0] ** 2 - last[1] ** 2) / self.imbalance)
        return trial_result("decay_of_imbalance", change.mean(), change.std(ddof=1) / math.sqrt(WALKERS))

    def _rest(self, generator: torch.Generator) -> Measurement:
        """Trace at the balanced minimum, after the loss has settled; walkers are independent."""
        settle, keep = math.ceil(5 / self.step), math.ceil(10 / self.step)
        total = np.zeros(WALKERS)
        for at, w in enumerate(self.walk(generator, settle + keep, start=1.0)):
            if at > settle:
                total += (w**2).sum(0)
        means = total / keep
        return trial_result("resting_trace", means.mean(), means.std(ddof=1) / math.sqrt(WALKERS))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """A walk along the hyperbola, and the trace over time."""
        plane, trace = figure.subplots(1, 2)
        steps = min(self.patience, 10_000)
        path = np.array([w[:, 0] for w in self.walk(self.generator(), steps)])
        w = np.geomspace(0.9 / self.start, 1.1 * self.start, 200)
        plane.plot(path[::5, 0], path[::5, 1], ".", ms=2, alpha=0.4, label="SGD with label noise")
        plane.plot(w, 1 / w, "k", lw=1, label="minima $w_1w_2=1$")
        plane.set(xlabel="$w_1$ (θ)", ylabel="$w_2$ (θ)", title=self.title)
        plane.legend()
        trace.plot((path[::5] ** 2).sum(1), lw=0.6, label="one run")
        trace.plot(np.sqrt(np.exp(2 * self.decay(steps)[::5]) + 4), "k--", label="theory")
        trace.axhline(2, color="0.6", ls=":", label="least value")
        trace.set(xlabel="step / 5", ylabel="trace of the Hessian (ℓ/θ²)")
        trace.legend()


def _labels(noise: float, seed: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    signs = torch.randint(2, (EPOCH, 1, 1), generator=generator, dtype=torch.float64) * 2 - 1
    return [(torch.ones(1, 1, dtype=torch.float64), 1 + noise * sign) for sign in signs]


def _at_unfitted(toy: LabelNoiseHyperbola) -> Objective:
    return toy.unfitted.objective()


TOY = LabelNoiseHyperbola
