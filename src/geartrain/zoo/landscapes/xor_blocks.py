r"""Blocks of XOR: losses that look alike over seeds because they are averages, not because they are optimal.

> "insofar as running a local learning process from many seeds produces outputs with 'similar' (train or test)
> losses, that's a law of large numbers phenomenon, not a consequence of always finding the optimal neural net
> weights."

A block is the smallest network that can compute XOR: two inputs ±1, two ReLUs, one output, targets ±1, squared
error over the four points. $|x_1 - x_2| - 1 = \mathrm{relu}(x_1 - x_2) + \mathrm{relu}(x_2 - x_1) - 1$ solves it.
Training often does not: it ends on one of few **atoms**,

* 0, solved;
* 1/2: two points right, the two others (of different sign) answered by their mean 0;
* 2/3: one point right, the other three answered by their mean ±1/3: $\tfrac34\big(1 - \tfrac19\big)$;
* 1: everything answered by 0.

Each is a true local minimum, and it is easy to see why. At "1/2", say, each hidden unit is active at one point
only, which it fits; at the two others both are silent, with slope 0 in all their weights, and the output's bias has
found the mean. No residual is left that any *active* path could correct. So the gradient is 0, and the Hessian
$\frac24 \sum JJ^\top$ has no negative eigenvalue.

**A net of K blocks** with the mean of their losses has an optimum of 0 for every K. But over seeds its loss is the
mean of K independent atoms: spread $s_1/\sqrt K$, probability $p^K$ of reaching the optimum, and the best of N
restarts follows from the K-fold convolution of the atoms. For large K all seeds agree to three digits, on a loss
far from 0. Restarting more often does not help; that all restarts agree proves nothing.

**What is measured, once.** How often each atom is reached (p and so on) has no formula. It was measured on 100,000
blocks, Adam at 0.03, 600 steps, uniform fan-in initialisation, and is kept here with its seeds; everything else is
derived from it.

**What to vary.** `states` (one for each block: where the instruments look), `blocks` and `restarts` (for the
statistics).

Sources: the quotation is a short post by Kaarel on learning theory, footnote 2; by design.

Ledger: 0.10, 1.1, 1.2
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ATOMS = np.array([0.0, 1 / 2, 2 / 3, 1.0])
"""Losses on which a block comes to rest."""
COUNTS = np.array([30321, 21158, 34899, 13622])
"""How often it did, of 100,000: `train` with generators seeded 0 to 4, 20,000 blocks each."""
_POINTS = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
_TARGETS = np.array([-1.0, 1.0, 1.0, -1.0])
_STEPS, _RATE, _NEAR = 600, 0.03, 0.02

# W, b, v and c of a block at each atom; a unit (x₁ + x₂)/2 - ½ is active at (1, 1) only, and so on.
_SOLVED = ([[1.0, -1.0], [-1.0, 1.0]], [0.0, 0.0], [1.0, 1.0], -1.0)
_HALF = ([[-0.5, 0.5], [0.5, 0.5]], [-0.5, -0.5], [2.0, -2.0], 0.0)
_TWO_THIRDS = ([[0.5, 0.5], [-0.5, -0.5]], [-0.5, -2.0], [-8 / 3, 1.0], 1 / 3)
_NOTHING = ([[0.5, 0.5], [-0.5, 0.5]], [-2.0, -2.0], [1.0, -1.0], 0.0)
STATES: dict[str, tuple[Any, ...]] = {"0": _SOLVED, "1/2": _HALF, "2/3": _TWO_THIRDS, "1": _NOTHING}
"""A block at rest on each atom, by hand."""
_REST = "Chain rule; silent units have no slope, so the Hessian is the mean of 2JJᵀ."
_AVERAGE = "Mean of K independent atoms, by convolution on a lattice of sixths."


class Blocks(nn.Module):
    """Networks side by side on the same two inputs."""

    def __init__(self, states: list[tuple[np.ndarray, ...]]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for weight, bias, out, shift in states:
            first, last = nn.Linear(2, 2).double(), nn.Linear(2, 1).double()
            with torch.no_grad():
                first.weight.copy_(torch.from_numpy(weight))
                first.bias.copy_(torch.from_numpy(bias))
                last.weight.copy_(torch.from_numpy(out)[None])
                last.bias.fill_(float(shift))
            self.blocks.append(nn.Sequential(first, nn.ReLU(), last))

    def forward(self, x: Tensor) -> Tensor:
        """One output for each block, shape (examples, blocks)."""
        return torch.cat([block(x) for block in self.blocks], dim=1)


@dataclass(frozen=True)
class XorBlocks(Toy):
    """K smallest networks for XOR, trained side by side.

    Attributes:
        states: The atom on which each block rests where the instruments look: ``"0"``, ``"1/2"``, ``"2/3"`` or ``"1"``.
        blocks: K of the statistics, 1 to 64.
        restarts: N of the statistics, 1 to 64; K·N at most 256.
        seed: Of the run, and of signs and scales in the states.
    """

    title: ClassVar[str] = "Blocks of XOR"
    ledger: ClassVar[tuple[str, ...]] = ("0.10", "1.1", "1.2")

    states: tuple[str, ...] = ("0", "1/2", "2/3", "1")
    blocks: int = 4
    restarts: int = 4

    def __post_init__(self) -> None:
        if not 1 <= len(self.states) <= 6 or any(s not in STATES for s in self.states):
            raise InputError(f"states is {self.states}; allowed: one to six of {', '.join(STATES)}.")
        if not (1 <= self.blocks <= 64 and 1 <= self.restarts <= 64 and self.blocks * self.restarts <= 256):
            raise InputError(
                f"blocks is {self.blocks} and restarts {self.restarts}; allowed: 1 to 64 each, "
                "their product at most 256."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def placed(self) -> list[tuple[np.ndarray, ...]]:
        """W, b, v, c of each block; each ReLU is rescaled at random, which changes no answer."""
        source, found = self.generator(), []
        for state in self.states:
            weight, bias, out, shift = (np.array(part) for part in STATES[state])
            scale = (0.7 + torch.rand(2, generator=source, dtype=torch.float64)).numpy()
            found.append((weight * scale[:, None], bias * scale, out / scale, shift))
        return found

    def make_objective(self) -> Objective:
        """The mean loss of the blocks at rest."""
        x, y = torch.from_numpy(_POINTS), torch.from_numpy(_TARGETS)[:, None]
        return Objective(
            Blocks(self.placed), nn.functional.mse_loss, (x, y.expand(-1, len(self.states)).clone())
        )

    def make_run(self) -> Run:
        """Adam from a random start, a block for each state."""
        count, source = len(self.states), self.generator()
        tensors = [t.numpy() for t in started(count, source)]
        model = Blocks([tuple(t[i] for t in tensors) for i in range(count)])
        x, y = torch.from_numpy(_POINTS), torch.from_numpy(_TARGETS)[:, None].expand(-1, count).clone()
        optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
        return Run(
            model, nn.functional.mse_loss, optimizer, (x, y), epochs=_STEPS, batch_size=4, shuffle=False
        )

    # ------------------------------------------------------------------ what is known

    @property
    def shares(self) -> np.ndarray:
        """How often a block reaches each atom, as measured."""
        return COUNTS / COUNTS.sum()

    def totals(self) -> np.ndarray:
        """Distribution of the sum of K blocks' losses, on 0, 1/6, 2/6, ... up to K."""
        one = np.zeros(7)
        one[(6 * ATOMS).round().astype(int)] = self.shares
        total = np.ones(1)
        for _ in range(self.blocks):
            total = np.convolve(total, one)
        return total

    def best(self, restarts: int) -> float:
        """Expected loss of the best of so many restarts of a net of K blocks."""
        at_least = self.totals()[::-1].cumsum()[::-1]
        return float((at_least[1:] ** restarts).sum()) / (6 * self.blocks)

    def truths(self) -> dict[str, Truth]:
        """What holds at rest, and the statistics of many seeds."""
        return {**self._at_rest(), **self._statistics()}

    def _at_rest(self) -> dict[str, Truth]:
        count = len(self.states)
        outputs, jacobian = np.zeros((4, count)), np.zeros((4, count, 9 * count))
        for k, (weight, bias, out, shift) in enumerate(self.placed):
            f, j = _matrices.two_layers(_POINTS, weight, bias, np.append(out, shift))
            outputs[:, k], jacobian[:, k, 9 * k : 9 * k + 9] = f, j[:, 0]
        residuals = outputs - _TARGETS[:, None]
        losses = (residuals**2).mean(1)
        hessian = 2 * np.einsum("nkp,nkq->pq", jacobian, jacobian) / (4 * count)
        rows = 2 * np.einsum("nk,nkp->np", residuals, jacobian) / count
        loss, sizes = float(losses.mean()), [6, 3] * count
        silent = {"0": 0, "1/2": 0, "2/3": 1, "1": 2}
        up = np.zeros(9 * count)
        up[8] = 1.0  # the output's bias of the first block
        norms = [
            (np.sqrt((w**2).sum() + (b**2).sum()), np.sqrt((v**2).sum() + c**2)) for w, b, v, c in self.placed
        ]
        found = {
            "resting_loss": Truth(
                float(np.mean([ATOMS[list(STATES).index(s)] for s in self.states])),
                1e-9,
                source="Right points, and means of the rest.",
                trial=lambda g: trial_result("loss", float(self.objective.value())),
            ),
            "resting_gradient": Truth(
                0.0,
                1e-9,
                source=_REST,
                trial=lambda g: trial_result("gradient", float(self.objective.gradient().norm())),
            ),
            "example_losses": Truth(losses, 1e-9, source=_REST, strict=True),
            "loss_slice": _matrices.parabola(loss, np.zeros(9 * count), hessian, up),
            "weight_norm": Truth(np.array(norms).ravel(), source="Definition."),
            "constant_loss": Truth(1.0, 1e-5, source="Targets ±1, balanced."),
            "target_scale": Truth(
                1.0, 0.2, assumptions="n or n - 1 of four.", source="Targets ±1, balanced."
            ),
            "feature_scales": Truth(1.0, source="Both inputs are ±1 equally often.", strict=True),
            "label_disagreement_floor": Truth(0.0, source="No point occurs twice.", strict=True),
            "leap": Truth(2.0, source="XOR is the parity of two."),
            "dead_units": Truth(
                sum(silent[s] for s in self.states) / (2 * count),
                source="Units that are active at no point.",
                strict=True,
            ),
            "missing_biases": Truth(0.0, source="By construction."),
            "output_reach": Truth(0.0, source="The outputs are unbounded."),
            **_matrices.curvature_truths(hessian, layers=sizes, source=_REST),
        }
        if jacobian.any():
            found |= _matrices.kernel_truths(jacobian, np.tile(_TARGETS[:, None], (1, count)), source=_REST)
        if np.abs(rows).max() > 1e-9:
            found["per_example_gradients"] = Truth(
                np.quantile(np.linalg.norm(rows, axis=1), [0.05, 0.25, 0.5, 0.75, 0.95]),
                source=_REST,
                strict=True,
            )
        if loss > 1e-9:
            found["endpoint_certificate"] = Truth(
                0.0, 1e-6, source="The gradient is 0: a Newton step gains nothing, though the optimum is 0."
            )
        return found

    def _statistics(self) -> dict[str, Truth]:
        k, p = self.blocks, float(self.shares[0])
        # What is not known better than by 100,000 blocks.
        doubt = 4 * float(np.sqrt(self.shares * (1 - self.shares) / COUNTS.sum()).max() / self.shares.max())
        told = np.array([self.shares @ ATOMS, self.spread / math.sqrt(k)])
        found = {
            "near_an_atom": Truth(1.0, 0.01, source="Local minima of the block.", trial=self._near),
            "outcomes": Truth(
                self.shares, doubt, source="Measured once on 100,000 blocks.", trial=self._outcomes
            ),
            "mean_and_spread": Truth(
                told, doubt, source="Law of large numbers.", trial=self._mean_and_spread
            ),
            "best_of_restarts": Truth(self.best(self.restarts), 2 * doubt, source=_AVERAGE, trial=self._best),
        }
        if p**k > 1e-4:
            found["all_solved"] = Truth(p**k, k * doubt, source="Independent blocks.", trial=self._all_solved)
        return found

    @property
    def spread(self) -> float:
        """Standard deviation s₁ of a block's loss."""
        mean = float(self.shares @ ATOMS)
        return math.sqrt(float(self.shares @ (ATOMS - mean) ** 2))

    # ------------------------------------------------------------------ experiments

    def _ends(self, generator: torch.Generator, groups: int) -> np.ndarray:
        """Losses of trained blocks, shape (groups, K)."""
        return train(groups * self.blocks, generator).numpy().reshape(groups, self.blocks)

    def _near(self, generator: torch.Generator) -> Measurement:
        distance = np.abs(train(2000, generator).numpy()[:, None] - ATOMS).min(1)
        return trial_result("near_an_atom", float((distance < _NEAR).mean()))

    def _outcomes(self, generator: torch.Generator) -> Measurement:
        nearest = np.abs(train(2000, generator).numpy()[:, None] - ATOMS).argmin(1)
        share = np.bincount(nearest, minlength=4) / len(nearest)
        return trial_result("outcomes", share, np.sqrt(share * (1 - share) / len(nearest)))

    def _mean_and_spread(self, generator: torch.Generator) -> Measurement:
        """Of the losses of nets of K blocks over seeds."""
        losses = self._ends(generator, max(100, 2000 // self.blocks)).mean(1)
        n, away = len(losses), losses - losses.mean()
        spread = losses.std(ddof=1)
        error = math.sqrt(max((away**4).mean() - spread**4, 1e-12) / n) / (2 * spread)
        return trial_result("mean_and_spread", [losses.mean(), spread], [spread / math.sqrt(n), error])

    def _all_solved(self, generator: torch.Generator) -> Measurement:
        """Share of nets whose blocks are all solved; products of shares where that is too rare to count."""
        solved = train(3000, generator).numpy() < _NEAR
        share = float(solved.mean())
        if self.blocks <= 2:
            count = len(solved) // self.blocks
            share = float(solved[: count * self.blocks].reshape(count, self.blocks).all(1).mean())
            return trial_result("all_solved", share, math.sqrt(share * (1 - share) / count))
        error = self.blocks * share ** (self.blocks - 1) * math.sqrt(share * (1 - share) / len(solved))
        return trial_result("all_solved", share**self.blocks, error)

    def _best(self, generator: torch.Generator) -> Measurement:
        """Loss of the best of N nets, over and over."""
        repeats = max(20, 4000 // (self.blocks * self.restarts))
        best = self._ends(generator, repeats * self.restarts).mean(1).reshape(repeats, self.restarts).min(1)
        # Repeats that all came out alike still have the error of one that did not.
        error = max(best.std(ddof=1), 1 / (6 * self.blocks * math.sqrt(repeats))) / math.sqrt(repeats)
        return trial_result("best_of_restarts", best.mean(), error)

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The distribution of the loss over seeds for several K, and the best of N."""
        left, right = figure.subplots(1, 2)
        for k in (1, 4, 16, 64):
            toy = XorBlocks(blocks=k, restarts=1)
            total = toy.totals()
            values = np.arange(len(total)) / (6 * k)
            left.plot(
                values,
                total / total.max(),
                label=f"K = {k}",
                marker="o" if k == 1 else "",
                ls="" if k == 1 else "-",
            )
            counts = [1, 2, 4, 8, 16, 32, 64]
            right.semilogx(counts, [toy.best(n) for n in counts], "o-", ms=3)
        left.set(xlabel="loss of a net of K blocks (ℓ)", ylabel="frequency over seeds (peak = 1)")
        left.set_title(f"spread {self.spread:.3g}/√K; the optimum is 0")
        left.legend()
        right.set(xlabel="restarts N", ylabel="best loss (ℓ)", title="best of N", ylim=(0, None))


def started(count: int, generator: torch.Generator) -> list[Tensor]:
    """W, b, v, c of blocks, uniform within 1/√fan-in."""
    shapes = ((count, 2, 2), (count, 2), (count, 2), (count,))
    draws = [torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [(2 * draw - 1) / math.sqrt(2) for draw in draws]


def train(count: int, generator: torch.Generator) -> Tensor:
    """Losses of blocks after training, all at once (Adam treats every parameter by itself), shape (count,)."""
    weight, bias, out, shift = parameters = [t.requires_grad_() for t in started(count, generator)]
    x, y = torch.from_numpy(_POINTS), torch.from_numpy(_TARGETS)
    optimizer = torch.optim.Adam(parameters, lr=_RATE)

    def losses() -> Tensor:
        hidden = torch.relu(torch.einsum("khi,ni->knh", weight, x) + bias[:, None])
        return ((torch.einsum("knh,kh->kn", hidden, out) + shift[:, None] - y) ** 2).mean(1)

    for _ in range(_STEPS):
        optimizer.zero_grad()
        losses().sum().backward()
        optimizer.step()
    return losses().detach()


TOY = XorBlocks
