r"""Two basins of equal depth: where a sampler has to be, and where it gets stuck.

The density $e^{-L} \propto e^{-\lVert q-\mu\rVert^2/2s^2} + e^{-\lVert q+\mu\rVert^2/2S^2}$ in $k$ dimensions
has two wells, a narrow one at $\mu = (1.5, \dots)$ and a wide one at $-\mu$, *equally deep*. The loss at the
bottom says nothing about which of them matters; the volume does:

$$P(\text{wide}) = \frac{S^k}{s^k + S^k} = \frac{3^k}{1+3^k}\quad (S = 3s),$$

98.8 % at $k = 4$. The free energies differ by $k\ln(S/s)$, an *entropy*: this is what a flat minimum is worth.

**Stuck chains.** The wells are many standard deviations apart, so a plain chain never crosses. Run $C$ chains,
half in each well: the pooled answer is the split of the *starts*, whatever the masses. R-hat shows it: the
means of a coordinate have variance $\frac{C}{C-1}\mu_1^2$, a chain within has $\frac12(s^2+S^2)$, so that

$$\hat R \to \sqrt{1 + \frac{C}{C-1}\,\frac{\mu_1^2}{(s^2+S^2)/2}} = 3.0 \quad\text{for ten chains.}$$

R-hat sees that something is wrong; it cannot say which answer is right.

**Tempering** helps: at inverse temperature $b$ the wells are Gaussians of widths $s/\sqrt b, S/\sqrt b$ that
overlap once $b$ is small, and *their mass ratio is the same* while they do not. Exchanging states between
temperatures carries chains across, and detailed balance puts them where the mass is.

**What to vary.** `dimension` (the odds grow as $3^k$), `narrow`, `wide`, `centre`, `place` (where the objective
stands).

Sources: by design; R-hat: Vehtari et al. 2021, arXiv 1903.08008; tempering: Swendsen, Wang 1986.
Ledger: 2.10, 2.11.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._regression import normal
from geartrain.zoo.noise._potential import Potential

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHAINS, LENGTH = 10, 4000
"""Of the stuck chains."""
RISE = 0.1
"""Height above the bottom up to which a basin's volume is measured."""
_SOURCE = "Gaussian integrals (by design)."


