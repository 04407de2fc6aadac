r"""Learning in context: attention that takes a gradient step while it reads.

A prompt shows $N$ pairs $(x_i, y_i = w\cdot x_i)$, with another $w$ in every prompt, and asks for $w\cdot x_q$. One
layer of *linear* attention, with keys $x_i$, values $y_i$ and query $x_q$, answers

$$\hat y = \frac{\eta}{N} \sum_i y_i\, (x_i\cdot x_q).$$

That is the answer of one step of gradient descent from $w = 0$ on the prompt's own squared error: the layer *learns
$w$ while reading*, although none of its weights changes. It is the smallest model of in-context learning.

**How well can it do?** With $X$ the matrix of the $x_i$, the weights that the layer implies are wrong by
$(1 - \eta X^\top X/N)\,w$. For Gaussian $x$ the fourth moments give $E[(X^\top X/N)^2] = (N + d + 1)/N$, so for
Gaussian $w$ the mean square is

$$d\,\bigl(1 - 2\eta + \eta^2 (N + d + 1)/N\bigr), \qquad \eta^* = \frac{N}{N + d + 1}, \qquad
\text{leaving}\quad \frac{d(d+1)}{N+d+1}.$$

The best step is below 1 because the prompt's second moments are noisy. Least squares on the same prompt leaves
$\max(d - N, 0)$, the part of $w$ that no $x_i$ sees, and that is nothing as soon as $N \ge d$: one layer of
attention is gradient descent, not regression.

**Training the layer.** Let $\Gamma$ in $\hat y = x_q^\top\Gamma z$, $z = \frac1N\sum_i y_i x_i$, be learnt.
$\hat y$ is linear in $\Gamma$ with derivative $x_q \otimes z$, so the loss
$\tfrac12\,\mathrm{mean}\,(\hat y - y)^2$ is a parabola. Its Hessian over all prompts is $(N + d + 1)/N$ times the
identity: learning to learn in context is perfectly conditioned, and its optimum is $\Gamma = \eta^* \cdot 1$. On
the fixed prompts that the instruments see the Hessian is $\mathrm{mean}\,(x_q\otimes z)(x_q\otimes z)^\top$.

**What to vary.** `step` (from 0 over η* to where the error is worse than not answering at all), `context` below and
above `d`.

Sources: von Oswald et al. 2022, arXiv 2212.07677; Ahn et al. 2023, arXiv 2306.00297; Zhang, Frei, Bartlett 2023,
arXiv 2306.09927.
Ledger: 2.5, 4.6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Trial, Truth, trial_result
from geartrain.zoo._descent import down_a_parabola, motion_truths
from geartrain.zoo._losses import half_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOMENTS = (
    "E[(XᵀX/N)²] = (N + d + 1)/N for Gaussian X (Wishart moments); Zhang et al. 2023, arXiv 2306.09927."
)
_LAYER = "ŷ is linear in Γ with derivative x_q ⊗ z."


class LinearAttention(nn.Module):
    """x_qᵀ Γ (1/N) Σ y_i x_i, for prompts whose last row is the query (the query's own answer is not read)."""

    def __init__(self, gamma: np.ndarray) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.from_numpy(gamma))

    def forward(self, prompts: Tensor) -> Tensor:
        """Answers (examples, 1) to prompts (examples, N + 1, d + 1)."""
        keys, values, query = prompts[:, :-1, :-1], prompts[:, :-1, -1], prompts[:, -1, :-1]
        scores = torch.einsum("bi,ij,bnj->bn", query, self.gamma, keys)
        return (scores * values).mean(1, keepdim=True)


