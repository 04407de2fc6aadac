r"""A linear teacher and a student too narrow for it: what cannot be learnt, and that nothing else goes wrong.

The teacher is a linear map $M = \sum_{i\le k} s_i u_i v_i^\top$ of rank $k$; the student $W_2W_1$ has $h$ hidden
units, hence rank at most $h$. On white inputs the loss is $\tfrac12\lVert M - W_2W_1\rVert_F^2$. By Eckart and
Young the best the student can do is the teacher's first $h$ components, and the rest is lost:

$$L^* = \tfrac12\sum_{i > h} s_i^2, \qquad W_2W_1 = \sum_{i\le h} s_i u_i v_i^\top.$$

A student with $h \ge k$ reaches 0. Although the loss is not convex, every minimum is global (Baldi, Hornik 1989),
so training from almost any start ends at this floor: a loss that stays above it is a fault of training, one at the
floor a lack of capacity.

**On the way.** The instruments look at a student that has learnt a fraction $\pi$ of each of its components, in
balance: $W_1$ has rows $\sqrt{\pi s_i}\,v_i^\top$, $W_2$ columns $\sqrt{\pi s_i}\,u_i$. Its loss is
$\tfrac12(1-\pi)^2\sum_{i\le h}s_i^2 + L^*$, and from there on component $i$ follows its own equation: in continuous
time $\dot a = 2a(s_i - a)$ for its strength $a$, which has the logistic solution
$a(t) = s_i/(1 + (1/\pi - 1)e^{-2s_it})$. Strong components are learnt first.

**What to vary.** `hidden` from 1 to beyond the teacher's rank, `progress` (near 0 the plateau, 1 the floor),
`strengths`.

Sources: Eckart, Young 1936; Baldi, Hornik 1989 (Neural Networks 2:53); Saxe, McClelland, Ganguli 2014, arXiv
1312.6120.
Ledger: 0.19, 3.18.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._chain import LinearChain, chain_truths, pair_truths
from geartrain.zoo._descent import STEPS, Path, motion_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_YOUNG = "Eckart, Young 1936; no bad minima: Baldi, Hornik 1989."
_LOGISTIC = "da/dt = 2a(s - a); Saxe et al. 2014, arXiv 1312.6120."
_TIME = 0.4
"""At which the trial compares strengths, in units of time of the gradient flow."""


@dataclass(frozen=True)
class LinearTeacherStudent(Toy):
    """A teacher of rank k and a linear student with h hidden units, on its way.

    Attributes:
        strengths: Singular values of the teacher, the largest first.
        dimension: Of inputs and outputs.
        hidden: Width h of the student.
        progress: Fraction π of its components that the student has learnt.
    """

    title: ClassVar[str] = "A linear teacher and a narrow student"
    ledger: ClassVar[tuple[str, ...]] = ("0.19", "3.18")

    strengths: tuple[float, ...] = (3.0, 2.0, 1.2, 0.7)
    dimension: int = 6
    hidden: int = 2
    progress: float = 0.3

    def __post_init__(self) -> None:
        rising = any(b >= a for a, b in zip(self.strengths, self.strengths[1:], strict=False))
        if not self.strengths or min(self.strengths) <= 0 or rising:
            raise InputError(
                f"strengths are {self.strengths}; allowed: positive numbers, the largest first, no two equal."
            )
        if not len(self.strengths) <= self.dimension <= 12 or not 1 <= self.hidden <= len(self.strengths):
            raise InputError(
                f"dimension is {self.dimension}, hidden {self.hidden}; allowed: a dimension from {len(self.strengths)} "
                f"to 12, and 1 to {len(self.strengths)} hidden units."
            )
        if not 0.01 <= self.progress < 1:
            raise InputError(f"progress is {self.progress}; allowed: 0.01 to below 1.")

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def bases(self) -> tuple[np.ndarray, np.ndarray]:
        """The u's and the v's as columns, shape (dimension, k)."""
        shape, source = (self.dimension, len(self.strengths)), self.generator()
        draws = [torch.randn(*shape, generator=source, dtype=torch.float64).numpy() for _ in range(2)]
        return np.linalg.qr(draws[0])[0], np.linalg.qr(draws[1])[0]

    @property
    def teacher(self) -> np.ndarray:
        """M, shape (dimension, dimension)."""
        u, v = self.bases
        return u @ np.diag(self.strengths) @ v.T

    def student(self, progress: float) -> LinearChain:
        """The student that has learnt that fraction, on white data: ±√m times two orthonormal bases."""
        (u, v), h, m = self.bases, self.hidden, self.dimension
        root = np.sqrt(progress * np.array(self.strengths[:h]))
        turned = np.linalg.qr(np.cos(np.outer(np.arange(1, m + 1), np.arange(m) + 0.5)))[0]
        x = np.sqrt(m) * np.concatenate([np.eye(m), -np.eye(m), turned, -turned])
        return LinearChain(x, x @ self.teacher.T, (root[:, None] * v[:, :h].T, u[:, :h] * root))

    @cached_property
    def now(self) -> LinearChain:
        """The student at its progress."""
        return self.student(self.progress)

    def make_objective(self) -> Objective:
        """½ mean ‖W₂W₁x - Mx‖²."""
        return self.now.objective()

    def make_run(self) -> Run:
        """Full-batch gradient descent; an epoch is a step."""
        return self.now.run(self.rate, 300)

    # ------------------------------------------------------------------ what is known

    @property
    def floor(self) -> float:
        """L* = ½ Σ_{i>h} s_i².

        >>> LinearTeacherStudent(strengths=(3.0, 2.0, 1.0), hidden=1).floor
        2.5
        """
        return 0.5 * sum(s**2 for s in self.strengths[self.hidden :])

    @property
    def loss(self) -> float:
        """½ (1 - π)² Σ_{i≤h} s_i² + L*."""
        return 0.5 * (1 - self.progress) ** 2 * sum(s**2 for s in self.strengths[: self.hidden]) + self.floor

    def strengths_after(self, time: float) -> np.ndarray:
        """Learnt strength of each component after some time of gradient flow."""
        s = np.array(self.strengths[: self.hidden])
        return s / (1 + (1 / self.progress - 1) * np.exp(-2 * s * time))

    @property
    def rate(self) -> float:
        """Learning rate of the run: 0.1 over the largest curvature."""
        return 0.1 / float(np.abs(np.linalg.eigvalsh(self.now.hessian)).max())

    def truths(self) -> dict[str, Truth]:
        """The floor, the way to it, and every instrument on the student."""
        (u, v), h = self.bases, self.hidden
        best = u[:, :h] @ np.diag(self.strengths[:h]) @ v[:, :h].T
        return {
            **chain_truths(self.now),
            **pair_truths(self.now, self.student(1.0), _finished),
            **motion_truths(self._path(), len(self.now.inputs)),
            "loss": Truth(self.loss, 1e-9, source="Components are orthogonal.", trial=self._loss_now),
            "floor": Truth(np.array(self.floor), 1e-6, "From random starts.", _YOUNG, trial=self._train),
            "best_student": Truth(best, 1e-4, "From random starts.", _YOUNG, trial=self._train_map),
            "learnt_strengths": Truth(
                self.strengths_after(_TIME), 1e-6, "Gradient flow.", _LOGISTIC, trial=self._flow
            ),
        }

    def _path(self) -> Path:
        """Gradient descent followed by hand."""
        chain, points, slopes, losses = self.now, [], [], []
        for _ in range(STEPS + 1):
            slopes.append(chain.rows.mean(0))
            losses.append(chain.loss)
            points.append(np.concatenate([w.ravel() for w in chain.weights]))
            chain = self._at(points[-1] - self.rate * slopes[-1])
        return Path(
            np.array(points), np.array(slopes), np.array(losses), self.now.hessian, self.rate, self.now.sizes
        )

    def _at(self, flat: np.ndarray) -> LinearChain:
        """The student at any parameters."""
        return replace(self.now, weights=self.layers(flat))

    def layers(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """W₁ and W₂ of flat parameters."""
        h, m = self.hidden, self.dimension
        return flat[: h * m].reshape(h, m), flat[h * m :].reshape(m, h)

    def slope(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """½‖M - W₂W₁‖² and its gradient."""
        first, second = self.layers(flat)
        gap = second @ first - self.teacher
        gradient = np.concatenate([(second.T @ gap).ravel(), (gap @ first.T).ravel()])
        return 0.5 * float((gap**2).sum()), gradient

    # ------------------------------------------------------------------ experiments

    def trained(self, generator: torch.Generator) -> tuple[float, np.ndarray]:
        """Loss and map after quasi-Newton training from the worst of five random starts."""
        worst, found = -1.0, np.zeros((0, 0))
        for _ in range(5):
            start = torch.randn(2 * self.hidden * self.dimension, generator=generator, dtype=torch.float64)
            end = minimize(self.slope, 0.3 * start.numpy(), jac=True, method="BFGS", options={"gtol": 1e-8})
            if float(end.fun) > worst:
                first, second = self.layers(np.asarray(end.x))
                worst, found = float(end.fun), second @ first
        return worst, found

    def _train(self, generator: torch.Generator) -> Measurement:
        return trial_result("floor", self.trained(generator)[0])

    def _train_map(self, generator: torch.Generator) -> Measurement:
        return trial_result("best_student", self.trained(generator)[1])

    def _loss_now(self, generator: torch.Generator) -> Measurement:
        return trial_result("loss", float(self.objective.value()))

    def _flow(self, generator: torch.Generator) -> Measurement:
        """Strengths uᵀW₂W₁v after integrating the gradient flow of all weights."""
        start = np.concatenate([w.ravel() for w in self.now.weights])
        end = solve_ivp(lambda t, w: -self.slope(w)[1], (0, _TIME), start, rtol=1e-10, atol=1e-12)
        first, second = self.layers(end.y[:, -1])
        u, v = self.bases
        return trial_result("learnt_strengths", np.diag(u.T @ second @ first @ v)[: self.hidden].copy())

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Loss of gradient descent for students of all widths, and their floors."""
        axes = figure.add_subplot()
        for hidden in range(1, len(self.strengths) + 1):
            toy = replace(self, hidden=hidden)
            start = torch.randn(2 * hidden * self.dimension, generator=self.generator(), dtype=torch.float64)
            place, losses = 0.05 * start.numpy(), []
            for _ in range(400):
                loss, slope = toy.slope(place)
                losses.append(loss)
                place = place - 0.05 * slope
            (line,) = axes.plot(losses, label=f"h = {hidden}")
            axes.axhline(toy.floor, color=line.get_color(), ls=":", lw=1)
        axes.set(xlabel="steps of gradient descent", ylabel="loss (ℓ)", title=f"{self.title}; dotted: floors")
        axes.legend()


def _finished(toy: LinearTeacherStudent) -> Objective:
    return toy.student(1.0).objective()


TOY = LinearTeacherStudent
