r"""Hopfield networks: the classical memory and its limit, the modern one and attention.

**Classical.** $P$ random patterns $\xi^\mu \in \{\pm1\}^N$ are stored by Hebb's rule,
$W = \frac1N\sum_\mu \xi^\mu \xi^{\mu\top}$ without its diagonal, and recalled by $s \leftarrow \mathrm{sign}(Ws)$.
Start at a pattern. The field on a unit, taken with the sign that it should have, is $N - 1$ plus a sum of
$(P-1)(N-1)$ fair coins, all over $N$: the coins are the other patterns' crosstalk, and they are exactly
independent. So the share of units that flip in the first step is a tail of the binomial distribution. What follows
afterwards, when errors breed errors, is the work of Amit, Gutfreund and Sompolinsky: the final overlap $m$ at load
$\alpha = P/N$ solves

$$m = \mathrm{erf}\frac{m}{\sqrt{2\alpha r}}, \qquad r = \frac{1}{(1 - C)^2}, \qquad
C = \sqrt{\frac{2}{\pi\alpha r}}\; e^{-m^2/2\alpha r}.$$

It is near 1 up to $\alpha_c = 0.138$, and there it jumps: the memory forgets everything at once.

**Modern.** Patterns are the rows of $X$, the energy of a state $q$ is

$$E(q) = \tfrac12\lVert q\rVert^2 - \tfrac1\beta \ln\sum_\mu e^{\beta\, x_\mu\cdot q}, \qquad
\nabla E = q - X^\top \mathrm{softmax}(\beta X q).$$

A step of gradient descent of size 1 is therefore $q \leftarrow X^\top\mathrm{softmax}(\beta Xq)$: a read by
*attention*, with the patterns as keys and as values. The Hessian is
$1 - \beta X^\top(\mathrm{diag}\,p - pp^\top)X$, with $p$ the softmax. Cold, it is the identity near a pattern,
which attention then finds in one step; between patterns it can be negative: there are ridges.

**The instruments** look at $E$ at a state between the patterns.

**What to vary.** `load` through 0.138 (the picture), `units` (at finite $N$ the jump is smeared, and some overlap
remains beyond it), `beta`.

Sources: Hopfield 1982 (PNAS 79:2554); Amit, Gutfreund, Sompolinsky 1985 (Phys. Rev. Lett. 55:1530); Ramsauer et al.
2020, arXiv 2008.02217.
Ledger: 3.46.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.special import erf
from scipy.stats import binom
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._descent import STEPS, Path, motion_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOFTMAX = "Derivatives of a log-sum-exp; Ramsauer et al. 2020, arXiv 2008.02217."
_NO_DATA = torch.zeros(1, 1, dtype=torch.float64)
_STEP = 0.2
"""Of the run; at 1 each step is a whole read, and the state arrives at once."""
_MEMORIES = 12
"""Memories that a trial makes."""
_RECALLED = 5
"""Patterns of each memory from which it recalls."""


class Query(nn.Module):
    """A state q as the parameters; gives out the energy of the modern Hopfield network."""

    def __init__(self, q: np.ndarray, patterns: np.ndarray, beta: float) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.tensor(q))
        self.register_buffer("patterns", torch.tensor(patterns))
        self.beta = beta

    def forward(self) -> Tensor:
        """E(q)."""
        scores = self.beta * (self.get_buffer("patterns") @ self.q)
        return 0.5 * self.q.square().sum() - torch.logsumexp(scores, 0) / self.beta


def energy(model: nn.Module, batch: Tensor) -> Tensor:
    """The loss: E(q); there are no data."""
    return model()


@dataclass(frozen=True)
class Hopfield(Toy):
    """Associative memories, classical and modern.

    Attributes:
        units: N of the classical memory.
        load: α, stored patterns per unit of the classical memory.
        dimension: Of the modern memory's patterns, which have length 1.
        patterns: Number of those.
        beta: Inverse temperature of the modern memory.
    """

    title: ClassVar[str] = "Hopfield networks"
    ledger: ClassVar[tuple[str, ...]] = ("3.46",)

    units: int = 500
    load: float = 0.10
    dimension: int = 6
    patterns: int = 6
    beta: float = 4.0

    def __post_init__(self) -> None:
        if not 100 <= self.units <= 1000 or not 0.02 <= self.load <= 0.5:
            raise InputError(
                f"units is {self.units}, load {self.load}; allowed: 100 to 1000 units and a load from 0.02 to 0.5."
            )
        if not 2 <= self.dimension <= 100 or not 2 <= self.patterns <= 100 or not 0 < self.beta <= 50:
            raise InputError(
                f"dimension is {self.dimension}, patterns {self.patterns}, beta {self.beta}; allowed: 2 to 100 of "
                "each, and beta above 0 up to 50."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def stored(self) -> np.ndarray:
        """X, the modern memory's patterns, shape (patterns, dimension)."""
        x = torch.randn(
            self.patterns, self.dimension, generator=self.generator(), dtype=torch.float64
        ).numpy()
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    @cached_property
    def state(self) -> np.ndarray:
        """q, a blurred mixture of the first two patterns."""
        source = torch.Generator().manual_seed(self.seed + 1)
        blur = torch.randn(self.dimension, generator=source, dtype=torch.float64).numpy()
        return 0.5 * self.stored[0] + 0.3 * self.stored[1] + 0.3 * blur / np.linalg.norm(blur)

    def make_objective(self) -> Objective:
        """E at the state."""
        return Objective(Query(self.state, self.stored, self.beta), data=[_NO_DATA], batch_loss=energy)

    def make_run(self) -> Run:
        """Gradient descent: every step goes a fifth of the way to what attention reads; an epoch is a step."""
        model = Query(self.state, self.stored, self.beta)
        optimizer = torch.optim.SGD(model.parameters(), lr=_STEP)
        return Run(
            model, optimizer=optimizer, train=[_NO_DATA], batch_loss=energy, epochs=50, name="hopfield"
        )

    # ------------------------------------------------------------------ what is known: modern

    def attention(self, q: np.ndarray) -> np.ndarray:
        """softmax(βXq)."""
        scores = self.beta * self.stored @ q
        weights = np.exp(scores - scores.max())
        return weights / weights.sum()

    def energy_at(self, q: np.ndarray) -> float:
        """E(q)."""
        scores = self.beta * self.stored @ q
        return 0.5 * float(q @ q) - (scores.max() + math.log(np.exp(scores - scores.max()).sum())) / self.beta

    def slope_at(self, q: np.ndarray) -> np.ndarray:
        """∇E(q)."""
        return q - self.stored.T @ self.attention(q)

    @cached_property
    def hessian(self) -> np.ndarray:
        """1 - βXᵀ(diag p - ppᵀ)X, at the state."""
        p = self.attention(self.state)
        spread = np.diag(p) - np.outer(p, p)
        return np.eye(self.dimension) - self.beta * self.stored.T @ spread @ self.stored

    # ------------------------------------------------------------------ what is known: classical

    @property
    def count(self) -> int:
        """P, patterns of the classical memory."""
        return round(self.load * self.units)

    @property
    def first_errors(self) -> float:
        """Share of the units that flip in the first step: P(N - 1 + coins < 0), a tie keeping the unit."""
        coins = (self.count - 1) * (self.units - 1)
        # coins = 2B - M < -(N - 1), so B < (M - N + 1)/2
        return float(binom.cdf(math.ceil((coins - self.units + 1) / 2) - 1, coins, 0.5))

    def truths(self) -> dict[str, Truth]:
        """Recall of the classical memory; energy of the modern one."""
        slope, q, t = self.slope_at(self.state), self.state, np.linspace(-1, 1, 21)
        ray = np.ones(self.dimension)
        truths = {
            "attention_is_recall": Truth(0.0, 1e-12, source=_SOFTMAX, trial=self._attend),
            "first_errors": Truth(
                self.first_errors,
                source="Crosstalk is a sum of (P-1)(N-1) fair coins.",
                trial=self._first_step,
            ),
            "loss_slice": Truth(
                np.array([self.energy_at(q + s * ray) for s in t]),
                source="Definition.",
                options={"direction": torch.from_numpy(ray), "span": 1.0},
            ),
            "weight_norm.total": Truth(float(np.linalg.norm(q)), reading="total", source="Definition."),
            "distance_from_init": Truth(
                float(np.linalg.norm(slope)), source="A step of size 1.", other=_read_once
            ),
            "gradient_noise_scale": Truth(math.nan, source="There are no data, so no noise."),
            "function_distance": Truth(math.nan, source="There are no outputs.", other=_read_once),
            **_matrices.curvature_truths(self.hessian, slope, source=_SOFTMAX),
            **motion_truths(self._path(), 1),
        }
        overlap = final_overlap(self.load)
        if (
            overlap > 0 and self.load <= 0.11
        ):  # nearer to the jump a network of finite size forgets now and then
            truths["overlap"] = Truth(
                overlap,
                0.003,
                "N → ∞; the tolerance is for N = 500.",
                "Amit et al. 1985.",
                trial=self._recall,
            )
        return truths

    def _path(self) -> Path:
        """States of the run."""
        points = [self.state]
        for _ in range(STEPS):
            points.append(points[-1] - _STEP * self.slope_at(points[-1]))
        slopes, energies = [self.slope_at(q) for q in points], [self.energy_at(q) for q in points]
        return Path(np.array(points), np.array(slopes), np.array(energies), self.hessian, _STEP)

    # ------------------------------------------------------------------ experiments

    def memory(self, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Random patterns (P, N) of ±1 and Hebb's weights."""
        bits = torch.randint(0, 2, (self.count, self.units), generator=generator)
        patterns = 2.0 * bits.numpy() - 1
        weights = patterns.T @ patterns / self.units
        np.fill_diagonal(weights, 0.0)
        return patterns, weights

    def _first_step(self, generator: torch.Generator) -> Measurement:
        """Share of the units that a step from a pattern flips; its error is taken over memories."""
        shares = []
        for _ in range(_MEMORIES):
            patterns, weights = self.memory(generator)
            shares.append(float((patterns @ weights * patterns < -1e-9).mean()))
        spread = np.std(shares, ddof=1) / math.sqrt(len(shares))
        return trial_result("first_errors", np.mean(shares), max(float(spread), 1e-6))

    def _recall(self, generator: torch.Generator) -> Measurement:
        """Overlap with a pattern after recall from it, one unit at a time until nothing changes."""
        found = []
        for _ in range(_MEMORIES):
            patterns, weights = self.memory(generator)
            for pattern in patterns[:_RECALLED]:
                found.append(float(pattern @ settled(weights, pattern, generator)) / self.units)
        return trial_result("overlap", np.mean(found), np.std(found, ddof=1) / math.sqrt(len(found)))

    def _attend(self, generator: torch.Generator) -> Measurement:
        """Largest difference between a step of gradient descent and PyTorch's attention."""
        q = torch.from_numpy(self.state)
        step = q - self.objective.gradient()
        x = torch.from_numpy(self.stored)[None]
        read = nn.functional.scaled_dot_product_attention(q[None, None], x, x, scale=self.beta)
        return trial_result("difference", float((step - read[0, 0]).abs().max()))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Overlap after recall against the load: theory for an infinite memory, and a small one."""
        axes, source = figure.add_subplot(), self.generator()
        loads = np.linspace(0.02, 0.25, 150)
        axes.plot(loads, [final_overlap(float(a)) or np.nan for a in loads], label="theory, N → ∞")
        some = (0.05, 0.09, 0.12, 0.135, 0.15, 0.18, 0.25)
        small = [replace(self, units=200, load=load)._recall(source).value for load in some]
        axes.plot(some, np.array(small, dtype=float), "o", label="N = 200")
        axes.axvline(0.138, color="0.6", ls=":", label="α = 0.138")
        axes.set(xlabel="load α (patterns per unit)", ylabel="overlap after recall", ylim=(0, 1.05))
        axes.set_title(self.title)
        axes.legend()


def settled(
    weights: np.ndarray, start: np.ndarray, generator: torch.Generator, sweeps: int = 40
) -> np.ndarray:
    """State after units, in random order, took the sign of their field, until none changes."""
    state, field = start.copy(), weights @ start
    for _ in range(sweeps):
        changed = False
        for i in torch.randperm(len(state), generator=generator).tolist():
            if field[i] * state[i] < -1e-12:
                state[i] = -state[i]
                field += 2 * state[i] * weights[:, i]
                changed = True
        if not changed:
            break
    return state


def final_overlap(load: float) -> float:
    """Overlap m of the retrieval state at that load for N → ∞; 0 where there is none.

    >>> round(final_overlap(0.10), 4), final_overlap(0.139)
    (0.998, 0.0)
    """
    # With y = m/√(2αr) everything is a function of y: erf(y) = y (√(2α) + 2/√π e^(-y²)); the largest root counts.
    y = np.linspace(4, 0.5, 20_001)
    gap = erf(y) - y * (math.sqrt(2 * load) + 2 / math.sqrt(math.pi) * np.exp(-(y**2)))
    inside = np.flatnonzero(gap > 0)
    if not len(inside):
        return 0.0
    low, high = y[inside[0]], y[max(inside[0] - 1, 0)]
    for _ in range(60):
        middle = 0.5 * (low + high)
        positive = erf(middle) > middle * (
            math.sqrt(2 * load) + 2 / math.sqrt(math.pi) * math.exp(-(middle**2))
        )
        low, high = (middle, high) if positive else (low, middle)
    return float(erf(low))


def _read_once(toy: Hopfield) -> Tensor:
    return torch.from_numpy(toy.stored.T @ toy.attention(toy.state))


TOY = Hopfield
