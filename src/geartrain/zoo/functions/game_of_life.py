"""# The game of life: a rule that a tiny network can hold but rarely finds

Conway's rule: a cell is alive in the next step if it has three living neighbours, or two and is alive itself. A network for n steps
has for each step a 3 x 3 convolution to 2m filters, ReLU, a 1 x 1 convolution to m, ReLU, and at the end a 1 x 1 to one logit:
23n + 2 parameters for m = 1. Springer and Kenyon found that networks of the least size practically never learn it, while several
times larger ones do: existence is one thing, reachability another.

**That the least network suffices is a line of algebra.** Let z = (living neighbours) + ½ (centre). Alive means |z - 3| ≤ ½, and z is a
multiple of ½. So two rectified units do: logit = 1 - 1.5 (relu(z - 3) + relu(3 - z)) is at least ¼ in size and right on
all 512 neighbourhoods, of which 140 lead to life.

**Population loss.** If every cell is alive with probability d₀ independently, a neighbourhood with k living cells has the weight
d₀^k (1 - d₀)^(9-k). The loss depends on neighbours j and centre c only, and Σ over 9 x 2 cases with binomial weights is exact.

**The instruments** see the 512 neighbourhoods with equal weight (d₀ = ½) and the hand-built network. With a loss that
is piecewise linear in each single weight, the trace of the Hessian is Σ p(1 - p) |∂logit/∂θ|², again a sum over 18 cases.

**What to vary.** d₀, the scale of the logits (``scale``): the loss falls as they grow.

Sources: Springer, Kenyon 2020, arXiv:2009.01398. Ledger: T25
"""

from __future__ import annotations

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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

_SOURCE = "Sum over 9 numbers of neighbours x 2 states of the centre, with binomial weights."
_WEIGHTS = np.array([1, 1, 1, 1, 0.5, 1, 1, 1, 1])


