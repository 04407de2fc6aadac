r"""The game of life: a rule that a tiny network can hold but rarely finds.

Conway's rule: a cell is alive in the next step if it has three living neighbours, or two and is alive itself. The
network of Springer and Kenyon has for each of $n$ steps a 3 x 3 convolution to $2m$ filters, ReLU, a 1 x 1 convolution
to $m$ and ReLU again, and at the end a 1 x 1 convolution to one logit: $23n + 2$ parameters for $m = 1$. They found
that networks of the least size practically never learn it, while several times larger ones do. Existence is one thing,
reachability another.

**Existence is a line of algebra.** Let $z$ = living neighbours + ½ centre, a multiple of ½. A cell lives on if and only
if $|z - 3| \le \tfrac12$. Two rectified units decide that: the logit $1 - \tfrac32(\mathrm{relu}(z-3) +
\mathrm{relu}(3-z))$ is at least ¼ in size and right on all 512 neighbourhoods, of which 140 lead to life.

**And for n steps**, without a multiple of the width: $1 - 2\,\mathrm{relu}(z - 3.5) - 2\,\mathrm{relu}(2.5 - z)$ is
exactly 1 where a cell lives and at most 0 elsewhere, so the ReLU behind it puts out the next board in zeros and ones,
and the next two layers can start afresh (`exact_network`). So $m = 1$ is enough for every $n$.

**Population loss.** If every cell is alive with probability $d$, independently, a neighbourhood with $j$ living
neighbours and the centre $c$ has probability $\binom 8j d^{j+c}(1-d)^{9-j-c}$, and the loss depends on $j$ and $c$
only: a sum over 18 cases is exact.

**The instruments** see the hand-built network of two units (23 parameters) on the 512 neighbourhoods with equal weight,
$d = ½$. With residuals $p - y$ of the logistic loss the Hessian is $\overline{p(1-p)\,\nabla f\nabla f^\top}$ plus the
terms in which an outer weight meets the filter and the bias of its own unit.

**What to vary.** `density` (the share of patterns that lead to life peaks near 0.36), `scale` of the logits: the loss
falls as they grow.

Sources: Springer, Kenyon 2020, arXiv 2009.01398.
Ledger: 1.1, 3.11, 3.12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo.functions._shallow import cube, put

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

_SOURCE = "Sum over 9 numbers of neighbours x 2 states of the centre, with binomial weights."
_CHAIN = "The chain rule over the 512 neighbourhoods."
PATTERNS = cube(9, low=0.0)
"""All neighbourhoods, row by row of the 3 x 3 cells, shape (512, 9)."""
SUM = np.array([1, 1, 1, 1, 0.5, 1, 1, 1, 1])
"""The filter that computes z."""


@dataclass(frozen=True)
class GameOfLife(Toy):
    """One step of Conway's rule by two rectified units.

    Attributes:
        density: d, probability that a cell is alive, of the population loss and of random boards.
        scale: Factor of the logits, positive.
        samples: Neighbourhoods that the trial draws.
        steps: Steps n of the exact network that is run on random boards.
        seed: Not used: nothing is random in making it.
    """

    title: ClassVar[str] = "The game of life"
    ledger: ClassVar[tuple[str, ...]] = ("1.1", "3.11", "3.12")

    density: float = 0.38
    scale: float = 2.0
    samples: int = 50_000
    steps: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.density < 1:
            raise InputError(f"density is {self.density}; allowed: above 0 and below 1.")
        if not self.scale > 0:
            raise InputError(f"scale is {self.scale}; allowed: positive numbers.")
        if self.samples < 100 or self.steps < 1:
            raise InputError(
                f"samples is {self.samples} and steps {self.steps}; allowed: 100 or more, and 1 or more."
            )

    # ------------------------------------------------------------------ how it is made

    def make_objective(self) -> Objective:
        """Cross-entropy of the hand-built network on the 512 neighbourhoods with equal weight."""
        first, last = nn.Conv2d(1, 2, 3).double(), nn.Conv2d(2, 1, 1).double()
        put(first.weight, np.array([SUM, -SUM]))
        put(first.bias, np.array([-3.0, 3.0]))
        put(last.weight, np.full(2, -1.5 * self.scale))
        put(last.bias, np.array([self.scale]))
        model = nn.Sequential(first, nn.ReLU(), last, nn.Flatten())
        x, y = torch.from_numpy(PATTERNS).reshape(-1, 1, 3, 3), torch.from_numpy(life(PATTERNS)).double()
        return Objective(model, binary_cross_entropy_with_logits, (x, y[:, None]))

    # ------------------------------------------------------------------ what is known

    def cases(self, density: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logit, label and probability of the 18 cases (neighbours, centre)."""
        j, c = (a.ravel() for a in np.meshgrid(np.arange(9), [0, 1], indexing="ij"))
        ways = np.array([math.comb(8, i) for i in range(9)])[j]
        weight = ways * density ** (j + c) * (1 - density) ** (9 - j - c)
        alive = (j == 3) | ((j == 2) & (c == 1))
        return self.scale * (1 - 1.5 * np.abs(j + c / 2 - 3)), alive.astype(float), weight

    @property
    def population_loss(self) -> float:
        """Mean cross-entropy if cells are alive with probability d."""
        logit, label, weight = self.cases(self.density)
        return float((weight * (np.logaddexp(0, logit) - label * logit)).sum())

    def truths(self) -> dict[str, Truth]:
        """Counts, losses, and the curvature of the hand-built network."""
        _, _, hessian = self.derivatives
        gradient = self.derivatives[1].mean(0)
        sizes = [(1, 1), (2, 1), (2, 4)]
        own = {
            "right": Truth(512.0, 0.0, source="|z - 3| ≤ ½ if and only if alive.", trial=self._right),
            "exact_steps": Truth(
                1.0,
                0.0,
                source="1 - 2 relu(z - 3.5) - 2 relu(2.5 - z) is 1 or at most 0.",
                trial=self._boards,
            ),
            "parameters": Truth(
                np.array([float(parameters(*size)) for size in sizes]),
                0.0,
                source="18m + 2m and later 18m² + 2m to the filters, 2m² + m back, m + 1 at the end.",
                trial=lambda generator: _parameters(sizes),
            ),
            "population_loss": Truth(self.population_loss, source=_SOURCE, trial=self._sampled),
        }
        return (
            own
            | self._answers()
            | self._layers()
            | _matrices.curvature_truths(hessian, gradient, layers=[20, 3], source=_CHAIN)
            | _matrices.example_truths(self.derivatives[1], layers=[20, 3], source=_CHAIN)
        )

    def _answers(self) -> dict[str, Truth]:
        """What follows from logits and labels."""
        logit, _, weight = self.cases(0.5)
        confidence = float(weight @ (1 / (1 + np.exp(-np.abs(logit)))))
        alive = 140 / 512
        entropy = -(alive * math.log(alive) + (1 - alive) * math.log(1 - alive))
        right = partial(Truth, source="Right on all 512.")
        return {
            "label_balance": Truth(1 - alive, source="140 of 512 lead to life.", strict=True),
            "constant_loss": Truth(entropy, 1e-5, source="Entropy of 140 in 512."),
            "label_disagreement_floor": Truth(0.0, source="The rule is a function."),
            "margin_distribution.smallest": Truth(
                self.scale / 4, reading="smallest", source="Least |logit|, at |z - 3| = ½."
            ),
            "margin_distribution.negative": right(0.0, reading="negative"),
            "selective_risk": right(0.0),
            "calibration_error.accuracy": right(1.0, reading="accuracy"),
            "calibration_error.overconfidence": Truth(
                confidence - 1, reading="overconfidence", source=_SOURCE, strict=True
            ),
            "output_probability": Truth(0.0, source="Outputs are scores."),
            "loss_match": Truth(1.0, source="Cross-entropy suits yes-or-no labels."),
            "output_target_match": Truth(1.0, source="One score for each label."),
        }

    def _layers(self) -> dict[str, Truth]:
        """What follows from the weights and from who is on."""
        logit, _, weight = self.cases(0.5)
        at_three = float(weight @ np.isclose(logit, self.scale))
        first = math.sqrt(2 * SUM @ SUM + 2 * 3.0**2)
        last = self.scale * math.sqrt(2 * 1.5**2 + 1)
        jacobian = self.derivatives[0]
        return {
            "dead_units": Truth(0.0, source="z reaches both sides of 3."),
            "dead_units.inactive_share": Truth(
                0.5 + 0.5 * at_three, reading="inactive_share", source="One unit is on, or none if z = 3."
            ),
            "weight_norm": Truth(np.array([first, last]), source="Definition."),
            "weight_rank": Truth(np.ones(2), source="The two filters are opposite."),
            "missing_biases": Truth(0.0, source="By construction."),
            "symmetry_orbit_dimension": Truth(2.0, source="Each ReLU can be rescaled."),
            "jacobian_rank": Truth(
                float(np.linalg.matrix_rank(jacobian)), source=_CHAIN, options={"num_examples": 512}
            ),
        }

    @cached_property
    def derivatives(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the logit, shape (512, 23); of each example's loss, likewise; Hessian of the mean loss."""
        out = np.array([-1.5, -1.5, 1.0]) * self.scale
        logits, jacobian = _matrices.two_layers(PATTERNS, np.array([SUM, -SUM]), np.array([-3.0, 3.0]), out)
        p, jacobian = 1 / (1 + np.exp(-logits)), jacobian[:, 0]
        residual = p - life(PATTERNS)
        hessian = (jacobian * (p * (1 - p))[:, None]).T @ jacobian / 512
        active = np.column_stack([PATTERNS @ SUM > 3, PATTERNS @ SUM < 3])
        for unit in range(2):  # an outer weight meets the filter and the bias of its own unit
            pull = (residual * active[:, unit]) @ np.column_stack([PATTERNS, np.ones(512)]) / 512
            places = [*range(9 * unit, 9 * unit + 9), 18 + unit]
            hessian[20 + unit, places] += pull
            hessian[places, 20 + unit] += pull
        return jacobian, residual[:, None] * jacobian, hessian

    def _right(self, generator: torch.Generator) -> Measurement:
        """Neighbourhoods on which the network agrees with Conway's rule."""
        answers = (self.objective.outputs()[:, 0] > 0).numpy()
        return trial_result("right", int((answers == life(PATTERNS)).sum()))

    def _boards(self, generator: torch.Generator) -> Measurement:
        """Share of cells of random boards that the exact network gets right after n steps."""
        boards = torch.rand(20, 1, 12, 12, generator=generator) < self.density
        with torch.no_grad():
            answers = exact_network(self.steps)(boards.double()) > 0
        for _ in range(self.steps):
            around = nn.functional.unfold(boards.double(), 3, padding=1).transpose(1, 2)
            boards = torch.from_numpy(life(around.reshape(-1, 9).numpy())).reshape(boards.shape)
        return trial_result("exact_steps", float((answers == boards).double().mean()))

    def _sampled(self, generator: torch.Generator) -> Measurement:
        """Mean loss of the network on random neighbourhoods."""
        x = (torch.rand(self.samples, 9, generator=generator) < self.density).double()
        with torch.no_grad():
            logits = self.objective.model(x.reshape(-1, 1, 3, 3))[:, 0].numpy()
        losses = np.logaddexp(0, logits) - life(x.numpy()) * logits
        return trial_result("population_loss", losses.mean(), losses.std() / math.sqrt(self.samples))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Logit against z, with the 18 cases."""
        axes = figure.add_subplot()
        logit, label, _ = self.cases(0.5)
        z = np.linspace(0, 8.5, 200)
        axes.plot(z, self.scale * (1 - 1.5 * np.abs(z - 3)), color="grey", lw=1, label="two rectified units")
        places = np.array([j + c / 2 for j in range(9) for c in (0, 1)])
        for value, name, color in ((1, "alive next", "tab:green"), (0, "dead next", "black")):
            axes.plot(places[label == value], logit[label == value], "o", color=color, label=name)
        axes.axhline(0, color="lightgrey")
        axes.set(
            xlabel="z = neighbours + ½ centre", ylabel="logit", title="Conway's rule on 512 neighbourhoods"
        )
        axes.legend()


def life(patterns: np.ndarray) -> np.ndarray:
    """Whether the centre lives on, for neighbourhoods of shape (n, 9).

    >>> life(np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0]]))
    array([ True, False])
    """
    neighbours, centre = patterns.sum(1) - patterns[:, 4], patterns[:, 4]
    return (neighbours == 3) | ((neighbours == 2) & (centre == 1))


def network(steps: int, m: int) -> nn.Sequential:
    """The network of Springer and Kenyon for that many steps, with random weights; cells outside the board are dead."""
    layers: list[nn.Module] = []
    for step in range(steps):
        layers += [
            nn.Conv2d(1 if step == 0 else m, 2 * m, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * m, m, 1),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(m, 1, 1)).double()


def exact_network(steps: int) -> nn.Sequential:
    """The network with m = 1 and weights by hand: right on every board after every number of steps."""
    with torch.random.fork_rng(devices=[]):  # the program's own random numbers are left alone
        model = network(steps, 1)
    layers = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    for filters, back in zip(layers[:-1:2], layers[1::2], strict=True):
        put(filters.weight, np.array([SUM, -SUM]))
        put(filters.bias, np.array([-3.5, 2.5]))
        put(back.weight, np.array([-2.0, -2.0]))
        put(back.bias, np.ones(1))
    put(layers[-1].weight, np.ones(1))
    put(layers[-1].bias, np.array([-0.5]))
    return model


def parameters(steps: int, m: int) -> int:
    """Number of parameters of the network.

    >>> parameters(1, 1), parameters(2, 1), parameters(2, 4)
    (25, 48, 453)
    """
    back = 2 * m * m + m
    return (18 * m + 2 * m + back) + (steps - 1) * (18 * m * m + 2 * m + back) + m + 1


def _parameters(sizes: list[tuple[int, int]]) -> Measurement:
    with torch.random.fork_rng(devices=[]):
        models = [network(*size) for size in sizes]
    return trial_result("parameters", [sum(p.numel() for p in model.parameters()) for model in models])


TOY = GameOfLife
