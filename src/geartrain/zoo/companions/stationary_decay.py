r"""Stationarity under weight decay: features from forces in balance.

Train any network with weight decay, loss $L(\theta) + \tfrac\lambda2\lVert\theta\rVert^2$, until nothing moves.
Then in every layer the pull of the data and the pull of decay cancel, $\nabla_{W_l} L = -\lambda W_l$. The gradient
of a layer with input $h_l$ and pre-activation $z_l = W_l h_l$ is $E[\nabla_{z_l} L\; h_l^\top]$. Multiply from the
left by $W_l^\top$ and note that $W_l^\top\nabla_{z_l}L = \nabla_{h_l}L$:

$$W_l^\top W_l = -\frac1\lambda\, E\bigl[\nabla_{h_l} L\; h_l^\top\bigr].$$

The left side says which directions of its input the layer listens to: its *features*. The right side is an average
over the data of what the loss wants of those inputs. The identity is exact at a stationary point, for any
architecture, loss and data, and it holds at bad minima and at saddles as well: it explains features by forces, not
why training is any good. Away from stationarity it fails, and by how much is a measure of convergence.

**Taking the trace** of both sides:
$\lambda\lVert W_l\rVert^2 = -E[\nabla_{h_l}L\cdot h_l] = -E[\nabla_{z_l}L \cdot z_l]$, so the pull of the data
outward along each layer's weights balances decay, layer by layer.

**The network** that the instruments see is $f(x) = v\cdot\tanh(Wx)$ under half the squared error of the data alone,
at a point that Newton's method brought to stationarity under decay (to rounding). Its derivatives are the chain
rule's.

**What to vary.** `decay` (large: units die, few features survive), `hidden`, `seed` (other stationary points), and
`noise` in the targets.

Sources: Boix-Adserà et al. 2025, arXiv 2507.05644 (features at convergence).
Ledger: 2.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.optimize import minimize
from torch import nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHAIN = "Chain rule for v·tanh(Wx)."
_BALANCE = "Stationarity: the gradient of the data's loss is -λθ."
_STILL = 1e-11
"""Norm of the whole gradient at which a point counts as stationary."""


@dataclass(frozen=True)
class StationaryDecay(Toy):
    """A small network at a stationary point of its loss with weight decay.

    Attributes:
        inputs: d.
        hidden: Number of tanh units.
        decay: λ.
        noise: Spread of the noise in the targets.
        examples: n.
    """

    title: ClassVar[str] = "Stationarity under weight decay"
    ledger: ClassVar[tuple[str, ...]] = ("2.5",)

    inputs: int = 4
    hidden: int = 5
    decay: float = 0.01
    noise: float = 0.1
    examples: int = 60

    def __post_init__(self) -> None:
        if not 2 <= self.inputs <= 8 or not 2 <= self.hidden <= 10:
            raise InputError(f"inputs is {self.inputs}, hidden {self.hidden}; allowed: 2 to 8, and 2 to 10.")
        if not 1e-3 <= self.decay <= 0.03:
            raise InputError(
                f"decay is {self.decay}; allowed: 0.001 to 0.03. Above, the network may die; below, it takes for ever."
            )
        if not 0 <= self.noise <= 1 or not 20 <= self.examples <= 100:
            raise InputError(
                f"noise is {self.noise}, examples {self.examples}; allowed: 0 to 1, and 20 to 100 examples."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (n, d) and targets (n,): a tanh of the first input plus half of the product of the first two."""
        source = self.generator()
        x = torch.randn(self.examples, self.inputs, generator=source, dtype=torch.float64).numpy()
        noise = torch.randn(self.examples, generator=source, dtype=torch.float64).numpy()
        return x, 1.5 * np.tanh(2 * x[:, 0]) + 0.5 * x[:, 0] * x[:, 1] + self.noise * noise

    @cached_property
    def here(self) -> np.ndarray:
        """The stationary point, W row by row and v: a quasi-Newton search from a random start, then Newton's method."""
        source, size = torch.Generator().manual_seed(self.seed + 3), self.hidden * (self.inputs + 1)
        start = 0.7 * torch.randn(size, generator=source, dtype=torch.float64).numpy()
        found = minimize(
            self.decayed, start, jac=True, method="BFGS", options={"gtol": 1e-7, "maxiter": 5000}
        )
        place = np.asarray(found.x, dtype=float)
        for _ in range(20):
            slope = self.decayed(place)[1]
            if np.linalg.norm(slope) < _STILL:
                return place
            place = place - np.linalg.solve(self.hessian(place) + self.decay * np.eye(size), slope)
        raise InputError(f"The network with seed {self.seed} did not come to rest; choose another seed.")

    def model(self, flat: np.ndarray) -> nn.Sequential:
        """The network at any parameters."""
        first, last = nn.Linear(self.inputs, self.hidden, bias=False), nn.Linear(self.hidden, 1, bias=False)
        model = nn.Sequential(first, nn.Tanh(), last).double()
        nn.utils.vector_to_parameters(torch.from_numpy(flat.copy()), model.parameters())
        return model

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The data for PyTorch."""
        x, y = self.data
        return torch.from_numpy(x), torch.from_numpy(y)[:, None]

    def make_objective(self) -> Objective:
        """The data's loss, without decay, at the stationary point."""
        return Objective(self.model(self.here), half_square, self.tensors())

    def make_run(self) -> Run:
        """Gradient descent with weight decay, at rest."""
        model = self.model(self.here)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=self.decay)
        return Run(
            model, half_square, optimizer, self.tensors(), epochs=50, batch_size=self.examples, shuffle=False
        )

    # ------------------------------------------------------------------ what is known

    def split(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """W (hidden, inputs) and v (hidden,)."""
        return flat[: -self.hidden].reshape(self.hidden, self.inputs), flat[-self.hidden :]

    def parts(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hidden activations (n, hidden), residuals (n,) and the outputs' Jacobian (n, params)."""
        (x, y), (w, v) = self.data, self.split(flat)
        h = np.tanh(x @ w.T)
        by_weight = np.einsum("nh,ni->nhi", (1 - h**2) * v, x).reshape(len(x), -1)
        return h, h @ v - y, np.concatenate([by_weight, h], axis=1)

    def decayed(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss with decay and its gradient."""
        _, residual, jacobian = self.parts(flat)
        loss = 0.5 * float((residual**2).mean()) + 0.5 * self.decay * float(flat @ flat)
        return loss, residual @ jacobian / self.examples + self.decay * flat

    def hessian(self, flat: np.ndarray) -> np.ndarray:
        """Of the data's loss: JᵀJ/n, and the residuals times ∂²f, which couples a unit to itself only."""
        (x, _), (_, v) = self.data, self.split(flat)
        h, residual, jacobian = self.parts(flat)
        matrix, d = jacobian.T @ jacobian / self.examples, self.inputs
        for k in range(self.hidden):
            own, out = slice(k * d, (k + 1) * d), self.hidden * d + k
            slope, bend = 1 - h[:, k] ** 2, -2 * h[:, k] * (1 - h[:, k] ** 2)
            matrix[own, own] += x.T @ ((residual * v[k] * bend)[:, None] * x) / self.examples
            mixed = (residual * slope) @ x / self.examples
            matrix[own, out] += mixed
            matrix[out, own] += mixed
        return matrix

    def truths(self) -> dict[str, Truth]:
        """The identity in both layers, and everything about the point."""
        w, v = self.split(self.here)
        (_, y), (h, residual, jacobian) = self.data, self.parts(self.here)
        rows, layers = residual[:, None] * jacobian, [w.size, v.size]
        hessian, singular = self.hessian(self.here), np.linalg.svd(jacobian, compute_uv=False)
        # Decay can kill a unit or make two of them alike; what moves nothing is then no question of symmetry.
        alive = len(singular) == len(self.here) and singular[-1] > 1e-6 * singular[0]
        orbit = Truth(0.0, source="tanh units cannot be rescaled.") if alive else None
        exact = "Stationary to 1e-11 in the gradient."
        return ({} if orbit is None else {"symmetry_orbit_dimension": orbit}) | {
            "features_of_inputs": Truth(w.T @ w, 1e-7, exact, _BALANCE, trial=self._forces_on_inputs),
            "features_of_units": Truth(np.outer(v, v), 1e-7, exact, _BALANCE, trial=self._forces_on_units),
            "decay_pull": Truth(1.0, 1e-7, exact, _BALANCE),
            "decay_pull.along": Truth(1.0, 1e-7, exact, _BALANCE, reading="along"),
            **_matrices.curvature_truths(hessian, -self.decay * self.here, layers=layers, source=_CHAIN),
            **_matrices.example_truths(rows, layers=layers, source=_CHAIN),
            **_matrices.kernel_truths(jacobian[:, None], y[:, None], source=_CHAIN),
            "example_losses": Truth(0.5 * residual**2, source="Definition.", strict=True),
            "weight_norm": Truth(np.array([np.linalg.norm(w), np.linalg.norm(v)]), source="Definition."),
            "weight_rank.largest": Truth(
                np.array([np.linalg.norm(w, 2), np.linalg.norm(v)]), reading="largest", source="Definition."
            ),
            "saturated_units": Truth(float((1 - h**2 < 0.05).mean()), source="Slope 1 - tanh² below 0.05."),
            "dead_units": Truth(float("nan"), source="tanh has a slope everywhere."),
            "missing_biases": Truth(1.0, source="By construction."),
            "label_disagreement_floor": Truth(0.0, source="No input occurs twice."),
            "target_scale": Truth(float(max(y.std(), abs(y.mean()))), source="Definition."),
            "constant_loss": Truth(0.5 * float(y.var()), 1e-5, source="Variance of the targets."),
        }

    # ------------------------------------------------------------------ experiments

    def forces(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """-(1/λ) E[∇_h L hᵀ] for the inputs and for the hidden units, by automatic differentiation."""
        first, phi, last = self.model(flat)
        x, y = self.tensors()
        x.requires_grad_()
        hidden = phi(first(x))
        loss = half_square(last(hidden), y)  # a mean: each example's slope comes divided by n
        slopes = torch.autograd.grad(loss, (x, hidden))
        pairs = zip(slopes, (x, hidden), strict=True)
        of_inputs, of_units = (-(slope.T @ h.detach()).numpy() / self.decay for slope, h in pairs)
        return of_inputs, of_units

    def _forces_on_inputs(self, generator: torch.Generator) -> Measurement:
        return trial_result("features_of_inputs", self.forces(self.here)[0])

    def _forces_on_units(self, generator: torch.Generator) -> Measurement:
        return trial_result("features_of_units", self.forces(self.here)[1])

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """How far the identity is from holding while gradient descent with decay comes to rest."""
        axes, place = figure.add_subplot(), np.random.default_rng(self.seed).normal(0, 0.7, self.here.shape)
        steps, gaps = np.unique(np.geomspace(1, 20_000, 40).astype(int)), []
        for step in range(1, int(steps[-1]) + 1):
            place = place - 0.1 * self.decayed(place)[1]
            if step in steps:
                w, v = self.split(place)
                pairs = zip(self.forces(place), (w.T @ w, np.outer(v, v)), strict=True)
                gaps.append(
                    [np.linalg.norm(found - wanted) / np.linalg.norm(wanted) for found, wanted in pairs]
                )
        for gap, name in zip(np.array(gaps).T, ("first layer", "second layer"), strict=True):
            axes.loglog(steps, gap, label=name)
        axes.set(xlabel="steps of gradient descent", ylabel="relative gap between features and forces")
        axes.set_title(self.title)
        axes.legend()


TOY = StationaryDecay
