r"""The deep linear network: straight lines as a function, sigmoids as a learner.

$f(x) = W_N \cdots W_1 x$ with whitened inputs ($\overline{xx^\top} = I$) and targets $y = Mx$,
$M = \sum_\alpha s_\alpha u_\alpha v_\alpha^\top$. What it computes is linear; how it learns is not, and yet it can be
solved. It shows plateaus with sudden drops, one direction at a time, without any nonlinearity in the function.

**Derivation.** Start aligned and balanced: every layer is diagonal in the modes, $W_l = Q_l\,\mathrm{diag}(a_\alpha)
Q_{l-1}^\top$ with $Q_0 = V$, $Q_N = U$. Then gradients keep it so, and the modes do not talk to each other. With
$a = u^{1/N}$ the loss is $\tfrac12\sum_\alpha (s_\alpha - a_\alpha^N)^2$, gradient descent is
$a \leftarrow a + \eta\, a^{N-1}(s - a^N)$ *exactly*, and gradient flow on the strength $u = a^N$ is

$$\tau\dot u = N u^{2-2/N} (s - u), \qquad N = 2:\quad u(t) = \frac{s\,e^{2st/\tau}}{e^{2st/\tau} - 1 + s/u_0},$$

with half time $\tfrac{\tau}{2s}\ln(s/u_0 - 1)$: strong modes come first, and all wait at the saddle in proportion to
$\ln(1/u_0)$. With $N > 2$ the wait grows like $u_0^{2/N-1}$ instead.

**What is conserved.** Gradient flow keeps $W_{l+1}^\top W_{l+1} - W_l W_l^\top$; descent with step $\eta$ drifts by
$O(\eta)$. Balanced nets therefore obey the *feature ansatz* exactly: with $G_l$ the gradient of the function in
layer $l$'s input, $W_l^\top W_l = (\overline{G_l G_l^\top})^{1/(N-l+1)}$.

**Symmetry.** Any invertible matrix between two layers can be undone by its inverse, so that at full rank the orbit
has $(N-1) d^2$ dimensions: that many parameters change nothing.

**What to vary.** `depth` (2: logistic curves; 3 and more: longer waits, sharper drops), `strengths` (equal ones are
learnt together, separate ones in stages), `start`, and `time`, the moment of training at which the net is measured:
before, in or after a drop.

Sources: Saxe, McClelland, Ganguli 2014, arXiv 1312.6120; Tansley, Massart, Cartis 2025, arXiv 2510.15563 (power 1/L).
Ledger: 1.11, 1.33, 1.42.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.integrate import solve_ivp

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._chain import LinearChain, chain_truths, pair_truths
from geartrain.zoo._descent import STEPS, Path, motion_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAXE = "Modes decouple for aligned balanced weights; Saxe, McClelland, Ganguli 2014, arXiv 1312.6120, eqs. 7 and 8."
_EXAMPLES = 12


@dataclass(frozen=True)
class DeepLinear(Toy):
    """A deep linear network on the way to its target, every mode at a known strength.

    Attributes:
        depth: Number of layers N.
        strengths: Singular values s of the target, one per mode; their number is the width of every layer.
        start: Strength u₀ of every mode in the beginning.
        step: Step size η.
        time: Moment t = steps · η at which the objective is measured.
    """

    title: ClassVar[str] = "Deep linear network"
    ledger: ClassVar[tuple[str, ...]] = ("1.11", "1.33", "1.42")

    depth: int = 2
    strengths: tuple[float, ...] = (2.0, 1.0, 0.5)
    start: float = 1e-3
    step: float = 1e-3
    time: float = 2.5

    def __post_init__(self) -> None:
        if not 2 <= self.depth <= 6:
            raise InputError(
                f"depth is {self.depth}; allowed: 2 to 6. One layer has no saddle; use 'quadratic'."
            )
        if not 1 <= len(self.strengths) <= 8 or min(self.strengths) <= self.start:
            raise InputError(
                f"strengths are {self.strengths} with start {self.start}; allowed: 1 to 8 numbers above the start. "
                "Choose a smaller start."
            )
        if not (self.start > 0 and self.step > 0 and self.time >= 0):
            raise InputError(
                f"start is {self.start}, step {self.step}, time {self.time}; allowed: start and step above 0, time 0 "
                "or more. At a start of 0 the net never leaves its saddle."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def bases(self) -> list[np.ndarray]:
        """Q_0 = V, Q_1, ..., Q_N = U: random orthogonal matrices, shape (width, width) each."""
        generator, width = self.generator(), len(self.strengths)
        shape = (self.depth + 1, width, width)
        draws = torch.randn(shape, generator=generator, dtype=torch.float64).numpy()
        return [np.linalg.qr(d)[0] for d in draws]

    @cached_property
    def inputs(self) -> np.ndarray:
        """Whitened: mean 0 and covariance I exactly, shape (examples, width)."""
        width = len(self.strengths)
        count = max(_EXAMPLES, 2 * width + 2)
        source = self.generator().manual_seed(self.seed + 1)
        x = torch.randn(count, width, generator=source, dtype=torch.float64).numpy()
        return np.linalg.qr(x - x.mean(0))[0] * math.sqrt(count)

    def chain(self, mode_roots: np.ndarray) -> LinearChain:
        """The network whose layers have these a_α as singular values."""
        target = self.bases[-1] @ np.diag(self.strengths) @ self.bases[0].T
        weights = tuple(after @ np.diag(mode_roots) @ before.T for before, after in pairwise(self.bases))
        return LinearChain(self.inputs, self.inputs @ target.T, weights)

    @property
    def at_start(self) -> LinearChain:
        """The network before training."""
        return self.chain(np.full(len(self.strengths), self.start ** (1 / self.depth)))

    @property
    def now(self) -> LinearChain:
        """The network at the toy's time."""
        return self.chain(self.mode_strengths(self.time) ** (1 / self.depth))

    def make_objective(self) -> Objective:
        """The loss at the toy's time."""
        return self.now.objective()

    def make_run(self) -> Run:
        """Full-batch gradient descent from the start, a little beyond the toy's time."""
        return self.at_start.run(self.step, epochs=math.ceil(1.5 * self.time / self.step) + STEPS)

    # ------------------------------------------------------------------ what is known

    def mode_strengths(self, time: float) -> np.ndarray:
        """u_α(t) under gradient flow: a logistic curve at depth 2, one ODE for each mode beyond."""
        s, n = np.array(self.strengths), self.depth
        if n == 2:
            decay = np.exp(-2 * s * time)
            return s / (1 - decay + decay * s / self.start)
        if time == 0:
            return np.full(len(s), self.start)
        flow = solve_ivp(
            lambda _, u: n * u ** (2 - 2 / n) * (s - u),
            (0, time),
            np.full(len(s), self.start),
            rtol=1e-10,
            atol=1e-14,
        )
        return flow.y[:, -1]

    def half_times(self) -> np.ndarray:
        """When each mode is half learnt: ∫ du / (N u^(2-2/N) (s-u)), at depth 2 ln(s/u₀ - 1)/(2s)."""
        s = np.array(self.strengths)
        if self.depth == 2:
            return np.log(s / self.start - 1) / (2 * s)
        from scipy.integrate import quad

        n = self.depth  # in ln u, where the integrand is smooth
        ends = [(math.log(self.start), math.log(v / 2), v) for v in s]
        times = [quad(_pace, low, high, args=(n, v))[0] for low, high, v in ends]
        return np.array(times)

    def descend(self, steps: int) -> np.ndarray:
        """Gradient descent, exactly: a ← a + η a^(N-1) (s - a^N) per mode; shape (steps + 1, modes)."""
        a = np.full(len(self.strengths), self.start ** (1 / self.depth))
        rows = [a]
        for _ in range(steps):
            a = a + self.step * a ** (self.depth - 1) * (np.array(self.strengths) - a**self.depth)
            rows.append(a)
        return np.array(rows)

    def truths(self) -> dict[str, Truth]:
        """Modes, motion, curvature, kernels and symmetry."""
        now, width = self.now, len(self.strengths)
        truths = chain_truths(now) | motion_truths(self._first_steps(), len(self.inputs))
        truths |= pair_truths(now, self.at_start, _starting, 1e-5)
        roots = self.mode_strengths(self.time) ** (1 / self.depth)
        norm = math.sqrt(float((roots**2).sum()))
        pull = self.start ** (1 - 1 / self.depth) * (np.array(self.strengths) - self.start)
        shares = pull / pull.sum()
        own = {
            "weight_norm": np.full(self.depth, norm),
            "symmetry_orbit_dimension": float((self.depth - 1) * width**2),
            "jacobian_rank": float(width**2),
            "constant_loss": 0.5 * float((np.array(self.strengths) ** 2).sum()),
        }
        truths |= {name: Truth(value, 1e-5, source=_SAXE) for name, value in own.items()}
        truths["update_rank"] = Truth(
            np.full(self.depth, math.exp(-float((shares * np.log(shares)).sum()))),
            source="The first update of every layer has singular values ∝ u₀^(1-1/N) (s - u₀).",
            options={"steps": 1},
        )
        truths["half_times"] = Truth(
            self.half_times(),
            tolerance=2 * self.depth * self.step * max(self.strengths) ** (2 - 2 / self.depth),
            assumptions="The step is small beside 1/(N s^(2-2/N)).",
            source=_SAXE,
            trial=self._descend_to_half,
        )
        return truths

    def _first_steps(self) -> Path:
        chains = [self.chain(a) for a in self.descend(STEPS)]
        points = np.array([np.concatenate([w.ravel() for w in c.weights]) for c in chains])
        gradients = np.array([c.rows.mean(0) for c in chains])
        losses = np.array([c.loss for c in chains])
        return Path(points, gradients, losses, chains[0].hessian, self.step, chains[0].sizes)

    def _descend_to_half(self, generator: torch.Generator) -> Measurement:
        """Moments at which gradient descent on the modes passes half of each."""
        steps = math.ceil(1.2 * self.half_times().max() / self.step) + 2
        learnt = self.descend(steps) ** self.depth
        halves = np.array(self.strengths) / 2
        last = (learnt < halves).argmin(0)  # the first step beyond; a line between the two around it
        low, high = (np.take_along_axis(learnt, i[None], 0)[0] for i in (last - 1, last))
        return trial_result("half_times", self.step * (last - 1 + (halves - low) / (high - low)))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Strength of every mode over time, with the steps of gradient descent on top."""
        axes = figure.add_subplot()
        end = 1.4 * float(self.half_times().max())
        times = np.linspace(0, end, 200)
        curves = np.array([self.mode_strengths(t) for t in times])
        steps = self.descend(int(end / self.step)) ** self.depth
        every = max(1, len(steps) // 25)
        for k, s in enumerate(self.strengths):
            (line,) = axes.plot(times, curves[:, k], label=f"s = {s:g}, theory")
            dots = self.step * np.arange(len(steps))[::every]
            axes.plot(dots, steps[::every, k], "o", ms=3, color=line.get_color())
        axes.plot([], [], "o", ms=3, color="0.4", label="gradient descent")
        axes.axvline(self.time, color="0.7", ls=":", label="measured here")
        axes.set(xlabel="time t = steps · η", ylabel="strength of the mode u")
        axes.set_title(f"{self.title}, depth {self.depth}")
        axes.legend()


def _pace(x: float, depth: int, strength: float) -> float:
    """dt/d ln u at u = eˣ."""
    return math.exp(x * (2 / depth - 1)) / (depth * (strength - math.exp(x)))


def _starting(toy: DeepLinear) -> Objective:
    return toy.at_start.objective()


TOY = DeepLinear
