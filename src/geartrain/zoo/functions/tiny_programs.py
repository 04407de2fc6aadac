r"""Tiny programs: Solomonoff's prior on one page.

A machine so small that all its programs can be run. Instructions have two bits: 00 appends a 0 to the tape, 01
appends a 1, 10 appends a copy of the whole tape, 11 halts. A program ends with its first halt, so none is the
beginning of another; of at most 16 bits there are $\sum_{i<8} 3^i = 3280$.

**Complexity and probability.** $K(x)$ is the length of the shortest program that leaves $x$ on the tape. Toss coins
for the bits: the chance of getting some program of $x$ is $m(x) = \sum 2^{-\text{length}}$ over its programs, so that
$-\log_2 m(x) \le K(x)$. The coding theorem says that the two hardly differ. Here one sees why: a simple string is
likely because it has *one* short program, not because it has many long ones. $-\log_2 m$ against $K$ has slope 0.97.

**How m can be known without running anything.** Ask for the last instruction: $x$ came from $x$ without its last bit,
or, if $x$ is something twice, from one half by a copy. So the number $N_i(x)$ of ways to write $x$ with $i$
instructions obeys $N_i(x) = N_{i-1}(x_{1..\ell-1}) + [x = yy]\,N_{i-1}(y)$, with $N_i(\varepsilon) = 1$ for the empty
tape (it can only be copied).

**Prediction.** Let a program with output $x$ stand for $x$ repeated for ever, with prior $2^{-\text{length}}$. The
mixture of all of them predicts the next bit. Its weight on a sequence is at least the prior of any program that
produces it, so its cumulative log-loss exceeds that of any program by at most length · $\ln 2$, on every sequence:
the price of not knowing which program it is.

**The instruments** are shown the simplest periodic string, 0101..., as the truth table of a function. It is the last
input bit alone, so that its Fourier degree, its leap and its Lempel-Ziv complexity are known; the model is the linear
function that computes it.

**What to vary.** `longest` program; number of `inputs` of the truth table.

Sources: Solomonoff 1964 (Information and Control 7:1); Li, Vitányi 2008, §4.3 (coding theorem).
Ledger: 1.23, 2.15, 3.19.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square
from geartrain.zoo.functions._shallow import cube, put

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

_SOURCE = "The string 0101... as a truth table is the last input bit alone."
_LOOK_BACK = "Which instruction came last? The recursion for the number of ways to write a string."
SHORT = tuple("".join(bits) for size in range(5) for bits in itertools.product("01", repeat=size))
"""All strings of up to 4 bits."""


@dataclass(frozen=True)
class TinyPrograms(Toy):
    """All programs of a machine with four instructions.

    Attributes:
        longest: Bits of the longest programs, even, 10 to 16.
        inputs: Input bits of the truth table that the instruments see, 3 to 6.
        seed: Not used: nothing is random in making it.
    """

    title: ClassVar[str] = "Tiny programs"
    ledger: ClassVar[tuple[str, ...]] = ("1.23", "2.15", "3.19")

    longest: int = 16
    inputs: int = 4

    def __post_init__(self) -> None:
        if self.longest not in (10, 12, 14, 16):
            raise InputError(f"longest is {self.longest}; allowed: 10, 12, 14 or 16 bits.")
        if not 3 <= self.inputs <= 6:
            raise InputError(f"inputs is {self.inputs}; allowed: 3 to 6.")

    # ------------------------------------------------------------------ how it is made

    def make_objective(self) -> Objective:
        """½ mean (w·x - y)² where y = ±1 is the last input, and so is the model: w = (0, ..., 0, 1)."""
        x = torch.from_numpy(cube(self.inputs))
        model = nn.Linear(self.inputs, 1, bias=False).double()
        put(model.weight, np.eye(self.inputs)[-1])
        return Objective(model, half_square, (x, x[:, -1:]))

    @property
    def table(self) -> dict[str, tuple[int, float]]:
        """K(x) and m(x) of every output x, by running all programs."""
        return _table(self.longest)

    # ------------------------------------------------------------------ what is known

    def truths(self) -> dict[str, Truth]:
        """Programs and their outputs; the periodic string."""
        return self._program_truths() | self._string_truths()

    def _program_truths(self) -> dict[str, Truth]:
        """Counts and probabilities in closed form or by looking back, against all programs run."""
        most = self.longest // 2 - 1  # instructions before halt
        truths = {
            "programs": Truth(
                float(sum(3**i for i in range(most + 1))),
                0.0,
                source="3^i ways to write i instructions before halt.",
                trial=self._count,
            ),
            "kraft_sum": Truth(
                1 - 0.75 ** (most + 1),
                1e-12,
                source="Σ_i 3^i 4^(-(i + 1)), a geometric sum.",
                trial=self._kraft,
            ),
            "complexity": Truth(
                np.array([float(shortest(x, most)) for x in SHORT]),
                0.0,
                source=_LOOK_BACK,
                trial=self._complexity,
            ),
            "probability": Truth(
                np.array([probability(x, most) for x in SHORT]),
                1e-12,
                source=_LOOK_BACK,
                trial=self._probability,
            ),
            "coding_theorem": Truth(
                1.0,
                0.0,
                source="-log₂ m ≤ K: the sum has the shortest program as a term.",
                trial=self._coding,
            ),
            "regret": Truth(
                1.0, 0.0, source="The mixture contains 2^(-length) times every program.", trial=self._regret
            ),
        }
        if self.longest == 16:
            truths["outputs"] = Truth(
                np.array([1225.0, 1, 2, 4, 12, 32, 94]),
                0.0,
                source="Enumeration: all outputs, then those of complexity 2, 4, ..., 12.",
                trial=self._outputs,
            )
        return truths

    def _string_truths(self) -> dict[str, Truth]:
        """The string 0101... as a function of its place, and the linear model that is that function."""
        n, x = self.inputs, cube(self.inputs)
        return {
            "lempel_ziv_complexity": Truth(
                3.0 * n, source="0, 1, 0101...: three words in both directions, log₂(2^n) = n."
            ),
            "walsh_spectrum": Truth(np.eye(n + 1)[1], source=_SOURCE),
            "leap": Truth(1.0, source=_SOURCE),
            "leap.model": Truth(1.0, source=_SOURCE, options={"of": "model", "threshold": 1e-6}),
            "input_affinity": Truth(0.0, 1e-9, source="A linear function."),
            "constant_loss": Truth(0.5, 1e-5, source="Targets ±1, balanced."),
            "weight_norm": Truth(np.ones(1), source="One weight of 1."),
            "weight_rank": Truth(np.ones(1), source="A row."),
            "prunability": Truth(
                1 - 1 / n, source="All weights but one are 0.", strict=True, options={"rise": 1e-6}
            ),
            "jacobian_singular_values": Truth(np.ones(1), source="The gradient is the last unit vector."),
            "feature_scales": Truth(1.0, source="Every input is ±1 equally often."),
            "label_disagreement_floor": Truth(0.0, source="No input occurs twice."),
            **_matrices.curvature_truths(np.eye(n), layers=[n], source="E[xxᵀ] = 1 over the cube."),
            **_matrices.kernel_truths(x[:, None], x[:, -1:], source="f = w·x."),
        }

    def _count(self, generator: torch.Generator) -> Measurement:
        return trial_result("programs", len(programs(self.longest)))

    def _kraft(self, generator: torch.Generator) -> Measurement:
        return trial_result("kraft_sum", math.fsum(2.0**-length for length, _ in programs(self.longest)))

    def _complexity(self, generator: torch.Generator) -> Measurement:
        return trial_result("complexity", [self.table[x][0] for x in SHORT])

    def _probability(self, generator: torch.Generator) -> Measurement:
        return trial_result("probability", [self.table[x][1] for x in SHORT])

    def _outputs(self, generator: torch.Generator) -> Measurement:
        """Number of different outputs, and of those of each complexity."""
        found = [k for k, _ in self.table.values()]
        return trial_result("outputs", [len(found), *(found.count(k) for k in range(2, 13, 2))])

    def _coding(self, generator: torch.Generator) -> Measurement:
        """Share of the outputs whose -log₂ m is at most K."""
        return trial_result("coding_theorem", np.mean([m >= 2.0**-k for k, m in self.table.values()]))

    @property
    def slope(self) -> float:
        """Slope of -log₂ m on K over K ≤ 12."""
        found = [(k, -math.log2(m)) for k, m in self.table.values() if k <= 12]
        k, bits = np.array(found).T
        return float(np.polyfit(k, bits, 1)[0])

    def _regret(self, generator: torch.Generator) -> Measurement:
        """Share of 50 sequences of 30 bits, each produced by some program, on which the bound holds."""
        experts = [(k, m, x) for x, (k, m) in self.table.items() if x]
        chosen = torch.randint(len(experts), (50,), generator=generator).tolist()
        tapes = np.array([[int(b) for b in (x * 30)[:30]] for _, _, x in experts])
        prior = np.array([m for _, m, _ in experts])
        held = [mixture_loss(tapes, prior, tapes[i]) <= experts[i][0] * math.log(2) + 1e-9 for i in chosen]
        return trial_result("regret", np.mean(held))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """-log₂ m against K."""
        axes = figure.add_subplot()
        k, m = np.array(list(self.table.values())).T
        axes.plot(k, -np.log2(m), ".", alpha=0.3, label="one output")
        axes.plot([2, self.longest], [2, self.longest], "k--", label="K")
        axes.set(xlabel="K, bits of the shortest program", ylabel="-log₂ m, bits", title=f"{len(k)} outputs")
        axes.legend()


def run(instructions: tuple[int, ...]) -> str:
    """Tape after these instructions: 0 and 1 append themselves, 2 copies the tape.

    >>> run((0, 1, 2))
    '0101'
    """
    tape = ""
    for what in instructions:
        tape += tape if what == 2 else str(what)
    return tape


@functools.cache
def programs(longest: int) -> tuple[tuple[int, str], ...]:
    """Length in bits (halt included) and output of every program."""
    each = (p for i in range(longest // 2) for p in itertools.product(range(3), repeat=i))
    return tuple((2 * len(p) + 2, run(p)) for p in each)


@functools.cache
def _table(longest: int) -> dict[str, tuple[int, float]]:
    table: dict[str, tuple[int, float]] = {}
    for length, output in programs(longest):
        k, m = table.get(output, (length, 0.0))
        table[output] = min(k, length), m + 2.0**-length
    return table


@functools.cache
def ways(x: str, instructions: int) -> int:
    """Number of ways to write x with so many instructions, by looking back from its end.

    >>> [ways("0101", i) for i in (2, 3, 4)]
    [0, 1, 2]
    """
    if instructions == 0 or not x:
        return int(not x)
    half = x[: len(x) // 2]
    copied = ways(half, instructions - 1) if x == 2 * half else 0
    return copied + ways(x[:-1], instructions - 1)


def shortest(x: str, most: int) -> int:
    """K(x), bits with the halt, among programs of at most so many instructions before it."""
    return next(2 * i + 2 for i in range(most + 1) if ways(x, i))


def probability(x: str, most: int) -> float:
    """m(x) of programs with at most so many instructions before the halt."""
    return math.fsum(ways(x, i) * 4.0 ** -(i + 1) for i in range(most + 1))


def mixture_loss(tapes: np.ndarray, prior: np.ndarray, sequence: np.ndarray) -> float:
    """Cumulative log-loss of the mixture, bit by bit.

    Args:
        tapes: What each expert says, shape (experts, bits).
        prior: Weight of each; need not add up to 1.
        sequence: What comes, shape (bits,); at least one expert must say it.

    Returns:
        The sum of -ln(weight of the experts that are right on the next bit), in nats.
    """
    weight, loss = prior / prior.sum(), 0.0
    for said, came in zip(tapes.T, sequence, strict=True):
        share = float(weight[said == came].sum())
        loss -= math.log(share)
        weight = np.where(said == came, weight, 0) / share
    return loss


TOY = TinyPrograms
