r"""A spurious feature: right for the wrong reason, until the world changes.

Two classes $y = \pm1$, equally frequent, with features $x \sim N(y\mu, \Sigma)$. The last feature is *spurious*: it
goes with the class in training, with a mean that is opposite at test. By Bayes' rule

$$\ln\frac{P(y = 1\mid x)}{P(y = -1\mid x)} = 2\,\mu^\top\Sigma^{-1}x,$$

so the best classifier is linear with $w \propto \Sigma^{-1}\mu$, and a softmax over $\pm w\cdot x$ with
$w = \Sigma^{-1}\mu$ is calibrated. It uses the spurious feature as much as it is informative, and is right to.

**What it costs.** On the line $w\cdot x$ the classes are Gaussians, so everything is a value of the normal
distribution function $\Phi$:

* accuracy in training $\Phi(w\cdot\mu / \sqrt{w^\top\Sigma w})$, which is $\Phi(\sqrt{\mu^\top\Sigma^{-1}\mu})$;
* at test, with the last mean flipped to $\mu'$: $\Phi(w\cdot\mu'/\sqrt{w^\top\Sigma w})$, below ½ if the spurious
  feature weighs more than all the others together;
* under an attack that moves every feature by at most $\varepsilon$:
  $\Phi((w\cdot\mu - \varepsilon\lVert w\rVert_1)/\sqrt{w^\top\Sigma w})$. Many weak features make $\lVert w\rVert_1$
  large: accuracy and robustness pull apart.

Shortcuts and adversarial examples are here no defects of training but the price of the best answer to the question
that was asked.

**The instruments** see this classifier under cross-entropy on a sample. With $p$ the probability of the first class
the Hessian is $\begin{pmatrix}1 & -1\\ -1 & 1\end{pmatrix} \otimes \mathrm{mean}\,p(1-p)\,xx^\top$.

**What to vary.** `shortcut` (strength of the spurious feature), `core` (that of each of the others), `correlation`.

Sources: Tsipras et al. 2018, arXiv 1805.12152 (accuracy against robustness); Sagawa et al. 2020, arXiv 2005.04345.
Ledger: 3.37.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Trial, Truth, trial_result
from geartrain.zoo._linear import linear

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BAYES = "On the line w·x the classes are Gaussians."
_SOFTMAX = "Cross-entropy of a linear softmax (textbook)."
_RADIUS = 0.1
"""Of the attack, in units of the inputs' spread: the instrument's default."""


@dataclass(frozen=True)
class SpuriousFeature(Toy):
    """Gaussian classes, the last feature of which betrays at test.

    Attributes:
        features: Number of features, the spurious one included.
        core: Mean of each of the other features.
        shortcut: Mean of the spurious feature in training; it is minus that at test.
        correlation: Between any two of the others; the spurious one is independent of them.
        attack: ε of the trial's attack.
        examples: That the instruments see, half of each class.
    """

    title: ClassVar[str] = "A spurious feature"
    ledger: ClassVar[tuple[str, ...]] = ("3.37",)

    features: int = 5
    core: float = 0.4
    shortcut: float = 1.0
    correlation: float = 0.2
    attack: float = 0.2
    examples: int = 1000

    def __post_init__(self) -> None:
        if not 2 <= self.features <= 20 or not 200 <= self.examples <= 2000 or self.examples % 2:
            raise InputError(
                f"features is {self.features}, examples {self.examples}; allowed: 2 to 20, and an even number "
                "from 200 to 2000."
            )
        if not 0 < self.core <= 2 or not 0 < self.shortcut <= 2 or not self.attack >= 0:
            raise InputError(
                f"core is {self.core}, shortcut {self.shortcut}, attack {self.attack}; allowed: above 0 up to 2, and "
                "an attack of 0 or more."
            )
        if not 0 <= self.correlation < 1:
            raise InputError(f"correlation is {self.correlation}; allowed: 0 to below 1.")

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def mean(self) -> np.ndarray:
        """The mean μ of the class y = 1 in training."""
        return np.append(np.full(self.features - 1, self.core), self.shortcut)

    @cached_property
    def covariance(self) -> np.ndarray:
        """Σ, with ones on the diagonal."""
        matrix = np.eye(self.features)
        matrix[:-1, :-1] += self.correlation * (1 - np.eye(self.features - 1))
        return matrix

    @cached_property
    def weights(self) -> np.ndarray:
        """The best w = Σ⁻¹μ."""
        return np.linalg.solve(self.covariance, self.mean)

    def draws(
        self, count: int, mean: np.ndarray, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (count, features) and classes 0 and 1, half of each."""
        labels = np.arange(count) % 2
        noise = torch.randn(count, self.features, generator=generator, dtype=torch.float64).numpy()
        return (2 * labels - 1)[:, None] * mean + noise @ np.linalg.cholesky(self.covariance).T, labels

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """The sample that the instruments see."""
        return self.draws(self.examples, self.mean, self.generator())

    def make_objective(self) -> Objective:
        """Cross-entropy of softmax(-w·x, w·x) on the sample."""
        x, labels = (torch.from_numpy(a) for a in self.data)
        model = linear(np.stack([-self.weights, self.weights]))
        return Objective(model, nn.functional.cross_entropy, (x, labels))

    # ------------------------------------------------------------------ what is known

    def accuracy(self, w: np.ndarray, mean: np.ndarray, attack: float = 0.0) -> float:
        """Of sign(w·x) on classes at ± that mean, when every feature is moved by at most ``attack``.

        >>> toy = SpuriousFeature(features=2, core=0.6, shortcut=0.8, correlation=0.0)
        >>> round(toy.accuracy(toy.weights, toy.mean), 6), round(float(norm.cdf(1)), 6)
        (0.841345, 0.841345)
        """
        size = math.sqrt(w @ self.covariance @ w)
        return float(norm.cdf((w @ mean - attack * np.abs(w).sum()) / size))

    @property
    def flipped(self) -> np.ndarray:
        """The mean at test, the last feature's sign turned."""
        return np.append(self.mean[:-1], -self.mean[-1])

    @cached_property
    def posterior(self) -> np.ndarray:
        """Probability of class 1 for each example: σ(2w·x)."""
        return 1 / (1 + np.exp(-2 * self.data[0] @ self.weights))

    @cached_property
    def hessian(self) -> np.ndarray:
        """[[1, -1], [-1, 1]] ⊗ mean p(1-p) xxᵀ."""
        x, p = self.data[0], self.posterior
        moments = x.T @ ((p * (1 - p))[:, None] * x) / len(x)
        return np.kron(np.array([[1.0, -1.0], [-1.0, 1.0]]), moments)

    def truths(self) -> dict[str, Truth]:
        """Accuracies of the population; the classifier on the sample."""
        (x, labels), p, w = self.data, self.posterior, self.weights
        errors = np.stack([1 - p - (labels == 0), p - (labels == 1)], axis=1)
        rows = np.einsum("no,nd->nod", errors, x).reshape(len(x), -1)
        layers, here = [2 * self.features], np.concatenate([-w, w])
        epsilon = _RADIUS * float(np.sqrt(((x - x.mean(0)) ** 2).mean()))
        drop = self.accuracy(w, self.mean) - self.accuracy(w, self.mean, epsilon)
        own = np.where(labels == 1, p, 1 - p)
        return {
            "accuracy": Truth(self.accuracy(w, self.mean), source=_BAYES, trial=self._tested(self.mean)),
            "accuracy_at_test": Truth(
                self.accuracy(w, self.flipped), source=_BAYES, trial=self._tested(self.flipped)
            ),
            "accuracy_under_attack": Truth(
                self.accuracy(w, self.mean, self.attack),
                source=_BAYES,
                trial=self._tested(self.mean, self.attack),
            ),
            "adversarial_drop": Truth(drop, 0.02, "Population; the attack's size is the sample's.", _BAYES),
            "calibration_error": Truth(0.0, 1e-3, "The sample is drawn from the model.", "Bayes' rule."),
            **_matrices.curvature_truths(self.hessian, rows.mean(0), layers=layers, source=_SOFTMAX),
            **_matrices.example_truths(rows, self.hessian, layers=layers, source=_SOFTMAX),
            **_matrices.linear_pair_truths(here, np.zeros_like(here), _silent),
            "example_losses": Truth(-np.log(own), source=_SOFTMAX, strict=True),
            "label_balance": Truth(0.5, source="Half of each class.", strict=True),
            "constant_loss": Truth(math.log(2), 1e-5, source="Entropy of a fair coin."),
            "label_disagreement_floor": Truth(0.0, source="No input occurs twice."),
            "weight_norm": Truth(np.array([math.sqrt(2) * np.linalg.norm(w)]), source="Rows -w and w."),
            "weight_rank": Truth(np.array([1.0]), source="Rows -w and w."),
            "input_affinity": Truth(0.0, 1e-7, source="The outputs are linear in the inputs."),
            "dead_units": Truth(math.nan, source="There is no rectifier."),
        }

    def _tested(self, mean: np.ndarray, attack: float = 0.0) -> Trial:
        """Accuracy on fresh inputs, each feature moved against the class by ``attack`` if one is given."""

        def trial(generator: torch.Generator) -> Measurement:
            x, labels = self.draws(50_000, mean, generator)
            sides = 2 * labels - 1
            x = x - attack * sides[:, None] * np.sign(self.weights)
            right = (x @ self.weights * sides > 0).astype(float)
            return trial_result("accuracy", right.mean(), right.std() / math.sqrt(len(right)))

        return trial

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Accuracy in training, at test and under attack, the stronger the shortcut is."""
        axes, strengths = figure.add_subplot(), np.linspace(0.05, 2, 80)
        toys = [SpuriousFeature.make(**{**self.parameters, "shortcut": float(s)}) for s in strengths]
        axes.plot(strengths, [t.accuracy(t.weights, t.mean) for t in toys], label="as in training")
        axes.plot(
            strengths, [t.accuracy(t.weights, t.flipped) for t in toys], label="spurious feature flipped"
        )
        attacked = [t.accuracy(t.weights, t.mean, t.attack) for t in toys]
        axes.plot(strengths, attacked, label=f"every feature moved by {self.attack:g}")
        axes.axhline(0.5, color="0.6", ls=":", label="chance")
        axes.set(xlabel="mean of the spurious feature", ylabel="accuracy", title=self.title)
        axes.legend()


def _silent(toy: SpuriousFeature) -> Tensor:
    return torch.zeros(2 * toy.features, dtype=torch.float64)


TOY = SpuriousFeature
