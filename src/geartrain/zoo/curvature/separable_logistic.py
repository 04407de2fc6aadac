r"""Separable logistic regression: the minimum lies at infinity.

Points $x_i$ with labels $y_i = \pm 1$ that a line through the origin separates, and the logistic loss
$L(w) = \tfrac1n\sum_i \ln(1 + e^{-y_i w\cdot x_i})$. No $w$ is a minimum: making it longer always helps. Training
never ends, gradients and curvature fade away, and yet the *direction* of $w$ settles, on the line of largest margin.

**Derivation.** Write $z_i = y_i x_i$. The gradient is $-\tfrac1n\sum_i \sigma(-w\cdot z_i)\,z_i$. Late, $\sigma(-m)
\approx e^{-m}$, and only the points of least margin count. Try $w(t) = \hat w \ln t + \text{const}$: then
$e^{-w\cdot z_i} \propto t^{-\hat w\cdot z_i}$, and $\dot w = \hat w/t$ needs $\hat w\cdot z_i = 1$ for those who push
(the support) and above 1 for the others, with $\hat w = \sum_i\alpha_i z_i$, $\alpha_i \ge 0$. These are the
conditions of the support vector machine: $\hat w = u/\gamma$ with the largest margin

$$\gamma = \max_{|u|=1}\min_i u\cdot z_i ,$$

which is the distance of the convex hull of the $z_i$ from the origin. So $\lVert w\rVert \approx \ln t/\gamma$, the
loss falls as $1/t$, and the direction is off by $O(1/\ln t)$: halving the rest of the angle takes the
square of the number of steps.

**Everything local is known too.** With $p_i = \sigma(w\cdot z_i)$ the Hessian is $\tfrac1n\sum
p_i(1-p_i)z_iz_i^\top$, an example's gradient $-(1-p_i)z_i$, the tangent kernel $x_i\cdot x_j$. Sharpness fades as
$1/t$, so that any step size is stable in the end.

**How to read it.** Where cross-entropy keeps falling and weights keep growing on data that are fitted, nothing is
wrong and nothing converges: look at the normalised margin $\min_i w\cdot z_i/\lVert w\rVert$. (For homogeneous nets
of depth $D$ the same holds for $\lVert\theta\rVert^D$; Lyu and Li.)

**What to vary.** `points` and `labels`; `steps` (when it is measured: 10 still turns, 100 000 has settled); `step`.

Sources: Soudry et al. 2018, arXiv 1710.10345; Lyu, Li 2020, arXiv 1906.05890; Ji, Telgarsky 2020, arXiv 2006.06657.
Ledger: 1.22.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._descent import STEPS, Path, motion_truths
from geartrain.zoo._linear import linear
from geartrain.zoo._matrices import curvature_truths, example_truths, kernel_truths, linear_layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = "Logistic regression: H = mean p(1-p) zzᵀ, gradient -mean (1-p) z (textbook)."
_LATE = "Soudry et al. 2018, arXiv 1710.10345, theorem 3."


@dataclass(frozen=True)
class SeparableLogistic(Toy):
    """Logistic regression without bias on separable points in the plane.

    Attributes:
        points: The x, two coordinates each.
        labels: Their y, 1 or -1.
        step: Step size of gradient descent.
        steps: After how many steps from zero the objective is measured.
    """

    title: ClassVar[str] = "Separable logistic regression"
    ledger: ClassVar[tuple[str, ...]] = ("1.22",)

    points: tuple[tuple[float, float], ...] = ((1.0, 0.5), (0.6, 1.2), (-1.0, -0.4), (-0.5, -1.0))
    labels: tuple[int, ...] = (1, 1, -1, -1)
    step: float = 0.5
    steps: int = 500

    def __post_init__(self) -> None:
        if (
            len(self.points) != len(self.labels)
            or not 4 <= len(self.points) <= 40
            or set(self.labels) != {1, -1}
        ):
            raise InputError(
                f"{len(self.points)} points have the labels {self.labels}; allowed: 4 to 40 points with a label of 1 "
                "or -1 each, both of them present."
            )
        if self.step <= 0 or not 1 <= self.steps <= 100_000:
            raise InputError(
                f"step is {self.step} and steps {self.steps}; allowed: a step above 0 and 1 to 100000 steps."
            )
        if self.max_margin[0] <= 1e-3:
            raise InputError(
                "No line through the origin separates the points clearly; move them, or flip labels."
            )

    # ------------------------------------------------------------------ how it is made

    @property
    def inputs(self) -> np.ndarray:
        """x, shape (points, 2)."""
        return np.array(self.points, dtype=float)

    @property
    def flipped(self) -> np.ndarray:
        """Z = y x, shape (points, 2)."""
        return self.inputs * np.array(self.labels)[:, None]

    @cached_property
    def weights(self) -> np.ndarray:
        """W after the toy's steps of gradient descent from zero."""
        return self.descend(self.steps)[-1]

    def descend(self, steps: int, every: int | None = None) -> np.ndarray:
        """Gradient descent from zero by hand: w at the start, at every so many steps, and at the end."""
        rate, z = self.step / len(self.points), [(float(a), float(b)) for a, b in self.flipped]
        u = v = 0.0
        rows = [(u, v)]
        for k in range(1, steps + 1):
            pull = [1 / (1 + math.exp(u * a + v * b)) for a, b in z]
            u += rate * sum(p * a for p, (a, _) in zip(pull, z, strict=True))
            v += rate * sum(p * b for p, (_, b) in zip(pull, z, strict=True))
            if k == steps or (every and k % every == 0):
                rows.append((u, v))
        return np.array(rows)

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs, and targets 0 and 1, shape (points, 1)."""
        return torch.from_numpy(self.inputs), (
            torch.tensor(self.labels, dtype=torch.float64)[:, None] + 1
        ) / 2

    def make_objective(self) -> Objective:
        """The mean logistic loss after the toy's steps."""
        return self.objective_at(self.weights)

    def objective_at(self, weights: np.ndarray) -> Objective:
        """The same elsewhere."""
        return Objective(linear(weights[None]), functional.binary_cross_entropy_with_logits, self.data())

    def make_run(self) -> Run:
        """Full-batch gradient descent, going on from there."""
        model, size = linear(self.weights[None]), len(self.points)
        optimizer, loss = (
            torch.optim.SGD(model.parameters(), lr=self.step),
            functional.binary_cross_entropy_with_logits,
        )
        return Run(model, loss, optimizer, self.data(), epochs=1000, batch_size=size, shuffle=False)

    # ------------------------------------------------------------------ what is known

    @cached_property
    def max_margin(self) -> tuple[float, np.ndarray]:
        """γ and u: the direction of largest least margin, from the points and pairs that could support it."""
        z = self.flipped
        candidates = [p / np.linalg.norm(p) for p in z]
        for i, p in enumerate(z):
            for q in z[i + 1 :]:
                normal = np.array([q[1] - p[1], p[0] - q[0]])  # equal margins on both
                if np.linalg.norm(normal) > 0:
                    unit = normal / np.linalg.norm(normal)
                    candidates += [unit, -unit]
        margins = [float((z @ u).min()) for u in candidates]
        best = int(np.argmax(margins))
        return margins[best], candidates[best]

    def margins(self, weights: np.ndarray) -> np.ndarray:
        """w·z of every point."""
        return self.flipped @ weights

    def loss(self, weights: np.ndarray) -> np.ndarray:
        """Loss of every point."""
        return np.logaddexp(0.0, -self.margins(weights))

    def rows(self, weights: np.ndarray) -> np.ndarray:
        """Gradient of every point's loss, shape (points, 2)."""
        return -self.flipped / (1 + np.exp(self.margins(weights)))[:, None]

    def hessian(self, weights: np.ndarray) -> np.ndarray:
        """Mean p(1-p) zzᵀ."""
        p = 1 / (1 + np.exp(-self.margins(weights)))
        return (self.flipped.T * (p * (1 - p))) @ self.flipped / len(p)

    def path(self) -> Path:
        """The next steps of the run."""
        points = [self.weights]
        for _ in range(STEPS):
            points.append(points[-1] - self.step * self.rows(points[-1]).mean(0))
        gradients = np.array([self.rows(w).mean(0) for w in points])
        losses = np.array([self.loss(w).mean() for w in points])
        return Path(np.array(points), gradients, losses, self.hessian(points[0]), self.step)

    def truths(self) -> dict[str, Truth]:
        """Curvature, noise, kernel and motion at the weights; margins and answers; the way to infinity."""
        w, size = self.weights, len(self.points)
        rows, hessian = self.rows(w), self.hessian(w)
        truths = curvature_truths(hessian, rows.mean(0), layers=(2,), source=_SOURCE)
        truths |= example_truths(rows, hessian, layers=(2,), source=_SOURCE)
        truths |= kernel_truths(linear_layer(self.inputs, 1), source=_SOURCE) | motion_truths(
            self.path(), size
        )
        return truths | self._function() | self._answers() | self._beside_zero() | self._late()

    def _function(self) -> dict[str, Truth]:
        """Losses, weights and signal of a linear map, by hand."""
        w, x, given = self.weights, self.inputs, partial(Truth, source=_SOURCE)
        length, errors = float(np.linalg.norm(w)), self.rows(w)
        t = np.linspace(-1, 1, 11)
        turned = np.array([w[1], -w[0]])  # across the weights, as long as they are
        slice_ = np.array([self.loss(w + s * turned).mean() for s in t]) - self.loss(w).mean()
        back = np.abs(errors).max(1) / np.abs(self.flipped).max(1)  # 1 - p
        return {
            "example_losses": given(self.loss(w), strict=True),
            "example_losses.mean": given(float(self.loss(w).mean()), reading="mean", strict=True),
            "weight_norm": given(np.array([length])),
            "weight_rank": given(np.array([1.0])),
            "jacobian_singular_values": given(np.array([length])),
            "activation_flow": given(np.array([np.sqrt(((x @ w) ** 2).mean())])),
            "gradient_flow": given(np.array([np.sqrt((back**2).mean())])),
            "input_affinity": given(0.0),
            "missing_biases": given(1.0),
            "output_target_match": given(1.0),
            "output_probability": given(0.0),
            "symmetry_orbit_dimension": given(0.0),
            "loss_slice": given(
                slice_,
                reading="rise",
                error="none",
                options={"direction": torch.from_numpy(turned.copy()), "points": 11},
            ),
            "gradient_fidelity": given(1.0),
            "decay_pull": given(0.0),
            "frozen_parameters": given(0.0),
        }

    def _answers(self) -> dict[str, Truth]:
        """What a classifier is judged by."""
        w, x, given = self.weights, self.inputs, partial(Truth, source=_SOURCE, strict=True)
        margins, length = self.margins(w), float(np.linalg.norm(w))
        share = max(self.labels.count(1), self.labels.count(-1)) / len(self.labels)
        spread = x - x.mean(0)
        lost = {
            norm: float((margins > 0).mean() - (margins > size).mean())
            for norm, size in (
                ("linf", 0.1 * math.sqrt((spread**2).mean()) * float(np.abs(w).sum())),
                ("l2", 0.1 * math.sqrt((spread**2).sum(1).mean()) * length),
            )
        }
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share) if share < 1 else 0.0
        found = {
            "normalised_margin": given(
                float(margins.min()) / length, source="min w·z/‖w‖: linear, so geometric."
            ),
            "margin_distribution": given(float(margins.min()), reading="smallest"),
            "margin_distribution.mean": given(float(margins.mean()), reading="mean"),
            "label_balance": given(share, source="Counting."),
            "constant_loss": given(entropy, 1e-5, source="Entropy of the labels."),
            "adversarial_drop.linf": given(lost["linf"], instrument="adversarial_drop"),
            "adversarial_drop.l2": given(lost["l2"], instrument="adversarial_drop", options={"norm": "l2"}),
            "feature_scales": given(float(x.std(0).max() / x.std(0).min()), source="Definition."),
        }
        if margins.min() > 0:
            found["class_recall"] = given(1.0, subject=_run_of, source="All points are on their side.")
            found["selective_risk"] = given(0.0, source="There are no errors.")
        return found

    def _beside_zero(self) -> dict[str, Truth]:
        """Against w = 0, where everything is undecided: nothing curves in between but the loss, and that up."""
        w, x = self.weights, self.inputs
        given = partial(
            Truth, source="Outputs are linear in w, the loss is convex.", other=_at_zero, tolerance=1e-7
        )
        p = 1 / (1 + np.exp(-x @ w))
        halves = np.stack([p, 1 - p])
        mixed = (halves + 0.5) / 2
        js = 0.5 * (halves * np.log(halves / mixed)).sum(0) + 0.5 * (0.5 * np.log(0.5 / mixed)).sum(0)
        return {
            "distance_from_init": given(float(np.linalg.norm(w))),
            "linearised_error": given(0.0),
            "ntk_drift": given(0.0),
            "lazy_index": given(0.0),
            "linear_connectivity": given(0.0),
            "function_distance": given(
                float(js.mean()), strict=True, source="½KL(p‖m) + ½KL(½‖m), m = (p + ½)/2."
            ),
            "prediction_disagreement": given(
                1.0, strict=True, other=_mirrored, source="-w says the opposite everywhere."
            ),
        }

    def _late(self) -> dict[str, Truth]:
        """On the way to infinity, from 10 000 to 60 000 steps."""
        gamma, unit = self.max_margin
        given = partial(Truth, source=_LATE, assumptions="Late; corrections fall as 1/ln t.")
        return {
            "norm_per_log_step": given(1 / gamma, 0.06, trial=self._norm_slope),
            "late_normalised_margin": given(gamma, 0.02, trial=self._late_margin),
            "loss_exponent": given(-1.0, 0.05, trial=self._loss_slope),
            "late_direction": given(unit, 0.15, trial=self._late_direction),
        }

    @cached_property
    def _far(self) -> np.ndarray:
        """W at 10 000, 20 000, ..., 60 000 steps."""
        return self.descend(60_000, every=10_000)[1:7]

    def _norm_slope(self, generator: torch.Generator) -> Measurement:
        norms = np.linalg.norm(self._far, axis=1)
        return trial_result("norm_per_log_step", float(np.polyfit(np.log(np.arange(1, 7)), norms, 1)[0]))

    def _loss_slope(self, generator: torch.Generator) -> Measurement:
        losses = np.log([self.loss(w).mean() for w in self._far])
        return trial_result("loss_exponent", float(np.polyfit(np.log(np.arange(1, 7)), losses, 1)[0]))

    def _late_margin(self, generator: torch.Generator) -> Measurement:
        w = self._far[-1]
        return trial_result("late_normalised_margin", float(self.margins(w).min() / np.linalg.norm(w)))

    def _late_direction(self, generator: torch.Generator) -> Measurement:
        return trial_result("late_direction", self._far[-1] / np.linalg.norm(self._far[-1]))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The points with the line that training tends to, and the way to infinity."""
        plane, way = figure.subplots(1, 2)
        x, w, (gamma, unit) = self.inputs, self.weights, self.max_margin
        for label, colour in ((1, "C0"), (-1, "C3")):
            mine = x[np.array(self.labels) == label]
            plane.plot(mine[:, 0], mine[:, 1], "o", color=colour, label=f"label {label:+d}")
        reach = 1.2 * float(np.abs(x).max())
        for normal, style, text in ((unit, "k-", "largest margin"), (w / np.linalg.norm(w), "k:", "now")):
            plane.plot(
                [-reach * normal[1], reach * normal[1]],
                [reach * normal[0], -reach * normal[0]],
                style,
                label=text,
            )
        plane.set(
            xlabel="first input", ylabel="second input", title=f"margin γ = {gamma:.4g}", aspect="equal"
        )
        plane.legend(fontsize=8)
        marks = np.unique(np.geomspace(1, 20_000, 40).astype(int))
        path = self.descend(20_000, every=1)[marks]
        norms = np.linalg.norm(path, axis=1)
        way.semilogx(marks, norms, label="‖w‖")
        way.semilogx(marks, norms[-1] + np.log(marks / marks[-1]) / gamma, "k:", label="slope 1/γ")
        way.semilogx(
            marks, [self.margins(p).min() / n for p, n in zip(path, norms, strict=True)], label="margin/‖w‖"
        )
        way.axhline(gamma, color="0.6", lw=1)
        way.set(xlabel="step", ylabel="norm (θ), normalised margin", title=self.title)
        way.legend(fontsize=8)


def _at_zero(toy: SeparableLogistic) -> Objective:
    return toy.objective_at(np.zeros(2))


def _mirrored(toy: SeparableLogistic) -> Objective:
    return toy.objective_at(-toy.weights)


def _run_of(toy: SeparableLogistic) -> Run:
    return toy.run


TOY = SeparableLogistic
