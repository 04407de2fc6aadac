r"""Predictive coding: backpropagation by settling.

A linear chain of layers in which every activity $x_l$ is free to move. The *energy* is the squared surprise of each
layer at what the one below predicts,

$$F = \tfrac12 \sum_{l=1}^{L} \lVert x_l - W_l x_{l-1} \rVert^2,$$

with the input $x_0$ clamped and the output held at $x_L = y$. The hidden activities relax to the minimum; then each
weight takes a local, Hebbian step $\varepsilon_l x_{l-1}^\top$ along the surprise $\varepsilon_l = x_l - W_l x_{l-1}$
of its own layer. Nothing travels backwards. Is it backpropagation?

**The minimum in closed form.** Let $r = y - W_L\cdots W_1 x_0$ be the error of the plain forward pass and
$B_l = W_L\cdots W_l$. Surprises add up along the chain, $\sum_l B_{l+1}\varepsilon_l = r$ with $B_{L+1} = 1$, and the
energy is their squared length. The shortest set of surprises that adds up to $r$ is

$$\varepsilon_l = B_{l+1}^\top S^{-1} r, \qquad S = 1 + \sum_{l=2}^{L} B_l B_l^\top, \qquad
F^* = \tfrac12\, r^\top S^{-1} r.$$

Backpropagation's errors are $B_{l+1}^\top r$: the same, but for $S^{-1}$.

**When is it the same?**

* *Soft clamp*: let $x_L$ move and pull it by $\tfrac\beta2\lVert y - x_L\rVert^2$. Then $S$ becomes $S + 1/\beta$,
  whose inverse is $\beta - \beta^2 S + \dots$: the update over $\beta$ tends to backpropagation, with an error of order
  $\beta$ in length and $\beta^2$ in 1 - cosine.
* *Hard clamp to a nudged target* $\hat y + \beta(y - \hat y)$: this only shrinks $r$. $S^{-1}$ stays for every
  $\beta$, and with more than one output it turns the direction.
* *Fixed predictions*: if all predictions $W_l x_{l-1}$ stay at the forward pass while only the surprises relax, then
  $\varepsilon_l = W_{l+1}^\top\varepsilon_{l+1}$, which is backpropagation itself.

**The instruments** see $F$ as a function of the hidden activities, starting at the forward pass: a parabola whose
Hessian has blocks $1 + W_{l+1}^\top W_{l+1}$ with $-W_{l+1}$ beside them. Settling is gradient descent on it, and its
condition number says how long that takes.

**What to vary.** `widths` (one output: hard and soft agree in direction), `gain` (large weights make $S$ far from 1
and settling slow), `beta`.

Sources: Innocenti et al. 2024, arXiv 2408.11979; Whittington, Bogacz 2017 (Neural Computation 29:1229); Millidge et
al. 2020, arXiv 2006.04182.
Ledger: 4.8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._descent import down_a_parabola, motion_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUADRATIC = "The energy is a quadratic form in the hidden activities."
_SETTLED = "Least squares with Σ B_{l+1} ε_l = r; Innocenti et al. 2024, arXiv 2408.11979."
_SLOPE = (1e-3, 1e-2)
"""Values of β between which the slope of the soft clamp's error is taken."""
_RISE = 0.5
"""Energy above rest at which the basin ends."""


class Activities(nn.Module):
    """The hidden activities as parameters; what it gives out is the energy of the whole chain."""

    def __init__(self, hidden: list[np.ndarray], weights: list[np.ndarray]) -> None:
        super().__init__()
        self.hidden = nn.ParameterList(nn.Parameter(torch.from_numpy(h.copy())) for h in hidden)
        for i, weight in enumerate(weights):
            self.register_buffer(f"weight{i}", torch.from_numpy(weight))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Energy for an input and an output, each of shape (1, width)."""
        chain = [x[0], *self.hidden, y[0]]
        surprises = [
            above - self.get_buffer(f"weight{i}") @ below for i, (below, above) in enumerate(pairwise(chain))
        ]
        return 0.5 * torch.stack([s.square().sum() for s in surprises]).sum()


def energy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss of a batch: what `Activities` gives out."""
    return model(*batch)


