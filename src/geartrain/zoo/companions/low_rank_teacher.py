r"""A teacher that looks in one direction, and how to find it.

$y = g(u\cdot x)$ with $x \sim N(0, 1_d)$: a *single-index* target. Of $d$ directions only $u$ matters. A kernel
machine treats all directions alike and pays for every one of them; a network that learns features turns towards
$u$.

**Where the direction shows.** The average gradient outer product of any function, $M = E[\nabla f\,\nabla f^\top]$,
tells which directions it depends on. For the teacher it is $E[g'^2]\,uu^\top$ with $u\cdot x$ a standard Gaussian:
rank one. For $g(t) = t^2$ that is $4uu^\top$, although the linear correlation $E[y\,x]$ is zero and shows nothing.

**Recursive feature machine.** Fit kernel ridge regression with the Laplace kernel $e^{-\lVert x - z\rVert_M/L}$,
start at $M = 1$; replace $M$ by the gradient outer product of the fit; repeat. A first fit that sees $u$ only dimly
makes a metric that stretches $u$ a little, which lets the next fit see it better: feature learning without a
network. After a few rounds the top eigenvector is $u$.

**The student** that the instruments see is $f(x) = g(w\cdot x)$ under $\tfrac12\,\mathrm{mean}\,(f - y)^2$, with
$w$ turned away from $u$ by `angle`. With residuals $r$,

$$\nabla L = \mathrm{mean}\; r g'\,x, \qquad \nabla^2 L = \mathrm{mean}\,(g'^2 + r g'')\,xx^\top,$$

where the second term makes directions of negative curvature when the student looks the wrong way.

**What to vary.** `link` (square, sine, tanh), `dimension`, `angle`, `examples`.

Sources: Radhakrishnan et al. 2022, arXiv 2212.13881 (recursive feature machines).
Ledger: 3.1.
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
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._descent import STEPS, Path, motion_truths
from geartrain.zoo._losses import half_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BY_HAND = "Chain rule for g(w·x)."
_LINKS = ("square", "sine", "tanh")
_ROUNDS = 5
_FITTED = 400
"""Examples of the feature machine."""


def link(name: str, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The function g with its first and second derivative."""
    if name == "square":
        return t**2, 2 * t, np.full_like(t, 2.0)
    if name == "sine":
        return np.sin(t), np.cos(t), -np.sin(t)
    h = np.tanh(t)
    return h, 1 - h**2, -2 * h * (1 - h**2)


def mean_square_slope(name: str) -> float:
    """E[g'(t)²] for a standard Gaussian t: 4, (1 + e⁻²)/2, or by quadrature.

    >>> [round(mean_square_slope(g), 4) for g in ("square", "sine", "tanh")]
    [4.0, 0.5677, 0.4644]
    """
    if name == "square":
        return 4.0
    if name == "sine":
        return (1 + math.exp(-2)) / 2
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)
    return float(weights @ link(name, nodes)[1] ** 2) / math.sqrt(2 * math.pi)


