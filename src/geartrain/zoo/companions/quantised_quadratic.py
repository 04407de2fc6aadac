r"""Rounding a quadratic: how many bits a parameter is worth.

At the minimum of a loss with Hessian $H$ every parameter is rounded to a grid of step $\Delta_i$, its place drawn at
random. The error is then uniform between $-\Delta_i/2$ and $\Delta_i/2$, with mean 0 and variance $\Delta_i^2/12$,
and the loss rises on average by

$$\delta = \tfrac12\sum_i H_{ii}\,\frac{\Delta_i^2}{12} = \frac{1}{24}\sum_i H_{ii}\Delta_i^2 .$$

Only the diagonal counts, since errors of different parameters have nothing to do with one another.

**One step for all.** A tensor of range $R$ in $b$ bits has the step $R/2^b$, so that

$$b = \tfrac12\log_2\frac{R^2\,\mathrm{tr}H}{24\,\delta} :$$

four times less loss costs one bit. 32 bits are far more than any use of the parameters asks for.

**Steps by curvature.** To spend the allowed $\delta$ with the fewest bits in all, every parameter gets the same
share, $\Delta_i = \sqrt{24\,\delta/(d\,H_{ii})}$, and $\log_2(R/\Delta_i)$ bits. That saves half the logarithm of
the ratio of the arithmetic to the geometric mean of the curvatures per parameter:

$$b - \bar b = \tfrac12\log_2\frac{\mathrm{tr}H/d}{(\prod_i H_{ii})^{1/d}} .$$

**Removing instead of rounding.** Setting weights to 0 costs $\tfrac12\sum H_{ii}w_i^2$ over those that go (the
features are uncorrelated here). By size alone some go that the loss needs; the toy knows how many can.

**What to vary.** `condition` (1: uneven steps save nothing), `rise` ($\delta$), `dimension`.

Sources: Widrow, Kollár 2008, Quantization Noise; LeCun, Denker, Solla 1990 (Optimal Brain Damage).
Ledger: 3.43.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._linear import LinearModel, minimum_truths, pair_truths
from geartrain.zoo._matrices import curvature_truths, kernel_truths, linear_layer, parabola

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = "Uniform rounding errors: mean rise Σ HᵢᵢΔᵢ²/24 (Widrow, Kollár 2008)."


@dataclass(frozen=True)
class QuantisedQuadratic(Toy):
    """A linear regression at its minimum, to be rounded.

    Attributes:
        dimension: Number of parameters d.
        condition: Ratio of the largest to the smallest curvature.
        rise: Allowed rise δ of the loss.
    """

    title: ClassVar[str] = "Rounding a quadratic"
    ledger: ClassVar[tuple[str, ...]] = ("3.43",)

    dimension: int = 32
    condition: float = 100.0
    rise: float = 1e-4

    def __post_init__(self) -> None:
        if not 8 <= self.dimension <= 40 or not 1 <= self.condition <= 1e4:
            raise InputError(
                f"dimension is {self.dimension} and condition {self.condition}; allowed: 8 to 40, and 1 to 10000."
            )
        bits = self.bits if self.rise > 0 else math.inf
        if not 2 <= bits <= 14:
            raise InputError(
                f"rise is {self.rise}, which takes {bits:.1f} bits; allowed: what 2 to 14 bits give."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def curvatures(self) -> np.ndarray:
        """H, diagonal, from 1 down to 1/condition."""
        return np.geomspace(1.0, 1 / self.condition, self.dimension)

    @cached_property
    def weights(self) -> np.ndarray:
        """The minimum: uniform between -1 and 1."""
        drawn = torch.rand(self.dimension, generator=self.generator(), dtype=torch.float64).numpy()
        return 2 * drawn - 1

    @cached_property
    def linear(self) -> LinearModel:
        """Inputs with mean 0 and second moments exactly H, targets that the weights hit."""
        rows, source = 2 * self.dimension + 8, self.generator().manual_seed(self.seed + 1)
        drawn = torch.randn(rows, self.dimension, generator=source, dtype=torch.float64).numpy()
        x = np.linalg.qr(drawn - drawn.mean(0))[0] * np.sqrt(rows * self.curvatures)
        return LinearModel(x, (x @ self.weights)[:, None], self.weights[None])

    def make_objective(self) -> Objective:
        """Half the mean squared error at its minimum, 0."""
        return self.linear.objective()

    # ------------------------------------------------------------------ what is known

    @property
    def range(self) -> float:
        """R, largest weight less the smallest."""
        return float(np.ptp(self.weights))

    @property
    def bits(self) -> float:
        """Per parameter, with one step for all."""
        return 0.5 * math.log2(self.range**2 * float(self.curvatures.sum()) / (24 * self.rise))

    @property
    def steps(self) -> np.ndarray:
        """Δ of every parameter, with equal shares of the rise."""
        return np.sqrt(24 * self.rise / (self.dimension * self.curvatures))

    @property
    def saved(self) -> float:
        """Bits per parameter that steps by curvature save."""
        logs = np.log2(self.curvatures)
        return 0.5 * (math.log2(float(self.curvatures.mean())) - float(logs.mean()))

    @property
    def removable(self) -> float:
        """Share of weights that can be removed by size for a twentieth of what removing all costs."""
        costs = (self.curvatures * self.weights**2)[np.argsort(np.abs(self.weights))]
        return float((np.cumsum(costs) <= costs.sum() / 20).mean())

    def truths(self) -> dict[str, Truth]:
        """Bits, removals; curvature, kernel and volume at the minimum."""
        model, d = self.linear, self.dimension
        truths = curvature_truths(model.hessian, layers=(d,), source="H by construction.")
        truths |= kernel_truths(linear_layer(model.inputs, 1), model.targets, source="f = w·x (textbook).")
        truths |= minimum_truths(model, _itself) | pair_truths(model, np.zeros((1, d)), _at_zero)
        truths |= self._storage()
        given = partial(Truth, source="Definition.")
        direction = np.cos(1.0 + np.arange(d))
        return truths | {
            "loss_slice": parabola(0.0, np.zeros(d), model.hessian, direction),
            "weight_norm": given(np.array([np.linalg.norm(self.weights)])),
            "weight_rank": given(np.array([1.0])),
            "jacobian_singular_values": given(np.array([np.linalg.norm(self.weights)])),
            "input_affinity": given(0.0),
            "missing_biases": given(1.0),
            "constant_loss": given(0.5 * float(self.curvatures @ self.weights**2), 1e-5),
            "feature_scales": given(math.sqrt(self.condition), source="Features have the variances H."),
            "input_conditioning": given(
                max(1.0, float(self.curvatures[0])) / min(1.0, float(self.curvatures[-1])),
                reading="raw_condition",
            ),
        }

    def _storage(self) -> dict[str, Truth]:
        given = partial(Truth, source=_SOURCE)
        many = {"rise": self.rise, "samples": 64}
        return {
            "bits_per_parameter": given(self.bits, 1e-3, options=many),
            "bits_per_parameter.curvature": given(
                self.bits - self.saved, 1e-3, options={**many, "method": "curvature"}
            ),
            "prunability": given(self.removable, source="½ Σ Hw² over the smallest weights."),
            "rise_by_equal_shares": given(self.rise, 1e-9, trial=lambda g: self._rounded(self.steps, g)),
            "rise_by_one_step": given(
                self.rise,
                1e-9,
                trial=lambda g: self._rounded(np.full(self.dimension, self.range / 2**self.bits), g),
            ),
        }

    def _rounded(self, steps: np.ndarray, generator: torch.Generator, draws: int = 3000) -> Measurement:
        """Mean rise of the loss over grids with these steps, at random places."""
        shifts = torch.rand(draws, self.dimension, generator=generator, dtype=torch.float64).numpy() * steps
        moved = np.round((self.weights - shifts) / steps) * steps + shifts - self.weights
        rises = 0.5 * moved**2 @ self.curvatures
        return trial_result("rise", rises.mean(), rises.std(ddof=1) / math.sqrt(draws), unit="ℓ")

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Rise over bits for both rules."""
        axes = figure.add_subplot()
        bits = np.arange(2, 17)
        uniform = self.rise * 4.0 ** (self.bits - bits)
        axes.semilogy(bits, uniform, "o-", label="one step for all")
        axes.semilogy(bits, uniform / 4**self.saved, "s-", label="steps by curvature")
        axes.axhline(self.rise, color="0.5", ls=":", label="allowed rise")
        axes.set(xlabel="bits per parameter", ylabel="mean rise of the loss (ℓ)", title=self.title)
        axes.legend()


def _itself(toy: QuantisedQuadratic) -> Objective:
    return toy.objective


def _at_zero(toy: QuantisedQuadratic) -> Objective:
    return toy.linear.objective(np.zeros((1, toy.dimension)))


TOY = QuantisedQuadratic
