r"""Dropout in a linear regression: noise that is a penalty.

Before every step each input is kept with probability $q$ and then divided by $q$, or else set to 0. The model is
linear, $f(x) = w\cdot x$, the loss half the mean squared error. Averaged over the masks $m$ it is

$$E\,\tfrac1{2n}\sum_i\Big(y_i - \tfrac1q\sum_j m_{ij}w_jx_{ij}\Big)^2
= \tfrac1{2n}\lVert y - Xw\rVert^2 + \frac{1-q}{q}\,\tfrac1{2n}\sum_j w_j^2\lVert X_j\rVert^2 ,$$

because $m_{ij}/q$ has mean 1 and variance $(1-q)/q$, and masks of different inputs have nothing to do with one
another. So dropout on the inputs *is* ridge regression, with a penalty on each weight in proportion to the size of
its input: it does not care in which units inputs are given. There is nothing else to it in this model; what else it
does in deep networks it does through the nonlinearities.

**Everything follows.** With $C = X^\top X/n$, $D$ its diagonal and $\rho = (1-q)/q$ the minimum is
$w_q = (C + \rho D)^{-1}X^\top y/n$. Measured *without* dropout, in evaluation mode, the loss there has the gradient
$-\rho D w_q$: it is not at its minimum, and should not be. Uncorrelated inputs are shrunk by exactly $q$.

**Uncertainty by dropout.** If the masks are kept on when the model is asked, its answer at $x$ scatters with variance
$\rho\sum_j w_j^2x_j^2$. That knows nothing of how many examples there were, nor where: it is no posterior.

**What to vary.** `keep` ($q$; 1 is no dropout), `correlation` of the inputs, `features`, `examples`, `noise`.

Sources: Wager, Wang, Liang 2013, arXiv 1307.1493; Srivastava et al. 2014 (JMLR 15:1929), section 9.1.
Ledger: 3.25, 3.32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._linear import LinearModel, data_truths, function_truths, linear, local_truths, pair_truths
from geartrain.zoo._losses import half_square
from geartrain.zoo._matrices import curvature_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = (
    "E(m/q) = 1, var(m/q) = (1-q)/q; Wager, Wang, Liang 2013, arXiv 1307.1493; Srivastava et al. 2014, 9.1."
)
_DRAWS = 150


@dataclass(frozen=True)
class DropoutRegression(Toy):
    """Linear regression whose inputs are dropped at random in training.

    Attributes:
        keep: Probability q that an input is kept.
        features: Number of inputs.
        examples: Number of examples.
        correlation: Of any two inputs, before they get their different scales.
        noise: Standard deviation of the targets' noise.
    """

    title: ClassVar[str] = "Dropout in a linear regression"
    ledger: ClassVar[tuple[str, ...]] = ("3.25", "3.32")

    keep: float = 0.7
    features: int = 8
    examples: int = 60
    correlation: float = 0.4
    noise: float = 0.5

    def __post_init__(self) -> None:
        if not 0.05 <= self.keep <= 1:
            raise InputError(f"keep is {self.keep}; allowed: 0.05 to 1 (no dropout).")
        if not 2 <= self.features <= 30 or not 2 * self.features <= self.examples <= 100:
            raise InputError(
                f"features is {self.features} and examples {self.examples}; allowed: 2 to 30 features, at least two "
                "examples for each, at most 100."
            )
        if not 0 <= self.correlation <= 0.95 or not self.noise > 0:
            raise InputError(
                f"correlation is {self.correlation} and noise {self.noise}; allowed: 0 to 0.95, and above 0."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """X, shape (examples, features), and y, shape (examples,)."""
        n, d, source = self.examples, self.features, self.generator()
        z, common = (torch.randn(n, k, generator=source, dtype=torch.float64).numpy() for k in (d, 1))
        x = math.sqrt(1 - self.correlation) * z + math.sqrt(self.correlation) * common
        x = x * np.geomspace(1, 0.3, d)
        teacher, noise = (torch.randn(k, generator=source, dtype=torch.float64).numpy() for k in (d, n))
        return x, x @ (2 * teacher) + self.noise * noise

    @property
    def plain(self) -> LinearModel:
        """The model without dropout, at the minimum of the loss with it."""
        x, y = self.sample
        return LinearModel(x, y[:, None], self.weights[None])

    def model(self, weights: np.ndarray) -> nn.Sequential:
        """Dropout, then a linear layer."""
        return nn.Sequential(nn.Dropout(1 - self.keep), linear(weights[None]))

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        return self.plain.data()

    def make_objective(self) -> Objective:
        """The loss in evaluation mode: nothing is dropped."""
        return Objective(self.model(self.weights), half_square, self.data(), training=False)

    def masked(self, seed: int) -> Objective:
        """The loss in training mode, under one draw of all masks."""
        return Objective(self.model(self.weights), half_square, self.data(), training=True, seed=seed)

    def averaged(self) -> Objective:
        """The loss averaged over all masks: least squares with the ridge penalty."""
        diagonal = torch.from_numpy(self.penalty)

        def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            (weight,) = model.parameters()
            return half_square(model(batch[0]), batch[1]) + 0.5 * (weight.square() @ diagonal).sum()

        return Objective(linear(self.weights[None]), data=[self.data()], batch_loss=loss)

    def make_run(self) -> Run:
        """Gradient descent with dropout, all examples at every step, validated on the same examples."""
        model, size = self.model(self.weights), self.examples
        rate = 0.3 / float(np.linalg.eigvalsh(self.ridge)[-1])
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        return Run(
            model,
            half_square,
            optimizer,
            self.data(),
            validation=self.data(),
            epochs=400,
            batch_size=size,
            shuffle=False,
        )

    # ------------------------------------------------------------------ what is known

    @property
    def odds(self) -> float:
        """ρ = (1-q)/q."""
        return (1 - self.keep) / self.keep

    @cached_property
    def moments(self) -> np.ndarray:
        """C = XᵀX/n."""
        return self.sample[0].T @ self.sample[0] / self.examples

    @property
    def penalty(self) -> np.ndarray:
        """ρ times the diagonal of C."""
        return self.odds * np.diag(self.moments)

    @property
    def ridge(self) -> np.ndarray:
        """C + ρD, the Hessian of the averaged loss."""
        return self.moments + np.diag(self.penalty)

    @cached_property
    def weights(self) -> np.ndarray:
        """Its minimum."""
        x, y = self.sample
        return np.linalg.solve(self.ridge, x.T @ y / self.examples)

    @property
    def averaged_loss(self) -> float:
        """The averaged loss there."""
        x, y = self.sample
        return 0.5 * float(((x @ self.weights - y) ** 2).mean() + self.penalty @ self.weights**2)

    @property
    def prediction_variance(self) -> np.ndarray:
        """Of the answer at each example, over masks."""
        return self.odds * self.sample[0] ** 2 @ self.weights**2

    def truths(self) -> dict[str, Truth]:
        """Without dropout; averaged over it; and both by drawing masks."""
        model = self.plain
        truths = local_truths(model) | function_truths(model) | data_truths(model)
        truths |= pair_truths(model, model.minimum, _at_least_squares)
        if self.keep == 1:  # nothing is dropped, and the gradient is rounding
            truths = {
                name: truths[name] for name in ("hessian_spectrum", "hessian_trace", "ntk", "weight_norm")
            }
        passed_on = [np.sqrt((h**2).mean()) for h in (model.inputs, model.inputs @ self.weights)]
        truths["activation_flow"] = Truth(
            np.array(passed_on), source="Nothing is dropped in evaluation mode."
        )
        truths |= self._averaged_truths()
        given = partial(Truth, source=_SOURCE, assumptions=f"Mean over {_DRAWS} draws of all masks.")
        return truths | {
            "mode_consistency": Truth(
                1.0, source="Training steps in training mode, evaluation without dropout."
            ),
            "gradient_fidelity": Truth(1.0, source="The optimizer uses the gradient as it is."),
            "decay_pull": Truth(0.0, source="The penalty comes from the masks; the optimizer has none."),
            "frozen_parameters": Truth(0.0, source="All weights move."),
            "averaged_loss": given(self.averaged_loss, 1e-9, trial=self._mean_loss),
            "averaged_gradient": given(np.zeros(self.features), 1e-9, trial=self._mean_gradient),
            "prediction_variance": given(self.prediction_variance, 1e-9, trial=self._scatter),
        }

    def _averaged_truths(self) -> dict[str, Truth]:
        """Curvature of the averaged loss, and that its minimum is one."""
        found = curvature_truths(self.ridge, layers=(self.features,), source=_SOURCE)
        named = {
            f"{name}.averaged" if "." not in name else f"{name}_averaged": replace(
                truth, instrument=name.partition(".")[0], subject=_averaged
            )
            for name, truth in found.items()
        }
        size, rise = self.features, 0.1
        ball = size / 2 * math.log(math.pi) - math.lgamma(size / 2 + 1)
        volume = ball + size / 2 * math.log(2 * rise) - 0.5 * float(np.linalg.slogdet(self.ridge)[1])
        options = {"cutoff": self.averaged_loss + rise, "max_radius": 1e4}
        source = "An ellipsoid (textbook); the averaged loss is least at w_q."
        return named | {
            "basin_volume": Truth(volume, 1e-4, source=source, subject=_averaged, options=options),
        }

    def _draws(self, generator: torch.Generator) -> list[Objective]:
        first = int(torch.randint(2**30, (), generator=generator))
        return [self.masked(first + k) for k in range(_DRAWS)]

    def _mean_loss(self, generator: torch.Generator) -> Measurement:
        return _mean("averaged_loss", np.array([float(o.value()) for o in self._draws(generator)]))

    def _mean_gradient(self, generator: torch.Generator) -> Measurement:
        return _mean("averaged_gradient", np.array([o.gradient().numpy() for o in self._draws(generator)]))

    def _scatter(self, generator: torch.Generator) -> Measurement:
        """Squared deviations of the answers with dropout from those without."""
        whole = self.sample[0] @ self.weights
        answers = [o.outputs().numpy()[:, 0] for o in self._draws(generator)]
        return _mean("prediction_variance", (np.array(answers) - whole) ** 2)

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Weights over the probability of keeping an input."""
        axes = figure.add_subplot()
        keeps = np.linspace(0.05, 1, 60)
        paths = np.array([replace(self, keep=float(q)).weights for q in keeps])
        for k, path in enumerate(paths.T):
            axes.plot(keeps, path, color=f"C{k % 10}", label=f"input {k + 1}" if k < 6 else None)
        axes.axvline(self.keep, color="0.6", ls=":", label="measured here")
        axes.set(xlabel="probability q of keeping an input", ylabel="weight (θ)", title=self.title)
        axes.legend(fontsize=8)


def _mean(quantity: str, values: np.ndarray) -> Measurement:
    """Mean over the first axis, with its standard error."""
    return trial_result(quantity, values.mean(0), values.std(0, ddof=1) / math.sqrt(len(values)))


def _averaged(toy: DropoutRegression) -> Objective:
    return toy.averaged()


def _at_least_squares(toy: DropoutRegression) -> Objective:
    return toy.objective.of(toy.model(toy.plain.minimum[0]))


TOY = DropoutRegression
