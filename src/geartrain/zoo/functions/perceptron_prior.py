r"""The prior of the perceptron: what random weights compute before any training.

Draw the weights of $f(x) = 1[w\cdot x > 0]$ at random and look at all $2^n$ binary inputs at once. How many of them are
answered "one"? Not about half: the number $t$ of ones is *uniform* on $0, \dots, 2^n - 1$. Constant and nearly constant
functions, very few among all, get as much probability as the huge crowd in the middle: a bias towards simple functions
before any training.

**Why.** Fix the sizes $|w_i|$ and go through all $2^n$ choices of the signs. Start from $w > 0$ and flip the signs in a
set $S$. Exchange 0 and 1 in the coordinates of $S$ (this only renames the inputs): then $-w_ix_i = w_ix_i' - w_i$, so
the new sum is $w\cdot x' - w(S)$, where $w(S) = \sum_{i\in S} w_i$. It is positive for as many inputs as there are
subset sums above $w(S)$. All $2^n$ subset sums are different, so as $S$ runs over all sets this count takes each of
the values $0, \dots, 2^n - 1$ exactly once. The law of the sizes does not matter: any law that is symmetric under
flips of single signs gives the uniform law. ($t = 2^n$ cannot happen: $f(0) = 0$.)

**The logistic perceptron at w = 0** is exactly solvable too, and it is what the instruments look at: every probability
is ½, so the Hessian of the cross-entropy is ¼ of the inputs' second moments, $\tfrac1{16}(I + 11^\top)$ over the binary
cube: eigenvalues $(n+1)/16$ once and $1/16$ $(n-1)$ times. The condition number $n + 1$ is the price of inputs 0/1;
with ±1 it would be 1.

**What to vary.** `n`; the `law` of the weights (even without a variance, "cauchy", nothing changes); `seed` draws the
teacher whose labels the logistic perceptron is given.

Sources: Mingard et al. 2019, arXiv 1909.11522, theorem 4.1.
Ledger: 2.13.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo.functions._shallow import cube, put
from geartrain.zoo.functions._shares import share_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

LAWS = ("normal", "uniform", "cauchy")
_SOURCE = "At w = 0 every probability is ½ and the slope of the logistic function ¼."
_UNIFORM = "Flipping signs shifts all sums by a subset sum, and these are all different; Mingard et al. 2019."


@dataclass(frozen=True)
class PerceptronPrior(Toy):
    """A perceptron without bias on all binary inputs.

    Attributes:
        n: Number of inputs, 2 to 10.
        law: Of the random weights: "normal", "uniform" or "cauchy".
        samples: Random perceptrons of the trials.
        seed: Draws the teacher.
    """

    title: ClassVar[str] = "What random perceptrons compute"
    ledger: ClassVar[tuple[str, ...]] = ("2.13",)

    n: int = 5
    law: str = "normal"
    samples: int = 50_000

    def __post_init__(self) -> None:
        if not 2 <= self.n <= 10:
            raise InputError(f"n is {self.n}; allowed: 2 to 10 (all 2^n inputs are used).")
        if self.law not in LAWS:
            raise InputError(f"law is {self.law!r}; allowed: {', '.join(map(repr, LAWS))}.")
        if self.samples < 100:
            raise InputError(f"samples is {self.samples}; allowed: 100 or more, for an error bar.")

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def points(self) -> np.ndarray:
        """All inputs, shape (2^n, n)."""
        return cube(self.n, low=0.0)

    @cached_property
    def labels(self) -> np.ndarray:
        """Answers of a teacher: a perceptron with normal weights, shape (2^n,), not all of them 0."""
        source = self.generator()
        while True:
            w = torch.randn(self.n, generator=source, dtype=torch.float64).numpy()
            found = (self.points @ w > 0).astype(float)
            if found.any():
                return found

    def make_objective(self) -> Objective:
        """Cross-entropy of a logistic perceptron with w = 0 on the teacher's labels."""
        model = nn.Linear(self.n, 1, bias=False).double()
        put(model.weight, np.zeros(self.n))
        data = torch.from_numpy(self.points), torch.from_numpy(self.labels)[:, None]
        return Objective(model, binary_cross_entropy_with_logits, data)

    def weights(self, generator: torch.Generator) -> np.ndarray:
        """Random weights of the law, shape (samples, n)."""
        shape = (self.samples, self.n)
        if self.law == "normal":
            return torch.randn(shape, generator=generator, dtype=torch.float64).numpy()
        u = torch.rand(shape, generator=generator, dtype=torch.float64).numpy() - 0.5
        return u if self.law == "uniform" else np.tan(math.pi * u)

    def counts(self, generator: torch.Generator) -> np.ndarray:
        """Number of ones of each random perceptron, shape (samples,)."""
        return (self.weights(generator) @ self.points.T > 0).sum(1)

    # ------------------------------------------------------------------ what is known

    def truths(self) -> dict[str, Truth]:
        """The law of the number of ones, and the logistic perceptron at w = 0."""
        n, size, x, y = self.n, 2.0**self.n, self.points, self.labels
        hessian = (np.eye(n) + np.ones((n, n))) / 16
        rows = (0.5 - y)[:, None] * x
        return {
            "ones": Truth(
                np.array([(size - 1) / 2, (size**2 - 1) / 12]),
                source=f"Mean and variance of the uniform law on 0 .. 2^n - 1. {_UNIFORM}",
                trial=self._moments,
            ),
            "constant_zero": Truth(
                1 / size, source=f"P(t = 0) = 2^(-n). {_UNIFORM}", trial=self._constant_zero
            ),
            "each_count_once": Truth(np.ones(int(size)), 0.0, source=_UNIFORM, trial=self._all_signs),
            "weight_norm": Truth(np.zeros(1), source="w = 0."),
            "missing_biases": Truth(1.0, source="By definition."),
            "input_affinity": Truth(math.nan, source="At w = 0 all outputs are equal."),
            "output_probability": Truth(0.0, source="Outputs are scores."),
            "loss_match": Truth(1.0, source="Cross-entropy suits yes-or-no labels."),
            "output_target_match": Truth(1.0, source="One score for each label."),
            **self._data_truths(),
            **_matrices.linear_pair_truths(np.zeros(n), np.full(n, n**-0.5), _unit),
            **_matrices.curvature_truths(hessian, rows.mean(0), loss=math.log(2), layers=[n], source=_SOURCE),
            **_matrices.example_truths(rows, hessian, layers=[n], source=_SOURCE),
            **_matrices.kernel_truths(x[:, None], y[:, None]),
        }

    def _data_truths(self) -> dict[str, Truth]:
        """What inputs and labels decide; with scores of 0 every answer is "zero" with confidence ½."""
        share = float(self.labels.mean())
        entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
        truths = {
            "constant_loss": Truth(entropy, 1e-5, source="Entropy of the labels."),
            "label_balance": Truth(max(share, 1 - share), source="Definition.", strict=True),
            "label_disagreement_floor": Truth(0.0, source="No input occurs twice."),
            "calibration_error.overconfidence": Truth(
                share - 0.5, reading="overconfidence", source="Confidence ½, accuracy 1 - share.", strict=True
            ),
            "feature_scales": Truth(1.0, source="Every input is a fair bit."),
        }
        if self.n >= 4:  # the instrument asks for ten examples
            truths["input_conditioning.raw_condition"] = Truth(
                4 * self.largest_moment**2,
                source="Largest and smallest eigenvalue of E[x̃x̃ᵀ] have the product ¼ (x̃: x and a constant 1).",
                reading="raw_condition",
            )
            truths["input_conditioning.standardised_condition"] = Truth(
                1.0, source="Fair bits are independent.", reading="standardised_condition"
            )
        return truths

    @property
    def largest_moment(self) -> float:
        """Largest eigenvalue of the second moments of the inputs and a constant 1.

        On the span of (1, ..., 1, 0) and (0, ..., 0, 1) the matrix has trace (n + 5)/4 and determinant ¼.
        """
        half = (self.n + 5) / 8
        return half + math.sqrt(half**2 - 0.25)

    def _moments(self, generator: torch.Generator) -> Measurement:
        """Mean and variance of the number of ones."""
        t = self.counts(generator).astype(float)
        squares = (t - t.mean()) ** 2
        errors = np.array([t.std(), squares.std()]) / math.sqrt(len(t))
        return trial_result("ones", [t.mean(), squares.mean()], errors)

    def _constant_zero(self, generator: torch.Generator) -> Measurement:
        """Share of random perceptrons that say zero to everything."""
        return share_result("constant_zero", int((self.counts(generator) == 0).sum()), self.samples)

    def _all_signs(self, generator: torch.Generator) -> Measurement:
        """How often each number of ones occurs if one draw of weights is given all possible signs."""
        sizes = np.abs(self.weights(generator)[0])
        counts = (cube(self.n) * sizes @ self.points.T > 0).sum(1)
        return trial_result("each_count_once", np.bincount(counts, minlength=2**self.n))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """How often each number of ones occurs, against that of random tables."""
        axes = figure.add_subplot()
        size = 2**self.n
        found = np.bincount(self.counts(self.generator()), minlength=size) / self.samples
        axes.bar(np.arange(size), found, label=f"{self.samples:,} random perceptrons")
        axes.axhline(1 / size, color="black", ls="--", label="theory: uniform")
        coins = [math.comb(size, t) / 2**size for t in range(size)]
        axes.plot(np.arange(size), coins, color="tab:orange", label="random tables")
        axes.set(xlabel="number of inputs answered one", ylabel="probability", title=f"n = {self.n}")
        axes.legend()


def _unit(toy: PerceptronPrior) -> Tensor:
    """Weights 1/√n."""
    return torch.full((toy.n,), toy.n**-0.5, dtype=torch.float64)


TOY = PerceptronPrior
