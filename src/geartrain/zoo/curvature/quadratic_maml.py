r"""Learning to learn on quadratics: what a gradient through a gradient step is.

Tasks $L_i(\theta) = \tfrac12(\theta-c_i)^\top A_i(\theta-c_i)$. A learner starts each task at $\theta$, takes one
step $\theta'_i = \theta - \alpha\nabla L_i(\theta)$ and is judged by $L_i(\theta'_i)$. MAML looks for the start from
which one step helps most, on the average of the tasks. On quadratics that can be solved.

**Derivation.** The step shrinks the gap, $\theta'_i - c_i = (I - \alpha A_i)(\theta - c_i)$, so that the meta-loss
is again a quadratic:

$$L(\theta) = \tfrac1T\sum_i\tfrac12(\theta-c_i)^\top M_i(\theta-c_i),\qquad M_i = (I-\alpha A_i)A_i(I-\alpha A_i),$$

with gradient $\overline{M_i(\theta - c_i)}$, Hessian $\overline{M_i}$, and optimum $(\sum M_i)^{-1}\sum M_i c_i$.
Each eigenvalue $\lambda$ of a task counts as $\lambda(1-\alpha\lambda)^2$: what one step solves anyway
($\alpha\lambda = 1$) no longer counts, and directions that are too flat to be learnt in one step count in full.

**The first-order variant** leaves out how $\theta'$ depends on $\theta$ beyond the identity: its gradient is
$\overline{A_i(I-\alpha A_i)(\theta-c_i)}$, one factor short. Its fixed point is the same formula with
$N_i = A_i(I-\alpha A_i)$. The two agree if all $A_i$ are equal, and differ otherwise; and where $\alpha\lambda > 1$,
$N_i$ is negative: the first-order variant climbs.

**What it tests.** The loss itself takes a gradient, so that its gradient is a second derivative and its Hessian a
third: every product goes through the step of an optimizer.

**What to vary.** `inner` ($\alpha$; 0 is the plain mean of the tasks), `spread` (0: all $A_i$ are equal), `tasks`,
`dimension`.

Sources: textbook; Finn, Abbeel, Levine 2017, arXiv 1703.03400 (MAML and its first-order variant).
Ledger: 4.7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._descent import down_a_parabola, motion_truths
from geartrain.zoo._matrices import curvature_truths, example_truths, parabola
from geartrain.zoo.curvature.quadratic import Halves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = "θ′-c = (I-αA)(θ-c), so M = (I-αA)A(I-αA) (textbook; Finn, Abbeel, Levine 2017, arXiv 1703.03400)."
_FLATTEST, _SHARPEST = 0.3, 1.5


@dataclass(frozen=True)
class QuadraticMaml(Toy):
    """The loss after one gradient step, averaged over quadratic tasks.

    Attributes:
        inner: Step size α within a task.
        tasks: How many.
        dimension: Number of parameters.
        spread: How much the curvatures differ between tasks: 0 not at all, 1 all by themselves.
        step: Step size of the outer descent, in units of one over the largest eigenvalue.
    """

    title: ClassVar[str] = "Learning to learn on quadratics"
    ledger: ClassVar[tuple[str, ...]] = ("4.7",)

    inner: float = 0.4
    tasks: int = 12
    dimension: int = 5
    spread: float = 1.0
    step: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.inner <= 0.6:
            raise InputError(
                f"inner is {self.inner}; allowed: 0 to 0.6. Near {1 / _SHARPEST:.2f} one step solves a direction of a "
                "task at once, and it drops out."
            )
        if not 2 <= self.dimension <= 50 or not 3 <= self.tasks <= 200:
            raise InputError(
                f"dimension is {self.dimension} and tasks {self.tasks}; allowed: 2 to 50 dimensions, 3 to 200 tasks."
            )
        if not 0 <= self.spread <= 1 or not 0 < self.step < 2:
            raise InputError(
                f"spread is {self.spread} and step {self.step}; allowed: a spread from 0 to 1, a step between 0 and 2."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def curvatures(self) -> np.ndarray:
        """A of every task, shape (tasks, dimension, dimension), eigenvalues between 0.3 and 1.5."""
        generator, d = self.generator(), self.dimension
        turns = torch.randn(self.tasks + 1, d, d, generator=generator, dtype=torch.float64).numpy()
        values = torch.rand(self.tasks + 1, d, generator=generator, dtype=torch.float64).numpy()
        bases = np.linalg.qr(turns)[0]
        values = _FLATTEST + (_SHARPEST - _FLATTEST) * values
        each = (bases * values[:, None, :]) @ bases.transpose(0, 2, 1)
        return (1 - self.spread) * each[:1] + self.spread * each[1:]

    @cached_property
    def centres(self) -> np.ndarray:
        """C of every task, shape (tasks, dimension)."""
        source = self.generator().manual_seed(self.seed + 1)
        return torch.randn(self.tasks, self.dimension, generator=source, dtype=torch.float64).numpy()

    @cached_property
    def start(self) -> np.ndarray:
        """θ at which the objective is measured."""
        source = self.generator().manual_seed(self.seed + 2)
        return 2 * torch.randn(self.dimension, generator=source, dtype=torch.float64).numpy()

    def data(self) -> tuple[Tensor, Tensor]:
        """A and c: every task is an example."""
        return torch.from_numpy(self.curvatures), torch.from_numpy(self.centres)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss of the tasks after a step of their own, which can be differentiated through."""
        return self._adapted(model, batch, create_graph=True)

    def first_order_loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The same number, but the step counts as a constant when it is differentiated."""
        return self._adapted(model, batch, create_graph=False)

    def _adapted(self, model: nn.Module, batch: tuple[Tensor, Tensor], *, create_graph: bool) -> Tensor:
        curvature, centre = batch
        theta = model().expand(len(curvature), self.dimension)

        def tasks(at: Tensor) -> Tensor:
            return 0.5 * torch.einsum("ti,tij,tj->t", at - centre, curvature, at - centre)

        (slope,) = torch.autograd.grad(tasks(theta).sum(), theta, create_graph=create_graph)
        return tasks(theta - self.inner * slope).mean()

    def objective_at(self, theta: np.ndarray) -> Objective:
        """The meta-loss at this start."""
        return Objective(Halves(torch.from_numpy(theta.copy())), data=[self.data()], batch_loss=self.loss)

    def make_objective(self) -> Objective:
        """The meta-loss at the toy's start."""
        return self.objective_at(self.start)

    def make_run(self) -> Run:
        """Gradient descent on the meta-loss, all tasks at every step."""
        model = Halves(torch.from_numpy(self.start.copy()))
        optimizer = torch.optim.SGD(model.parameters(), lr=self.outer_step)
        return Run(model, optimizer=optimizer, train=[self.data()], batch_loss=self.loss, epochs=400)

    @property
    def outer_step(self) -> float:
        """Step size of the run."""
        return self.step / float(np.linalg.eigvalsh(self.hessian)[-1])

    # ------------------------------------------------------------------ what is known

    @cached_property
    def shrinkage(self) -> np.ndarray:
        """I - αA of every task."""
        return np.eye(self.dimension) - self.inner * self.curvatures

    @cached_property
    def seconds(self) -> np.ndarray:
        """M of every task, Hessians of the loss after a step."""
        return self.shrinkage @ self.curvatures @ self.shrinkage

    @cached_property
    def firsts(self) -> np.ndarray:
        """N of every task, what stands in their place in the first-order variant."""
        return self.curvatures @ self.shrinkage

    @property
    def hessian(self) -> np.ndarray:
        """Mean M."""
        return self.seconds.mean(0)

    def rows(self, theta: np.ndarray) -> np.ndarray:
        """M (θ - c): each task's meta-gradient."""
        return np.einsum("tij,tj->ti", self.seconds, theta - self.centres)

    def losses(self, theta: np.ndarray) -> np.ndarray:
        """Each task's loss after its step."""
        return 0.5 * ((theta - self.centres) * self.rows(theta)).sum(1)

    def balance(self, matrices: np.ndarray) -> np.ndarray:
        """Where Σ K (θ - c) vanishes: the optimum for M, the first-order fixed point for N."""
        return np.linalg.solve(matrices.sum(0), np.einsum("tij,tj->i", matrices, self.centres))

    @cached_property
    def optimum(self) -> np.ndarray:
        """The best start."""
        return self.balance(self.seconds)

    @cached_property
    def first_order_point(self) -> np.ndarray:
        """Where the first-order variant ends."""
        return self.balance(self.firsts)

    def truths(self) -> dict[str, Truth]:
        """A quadratic's truths for M, and both fixed points."""
        rows, half = self.rows(self.start), (self.dimension + 1) // 2
        layers, loss = (half, self.dimension - half), float(self.losses(self.start).mean())
        floor = float(self.losses(self.optimum).mean())
        path = down_a_parabola(self.hessian, self.start - self.optimum, self.outer_step, self.optimum, floor)
        truths = curvature_truths(self.hessian, rows.mean(0), loss=loss, layers=layers, source=_SOURCE)
        truths |= example_truths(rows, self.hessian, layers=layers, source=_SOURCE)
        truths |= motion_truths(replace(path, layers=layers), self.tasks)
        return truths | self._lines(rows.mean(0), loss) | self._bowl(floor) | self._fixed_points()

    def _lines(self, gradient: np.ndarray, loss: float) -> dict[str, Truth]:
        """Losses, slices, norms, and what a loss without outputs cannot have."""
        given = partial(Truth, source=_SOURCE)
        half = (self.dimension + 1) // 2
        parts = self.start[:half], self.start[half:]
        direction = np.cos(1.0 + np.arange(self.dimension))
        hidden = partial(Truth, math.nan, source="The loss is of parameters and tasks; there are no outputs.")
        return {
            "example_losses": given(self.losses(self.start), strict=True),
            "loss_slice": parabola(loss, gradient, self.hessian, direction),
            "weight_norm": given(np.array([np.linalg.norm(p) for p in parts])),
            "distance_from_init": given(float(np.linalg.norm(self.start - self.optimum)), other=_at_optimum),
            "linear_connectivity": given(0.0, other=_at_optimum),
            "gradient_fidelity": given(1.0),
            "decay_pull": given(0.0),
            "frozen_parameters": given(0.0),
            "ntk": hidden(),
            "jacobian_rank": hidden(),
            "calibration_error": hidden(),
            "jacobian_singular_values": hidden(),
        }

    def _bowl(self, floor: float) -> dict[str, Truth]:
        """The ellipsoid around the optimum."""
        d, rise = self.dimension, 0.1
        ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
        volume = ball + d / 2 * math.log(2 * rise) - 0.5 * float(np.linalg.slogdet(self.hessian)[1])
        known: dict[str, Any] = {"subject": _at_optimum, "source": "An ellipsoid (textbook)."}
        options = {"cutoff": floor + rise, "max_radius": 1e3}
        return {"basin_volume": Truth(volume, 1e-4, options=options, **known)}

    def _fixed_points(self) -> dict[str, Truth]:
        given = partial(Truth, source=_SOURCE)
        gap = self.first_order_point - self.optimum
        return {
            "meta_gradient": given(self.rows(self.start).mean(0), 1e-12, trial=self._by_autograd),
            "optimum": given(self.optimum, trial=lambda g: self._descend(self.loss, self.seconds)),
            "first_order_point": given(
                self.first_order_point,
                trial=lambda g: self._descend(self.first_order_loss, self.firsts),
                assumptions="αλ < 1 for all eigenvalues of the tasks.",
            ),
            "price_of_first_order": given(
                0.5 * float(gap @ self.hessian @ gap),
                trial=self._price,
            ),
        }

    def _by_autograd(self, generator: torch.Generator) -> Measurement:
        return trial_result("meta_gradient", self.objective.gradient().numpy())

    def _price(self, generator: torch.Generator) -> Measurement:
        """How much worse the first-order variant ends, as the loss itself says."""
        ends = [float(self.objective_at(p).value()) for p in (self.first_order_point, self.optimum)]
        return trial_result("price_of_first_order", ends[0] - ends[1])

    def _descend(self, loss: Any, matrices: np.ndarray) -> Measurement:
        """Where descent with autograd's gradients ends."""
        model, data = Halves(torch.from_numpy(self.start.copy())), self.data()
        values = np.linalg.eigvalsh(matrices.mean(0))
        rate = 2 / float(values[0] + values[-1])
        for _ in range(math.ceil(10 * values[-1] / values[0]) + 10):
            gradients = torch.autograd.grad(loss(model, data), list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p -= rate * g
        return trial_result("fixed_point", model().detach().numpy())

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """What an eigenvalue of a task counts for, with and without the missing factor; what that costs over α."""
        left, right = figure.subplots(1, 2)
        values = np.linspace(0, 1.6, 200)
        shrink = 1 - self.inner * values
        left.plot(values, values, "k:", label="λ, no inner step")
        left.plot(values, values * shrink**2, label="λ(1-αλ)², MAML")
        left.plot(values, values * shrink, "--", label="λ(1-αλ), first order")
        left.set(
            xlabel="curvature of a task λ (ℓ/θ²)",
            ylabel="weight in the mean (ℓ/θ²)",
            title=f"α = {self.inner:g}",
        )
        left.legend(fontsize=8)
        steps = np.linspace(0, 0.6, 25)
        toys = [replace(self, inner=float(a)) for a in steps]
        best = np.array([t.losses(t.optimum).mean() for t in toys])
        first = np.array([t.losses(t.first_order_point).mean() for t in toys])
        plain = np.array([t.losses(toys[0].optimum).mean() for t in toys])
        right.plot(steps, 100 * (first / best - 1), "--", color="C1", label="first-order fixed point")
        right.plot(steps, 100 * (plain / best - 1), ":", color="C2", label="optimum of the plain mean")
        right.set(
            xlabel="inner step α (θ²/ℓ)", ylabel="loss after the step, above the best (%)", title=self.title
        )
        right.legend(fontsize=8)


def _at_optimum(toy: QuadraticMaml) -> Objective:
    return toy.objective_at(toy.optimum)


TOY = QuadraticMaml
