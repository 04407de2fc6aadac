r"""The lazy dial: one number turns a network into a kernel machine.

$f(x) = \alpha\,(h_w(x) - h_{w_0}(x))$ with the loss $\tfrac{1}{2n}\sum_i (f(x_i) - y_i)^2/\alpha^2$, $h$ a two-layer
tanh network at its initialisation $w_0$. At the start $f = 0$ for every $\alpha$. The larger $\alpha$, the less the
weights have to move to fit the data; soon the network never leaves the place where it is linear in its weights.

**Derivation.** With $J$ the Jacobian of $h$ at $w_0$ and $K_0 = JJ^\top$ its tangent kernel, gradient flow is
$\dot w = -\tfrac{1}{n\alpha} J_w^\top (f - y)$. To leading order in $1/\alpha$ the Jacobian stays $J$, so

$$\dot f = -\tfrac1n K_0 (f - y),\quad f_t = (I - e^{-K_0 t/n})\,y,\quad f_\infty(x) = K_0(x,\cdot)K_0^{-1}y .$$

The weights end at the *lazy solution* $w_0 + \tfrac1\alpha J^+ y$: the distance travelled falls as $1/\alpha$ and
with it everything that depends on having moved: the change of the kernel, the error of the linearised model, and the
curvature that is not Gauss-Newton's, since
$H = \tfrac1n J^\top J + \tfrac{1}{n\alpha}\sum_i (f_i - y_i) \nabla^2 h(x_i)$.

**How to read it.** A drift that halves when $\alpha$ doubles is the signature of laziness. A real network whose drift
is of order one has learnt features that its kernel at the start did not have.

**What to vary.** `alpha` (1: a network; 300: a kernel machine), `hidden` (width makes lazy too, as
$1/\sqrt{\text{width}}$), `examples`.

Sources: Chizat, Oyallon, Bach 2019, arXiv 1812.07956; Jacot, Gabriel, Hongler 2018, arXiv 1806.07572.
Ledger: 0.7, 0.16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._matrices import curvature_truths, example_truths, kernel_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = "Derivatives of a two-layer tanh network by hand; Chizat, Oyallon, Bach 2019, arXiv 1812.07956."


class Dial(nn.Module):
    """α times the change of a two-layer tanh network since its initialisation.

    Args:
        first: W, shape (hidden, inputs).
        second: v, shape (1, hidden).
        start: Both at the initialisation.
        alpha: α.
    """

    def __init__(
        self, first: np.ndarray, second: np.ndarray, start: tuple[np.ndarray, ...], alpha: float
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.first = nn.Linear(first.shape[1], first.shape[0], bias=False, dtype=torch.float64)
        self.second = nn.Linear(first.shape[0], 1, bias=False, dtype=torch.float64)
        self.first.weight.data = torch.from_numpy(first.copy())
        self.second.weight.data = torch.from_numpy(second.copy())
        self.first_start: Tensor
        self.second_start: Tensor
        self.register_buffer("first_start", torch.from_numpy(start[0].copy()))
        self.register_buffer("second_start", torch.from_numpy(start[1].copy()))

    def forward(self, x: Tensor) -> Tensor:
        """α (h_w(x) - h_w₀(x)), shape (examples, 1)."""
        now = self.second(torch.tanh(self.first(x)))
        then = torch.tanh(x @ self.first_start.T) @ self.second_start.T
        return self.alpha * (now - then) / math.sqrt(self.first.out_features)


@dataclass(frozen=True)
class LazyDial(Toy):
    """A two-layer tanh network with its output scaled by α and its start taken off.

    Attributes:
        alpha: α; large is lazy.
        inputs: Number of inputs.
        hidden: Number of hidden units.
        examples: Number of random points with random labels.
    """

    title: ClassVar[str] = "The lazy dial"
    ledger: ClassVar[tuple[str, ...]] = ("0.7", "0.16")

    alpha: float = 30.0
    inputs: int = 5
    hidden: int = 50
    examples: int = 20

    def __post_init__(self) -> None:
        if not 0.1 <= self.alpha <= 1e5:
            raise InputError(f"alpha is {self.alpha}; allowed: 0.1 to 100000.")
        if self.inputs < 2 or not 5 <= self.examples <= 100 or self.hidden * (self.inputs + 1) > 1000:
            raise InputError(
                f"inputs, hidden and examples are {self.inputs}, {self.hidden} and {self.examples}; allowed: 2 or more "
                "inputs, 5 to 100 examples, at most 1000 parameters. Lower them."
            )
        if self.hidden * self.inputs < 2 * self.examples:
            raise InputError(
                f"hidden is {self.hidden} for {self.examples} examples; the kernel needs twice as many weights as "
                "examples."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def drawn(self) -> tuple[np.ndarray, ...]:
        """x, y and the initial W and v."""
        generator, n = self.generator(), self.examples
        shapes = ((n, self.inputs), (n, 1), (self.hidden, self.inputs), (1, self.hidden))
        x, y, first, second = (
            torch.randn(s, generator=generator, dtype=torch.float64).numpy() for s in shapes
        )
        return x, y, first / math.sqrt(self.inputs), second

    @property
    def start(self) -> Tanh:
        """The network h at its initialisation."""
        return Tanh(*self.drawn[2:])

    @cached_property
    def lazy(self) -> Tanh:
        """The network at the lazy solution w₀ + J⁺y/α."""
        return self.start.moved(
            np.linalg.pinv(self.start.jacobian(self.drawn[0])) @ self.drawn[1][:, 0] / self.alpha
        )

    def objective_at(self, net: Tanh) -> Objective:
        """The loss at these weights."""
        x, y = (torch.from_numpy(a) for a in self.drawn[:2])
        return Objective(Dial(net.first, net.second, self.drawn[2:], self.alpha), self._loss, (x, y))

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * ((outputs - targets) / self.alpha).square().mean()

    def make_objective(self) -> Objective:
        """The loss at the initialisation, where f = 0."""
        return self.objective_at(self.start)

    def make_run(self) -> Run:
        """Full-batch gradient descent from there, a step of size 1/λmax at a time."""
        x, y, first, second = self.drawn
        model, data = (
            Dial(first, second, (first, second), self.alpha),
            (torch.from_numpy(x), torch.from_numpy(y)),
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=self.step)
        return Run(model, self._loss, optimizer, data, epochs=400, batch_size=self.examples, shuffle=False)

    @property
    def step(self) -> float:
        """Step size of the run: 1/λmax of the Gauss-Newton matrix."""
        return self.examples / float(self.kernel_modes[0][-1])

    # ------------------------------------------------------------------ what is known

    @cached_property
    def kernel_modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues, ascending, and eigenvectors of K₀ = JJᵀ on the points (of h, without α)."""
        jacobian = self.start.jacobian(self.drawn[0])
        return np.linalg.eigh(jacobian @ jacobian.T)

    def outputs_at(self, time: float) -> np.ndarray:
        """f_t = (I - e^(-K₀t/n)) y on the points, to leading order in 1/α."""
        values, vectors = self.kernel_modes
        return vectors @ ((1 - np.exp(-values * time / self.examples)) * (vectors.T @ self.drawn[1][:, 0]))

    def truths(self) -> dict[str, Truth]:
        """The start by hand, the lazy solution beside it, and the path between them."""
        (x, y), a, net = self.drawn[:2], self.alpha, self.start
        jacobian = net.jacobian(x)
        how: dict[str, Any] = {"layers": (self.hidden * self.inputs, self.hidden), "source": _SOURCE}
        hessian = jacobian.T @ jacobian / self.examples
        hessian -= np.einsum("n,npq->pq", y[:, 0], net.second_derivatives(x)) / (self.examples * a)
        rows = -jacobian * y / a
        truths = curvature_truths(hessian, rows.mean(0), **how) | example_truths(rows, **how)
        truths |= kernel_truths(a * jacobian[:, None], y, source=_SOURCE)
        every: dict[str, Any] = {"options": {"num_products": hessian.shape[0]}}
        for name in ("hessian_diagonal", "hessian_trace"):
            truths[name] = replace(truths[name], **every)
        own = {
            "example_losses": 0.5 * (y[:, 0] / a) ** 2,
            "constant_loss": 0.5 * float(y.var()) / a**2,
            "weight_norm": np.array([np.linalg.norm(net.first), np.linalg.norm(net.second)]),
            "target_scale": max(float(y.std()), abs(float(y.mean()))),
            "missing_biases": 1.0,
            "saturated_units": float((1 - np.tanh(x @ net.first.T) ** 2 < 0.05).mean()),
            "jacobian_rank": float(self.examples),
        }
        truths |= {name: Truth(value, source=_SOURCE) for name, value in own.items()}
        top = float(np.linalg.eigvalsh(hessian)[-1])
        probe = {"probe": self.examples, "tol": 1e-5, "max_products": 200}
        truths["preconditioned_sharpness"] = Truth(top, 1e-4, source=_SOURCE, options=probe)
        truths["edge_of_stability"] = Truth(self.step * top / 2, 1e-4, source=_SOURCE, options=probe)
        return truths | self._lazy_truths() | self._path_truths()

    def _lazy_truths(self) -> dict[str, Truth]:
        """At the lazy solution, by hand: it has hardly moved, and the less the larger α is."""
        x, y = self.drawn[:2]
        before, after = self.start.jacobian(x), self.lazy.jacobian(x)
        movement = self.lazy.flat - self.start.flat
        k0, k = before @ before.T, after @ after.T
        rise = self.lazy.outputs(x) - self.start.outputs(x)
        drift = float(np.linalg.norm(k - k0) / np.linalg.norm(k0))
        gained = 1 - float(((self.alpha * rise - y[:, 0]) ** 2).sum() / (y**2).sum())
        turned = self.lazy.slopes(x) - self.start.slopes(x)
        values = {
            "jacobian_singular_values": self.alpha * np.linalg.norm(turned, axis=1).mean(keepdims=True),
            "distance_from_init": float(np.linalg.norm(movement)),
            "ntk_drift": drift,
            "lazy_index": drift / abs(gained),
            "linearised_error": float(np.linalg.norm(rise - before @ movement) / np.linalg.norm(rise)),
            "function_distance": math.sqrt(2),
            "prediction_disagreement": float(((self.alpha * rise) ** 2).mean() / y.var()),
        }
        how: dict[str, Any] = {"subject": _at_lazy, "other": _at_start, "source": _SOURCE, "tolerance": 1e-5}
        truths = {name: Truth(value, **how) for name, value in values.items()}
        truths["jacobian_singular_values"] = replace(
            truths["jacobian_singular_values"], other=None, options={"examples": 100}
        )
        truths["prediction_disagreement"] = replace(truths["prediction_disagreement"], strict=True)
        return truths

    def _path_truths(self) -> dict[str, Truth]:
        how: dict[str, Any] = {
            "assumptions": "To leading order in 1/α.",
            "tolerance": min(1.0, 10 / self.alpha),
            "source": "Chizat, Oyallon, Bach 2019, arXiv 1812.07956, theorem 2.2.",
        }
        return {
            "outputs": Truth(self.outputs_at(self._horizon), trial=self._trained_outputs, **how),
            "movement_times_alpha": Truth(self._movement(self._horizon), trial=self._trained_movement, **how),
        }

    @property
    def _horizon(self) -> float:
        """Time at which the slowest third of the modes is still on its way."""
        return 3 * self.examples / float(self.kernel_modes[0][self.examples // 3])

    def _movement(self, time: float) -> float:
        """‖J⁺ f_t‖, what α ‖w - w₀‖ tends to."""
        values, vectors = self.kernel_modes
        return float(np.linalg.norm((vectors.T @ self.outputs_at(time)) / np.sqrt(values)))

    def train(self, time: float) -> Tanh:
        """Gradient descent in short steps, by hand, for that time."""
        x, y, net = self.drawn[0], self.drawn[1][:, 0], self.start
        step = 0.2 * self.examples / float(self.kernel_modes[0][-1])
        steps = max(1, math.ceil(time / step))
        then, first, second = net.outputs(x), net.first, net.second
        for _ in range(steps):
            net = Tanh(first, second)
            active, scale = np.tanh(x @ first.T), math.sqrt(self.hidden)
            error = (self.alpha * (net.outputs(x) - then) - y) / (self.alpha * self.examples * scale)
            second_gradient = error @ active
            first_gradient = ((error[:, None] * second * (1 - active**2)).T) @ x
            first, second = first - time / steps * first_gradient, second - time / steps * second_gradient
        return Tanh(first, second)

    @cached_property
    def _trained(self) -> Tanh:
        return self.train(self._horizon)

    def _trained_outputs(self, generator: torch.Generator) -> Measurement:
        x = self.drawn[0]
        return trial_result("outputs", self.alpha * (self._trained.outputs(x) - self.start.outputs(x)))

    def _trained_movement(self, generator: torch.Generator) -> Measurement:
        moved = float(np.linalg.norm(self._trained.flat - self.start.flat))
        return trial_result("movement_times_alpha", self.alpha * moved)

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Drift and linearisation error at the lazy solution over α: both fall as 1/α."""
        axes = figure.add_subplot()
        alphas = np.geomspace(1, 1000, 13)
        toys = [replace(self, alpha=float(a))._lazy_truths() for a in alphas]
        labels = {"ntk_drift": "drift of the kernel", "linearised_error": "error of the linear model"}
        for name, label in labels.items():
            axes.loglog(alphas, [float(t[name].value) for t in toys], "o-", label=label)
        axes.loglog(alphas, 1 / alphas, "k:", label="1/α")
        axes.axvline(self.alpha, color="0.7", ls="--", label="measured here")
        axes.set(xlabel="α", ylabel="relative change", title=self.title)
        axes.legend()


@dataclass(frozen=True)
class Tanh:
    """h(x) = v · tanh(Wx)/√hidden with its derivatives, by hand.

    Attributes:
        first: W, shape (hidden, inputs).
        second: v, shape (1, hidden).
    """

    first: np.ndarray
    second: np.ndarray

    @property
    def flat(self) -> np.ndarray:
        """All weights, in the order of ``model.parameters()``."""
        return np.concatenate([self.first.ravel(), self.second.ravel()])

    def moved(self, by: np.ndarray) -> Tanh:
        """The same network elsewhere."""
        cut = self.first.size
        return Tanh(self.first + by[:cut].reshape(self.first.shape), self.second + by[cut:][None])

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """h(x), shape (examples,)."""
        return (np.tanh(x @ self.first.T) @ self.second.T)[:, 0] / math.sqrt(len(self.first))

    def slopes(self, x: np.ndarray) -> np.ndarray:
        """∂h/∂x, shape (examples, inputs)."""
        return ((1 - np.tanh(x @ self.first.T) ** 2) * self.second) @ self.first / math.sqrt(len(self.first))

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """∂h/∂w: v_i (1-t_i²) x_j for W, t_i for v; shape (examples, params)."""
        t = np.tanh(x @ self.first.T)
        first = np.einsum("ni,nj->nij", (1 - t**2) * self.second, x)
        return np.concatenate([first.reshape(len(x), -1), t], axis=1) / math.sqrt(len(self.first))

    def second_derivatives(self, x: np.ndarray) -> np.ndarray:
        """∂²h/∂w²: -2 v_i t_i (1-t_i²) x_j x_k within a row of W, (1-t_i²) x_j between it and v_i."""
        (hidden, inputs), t = self.first.shape, np.tanh(x @ self.first.T)
        total = np.zeros((len(x), hidden * (inputs + 1), hidden * (inputs + 1)))
        for i in range(hidden):
            rows, column = slice(i * inputs, (i + 1) * inputs), hidden * inputs + i
            bend = -2 * self.second[0, i] * t[:, i] * (1 - t[:, i] ** 2)
            total[:, rows, rows] = np.einsum("n,nj,nk->njk", bend, x, x)
            total[:, rows, column] = total[:, column, rows] = (1 - t[:, i, None] ** 2) * x
        return total / math.sqrt(hidden)


def _at_lazy(toy: LazyDial) -> Objective:
    return toy.objective_at(toy.lazy)


def _at_start(toy: LazyDial) -> Objective:
    return toy.objective


TOY = LazyDial
