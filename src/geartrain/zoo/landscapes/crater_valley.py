r"""Crater and valley: what the neighbourhood of a minimum cannot tell.

> "imagine a loss function on a plane which has a crater somewhere and another crater with a valley descending into
> it somewhere else. the local neighborhoods of the deepest points of the two craters can look the same, but the
> crater with a valley descending into it will have a massively larger drainage basin."

This is that landscape, in k dimensions, with everything known. The loss lives in the box $[-R, R]^k$; the structure
is finished at the origin; k things have to be put right to get there. Three kinds differ in *when putting one right
begins to pay*:

* **needle**: only when all k are nearly right: all at once;
* **half**: the first k/2 at once; then each of the others pays by itself;
* **staircase**: the first pays by itself, then the second, and so on.

Two shapes make it: a stage $s_1 = \varphi(x_1)$, $s_j = \psi(x_j)$ (bumps of half-width r and R), and a gate
$\chi$, 1 up to ρ, 0 from r on. In the **matched form** the loss is $L = -\sum_j \big[\prod_{i \in G_j}
\chi(x_i)\big]\, s_j(x_j)$, where $G_j$ holds the coordinates that must be right before stage j pays: all of them,
the first half, or those before j.

**Same neighbourhood.** Where $|x|_\infty \le \rho$ every gate is 1, so all three losses are *the same function*
$-\sum_j s_j$. Gradient, Hessian ($\pi^2/2r^2$ once, $\pi^2/2R^2$ elsewhere), the volume of every small sublevel set
and its exponent $k/2$ (the learning coefficient), the path of gradient descent once there: nothing local can
separate the kinds.

**Different basins.** Outside the gates the gradient is exactly 0. Inside, every slope points to the origin. So a
start ends at the origin if and only if its gated coordinates are within r, and a uniform start does so with
probability

$$(r/R)^k, \qquad (r/R)^{k/2}, \qquad r/R.$$

Needle against staircase: $(R/r)^{k-1}$, exponential in k. The *path* decides, and only an instrument that leaves
the neighbourhood (the basin's volume out to a cutoff near 0, random starts, a long slice) can see it.

**The plain form** drops the gates for bumps: $-\prod_i \varphi(x_i)$; $-a(1 + \mathrm{mean}_{i>k/2}\, \psi(x_i))$
with $a = \prod_{i\le k/2} \varphi(x_i)$; $-\sum_j \varphi_1 \cdots \varphi_{j-1} \psi_j$ (with $\varphi_1$ first).
Same basins, but now the curvature at the bottom differs, and a local observable would seem to explain the basin
that it has nothing to do with. Compare the two before trusting such a correlation.

**What to vary.** `k` and `r` (the ratio of basins), `rho` (how far the kinds agree), `form`, and `offset`, the
place inside the shared neighbourhood where the instruments look.

Sources: the quotation is a short post by Kaarel on learning theory; the construction is by design.

Ledger: 1.6, 1.7, 1.9, 1.10, 1.25
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
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
from geartrain.zoo.landscapes._bumps import (
    Place,
    bump,
    bump_jet,
    descend,
    gate,
    gate_jet,
    multiplied,
    separable,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["needle", "half", "staircase"]
Form = Literal["matched", "plain"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_LOCAL = "On |x|∞ ≤ ρ the loss is -Σ s_j, whatever the kind."
_BASIN = "The gradient is 0 where a gate is shut, and points to the origin where none is."
_WALL, _RAREST = 1.0, 2e-4


@dataclass(frozen=True)
class Term:
    """A summand -weight · Π_{i∈gates} gate(x_i) · stage(x_last)."""

    weight: float
    gates: tuple[int, ...]
    last: int | None


@dataclass(frozen=True)
class CraterValley(Toy):
    """A minimum with k coordinates, and three ways of getting there.

    Attributes:
        kind: ``"needle"``, ``"half"`` or ``"staircase"``: which one the instruments look at (the
            truths cover all three).
        form: ``"matched"`` (the same function near the origin) or ``"plain"``.
        k: Coordinates, even, 2 to 8.
        r: Half-width of bumps and gates; R = 1 is that of the box.
        rho: Where the gates begin to close.
        offset: Where the instruments stand, as a share of ``rho``; 0 to 0.95.
        step: Step size of the run times the largest curvature at the origin; 0 to 0.8.
        starts: Random starts of each experiment.
    """

    title: ClassVar[str] = "Crater and valley"
    ledger: ClassVar[tuple[str, ...]] = ("1.6", "1.7", "1.9", "1.10", "1.25")

    kind: Kind = "staircase"
    form: Form = "matched"
    k: int = 4
    r: float = 0.35
    rho: float = 0.15
    offset: float = 0.8
    step: float = 0.5
    starts: int = 3000

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.form not in get_args(Form):
            raise InputError(
                f"kind is {self.kind!r} and form {self.form!r}; allowed: {', '.join(KINDS)}, and "
                f"{', '.join(get_args(Form))}."
            )
        if not 2 <= self.k <= 8 or self.k % 2:
            raise InputError(f"k is {self.k}; allowed: 2, 4, 6, 8.")
        if not 0.02 <= self.rho < self.r < 1 or self.r - self.rho < 0.02:
            raise InputError(
                f"rho is {self.rho} and r {self.r}; allowed: 0.02 <= rho, rho + 0.02 <= r, and r < R = 1."
            )
        if not 0 < self.offset <= 0.95 or not 0 < self.step <= 0.8 or self.starts < 100:
            raise InputError(
                f"offset, step and starts are {self.offset}, {self.step}, {self.starts}; allowed: above 0 and at most "
                "0.95, above 0 and at most 0.8, and 100 or more."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def terms(self) -> list[Term]:
        """The loss as a sum of products."""
        k, everyone = self.k, tuple(range(self.k))
        first = everyone[: k // 2]
        if self.form == "matched":
            before = {
                "needle": lambda j: everyone,
                "half": lambda j: first,
                "staircase": lambda j: everyone[:j],
            }
            return [Term(1.0, before[self.kind](j), j) for j in everyone]
        if self.kind == "needle":
            return [Term(1.0, everyone, None)]
        if self.kind == "half":
            return [Term(1.0, first, None), *(Term(2 / k, first, j) for j in everyone[k // 2 :])]
        return [Term(1.0, (0,), None), *(Term(1.0, everyone[:j], j) for j in everyone[1:])]

    def loss(self, x: Tensor) -> Tensor:
        """L at points of shape (..., k); a wall stands around the box."""
        widths, shut, last, weights = self._tables
        gates = bump(x, self.r) if self.form == "plain" else gate(x, self.rho, self.r)
        # A column of ones stands for "no stage of its own".
        stages = torch.cat([bump(x, widths), torch.ones_like(x[..., :1])], -1)[..., last]
        products = torch.where(shut, gates[..., None, :], 1.0).prod(-1) * stages
        return torch.where((x.abs() <= 1).all(-1), -products @ weights, _WALL)

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Widths of the stages; which gates, stage and weight belong to each term."""
        shut = [[i in term.gates for i in range(self.k)] for term in self.terms]
        last = [self.k if term.last is None else term.last for term in self.terms]
        widths, weights = [self.r] + [1.0] * (self.k - 1), [term.weight for term in self.terms]
        numbers = [torch.tensor(values, dtype=torch.float64) for values in (widths, weights)]
        return numbers[0], torch.tensor(shut), torch.tensor(last), numbers[1]

    @property
    def start(self) -> np.ndarray:
        """Where the instruments stand, inside |x|∞ ≤ ρ."""
        i = np.arange(self.k)
        return self.offset * self.rho * (-1.0) ** i * (1 - i / (2 * self.k))

    def at(self, x: np.ndarray | Tensor) -> Objective:
        """The loss at a point."""
        return Objective(Place(x), data=[torch.zeros(1, 1).double()], batch_loss=self._batch_loss)

    def make_objective(self) -> Objective:
        """The loss at the start."""
        return self.at(self.start)

    def make_run(self) -> Run:
        """Gradient descent from the start."""
        model = Place(self.start)
        return Run(
            model,
            optimizer=torch.optim.SGD(model.parameters(), lr=self.rate),
            train=[torch.zeros(1, 1).double()],
            batch_loss=self._batch_loss,
            epochs=40,
            name="crater-valley",
        )

    def _batch_loss(self, model: Any, batch: Any) -> Tensor:
        return self.loss(model())

    def _with_rim(self, model: Any, batch: Any) -> Tensor:
        """The loss, with the plateau lifted to a wall: where the basin ends, the loss jumps."""
        loss = self.loss(model())
        return torch.where(loss < 0, loss, 3.0)

    def of_kind(self, kind: Kind) -> CraterValley:
        """The same landscape but for its paths."""
        return replace(self, kind=kind)

    # ------------------------------------------------------------------ what is known

    @property
    def gated(self) -> int:
        """Coordinates that must be right from the beginning."""
        return {"needle": self.k, "half": self.k // 2, "staircase": 1}[self.kind]

    @property
    def reach(self) -> float:
        """Probability that a uniform start ends at the origin: (r/R)^gated."""
        return self.r**self.gated

    def inside(self, x: Tensor) -> Tensor:
        """Whether a start will end at the origin: its gated coordinates are within r."""
        return (x[..., : self.gated].abs() < self.r).all(-1)

    @property
    def bottom_curvatures(self) -> np.ndarray:
        """Diagonal of the Hessian at the origin, which has no other entries."""
        k, half = self.k, self.k // 2
        narrow, wide = math.pi**2 / (2 * self.r**2), math.pi**2 / 2
        if self.form == "matched":
            return np.array([narrow] + [wide] * (k - 1))
        if self.kind == "needle":
            return np.full(k, narrow)
        if self.kind == "half":
            return np.array([2 * narrow] * half + [wide / half] * half)
        return np.array([k * narrow] + [(k - i) * narrow + wide for i in range(2, k + 1)])

    @property
    def rate(self) -> float:
        """Step size of the run."""
        return self.step / float(self.bottom_curvatures.max())

    def derivatives(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Loss, gradient and Hessian by the product rule."""
        value, gradient, hessian = 0.0, np.zeros(self.k), np.zeros((self.k, self.k))
        for term in self.terms:
            jets = np.tile([1.0, 0.0, 0.0], (self.k, 1))
            for i, at in enumerate(x):
                shut = bump_jet(at, self.r) if self.form == "plain" else gate_jet(at, self.rho, self.r)
                factors = [shut] if i in term.gates else []
                factors += [bump_jet(at, self.r if i == 0 else 1.0)] if i == term.last else []
                jets[i] = multiplied(factors)
            v, g, h = separable(jets)
            value, gradient, hessian = (
                value - term.weight * v,
                gradient - term.weight * g,
                hessian - term.weight * h,
            )
        return value, gradient, hessian

    @cached_property
    def path(self) -> _descent.Path:
        """The first steps of the run, by hand."""
        points = [self.start]
        for _ in range(_descent.STEPS):
            points.append(points[-1] - self.rate * self.derivatives(points[-1])[1])
        found = [self.derivatives(x) for x in points]
        losses, gradients = np.array([f[0] for f in found]), np.array([f[1] for f in found])
        return _descent.Path(np.array(points), gradients, losses, found[0][2], self.rate)

    def truths(self) -> dict[str, Truth]:
        """What is seen from the start, then each kind: its neighbourhood, its basin."""
        _, gradient, hessian = self.derivatives(self.start)
        seen = {
            "weight_norm": Truth(np.array([np.linalg.norm(self.start)]), source="Definition."),
            "distance_from_init": Truth(
                float(np.linalg.norm(self.start)), source="Definition.", other=CraterValley.bottom
            ),
            "linear_connectivity": Truth(
                self._excess(),
                source="L on the line to the origin, by hand.",
                other=CraterValley.bottom,
                reading="excess",
                error="none",
            ),
            "loss_slice": self._slice(0, self.rho, "The shared neighbourhood and the near side of it."),
            **_matrices.curvature_truths(
                hessian, gradient, layers=[self.k], source="Product rule for the bumps and gates."
            ),
            **_descent.motion_truths(self.path, probe=1),
        }
        for kind in KINDS:
            there = self.of_kind(kind)
            seen |= {f"{name}.{kind}": truth for name, truth in there._of_the_bottom().items()}
            seen |= {f"{name}.{kind}": truth for name, truth in there._of_the_basin().items()}
        return seen | {
            "reach_on_the_plane": Truth(
                np.array([self.r**2, self.r]) / 2, 0.0, source=_BASIN, trial=self._reach_on_the_plane
            )
        }

    def _of_the_bottom(self) -> dict[str, Truth]:
        """What is seen within ρ of the origin: equal for all kinds in the matched form."""
        curvatures = self.bottom_curvatures
        known = partial(Truth, source=_LOCAL, subject=lambda toy: toy.of_kind(self.kind).bottom())
        local = {
            "hessian_spectrum": known(np.sort(curvatures)[::-1], options={"tol": 1e-8, "confirm": True}),
            "hessian_diagonal": known(curvatures),
            "hessian_trace": known(float(curvatures.sum())),
        }
        if self.form == "matched":
            rays = {"num_directions": max(24, 6 * self.k), "num_radii": 16, "radius": 0.05 * self.rho}
            local["volume_scaling"] = known(self.k / 2, 0.01, options=rays)
            depth, log_volume = self._near()
            local["loss_slice"] = self._slice(1, self.rho, _LOCAL)
            local["basin_volume_near"] = known(
                log_volume,
                1e-3,
                instrument="basin_volume",
                options={"cutoff": depth - self.k, "samples": 64},
            )
        return local

    def _of_the_basin(self) -> dict[str, Truth]:
        """What is seen further away."""
        gated, free = self.gated, self.k - self.gated
        scales = torch.tensor([self.r] * gated + [1.0] * free, dtype=torch.float64)
        edge = {
            "cutoff": 1.0,
            "samples": 10 * self.k,
            "preconditioner": scales,
            "max_radius": 2 * math.sqrt(self.k),
        }
        far = {
            "basin_volume": Truth(
                (2 * self.r) ** gated * 2.0**free,
                5e-3,
                source="The box of half-widths r (gated) and R, seen from the origin.",
                assumptions="The plateau beyond the rim is lifted, so that the rim is sharp.",
                subject=lambda toy: toy.of_kind(self.kind).basin(),
                options=edge,
                extract=np.exp,
            ),
            "loss_slice_far": self._slice(self.k - 1, 0.999, "L along the last coordinate, by hand."),
            "membership": Truth(1.0, 1e-3, source=_BASIN, trial=self._membership),
        }
        if self.reach > _RAREST:
            far["reach"] = Truth(self.reach, 0.0, source=_BASIN, trial=self._reach)
        return far

    def bottom(self) -> Objective:
        """The loss at the origin."""
        return self.at(np.zeros(self.k))

    def basin(self) -> Objective:
        """The loss at the origin, with the plateau lifted."""
        return Objective(
            Place(np.zeros(self.k)), data=[torch.zeros(1, 1).double()], batch_loss=self._with_rim
        )

    def _slice(self, coordinate: int, length: float, source: str) -> Truth:
        """L along a coordinate through the origin."""
        direction = np.eye(self.k)[coordinate] * length
        values = [self.derivatives(t * direction)[0] for t in np.linspace(-1, 1, 21)]
        return Truth(
            np.array(values),
            1e-9,
            source=source,
            instrument="loss_slice",
            subject=lambda toy: toy.of_kind(self.kind).bottom(),
            options={"direction": torch.from_numpy(direction)},
        )

    def _excess(self) -> np.ndarray:
        t = np.linspace(0, 1, 11)
        line = np.array([self.derivatives((1 - s) * self.start)[0] for s in t])
        return line - (1 - t) * line[0] - t * line[-1]

    def _near(self) -> tuple[float, float]:
        """A depth at which the sublevel set lies within ρ, and the log of that set's volume.

        1 - s_j = sin²(πx_j/2w_j) = y_j², so that the set is the ball |y|² < depth; in
        dx_j = (2w_j/π)(1 - y_j²)^(-1/2) dy_j the root is expanded, and each monomial integrated over the ball by
        Dirichlet's formula.
        """
        depth = 0.9 * math.sin(math.pi * self.rho / 2) ** 2
        m = np.arange(40)
        gammas = np.array([math.gamma(i + 0.5) / math.sqrt(math.factorial(i)) for i in m])
        series, total = np.array([1.0]), 0.0
        for _ in range(self.k):
            series = np.convolve(series, gammas**2 / math.sqrt(math.pi))[: len(m)]
        for order, coefficient in enumerate(series):
            power = self.k / 2 + order
            total += coefficient * depth**power / math.gamma(power + 1)
        return depth, math.log(total) + self.k * math.log(2 / math.pi) + math.log(self.r)

    # ------------------------------------------------------------------ experiments

    def flow(self, starts: Tensor) -> Tensor:
        """Ends of the gradient flow from many starts at once."""
        curvature = float(self.bottom_curvatures.max())
        return descend(self.loss, starts, curvature, lambda x: x.abs().amax(1) < 0.01)

    def drawn(self, generator: torch.Generator, count: int) -> Tensor:
        """Uniform starts in the box."""
        return 2 * torch.rand(count, self.k, generator=generator, dtype=torch.float64) - 1

    def arrived(self, starts: Tensor) -> Tensor:
        """Whether the flow from there ends at the origin."""
        return self.flow(starts).abs().amax(1) < 0.05

    def _reach(self, generator: torch.Generator) -> Measurement:
        # As many as it takes to see thirty arrivals: those that do not move cost nothing.
        count = max(self.starts, math.ceil(30 / self.reach))
        return _share("reach", self.arrived(self.drawn(generator, count)))

    def _membership(self, generator: torch.Generator) -> Measurement:
        starts = self.drawn(generator, self.starts)
        right = (self.arrived(starts) == self.inside(starts)).double().mean()
        return trial_result("membership", float(right))

    def _reach_on_the_plane(self, generator: torch.Generator) -> Measurement:
        """Needle and staircase side by side: which of them catches a start?"""
        x = self.drawn(generator, 2 * self.starts)[:, :2]
        left = torch.rand(len(x), generator=generator) < 0.5
        caught = [
            (side & replace(self, k=2, kind=kind).arrived(x)).double()
            for kind, side in (("needle", left), ("staircase", ~left))
        ]
        found = [_share("reach", c) for c in caught]
        return trial_result("reach", [float(f) for f in found], [f.standard_error for f in found])

    # ------------------------------------------------------------------ its picture

    def draw(self, figure: Figure) -> None:
        """The plane with a needle and a staircase, and slices from their bottoms."""
        axes = figure.subplots(1, 2, width_ratios=(2, 1))
        grid = torch.linspace(-1, 1, 121, dtype=torch.float64)
        points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
        for place, kind in ((-1.0, "needle"), (1.0, "staircase")):
            plane = replace(self, k=2, kind=kind)
            axes[0].contourf(place + grid, grid, plane.loss(points), np.linspace(-2, 0, 21), cmap="viridis")
            axes[0].annotate(
                f"{kind}\nreach {plane.reach / 2:.3g}",
                (place - 0.6 * (place > 0), -0.9),
                color="black",
                ha="center",
            )
            x2 = np.linspace(-0.999, 0.999, 201)
            values = [plane.derivatives(np.array([0.0, at]))[0] for at in x2]
            axes[1].plot(x2, values, label=kind, ls="-" if kind == "needle" else "--")
        axes[0].set(xlabel="x₁, two boxes side by side (θ)", ylabel="x₂ (θ)", title=f"{self.form} form")
        axes[1].axvspan(-self.rho, self.rho, color="0.85", label="|x| ≤ ρ")
        axes[1].set(xlabel="x₂ (θ)", ylabel="loss (ℓ)", title="same bottom, different way")
        axes[1].set_ylim(-2.1, 0.75)
        axes[1].legend(fontsize=8, loc="upper center", ncols=2)


def _share(quantity: str, found: Tensor) -> Measurement:
    """A share with its binomial error, which is not 0 where nothing was found."""
    count, hits = len(found), float(found.sum())
    guess = (hits + 1) / (count + 2)
    return trial_result(quantity, hits / count, math.sqrt(guess * (1 - guess) / count))


TOY = CraterValley
