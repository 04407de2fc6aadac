r"""Superposition: more features than dimensions.

A bottleneck of $m$ numbers must carry $n > m$ features, each of which is present with a small probability $p$ and then
uniform on $[0, 1]$. The model is $\hat x = \mathrm{ReLU}(W^\top W x + b)$, the loss
$\sum_i I_i (\hat x_i - x_i)^2$ with importances $I_i$. If features are rarely present together it pays to store several
in the same dimension: what one feature spills into another is mostly negative, and the ReLU cuts it off.

**Two features, one dimension** (importances 1 and $I$, $b = 0$) can be solved on paper.

* *Dedicated*, $W = (1, 0)$: the second feature is given up. Loss $I p/3$.
* *Antipodal*, $W = \sqrt s\,(1, -1)$: $\hat x_1 = s\,\mathrm{ReLU}(x_1 - x_2)$, and the loss is $(1 + I)\,\ell(s)$ with
  $\ell(s) = p(1-p)(1-s)^2/3 + p^2(1/3 - s/4 + s^2/12)$: the first part from a feature that is alone, the second
  from both at once. It is least at $s^* = \frac{2(1-p)/3 + p/4}{2(1-p)/3 + p/6}$, a little above 1.

At $s = 1$ the antipodal loss is $(1+I)\,p^2/6$: superposition wins if and only if $p < 2I/(1 + I)$. Sparse features are
superposed, dense ones are not, and the change is a sharp transition.

**Five features, two dimensions.** In the sparse limit only one feature is present at a time. The best network then
holds the features at the corners of a regular *pentagon*, 72° apart: with all columns of length $\sqrt a$ and all
biases $b < 0$ the loss of a feature is a sum of integrals of squares,

$$\int_0^1 (x - \mathrm{ReLU}(a x + b))^2 dx + 2\int_0^1 \mathrm{ReLU}(a\cos 72^\circ\, x + b)^2 dx,$$

one for itself and one for each of its two neighbours; the two far corners are cut off. The trial trains from random
starts and finds both the angles and the minimum over $a$ and $b$.

**The instruments** look at $n$ features in a regular polygon, in two dimensions, on a fixed sample.
$z_i = \sum_j (w_i\cdot w_j)\,x_j + b_i$ is quadratic in the columns $w_i$, so gradient and Hessian are short formulas.
Rotating all columns together changes nothing: a flat direction of the tangent kernel, and an exactly known path of
equal functions between points that are far apart.

**What to vary.** `p` and `second` (the transition), `strength`, `features` and `length` of the polygon, `decay` of the
importances.

Sources: Elhage et al. 2022, arXiv 2209.10652; Chen et al. 2023, arXiv 2310.06301.
Ledger: 2.2, 2.5, 4.18.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Trial, Truth, trial_result
from geartrain.zoo._descent import STEPS, Path, motion_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BY_HAND = "z is quadratic in the columns of W and ReLU has no curvature: derivatives by hand."
_ROTATED = "Rotating all columns of W leaves WᵀW as it is."
_EXAMPLES = 90
_BIAS = -0.05
_SPARSE = 0.05
"""Probability of a feature where the sparse case is meant."""
_TURN = 1.0
"""Angle in radians between the polygon and its rotated copy."""


class Bottleneck(nn.Module):
    """x̂ = ReLU(WᵀWx + b)."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions, same shape as ``x``."""
        return torch.relu(x @ self.weight.T @ self.weight + self.bias)


