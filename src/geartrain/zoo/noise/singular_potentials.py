r"""Singular potentials: how many parameters is a minimum worth?

A minimum $\tfrac12 w^\top H w$ with $H > 0$ holds a posterior $e^{-nL}$ of volume $n^{-d/2}$: each parameter
counts a half. Where the Hessian vanishes the volume shrinks more slowly, as $n^{-\lambda}(\ln n)^{m-1}$, and
*λ, the learning coefficient, takes the place of d/2* in every formula of Bayesian learning: the free energy is
$\lambda\ln n$, the generalisation error λ/n. These are the smallest examples, on the box $[-1,1]^d$ with a
uniform prior.

**Normal crossings.** For $L = \prod_i w_i^{2k_i}$: $\lambda = \min_i 1/(2k_i)$, and $m$ is the number of $i$
that reach it. Sums of potentials in separate variables add their λ.

| $L$ | $w^2$ | $w^4$ | $w^6$ | $x^2+y^2$ | $x^2y^2$ | $x^2y^4$ | $x^4+y^2$ |
|---|---|---|---|---|---|---|---|
| λ | 1/2 | 1/4 | 1/6 | 1 | 1/2 | 1/4 | 3/4 |
| m | 1 | 1 | 1 | 1 | 2 | 1 | 1 |

**What can be measured** is never λ but its value at finite $n$, for which there is an exact identity: with
$F(n) = -\ln\int e^{-nL}$, $\;dF/d\ln n = n\,E[L]$, the mean under the posterior. For a single power $n\,E[L] =
\lambda - n^\lambda e^{-n}/\gamma(\lambda, n)$: exponentially close to λ. With multiplicity $m > 1$ it is *not*
close:

$$n\,E[L] = \tfrac12 - \frac{1}{\ln n + \gamma_E + 2\ln 2} \qquad\text{for } (xy)^2,$$

18 % too small at $n = 10^4$, 8 % at $10^{10}$. An estimator has to meet this number, not the limit.

**Volumes** say the same: $\mathrm{vol}\{L < \varepsilon\} \sim \varepsilon^\lambda(\ln 1/\varepsilon)^{m-1}$.

**The objective** stands at `place`, beside the singularity, where the Hessian is an ordinary matrix; the volume
is measured around the origin.

**What to vary.** `kind`, `samples` (n: watch $(xy)^2$ creep towards its limit), `place`.

Sources: Watanabe 2009 (Algebraic Geometry and Statistical Learning Theory) and 2013, arXiv 1208.6338; Lau et
al. 2023, arXiv 2308.12108.
Ledger: 1.29, 1.30.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo.noise._potential import Potential

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Powers = tuple[tuple[int, ...], ...]
KINDS: dict[str, tuple[Powers, float, int]] = {
    "w2": (((2,),), 1 / 2, 1),
    "w4": (((4,),), 1 / 4, 1),
    "w6": (((6,),), 1 / 6, 1),
    "x2+y2": (((2, 0), (0, 2)), 1.0, 1),
    "x2y2": (((2, 2),), 1 / 2, 2),
    "x2y4": (((2, 4),), 1 / 4, 1),
    "x4+y2": (((4, 0), (0, 2)), 3 / 4, 1),
}
"""Name: (powers of each term, λ, m)."""
REACH = 40.0
"""Logarithm of the box over the smallest |w| that integrals look at."""
OPEN_BETA = 100.0
"""nβ of the posterior without a box."""
DRAWS = 400_000
"""Of the simulated posterior."""
_SOURCE = "Quadrature of e^(-nL) on the box; Watanabe 2009."


@dataclass(frozen=True)
class SingularPotentials(Toy):
    """A monomial, or a sum of two, on the box [-1, 1]^d.

    Attributes:
        kind: Which: "w2", "w4", "w6", "x2+y2", "x2y2", "x2y4" or "x4+y2".
        samples: n, the inverse temperature of the posterior.
        place: Where the objective stands; one number for each parameter is taken from it.
        step: Of gradient descent.
    """

    title: ClassVar[str] = "Singular potentials"
    ledger: ClassVar[tuple[str, ...]] = ("1.29", "1.30")

    kind: str = "x2y2"
    samples: float = 1e4
    place: tuple[float, float] = (0.8, -0.6)
    step: float = 0.02

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind is {self.kind!r}; allowed: {', '.join(map(repr, KINDS))}.")
        if not 2 <= self.samples <= 1e12:
            raise InputError(f"samples is {self.samples}; allowed: 2 to 1e12.")
        if len(self.place) != 2 or not all(0.01 <= abs(w) <= 1 for w in self.place):
            raise InputError(
                f"place is {self.place}; allowed: two numbers of size 0.01 to 1. At 0 there is no gradient to measure."
            )
        if not 0 < self.step <= 0.05:
            raise InputError(f"step is {self.step}; allowed: above 0 and up to 0.05.")

    # ------------------------------------------------------------------ how it is made

    @property
    def powers(self) -> np.ndarray:
        """Shape (terms, parameters)."""
        return np.array(KINDS[self.kind][0])

    @property
    def dimension(self) -> int:
        """Number of parameters d."""
        return self.powers.shape[1]

    @property
    def start(self) -> np.ndarray:
        """Where the objective stands, shape (d,)."""
        return np.array(self.place[: self.dimension])

    @cached_property
    def potential(self) -> Potential:
        """The loss and its derivatives."""
        powers = self.powers
        return Potential(partial(_torch_loss, powers), self.loss, self.gradient, self.hessian)

    def loss(self, w: np.ndarray) -> float:
        """L at one point."""
        return float((w**self.powers).prod(1).sum())

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """Each term times (power / w)."""
        terms = (w**self.powers).prod(1)
        return (terms[:, None] * self.powers / w).sum(0)

    def hessian(self, w: np.ndarray) -> np.ndarray:
        """Each term times (pᵢpⱼ - δᵢⱼpᵢ) / wᵢwⱼ."""
        terms, p = (w**self.powers).prod(1), self.powers.astype(float)
        inner = p[:, :, None] * p[:, None, :] - p[:, :, None] * np.eye(self.dimension)
        return (terms[:, None, None] * inner).sum(0) / np.outer(w, w)

    def make_objective(self) -> Objective:
        """L at `place`."""
        return self.potential.objective(self.start)

    def make_run(self) -> Run:
        """Gradient descent from there."""
        return self.potential.run(self.start, self.step)

    # ------------------------------------------------------------------ what is known

    @property
    def coefficient(self) -> float:
        """λ."""
        return KINDS[self.kind][1]

    @property
    def multiplicity(self) -> int:
        """The m of (ln n)^(m-1)."""
        return KINDS[self.kind][2]

    def _integrals(self, samples: float) -> tuple[float, float]:
        """Means of e^(-nL) and of nL e^(-nL) under the prior, in u = -ln|w|, which spreads out the singularity."""
        nodes, weights = np.polynomial.legendre.leggauss(400)
        u, mass = (nodes + 1) * REACH / 2, weights * REACH / 2
        # What lies below e^(-REACH) in one variable has all of its mass at L = 0 in that variable.
        u, mass = np.append(u, np.inf), np.append(mass * np.exp(-u), math.exp(-REACH))
        size = np.exp(-u)
        if self.dimension == 1:
            energy, prior = samples * size ** self.powers[0, 0], mass
        else:
            grid = np.stack(np.meshgrid(size, size, indexing="ij"), axis=-1)
            energy = samples * sum((grid**p).prod(-1) for p in self.powers)
            prior = mass[:, None] * mass
        weight = prior * np.exp(-energy)
        return float(weight.sum()), float((weight * energy).sum())

    @property
    def mean_energy(self) -> float:
        """The target n E[L] of every estimator of λ at this n."""
        total, energy = self._integrals(self.samples)
        return energy / total

    def mean_energy_in_the_open(self) -> float:
        """nβ E[L] under e^(-nβL - |w|²/2) without a box, nβ = `OPEN_BETA`."""
        nodes, weights = np.polynomial.legendre.leggauss(400)
        u, mass = (
            (nodes + 1) * REACH / 2 - math.log(8),
            weights * REACH / 2,
        )  # beyond 8 the Gaussian is nothing
        size = np.exp(-u)
        density = mass * size * np.exp(-(size**2) / 2)
        if self.dimension == 1:
            energy, prior = OPEN_BETA * size ** self.powers[0, 0], density
        else:
            grid = np.stack(np.meshgrid(size, size, indexing="ij"), axis=-1)
            energy = OPEN_BETA * sum((grid**p).prod(-1) for p in self.powers)
            prior = density[:, None] * density
        weight = prior * np.exp(-energy)
        return float((weight * energy).sum() / weight.sum())

    def free_energy(self, samples: float) -> float:
        """F = -ln ∫ e^(-nL) under the uniform prior, nats."""
        return -math.log(self._integrals(samples)[0])

    @property
    def flat_volume(self) -> bool:
        """Whether vol{L < ε} around the origin is a pure power of ε."""
        return "y" not in self.kind or "+" in self.kind

    def truths(self) -> dict[str, Truth]:
        """Learning coefficient and free energy at this n; curvature and motion at `place`."""
        known = partial(Truth, source=_SOURCE, assumptions="Uniform prior on the box, temperature 1/n.")
        truths = self.potential.truths(self.start, self.step, np.full(self.dimension, 0.5), _at_a_half)
        truths |= {
            "learning_coefficient": known(self.mean_energy, 1e-6, trial=self._sample_energy),
            "free_energy": known(self.free_energy(self.samples), 1e-6, trial=self._sample_volume),
            "free_energy.slope": known(self.mean_energy, 1e-5, trial=self._differentiate),
            "volume": known(self.volume(1e-2), 1e-9, trial=self._count),
            "learning_coefficient.sampled": Truth(
                self.mean_energy_in_the_open(),
                1e-3,
                assumptions="No box, but a Gaussian of unit width around the origin.",
                source="Quadrature of e^(-nβL - |w|²/2).",
                options={
                    "n_beta": OPEN_BETA,
                    "localisation": 1.0,
                    "kernel": "hmc",
                    "chains": 16,
                    "draws": 200,
                },
                subject=_at_origin,
            ),
        }
        if self.flat_volume:
            rays = 60 if self.kind == "x4+y2" else 12  # the others look alike along every ray
            how: dict[str, Any] = {
                "radius": 1.0,
                "levels": (1e-4, 1e-2),
                "num_directions": rays,
                "num_radii": 20,
            }
            truths["volume_scaling"] = Truth(
                self.coefficient,
                0.05,
                assumptions="Sublevel sets well inside the ball; rays find the thin ones at finite resolution.",
                source="vol{L < ε} ∝ ε^λ for sums of powers, by scaling each variable.",
                options=how,
                subject=_at_origin,
            )
        return truths

    def volume(self, level: float) -> float:
        """Prior mass of {L < ε}, ε ≤ 1: a power, an integral of a root, or of a hyperbola."""
        p = self.powers
        if self.dimension == 1:
            return level ** (1 / float(p[0, 0]))
        nodes, weights = np.polynomial.legendre.leggauss(200)
        if len(p) == 2:  # over x = ε^(1/p) sin(t)^(2/p): the other variable's root is then cos(t)^(2/q)
            first, second = float(p[0, 0]), float(p[1, 1])
            t, mass = (nodes + 1) * math.pi / 4, weights * math.pi / 4
            x = np.sin(t) ** (2 / first)
            slope = 2 / first * x * np.cos(t) / np.sin(t)
            return level ** (1 / first + 1 / second) * float(mass @ (np.cos(t) ** (2 / second) * slope))
        first, second = float(p[0, 0]), float(p[0, 1])
        root = level ** (1 / second)
        if first == second:
            return root * (1 - math.log(root))
        edge, ratio = level ** (1 / first), first / second  # |x| < edge: every |y| ≤ 1 is inside
        return edge + root * (1 - edge ** (1 - ratio)) / (1 - ratio)

    def _draw(self, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Points log-uniform in each variable, as energies nL, and their weights under the prior."""
        depth = math.log(self.samples) + 12
        u = torch.rand(DRAWS, self.dimension, generator=generator, dtype=torch.float64).numpy() * depth
        energy = self.samples * np.exp(-u @ self.powers.T).sum(1)
        return energy, (depth * np.exp(-u)).prod(1)

    def _sample_energy(self, generator: torch.Generator) -> Measurement:
        """Importance sampling of n E[L]."""
        energy, prior = self._draw(generator)
        weight = prior * np.exp(-energy)
        mean = float((weight * energy).sum() / weight.sum())
        error = math.sqrt(float((weight**2 * (energy - mean) ** 2).sum())) / float(weight.sum())
        return trial_result("learning_coefficient", mean, error)

    def _sample_volume(self, generator: torch.Generator) -> Measurement:
        """Importance sampling of F."""
        energy, prior = self._draw(generator)
        weight = prior * np.exp(-energy)
        mean = float(weight.mean())
        return trial_result("free_energy", -math.log(mean), float(weight.std()) / mean / math.sqrt(DRAWS))

    def _differentiate(self, generator: torch.Generator) -> Measurement:
        """Central difference of F in ln n."""
        step = 1e-3
        up, down = (self.free_energy(self.samples * math.exp(s)) for s in (step, -step))
        return trial_result("free_energy.slope", (up - down) / (2 * step))

    def _count(self, generator: torch.Generator) -> Measurement:
        """Share of uniform points with L < 0.01."""
        w = torch.rand(DRAWS, self.dimension, generator=generator, dtype=torch.float64).numpy()
        inside = (w[:, None] ** self.powers).prod(2).sum(1) < 1e-2
        return trial_result("volume", inside.mean(), inside.std() / math.sqrt(DRAWS))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """What an estimator sees, n E[L], over n for all kinds, with the limits."""
        axes = figure.add_subplot()
        samples = np.geomspace(10, 1e8, 10)
        for place, kind in enumerate(KINDS):
            toys = [replace(self, kind=kind, samples=float(n)) for n in samples]
            axes.semilogx(samples, [t.mean_energy for t in toys], color=f"C{place}", label=f"{kind}")
            axes.axhline(KINDS[kind][1], color=f"C{place}", ls=":", lw=0.8)
        axes.set(xlabel="examples n", ylabel="n E[L] (dotted: λ)", title=self.title)
        axes.legend(fontsize=7, ncols=2)


def _torch_loss(powers: np.ndarray, w: Tensor) -> Tensor:
    return torch.stack(
        [torch.stack([w[i] ** int(p) for i, p in enumerate(row)]).prod() for row in powers]
    ).sum()


def _at_a_half(toy: SingularPotentials) -> Objective:
    return toy.potential.objective(np.full(toy.dimension, 0.5))


def _at_origin(toy: SingularPotentials) -> Objective:
    return toy.potential.objective(np.zeros(toy.dimension))


TOY = SingularPotentials
