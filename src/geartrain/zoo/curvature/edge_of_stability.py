r"""The edge of stability: gradient descent trains at a sharpness that it cannot stand.

A small network (two hidden tanh layers, one input, one output) learns $\mathrm{sign}(\sin 4x)$ at 40 points by plain
full-batch gradient descent. No noise, no schedule, nothing hidden; and its sharpness $\lambda$, the largest
eigenvalue of the Hessian, climbs until $\eta\lambda = 2$ and then stays there.

**Linear stability.** On the parabola around the present point a step multiplies the part along eigenvector $i$ by
$1 - \eta\lambda_i$. With $\eta\lambda > 2$ that part alternates in sign and grows: descent on a parabola would
diverge. Two copies of the run that differ by a little along the top eigenvector part, after one step, by exactly
this factor; this is theory, and the toy checks it.

**What is observed beyond it.** While nothing stands in its way the sharpness grows (*progressive sharpening*).
Beyond the threshold the oscillation grows too, until the third derivative of the loss makes it pay: swinging across
the valley pushes the weights towards where it is wider. So $\eta\lambda/2$ hovers around 1 and the loss goes on
falling, no longer at every step but on the average. That is a law of experience, not a theorem, and the truths that
rest on it say so. A start with $\eta\lambda$ far above 2 is not caught: it diverges; and so do some starts below it
whose sharpness climbs too fast (at $\eta = 0.4$, two seeds of three).

**What is exact here.** All derivatives of this network are written out by hand: its Hessian, its tangent kernel, and
thus every step that it takes. Instruments are compared with those.

**How to read it.** A value of $\eta\lambda/2$ near 1 is how healthy full-batch training looks. Below it one could
step further; well above it something is about to blow up. With $\eta = 0.02$, the control, it stays below one half
for thousands of steps.

**What to vary.** `step` ($\eta$: 0.02 never gets there, 0.2 does, 0.8 diverges at once), `steps` (the moment
at which it is measured), `hidden`, `gain` (scale of the start), `seed`.

Sources: Cohen et al. 2021, arXiv 2103.00065; Damian, Nichani, Lee 2022, arXiv 2209.15594 (how the valley pushes
back).
Ledger: 0.21, 4.12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._chain import effective_rank
from geartrain.zoo._descent import STEPS, Path, motion_truths
from geartrain.zoo._losses import half_square
from geartrain.zoo._matrices import curvature_truths, example_truths, kernel_truths
from geartrain.zoo.curvature._tanh_net import TanhNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = "First and second derivatives of a tanh network by hand (textbook)."
_OBSERVED = "Cohen et al. 2021, arXiv 2103.00065, sections 3.1 and 3.2: found in experiments, not derived."


@dataclass(frozen=True)
class EdgeOfStability(Toy):
    """A tanh network after some steps of full-batch gradient descent.

    Attributes:
        step: Step size η.
        steps: After how many steps it is measured.
        hidden: Width of both hidden layers.
        examples: Number of points on [-1, 1].
        gain: Standard deviation of the first weights times √inputs; biases start at 0.
    """

    title: ClassVar[str] = "Edge of stability"
    ledger: ClassVar[tuple[str, ...]] = ("0.21", "4.12")

    step: float = 0.2
    steps: int = 1500
    hidden: int = 30
    examples: int = 40
    gain: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.step <= 10 or not 0 <= self.steps <= 20_000:
            raise InputError(
                f"step is {self.step} and steps {self.steps}; allowed: above 0 to 10, and 0 to 20000."
            )
        if not 2 <= self.hidden <= 40 or not 6 <= self.examples <= 100 or self.examples % 2:
            raise InputError(
                f"hidden is {self.hidden} and examples {self.examples}; allowed: 2 to 40 units, 6 to 100 examples, an "
                "even number, so that none lies at 0, where the target jumps."
            )
        if not 0.1 <= self.gain <= 5:
            raise InputError(f"gain is {self.gain}; allowed: 0.1 to 5.")
        with np.errstate(over="ignore", invalid="ignore"):
            diverged = not np.isfinite(self.now.loss)
        if diverged:
            raise InputError(
                f"Training with step {self.step} diverges within {self.steps} steps: its sharpness at the start is "
                f"{self.start.sharpness:.3g}, the threshold 2/step is {2 / self.step:.3g}. Lower step, gain or steps."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def start(self) -> TanhNet:
        """The network before training."""
        n, k, source = self.examples, self.hidden, self.generator()
        x = np.linspace(-1, 1, n)[:, None]
        shapes = ((k, 1), (k, k), (1, k))
        first, second, last = (
            self.gain * torch.randn(s, generator=source, dtype=torch.float64).numpy() / math.sqrt(s[1])
            for s in shapes
        )
        weights = (first, np.zeros(k), second, np.zeros(k), last, np.zeros(1))
        return TanhNet(x, np.sign(np.sin(4 * x[:, 0])), weights)

    @cached_property
    def now(self) -> TanhNet:
        """The network at the toy's moment."""
        return self.start.descend(self.step, self.steps)

    def objective_at(self, net: TanhNet) -> Objective:
        """Half the mean squared error at these weights."""
        return Objective(net.model(), half_square, self.data())

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Points and targets, shape (examples, 1) each."""
        return torch.from_numpy(self.start.inputs), torch.from_numpy(self.start.targets[:, None])

    def make_objective(self) -> Objective:
        """The loss at the toy's moment."""
        return self.objective_at(self.now)

    def make_run(self) -> Run:
        """Full-batch gradient descent, going on from there."""
        return self.run_from(self.now)

    def run_from(self, net: TanhNet) -> Run:
        """Full-batch gradient descent from these weights; an epoch is a step."""
        model, size = net.model(), self.examples
        optimizer = torch.optim.SGD(model.parameters(), lr=self.step)
        return Run(model, half_square, optimizer, self.data(), epochs=5000, batch_size=size, shuffle=False)

    # ------------------------------------------------------------------ what is known

    @property
    def ratio(self) -> float:
        """ηλ/2 at the toy's moment, by hand."""
        return self.step * self.now.sharpness / 2

    def path(self) -> Path:
        """The next steps of the run."""
        nets = [self.now]
        for _ in range(STEPS):
            nets.append(nets[-1].at(nets[-1].flat - self.step * nets[-1].gradient))
        points, gradients = np.array([n.flat for n in nets]), np.array([n.gradient for n in nets])
        losses = np.array([n.loss for n in nets])
        return Path(points, gradients, losses, self.now.hessian, self.step, self.now.sizes)

    def truths(self) -> dict[str, Truth]:
        """Curvature, kernel, noise and motion by hand; the factor of the theory; the level of experience."""
        net = self.now
        rows = net.jacobian * net.residuals[:, None]
        truths = curvature_truths(net.hessian, net.gradient, layers=net.sizes, source=_SOURCE)
        truths |= example_truths(rows, layers=net.sizes, source=_SOURCE)
        truths |= kernel_truths(net.jacobian[:, None], net.targets[:, None], source=_SOURCE)
        del truths["jacobian_rank"]  # points on a line leave no gap between what counts and rounding
        truths |= motion_truths(self.path(), self.examples)
        whole = {"num_products": len(net.flat)}
        for name in ("hessian_trace", "hessian_diagonal"):
            truths[name] = replace(truths[name], options=whole)
        return truths | self._gauss_newton() | self._signal() | self._since_start() | self._stability()

    def _gauss_newton(self) -> dict[str, Truth]:
        """The part of the Hessian that the tangent kernel knows."""
        values = np.linalg.eigvalsh(self.now.jacobian @ self.now.jacobian.T)[::-1] / self.examples
        given = partial(Truth, source="JᵀJ/n and JJᵀ/n share their eigenvalues.")
        ggn = {"operator": "ggn"}
        return {
            "hessian_spectrum.ggn": given(
                values[:4], 1e-5, instrument="hessian_spectrum", options={**ggn, "k": 4, "tol": 1e-8}
            ),
            "hessian_density.ggn_negative": given(
                0.0, instrument="hessian_density", reading="negative_mass", options=ggn
            ),
        }

    def _signal(self) -> dict[str, Truth]:
        """What flows through the network, forward and back."""
        net, given = self.now, partial(Truth, source="The forward and backward pass by hand.")
        matrices = net.weights[::2]
        parts = [np.concatenate([net.flat[p] for p in net.places[i : i + 2]]) for i in (0, 2, 4)]
        errors, layers = net.residuals[:, None], net.layers
        slopes = 1 - np.concatenate([layers[1], layers[3]], axis=1) ** 2
        covariances = [np.cov(h.T, ddof=0).reshape(h.shape[1], -1) for h in layers]
        targets = net.targets
        return {
            "example_losses": given(0.5 * net.residuals**2, strict=True),
            "activation_flow": given(np.array([np.sqrt((h**2).mean()) for h in layers])),
            "gradient_flow": given(np.array([np.sqrt(((errors * g) ** 2).mean()) for g in net.backward])),
            "activation_rank.plug_in": given(
                np.array([np.trace(c) ** 2 / (c**2).sum() for c in covariances]), reading="plug_in"
            ),
            "saturated_units": given(float((slopes < 0.05).mean())),
            "jacobian_singular_values": given(np.array([np.abs(net.input_slopes).mean()])),
            "weight_norm": given(np.array([np.linalg.norm(p) for p in parts])),
            "weight_rank": given(
                np.array([effective_rank(np.linalg.svd(m, compute_uv=False)) for m in matrices])
            ),
            "missing_biases": given(0.0),
            "output_target_match": given(1.0),
            "constant_loss": given(0.5 * float(targets.var()), 1e-5),
            "target_scale": given(max(float(targets.std()), abs(float(targets.mean())))),
            "parameter_symmetry": given(0.0),
            "gradient_fidelity": given(1.0),
            "decay_pull": given(0.0),
            "dead_units": given(math.nan),
        }

    def _since_start(self) -> dict[str, Truth]:
        """Beside the start, and beside a copy whose units have changed places."""
        net, old = self.now, self.start
        k, k0 = net.jacobian @ net.jacobian.T, old.jacobian @ old.jacobian.T
        f, f0 = net.layers[4][:, 0], old.layers[4][:, 0]
        moved, given = net.flat - old.flat, partial(Truth, tolerance=1e-5, other=_at_start, source=_SOURCE)
        t = np.linspace(0, 1, 11)
        line = np.array([net.at(net.flat - s * moved).loss for s in t])
        known: dict[str, Truth] = {
            "permuted_barrier": given(
                0.0, other=_shuffled, source="Exchanging hidden units changes no function."
            )
        }
        if not self.steps:
            return known
        drift = float(np.linalg.norm(k - k0) / np.linalg.norm(k0))
        scale = math.sqrt(0.5 * float(f @ f) + 0.5 * float(f0 @ f0))
        return known | {
            "distance_from_init": given(float(np.linalg.norm(moved))),
            "function_distance": given(float(np.linalg.norm(f - f0)) / scale, strict=True),
            "prediction_disagreement": given(float(((f - f0) ** 2).mean() / net.targets.var()), strict=True),
            "linearised_error": given(
                float(np.linalg.norm(f - f0 - old.jacobian @ moved) / np.linalg.norm(f - f0)), strict=True
            ),
            "ntk_drift": given(drift),
            "lazy_index": given(drift / (abs(net.loss - old.loss) / old.loss)),
            "linear_connectivity": given(
                line - (1 - t) * net.loss - t * old.loss, reading="excess", error="none"
            ),
        }

    def _stability(self) -> dict[str, Truth]:
        """The factor 1 - ηλ, and, where training has got so far, the level at which it hovers."""
        found = {
            "growth_along_sharpest": Truth(
                1 - self.step * self.now.sharpness,
                1e-4,
                source="A step multiplies a small difference by I - ηH.",
                trial=self._growth,
            )
        }
        if self.at_edge:
            found["level_at_edge"] = Truth(1.0, 0.1, _HOVERS, _OBSERVED, trial=self._level)
        return found

    @property
    def at_edge(self) -> bool:
        """Whether the sharpness has reached the threshold by the toy's moment."""
        return self.steps >= 500 and self.ratio > 0.9

    def _growth(self, generator: torch.Generator) -> Measurement:
        """How far two runs are apart after a step, if they differ by a little along the top eigenvector."""
        top, small = self.now.sharpest, 1e-6
        ends = [self.now.at(self.now.flat + s * top).descend(self.step, 1).flat for s in (small, -small)]
        return trial_result("growth_along_sharpest", float((ends[0] - ends[1]) @ top / (2 * small)))

    def _level(self, generator: torch.Generator) -> Measurement:
        """Mean of ηλ/2 over four moments after the toy's."""
        net, levels = self.now, []
        for _ in range(4):
            net = net.descend(self.step, 83)
            levels.append(self.step * net.sharpness / 2)
        return trial_result("level_at_edge", float(np.mean(levels)))

    def follow(self, steps: int, every: int) -> tuple[np.ndarray, np.ndarray]:
        """Loss and ηλ/2 from the start on."""
        net, rows = self.start, []
        for _ in range(0, steps, every):
            rows.append((net.loss, self.step * net.sharpness / 2))
            net = net.descend(self.step, every)
        losses, ratios = np.array(rows).T
        return losses, ratios

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Sharpness over its threshold, and the loss, for this step and for the control."""
        above, below = figure.subplots(2, 1, sharex=True)
        large = replace(self, steps=0, hidden=12)
        for toy, colour in ((large, "C3"), (replace(large, step=0.02), "C0")):
            loss, ratio = toy.follow(2000, 50)
            at = 50 * np.arange(len(loss))
            above.plot(at, ratio, color=colour, label=f"η = {toy.step:g}")
            below.semilogy(at, loss, color=colour, label=f"η = {toy.step:g}")
        above.axhline(1, color="0.4", ls=":")
        above.set(xlabel="step", ylabel="ηλ/2", title=f"{self.title} (width 12)")
        below.set(xlabel="step", ylabel="loss (ℓ)")
        above.legend()


_HOVERS = "Full batch, past the phase of sharpening; an observed law."


def _at_start(toy: EdgeOfStability) -> Objective:
    return toy.objective_at(toy.start)


def _shuffled(toy: EdgeOfStability) -> Objective:
    """The same function: hidden units in another order."""
    w1, b1, w2, b2, last, c = toy.now.weights
    one, two = np.roll(np.arange(toy.hidden), 3), np.arange(toy.hidden)[::-1]
    weights = (w1[one], b1[one], w2[two][:, one], b2[two], last[:, two], c)
    return toy.objective_at(TanhNet(toy.now.inputs, toy.now.targets, weights))


TOY = EdgeOfStability
