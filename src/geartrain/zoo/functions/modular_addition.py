"""# Modular addition: a network that computes with waves

A network sees two numbers a and b from 0 to p - 1 and must say (a + b) mod p. Trained ones rediscover trigonometry;
here the solution is written down by hand (Gromov 2023), so that everything about it can be calculated.

**The network.** Embed both numbers, add, square, read out. With ω = 2π/p, neuron n has a frequency k_n between 1 and
(p - 1)/2 and two random phases:

    hidden_n = (cos(ω k_n a + φ_n) + cos(ω k_n b + φ'_n))²,      logit_c = Σ_n cos(ω k_n c + φ_n + φ'_n) · hidden_n

**Why it works.** Write A and B for the two angles. The square is 1 + ½ cos 2A + ½ cos 2B + cos(A + B) + cos(A - B), and only
cos(A + B) carries the sum a + b. Multiplied by the output wave, it leaves ½ cos(ω k (a + b - c)) plus waves whose phases
are random from neuron to neuron and cancel as √N. At c = a + b every neuron adds ½; so the right logit grows as N/2, the
others as noise of size √N, and with enough neurons every answer is right. Averaged over all p² pairs the waves that
cancel only roughly cancel *exactly*: the mean right logit is N/2 for any phases.

**The spectrum of a layer.** The embedding of the neurons with frequency k fills a plane (cosine and sine of ωka), so the
rank is twice the number of frequencies used, and its squared singular values are p/4 (N_k ± |Σ_n e^(2iφ_n)|), N_k neurons.

**What to vary.** p and the number of neurons (accuracy falls below 1 when √N is not small against N/2); ``frequencies``:
few frequencies are enough, as trained networks know; the restricted loss is read off them.

Sources: Gromov 2023, arXiv:2301.02679; Nanda et al. 2023, arXiv:2301.05217. Ledger: T14
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo._base import Toy, Truth, trial_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

_SOURCE = "Products of cosines over a full period; Gromov 2023, arXiv:2301.02679."


class _Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**2


class Adder(nn.Module):
    """Two embeddings, their sum squared, a linear read-out."""

    def __init__(self, p: int, neurons: int) -> None:
        super().__init__()
        self.first = nn.Embedding(p, neurons, dtype=torch.float64)
        self.second = nn.Embedding(p, neurons, dtype=torch.float64)
        self.square = _Square()
        self.readout = nn.Linear(neurons, p, bias=False, dtype=torch.float64)

    def forward(self, pairs: Tensor) -> Tensor:
        """Logits of pairs of numbers, shape (examples, 2)."""
        return self.readout(self.square(self.first(pairs[:, 0]) + self.second(pairs[:, 1])))


@dataclass(frozen=True)
class ModularAddition(Toy):
    """(a + b) mod p by a hand-built network of waves.

    Attributes:
        p: The modulus, a prime from 5 on.
        neurons: Hidden units N.
        frequencies: How many different frequencies are used; all (p - 1)/2 by default.
        seed: Draws the phases.
    """

    title: ClassVar[str] = "Modular addition by waves"
    ledger: ClassVar[tuple[str, ...]] = ("T14",)

    p: int = 23
    neurons: int = 500
    frequencies: int | None = None

    def __post_init__(self) -> None:
        """Refuse what the formulas do not cover."""
        if self.p < 5 or any(self.p % q == 0 for q in range(2, math.isqrt(self.p) + 1)):
            raise InputError(f"p is {self.p}; allowed: primes from 5 on, such as 23, 53 or 113.")
        if self.neurons < 1:
            raise InputError(f"neurons is {self.neurons}; at least 1 is needed.")
        if self.frequencies is not None and not 1 <= self.frequencies <= (self.p - 1) // 2:
            raise InputError(f"frequencies is {self.frequencies}; allowed: 1 to (p - 1)/2 = {(self.p - 1) // 2}.")

    def waves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frequencies and the two phases of the neurons, each of shape (neurons,)."""
        source, most = self.generator(), self.frequencies or (self.p - 1) // 2
        k = 1 + torch.randint(most, (self.neurons,), generator=source)
        phases = 2 * math.pi * torch.rand(2, self.neurons, generator=source, dtype=torch.float64)
        return k.numpy(), phases[0].numpy(), phases[1].numpy()

    def pairs(self) -> np.ndarray:
        """All pairs (a, b), shape (p², 2)."""
        return np.stack(np.meshgrid(np.arange(self.p), np.arange(self.p), indexing="ij"), -1).reshape(-1, 2)

    def model(self) -> Adder:
        """The hand-built network."""
        k, phi, psi = self.waves()
        angles = 2 * math.pi / self.p * np.outer(np.arange(self.p), k)
        model = Adder(self.p, self.neurons)
        waves = (angles + phi, angles + psi, angles + phi + psi)
        with torch.no_grad():
            for weight, wave in zip(model.parameters(), waves, strict=True):
                weight.copy_(torch.from_numpy(np.cos(wave)))
        return model

    def make_objective(self) -> Objective:
        """Cross-entropy over all p² pairs."""
        pairs = torch.from_numpy(self.pairs())
        return Objective(self.model(), nn.functional.cross_entropy, (pairs, pairs.sum(1) % self.p))

    def truths(self) -> dict[str, Truth]:
        """Norms, ranks, sizes of the activations, and what the labels alone decide."""
        p, n = self.p, self.neurons
        k, phi, psi = self.waves()
        spectra = [_squares(p, k, phase) for phase in (phi, psi, phi + psi)]
        chance = dict(source="Every sum occurs p times in the p² pairs.")
        rms = np.array([math.sqrt(0.5), math.sqrt(0.5), 1.5, self.output_rms()])
        return {
            "mean_right_logit": Truth(n / 2, tolerance=1e-9, source=_SOURCE, trial=self.right_logit),
            "single_frequency_share": Truth(1.0, tolerance=1e-9, source=_SOURCE, trial=self.frequency_share),
            "weight_norm": Truth(np.full(3, math.sqrt(n * p / 2)), source="Σ_a cos²(ωka + φ) = p/2."),
            "weight_norm.total": Truth(math.sqrt(1.5 * n * p), source="Three such layers.", reading="total"),
            "weight_rank.numerical_rank": Truth(
                np.array([float((s > 1e-9 * s.max()).sum()) for s in spectra]),
                source="A plane for each frequency.",
                reading="numerical_rank",
            ),
            "weight_rank": Truth(np.array([_effective(s) for s in spectra]), source=_SOURCE),
            "weight_rank.stable_rank": Truth(
                np.array([n * p / 2 / s.max() for s in spectra]), source=_SOURCE, reading="stable_rank"
            ),
            "activation_flow": Truth(rms, source="E cos² = ½, E(cos A + cos B)⁴ = 9/4; the last by `output_rms`."),
            "label_balance": Truth(1 / p, **chance),
            "constant_loss": Truth(math.log(p), tolerance=1e-5, **chance),
            "label_disagreement_floor": Truth(0.0, source="The sum is a function of the pair."),
            "output_target_match": Truth(1.0, source="Logits of p classes against p classes."),
            "loss_match": Truth(1.0, source="Cross-entropy suits classes."),
            "missing_biases": Truth(1.0, source="The read-out has none, by definition."),
            "dead_units": Truth(math.nan, source="There is no rectifier."),
            "saturated_units": Truth(math.nan, source="There is no sigmoid."),
            "input_conditioning": Truth(math.nan, source="Numbers are symbols here, not magnitudes."),
        } | (self._when_right() if self.right_share() == 1.0 else {})

    def _when_right(self) -> dict[str, Truth]:
        """What follows once every answer is right."""
        right = dict(assumptions="Every answer is right, as it is with enough neurons.", source=_SOURCE)
        return {
            "margin_distribution.negative": Truth(0.0, reading="negative", **right),
            "selective_risk": Truth(0.0, **right),
            "calibration_error.accuracy": Truth(1.0, reading="accuracy", **right),
        }

    def logits(self) -> np.ndarray:
        """By the formula, shape (p, p, p): a, b, c."""
        k, phi, psi = self.waves()
        angles = 2 * math.pi / self.p * np.outer(np.arange(self.p), k)
        hidden = (np.cos(angles + phi)[:, None] + np.cos(angles + psi)[None]) ** 2
        return hidden @ np.cos(angles + phi + psi).T

    def right_share(self) -> float:
        """Share of the pairs that are answered right, by enumeration."""
        answers = self.logits().argmax(-1)
        return float((answers == np.add.outer(np.arange(self.p), np.arange(self.p)) % self.p).mean())

    def output_rms(self) -> float:
        """Root mean square of all logits.

        The logits of frequency k are Re[e^(iωkc) Z_k(a, b)], Z_k = Σ_n e^(i(φ + φ')) hidden_n, and different frequencies
        are orthogonal in c. Z_k is a sum of nine waves in (a, b), orthogonal to one another.
        """
        k, phi, psi = self.waves()
        total = 0.0
        for frequency in np.unique(k):
            first, second = np.exp(1j * phi[k == frequency]), np.exp(1j * psi[k == frequency])
            out = first * second
            waves = [(1.0, 1.0), (0.25, first**2), (0.25, first**-2), (0.25, second**2), (0.25, second**-2)]
            waves += [(0.5, out), (0.5, 1 / out), (0.5, first / second), (0.5, second / first)]
            total += 0.5 * sum(abs(size * (out * wave).sum()) ** 2 for size, wave in waves)
        return math.sqrt(total)

    def right_logit(self, generator: torch.Generator) -> Measurement:
        """Mean logit of the right class over all pairs, from the network itself."""
        pairs = torch.from_numpy(self.pairs())
        with torch.no_grad():
            logits = self.model()(pairs).gather(1, pairs.sum(1, keepdim=True) % self.p)
        return trial_result("mean_right_logit", float(logits.mean()))

    def frequency_share(self, generator: torch.Generator) -> Measurement:
        """Least share, over the neurons, of an embedding's power that lies at a single frequency."""
        power = torch.fft.rfft(self.model().first.weight.detach(), dim=0)[1:].abs().square()
        return trial_result("single_frequency_share", float((power.amax(0) / power.sum(0)).min()))

    def draw(self, figure: Figure) -> None:
        """Logits by their distance from the right answer."""
        logits = self.logits()
        a, b, c = np.indices(logits.shape)
        offset = (c - a - b + self.p // 2) % self.p - self.p // 2
        x = np.unique(offset)
        mean = np.array([logits[offset == i].mean() for i in x])
        spread = np.array([logits[offset == i].std() for i in x])
        axes = figure.add_subplot()
        axes.fill_between(x, mean - spread, mean + spread, alpha=0.3, label="± 1 standard deviation")
        axes.plot(x, mean, "o-", ms=3, label="mean over all pairs")
        axes.axhline(self.neurons / 2, color="black", ls="--", lw=1, label="N/2")
        axes.set(xlabel="answer c - (a + b) mod p", ylabel="logit", title=f"p = {self.p}, N = {self.neurons}")
        axes.legend()


def _squares(p: int, k: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """Squared singular values of the matrix of waves cos(ωka + φ): p/4 (N_k ± |Σ e^(2iφ)|) for each frequency."""
    values = []
    for frequency in np.unique(k):
        turn = np.exp(2j * phases[k == frequency])
        values += [len(turn) + abs(turn.sum()), len(turn) - abs(turn.sum())]
    return p / 4 * np.array(values)


def _effective(squares: np.ndarray) -> float:
    """exp(entropy) of the singular values."""
    sizes = np.sqrt(np.clip(squares, 0, None))
    shares = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


TOY = ModularAddition
