"""# The prior of the perceptron: what random weights compute

Draw the weights of f(x) = 1[w·x > 0] at random and look at all 2^n binary inputs at once. How many of them are
answered "one"? Not about half: the number t of ones is *uniform* on 0, ..., 2^n - 1. Constant and nearly constant functions,
very few among all, get as much probability as the huge crowd in the middle: a bias towards simple functions before any
training (Mingard et al. 2019).

**Why.** By induction: split the inputs by their last bit. Those without it get the same t' ones as for n - 1, uniform. Flipping the
sign of a weight reflects the order of the sums; averaging over the signs of the last weight makes every count 0 .. 2^n - 1
equally likely. Only symmetry under sign flips of single coordinates is used, so any such law of the weights gives the
same. (t = 2^n cannot happen: f(0) = 0.)

**The logistic perceptron at w = 0** is exactly solvable too, and it is what the instruments look at: every probability is ½, so the
Hessian of the cross-entropy is ¼ of the inputs' second moments, E[xxᵀ] = ¼(I + 11ᵀ) over the binary cube, with eigenvalues (n + 1)/16 once
and 1/16 (n - 1 times); its condition number n + 1 is the price of inputs 0/1 in place of ±1, which would make it 1.

**What to vary.** n; the law of the weights of the trial; the teacher whose labels the logistic perceptron is given.

Sources: Mingard et al. 2019, arXiv:1909.11522, theorem 4.1. Ledger: T15
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

LAWS = ("normal", "uniform", "cauchy")
_SOURCE = "At w = 0 every probability is ½ and σ' = ¼."


@dataclass(frozen=True)
class PerceptronPrior(Toy):
    """A perceptron without bias on all binary inputs.

    Attributes:
        n: Number of inputs, 2 to 10.
        law: Of the random weights: "normal", "uniform" or "cauchy".
        samples: Random perceptrons of the trial.
        seed: Draws the teacher.
    """

    title: ClassVar[str] = "What random perceptrons compute"
    ledger: ClassVar[tuple[str, ...]] = ("T15",)

    n: int = 5
    law: str = "normal"
    samples: int = 50_000

    def __post_init__(self) -> None:
        """Refuse what cannot be enumerated."""
        if not 2 <= self.n <= 10:
            raise InputError(f"n is {self.n}; allowed: 2 to 10 (all 2^n inputs are used).")
        if self.law not in LAWS:
            raise InputError(f"law is {self.law!r}; allowed: {', '.join(map(repr, LAWS))}.")
        if self.samples < 100:
            raise InputError(f"samples is {self.samples}; at least 100 are needed for an error bar.")

    def points(self) -> np.ndarray:
        """All inputs, shape (2^n, n)."""
        return np.array(list(itertools.product((0.0, 1.0), repeat=self.n)))

    def labels(self) -> np.ndarray:
        """Answers of a teacher: a perceptron with normal weights, shape (2^n,), neither all 0 nor all 1."""
        source = self.generator()
        while True:
            w = torch.randn(self.n, generator=source, dtype=torch.float64).numpy()
            found = (self.points() @ w > 0).astype(float)
            if found.any():
                return found

    def make_objective(self) -> Objective:
        """Cross-entropy of a logistic perceptron with w = 0 on the teacher's labels."""
        model = nn.Linear(self.n, 1, bias=False).double()
        with torch.no_grad():
            model.weight.zero_()
        x, y = torch.from_numpy(self.points()), torch.from_numpy(self.labels())[:, None]
        return Objective(model, nn.functional.binary_cross_entropy_with_logits, (x, y))

    def truths(self) -> dict[str, Truth]:
        """The law of the number of ones, and the logistic perceptron at w = 0."""
        n, x, y = self.n, self.points(), self.labels()
        hessian = (np.eye(n) + np.ones((n, n))) / 16
        rows = (0.5 - y)[:, None] * x
        gradient, share = rows.mean(0), float(y.mean())
        entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
        most = max(share, 1 - share)
        counts = 2.0**n
        return {
            "ones": Truth(
                np.array([(counts - 1) / 2, (counts**2 - 1) / 12]),
                source="Mean and variance of the uniform law on 0 .. 2^n - 1; Mingard et al. 2019.",
                trial=self.ones,
            ),
            "constant_zero": Truth(1 / counts, source="P(t = 0) = 2^(-n).", trial=self.constant_zero),
            "constant_loss": Truth(entropy, tolerance=1e-5, source="Entropy of the labels."),
            "label_balance": Truth(most, source="Definition.", strict=True),
            "label_disagreement_floor": Truth(0.0, source="No input occurs twice."),
            "weight_norm": Truth(np.zeros(1), source="w = 0."),
            "feature_scales": Truth(1.0, source="Every input is a fair bit."),
            "input_conditioning.raw_condition": Truth(
                4 * self.largest_moment() ** 2,
                source="Two eigenvalues of E[x̃x̃ᵀ] have the product ¼, the rest are ¼ (x̃: inputs and a constant 1).",
                reading="raw_condition",
            ),
            "input_conditioning.standardised_condition": Truth(
                1.0, source="Fair bits are independent.", reading="standardised_condition"
            ),
            "missing_biases": Truth(1.0, source="By definition."),
            "input_affinity": Truth(math.nan, source="At w = 0 all outputs are equal."),
            "initial_scale": Truth(
                1.0, source="The loss at w = 0 is ln 2, that of saying nothing.", subject=_objective
            ),
            "output_probability": Truth(0.0, source="Outputs are scores."),
            "loss_match": Truth(1.0, source="Cross-entropy suits yes-or-no labels."),
            "output_target_match": Truth(1.0, source="One score for each label."),
            "calibration_error.overconfidence": Truth(
                0.5 - self._accuracy(y), reading="overconfidence", source="All confidences are ½.", strict=True
            ),
            "distance_from_init": Truth(1.0, source="Definition.", other=_unit),
            "ntk_drift": Truth(0.0, source="The score is linear in w.", other=_unit),
            "linearised_error": Truth(0.0, tolerance=1e-9, source="The score is linear in w.", other=_unit),
            "lazy_index": Truth(0.0, source="The score is linear in w.", other=_unit),
            "linear_connectivity": Truth(0.0, tolerance=1e-9, source="The loss is convex.", other=_unit),
            **_matrices.curvature_truths(hessian, gradient, loss=math.log(2), layers=[n], source=_SOURCE),
            **_matrices.example_truths(rows, hessian, layers=[n], source=_SOURCE),
            **_matrices.kernel_truths(x[:, None], y[:, None]),
        }

    def largest_moment(self) -> float:
        """Largest eigenvalue of the second moments of the inputs and a constant 1: trace (n + 5)/4, product ¼."""
        half = (self.n + 5) / 8
        return half + math.sqrt(half**2 - 0.25)

    @staticmethod
    def _accuracy(y: np.ndarray) -> float:
        """A score of 0 is answered "zero"."""
        return float((y == 0).mean())

    def _draw_weights(self, generator: torch.Generator) -> np.ndarray:
        shape = (self.samples, self.n)
        if self.law == "normal":
            return torch.randn(shape, generator=generator, dtype=torch.float64).numpy()
        u = torch.rand(shape, generator=generator, dtype=torch.float64).numpy() - 0.5
        return u if self.law == "uniform" else np.tan(math.pi * u)

    def counts(self, generator: torch.Generator) -> np.ndarray:
        """Number of ones of each random perceptron, shape (samples,)."""
        return (self._draw_weights(generator) @ self.points().T > 0).sum(1)

    def ones(self, generator: torch.Generator) -> Measurement:
        """Mean and variance of the number of ones."""
        t = self.counts(generator).astype(float)
        squares = (t - t.mean()) ** 2
        errors = np.array([t.std(), squares.std()]) / math.sqrt(len(t))
        return trial_result("ones", [t.mean(), squares.mean()], errors)

    def constant_zero(self, generator: torch.Generator) -> Measurement:
        """Share of random perceptrons that say zero to everything."""
        share = float((self.counts(generator) == 0).mean())
        return trial_result("constant_zero", share, math.sqrt(share * (1 - share) / self.samples))

    def draw(self, figure: Figure) -> None:
        """How often each number of ones occurs, against that of random tables."""
        axes = figure.add_subplot()
        size = 2**self.n
        found = np.bincount(self.counts(torch.Generator().manual_seed(self.seed)), minlength=size) / self.samples
        axes.bar(np.arange(size), found[:size], label=f"{self.samples:,} random perceptrons")
        axes.axhline(1 / size, color="black", ls="--", label="theory: uniform")
        coins = [math.comb(size, t) / 2.0**size for t in range(size)]
        axes.plot(np.arange(size), coins, color="tab:orange", label="random tables")
        axes.set(xlabel="number of inputs answered one", ylabel="probability", title=f"n = {self.n}")
        axes.legend()


def _objective(toy: PerceptronPrior) -> Objective:
    return toy.objective


def _unit(toy: PerceptronPrior) -> Tensor:
    """Weights 1/√n."""
    return torch.full((toy.n,), toy.n**-0.5, dtype=torch.float64)


TOY = PerceptronPrior
