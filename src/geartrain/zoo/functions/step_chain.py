r"""A chain of steps: emergence without a miracle.

A task takes $L$ steps in a row, each right with probability $p$. The whole is right with probability $p^L$. Let $p$
improve smoothly, as a logistic function of $u$ (training time, or the logarithm of scale): $p = 1/(1 + e^{-u})$. The
exact success $p^L$ then seems to jump from nothing to everything at $u \approx \ln(L/\ln 2)$, while the skill behind it
never did anything sudden. Look at the mean number of right steps before the first error, $p(1-p^L)/(1-p)$, and the jump
is gone.

**How sharp is the jump?** Success 10 % and 90 % are at $u = \mathrm{logit}(0.1^{1/L})$ and $\mathrm{logit}(0.9^{1/L})$.
Their distance is 4.394 for $L = 1$, 3.196 for $L = 10$, and tends to $\ln(\ln 10/\ln\frac{10}{9}) = 3.084$: a
constant. With $-\ln p \approx e^{-u}$ the curve becomes $\exp(-Le^{-u})$, and a longer chain only moves it to the
right. What vanishes is width over midpoint, as $3.08/\ln L$: on an axis of $u$ that starts at 0 it looks like a step,
on its own scale it never becomes one.

**The instruments** look at the model with one parameter whose score is $u$ for every step, and the outcomes of 80 steps
as labels (a share $r$ of them right). The cross-entropy $\ln(1 + e^u) - ru$ has gradient $p - r$ and curvature
$p(1-p)$; the model is overconfident by $p - r$, and the temperature that mends it is $u$ over the logit of $r$.

**What to vary.** `length`; `u` and the share `right` of right steps (equal means calibrated).

Sources: Schaeffer, Miranda, Koyejo 2023, arXiv 2304.15004.
Ledger: 3.9, 3.39.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo.functions._shares import share_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

_SOURCE = "Cross-entropy of one logit: gradient p - r, curvature p(1 - p)."
_STEPS = 80
_LEAST_SUCCESSES = 50
"""Below so many expected successes the trial would say nothing about their probability."""


class Skill(nn.Module):
    """One score u, whatever the input."""

    def __init__(self, u: float) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.tensor([u], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """The score of each step, shape (examples, 1)."""
        return self.u * torch.ones_like(x[:, :1])


@dataclass(frozen=True)
class StepChain(Toy):
    """Steps that must all be right.

    Attributes:
        length: L, steps in a row.
        u: Logit of a step's success, positive.
        right: Share of the 80 observed steps that were right, above ½ and below 1; rounded to whole steps.
        chains: Chains that the trials draw.
        seed: Not used: nothing is random in making it.
    """

    title: ClassVar[str] = "A chain of steps"
    ledger: ClassVar[tuple[str, ...]] = ("3.9", "3.39")

    length: int = 10
    u: float = 2.0
    right: float = 0.75
    chains: int = 50_000

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"length is {self.length}; allowed: 1 or more.")
        if self.chains < 100:
            raise InputError(f"chains is {self.chains}; allowed: 100 or more.")
        if not 0 < self.u < math.inf:
            raise InputError(f"u is {self.u}; allowed: above 0 (a step is more often right than wrong).")
        if not _STEPS // 2 < round(self.right * _STEPS) < _STEPS:
            least, most = (_STEPS // 2 + 1) / _STEPS, (_STEPS - 1) / _STEPS
            raise InputError(f"right is {self.right}; allowed: {least} to {most}.")

    # ------------------------------------------------------------------ how it is made

    @property
    def p(self) -> float:
        """Probability that a step is right."""
        return 1 / (1 + math.exp(-self.u))

    @property
    def labels(self) -> np.ndarray:
        """Outcomes of the observed steps, shape (80,)."""
        return (np.arange(_STEPS) < round(self.right * _STEPS)).astype(float)

    def make_objective(self) -> Objective:
        """Cross-entropy of the score u with the outcomes."""
        data = torch.zeros(_STEPS, 1, dtype=torch.float64), torch.from_numpy(self.labels)[:, None]
        return Objective(Skill(self.u), binary_cross_entropy_with_logits, data)

    # ------------------------------------------------------------------ what is known

    def truths(self) -> dict[str, Truth]:
        """Success, run length, width and midpoint of the jump; the logistic model."""
        p, rows = self.p, (self.p - self.labels)[:, None]
        share = float(self.labels.mean())
        slice_values = np.logaddexp(0, self.u + (t := np.linspace(-1, 1, 21))) - share * (self.u + t)
        hessian, loss = np.array([[p * (1 - p)]]), float(slice_values[10])
        curvature = _matrices.curvature_truths(hessian, rows.mean(0), loss=loss, layers=[1], source=_SOURCE)
        return {
            **self._chain_truths(),
            **self._calibration(share),
            "weight_norm": Truth(np.array([self.u]), source="Definition."),
            "loss_slice": Truth(
                slice_values,
                source="ln(1 + e^u) - ru.",
                options={"direction": torch.ones(1, dtype=torch.float64)},
            ),
            "output_probability": Truth(0.0, source="Outputs are scores."),
            "loss_match": Truth(1.0, source="Cross-entropy suits yes-or-no labels."),
            "symmetry_orbit_dimension": Truth(0.0, source="One parameter, and it matters."),
            **_matrices.linear_pair_truths(np.array([self.u]), np.zeros(1), _no_skill),
            **curvature,
            **_matrices.example_truths(rows, layers=[1], source=_SOURCE),
            **_matrices.kernel_truths(np.ones((_STEPS, 1, 1))),
        }

    def _chain_truths(self) -> dict[str, Truth]:
        """What the chain does. Success is left out where it is too rare for the trial to see."""
        p, success = self.p, self.p**self.length
        truths = {
            "run_length": Truth(
                p * (1 - success) / (1 - p),
                source="Σ_{i=1}^{L} p^i: step i is reached.",
                trial=self._run_length,
            ),
            "width_and_midpoint": Truth(
                np.array([width(self.length), midpoint(self.length)]),
                1e-3,
                source="Quantiles of p^L in the logit of p.",
                trial=self._jump,
            ),
        }
        if success * self.chains >= _LEAST_SUCCESSES:
            truths["success"] = Truth(success, source="Independent steps.", trial=self._success)
        return truths

    def _calibration(self, share: float) -> dict[str, Truth]:
        """What one confidence for all steps means, of which a share is right."""
        entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
        alike = partial(Truth, source="All inputs, scores and confidences are equal.", strict=True)
        return {
            "constant_loss": Truth(entropy, 1e-5, source="Entropy of the outcomes."),
            "label_balance": alike(share),
            "label_disagreement_floor": alike(1 - share),
            "label_disagreement_floor.floor_loss": alike(entropy, reading="floor_loss"),
            "selective_risk": alike(1 - share),
            "margin_distribution.negative": alike(1 - share, reading="negative"),
            "calibration_error.overconfidence": alike(self.p - share, reading="overconfidence"),
            "temperature": Truth(
                self.u / math.log(share / (1 - share)),
                source="u/T must be the logit of the share.",
                strict=True,
            ),
        }

    def _chains(self, generator: torch.Generator) -> np.ndarray:
        """Whether each step of each chain is right, shape (chains, L)."""
        return (
            torch.rand(self.chains, self.length, generator=generator, dtype=torch.float64) < self.p
        ).numpy()

    def _success(self, generator: torch.Generator) -> Measurement:
        """Share of random chains without an error."""
        return share_result("success", int(self._chains(generator).all(1).sum()), self.chains)

    def _run_length(self, generator: torch.Generator) -> Measurement:
        """Mean number of right steps before the first error."""
        found = np.cumprod(self._chains(generator), axis=1).sum(1)
        return trial_result("run_length", found.mean(), found.std() / math.sqrt(self.chains))

    def _jump(self, generator: torch.Generator) -> Measurement:
        """Width and midpoint read off a table of p^L."""
        u = np.linspace(-12, 40, 520_001)
        log_success = -self.length * np.logaddexp(0, -u)
        low, mid, high = np.interp(np.log([0.1, 0.5, 0.9]), log_success, u)
        return trial_result("jump", [high - low, mid])

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Success against the logit of a step, for several lengths."""
        axes = figure.add_subplot()
        u = np.linspace(-3, 9, 300)
        for length in sorted({1, 5, self.length, 100}):
            axes.plot(u, (1 + np.exp(-u)) ** -float(length), label=f"L = {length}, width {width(length):.2f}")
        axes.set(xlabel="logit of a step's success", ylabel="success of the whole chain")
        axes.legend()


def width(length: int) -> float:
    """Distance in u between 10 % and 90 % success.

    >>> [round(width(n), 4) for n in (1, 5, 10, 100)]
    [4.3944, 3.3129, 3.1965, 3.0954]
    """
    return _logit(math.log(0.9) / length) - _logit(math.log(0.1) / length)


def midpoint(length: int) -> float:
    """U of 50 % success."""
    return _logit(math.log(0.5) / length)


def _logit(log_p: float) -> float:
    """The logit of p, from its logarithm: precise near p = 1."""
    return log_p - math.log(-math.expm1(log_p))


def _no_skill(toy: StepChain) -> Tensor:
    return torch.zeros(1, dtype=torch.float64)


TOY = StepChain
