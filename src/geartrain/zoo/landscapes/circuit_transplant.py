r"""Transplanted circuits: two frozen halves, learnt apart, suffice for a whole that neither was made for.

A parity of 2q bits, $\chi_{AB} = \chi_A\chi_B$, is out of reach for a network that starts from nothing (leap 2q).
Suppose that two *other* networks have learnt $\chi_A$ and $\chi_B$, q bits each. Put their first layers side by
side, freeze them, and train fresh upper layers on $\chi_{AB}$ alone.

**The composed circuit exists, and is tiny.** Let u = χ_A and v = χ_B be what the two circuits say. For u, v = ±1

$$uv = |u + v| - 1 = \mathrm{relu}(u + v) + \mathrm{relu}(-u - v) - 1
= 2\,\mathrm{relu}(u + v - 1) + 2\,\mathrm{relu}(-u - v - 1) - 1,$$

so two units on top of the two circuits do it. (The last form keeps every point of the cube off the kinks.) The
network here is built so: q units for each parity (teeth of a zigzag, see parity-composition), two units that
combine, an output. Its loss is 0; instruments look at the *upper* layers with the halves frozen, and at the whole.

**Causal controls, exactly.** That the whole can be learnt on top of the halves might be due to the upper layers
alone, or to any features. So, for any upper network whatever, however wide and long trained:

* *both right circuits* frozen below: nothing is in the way, the least loss is 0;
* *two circuits for the wrong parities* (as good, of other coordinates): $\chi_{AB}$ is balanced wherever the
  features are the same, so the least loss is ½, that of a constant;
* *one right circuit alone*: ½ as well. Half of the parts is worth nothing;
* *cutting* one half out of the finished network leaves $f = \pm\chi_A$ and a loss of 1: *worse* than nothing, so
  the network does use both.

A floor is a statement about all possible upper layers; training them (`trained`) shows that gradient descent
reaches it.

**What to vary.** `q` (2 or 3 bits for each circuit), `width` of the trained upper layers.

Sources: by design, after a short post by Kaarel on learning theory, footnote 8.

Ledger: 1.16
"""

from __future__ import annotations

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
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square
from geartrain.zoo.landscapes._parity_nets import cube, parity, sawtooth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXACT = "The network is exact, so the Hessian is the mean of JJᵀ over the cube."
_FLOOR = "χ_AB is balanced among the points with equal features unless both circuits are there."
_STEPS, _RATE, _TRIES = 300, 0.02, 6