@dataclass(frozen=True)
class LinearIcl(Toy):
    """Linear regression in the prompt by one layer of linear attention.

    Attributes:
        d: Dimension of the x's.
        context: N, pairs that a prompt shows.
        step: η.
        prompts: Prompts that the instruments see.
        samples: Prompts that the trials draw.
    """

    title: ClassVar[str] = "Linear regression in context"
    ledger: ClassVar[tuple[str, ...]] = ("2.5", "4.6")

    d: int = 3
    context: int = 10
    step: float = 0.5
    prompts: int = 80
    samples: int = 20_000

    def __post_init__(self) -> None:
        if not 1 <= self.d <= 10 or self.context < 1:
            raise InputError(
                f"d is {self.d}, context {self.context}; allowed: d from 1 to 10, context 1 or more."
            )
        if not 4 <= self.prompts <= 100 or self.samples < 100:
            raise InputError(
                f"prompts is {self.prompts}, samples {self.samples}; allowed: 4 to 100 prompts, 100 samples or more."
            )
        if not self.step > 0:
            raise InputError(f"step is {self.step}; allowed: above 0. A step of 0 answers nothing.")

    # ------------------------------------------------------------------ how it is made

    def draws(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts (count, N + 1, d + 1), answers (count, 1) and the weights behind them (count, d)."""
        x = torch.randn(count, self.context + 1, self.d, generator=generator, dtype=torch.float64)
        w = torch.randn(count, self.d, generator=generator, dtype=torch.float64)
        y = torch.einsum("bnd,bd->bn", x, w)
        shown = torch.cat([y[:, :-1], torch.zeros(count, 1, dtype=torch.float64)], dim=1)
        return torch.cat([x, shown[..., None]], dim=2), y[:, -1:], w

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """The fixed prompts that the instruments see, and their answers."""
        return self.draws(self.prompts, self.generator())[:2]

    def layer(self) -> LinearAttention:
        """The layer with Γ = η·1, set by hand."""
        return LinearAttention(self.step * np.eye(self.d))

    def make_objective(self) -> Objective:
        """½ mean (ŷ - y)² over the prompts, at Γ = η·1."""
        return Objective(self.layer(), half_square, self.data)

    def make_run(self) -> Run:
        """Full-batch gradient descent on Γ; an epoch is a step."""
        model = self.layer()
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate)
        return Run(
            model, half_square, optimizer, self.data, epochs=100, batch_size=self.prompts, shuffle=False
        )

    # ------------------------------------------------------------------ what is known

    @property
    def best_step(self) -> float:
        """η* = N/(N + d + 1)."""
        return self.context / (self.context + self.d + 1)

    def error(self, step: float) -> float:
        """Mean squared error of the implied weights over all prompts.

        >>> toy = LinearIcl(d=10, context=20)
        >>> round(toy.error(toy.best_step), 5)
        3.54839
        """
        return self.d * (1 - 2 * step + step**2 / self.best_step)

    @cached_property
    def derivatives(self) -> np.ndarray:
        """x_q ⊗ z for the fixed prompts, shape (prompts, d²)."""
        prompts = self.data[0].numpy()
        z = np.einsum("bn,bnj->bj", prompts[:, :-1, -1], prompts[:, :-1, :-1]) / self.context
        return np.einsum("bi,bj->bij", prompts[:, -1, :-1], z).reshape(self.prompts, -1)

    @cached_property
    def hessian(self) -> np.ndarray:
        """Mean of (x_q ⊗ z)(x_q ⊗ z)ᵀ over the fixed prompts."""
        return self.derivatives.T @ self.derivatives / self.prompts

    @property
    def rate(self) -> float:
        """Learning rate of the run: 0.5/λmax."""
        return 0.5 / float(np.linalg.eigvalsh(self.hessian)[-1])

    def truths(self) -> dict[str, Truth]:
        """Errors over all prompts; the layer on the fixed ones."""
        d, eta, phi = self.d, self.step, self.derivatives
        y, gamma = self.data[1].numpy()[:, 0], self.step * np.eye(self.d).ravel()
        f = phi @ gamma
        residual, layers = f - y, [d * d]
        gradient, loss = phi.T @ residual / len(phi), 0.5 * float((residual**2).mean())
        truths = {
            "error": Truth(self.error(eta), source=_MOMENTS, trial=self._gradient_step(eta)),
            "error_at_best_step": Truth(
                d * (d + 1) / (self.context + d + 1),
                source=_MOMENTS,
                trial=self._gradient_step(self.best_step),
            ),
            "error_of_least_squares": Truth(
                float(max(d - self.context, 0)),
                source="w outside the span of N vectors.",
                trial=self._regression,
            ),
            "mean_curvature": Truth(1 / self.best_step, source=_MOMENTS, trial=self._mean_curvature),
            "attention_is_the_step": Truth(
                0.0, 1e-12, source="Definition of the layer.", trial=self._both_answers
            ),
            "weight_norm": Truth(np.array([eta * math.sqrt(d)]), source="Γ = η·1."),
            "weight_rank": Truth(np.array([float(d)]), source="Γ = η·1 has equal singular values."),
            "target_scale": Truth(float(max(y.std(), abs(y.mean()))), source="Definition."),
            "constant_loss": Truth(0.5 * float(y.var()), 1e-5, source="Variance of the answers."),
            "example_losses": Truth(0.5 * residual**2, source="Definition.", strict=True),
            "loss_slice": _matrices.parabola(loss, gradient, self.hessian, np.ones(d * d)),
            **_matrices.curvature_truths(self.hessian, gradient, loss=loss, layers=layers, source=_LAYER),
            **_matrices.example_truths(residual[:, None] * phi, self.hessian, layers=layers, source=_LAYER),
            **_matrices.kernel_truths(phi[:, None], y[:, None], source=_LAYER),
            **_matrices.linear_pair_truths(gamma, np.zeros(d * d), _silent),
            "function_distance": Truth(math.sqrt(2.0), source="‖f - 0‖/√(½‖f‖²).", other=_silent),
            "prediction_disagreement": Truth(
                float((f**2).mean() / y.var()), source="Definition.", other=_silent, strict=True
            ),
        }
        return truths | self._motion(gamma, y)

    def _motion(self, gamma: np.ndarray, y: np.ndarray) -> dict[str, Truth]:
        """Gradient descent on a parabola, step by step."""
        best = np.linalg.lstsq(self.derivatives, y, rcond=None)[0]
        floor = 0.5 * float(((self.derivatives @ best - y) ** 2).mean())
        path = down_a_parabola(self.hessian, gamma - best, self.rate, best, floor)
        return motion_truths(path, self.prompts)

    def _gradient_step(self, eta: float) -> Trial:
        """Squared error of the weights that one step on the prompt gives, over random prompts."""

        def trial(generator: torch.Generator) -> Measurement:
            prompts, _, w = self.draws(self.samples, generator)
            implied = (
                eta * torch.einsum("bn,bnd->bd", prompts[:, :-1, -1], prompts[:, :-1, :-1]) / self.context
            )
            errors = (w - implied).square().sum(1).numpy()
            return trial_result("error", errors.mean(), errors.std(ddof=1) / math.sqrt(len(errors)))

        return trial

    def _regression(self, generator: torch.Generator) -> Measurement:
        """The same with least squares (of least norm) in place of the step."""
        prompts, _, w = self.draws(2000, generator)
        found = torch.linalg.pinv(prompts[:, :-1, :-1]) @ prompts[:, :-1, -1:]
        errors = (w - found[..., 0]).square().sum(1).numpy()
        spread = float(errors.std(ddof=1)) / math.sqrt(len(errors))
        return trial_result("error", errors.mean(), spread if self.context < self.d else 0.0)

    def _mean_curvature(self, generator: torch.Generator) -> Measurement:
        """Mean eigenvalue of the Hessian over random prompts: ‖x_q‖²‖z‖²/d²."""
        prompts = self.draws(self.samples, generator)[0]
        z = torch.einsum("bn,bnd->bd", prompts[:, :-1, -1], prompts[:, :-1, :-1]) / self.context
        sizes = (prompts[:, -1, :-1].square().sum(1) * z.square().sum(1)).numpy() / self.d**2
        return trial_result("mean_curvature", sizes.mean(), sizes.std(ddof=1) / math.sqrt(len(sizes)))

    def _both_answers(self, generator: torch.Generator) -> Measurement:
        """Largest difference between the layer and a step of automatic differentiation on the prompt's own loss."""
        prompts, _, _ = self.draws(50, generator)
        x, y, query = prompts[:, :-1, :-1], prompts[:, :-1, -1], prompts[:, -1, :-1]
        w = torch.zeros(50, self.d, dtype=torch.float64, requires_grad=True)
        loss = 0.5 * (torch.einsum("bnd,bd->bn", x, w) - y).square().mean(1).sum()
        (slope,) = torch.autograd.grad(loss, w)
        with torch.no_grad():
            gap = self.layer()(prompts)[:, 0] - (query * -self.step * slope).sum(1)
        return trial_result("difference", float(gap.abs().max()))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Error against the step, theory and random prompts."""
        axes = figure.add_subplot()
        eta = np.linspace(0, 2 * self.best_step, 61)
        axes.plot(eta, [self.error(float(e)) for e in eta], label="theory")
        source = self.generator()
        found = [float(self._gradient_step(float(e))(source)) for e in eta[::10]]
        axes.plot(eta[::10], found, "o", label=f"{self.samples:,} random prompts")
        axes.axvline(self.best_step, color="0.6", ls=":", label="η* = N/(N + d + 1)")
        axes.plot(self.step, self.error(self.step), "o", color="C3", label="measured here")
        axes.set(xlabel="step η", ylabel="squared error of the implied weights", ylim=(0, None))
        axes.set_title(f"{self.title}: d = {self.d}, N = {self.context}")
        axes.legend()


def _silent(toy: LinearIcl) -> Tensor:
    return torch.zeros(toy.d**2, dtype=torch.float64)


TOY = LinearIcl
