r"""Power-law regression: where scaling laws come from, in a model that can be solved.

Features of falling variance, $\lambda_i = i^{-(1+a)}$, and a teacher $y = \sum_i w_i x_i$ that uses them all, with
$\lambda_i w_i^2 = i^{-(1+b)}$: natural data seem to look like this. There is no noise. And yet time, model size and
data each give a power law, because there is always a next feature that has not been learnt yet.

**Time.** Under gradient flow from zero every feature is learnt by itself, at a rate given by its own variance:

$$2L(t) = \sum_i i^{-(1+b)} e^{-2\lambda_i t} \;\to\; \frac{\Gamma(b/(1+a))}{1+a}\,(2t)^{-b/(1+a)} .$$

The sum is an integral (put $u = 2ti^{-(1+a)}$), all of whose end corrections vanish at $i = 0$. At time $t$ the
features below $i \approx (2t)^{1/(1+a)}$ are learnt and the others have not been touched: the exponent counts how
much of the teacher is left beyond that front.

**Model size.** With the first $N$ features only, what is left is their rest,
$\sum_{i>N} i^{-(1+b)} \approx N^{-b}/b$.

**Data.** The interpolator of least norm through $D$ samples learns the features whose variance is above $\kappa$,
where $\sum_i \lambda_i/(\lambda_i + \kappa) = D$, and its risk is

$$\frac{\sum_i \lambda_i w_i^2\,(\kappa/(\lambda_i+\kappa))^2}{1 - \tfrac1D\sum_i(\lambda_i/(\lambda_i+\kappa))^2}
\;\sim\; D^{-\min(b,\,2(1+a))} .$$

**The micro and the macro.** The Hessian of the net with $N$ features *is* $\mathrm{diag}(\lambda)$, so that its
measured spectrum predicts the exponent of its loss curve. The objective has $N$ such features on a sample whose
second moments are exactly these, and a part of the teacher that they cannot express; the weights are those at the
time `time`.

**A trap.** A simulation with $M$ features has no rest beyond $M$. It is off by $M^{-b}/b$ at *all* times, which at
$M = 10^5$, $b = 0.5$ makes the fitted exponent 8 % too steep already at $t = 10^5$. Add the untouched rest, and the
window reaches to $t \approx M^{1+a}/100$.

**What to vary.** `spectrum` ($a$) and `teacher` ($b$), which set all three exponents; `features`; `time`.

Sources: Bordelon, Canatar, Pehlevan 2020, arXiv 2002.02561; Bahri et al. 2021, arXiv 2102.06701; Maloney, Roberts,
Sully 2022, arXiv 2210.16859.
Ledger: 4.13, 4.14.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import zeta

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._descent import motion_truths
from geartrain.zoo._linear import (
    LinearModel,
    data_truths,
    function_truths,
    local_truths,
    minimum_truths,
    pair_truths,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FLOW = "Σ i^-(1+b) e^(-2λt) as a Γ integral; Bordelon, Canatar, Pehlevan 2020, arXiv 2002.02561."
_DATA = (
    "Kernel regression in the mean field; Bordelon, Canatar, Pehlevan 2020, arXiv 2002.02561, eqs. 4 and 5."
)
_POWER = "λᵢ = i^-(1+a) by construction."


@dataclass(frozen=True)
class PowerLawRegression(Toy):
    """Least squares with variances i^-(1+a) of the features and shares i^-(1+b) of the teacher.

    Attributes:
        spectrum: a, above 0: variances fall as i^-(1+a).
        teacher: b, between 0 and 1 + a: what the teacher has in feature i falls as i^-(1+b).
        features: How many of the features the model has.
        time: Moment t of gradient flow from zero at which the objective is measured.
        modes: Features of the simulated population.
    """

    title: ClassVar[str] = "Power-law regression"
    ledger: ClassVar[tuple[str, ...]] = ("4.13", "4.14")

    spectrum: float = 1.0
    teacher: float = 0.5
    features: int = 24
    time: float = 2.0
    modes: int = 100_000

    def __post_init__(self) -> None:
        if not 0.1 <= self.spectrum <= 3 or not 0.1 <= self.teacher <= 1 + self.spectrum:
            raise InputError(
                f"spectrum is {self.spectrum} and teacher {self.teacher}; allowed: spectrum 0.1 to 3, teacher 0.1 to "
                "1 + spectrum. Beyond that the asymptotic laws are not reached within the modes."
            )
        if not 4 <= self.features <= 40 or self.modes < 10_000:
            raise InputError(
                f"features is {self.features} and modes {self.modes}; allowed: 4 to 40 features, 10000 or more modes."
            )
        if not 0 < self.time <= 10:
            raise InputError(
                f"time is {self.time}; allowed: above 0, up to 10. Later, the first features are done."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def variances(self) -> np.ndarray:
        """λ of the model's features."""
        return np.arange(1, self.features + 1) ** -(1 + self.spectrum)

    @cached_property
    def weights(self) -> np.ndarray:
        """The teacher's weights on them."""
        return np.arange(1, self.features + 1) ** ((self.spectrum - self.teacher) / 2)

    @cached_property
    def rest(self) -> float:
        """Σ_{i>N} i^-(1+b): twice the loss that the model cannot avoid."""
        return float(zeta(1 + self.teacher, self.features + 1))

    @cached_property
    def linear(self) -> LinearModel:
        """The model at its time, on a sample with mean 0 and second moments exactly diag(λ)."""
        rows, columns = 2 * self.features + 16, self.features + 1
        drawn = torch.randn(rows, columns, generator=self.generator(), dtype=torch.float64).numpy()
        basis = np.linalg.qr(drawn - drawn.mean(0))[0] * math.sqrt(rows)
        x = basis[:, :-1] * np.sqrt(self.variances)
        y = x @ self.weights + math.sqrt(self.rest) * basis[:, -1]
        learnt = self.weights * -np.expm1(-self.variances * self.time)
        return LinearModel(x, y[:, None], learnt[None])

    def make_objective(self) -> Objective:
        """Half the mean squared error on the sample."""
        return self.linear.objective()

    def make_run(self) -> Run:
        """Full-batch gradient descent from there with a quarter of the largest stable step."""
        return self.linear.run(0.5)

    # ------------------------------------------------------------------ what is known

    @property
    def flow_exponent(self) -> float:
        """-b/(1+a), of the loss in time."""
        return -self.teacher / (1 + self.spectrum)

    @property
    def data_exponent(self) -> float:
        """-min(b, 2(1+a)), of the risk in the number of samples."""
        return -min(self.teacher, 2 * (1 + self.spectrum))

    def flow(self, time: float) -> float:
        """2L at that time, for infinitely many features."""
        power = -self.flow_exponent
        return math.gamma(power) / (1 + self.spectrum) * (2 * time) ** -power

    def descend(self, times: np.ndarray, step: float = 0.05) -> np.ndarray:
        """2L by gradient descent on the population, every mode by itself, with the untouched rest."""
        i = np.arange(1, self.modes + 1, dtype=float)
        slow = np.log1p(-step * i ** -(1 + self.spectrum))  # what one step does to the gap
        shares = i ** -(1 + self.teacher)
        left = [shares @ np.exp(2 * round(t / step) * slow) for t in times]
        return np.array(left) + float(zeta(1 + self.teacher, self.modes + 1))

    def risk(self, samples: float, modes: int | None = None) -> float:
        """Risk of the interpolator of least norm through so many samples; infinitely many features unless told."""
        a, b, m = self.spectrum, self.teacher, modes or self.modes
        i = np.arange(1, m + 1, dtype=float)
        values, shares = i ** -(1 + a), i ** -(1 + b)
        beyond, unlearnt = (0.0, 0.0) if modes else (float(zeta(1 + a, m + 1)), float(zeta(1 + b, m + 1)))

        def excess(log_kappa: float) -> float:
            kappa = math.exp(log_kappa)
            return float((values / (values + kappa)).sum()) + beyond / kappa - samples

        kappa = math.exp(brentq(excess, math.log(values[-1]) - 20, 5.0, xtol=1e-10))  # pyright: ignore[reportArgumentType]
        fitted = float(((values / (values + kappa)) ** 2).sum()) / samples
        return (float(shares @ (kappa / (values + kappa)) ** 2) + unlearnt) / (1 - fitted)

    def truths(self) -> dict[str, Truth]:
        """The spectrum and what follows; the three scaling laws by simulation."""
        model, n = self.linear, len(self.linear.inputs)
        truths = local_truths(model) | motion_truths(model.descent(0.5), n)
        truths |= function_truths(model) | data_truths(model) | minimum_truths(model, _at_minimum)
        truths |= pair_truths(model, np.zeros((1, self.features)), _at_zero)
        every = {"tol": 1e-8}
        truths["hessian_spectrum"] = Truth(self.variances[:10], source=_POWER, options=every)
        truths["hessian_trace"] = Truth(float(self.variances.sum()), source=_POWER)
        truths["hessian_diagonal"] = Truth(self.variances, source=_POWER)
        truths["jacobian_rank"] = Truth(float(self.features), source=_POWER)
        truths["ntk_spectrum.power"] = Truth(
            -(1 + self.spectrum),
            instrument="ntk_spectrum",
            extract=lambda v: np.polyfit(
                np.log(np.arange(1, self.features + 1)), np.log(v[: self.features]), 1
            )[0],
            source="JJᵀ/n and JᵀJ/n share their eigenvalues.",
        )
        truths["constant_loss"] = Truth(
            0.5 * float(zeta(1 + self.teacher)), 1e-5, source="½ Σ i^-(1+b) = ½ ζ(1+b)."
        )
        left = np.exp(-2 * self.variances * self.time) @ (self.variances * self.weights**2)
        truths["loss"] = Truth(
            0.5 * float(left + self.rest),
            source="½ Σ_{i≤N} i^-(1+b) e^(-2λt) + ½ Σ_{i>N} i^-(1+b).",
            instrument="example_losses",
            reading="mean",
            strict=True,
        )
        return truths | self._laws()

    def _laws(self) -> dict[str, Truth]:
        """Time, model size, data."""
        sizes = np.array([k for k in (1, 2, 4, 8, 16, 32) if k <= self.features])
        samples = np.array([40, 80, 160])
        return {
            "loss_over_time": Truth(
                np.array([self.flow(t) for t in _TIMES]),
                2e-3,
                assumptions="Late: t beyond 1000. Step 0.05 against flow.",
                source=_FLOW,
                trial=lambda g: trial_result("loss_over_time", self.descend(_TIMES)),
            ),
            "time_exponent": Truth(
                self.flow_exponent, 0.03, source=_FLOW, trial=lambda g: _slope(_TIMES, self.descend(_TIMES))
            ),
            "loss_over_features": Truth(
                np.array([float(zeta(1 + self.teacher, k + 1)) for k in sizes]),
                source="Σ_{i>N} i^-(1+b), which tends to N^-b/b.",
                trial=lambda g: trial_result("loss_over_features", [self._fitted(k) for k in sizes]),
            ),
            "risk_over_samples": Truth(
                np.array([self.risk(int(d), _FINITE) for d in samples]),
                0.03,
                assumptions=f"{_FINITE} features; corrections of order 1/D.",
                source=_DATA,
                trial=lambda g: self._interpolated(samples, g),
            ),
            "data_exponent": Truth(
                self.data_exponent,
                0.03,
                source=_DATA,
                assumptions="Late: 1000 to 10000 samples.",
                trial=lambda g: _slope(_SAMPLES, np.array([self.risk(d) for d in _SAMPLES])),
            ),
        }

    def _fitted(self, count: int) -> float:
        """Twice the least loss of a fit with the first so many features, on the sample."""
        x, y = self.linear.inputs[:, :count], self.linear.targets[:, 0]
        return float(((x @ np.linalg.lstsq(x, y, rcond=None)[0] - y) ** 2).mean())

    def _interpolated(self, samples: np.ndarray, generator: torch.Generator, draws: int = 40) -> Measurement:
        """Risks of interpolators of least norm through Gaussian samples."""
        i = np.arange(1, _FINITE + 1, dtype=float)
        scales, teacher = i ** (-(1 + self.spectrum) / 2), i ** ((self.spectrum - self.teacher) / 2)
        found = np.empty((draws, len(samples)))
        for row in found:
            for k, d in enumerate(samples):
                z = torch.randn(int(d), _FINITE, generator=generator, dtype=torch.float64).numpy()
                x = z * scales
                gap = x.T @ np.linalg.solve(x @ x.T, x @ teacher) - teacher
                row[k] = (scales * gap) @ (scales * gap)
        return trial_result("risk_over_samples", found.mean(0), found.std(0, ddof=1) / math.sqrt(draws))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The three laws, each with its asymptote."""
        time, size, data = figure.subplots(1, 3)
        times, sizes, samples = (
            np.geomspace(0.1, 1e6, 40),
            np.geomspace(1, 1000, 30).round(),
            np.geomspace(4, 4000, 20),
        )
        time.loglog(times, self.descend(times), label="gradient descent")
        time.loglog(times, [self.flow(t) for t in times], "k:", label=f"slope {self.flow_exponent:.3g}")
        time.set(xlabel="time t", ylabel="twice the loss (ℓ)", title="training time")
        size.loglog(sizes, zeta(1 + self.teacher, sizes + 1), label="features left out")
        size.loglog(sizes, sizes**-self.teacher / self.teacher, "k:", label=f"slope {-self.teacher:.3g}")
        size.set(xlabel="features N", ylabel="twice the loss (ℓ)", title="model size")
        risks = np.array([replace(self, modes=20_000).risk(d) for d in samples])
        data.loglog(samples, risks, label="least-norm fit")
        guide = risks[-1] * (samples / samples[-1]) ** self.data_exponent
        data.loglog(samples, guide, "k:", label=f"slope {self.data_exponent:.3g}")
        data.set(xlabel="samples D", ylabel="risk, twice the loss (ℓ)", title="data")
        for axes in (time, size, data):
            axes.legend(fontsize=8)


_TIMES = np.geomspace(1e3, 1e5, 7)
_SAMPLES = np.geomspace(1e3, 1e4, 4)
_FINITE = 1000


def _slope(places: np.ndarray, values: np.ndarray) -> Measurement:
    """Of a line through the logarithms."""
    return trial_result("exponent", float(np.polyfit(np.log(places), np.log(values), 1)[0]))


def _at_zero(toy: PowerLawRegression) -> Objective:
    return toy.linear.objective(np.zeros((1, toy.features)))


def _at_minimum(toy: PowerLawRegression) -> Objective:
    return toy.linear.objective(toy.linear.minimum)


TOY = PowerLawRegression
