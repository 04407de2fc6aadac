r"""Composed parities: a scaffold helps if, and only if, it shares coordinates with what is built on it.

On the cube $\{-1, 1\}^d$ let A = {0, 1}, B = {2, 3}, C = {4, 5}, and $\chi_S(x) = \prod_{i\in S} x_i$. The
structure of interest is $\chi_{AB} = \chi_A\chi_B$, a parity of four bits. Four targets contain it:

* $\chi_A + \chi_B + \chi_{AB}$: both parts are useful by themselves;
* $\chi_A + \chi_{AB}$: one of them is;
* $\chi_C + \chi_{AB}$: something *else* of the same kind is useful (the control);
* $\chi_{AB}$: nothing is.

**Leap.** A network that descends correlations finds a term once all but a few of its coordinates are known. The
leap of a target is the largest number of *new* coordinates that any of its terms brings, in the best order: 2, 2,
4, 4 for the four targets. Time grows like $d^{\mathrm{leap} - 1}$, so the first two are learnt in a time of order d
and the last two of order d³, although the networks at the end differ little. The control matters: $\chi_C$ gives
slope, practice and features, but of the wrong coordinates, and its leap is that of nothing.

**The network here** is at the end of that way, built by hand: in u, the number of positive members, a parity is a
zigzag, so k hidden units (one for each tooth) compute $\chi_S$ exactly, and networks for several sets stand side by
side. Its loss is 0, and its Hessian, kernel and so on are sums over the cube. The Fourier coefficients that a
tracker should read are 1 on the listed sets and 0 elsewhere: by enumeration here, and by sampling at `wide` inputs,
where nothing can be enumerated.

**What to vary.** `target`; `d` (cube of the instruments); `wide` and `samples` (sampling). `run` trains a fresh
network of width 200 on fresh batches with mean-field step sizes at `wide` inputs; its times are the subject of the
claim structures-compose.

Sources: Abbe, Boix-Adserà, Misiakiewicz 2023, arXiv 2302.11055 (leap).

Ledger: 1.8, 1.16
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square
from geartrain.zoo.landscapes._parity_nets import (
    Net,
    Sets,
    cube,
    leap_of,
    net_truths,
    power_by_degree,
    sampled_coefficients,
    sum_of_parities,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

A, B, C, AB = (0, 1), (2, 3), (4, 5), (0, 1, 2, 3)
TARGETS: dict[str, Sets] = {"A+B+AB": (A, B, AB), "A+AB": (A, AB), "C+AB": (C, AB), "AB": (AB,)}
"""The four targets, as sets of their terms."""
_WIDTH, _BATCH = 200, 64


@dataclass(frozen=True)
class ParityComposition(Toy):
    """A parity of four bits, with and without its parts.

    Attributes:
        target: ``"A+B+AB"``, ``"A+AB"``, ``"C+AB"`` or ``"AB"``.
        d: Inputs of the instruments' network, all 2^d points; 6 to 8.
        wide: Inputs of the run and of the sampling, 6 to 64.
        samples: Points that the sampling draws.
        seed: Of the run's start and batches.
    """

    title: ClassVar[str] = "Composed parities"
    ledger: ClassVar[tuple[str, ...]] = ("1.8", "1.16")

    target: str = "A+B+AB"
    d: int = 6
    wide: int = 30
    samples: int = 20_000

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise InputError(f"target is {self.target!r}; allowed: {', '.join(TARGETS)}.")
        if not 6 <= self.d <= 8 or not 6 <= self.wide <= 64 or self.samples < 100:
            raise InputError(
                f"d, wide and samples are {self.d}, {self.wide}, {self.samples}; allowed: 6 to 8, 6 to 64, 100 or more."
            )

    # ------------------------------------------------------------------ how it is made

    @property
    def sets(self) -> Sets:
        """Sets of the target's terms."""
        return TARGETS[self.target]

    @cached_property
    def net(self) -> Net:
        """The network that knows the target, on the cube."""
        x = cube(self.d)
        return Net.of_parities(x, sum_of_parities(x, self.sets), self.sets)

    def make_objective(self) -> Objective:
        """½ mean (f - y)² of that network: 0."""
        return self.net.objective()

    def make_run(self) -> Run:
        """SGD from a random start on fresh batches at `wide` inputs, step sizes in the mean-field ratio."""
        source = self.generator()

        def uniform(*shape: int) -> Tensor:
            return (2 * torch.rand(*shape, generator=source) - 1) / math.sqrt(shape[-1])

        first, last = nn.Linear(self.wide, _WIDTH), nn.Linear(_WIDTH, 1)
        with torch.no_grad():
            for layer in (first, last):
                layer.weight.copy_(uniform(*layer.weight.shape))
                layer.bias.zero_()
        groups = [
            {"params": first.parameters(), "lr": 0.05 * math.sqrt(_WIDTH)},
            {"params": last.parameters(), "lr": 0.05 / math.sqrt(_WIDTH)},
        ]
        return Run(
            nn.Sequential(first, nn.ReLU(), last),
            half_square,
            torch.optim.SGD(groups, lr=0.05),
            self._batches,
            epochs=20,
            name="parity-composition",
        )

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        source = torch.Generator().manual_seed(1000 * self.seed + epoch)
        for _ in range(100):
            x = 2.0 * torch.randint(0, 2, (_BATCH, self.wide), generator=source) - 1
            y = sum_of_parities(x.double().numpy(), self.sets)
            yield x, torch.from_numpy(y).float()[:, None]

    # ------------------------------------------------------------------ what is known

    def truths(self) -> dict[str, Truth]:
        """Leap and Fourier coefficients; all about the network that knows the target."""
        listed: Sets = (A, B, C, AB)
        coefficients = np.array([float(s in self.sets) for s in listed])
        leap = float(leap_of(self.sets))
        found = {
            **net_truths(self.net),
            "leap": Truth(leap, source="New coordinates of each term, the cheapest first."),
            "leap.model": Truth(
                leap, source="The network is exact.", options={"of": "model", "threshold": 1e-6}
            ),
            "walsh_spectrum": Truth(power_by_degree(self.sets, self.d), 1e-9, source="Parseval."),
            "coefficients": Truth(
                coefficients,
                1e-12,
                source="Parities are orthonormal.",
                trial=lambda g: self._enumerated(listed),
            ),
            "coefficients_sampled": Truth(
                coefficients,
                1e-9,
                source="Parities are orthonormal.",
                trial=lambda g: self._sampled(listed, g),
            ),
            "leaps_of_all_targets": Truth(
                np.array([2.0, 2.0, 4.0, 4.0]),
                0.0,
                source="Abbe et al. 2023; the scaffold C does not help.",
                trial=lambda g: self._leaps(),
            ),
            "residual": Truth(0.0, 1e-12, source="The network is exact.", trial=lambda g: self._residual()),
        }
        return found

    def _leaps(self) -> Measurement:
        """Leap of the four targets, measured on this cube."""
        from geartrain.instruments import leap

        objectives = [ParityComposition(target=target, d=self.d).objective for target in TARGETS]
        return trial_result("leaps", [float(leap(objective)) for objective in objectives])

    def _enumerated(self, sets: Sets) -> Measurement:
        f = self.objective.outputs().numpy()[:, 0]
        found = [float((f * self.net.x[:, list(s)].prod(1)).mean()) for s in sets]
        return trial_result("coefficients", found)

    def _sampled(self, sets: Sets, generator: torch.Generator) -> Measurement:
        """Of the network with `wide` inputs."""
        net = Net.of_parities(np.zeros((1, self.wide)), np.zeros(1), self.sets)
        model = net.model()
        with torch.no_grad():
            found, error = sampled_coefficients(
                lambda x: model(torch.from_numpy(x)).numpy()[:, 0], sets, self.wide, self.samples, generator
            )
        return trial_result("coefficients", found, error)

    def _residual(self) -> Measurement:
        error = self.objective.outputs()[:, 0] - torch.from_numpy(self.net.y)
        return trial_result("residual", float(error.abs().max()))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Terms of the four targets with the coordinates that each brings, and the zigzag of a parity of four."""
        left, right = figure.subplots(1, 2)
        for row, sets in enumerate(TARGETS.values()):
            for s in sets:
                left.plot(s, [row + 0.12 * sets.index(s)] * len(s), "o-", lw=3, color=f"C{row}")
            left.annotate(f"leap {leap_of(sets)}", (5.3, row), va="center")
        left.set(xlabel="coordinate", ylabel="target", title="terms of the targets", xlim=(-0.5, 7))
        left.set_yticks(range(4), list(TARGETS))
        x = np.linspace(-0.4, 4.4, 300)
        net = Net.of_parities(np.repeat(x[:, None] / 2 - 1, 4, 1), np.zeros(300), (AB,))
        right.plot(x, net.outputs, label="network of four units")
        right.plot(range(5), [(-1.0) ** (4 - u) for u in range(5)], "o", label="χ of four bits")
        right.set(xlabel="positive inputs among the four", ylabel="output")
        right.legend(fontsize=8)


TOY = ParityComposition
