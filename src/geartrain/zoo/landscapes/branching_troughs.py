r"""Branching troughs: the end as a product of choices on the way.

> "it's nice to think of the probability of finding the structure as the product over steps of the probability of
> making the right choice on that step (of falling in the right part of a partition determining which next thing
> gets built)"

Here that is exactly true, and one can see what makes it true. In the box $[-1, 1]^D$ each coordinate has two wells,
at ±0.75, and a barrier between them. But coordinate j feels its wells only when all coordinates before it have
settled in theirs, and *which* wells they chose decides where its barrier $c_j$ stands:

$$L = -\sum_j \Big[\prod_{i<j} \chi(|x_i| - 0.75)\Big]\, V\big(x_j; c_j(s_1, \ldots, s_{j-1})\big), \qquad
s_i = \mathrm{sign}(x_i - c_i),$$

$V(x; c) = \tfrac12\big(1 - \cos \pi\tfrac{x - c}{m - c}\big)$ with m = ±0.75 on the side of x, the gate χ = 1
within 0.1 and 0 beyond 0.2.

**Which leaf?** While its predecessors move, coordinate j has no slope at all and keeps the value with which it
started. So the leaf of a start is known from the start: compare $x_1(0)$ with $c_1$, then $x_2(0)$ with $c_2(s_1)$,
and so on. For a uniform start the right choice at each step has probability $(1 - c_j)/2$ (upwards) or $(1 +
c_j)/2$, independently, and

$$P(\text{leaf}) = \prod_j \tfrac12\big(1 \mp c_j\big).$$

**What is the content of the product rule?** On a tree it is only the chain rule of probability: any distribution
can be written so. It says something when a node can be reached in several ways, as in the *merged* variant, where
$c_j$ depends on the last choice only. Then the next choice must not depend on how the node was reached: the Markov
property. It holds here because waiting erases history. In the *coupled* control (see `coupled`) the second
coordinate does not wait, and its barrier moves with $x_1$: then where $x_1$ came from matters even among starts
that end in the same well, and "a product over steps" is wrong.

**Flat leaves.** A barrier further from a well makes that well's catchment larger and its curvature $\pi^2/2(m -
c)^2$ smaller. Volume and flatness are correlated here because both follow from the barrier, not because one causes
the other.

**What to vary.** `depth` (D), `variant`, `spread` of the barriers, `leaf` (where the instruments look), `seed`
(which barriers).

Sources: the quotation is a short post by Kaarel on learning theory; by design.

Ledger: 1.12, 1.13
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo import _descent, _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo.landscapes._bumps import Place, descend, gate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Variant = Literal["tree", "merged"]
_WELL, _INNER, _OUTER = 0.75, 0.1, 0.2
_WAITS = "A coordinate keeps its start until those before it have settled."
_NEAR = "All gates are open near a leaf: L = -Σ V(x_j; c_j)."


@dataclass(frozen=True)
class BranchingTroughs(Toy):
    """Double wells that open one after another.

    Attributes:
        depth: Coordinates D, 2 to 5; there are 2^D leaves.
        variant: ``"tree"`` (a barrier for each way so far) or ``"merged"`` (it depends on the last choice only).
        spread: Barriers are uniform between -spread and spread; 0 to 0.45.
        leaf: The choices that lead to where the instruments look, +1 or -1 each; all +1 if omitted.
        offset: How far from the leaf's bottom they stand, along each coordinate; 0.01 to 0.09 (gates are open
            to 0.1).
        step: Step size of the run times the largest curvature at the leaf; 0 to 0.8.
        starts: Random starts of each experiment.
        seed: Draws the barriers.
    """

    title: ClassVar[str] = "Branching troughs"
    ledger: ClassVar[tuple[str, ...]] = ("1.12", "1.13")

    depth: int = 3
    variant: Variant = "merged"
    spread: float = 0.4
    leaf: tuple[int, ...] = ()
    offset: float = 0.08
    step: float = 0.4
    starts: int = 4000

    def __post_init__(self) -> None:
        if not 2 <= self.depth <= 5 or self.variant not in get_args(Variant) or not 0 <= self.spread <= 0.45:
            raise InputError(
                f"depth, variant and spread are {self.depth}, {self.variant!r}, {self.spread}; allowed: 2 to 5, "
                f"{' or '.join(get_args(Variant))}, and 0 to 0.45."
            )
        if self.leaf and (len(self.leaf) != self.depth or any(s not in (-1, 1) for s in self.leaf)):
            raise InputError(f"leaf is {self.leaf}; allowed: {self.depth} choices, each -1 or 1.")
        if not 0.01 <= self.offset <= 0.09 or not 0 < self.step <= 0.8 or self.starts < 100:
            raise InputError(
                f"offset, step and starts are {self.offset}, {self.step}, {self.starts}; allowed: 0.01 to 0.09, above "
                "0 to 0.8, and 100 or more."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def barriers(self) -> list[Tensor]:
        """Barriers of each coordinate, by the choices before it (as a binary number, or the last one)."""
        source, found = self.generator(), []
        for j in range(self.depth):
            ways = 2**j if self.variant == "tree" else min(2, 2**j)
            found.append(self.spread * (2 * torch.rand(ways, generator=source, dtype=torch.float64) - 1))
        return found

    def loss(self, x: Tensor) -> Tensor:
        """L at points of shape (..., D)."""
        total, opened = torch.zeros_like(x[..., 0]), torch.ones_like(x[..., 0])
        way = torch.zeros(x.shape[:-1], dtype=torch.int64)
        for j, barriers in enumerate(self.barriers):
            at, barrier = x[..., j], barriers[way]
            total = total - opened * well(at, barrier)
            opened = opened * gate(at.abs() - _WELL, _INNER, _OUTER)
            way = self._next(way, at > barrier)
        return total

    def coupled(self, x: Tensor, pull: float = 0.6) -> Tensor:
        """The control: nothing waits, and the second barrier moves with the first coordinate. Shape (..., 2)."""
        first = well(x[..., 0], self.barriers[0][0])
        return -first - well(x[..., 1], pull * x[..., 0])

    def _next(self, way: Tensor, up: Tensor) -> Tensor:
        return up.long() if self.variant == "merged" else 2 * way + up.long()

    @property
    def choices(self) -> tuple[int, ...]:
        """Signs of the leaf where the instruments look."""
        return self.leaf or (1,) * self.depth

    def on_the_way(self, leaf: tuple[int, ...]) -> np.ndarray:
        """Barriers c_j that are met on the way to a leaf."""
        way, met = torch.zeros((), dtype=torch.int64), []
        for j, sign in enumerate(leaf):
            met.append(float(self.barriers[j][way]))
            way = self._next(way, torch.tensor(sign > 0))
        return np.array(met)

    @property
    def bottom(self) -> np.ndarray:
        """The leaf."""
        return _WELL * np.array(self.choices, dtype=float)

    @property
    def start(self) -> np.ndarray:
        """Where the instruments stand."""
        j = np.arange(self.depth)
        return self.bottom + self.offset * (-1.0) ** j * (1 - j / (2 * self.depth))

    def at(self, x: np.ndarray) -> Objective:
        """The loss at a point."""
        return Objective(Place(x), data=[torch.zeros(1, 1).double()], batch_loss=self._batch_loss)

    def make_objective(self) -> Objective:
        """The loss near the leaf."""
        return self.at(self.start)

    def make_run(self) -> Run:
        """Gradient descent from there."""
        model = Place(self.start)
        return Run(
            model,
            optimizer=torch.optim.SGD(model.parameters(), lr=self.rate),
            train=[torch.zeros(1, 1).double()],
            batch_loss=self._batch_loss,
            epochs=40,
            name="branching-troughs",
        )

    def _batch_loss(self, model: Any, batch: Any) -> Tensor:
        return self.loss(model())

    # ------------------------------------------------------------------ what is known

    def predicted(self, x: Tensor) -> Tensor:
        """Leaf of each start, as a binary number."""
        way = torch.zeros(len(x), dtype=torch.int64)
        leaf = torch.zeros(len(x), dtype=torch.int64)
        for j, barriers in enumerate(self.barriers):
            up = x[:, j] > barriers[way]
            leaf, way = 2 * leaf + up.long(), self._next(way, up)
        return leaf

    def probabilities(self) -> np.ndarray:
        """P(leaf) = Π (1 ∓ c_j)/2, in the order of the binary numbers."""
        leaves = itertools.product((-1, 1), repeat=self.depth)
        return np.array([np.prod((1 - np.array(s) * self.on_the_way(s)) / 2) for s in leaves])

    @property
    def reaches(self) -> np.ndarray:
        """Distances m - c from barrier to well on the way to the leaf, with their signs."""
        return self.bottom - self.on_the_way(self.choices)

    @property
    def curvatures(self) -> np.ndarray:
        """Of the coordinates at the leaf, π²/2(m - c)²."""
        return math.pi**2 / (2 * self.reaches**2)

    @property
    def rate(self) -> float:
        """Step size of the run."""
        return self.step / float(self.curvatures.max())

    def near(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Loss, gradient and diagonal of the Hessian where all gates are open."""
        angle, pace = math.pi * (x - self.on_the_way(self.choices)) / self.reaches, math.pi / self.reaches
        value = -0.5 * float((1 - np.cos(angle)).sum())
        return value, -0.5 * pace * np.sin(angle), -0.5 * pace**2 * np.cos(angle)

    @cached_property
    def path(self) -> _descent.Path:
        """The first steps of the run, by hand."""
        points = [self.start]
        for _ in range(_descent.STEPS):
            points.append(points[-1] - self.rate * self.near(points[-1])[1])
        found = [self.near(x) for x in points]
        losses, gradients = np.array([f[0] for f in found]), np.array([f[1] for f in found])
        return _descent.Path(np.array(points), gradients, losses, np.diag(found[0][2]), self.rate)

    def truths(self) -> dict[str, Truth]:
        """The leaf from near by, the barrier to its sibling, and where starts end."""
        _, gradient, diagonal = self.near(self.start)
        last, span = self.depth - 1, 0.999 - _WELL
        along = np.eye(self.depth)[last] * span
        found = {
            "weight_norm": Truth(np.array([np.linalg.norm(self.start)]), source="Definition."),
            "distance_from_init": Truth(
                float(np.linalg.norm(self.start - self.sibling)),
                source="Definition.",
                other=BranchingTroughs.next_leaf,
            ),
            "linear_connectivity": Truth(
                self._barrier(),
                1e-6,
                source="Only the last coordinate moves: 1 - V on both sides of its barrier.",
                subject=BranchingTroughs.at_leaf,
                other=BranchingTroughs.next_leaf,
                reading="excess",
                error="none",
            ),
            "loss_slice": Truth(
                np.array([self.near(self.bottom + t * along)[0] for t in np.linspace(-1, 1, 21)]),
                1e-9,
                source=_NEAR,
                subject=BranchingTroughs.at_leaf,
                options={"direction": torch.from_numpy(along)},
            ),
            "hessian_diagonal.leaf": Truth(self.curvatures, source=_NEAR, subject=BranchingTroughs.at_leaf),
            "volume_scaling": Truth(
                self.depth / 2,
                0.01,
                source="A regular minimum.",
                subject=BranchingTroughs.at_leaf,
                options={"num_directions": 6 * self.depth, "num_radii": 16, "radius": 0.01},
            ),
            **_matrices.curvature_truths(np.diag(diagonal), gradient, layers=[self.depth], source=_NEAR),
            **_descent.motion_truths(self.path, probe=1),
            "leaf_probabilities": Truth(self.probabilities(), 0.0, source=_WAITS, trial=self._leaf_shares),
            "leaf_agreement": Truth(1.0, 1e-3, source=_WAITS, trial=self._agreement),
            "memory_of_the_start": Truth(
                np.zeros(2),
                0.0,
                source="Waiting erases history: P(s₂ | s₁, x₁(0)) = P(s₂ | s₁).",
                trial=self._memory,
            ),
        }
        if self.variant == "merged" and self.depth > 2:
            found["memory_of_the_way"] = Truth(
                np.zeros(2), 0.0, source="P(s₃ | s₂, s₁) = P(s₃ | s₂): the Markov property.", trial=self._way
            )
        return found

    @property
    def sibling(self) -> np.ndarray:
        """The leaf with the other last choice."""
        return self.bottom * np.append(np.ones(self.depth - 1), -1.0)

    def at_leaf(self) -> Objective:
        """The loss at the leaf."""
        return self.at(self.bottom)

    def next_leaf(self) -> Objective:
        """The loss at its sibling."""
        return self.at(self.sibling)

    def _barrier(self) -> np.ndarray:
        """Height over the chord (which is level) on the line between the two."""
        c, x = self.on_the_way(self.choices)[-1], np.linspace(self.bottom[-1], self.sibling[-1], 11)
        return 1 - 0.5 * (1 - np.cos(math.pi * (x - c) / (np.where(x > c, _WELL, -_WELL) - c)))

    # ------------------------------------------------------------------ experiments

    def drawn(self, generator: torch.Generator) -> Tensor:
        """Uniform starts in the box."""
        return 2 * torch.rand(self.starts, self.depth, generator=generator, dtype=torch.float64) - 1

    def ends(self, starts: Tensor) -> Tensor:
        """Leaf where the flow from each start ends, as a binary number; -1 if it ends elsewhere."""
        x = descend(
            self.loss,
            starts,
            math.pi**2 / 2,
            lambda x: (x.abs() - _WELL).abs().amax(1) < 0.01,
            length=0.02,
            steps=3000,
        )
        powers = 2 ** torch.arange(self.depth - 1, -1, -1)
        settled = (x.abs() - _WELL).abs().amax(1) < 0.05
        return torch.where(settled, ((x > 0) * powers).sum(1), -1)

    def _leaf_shares(self, generator: torch.Generator) -> Measurement:
        leaves = self.ends(self.drawn(generator))
        share = np.array([float((leaves == leaf).double().mean()) for leaf in range(2**self.depth)])
        guess = (share * self.starts + 1) / (self.starts + 2)
        return trial_result("leaf_probabilities", share, np.sqrt(guess * (1 - guess) / self.starts))

    def _agreement(self, generator: torch.Generator) -> Measurement:
        starts = self.drawn(generator)
        return trial_result(
            "leaf_agreement", float((self.ends(starts) == self.predicted(starts)).double().mean())
        )

    def _memory(self, generator: torch.Generator) -> Measurement:
        """For each s₁: how much more often s₂ is + where x₁ started in the outer half of its side."""
        starts = self.drawn(generator)
        leaves, outer = self.ends(starts), starts[:, 0].abs() > 0.5
        first, second = (leaves >> (self.depth - 1)) % 2, (leaves >> (self.depth - 2)) % 2
        return _difference("memory_of_the_start", first, outer, second)

    def _way(self, generator: torch.Generator) -> Measurement:
        """For each s₂: how much more often s₃ is + after s₁ = +."""
        leaves = self.ends(self.drawn(generator))
        bits = [(leaves >> (self.depth - 1 - j)) % 2 for j in range(3)]
        return _difference("memory_of_the_way", bits[1], bits[0] == 1, bits[2])

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The first two coordinates, and the probability of each leaf."""
        left, right = figure.subplots(1, 2)
        grid = torch.linspace(-1, 1, 201, dtype=torch.float64)
        points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
        plane = torch.cat([points, torch.full((201, 201, self.depth - 2), _WELL, dtype=torch.float64)], -1)
        left.contourf(grid, grid, self.loss(plane), 20)
        left.axvline(float(self.barriers[0][0]), color="white", ls="--", lw=1)
        for side, barrier in zip(((-1, 0), (0, 1)), self.barriers[1], strict=True):
            left.plot(side, [float(barrier)] * 2, color="white", ls=":", lw=1)
        left.set(xlabel="x₁ (θ)", ylabel="x₂ (θ)", title="loss: x₂ waits for x₁ to settle")
        left.set_xticks([-1, -0.5, 0, 0.5, 1])
        names = [
            "".join("LR"[(leaf >> (self.depth - 1 - j)) % 2] for j in range(self.depth))
            for leaf in range(2**self.depth)
        ]
        right.bar(names, self.probabilities())
        right.tick_params(axis="x", rotation=90, labelsize=8)
        right.set(
            xlabel="leaf: left or right (−, +) at each choice",
            ylabel="probability",
            title=f"product over {self.depth} choices",
        )


def well(x: Tensor, barrier: Tensor) -> Tensor:
    """V(x; c): 0 on the barrier, 1 in the wells at ±0.75."""
    side = torch.where(x > barrier, _WELL, -_WELL)
    return 0.5 - 0.5 * torch.cos(math.pi * (x - barrier) / (side - barrier))


def _difference(quantity: str, given: Tensor, group: Tensor, choice: Tensor) -> Measurement:
    """For given = 0 and 1: share of choice = 1 inside the group minus outside, with its error."""
    values, errors = [], []
    for side in (0, 1):
        shares = [(choice[(given == side) & part] == 1).double() for part in (group, ~group)]
        p, q = (float(s.mean()) for s in shares)
        values.append(p - q)
        errors.append(math.sqrt(p * (1 - p) / len(shares[0]) + q * (1 - q) / len(shares[1])))
    return trial_result(quantity, values, errors)


TOY = BranchingTroughs