@dataclass(frozen=True)
class Superposition(Toy):
    """Sparse features in fewer dimensions.

    Attributes:
        features: n, corners of the polygon that the instruments see.
        p: Probability that a feature is present.
        length: Of the columns of W.
        decay: Importance of feature i is decay^i.
        second: Importance I of the second of two features in one dimension.
        strength: s of the antipodal solution.
        samples: Random inputs of the trials.
    """

    title: ClassVar[str] = "Superposition"
    ledger: ClassVar[tuple[str, ...]] = ("2.2", "2.5", "4.18")

    features: int = 5
    p: float = 0.3
    length: float = 0.9
    decay: float = 1.0
    second: float = 1.0
    strength: float = 1.1
    samples: int = 100_000

    def __post_init__(self) -> None:
        if not 3 <= self.features <= 10:
            raise InputError(f"features is {self.features}; allowed: 3 to 10 corners.")
        if not 0.01 <= self.p <= 1:
            raise InputError(f"p is {self.p}; allowed: 0.01 to 1. Rarer features hardly occur in the sample.")
        positive = (self.length, self.decay, self.second, self.strength)
        if min(positive) <= 0 or self.decay > 1:
            raise InputError(
                f"length, decay, second and strength are {positive}; allowed: above 0, and decay at most 1."
            )
        if self.samples < 1000:
            raise InputError(f"samples is {self.samples}; allowed: 1000 or more.")

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def polygon(self) -> np.ndarray:
        """W, shape (2, features)."""
        angles = 2 * math.pi * np.arange(self.features) / self.features
        return self.length * np.stack([np.cos(angles), np.sin(angles)])

    @cached_property
    def data(self) -> np.ndarray:
        """The sample that the instruments see, shape (90, features): the first inputs that are not 0."""
        x = sparse(8000, self.features, self.p, self.generator())
        return x[x.any(1)][:_EXAMPLES]

    @property
    def importance(self) -> np.ndarray:
        """Weight of each feature's squared error."""
        return self.decay ** np.arange(self.features)

    def model(self) -> Bottleneck:
        """The polygon, with small negative biases."""
        return Bottleneck(self.polygon, np.full(self.features, _BIAS))

    def weighted(self, found: Tensor, x: Tensor) -> Tensor:
        """Mean over examples of Σ I_i (x̂_i - x_i)²."""
        return ((found - x) ** 2 @ torch.from_numpy(self.importance)).mean()

    def make_objective(self) -> Objective:
        """The loss at the polygon, on the sample."""
        x = torch.from_numpy(self.data)
        return Objective(self.model(), self.weighted, (x, x))

    def make_run(self) -> Run:
        """Full-batch gradient descent from the polygon; an epoch is a step."""
        model, x = self.model(), torch.from_numpy(self.data)
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate)
        return Run(model, self.weighted, optimizer, (x, x), epochs=200, batch_size=len(x), shuffle=False)

    # ------------------------------------------------------------------ what is known: gradient and Hessian

    @property
    def here(self) -> np.ndarray:
        """Parameters, flat: W row by row, then b."""
        return np.concatenate([self.polygon.ravel(), np.full(self.features, _BIAS)])

    def first(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reconstructions and their Jacobian (examples, n, params), and ∂loss/∂x̂ of each example, at any parameters.

        ∂z_i/∂w_k = [i = k] Σ_j x_j w_j + x_k w_i, ∂z_i/∂b_k = [i = k], and nothing where z_i < 0.
        """
        n, x = self.features, self.data
        w, b, eye = flat[: 2 * n].reshape(2, n), flat[2 * n :], np.eye(n)
        z = x @ w.T @ w + b
        by_weight = np.einsum("ik,sa->siak", eye, x @ w.T) + np.einsum("ai,sk->siak", w, x)
        by_bias = np.broadcast_to(eye, (len(x), n, n))
        jacobian = np.concatenate([by_weight.reshape(len(x), n, 2 * n), by_bias], axis=2)
        found = np.maximum(z, 0)
        return found, jacobian * (z > 0)[..., None], 2 * self.importance * (found - x)

    @cached_property
    def hessian(self) -> np.ndarray:
        """Gauss-Newton part, and ∂²z_i/∂w_k∂w_l = ([i = k] x_l + [i = l] x_k) 1 pulled by the errors."""
        n, x = self.features, self.data
        found, jacobian, pull = self.first(self.here)
        hessian = np.einsum("i,sip,siq->pq", 2 * self.importance, jacobian, jacobian) / len(x)
        crossed = (pull * (found > 0)).T @ x / len(x)
        hessian[: 2 * n, : 2 * n] += np.kron(np.eye(2), crossed + crossed.T)
        return hessian

    @property
    def rate(self) -> float:
        """Learning rate of the run: 0.5/λmax."""
        return 0.5 / float(np.linalg.eigvalsh(self.hessian)[-1])

    def truths(self) -> dict[str, Truth]:
        """The paper-and-pencil cases by experiments, the polygon by its derivatives."""
        found, jacobian, pull = self.first(self.here)
        rows, size = np.einsum("si,sip->sp", pull, jacobian), len(self.here)
        losses = (found - self.data) ** 2 @ self.importance
        layers = [size]
        return {
            **self._paper_truths(),
            **_matrices.curvature_truths(self.hessian, rows.mean(0), layers=layers, source=_BY_HAND),
            **_matrices.example_truths(rows, self.hessian, layers=layers, source=_BY_HAND),
            **_matrices.kernel_truths(jacobian, source=_BY_HAND),
            **motion_truths(self._path(), _EXAMPLES),
            **self._rotation_truths(found),
            "example_losses": Truth(losses, source="Definition.", strict=True),
            "weight_norm": Truth(np.array([np.linalg.norm(self.here)]), source="Definition."),
            "weight_rank": Truth(
                np.array([2.0]), source="The corners of a polygon are a tight frame: σ₁ = σ₂."
            ),
            "weight_rank.largest": Truth(
                np.array([self.length * math.sqrt(self.features / 2)]),
                reading="largest",
                source="Σ_i w_i w_iᵀ = (n/2) length² 1.",
            ),
            "label_disagreement_floor": Truth(0.0, source="The target is the input."),
        }

    def _path(self) -> Path:
        """Gradient descent followed by hand."""
        points, gradients, losses = [self.here], [], []
        for _ in range(STEPS + 1):
            found, jacobian, pull = self.first(points[-1])
            gradients.append(np.einsum("si,sip->p", pull, jacobian) / len(found))
            losses.append(float(((found - self.data) ** 2 @ self.importance).mean()))
            points.append(points[-1] - self.rate * gradients[-1])
        return Path(np.array(points[:-1]), np.array(gradients), np.array(losses), self.hessian, self.rate)

    def _rotation_truths(self, found: np.ndarray) -> dict[str, Truth]:
        """The same network with all columns turned: equal as a function, far away as a point.

        On the straight line between them W is turned and shrunk, so that WᵀW is multiplied by a number.
        """
        at = np.linspace(0, 1, 11)
        shrunk = np.abs(1 - at + at * np.exp(1j * _TURN)) ** 2
        z = self.data @ self.polygon.T @ self.polygon
        lines = np.maximum(shrunk[:, None, None] * z + _BIAS, 0)
        excess = ((lines - self.data) ** 2 @ self.importance).mean(1)
        excess = excess - excess[0]
        apart = 2 * math.sin(_TURN / 2) * float(np.linalg.norm(self.polygon))
        zero = Truth(0.0, 1e-9, source=_ROTATED, other=_rotated)
        return {
            "function_distance": zero,
            "prediction_disagreement": zero,
            "ntk_drift": zero,
            "distance_from_init": Truth(apart, source="A chord of the circle.", other=_rotated),
            "linear_connectivity": Truth(
                excess, source="WᵀW shrinks on the chord.", reading="excess", error="none", other=_rotated
            ),
        }

    # ------------------------------------------------------------------ what is known: on paper

    def _paper_truths(self) -> dict[str, Truth]:
        s, split = self.strength, "Split by which of the two features are present."
        return {
            "loss_dedicated": Truth(
                self.second * self.p / 3, source="I·E x₂².", trial=self._loss((1.0, 0.0))
            ),
            "loss_antipodal": Truth(
                (1 + self.second) * antipodal_loss(self.p, s),
                source=split,
                trial=self._loss((math.sqrt(s), -math.sqrt(s))),
            ),
            "best_strength": Truth(best_strength(self.p), 1e-3, source="dℓ/ds = 0.", trial=self._search),
            "pentagon_angles": Truth(
                np.full(5, 72.0),
                2 / 72,
                "One feature at a time.",
                "Elhage et al. 2022.",
                trial=_trained_angles,
            ),
            "pentagon_loss": Truth(
                best_pentagon()[0],
                1e-3,
                "One feature at a time.",
                "Integrals of squares.",
                trial=_trained_loss,
            ),
            "dictionary": Truth(1.0, 0.05, "Sparse features.", "Corners are planted.", trial=self._recover),
        }

    def _loss(self, weight: tuple[float, float]) -> Trial:
        """Loss of two features in one dimension, over random inputs."""

        def trial(generator: torch.Generator) -> Measurement:
            x, w = sparse(self.samples, 2, self.p, generator), np.array(weight)
            found = np.maximum((x @ w)[:, None] * w, 0)
            losses = (x - found) ** 2 @ np.array([1.0, self.second])
            return trial_result("loss", losses.mean(), losses.std(ddof=1) / math.sqrt(len(losses)))

        return trial

    def _search(self, generator: torch.Generator) -> Measurement:
        """Best s on a fine grid of the loss, integrated by Gauss-Legendre quadrature on the triangle x₂ < x₁."""
        nodes, weights = np.polynomial.legendre.leggauss(8)
        u, w = (nodes + 1) / 2, weights / 2
        grid = np.linspace(0.5, 2.0, 3001)[:, None]
        alone = ((1 - grid) * u) ** 2 @ w
        high, low = np.repeat(u, 8), np.repeat(u, 8) * np.tile(u, 8)
        area = np.repeat(w * u, 8) * np.tile(w, 8)
        both = (
            high - grid * (high - low)
        ) ** 2 @ area + low**2 @ area  # as the larger one, and as the smaller one
        losses = self.p * (1 - self.p) * alone + self.p**2 * both
        return trial_result("best_strength", float(grid[np.argmin(losses), 0]))

    def _recover(self, generator: torch.Generator) -> Measurement:
        """Mean best cosine of the corners with the centres of k-means on the directions of Wx, for sparse features."""
        hidden = sparse(4000, self.features, _SPARSE, generator) @ self.polygon.T
        norms = np.linalg.norm(hidden, axis=1, keepdims=True)
        directions = hidden[norms[:, 0] > 1e-9] / norms[norms[:, 0] > 1e-9]
        centres = directional_means(directions, self.features, generator)
        return trial_result("dictionary", (self.polygon.T @ centres.T).max(1).mean() / self.length)

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """What training finds for five features, and both losses of two features against p."""
        left, right = figure.subplots(1, 2)
        weight, _, _ = trained_pentagon(self.generator())
        left.quiver(np.zeros(5), np.zeros(5), *weight, angles="xy", scale_units="xy", scale=1)
        left.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", title="five features after training")
        left.set(xlabel="first dimension", ylabel="second dimension")
        p = np.linspace(0.01, 1, 100)
        right.plot(p, self.second * p / 3, label="dedicated")
        right.plot(p, (1 + self.second) * p**2 / 6, label="antipodal, s = 1")
        change = 2 * self.second / (1 + self.second)
        if change <= 1:
            right.axvline(change, color="0.6", ls=":", label="p = 2I/(1 + I)")
        right.set(
            xlabel="probability p of a feature", ylabel="loss (ℓ)", title="two features in one dimension"
        )
        right.legend()


def sparse(count: int, features: int, p: float, generator: torch.Generator) -> np.ndarray:
    """Random inputs (count, features), each entry uniform on [0, 1] with probability p and else 0."""
    present = torch.rand(count, features, generator=generator, dtype=torch.float64) < p
    return (present * torch.rand(count, features, generator=generator, dtype=torch.float64)).numpy()


def directional_means(
    directions: np.ndarray, count: int, generator: torch.Generator, starts: int = 20
) -> np.ndarray:
    """Centres of k-means by cosine, shape (count, dimensions): the best of several random starts."""
    best, result = -math.inf, directions[:count]
    for _ in range(starts):
        centres = directions[torch.randperm(len(directions), generator=generator)[:count].numpy()]
        for _ in range(30):
            nearest = (directions @ centres.T).argmax(1)
            sums = np.stack([directions[nearest == k].sum(0) for k in range(count)])
            sizes = np.linalg.norm(sums, axis=1, keepdims=True)
            centres = np.where(sizes > 0, sums / np.maximum(sizes, 1e-300), centres)
        score = float((directions @ centres.T).max(1).mean())
        if score > best:
            best, result = score, centres
    return result


def antipodal_loss(p: float, s: float) -> float:
    """ℓ(s), the loss of one of two antipodal features of importance 1.

    >>> round(antipodal_loss(0.3, 1.0), 6), round(antipodal_loss(0.3, 1.1), 6)
    (0.015, 0.015025)
    """
    return p * (1 - p) * (1 - s) ** 2 / 3 + p**2 * (1 / 3 - s / 4 + s**2 / 12)


def best_strength(p: float) -> float:
    """The s of least loss.

    >>> round(best_strength(0.3), 5)
    1.04839
    """
    return (2 * (1 - p) / 3 + p / 4) / (2 * (1 - p) / 3 + p / 6)


def pentagon_loss(a: float, b: float) -> float:
    """Loss of a feature that is alone, in a pentagon of squared length a with biases b ≤ 0: integrals of squares."""
    neighbour = a * math.cos(2 * math.pi / 5)
    start = min(-b / a, 1.0)
    own = start**3 / 3 + (((1 - a) - b) ** 3 - ((1 - a) * start - b) ** 3) / (3 * (1 - a))
    return own + 2 * max(neighbour + b, 0.0) ** 3 / (3 * neighbour)


def best_pentagon() -> tuple[float, float, float]:
    """Least loss over length and bias, and where: loss, a, b."""
    exact = {"xatol": 1e-9, "fatol": 1e-13}
    found = minimize(lambda v: pentagon_loss(v[0], v[1]), (1.2, -0.2), method="Nelder-Mead", options=exact)
    return float(found.fun), float(found.x[0]), float(found.x[1])


def trained_pentagon(generator: torch.Generator, starts: int = 8) -> tuple[np.ndarray, np.ndarray, float]:
    """Train five features in two dimensions, one present at a time, from random starts; the best is kept.

    Returns:
        W (2, 5), b (5,), and the loss of a feature.
    """
    middles = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    x = (torch.eye(5, dtype=torch.float64)[:, None] * middles[:, None]).reshape(-1, 5)
    w = torch.randn(starts, 2, 5, generator=generator, dtype=torch.float64).mul_(0.5).requires_grad_()
    b = torch.zeros(starts, 1, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w, b], lr=0.02)
    losses = torch.zeros(starts, dtype=torch.float64)
    for _ in range(1000):
        optimizer.zero_grad()
        losses = (torch.relu(x @ w.mT @ w + b) - x).square().sum(2).mean(1)
        losses.sum().backward()
        optimizer.step()
    best = int(losses.detach().argmin())
    return w.detach()[best].numpy(), b.detach()[best, 0].numpy(), float(losses.detach()[best])


def _trained_angles(generator: torch.Generator) -> Measurement:
    weight, _, _ = trained_pentagon(generator)
    angles = np.sort(np.degrees(np.arctan2(weight[1], weight[0])))
    return trial_result("pentagon_angles", np.diff(angles, append=angles[0] + 360))


def _trained_loss(generator: torch.Generator) -> Measurement:
    return trial_result("pentagon_loss", trained_pentagon(generator)[2])


def _rotated(toy: Superposition) -> Tensor:
    cos, sin = math.cos(_TURN), math.sin(_TURN)
    turned = np.array([[cos, -sin], [sin, cos]]) @ toy.polygon
    return torch.from_numpy(np.concatenate([turned.ravel(), np.full(toy.features, _BIAS)]))


TOY = Superposition