@dataclass(frozen=True)
class CircuitTransplant(Toy):
    """Two frozen parity circuits and what combines them.

    Attributes:
        q: Bits of each circuit, 2 or 3.
        width: Units of the upper layer in the training experiment, 4 to 64.
        seed: Of the run's start.
    """

    title: ClassVar[str] = "Transplanted circuits"
    ledger: ClassVar[tuple[str, ...]] = ("1.16",)

    q: int = 2
    width: int = 16

    def __post_init__(self) -> None:
        if self.q not in (2, 3) or not 4 <= self.width <= 64:
            raise InputError(f"q is {self.q} and width {self.width}; allowed: 2 or 3, and 4 to 64.")

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def points(self) -> np.ndarray:
        """The cube of the 2q bits that matter."""
        return cube(2 * self.q)

    @property
    def targets(self) -> np.ndarray:
        """χ_AB on it."""
        return self.points.prod(1)

    @property
    def halves(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A and B."""
        return tuple(range(self.q)), tuple(range(self.q, 2 * self.q))

    def circuits(self, d: int, halves: tuple[tuple[int, ...], ...]) -> tuple[np.ndarray, np.ndarray]:
        """First layers of several parity networks, side by side: W and b."""
        parts = [sawtooth(d, half) for half in halves]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    @cached_property
    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weight and bias of the three layers."""
        _, _, out, shift = sawtooth(2 * self.q, self.halves[0])
        both = np.concatenate([out, out])  # u + v - 2·shift
        combine = np.stack([both, -both]), np.array([2 * shift - 1, -2 * shift - 1])
        return [self.circuits(2 * self.q, self.halves), combine, (np.array([[2.0, 2.0]]), np.array([-1.0]))]

    def model(self) -> nn.Sequential:
        """The finished network."""
        modules: list[nn.Module] = []
        for weight, bias in self.layers:
            linear = nn.Linear(weight.shape[1], weight.shape[0]).double()
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(weight))
                linear.bias.copy_(torch.from_numpy(bias))
            modules += [linear, nn.ReLU()]
        return nn.Sequential(*modules[:-1])

    def whole(self) -> Objective:
        """½ mean (f - χ_AB)² as a function of all layers."""
        data = torch.from_numpy(self.points), torch.from_numpy(self.targets)[:, None]
        return Objective(self.model(), half_square, data)

    def make_objective(self) -> Objective:
        """The same as a function of the upper layers, the halves frozen."""
        return self.whole().restrict(["2.*", "4.*"])

    def make_run(self) -> Run:
        """Training of fresh upper layers, of `width` units, on the frozen halves."""
        below, source = self.model()[0], self.generator()
        below.requires_grad_(False)
        hidden, last = nn.Linear(2 * self.q, self.width).double(), nn.Linear(self.width, 1).double()
        upper = [*hidden.parameters(), *last.parameters()]
        with torch.no_grad():
            for p in upper:
                p.copy_(torch.randn(p.shape, generator=source, dtype=torch.float64) / p.shape[-1] ** 0.5)
        model = nn.Sequential(below, nn.ReLU(), hidden, nn.ReLU(), last)
        data = torch.from_numpy(self.points), torch.from_numpy(self.targets)[:, None]
        return Run(
            model,
            half_square,
            torch.optim.Adam(upper, lr=_RATE),
            data,
            epochs=_STEPS,
            batch_size=len(self.points),
            shuffle=False,
            name="circuit-transplant",
        )

    def on_features(self, halves: tuple[tuple[int, ...], ...]) -> Objective:
        """Upper layers to come: what they see of frozen circuits for these sets, and χ_AB, over the cube of 4q bits."""
        x = cube(4 * self.q)
        weight, bias = self.circuits(4 * self.q, halves)
        seen = torch.from_numpy(np.maximum(x @ weight.T + bias, 0))
        y = torch.from_numpy(parity(x, range(2 * self.q)))[:, None]
        return Objective(nn.Linear(seen.shape[1], 1).double(), half_square, (seen, y))

    def cut(self) -> Objective:
        """The finished network without the circuit for B: what it says is replaced by nothing."""
        model = self.model()
        combine = model[2]
        assert isinstance(combine, nn.Linear)
        with torch.no_grad():
            combine.weight[:, self.q :] = 0.0
        data = torch.from_numpy(self.points), torch.from_numpy(self.targets)[:, None]
        return Objective(model, half_square, data)

    # ------------------------------------------------------------------ what is known

    @property
    def others(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Two sets of other coordinates."""
        return tuple(range(2 * self.q, 3 * self.q)), tuple(range(3 * self.q, 4 * self.q))

    @cached_property
    def jacobian(self) -> np.ndarray:
        """Derivatives of the output in all parameters, shape (points, params)."""
        (w1, b1), (w2, b2), (w3, _) = self.layers
        z1 = self.points @ w1.T + b1
        h1, on1 = np.maximum(z1, 0), (z1 > 0).astype(float)
        z2 = h1 @ w2.T + b2
        h2, back2 = np.maximum(z2, 0), (z2 > 0) * w3[0]
        back1 = (back2 @ w2) * on1
        n = len(self.points)
        parts = [
            np.einsum("ni,nj->nij", back1, self.points),
            back1,
            np.einsum("ni,nj->nij", back2, h1),
            back2,
        ]
        return np.concatenate([p.reshape(n, -1) for p in (*parts, h2, np.ones((n, 1)))], axis=1)

    @property
    def upper(self) -> int:
        """Parameters of the upper layers: 2·2q + 2 and 2 + 1."""
        return 4 * self.q + 5

    def truths(self) -> dict[str, Truth]:
        """Upper layers on frozen halves, the whole, and the controls."""
        q, n = self.q, len(self.points)
        above = self.jacobian[:, -self.upper :]
        hessian, whole = above.T @ above / n, self.jacobian.T @ self.jacobian / n
        first = whole.shape[0] - self.upper
        found = {
            **_matrices.curvature_truths(hessian, layers=[4 * q + 2, 3], source=_EXACT),
            **_matrices.kernel_truths(above[:, None], self.targets[:, None], source=_EXACT),
            "hessian_trace.whole": Truth(
                float(np.trace(whole)), source=_EXACT, subject=CircuitTransplant.whole
            ),
            "hessian_diagonal.whole": Truth(np.diag(whole), source=_EXACT, subject=CircuitTransplant.whole),
            "layer_curvature.whole": Truth(
                np.array(
                    [
                        np.trace(whole[:first, :first]),
                        np.trace(hessian[:-3, :-3]),
                        np.trace(hessian[-3:, -3:]),
                    ]
                ),
                1e-5,
                reading="trace",
                source=_EXACT,
                subject=CircuitTransplant.whole,
            ),
            "weight_norm": Truth(
                np.array([np.sqrt((w**2).sum() + (b**2).sum()) for w, b in self.layers]),
                source="Definition.",
                subject=CircuitTransplant.whole,
            ),
            "leap": Truth(float(2 * q), source="One term of 2q bits.", options={"max_degree": 2 * q}),
            "leap.model": Truth(
                float(2 * q),
                source="The network is exact.",
                options={"of": "model", "max_degree": 2 * q, "threshold": 1e-6},
            ),
            "walsh_spectrum": Truth(np.eye(2 * q + 1)[-1], 1e-9, source="The network is exact."),
            "dead_units": Truth(0.0, source="Every tooth, and both combiners, are reached.", strict=True),
            "constant_loss": Truth(0.5, 1e-5, source="Targets ±1, balanced."),
            "missing_biases": Truth(0.0, source="By construction."),
            "composition": Truth(
                0.0, 1e-12, source="uv = |u + v| - 1 on ±1.", trial=lambda g: self._composed()
            ),
            "loss_of_the_whole": Truth(
                0.0, 1e-12, source=_EXACT, trial=lambda g: trial_result("loss", float(self.objective.value()))
            ),
            "loss_without_a_half": Truth(
                1.0,
                1e-12,
                source="f = ±χ_A is uncorrelated with χ_AB: ½(1 + 1).",
                trial=lambda g: trial_result("loss", float(self.cut().value())),
            ),
            "trained_on_right_wrong_half": Truth(
                np.array([0.0, 0.5, 0.5]),
                0.06,
                source=_FLOOR,
                trial=self._trained,
                assumptions="The best of six starts.",
            ),
        }
        for name, halves, floor in (
            ("right", self.halves, 0.0),
            ("wrong", self.others, 1.0),
            ("half", self.halves[:1], 1.0),
        ):
            found[f"label_disagreement_floor.{name}"] = Truth(
                floor,
                1e-9,
                source=_FLOOR,
                subject=lambda toy, halves=halves: toy.on_features(halves),
                strict=True,
            )
        return found

    # ------------------------------------------------------------------ experiments

    def _composed(self) -> Measurement:
        """Largest error of both forms of the composed circuit on the four pairs of signs."""
        u, v = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)]).T

        def relu(z: np.ndarray) -> np.ndarray:
            return np.maximum(z, 0)

        forms = relu(u + v) + relu(-u - v) - 1, 2 * relu(u + v - 1) + 2 * relu(-u - v - 1) - 1
        return trial_result("composition", max(np.abs(form - u * v).max() for form in forms))

    def trained(self, halves: tuple[tuple[int, ...], ...], generator: torch.Generator) -> float:
        """Least loss of several upper networks with one hidden layer, trained on frozen circuits for these sets."""
        objective = self.on_features(halves)
        x, y = objective.batches[0]
        x, count = torch.unique(torch.cat([x, y], 1), dim=0, return_counts=True)
        seen, y, share = x[:, :-1], x[:, -1], count / count.sum()
        seen = (seen - seen.mean(0)) / seen.std(0).clamp(min=1e-9)

        def drawn(*shape: int) -> Tensor:
            start = torch.randn(_TRIES, *shape, generator=generator, dtype=torch.float64)
            return (start / shape[-1] ** 0.5).requires_grad_()

        first, bias, last = drawn(self.width, seen.shape[1]), drawn(self.width), drawn(self.width)
        shift = torch.zeros(_TRIES, 1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([first, bias, last, shift], lr=_RATE)

        def losses() -> Tensor:
            hidden = torch.relu(torch.einsum("thi,ni->tnh", first, seen) + bias[:, None])
            output = torch.einsum("tnh,th->tn", hidden, last) + shift
            return 0.5 * ((output - y) ** 2 * share).sum(1)

        for _ in range(_STEPS):
            optimizer.zero_grad()
            losses().sum().backward()
            optimizer.step()
        return float(losses().detach().min())

    def _trained(self, generator: torch.Generator) -> Measurement:
        found = [self.trained(halves, generator) for halves in (self.halves, self.others, self.halves[:1])]
        return trial_result("trained", found, unit="ℓ")

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """What the circuits say against what the whole should, and the least losses."""
        left, right = figure.subplots(1, 2)
        u, v = (parity(self.points, half) for half in self.halves)
        z = np.linspace(-2.3, 2.3, 300)
        left.plot(z, 2 * np.maximum(z - 1, 0) + 2 * np.maximum(-z - 1, 0) - 1, label="two units")
        left.plot(u + v, self.targets, "o", label="points of the cube")
        left.set(xlabel="u + v, what the circuits say", ylabel="output", title="χ_AB from χ_A and χ_B")
        left.legend(fontsize=8)
        right.bar(["right", "wrong", "half", "one cut"], [0.0, 0.5, 0.5, 1.0])
        right.set(
            xlabel="frozen circuits below",
            ylabel="least loss above, or after the cut (ℓ)",
            title="causal controls",
        )


TOY = CircuitTransplant
