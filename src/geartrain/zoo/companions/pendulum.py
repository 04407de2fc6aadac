r"""The pendulum: a law of nature as a straight line, and a distractor that has to be ignored.

$T = 2\pi\sqrt{L/g}$: the period depends on the length, not on the mass. Measured against a reference pendulum,
the law is linear in logarithms,

$$\ln\frac{T}{T_0} = \tfrac12 \ln\frac{L}{L_0} + 0\cdot\ln\frac{m}{m_0},$$

and a linear model on $(\ln L/L_0, \ln m/m_0)$ finds the slopes ½ and 0: the power law *and* the fact that mass
is irrelevant. On the raw numbers it finds neither. Choosing the variables is half of the discovery; dimensional
analysis knows the slope beforehand, since no time can be made of lengths, $g$ and masses but $\sqrt{L/g}$.

**How well?** With measurement errors of deviation $s$ in $\ln T$ least squares is unbiased, with covariance
$s^2(X^\top X)^{-1}$. The distractor's slope is not 0 but $0\pm s/(\sqrt n\,\mathrm{sd}(\ln m))$. If length and
mass are correlated in the data (long pendulums are heavy), both slopes become uncertain together: variance
inflation $1/(1-\rho^2)$.

**Where the law ends.** At amplitude $\theta_0$ the period is $\frac2\pi K(\sin^2\frac{\theta_0}2)$ times as
long, with $K$ the complete elliptic integral: $1 + \theta_0^2/16 + \dots$ It is the same factor for every
length, so it moves the intercept of a fit and not the slope: a fit may be perfect for a formula that is wrong.

**The objective** is least squares on the logarithms at slopes that are wrong by half.

**What to vary.** `correlation` of length and mass, `noise`, `samples`, `amplitude`.

Sources: textbook (Huygens 1673; the exact period: Landau, Lifshitz, Mechanics, section 11).
Ledger: 3.6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.special import ellipk

from geartrain.errors import InputError
from geartrain.records import Measurement
from geartrain.zoo._base import Truth, trial_result
from geartrain.zoo._linear import LinearModel
from geartrain.zoo._regression import Regression, normal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPEATS = 1000
"""Series of measurements that are simulated."""
GRAVITY = 9.81


@dataclass(frozen=True)
class Pendulum(Regression):
    """Logarithms of periods on logarithms of length and mass.

    Attributes:
        samples: Number of pendulums measured.
        noise: Standard deviation of the error of ln T.
        correlation: Of ln L and ln m in the data.
        amplitude: Angle at which the pendulum is let go in the trial, radians.
    """

    title: ClassVar[str] = "Pendulum"
    ledger: ClassVar[tuple[str, ...]] = ("3.6",)

    samples: int = 60
    noise: float = 0.05
    correlation: float = 0.5
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        if not 10 <= self.samples <= 1000:
            raise InputError(f"samples is {self.samples}; allowed: 10 to 1000.")
        if not 0 < self.noise <= 1 or not -0.95 <= self.correlation <= 0.95:
            raise InputError(
                f"noise is {self.noise}, correlation {self.correlation}; allowed: above 0 to 1, and -0.95 to 0.95."
            )
        if not 0.01 <= self.amplitude <= 3:
            raise InputError(
                f"amplitude is {self.amplitude}; allowed: 0.01 to 3 (at π it stands on its head)."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def reference(self) -> np.ndarray:
        """The law: slopes ½ and 0."""
        return np.array([[0.5, 0.0]])

    @cached_property
    def variables(self) -> np.ndarray:
        """The columns ln L/L₀ and ln m/m₀ of the pendulums, shape (n, 2)."""
        z = normal(self.generator(), self.samples, 2)
        mass = self.correlation * z[:, 0] + math.sqrt(1 - self.correlation**2) * z[:, 1]
        return np.stack([z[:, 0], mass], axis=1)

    @cached_property
    def linear(self) -> LinearModel:
        """One series of measurements, with the model at slopes 1/4 and 1/4."""
        noise = normal(torch.Generator().manual_seed(self.seed + 5), self.samples, 1)
        measured = self.variables @ self.reference.T + self.noise * noise
        return LinearModel(self.variables, measured, np.full((1, 2), 0.25))

    # ------------------------------------------------------------------ what is known

    @property
    def slope_covariance(self) -> np.ndarray:
        """Of the fitted slopes, s²(XᵀX)⁻¹."""
        return self.noise**2 * np.linalg.inv(self.variables.T @ self.variables)

    def period(self, length: float, amplitude: float) -> float:
        """Exact period of a pendulum of that length, in seconds."""
        return 4 * math.sqrt(length / GRAVITY) * float(ellipk(math.sin(amplitude / 2) ** 2))

    def truths(self) -> dict[str, Truth]:
        """The slopes and their covariance, the exact period; everything about least squares on the measurements."""
        known = partial(Truth, source="Least squares on ln T = ln T₀ + ½ ln L/L₀: textbook.")
        covariance = self.slope_covariance
        exact = np.array([self.period(length, self.amplitude) for length in (0.5, 2.0)])
        return self.sample_truths() | {
            "slopes": known(self.reference[0], 1e-9, trial=self._fit_often),
            "slope_covariance": known(covariance, 1e-9, trial=self._scatter),
            "period": Truth(
                exact,
                1e-6,
                source="4√(L/g) K(sin²(θ₀/2)); Landau, Lifshitz, Mechanics, § 11.",
                trial=self._swing,
            ),
            "slope_at_any_amplitude": known(
                0.5, 1e-6, assumptions="The same amplitude for every length.", trial=self._slope_of_swings
            ),
        }

    def _fits(self, generator: torch.Generator) -> np.ndarray:
        noise = self.noise * normal(generator, self.samples, REPEATS)
        measured = self.variables @ self.reference.T + noise
        return np.linalg.lstsq(self.variables, measured, rcond=None)[0].T

    def _fit_often(self, generator: torch.Generator) -> Measurement:
        fits = self._fits(generator)
        return trial_result("slopes", fits.mean(0), fits.std(0, ddof=1) / math.sqrt(REPEATS))

    def _scatter(self, generator: torch.Generator) -> Measurement:
        """Covariance of the slopes over many series of measurements."""
        gaps = self._fits(generator) - self.reference
        products = gaps[:, :, None] * gaps[:, None, :]
        return trial_result(
            "slope_covariance", products.mean(0), products.std(0, ddof=1) / math.sqrt(REPEATS)
        )

    def swing(self, length: float) -> float:
        """Period of the equation of motion, four times the fall from the amplitude to the vertical."""

        def vertical(time: float, state: np.ndarray) -> float:
            return float(state[0])

        vertical.terminal = True  # type: ignore[attr-defined]
        found = solve_ivp(
            lambda _, s: [s[1], -GRAVITY / length * math.sin(s[0])],
            (0, 100),
            [self.amplitude, 0.0],
            rtol=1e-10,
            atol=1e-12,
            events=vertical,
        )
        return 4 * float(found.t_events[0][0])

    def _swing(self, generator: torch.Generator) -> Measurement:
        return trial_result("period", [self.swing(length) for length in (0.5, 2.0)], unit="s")

    def _slope_of_swings(self, generator: torch.Generator) -> Measurement:
        lengths = np.array([0.3, 1.0, 3.0])
        periods = [self.swing(float(length)) for length in lengths]
        return trial_result("slope_at_any_amplitude", np.polyfit(np.log(lengths), np.log(periods), 1)[0])

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Periods over length, and over mass."""
        for place, (axes, name) in enumerate(
            zip(figure.subplots(1, 2, sharey=True), ("L", "m"), strict=True)
        ):
            x, y = self.variables[:, place], self.linear.targets[:, 0]
            axes.plot(x, y, "o", ms=4, label="measured")
            line = np.array([x.min(), x.max()])
            axes.plot(line, self.reference[0, place] * line, "k", label=f"slope {self.reference[0, place]:g}")
            axes.set(
                xlabel=f"ln {name}/{name}₀",
                ylabel="ln T/T₀",
                title=self.title if not place else "the distractor",
            )
            axes.legend()


TOY = Pendulum
