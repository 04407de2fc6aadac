r"""A bandit with a softmax policy: what a trust region is, in closed form.

$K$ arms with rewards $r$, a policy $\pi = \mathrm{softmax}(\theta)$, the return $J = \pi\cdot r$. Reinforcement
learning without states: the one setting in which plain gradient, natural gradient and KL step are all short
formulas.

**Plain gradient.** With advantages $A = r - J$: $\partial J/\partial\theta_i = \pi_i A_i$. An arm that is
hardly ever chosen hardly learns, however good it is: the policy's own probabilities are the learning rates. The
Hessian of the loss $-J$ is $-\delta_{ij}\pi_iA_i + \pi_i\pi_j(A_i+A_j)$: indefinite, and zero along
$(1,\dots,1)$, as adding a constant to all $\theta$ changes nothing. Near a sure policy everything vanishes: a
plateau.

**Natural gradient.** The Fisher matrix is $F = \mathrm{diag}\,\pi - \pi\pi^\top$, and $F A = \pi\circ A$: the
natural gradient is the vector of advantages itself (up to a constant). Probabilities have dropped out.

**A step in KL.** $\theta\to\theta+\beta A$ gives $\pi' \propto \pi e^{\beta A}$, and since $\pi\cdot A = 0$

$$KL(\pi\,\Vert\,\pi') = \ln E_\pi[e^{\beta A}]
= \tfrac12\beta^2\,\mathrm{Var}_\pi(r) + \tfrac16\beta^3\kappa_3 + \dots$$

A trust region of radius δ takes $\beta = \sqrt{2\delta/\mathrm{Var}_\pi(r)}$. What it really moves is
$\delta\,(1 + \tfrac{\sqrt2}{3}\,\mathrm{skew}\,\sqrt\delta + \dots)$, skew that of the rewards under $\pi$: the
promise is kept to order $\sqrt\delta$, and the *sign* of the error is known.

**The objective** is $-J$ over a few noisy tables of rewards, in pairs whose noise cancels, so that its mean is
exact while the single gradients scatter.

**What to vary.** `arms`, `spread` of the rewards, `sureness` (size of the logits: towards the plateau),
`noise`, `radius`.

Sources: Kakade 2001 (NIPS 14); Schulman et al. 2015, arXiv 1502.05477.
Ledger: 0.20.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._descent import STEPS, Path, motion_truths
from geartrain.zoo._linear import linear
from geartrain.zoo._matrices import curvature_truths, example_truths, kernel_truths
from geartrain.zoo._regression import normal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLES = 8
"""Tables of rewards that make up the data."""
_SOURCE = "Derivatives of softmax(θ)·r; Kakade 2001."


@dataclass(frozen=True)
class SoftmaxBandit(Toy):
    """The negative return of a softmax policy over a few arms.

    Attributes:
        arms: Their number K.
        spread: Standard deviation of the rewards over arms.
        sureness: Standard deviation of the logits θ.
        noise: Of a single table's rewards.
        radius: δ of the trust region, in nats.
        step: Of plain gradient descent.
    """

    title: ClassVar[str] = "Softmax bandit"
    ledger: ClassVar[tuple[str, ...]] = ("0.20",)

    arms: int = 6
    spread: float = 1.0
    sureness: float = 1.0
    noise: float = 0.3
    radius: float = 1e-3
    step: float = 0.5

    def __post_init__(self) -> None:
        if not 2 <= self.arms <= 100:
            raise InputError(f"arms is {self.arms}; allowed: 2 to 100.")
        if not 0 < self.spread <= 100 or not 0 <= self.sureness <= 5 or not 0 < self.noise <= 100:
            raise InputError(
                f"spread is {self.spread}, sureness {self.sureness}, noise {self.noise}; allowed: above 0 and "
                "up to 100; sureness from 0 to 5."
            )
        if not 0 < self.radius <= 0.1 or not 0 < self.step <= 10:
            raise InputError(
                f"radius is {self.radius}, step {self.step}; allowed: above 0, up to 0.1 and 10."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def tables(self) -> np.ndarray:
        """Noisy rewards, shape (8, K); the noise cancels in pairs."""
        generator = self.generator()
        mean = self.spread * normal(generator, self.arms)
        noise = self.noise * normal(generator, TABLES // 2, self.arms)
        return mean + np.concatenate([noise, -noise])

    @cached_property
    def rewards(self) -> np.ndarray:
        """R, the mean of the tables, shape (K,)."""
        return self.tables.mean(0)

    @cached_property
    def logits(self) -> np.ndarray:
        """Present θ, shape (K,)."""
        return self.sureness * normal(torch.Generator().manual_seed(self.seed + 11), self.arms)

    def data(self) -> tuple[Tensor, Tensor]:
        """A constant input and a table, eight times."""
        return torch.ones(TABLES, 1, dtype=torch.float64), torch.from_numpy(self.tables)

    def make_objective(self) -> Objective:
        """The negative return, as a linear layer that turns the constant 1 into the logits."""
        return Objective(linear(self.logits[:, None]), negative_return, self.data())

    def make_run(self) -> Run:
        """Plain gradient descent on it."""
        model = linear(self.logits[:, None])
        optimizer = torch.optim.SGD(model.parameters(), lr=self.step)
        return Run(
            model, negative_return, optimizer, self.data(), epochs=200, batch_size=TABLES, shuffle=False
        )

    # ------------------------------------------------------------------ what is known

    def policy(self, logits: np.ndarray | None = None) -> np.ndarray:
        """The π of these logits, or of the present ones."""
        return softmax(self.logits if logits is None else logits)

    def advantages(self, logits: np.ndarray | None = None) -> np.ndarray:
        """A = r - π·r."""
        return self.rewards - float(self.policy(logits) @ self.rewards)

    def slope(self, logits: np.ndarray) -> np.ndarray:
        """Gradient of the loss -J."""
        return -self.policy(logits) * self.advantages(logits)

    @property
    def hessian(self) -> np.ndarray:
        """Of the loss -J."""
        p, a = self.policy(), self.advantages()
        return np.outer(p, p) * (a[:, None] + a[None, :]) - np.diag(p * a)

    def moment(self, order: int) -> float:
        """Central moment of the rewards under π."""
        return float(self.policy() @ self.advantages() ** order)

    def stride(self, radius: float) -> float:
        """β of the trust region."""
        return math.sqrt(2 * radius / self.moment(2))

    def divergence(self, stride: float) -> float:
        """KL(π‖π') of a natural step, in closed form."""
        return math.log(float(self.policy() @ np.exp(stride * self.advantages())))

    @property
    def skew(self) -> float:
        """Skewness of the rewards under π."""
        return self.moment(3) / self.moment(2) ** 1.5

    def path(self) -> Path:
        """The first steps of plain gradient descent, by hand."""
        points = [self.logits]
        for _ in range(STEPS):
            points.append(points[-1] - self.step * self.slope(points[-1]))
        slopes = np.array([self.slope(t) for t in points])
        losses = np.array([-float(self.policy(t) @ self.rewards) for t in points])
        return Path(np.array(points), slopes, losses, self.hessian, self.step)

    def truths(self) -> dict[str, Truth]:
        """Gradient, curvature and noise of the return; natural gradient and trust region."""
        p, tables = self.policy(), self.tables
        rows = -p * (tables - tables @ p[:, None])
        how: dict[str, Any] = {"layers": (self.arms,), "source": _SOURCE}
        truths = curvature_truths(self.hessian, rows.mean(0), **how) | example_truths(
            rows, self.hessian, **how
        )
        truths |= kernel_truths(np.tile(np.eye(self.arms), (TABLES, 1, 1)), source=_SOURCE)
        truths |= motion_truths(self.path(), TABLES)
        known = partial(Truth, source="θ → θ + βA gives π' ∝ π e^(βA) (textbook; Kakade 2001).")
        beta = self.stride(self.radius)
        direction = np.cos(1.0 + np.arange(self.arms))
        slice_ = [
            -float(self.policy(self.logits + t * direction) @ self.rewards) for t in np.linspace(-1, 1, 11)
        ]
        along: dict[str, Any] = {"direction": torch.from_numpy(direction), "points": 11}
        return truths | {
            "example_losses": Truth(-tables @ p, source=_SOURCE),
            "weight_norm": Truth(np.array([np.linalg.norm(self.logits)]), source="Definition."),
            "loss_slice": Truth(
                np.array(slice_) + float(p @ self.rewards),
                reading="rise",
                error="none",
                options=along,
                source=_SOURCE,
            ),
            "distance_from_init": known(
                float(beta * np.linalg.norm(self.advantages())), other=_after_a_natural_step
            ),
            "natural_gradient": known(
                self.advantages() - self.advantages().mean(), 1e-11, trial=self._solve_with_fisher
            ),
            "policy_gradient": known(p * self.advantages(), 1e-9, trial=self._reinforce),
            "realised_kl": known(self.divergence(beta), 1e-8, trial=self._take_the_step),
            "kl_excess": known(
                math.sqrt(2) / 3 * self.skew,
                5e-3,
                assumptions="Radius → 0: (KL/δ - 1)/√δ, extrapolated from δ = 1e-6 and 4e-6.",
                trial=self._excess,
            ),
        }

    def kl(self, logits: np.ndarray) -> float:
        """KL(π‖π') summed arm by arm, to full relative precision: -Σ π (ln(1+u) - u) with u = π'/π - 1."""
        p = self.policy()
        u = np.expm1(logits - self.logits - math.log(float(p @ np.exp(logits - self.logits))))
        return float(-(p * (np.log1p(u) - u)).sum() - p @ u)

    def _solve_with_fisher(self, generator: torch.Generator) -> Measurement:
        """F from the scores of all arms, then the least-norm solution of F v = ∇J."""
        p = self.policy()
        scores = np.eye(self.arms) - p
        fisher = scores.T @ (p[:, None] * scores)
        found = np.linalg.lstsq(fisher, -self.slope(self.logits), rcond=1e-13)[0]
        return trial_result("natural_gradient", found)

    def _reinforce(self, generator: torch.Generator) -> Measurement:
        """Mean of reward times score over sampled arms."""
        p = self.policy()
        chosen = torch.multinomial(
            torch.from_numpy(p), 100_000, replacement=True, generator=generator
        ).numpy()
        samples = self.rewards[chosen, None] * (np.eye(self.arms)[chosen] - p)
        return trial_result("policy_gradient", samples.mean(0), samples.std(0) / math.sqrt(len(samples)))

    def _take_the_step(self, generator: torch.Generator) -> Measurement:
        after = self.logits + self.stride(self.radius) * self.advantages()
        return trial_result("realised_kl", self.kl(after), unit="1")

    def _excess(self, generator: torch.Generator) -> Measurement:
        """Excess of the realised KL, its next order taken off by comparing two radii."""
        found = []
        for radius in (1e-6, 4e-6):
            after = self.logits + self.stride(radius) * self.advantages()
            found.append((self.kl(after) / radius - 1) / math.sqrt(radius))
        return trial_result("kl_excess", 2 * found[0] - found[1])

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Policies after a plain and a natural step; KL asked for and KL moved."""
        left, right = figure.subplots(1, 2)
        place, beta = np.arange(self.arms), self.stride(0.1)
        natural = self.policy(self.logits + beta * self.advantages())
        plain = self.policy(self.logits - self.step * self.slope(self.logits))
        for shift, (label, p) in enumerate(
            {"now": self.policy(), "plain": plain, "natural": natural}.items()
        ):
            left.bar(place + 0.27 * (shift - 1), p, 0.25, label=label)
        left.set(xlabel="arm", ylabel="probability", title=self.title)
        left.legend()
        radii = np.geomspace(1e-6, 1, 60)
        right.semilogx(radii, [self.divergence(self.stride(r)) / r for r in radii], label="exact")
        right.semilogx(radii, 1 + math.sqrt(2) / 3 * self.skew * np.sqrt(radii), "--", label="to order √δ")
        right.set(xlabel="radius δ (nats)", ylabel="realised KL / δ")
        right.legend()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities."""
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def negative_return(outputs: Tensor, targets: Tensor) -> Tensor:
    """-π·r, mean over tables."""
    return -(outputs.softmax(1) * targets).sum(1).mean()


def _after_a_natural_step(toy: SoftmaxBandit) -> Tensor:
    return torch.from_numpy(toy.logits + toy.stride(toy.radius) * toy.advantages())


TOY = SoftmaxBandit
