r"""Quantised skills: a smooth power law made of steps.

Suppose a task consists of many small skills, each learnt as a whole or not at all, and skill $i$ is needed with
frequency $p_i \propto i^{-(1+a)}$ (Zipf's law). Each skill's own learning curve is a step. The *sum* over
skills is a power law without a single kink: a scaling law need not mean that anything inside is smooth.

**By capacity.** Room for $n$ skills, the most frequent ones: what is left is the tail

$$L(n) = \sum_{i>n} p_i = \frac{\zeta(1+a,\,n+1)}{\zeta(1+a)} \approx \frac{n^{-a}}{a\,\zeta(1+a)} .$$

**By data.** A skill is learnt once it has been seen $\tau$ times in $D$ examples: $L(D) = \sum_i
p_i\,P(\mathrm{Bin}(D,p_i) < \tau)$. Skills with $p_i \gg 1/D$ are known, the others not, so $n \sim
D^{1/(1+a)}$. With sums as integrals and Poisson counts,

$$L(D) \approx \frac{\zeta(1+a)^{-1/(1+a)}}{1+a}\;\sum_{j<\tau}\frac{\Gamma(j+\frac{a}{1+a})}{j!}\;D^{-a/(1+a)} .$$

So one number $a$ of the data's distribution fixes both exponents, $a$ in capacity and $a/(1+a)$ in data: the
link between micro and macro that makes the picture testable.

**Emergence.** Skill $i$ is learnt with probability $P(\mathrm{Bin}(D,p_i)\ge\tau)$, a step at $D \approx
\tau/p_i$ whose width in $\ln D$ is about $1/\sqrt\tau$: sharp for one skill, invisible in the sum.

**The objective** is the data side as a network: a linear model on one-hot skills, an entry of its weight vector
for each skill that occurs, right for those seen τ times and 0 for the others. Its Hessian is diagonal with the
skills' frequencies: rare skills are the flat directions.

**What to vary.** `decay` (a), `threshold` (τ), `examples`.

Sources: Michaud, Liu, Girit, Tegmark 2023, arXiv 2303.13506; Hutter 2021, arXiv 2102.04074.
Ledger: 4.14.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.special import gamma, zeta
from scipy.stats import binom, poisson

from geartrain.errors import InputError
from geartrain.records import Measurement
from geartrain.zoo._base import Truth, trial_result
from geartrain.zoo._linear import LinearModel
from geartrain.zoo._matrices import curvature_truths, effective_condition
from geartrain.zoo._regression import Regression

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPACITIES = (10, 100, 1000)
AMOUNTS = (1000, 10_000, 100_000)
"""Skills, and examples, of the learning curves that are simulated."""
REPEATS = 12
"""Of each simulation."""
_SOURCE = "Sums over Zipf's law; Michaud et al. 2023, arXiv 2303.13506."


@dataclass(frozen=True)
class QuantisedSkills(Regression):
    """Skills of Zipf-distributed use, each learnt as a whole.

    Attributes:
        decay: a: frequencies fall as i^-(1+a).
        threshold: τ, examples of a skill after which it is learnt.
        examples: D, of the objective.
    """

    title: ClassVar[str] = "Quantised skills"
    ledger: ClassVar[tuple[str, ...]] = ("4.14",)

    decay: float = 0.5
    threshold: int = 3
    examples: int = 200

    def __post_init__(self) -> None:
        if not 0.1 <= self.decay <= 3 or not 1 <= self.threshold <= 20:
            raise InputError(
                f"decay is {self.decay}, threshold {self.threshold}; allowed: 0.1 to 3, and 1 to 20. At 0 the "
                "frequencies have no sum."
            )
        if not 50 <= self.examples <= 1000:
            raise InputError(f"examples is {self.examples}; allowed: 50 to 1000.")

    # ------------------------------------------------------------------ how it is made

    @property
    def exponent(self) -> float:
        """Frequencies are i to minus this."""
        return 1 + self.decay

    def frequency(self, skill: np.ndarray) -> np.ndarray:
        """p_i of skills 1, 2, ..."""
        return skill.astype(float) ** -self.exponent / zeta(self.exponent)

    def sample(self, generator: torch.Generator, count: int) -> np.ndarray:
        """Skills that examples need, drawn from Zipf's law without a cut, shape (count,)."""
        seed = int(torch.randint(2**31, (), generator=generator))
        return np.random.default_rng(seed).zipf(self.exponent, count)

    @cached_property
    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Skills that occur among the objective's examples, and the place of each example's skill among them."""
        drawn = self.sample(self.generator(), self.examples)
        drawn[:2] = 1, 2  # two skills at least, whatever the seed
        return np.unique(drawn, return_inverse=True)

    @cached_property
    def linear(self) -> LinearModel:
        """One-hot skills with answers of ±1, and a model that knows those seen τ times."""
        skills, place = self.seen
        counts = np.bincount(place)
        inputs = np.eye(len(skills))[place]
        answers = (-1.0) ** np.arange(len(skills))
        return LinearModel(inputs, answers[place][:, None], (answers * (counts >= self.threshold))[None])

    @cached_property
    def reference(self) -> np.ndarray:
        """A model that knows nothing."""
        return np.zeros((1, len(self.seen[0])))

    # ------------------------------------------------------------------ what is known

    def loss_at_capacity(self, skills: int | np.ndarray) -> np.ndarray:
        """Share of examples whose skill is not among the most frequent n."""
        return np.asarray(zeta(self.exponent, np.asarray(skills) + 1.0) / zeta(self.exponent))

    def loss_with_data(self, amount: float) -> float:
        """Expected share of examples whose skill was seen fewer than τ times among D: sum, then integral."""
        last = 20_000  # beyond, p changes by less than 1e-4 from a skill to the next
        p = self.frequency(np.arange(1, last + 1))
        body = float(p @ binom.cdf(self.threshold - 1, round(amount), p))
        edges = np.geomspace(last + 0.5, (last + 0.5) * 1e9 ** (1 / self.exponent), 4001)
        middle = np.sqrt(edges[1:] * edges[:-1])
        unseen = poisson.cdf(self.threshold - 1, amount * self.frequency(middle))
        mass = -np.diff(edges**-self.decay) / (self.decay * zeta(self.exponent))
        rest = edges[-1] ** -self.decay / (self.decay * zeta(self.exponent))
        return body + float(mass @ unseen) + rest

    @property
    def data_prefactor(self) -> float:
        """L(D)·D^(a/(1+a)) in the limit of much data."""
        share = self.decay / self.exponent
        waiting = sum(gamma(j + share) / math.factorial(j) for j in range(self.threshold))
        return float(zeta(self.exponent) ** (-1 / self.exponent) / self.exponent * waiting)

    def truths(self) -> dict[str, Truth]:
        """Both learning curves and their exponents, the steps of single skills; the linear model on the data."""
        known = partial(Truth, source=_SOURCE)
        asymptotic = partial(
            known, assumptions="Power laws between 100 and 10,000 skills or 10⁴ and 10⁶ examples."
        )
        skills = np.array([1, 10, 100])
        steps = binom.sf(self.threshold - 1, AMOUNTS[0], self.frequency(skills))
        data = np.array([self.loss_with_data(d) for d in AMOUNTS])
        truths = curvature_truths(
            self.linear.hessian, source="One-hot inputs: diagonal, the skills' frequencies."
        )
        if self.linear.residuals.any():  # else all that occurs was learnt, and nothing moves
            truths = self.sample_truths()
            del truths["adversarial_drop"]  # where the residual is 0 an attack finds no gradient to follow
            truths.pop("effective_condition_number", None)
            truths |= self._of_what_is_not_learnt()
            truths["feature_scales"] = known(
                1.0, assumptions="A skill's input is 0 or 1, however rare it is."
            )
            truths["loss"] = known(0.5 * self._unlearnt_share(), 1e-12, trial=self._loss_of_objective)
        return truths | {
            "loss_at_capacity": known(
                self.loss_at_capacity(np.array(CAPACITIES)), 1e-9, trial=self._use_often
            ),
            "loss_with_data": known(data, 1e-6, trial=self._learn_often),
            "emergence": known(steps, 1e-9, trial=self._emerge),
            "capacity_exponent": asymptotic(self.decay, 0.05, trial=self._fit_capacity),
            "data_exponent": asymptotic(self.decay / self.exponent, 0.05, trial=self._fit_data),
        }

    def _of_what_is_not_learnt(self) -> dict[str, Truth]:
        """The effective condition number: the gradient does not see skills that are known, frequent as they are."""
        slope = self.linear.rows.mean(0)
        open_ = np.abs(slope) > 0
        shares = slope[open_] ** 2 / (slope @ slope)
        kappa = effective_condition(np.diag(self.linear.hessian)[open_], shares)
        if kappa is None:
            return {}  # rounding would decide
        about = "Of the skills that are not learnt yet: Newton's gain lies in them alone."
        return {"effective_condition_number": Truth(kappa, 1e-4, assumptions=about, source=_SOURCE)}

    def _unlearnt_share(self) -> float:
        counts = np.bincount(self.seen[1])
        return float(counts[counts < self.threshold].sum() / counts.sum())

    def _loss_of_objective(self, generator: torch.Generator) -> Measurement:
        return trial_result("loss", float(self.objective.value()))

    def _use_often(self, generator: torch.Generator) -> Measurement:
        """Share of fresh examples beyond each capacity."""
        drawn = self.sample(generator, 200_000)
        shares = np.array([(drawn > n).mean() for n in CAPACITIES])
        return trial_result("loss_at_capacity", shares, np.sqrt(shares * (1 - shares) / len(drawn)) + 1e-9)

    def _learn_often(self, generator: torch.Generator) -> Measurement:
        """Train on D examples, then count what is still unknown, by the known frequencies."""
        found = np.array([[self._learn(generator, d) for d in AMOUNTS] for _ in range(REPEATS)])
        return trial_result("loss_with_data", found.mean(0), found.std(0, ddof=1) / math.sqrt(REPEATS))

    def _learn(self, generator: torch.Generator, amount: int) -> float:
        skills, counts = np.unique(self.sample(generator, amount), return_counts=True)
        return 1 - float(self.frequency(skills[counts >= self.threshold]).sum())

    def _emerge(self, generator: torch.Generator) -> Measurement:
        """How often skills 1, 10, 100 are learnt from the smallest amount of data."""
        runs = 400
        drawn = self.sample(generator, runs * AMOUNTS[0]).reshape(runs, AMOUNTS[0])
        learnt = np.stack([(drawn == i).sum(1) >= self.threshold for i in (1, 10, 100)])
        shares = (learnt.sum(1) + 1) / (runs + 2)
        return trial_result("emergence", learnt.mean(1), np.sqrt(shares * (1 - shares) / runs))

    def _fit_capacity(self, generator: torch.Generator) -> Measurement:
        """Slope of ln L against ln n over two decades."""
        n = np.geomspace(100, 10_000, 20).round()
        return trial_result(
            "capacity_exponent", -np.polyfit(np.log(n), np.log(self.loss_at_capacity(n)), 1)[0]
        )

    def _fit_data(self, generator: torch.Generator) -> Measurement:
        """Slope of ln L against ln D over two decades."""
        d = np.geomspace(1e4, 1e6, 9)
        losses = np.array([self.loss_with_data(x) for x in d])
        return trial_result("data_exponent", -np.polyfit(np.log(d), np.log(losses), 1)[0])

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Steps of single skills, and the smooth sum."""
        steps, total = figure.subplots(1, 2)
        d = np.geomspace(1, 1e5, 120)
        for skill in (1, 3, 10, 30, 100, 300):
            p = float(self.frequency(np.array([skill]))[0])
            steps.semilogx(d, poisson.sf(self.threshold - 1, d * p), label=f"skill {skill}")
        steps.set(xlabel="examples D", ylabel="probability that it is learnt", title=self.title)
        steps.legend(fontsize=7)
        amounts, generator = np.geomspace(100, 1e5, 10), self.generator()
        total.loglog(amounts, [self.loss_with_data(float(x)) for x in amounts], label="theory")
        share = self.decay / self.exponent
        total.loglog(amounts, self.data_prefactor * amounts**-share, "k:", label=f"$D^{{-{share:.3g}}}$")
        found = [self._learn(generator, round(x)) for x in amounts]
        total.loglog(amounts, found, "o", color="C3", label="one run each")
        total.set(xlabel="examples D", ylabel="share of examples not mastered")
        total.legend()


TOY = QuantisedSkills