class Student(nn.Module):
    """Outputs g(w·x)."""

    def __init__(self, w: np.ndarray, name: str) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))
        self.g = {"square": torch.square, "sine": torch.sin, "tanh": torch.tanh}[name]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (examples, 1)."""
        return self.g(x @ self.w)[:, None]


@dataclass(frozen=True)
class LowRankTeacher(Toy):
    """A single-index teacher and a student that looks a little elsewhere.

    Attributes:
        dimension: d.
        link: g: "square", "sine" or "tanh".
        angle: Between the student's direction and u, in radians.
        examples: That the instruments see.
    """

    title: ClassVar[str] = "A teacher of one direction"
    ledger: ClassVar[tuple[str, ...]] = ("3.1",)

    dimension: int = 8
    link: str = "square"
    angle: float = 0.6
    examples: int = 80

    def __post_init__(self) -> None:
        if not 2 <= self.dimension <= 12 or not 10 <= self.examples <= 100:
            raise InputError(
                f"dimension is {self.dimension}, examples {self.examples}; allowed: 2 to 12, and 10 to 100."
            )
        if self.link not in _LINKS:
            raise InputError(f"link is {self.link!r}; allowed: 'square', 'sine', 'tanh'. Choose one.")
        if not 0 < self.angle <= math.pi / 2:
            raise InputError(
                f"angle is {self.angle}; allowed: above 0 up to π/2. At 0 there is no error left."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def directions(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors u and w (the student's), at that angle."""
        draw = torch.randn(self.dimension, 2, generator=self.generator(), dtype=torch.float64).numpy()
        u, across = np.linalg.qr(draw)[0].T
        return u, math.cos(self.angle) * u + math.sin(self.angle) * across

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (examples, dimension) and targets (examples,)."""
        return self.draws(self.examples, torch.Generator().manual_seed(self.seed + 5))

    def draws(self, count: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Fresh inputs and targets."""
        x = torch.randn(count, self.dimension, generator=generator, dtype=torch.float64).numpy()
        return x, link(self.link, x @ self.directions[0])[0]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The data for PyTorch."""
        x, y = self.data
        return torch.from_numpy(x), torch.from_numpy(y)[:, None]

    def make_objective(self) -> Objective:
        """½ mean (g(w·x) - y)² at the student's direction."""
        return Objective(Student(self.directions[1], self.link), half_square, self.tensors())

    def make_run(self) -> Run:
        """Full-batch gradient descent from there; an epoch is a step."""
        model = Student(self.directions[1], self.link)
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate)
        return Run(
            model, half_square, optimizer, self.tensors(), epochs=200, batch_size=self.examples, shuffle=False
        )

    # ------------------------------------------------------------------ what is known

    def at(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Residuals and both derivatives of g, for the examples."""
        x, y = self.data
        g, first, second = link(self.link, x @ w)
        return g - y, first, second

    def loss(self, w: np.ndarray) -> float:
        """½ mean r²."""
        return 0.5 * float((self.at(w)[0] ** 2).mean())

    def slope(self, w: np.ndarray) -> np.ndarray:
        """∇L = mean r g' x."""
        residual, first, _ = self.at(w)
        return (residual * first) @ self.data[0] / self.examples

    @cached_property
    def hessian(self) -> np.ndarray:
        """∇²L = mean (g'² + r g'') xxᵀ, at the student's direction."""
        residual, first, second = self.at(self.directions[1])
        x = self.data[0]
        return x.T @ ((first**2 + residual * second)[:, None] * x) / self.examples

    @property
    def rate(self) -> float:
        """Learning rate of the run: a tenth of 1/λmax, since the curvature grows on the way."""
        return 0.1 / float(np.abs(np.linalg.eigvalsh(self.hessian)).max())

    def truths(self) -> dict[str, Truth]:
        """The direction, and everything about the student."""
        (u, w), (x, y) = self.directions, self.data
        residual, first, _ = self.at(w)
        jacobian, layers = first[:, None] * x, [self.dimension]
        rows, t = residual[:, None] * jacobian, np.linspace(-1, 1, 21)
        outer = mean_square_slope(self.link) * np.outer(u, u)
        agop = Truth(outer, source="∇f = g'(u·x) u.", assumptions="Gaussian inputs.", trial=self._gradients)
        machine = Truth(1.0, 0.02, "400 examples.", "Radhakrishnan et al. 2022.", trial=self._feature_machine)
        return {
            "gradient_outer_product": agop,
            "direction_found": machine,
            **_matrices.curvature_truths(self.hessian, self.slope(w), layers=layers, source=_BY_HAND),
            **_matrices.example_truths(rows, self.hessian, layers=layers, source=_BY_HAND),
            **_matrices.kernel_truths(jacobian[:, None], y[:, None], source=_BY_HAND),
            **motion_truths(self._path(), self.examples),
            **self._pair_truths(jacobian),
            "loss_slice": Truth(
                np.array([self.loss(w + s * u) for s in t]),
                source="Definition.",
                strict=True,
                options={"direction": torch.from_numpy(u), "span": 1.0},
            ),
            "example_losses": Truth(0.5 * residual**2, source="Definition.", strict=True),
            "weight_norm": Truth(np.array([1.0]), source="A unit vector."),
            "target_scale": Truth(float(max(y.std(), abs(y.mean()))), source="Definition."),
            "constant_loss": Truth(0.5 * float(y.var()), 1e-5, source="Variance of the targets."),
            "label_disagreement_floor": Truth(0.0, source="No input occurs twice."),
        }

    def _pair_truths(self, jacobian: np.ndarray) -> dict[str, Truth]:
        """The student against the teacher."""
        (u, w), (x, y) = self.directions, self.data
        f, there = self.at(w)[0] + y, link(self.link, x @ u)[1][:, None] * x
        kernel, other = jacobian @ jacobian.T, there @ there.T
        t = np.linspace(0, 1, 11)
        line = np.array([self.loss((1 - s) * w + s * u) for s in t])
        values = {
            "distance_from_init": 2 * math.sin(self.angle / 2),
            "function_distance": np.linalg.norm(f - y) / math.sqrt(0.5 * (f @ f + y @ y)),
            "prediction_disagreement": ((f - y) ** 2).mean() / y.var(),
            "ntk_drift": np.linalg.norm(kernel - other) / np.linalg.norm(other),
            "linearised_error": np.linalg.norm(f - y - there @ (w - u)) / np.linalg.norm(f - y),
        }
        truths = {k: Truth(float(v), source=_BY_HAND, strict=True, other=_teacher) for k, v in values.items()}
        truths["linear_connectivity"] = Truth(
            line - (1 - t) * line[0], source="Definition.", reading="excess", error="none", other=_teacher
        )
        return truths

    def _path(self) -> Path:
        """Gradient descent followed by hand."""
        points = [self.directions[1]]
        for _ in range(STEPS):
            points.append(points[-1] - self.rate * self.slope(points[-1]))
        slopes, losses = [self.slope(w) for w in points], [self.loss(w) for w in points]
        return Path(np.array(points), np.array(slopes), np.array(losses), self.hessian, self.rate)

    # ------------------------------------------------------------------ experiments

    def _gradients(self, generator: torch.Generator) -> Measurement:
        """Mean of ∇f∇fᵀ over random inputs, with the gradient by automatic differentiation."""
        teacher, count = Student(self.directions[0], self.link), 20_000
        x = torch.from_numpy(self.draws(count, generator)[0]).requires_grad_()
        (slopes,) = torch.autograd.grad(teacher(x).sum(), x)
        products = torch.einsum("ni,nj->nij", slopes, slopes).numpy()
        return trial_result(
            "gradient_outer_product", products.mean(0), products.std(0, ddof=1) / math.sqrt(count)
        )

    def metrics(self, generator: torch.Generator) -> list[np.ndarray]:
        """Metric M of the recursive feature machine after each round, trace d."""
        x, y = self.draws(_FITTED, generator)
        metric, found = np.eye(self.dimension), []
        width = 2 * math.sqrt(self.dimension)
        for _ in range(_ROUNDS):
            gaps = x[:, None] - x
            mapped = gaps @ metric
            lengths = np.sqrt(np.maximum((gaps * mapped).sum(2), 0.0))
            kernel = np.exp(-lengths / width)
            alpha = np.linalg.solve(kernel + 1e-3 * np.eye(_FITTED), y)
            pull = -kernel * alpha / (width * np.maximum(lengths, 1e-12))
            np.fill_diagonal(pull, 0.0)  # the kink at the point itself: left and right cancel
            slopes = np.einsum("ij,ijd->id", pull, mapped)
            metric = slopes.T @ slopes
            metric *= self.dimension / np.trace(metric)
            found.append(metric)
        return found

    def _feature_machine(self, generator: torch.Generator) -> Measurement:
        """|cosine| of u with the top eigenvector of the last metric."""
        vector = np.linalg.eigh(self.metrics(generator)[-1])[1][:, -1]
        return trial_result("direction_found", abs(float(vector @ self.directions[0])))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Share of the metric along u, round by round, for each link."""
        axes = figure.add_subplot()
        for name in _LINKS:
            toy = LowRankTeacher(self.seed, self.dimension, name, self.angle, self.examples)
            u = self.directions[0]
            shares = [1 / self.dimension] + [
                float(u @ m @ u) / self.dimension for m in toy.metrics(self.generator())
            ]
            axes.plot(range(_ROUNDS + 1), shares, "o-", label=name)
        axes.set(xlabel="rounds of the feature machine", ylabel="share of M along u", ylim=(0, 1.05))
        axes.set_title(f"{self.title}: {_FITTED} examples, {self.dimension} dimensions")
        axes.legend()


def _teacher(toy: LowRankTeacher) -> Tensor:
    return torch.from_numpy(toy.directions[0].copy())


TOY = LowRankTeacher