@dataclass(frozen=True)
class GameOfLife(Toy):
    """One step of Conway's rule by two rectified units.

    Attributes:
        density: d₀, probability that a cell is alive, of the population loss.
        scale: Factor of the logits, positive.
        samples: Neighbourhoods that the trial draws.
    """

    title: ClassVar[str] = "The game of life"
    ledger: ClassVar[tuple[str, ...]] = ("T25",)

    density: float = 0.38
    scale: float = 2.0
    samples: int = 50_000

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if not 0 < self.density < 1:
            raise InputError(f"density is {self.density}; allowed: above 0 and below 1.")
        if not self.scale > 0 or self.samples < 100:
            raise InputError(f"scale is {self.scale}, samples {self.samples}; allowed: positive, at least 100.")

    def patterns(self) -> np.ndarray:
        """All neighbourhoods, row by row, shape (512, 9)."""
        return np.array(list(itertools.product((0.0, 1.0), repeat=9)))

    def make_objective(self) -> Objective:
        """Cross-entropy of the hand-built network on the 512 neighbourhoods with equal weight."""
        x = torch.from_numpy(self.patterns())
        first, last = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 1, 1)
        model = nn.Sequential(first, nn.ReLU(), last, nn.Flatten()).double()
        kernel = torch.from_numpy(_WEIGHTS.reshape(1, 3, 3))
        with torch.no_grad():
            first.weight.copy_(torch.stack([kernel, -kernel])), first.bias.copy_(torch.tensor([-3.0, 3.0]))
            last.weight.fill_(-1.5 * self.scale), last.bias.fill_(self.scale)
        targets = torch.from_numpy(life(self.patterns())).double()[:, None]
        return Objective(model, nn.functional.binary_cross_entropy_with_logits, (x.reshape(-1, 1, 3, 3), targets))

    def cases(self, density: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logit, label and probability of the 18 cases (neighbours, centre)."""
        j, c = (a.ravel() for a in np.meshgrid(np.arange(9), [0, 1], indexing="ij"))
        ways = np.array([math.comb(8, i) for i in range(9)])[j]
        weight = ways * density ** (j + c) * (1 - density) ** (9 - j - c)
        return self.scale * (1 - 1.5 * np.abs(j + c / 2 - 3)), ((j == 3) | ((j == 2) & (c == 1))).astype(float), weight

    def population_loss(self, density: float) -> float:
        """Mean cross-entropy if cells are alive with this probability."""
        logit, label, weight = self.cases(density)
        return float((weight * (np.logaddexp(0, logit) - label * logit)).sum())

    def truths(self) -> dict[str, Truth]:
        """Counts, losses, and the curvature of the hand-built network."""
        logit, label, weight = self.cases(0.5)
        alive, silent = 140 / 512, float(weight @ ((logit >= self.scale * 0.999).astype(float)))
        entropy = -(alive * math.log(alive) + (1 - alive) * math.log(1 - alive))
        jacobian, rows, hessian = self.derivatives()
        s = self.scale
        squares = float(_WEIGHTS @ _WEIGHTS)
        right = dict(source="Right on all 512.")
        return {
            "right": Truth(512.0, source="|z - 3| ≤ ½ if and only if alive.", trial=self.right),
            "parameters": Truth(np.array([25.0, 48.0, 453.0]), source="Springer, Kenyon 2020.", trial=_parameters),
            "population_loss": Truth(self.population_loss(self.density), source=_SOURCE, trial=self.sampled),
            "label_balance": Truth(1 - alive, source="140 of 512 lead to life.", strict=True),
            "constant_loss": Truth(entropy, tolerance=1e-5, source="Entropy of 140 in 512."),
            "label_disagreement_floor": Truth(0.0, source="The rule is a function."),
            "dead_units": Truth(0.0, source="z reaches both sides of 3."),
            "dead_units.inactive_share": Truth(
                0.5 + 0.5 * silent, reading="inactive_share", source="One unit is on, or none if z = 3."
            ),
            "weight_norm": Truth(
                np.array([math.sqrt(2 * squares + 18), math.sqrt(2 * (1.5 * s) ** 2 + s**2)]), source="Definition."
            ),
            "weight_rank": Truth(np.ones(2), source="The two filters are opposite."),
            "margin_distribution.smallest": Truth(s / 4, reading="smallest", source="Least |logit|, at |z - 3| = ½."),
            "margin_distribution.negative": Truth(0.0, reading="negative", **right),
            "selective_risk": Truth(0.0, **right),
            "calibration_error.accuracy": Truth(1.0, reading="accuracy", **right),
            "calibration_error.overconfidence": Truth(
                float(weight @ (1 / (1 + np.exp(-np.abs(logit))))) - 1,
                reading="overconfidence",
                source=_SOURCE,
                strict=True,
            ),
            "missing_biases": Truth(0.0, source="By construction."),
            "output_probability": Truth(0.0, source="Outputs are scores."),
            "loss_match": Truth(1.0, source="Cross-entropy suits yes-or-no labels."),
            "output_target_match": Truth(1.0, source="One score for each label."),
            "symmetry_orbit_dimension": Truth(2.0, source="Each ReLU can be rescaled."),
            **_matrices.curvature_truths(hessian, rows.mean(0), layers=[20, 3], source=_SOURCE),
            **_matrices.example_truths(rows, layers=[20, 3], source=_SOURCE),
            "jacobian_rank": Truth(
                float(np.linalg.matrix_rank(jacobian)), source=_SOURCE, options={"num_examples": 512}
            ),
        }

    def derivatives(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the logit, shape (512, 23); of each example's loss, likewise; Hessian of the mean loss."""
        x = self.patterns()
        out = np.array([-1.5, -1.5, 1.0]) * self.scale
        logits, jacobian = _matrices.two_layers(x, np.array([_WEIGHTS, -_WEIGHTS]), np.array([-3.0, 3.0]), out)
        p, jacobian = 1 / (1 + np.exp(-logits)), jacobian[:, 0]
        residual = p - life(x)
        hessian = (jacobian * (p * (1 - p))[:, None]).T @ jacobian / 512
        active = np.column_stack([x @ _WEIGHTS > 3, x @ _WEIGHTS < 3])
        for unit in range(2):  # an outer weight meets the filter and the bias of its own unit
            pull = (residual * active[:, unit]) @ np.column_stack([x, np.ones(512)]) / 512
            places = [*range(9 * unit, 9 * unit + 9), 18 + unit]
            hessian[20 + unit, places] += pull
            hessian[places, 20 + unit] += pull
        return jacobian, residual[:, None] * jacobian, hessian

    def right(self, generator: torch.Generator) -> Measurement:
        """Neighbourhoods on which the network agrees with Conway's rule."""
        objective = self.objective
        answers = (objective.outputs()[:, 0] > 0).numpy()
        return trial_result("right", int((answers == life(self.patterns())).sum()))

    def sampled(self, generator: torch.Generator) -> Measurement:
        """Mean loss on random neighbourhoods."""
        x = (torch.rand(self.samples, 9, generator=generator) < self.density).double()
        objective = self.objective
        with torch.no_grad():
            logits = objective.model(x.reshape(-1, 1, 3, 3))[:, 0].numpy()
        losses = np.logaddexp(0, logits) - life(x.numpy()) * logits
        return trial_result("population_loss", losses.mean(), losses.std() / math.sqrt(self.samples))

    def draw(self, figure: Figure) -> None:
        """Logit against z, with the 18 cases."""
        axes = figure.add_subplot()
        logit, label, _ = self.cases(0.5)
        z = 3 + np.linspace(-3, 5.5, 200)
        axes.plot(z, self.scale * (1 - 1.5 * np.abs(z - 3)), color="grey", lw=1, label="two rectified units")
        places = np.array([j + c / 2 for j in range(9) for c in (0, 1)])
        for value, name, color in ((1, "alive next", "tab:green"), (0, "dead next", "black")):
            axes.plot(places[label == value], logit[label == value], "o", color=color, label=name)
        axes.axhline(0, color="lightgrey")
        axes.set(xlabel="z = neighbours + ½ centre", ylabel="logit", title="Conway's rule on 512 neighbourhoods")
        axes.legend()


def life(patterns: np.ndarray) -> np.ndarray:
    """Whether the centre lives on, for neighbourhoods of shape (n, 9)."""
    neighbours, centre = patterns.sum(1) - patterns[:, 4], patterns[:, 4]
    return (neighbours == 3) | ((neighbours == 2) & (centre == 1))


def network(steps: int, m: int) -> nn.Module:
    """The network of Springer and Kenyon for that many steps: 2m filters, then m, per step."""
    layers: list[nn.Module] = []
    for step in range(steps):
        layers += [nn.Conv2d(1 if step == 0 else m, 2 * m, 3, padding=1), nn.ReLU(), nn.Conv2d(2 * m, m, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(m, 1, 1))


def _parameters(generator: torch.Generator) -> Measurement:
    sizes = [sum(p.numel() for p in network(*size).parameters()) for size in ((1, 1), (2, 1), (2, 4))]
    return trial_result("parameters", sizes)


TOY = GameOfLife