@dataclass(frozen=True)
class TwoBasins(Toy):
    """-ln of two Gaussian bumps of equal height.

    Attributes:
        dimension: Number of parameters k.
        narrow: Width s of the well at +centre.
        wide: Width S of the well at -centre.
        centre: Each coordinate of the narrow well's bottom.
        place: The objective stands at this multiple of the narrow well's bottom (1 is the bottom itself).
    """

    title: ClassVar[str] = "Two basins of equal depth"
    ledger: ClassVar[tuple[str, ...]] = ("2.10", "2.11")

    dimension: int = 4
    narrow: float = 0.25
    wide: float = 0.75
    centre: float = 1.5
    place: float = 0.6

    def __post_init__(self) -> None:
        if not 1 <= self.dimension <= 10:
            raise InputError(f"dimension is {self.dimension}; allowed: 1 to 10.")
        if not 0.05 <= self.narrow <= self.wide <= 3:
            raise InputError(
                f"narrow is {self.narrow}, wide {self.wide}; allowed: 0.05 to 3, the narrow one first."
            )
        apart = 2 * self.centre * math.sqrt(self.dimension) / (self.narrow + self.wide)
        if not apart >= 4:
            raise InputError(
                f"centre is {self.centre}; allowed: wells at least 4 widths apart, here "
                f"{2 * (self.narrow + self.wide) / math.sqrt(self.dimension):.3g} or more. Nearer, they are one basin."
            )
        if not -1 < self.place < 1 or self.place == 0:
            raise InputError(
                f"place is {self.place}; allowed: between -1 and 1, not 0, so that it has a slope."
            )

    # ------------------------------------------------------------------ how it is made

    @property
    def bottom(self) -> np.ndarray:
        """Of the narrow well; the wide one's is its negative."""
        return np.full(self.dimension, self.centre)

    @property
    def start(self) -> np.ndarray:
        """Where the objective stands, a little off the line between the wells."""
        return self.place * self.bottom + 0.05 * np.cos(np.arange(self.dimension))

    @property
    def step(self) -> float:
        """Of gradient descent: a tenth of the stable one in the narrow well."""
        return 0.2 * self.narrow**2

    def heights(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Exponents of the two bumps at points of shape (..., k)."""
        return (
            -((q - self.bottom) ** 2).sum(-1) / (2 * self.narrow**2),
            -((q + self.bottom) ** 2).sum(-1) / (2 * self.wide**2),
        )

    def energy(self, q: np.ndarray) -> np.ndarray:
        """L at points of shape (..., k)."""
        return -np.logaddexp(*self.heights(q))

    def in_wide(self, q: np.ndarray) -> np.ndarray:
        """Whether points belong to the wide well: its bump is the higher one there."""
        first, second = self.heights(q)
        return second > first

    def _pieces(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shares of the bumps at one point, their slopes and their curvatures."""
        first, second = self.heights(q)
        share = np.array([expit(first - second), expit(second - first)])
        curvatures = np.array([1 / self.narrow**2, 1 / self.wide**2])
        return share, np.stack([q - self.bottom, q + self.bottom]) * curvatures[:, None], curvatures

    def gradient(self, q: np.ndarray) -> np.ndarray:
        """Of L."""
        share, slopes, _ = self._pieces(q)
        return share @ slopes

    def hessian(self, q: np.ndarray) -> np.ndarray:
        """Of L: mean curvature of the bumps less the covariance of their slopes."""
        share, slopes, curvatures = self._pieces(q)
        mean = share @ slopes
        spread = (share[:, None] * slopes).T @ slopes - np.outer(mean, mean)
        return float(share @ curvatures) * np.eye(self.dimension) - spread

    @cached_property
    def potential(self) -> Potential:
        """The loss and its derivatives."""
        formula = partial(_torch_loss, self.centre, self.narrow, self.wide)
        return Potential(formula, lambda q: float(self.energy(q)), self.gradient, self.hessian)

    def make_objective(self) -> Objective:
        """L between the wells."""
        return self.potential.objective(self.start)

    def make_run(self) -> Run:
        """Gradient descent from there."""
        return self.potential.run(self.start, self.step)

    # ------------------------------------------------------------------ what is known

    @property
    def mass(self) -> float:
        """Posterior probability of the wide well."""
        return float(expit(self.dimension * math.log(self.wide / self.narrow)))

    @property
    def stuck_r_hat(self) -> float:
        """R-hat of a coordinate when half of the chains sit in each well for ever."""
        within = (self.narrow**2 + self.wide**2) / 2
        return math.sqrt(1 + CHAINS / (CHAINS - 1) * self.centre**2 / within)

    def truths(self) -> dict[str, Truth]:
        """Masses, stuck chains, volumes of the basins; curvature and motion between them."""
        known = partial(Truth, source=_SOURCE)
        k = self.dimension
        truths = self.potential.truths(self.start, self.step, -self.bottom, _in_wide)
        ball = k / 2 * math.log(math.pi) - math.lgamma(k / 2 + 1)
        sizes = {"narrow": (self.narrow, _in_narrow), "wide": (self.wide, _in_wide)}
        for name, (width, where) in sizes.items():
            volume = ball + k / 2 * math.log(2 * RISE) + k * math.log(width)
            floor = float(self.energy(self.bottom if name == "narrow" else -self.bottom))
            near = partial(known, subject=where, assumptions="The other well adds nothing at this height.")
            truths[f"basin_volume.{name}"] = near(
                volume, 1e-3, instrument="basin_volume", options={"cutoff": floor + RISE, "max_radius": 100.0}
            )
            trace = k / width**2
            truths[f"hessian_trace.{name}"] = near(trace, 0.02, instrument="hessian_trace")
        return truths | {
            "basin_mass": known(self.mass, 1e-4, trial=self._weigh),
            "free_energy_difference": known(
                k * math.log(self.wide / self.narrow), 1e-3, trial=self._difference
            ),
            "learning_coefficient": known(
                k / 2,
                1e-2,
                assumptions="Within a well, at temperature 1: half a unit per parameter.",
                trial=self._heat,
            ),
            "learning_coefficient.sampled": known(
                k / 2 / (1 + self.wide**2),
                5e-3,
                assumptions="Chains never cross; they are held back by a Gaussian of unit width.",
                options={"n_beta": 1.0, "localisation": 1.0, "kernel": "hmc", "chains": 16, "draws": 200},
                subject=_in_wide,
            ),
            "stuck_r_hat": known(self.stuck_r_hat, 1e-3, assumptions="No chain crosses.", trial=self._stay),
            "tempered_mass": known(self.mass, 1e-4, trial=self._temper),
        }

    def sample_well(self, generator: torch.Generator, count: int, *, wide: bool) -> np.ndarray:
        """Exact draws within a well, shape (count, k)."""
        width, side = (self.wide, -1) if wide else (self.narrow, 1)
        return side * self.bottom + width * normal(generator, count, self.dimension)

    def _importance(self, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Points from bumps 1.3 times as wide, and their importance weights e^(-L)/density."""
        half, stretch = 100_000, 1.3
        scale = np.array([self.narrow, self.wide]) * stretch
        noise = normal(generator, 2, half, self.dimension) * scale[:, None, None]
        q = (noise + np.stack([self.bottom, -self.bottom])[:, None]).reshape(-1, self.dimension)
        first, second = (h / stretch**2 for h in self.heights(q))
        logs = self.dimension * np.log(scale)
        density = np.logaddexp(first - logs[0], second - logs[1]) - math.log(2)
        return q, np.exp(-self.energy(q) - density)

    def _weigh(self, generator: torch.Generator) -> Measurement:
        """Share of the weight on the wide well's side."""
        q, weight = self._importance(generator)
        side = self.in_wide(q).astype(float)
        share = float((weight * side).sum() / weight.sum())
        error = math.sqrt(float((weight**2 * (side - share) ** 2).sum())) / float(weight.sum())
        return trial_result("basin_mass", share, error)

    def _difference(self, generator: torch.Generator) -> Measurement:
        """Logarithm of the ratio of the two sides' weights."""
        q, weight = self._importance(generator)
        side = self.in_wide(q)
        parts = [weight * (side == wide) for wide in (True, False)]
        value = math.log(float(parts[0].sum() / parts[1].sum()))
        relative = [math.sqrt(float((p**2).sum())) / float(p.sum()) for p in parts]
        return trial_result("free_energy_difference", value, math.hypot(*relative))

    def _heat(self, generator: torch.Generator) -> Measurement:
        """Mean of L above the bottom over exact draws of the wide well."""
        excess = self.energy(self.sample_well(generator, 50_000, wide=True)) - float(
            self.energy(-self.bottom)
        )
        return trial_result("learning_coefficient", excess.mean(), excess.std() / math.sqrt(len(excess)))

    def _stay(self, generator: torch.Generator) -> Measurement:
        """R-hat of the first coordinate of chains that draw exactly, but never leave their well."""
        found = []
        for _ in range(10):
            chains = [self.sample_well(generator, LENGTH, wide=bool(c % 2))[:, 0] for c in range(CHAINS)]
            found.append(r_hat(np.array(chains)))
        return trial_result("stuck_r_hat", np.mean(found), np.std(found, ddof=1) / math.sqrt(len(found)))

    def _temper(self, generator: torch.Generator) -> Measurement:
        """Parallel tempering that starts in the narrow well; its share of time in the wide one."""
        replicas, steps, burn = 64, 3000, 500
        # Overlap of the wells at the hottest; neighbours a factor 1.7 apart exchange often in up to ten dimensions.
        hottest = min(0.5, (1.2 * self.wide / (self.centre * math.sqrt(self.dimension))) ** 2)
        count = 2 + math.ceil(math.log(1 / hottest) / math.log(1.7))
        cold = np.geomspace(1, hottest, count)[:, None]
        q = np.tile(self.bottom, (count, replicas, 1))
        energy, inside = self.energy(q), np.zeros(replicas)
        for step in range(steps):
            widths = np.where(step % 2 == 0, self.narrow, self.wide) / np.sqrt(self.dimension)
            move = q + 1.7 * widths / np.sqrt(cold)[:, :, None] * normal(generator, *q.shape)
            after = self.energy(move)
            dice = torch.rand(2, count, replicas, generator=generator, dtype=torch.float64).numpy()
            taken = np.log(dice[0]) < cold * (energy - after)
            q, energy = np.where(taken[:, :, None], move, q), np.where(taken, after, energy)
            for low in range(step % 2, count - 1, 2):
                gain = (cold[low] - cold[low + 1]) * (energy[low] - energy[low + 1])
                swap = np.log(dice[1, low]) < gain
                pair = [low, low + 1]
                q[pair] = np.where(swap[None, :, None], q[pair[::-1]], q[pair])
                energy[pair] = np.where(swap[None], energy[pair[::-1]], energy[pair])
            if step >= burn:
                inside += self.in_wide(q[0])
        shares = inside / (steps - burn)
        return trial_result("tempered_mass", shares.mean(), shares.std(ddof=1) / math.sqrt(replicas))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The loss along the line between the wells, and the mass there."""
        axes = figure.add_subplot()
        t = np.linspace(-2.2, 1.6, 400)
        line = self.energy(t[:, None] * self.bottom)
        axes.plot(t, line)
        axes.set(
            ylim=(-1.5, 12),
            xlabel="place (multiples of the narrow bottom)",
            ylabel="loss along the line of the bottoms (ℓ)",
            title=self.title,
        )
        axes.plot([-1, 1], [0, 0], "o", color="C3")
        axes.annotate(f"mass {self.mass:.3g}", (-1, -0.35), ha="center", va="top")
        axes.annotate(f"mass {1 - self.mass:.3g}", (1, -0.35), ha="center", va="top")


def r_hat(chains: np.ndarray) -> float:
    """Potential scale reduction of whole chains, shape (chains, draws): √((B/W + N - 1)/N)."""
    length = chains.shape[1]
    between, within = length * chains.mean(1).var(ddof=1), chains.var(1, ddof=1).mean()
    return math.sqrt((between / within + length - 1) / length)


def _torch_loss(centre: float, narrow: float, wide: float, q: Tensor) -> Tensor:
    first = -((q - centre) ** 2).sum() / (2 * narrow**2)
    second = -((q + centre) ** 2).sum() / (2 * wide**2)
    return -torch.logaddexp(first, second)


def _in_narrow(toy: TwoBasins) -> Objective:
    return toy.potential.objective(toy.bottom)


def _in_wide(toy: TwoBasins) -> Objective:
    return toy.potential.objective(-toy.bottom)


TOY = TwoBasins
