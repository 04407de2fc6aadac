r"""Modular addition: a network that computes with waves, written down by hand.

A network sees two numbers $a$ and $b$ from 0 to $p - 1$ and must say $(a + b) \bmod p$. Trained networks rediscover
trigonometry; here the solution is written down (Gromov 2023), so that everything about it can be calculated.

**The network.** Embed both numbers, add, square, read out. With $\omega = 2\pi/p$, neuron $n$ has a frequency $k_n$
between 1 and $(p-1)/2$ and two random phases:
$$h_n = (\cos(\omega k_n a + \varphi_n) + \cos(\omega k_n b + \varphi_n'))^2, \qquad
z_c = \sum_n \cos(\omega k_n c + \varphi_n + \varphi_n')\, h_n.$$

**Why it works.** Write $A$ and $B$ for the two angles. The square is $1 + \tfrac12\cos 2A + \tfrac12\cos 2B +
\cos(A+B) + \cos(A-B)$, and only $\cos(A+B)$ carries the sum. Multiplied by the output wave it leaves
$\tfrac12\cos(\omega k(a+b-c))$, and waves whose phases are random from neuron to neuron, so that they cancel as
$\sqrt N$. At $c = a + b$ every neuron adds ½: the right logit is about $N/2$, the others are noise of size $\sqrt N$,
and with enough neurons every answer is right.

**What is exact for any phases.** Averaged over all $p^2$ pairs, the waves that cancel only roughly cancel entirely: the
mean right logit is $N/2$. The logits of a pair sum to 0 over $c$, so the mean wrong logit is $-N/(2(p-1))$. And
$z_c = \sum_k \mathrm{Re}[e^{i\omega kc}Z_k(a, b)]$, with $Z_k$ a sum of nine orthogonal waves, gives the size of the
logits, and which share of it is the wave of the sum (a progress measure for trained networks: it grows before the loss
falls).

**The spectrum of a layer.** The embeddings of the $N_k$ neurons with frequency $k$ fill a plane (cosine and sine of
$\omega ka$), so the rank is twice the number of frequencies, with squared singular values $\tfrac p4(N_k \pm |\sum_n
e^{2i\varphi_n}|)$.

**What to vary.** `p` and `neurons` (accuracy falls when $\sqrt N$ is not small against $N/2$); `frequencies`: a few are
enough, as trained networks know.

Sources: Gromov 2023, arXiv 2301.02679; Nanda et al. 2023, arXiv 2301.05217.
Ledger: 2.5, 3.11.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo.functions._shallow import put

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

_SOURCE = "Products of cosines over a full period; Gromov 2023, arXiv 2301.02679."
Waves = tuple[np.ndarray, np.ndarray, np.ndarray]


class Adder(nn.Module):
    """Two embeddings, their sum squared, a linear read-out."""

    def __init__(self, p: int, neurons: int) -> None:
        super().__init__()
        self.first = nn.Embedding(p, neurons, dtype=torch.float64)
        self.second = nn.Embedding(p, neurons, dtype=torch.float64)
        self.square = Square()
        self.readout = nn.Linear(neurons, p, bias=False, dtype=torch.float64)

    def forward(self, pairs: Tensor) -> Tensor:
        """Logits of pairs of numbers, shape (examples, 2)."""
        return self.readout(self.square(self.first(pairs[:, 0]) + self.second(pairs[:, 1])))


class Square(nn.Module):
    """The activation x²."""

    def forward(self, x: Tensor) -> Tensor:
        """Entry by entry."""
        return x**2


@dataclass(frozen=True)
class ModularAddition(Toy):
    """(a + b) mod p by a hand-built network of waves.

    Attributes:
        p: The modulus, a prime from 5 to 113.
        neurons: Hidden units N.
        frequencies: How many different frequencies are used; all (p - 1)/2 by default.
        seed: Draws frequencies and phases.
    """

    title: ClassVar[str] = "Modular addition by waves"
    ledger: ClassVar[tuple[str, ...]] = ("2.5", "3.11")

    p: int = 23
    neurons: int = 500
    frequencies: int | None = None

    def __post_init__(self) -> None:
        if not 5 <= self.p <= 113 or any(self.p % q == 0 for q in range(2, math.isqrt(self.p) + 1)):
            raise InputError(f"p is {self.p}; allowed: primes from 5 to 113.")
        if self.neurons < 1:
            raise InputError(f"neurons is {self.neurons}; allowed: 1 or more.")
        most = (self.p - 1) // 2
        if self.frequencies is not None and not 1 <= self.frequencies <= most:
            raise InputError(f"frequencies is {self.frequencies}; allowed: 1 to (p - 1)/2 = {most}.")

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def waves(self) -> Waves:
        """Frequencies and the two phases of the neurons, each of shape (neurons,)."""
        source, most = self.generator(), self.frequencies or (self.p - 1) // 2
        k = 1 + torch.randint(most, (self.neurons,), generator=source)
        phases = 2 * math.pi * torch.rand(2, self.neurons, generator=source, dtype=torch.float64)
        return k.numpy(), phases[0].numpy(), phases[1].numpy()

    @cached_property
    def tables(self) -> Waves:
        """The three weight matrices: cosines for each number (row) and neuron (column)."""
        k, phi, psi = self.waves
        angles = 2 * math.pi / self.p * np.outer(np.arange(self.p), k)
        return np.cos(angles + phi), np.cos(angles + psi), np.cos(angles + phi + psi)

    @property
    def pairs(self) -> np.ndarray:
        """All pairs (a, b), shape (p², 2)."""
        return np.argwhere(np.ones((self.p, self.p)))

    def make_objective(self) -> Objective:
        """Cross-entropy over all p² pairs."""
        model, pairs = Adder(self.p, self.neurons), torch.from_numpy(self.pairs)
        for weight, table in zip(model.parameters(), self.tables, strict=True):
            put(weight, table)
        return Objective(model, nn.functional.cross_entropy, (pairs, pairs.sum(1) % self.p))

    # ------------------------------------------------------------------ what is known

    def truths(self) -> dict[str, Truth]:
        """Logits, norms, ranks, sizes of the activations, and what the labels alone decide."""
        chance = partial(Truth, source="Every sum occurs p times in the p² pairs.")
        wave = partial(Truth, source=_SOURCE)
        n, p = self.neurons, self.p
        return {
            "mean_right_logit": wave(n / 2, 1e-9, trial=self._right_logit),
            "mean_wrong_logit": wave(-n / (2 * (p - 1)), 1e-9, trial=self._wrong_logit),
            "single_frequency_share": wave(1.0, 1e-9, trial=self._frequency_share),
            "sum_wave_share": wave(self.sum_wave_share, 1e-9, trial=self._sum_wave),
            "label_balance": chance(1 / p),
            "constant_loss": chance(math.log(p), 1e-5),
            "label_disagreement_floor": Truth(0.0, source="The sum is a function of the pair."),
            "output_target_match": Truth(1.0, source="Logits of p classes against p classes."),
            "loss_match": Truth(1.0, source="Cross-entropy suits classes."),
            "missing_biases": Truth(1.0, source="The read-out has none, by definition."),
            "dead_units": Truth(math.nan, source="There is no rectifier."),
            "saturated_units": Truth(math.nan, source="There is no sigmoid."),
            "input_conditioning": Truth(math.nan, source="Numbers are symbols here, not magnitudes."),
            **self._layers(),
            **self._when_right(),
        }

    def _layers(self) -> dict[str, Truth]:
        """Norms and ranks of the three matrices, sizes of what they put out."""
        n, p, (k, phi, psi) = self.neurons, self.p, self.waves
        spectra = [squared_singular_values(p, k, phase) for phase in (phi, psi, phi + psi)]
        rms = np.array([math.sqrt(0.5), math.sqrt(0.5), 1.5, self.output_rms])
        plane = partial(Truth, source="A plane for each frequency: p/4 (N_k ± |Σ e^(2iφ)|).")
        return {
            "weight_norm": Truth(np.full(3, math.sqrt(n * p / 2)), source="Σ_a cos²(ωka + φ) = p/2."),
            "weight_norm.total": Truth(math.sqrt(1.5 * n * p), source="Three such layers.", reading="total"),
            "weight_rank": plane(np.array([_effective(s) for s in spectra])),
            "weight_rank.numerical_rank": plane(
                np.array([float((s > 1e-9 * s.max()).sum()) for s in spectra]), reading="numerical_rank"
            ),
            "weight_rank.stable_rank": plane(
                np.array([n * p / 2 / s.max() for s in spectra]), reading="stable_rank"
            ),
            "activation_flow": Truth(
                rms, source="E cos² = ½, E(cos A + cos B)⁴ = 9/4; the last by `output_rms`."
            ),
        }

    def _when_right(self) -> dict[str, Truth]:
        """What follows once every answer is right."""
        if self.right_share < 1:
            return {}
        right = partial(Truth, assumptions="Every answer is right: there are enough neurons.", source=_SOURCE)
        return {
            "margin_distribution.negative": right(0.0, reading="negative"),
            "selective_risk": right(0.0),
            "calibration_error.accuracy": right(1.0, reading="accuracy"),
        }

    @cached_property
    def logits(self) -> np.ndarray:
        """By the formula, shape (p, p, p): a, b, c."""
        first, second, out = self.tables
        return (first[:, None] + second[None]) ** 2 @ out.T

    @property
    def right_share(self) -> float:
        """Share of the pairs that are answered right."""
        a, b = np.indices((self.p, self.p))
        return float((self.logits.argmax(-1) == (a + b) % self.p).mean())

    @property
    def output_rms(self) -> float:
        """Root mean square of all logits.

        Z_k = Σ_n e^(i(φ + φ')) hidden_n is a sum of nine waves in (a, b), orthogonal to one another; the mean of
        Re[e^(iωkc) Z_k]² over c is ½|Z_k|², and different frequencies are orthogonal in c.
        """
        k, phi, psi = self.waves
        total = 0.0
        for frequency in np.unique(k):
            first, second = np.exp(1j * phi[k == frequency]), np.exp(1j * psi[k == frequency])
            out = first * second
            waves = [(1.0, 1.0), (0.25, first**2), (0.25, first**-2), (0.25, second**2), (0.25, second**-2)]
            waves += [(0.5, out), (0.5, 1 / out), (0.5, first / second), (0.5, second / first)]
            total += 0.5 * sum(abs(size * (out * wave).sum()) ** 2 for size, wave in waves)
        return math.sqrt(total)

    @property
    def sum_wave_share(self) -> float:
        """Share of the logits' mean square in the waves ½N_k cos(ωk(a + b - c)), the only ones that are wanted."""
        members = np.unique(self.waves[0], return_counts=True)[1]
        return float((members**2).sum() / 8) / self.output_rms**2

    def _network_logits(self) -> np.ndarray:
        """Of the network itself, by class and distance from the right answer: shape (p², p), column 0 is right."""
        outputs, right = self.objective.outputs().numpy(), self.pairs.sum(1)
        return np.take_along_axis(outputs, (right[:, None] - np.arange(self.p)) % self.p, axis=1)

    def _right_logit(self, generator: torch.Generator) -> Measurement:
        return trial_result("mean_right_logit", self._network_logits()[:, 0].mean())

    def _wrong_logit(self, generator: torch.Generator) -> Measurement:
        return trial_result("mean_wrong_logit", self._network_logits()[:, 1:].mean())

    def _sum_wave(self, generator: torch.Generator) -> Measurement:
        """Share of the logits' power in what depends on a + b - c alone."""
        logits = self._network_logits()
        return trial_result("sum_wave_share", (logits.mean(0) ** 2).mean() / (logits**2).mean())

    def _frequency_share(self, generator: torch.Generator) -> Measurement:
        """Least share, over the neurons, of an embedding's power that lies at a single frequency."""
        embedding = next(self.objective.model.parameters()).detach()
        power = torch.fft.rfft(embedding, dim=0)[1:].abs().square()
        return trial_result("single_frequency_share", float((power.amax(0) / power.sum(0)).min()))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Logits by their distance from the right answer."""
        logits = self._network_logits()
        place = (-np.arange(self.p) + self.p // 2) % self.p - self.p // 2  # c - (a + b), around 0
        order = np.argsort(place)
        x, mean, spread = place[order], logits.mean(0)[order], logits.std(0)[order]
        axes = figure.add_subplot()
        axes.fill_between(x, mean - spread, mean + spread, alpha=0.3, label="± 1 standard deviation")
        axes.plot(x, mean, "o-", ms=3, label="mean over all pairs")
        axes.axhline(self.neurons / 2, color="black", ls="--", lw=1, label="N/2")
        axes.set(xlabel="answer c - (a + b) mod p", ylabel="logit", title=f"p = {self.p}, N = {self.neurons}")
        axes.legend()


def squared_singular_values(p: int, k: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """Of the matrix of waves cos(ωka + φ): p/4 (N_k ± |Σ e^(2iφ)|) for each frequency."""
    values = []
    for frequency in np.unique(k):
        turn = np.exp(2j * phases[k == frequency])
        values += [len(turn) + abs(turn.sum()), len(turn) - abs(turn.sum())]
    return p / 4 * np.array(values)


def _effective(squares: np.ndarray) -> float:
    """exp(entropy) of the singular values."""
    sizes = np.sqrt(np.where(squares > 1e-12 * squares.max(), squares, 0))
    shares = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


TOY = ModularAddition