@dataclass(frozen=True)
class LinearPredictiveCoding(Toy):
    """A chain of linear layers whose activities settle.

    Attributes:
        widths: Of input, hidden layers and output; at least one hidden layer.
        gain: Weights are N(0, gain²/width below).
        beta: Nudge of the trials, between 0 and 1.
    """

    title: ClassVar[str] = "Linear predictive coding"
    ledger: ClassVar[tuple[str, ...]] = ("4.8",)

    widths: tuple[int, ...] = (4, 5, 6, 3)
    gain: float = 1.0
    beta: float = 1e-3

    def __post_init__(self) -> None:
        if len(self.widths) < 3 or min(self.widths) < 1 or sum(self.widths) > 200:
            raise InputError(
                f"widths is {self.widths}; allowed: three or more positive numbers, together at most 200."
            )
        if not self.gain > 0 or not 0 < self.beta < 1:
            raise InputError(
                f"gain is {self.gain}, beta {self.beta}; allowed: a gain above 0, beta between 0 and 1."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def parts(self) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Weights W_1 .. W_L, input, output."""
        source = self.generator()

        def normal(*shape: int) -> np.ndarray:
            return torch.randn(*shape, generator=source, dtype=torch.float64).numpy()

        weights = [self.gain * normal(b, a) / math.sqrt(a) for a, b in pairwise(self.widths)]
        return weights, normal(self.widths[0]), normal(self.widths[-1])

    @cached_property
    def forward_pass(self) -> list[np.ndarray]:
        """Activities of all layers, x_0 to ŷ, without any surprise."""
        weights, x, _ = self.parts
        chain = [x]
        for weight in weights:
            chain.append(weight @ chain[-1])
        return chain

    @property
    def residual(self) -> np.ndarray:
        """Error r = y - ŷ of the forward pass."""
        return self.parts[2] - self.forward_pass[-1]

    def split(self, flat: np.ndarray) -> list[np.ndarray]:
        """Hidden activities by layer."""
        return np.split(flat, np.cumsum(self.widths[1:-1])[:-1])

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """The one example: input and output."""
        _, x, y = self.parts
        return [(torch.from_numpy(x)[None], torch.from_numpy(y)[None])]

    def make_objective(self) -> Objective:
        """The energy as a function of the hidden activities, at the forward pass."""
        model = Activities(self.forward_pass[1:-1], self.parts[0])
        return Objective(model, batch_loss=energy, data=self.batches)

    def make_run(self) -> Run:
        """Settling: gradient descent on the activities; an epoch is a step."""
        model = Activities(self.forward_pass[1:-1], self.parts[0])
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate)
        return Run(model, optimizer=optimizer, train=self.batches, batch_loss=energy, epochs=100)

    # ------------------------------------------------------------------ what is known

    @cached_property
    def above(self) -> list[np.ndarray]:
        """B_{l+1} for l = 1 .. L: what a surprise at layer l does to the output. The last is the identity."""
        found = [np.eye(self.widths[-1])]
        for weight in self.parts[0][:0:-1]:
            found.append(found[-1] @ weight)
        return found[::-1]

    @cached_property
    def s(self) -> np.ndarray:
        """S = 1 + Σ_{l≥2} B_l B_lᵀ."""
        return np.sum([b @ b.T for b in self.above], axis=0)

    def back(self, error: np.ndarray) -> np.ndarray:
        """An error at the output sent back: B_{l+1}ᵀ e for all layers, one after another."""
        return np.concatenate([b.T @ error for b in self.above])

    @property
    def least_energy(self) -> float:
        """F* = ½ rᵀS⁻¹r."""
        return 0.5 * float(self.residual @ np.linalg.solve(self.s, self.residual))

    def error_of_soft(self, beta: float) -> float:
        """Relative distance of the soft clamp's update over β from backpropagation."""
        damped = np.linalg.solve(self.s + np.eye(self.widths[-1]) / beta, self.residual) / beta
        return self.distance(self.back(damped))

    def distance(self, surprises: np.ndarray) -> float:
        """Relative distance of surprises from the errors of backpropagation."""
        plain = self.back(self.residual)
        return float(np.linalg.norm(surprises - plain) / np.linalg.norm(plain))

    @cached_property
    def hessian(self) -> np.ndarray:
        """Block tridiagonal: 1 + WᵀW on the diagonal, -W beside it."""
        weights, widths = self.parts[0], self.widths[1:-1]
        ends = np.cumsum([0, *widths])
        matrix = np.eye(ends[-1])
        for i, (a, b) in enumerate(pairwise(ends)):
            matrix[a:b, a:b] += weights[i + 1].T @ weights[i + 1]
            if i + 1 < len(widths):
                c = ends[i + 2]
                matrix[b:c, a:b], matrix[a:b, b:c] = -weights[i + 1], -weights[i + 1].T
        return matrix

    @property
    def rate(self) -> float:
        """Step of settling: 0.5/λmax."""
        return 0.5 / float(np.linalg.eigvalsh(self.hessian)[-1])

    def truths(self) -> dict[str, Truth]:
        """Equilibrium, relation to backpropagation, and the parabola of settling."""
        return self._settling_truths() | self._energy_truths()

    def _settling_truths(self) -> dict[str, Truth]:
        at_rest = self.back(np.linalg.solve(self.s, self.residual))
        slope = math.log10(self.error_of_soft(_SLOPE[1]) / self.error_of_soft(_SLOPE[0]))
        return {
            "equilibrium_energy": Truth(self.least_energy, 1e-10, source=_SETTLED, trial=self._settle),
            "surprises": Truth(at_rest, 1e-10, source=_SETTLED, trial=self._surprises_at_rest),
            "hard_nudge_error": Truth(
                self.distance(at_rest), source="r is replaced by S⁻¹r for every β.", trial=self._hard_nudge
            ),
            "soft_nudge_slope": Truth(
                slope, source="(S + 1/β)⁻¹/β = 1 - βS + ...: slope 1 as β → 0.", trial=self._soft_nudge
            ),
            "fixed_prediction_error": Truth(
                0.0, 1e-10, source="Whittington, Bogacz 2017.", trial=self._fixed_predictions
            ),
        }

    def _energy_truths(self) -> dict[str, Truth]:
        hessian, r = self.hessian, self.residual
        start, n = np.concatenate(self.forward_pass[1:-1]), len(hessian)
        gradient = np.concatenate([np.zeros(n - self.widths[-2]), -self.parts[0][-1].T @ r])
        loss, gap = 0.5 * float(r @ r), np.linalg.solve(hessian, gradient)
        ball = n / 2 * math.log(math.pi) - float(gammaln(n / 2 + 1))
        truths = {
            "loss_slice": _matrices.parabola(loss, gradient, hessian, np.ones(n)),
            "linear_connectivity": Truth(0.0, 1e-9, source="The energy is convex.", other=_settled),
            "distance_from_init": Truth(float(np.linalg.norm(gap)), source="‖H⁻¹g‖.", other=_settled),
            "weight_norm.total": Truth(float(np.linalg.norm(start)), reading="total", source="Definition."),
            "basin_volume": Truth(
                ball + n / 2 * math.log(2 * _RISE) - 0.5 * float(np.linalg.slogdet(hessian)[1]),
                subject=_at_rest,
                options={"cutoff": self.least_energy + _RISE, "max_radius": 1e4},
                source="{½ aᵀHa < ε} is an ellipsoid of volume B_n (2ε)^(n/2) / √det H.",
            ),
            "gradient_noise_scale": Truth(float("nan"), source="One example has no noise."),
            "function_distance": Truth(float("nan"), source="The energy hides the outputs.", other=_settled),
            **_matrices.curvature_truths(hessian, gradient, loss=loss, source=_QUADRATIC),
            **motion_truths(down_a_parabola(hessian, gap, self.rate, start - gap, self.least_energy), 1),
        }
        if n <= 6:  # beyond, too few of the rays count
            truths["volume_scaling"] = Truth(
                n / 2,
                0.02,
                source="The volume of an ellipsoid {F - F* < ε} grows as ε^(n/2).",
                subject=_at_rest,
            )
        return truths

    # ------------------------------------------------------------------ experiments: solving for the activities

    def rest(self, target: np.ndarray | None = None) -> np.ndarray:
        """Hidden activities at equilibrium with the output held at y, or at another target; flat."""
        weights, x, y = self.parts
        pull = np.zeros(len(self.hessian))
        pull[: self.widths[1]] += weights[0] @ x
        pull[-self.widths[-2] :] += weights[-1].T @ (y if target is None else target)
        return np.linalg.solve(self.hessian, pull)

    def rest_softly(self, beta: float) -> tuple[np.ndarray, np.ndarray]:
        """Hidden activities and output at equilibrium with x_L free and the term (β/2)‖y - x_L‖²."""
        weights, x, y = self.parts
        n, m, last = len(self.hessian), self.widths[-1], self.widths[-2]
        matrix, pull = np.zeros((n + m, n + m)), np.zeros(n + m)
        matrix[:n, :n], matrix[n:, n:] = self.hessian, (1 + beta) * np.eye(m)
        matrix[n:, n - last : n], matrix[n - last : n, n:] = -weights[-1], -weights[-1].T
        pull[: self.widths[1]] += weights[0] @ x
        pull[n:] += beta * y
        found = np.linalg.solve(matrix, pull)
        return found[:n], found[n:]

    def surprises(self, hidden: np.ndarray, output: np.ndarray) -> np.ndarray:
        """Surprises x_l - W_l x_{l-1} of all layers, one after another."""
        weights, x, _ = self.parts
        chain = [x, *self.split(hidden), output]
        return np.concatenate([b - w @ a for w, (a, b) in zip(weights, pairwise(chain), strict=True)])

    def soft(self, beta: float) -> np.ndarray:
        """Surprises over β, softly clamped."""
        return self.surprises(*self.rest_softly(beta)) / beta

    def hard(self, beta: float) -> np.ndarray:
        """Surprises over β, the output clamped to ŷ + β(y - ŷ)."""
        nudged = self.forward_pass[-1] + beta * self.residual
        return self.surprises(self.rest(nudged), nudged) / beta

    def _settle(self, generator: torch.Generator) -> Measurement:
        return trial_result("equilibrium_energy", float(self.objective.value(torch.from_numpy(self.rest()))))

    def _surprises_at_rest(self, generator: torch.Generator) -> Measurement:
        return trial_result("surprises", self.surprises(self.rest(), self.parts[2]))

    def _hard_nudge(self, generator: torch.Generator) -> Measurement:
        return trial_result("hard_nudge_error", self.distance(self.hard(self.beta)))

    def _soft_nudge(self, generator: torch.Generator) -> Measurement:
        errors = [self.distance(self.soft(beta)) for beta in _SLOPE]
        return trial_result("soft_nudge_slope", math.log10(errors[1] / errors[0]))

    def _fixed_predictions(self, generator: torch.Generator) -> Measurement:
        """Relative distance of surprises relaxed with fixed predictions from the gradient of automatic differentiation.

        A hidden layer l feels its own surprise and, through W_{l+1}, that of the next: it rests where both cancel.
        """
        weights, x, y = self.parts
        found = [self.residual]
        for weight in weights[:0:-1]:
            surprise = np.zeros(weight.shape[1])
            for _ in range(200):
                surprise += 0.5 * (weight.T @ found[-1] - surprise)
            found.append(surprise)
        tensors = [torch.from_numpy(w.copy()).requires_grad_() for w in weights]
        out = torch.from_numpy(x)
        for tensor in tensors:
            out = tensor @ out
        (0.5 * (torch.from_numpy(y) - out).square().sum()).backward()
        updates = [np.outer(e, a) for e, a in zip(found[::-1], self.forward_pass, strict=False)]
        slopes = [np.zeros(0) if t.grad is None else t.grad.numpy() for t in tensors]
        gap = sum(float(((u + g) ** 2).sum()) for u, g in zip(updates, slopes, strict=True))
        return trial_result("gap", math.sqrt(gap / sum(float((g**2).sum()) for g in slopes)))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Relative error against backpropagation for both ways of nudging."""
        axes = figure.add_subplot()
        betas = np.logspace(-4, 0, 25)
        axes.loglog(betas, [self.error_of_soft(float(b)) for b in betas], label="soft clamp, theory")
        axes.loglog(
            betas, [self.distance(self.soft(float(b))) for b in betas], "o", label="soft clamp, settled"
        )
        hard = [self.distance(self.hard(float(b))) for b in betas]
        axes.loglog(betas, hard, "s", label="hard clamp to a nudged target")
        axes.set(xlabel="nudge β", ylabel="relative distance from backpropagation", title=self.title)
        axes.legend()


def _settled(toy: LinearPredictiveCoding) -> Tensor:
    return torch.from_numpy(toy.rest())


def _at_rest(toy: LinearPredictiveCoding) -> Objective:
    return toy.objective.of(Activities(toy.split(toy.rest()), toy.parts[0]))


TOY = LinearPredictiveCoding
