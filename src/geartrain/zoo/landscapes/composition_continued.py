r"""Composition, continued: what happens at the moment when a new term is asked of a network that knows the parts.

A network has learnt $\chi_A + \chi_B$ (A = {0, 1}, B = {2, 3}) exactly. Then the target becomes $\chi_A + \chi_B +
\chi_{AB}$ and training goes on. At the switch everything is known:

* **The loss jumps by exactly** $\tfrac12 E[\chi_{AB}^2] = \tfrac12$: what is new is orthogonal to what was learnt,
  so there is nothing to share and nothing in the way. (Times the prefactor of the loss; ½ here.)
* **The circuits feel nothing.** The residual is $-\chi_{AB}$, and a unit of the circuit for A answers to A's bits
  only. Its gradient is an average of $\chi_{AB}$ over functions of two bits, and that is 0: for its incoming
  weights, its bias and its outgoing weight. What is learnt is not destroyed by the new demand, and it does not by
  itself move towards it. For the same reason the Hessian's second-order part vanishes among the circuits.
* **Only spare units do.** There are four units that nothing listens to yet (v = 0), with random incoming weights w.
  They pull on their outgoing weights with $-E[\chi_{AB}\,\mathrm{relu}(w\cdot x + b)]$, a Fourier coefficient of a
  ReLU at degree 4: small, and all there is. It also couples v with w in the Hessian, which is where the first
  negative curvature comes from.

Whether the net *reuses* its circuits is a question about what the spare units become. By hand: they can become the
four teeth of $\chi_{AB}$ (`finished`), with the old circuits untouched (cosine 1), and the line from here to there
is known point by point.

**Control.** Ask for $\chi_C$ instead, of two fresh bits (`control`): the jump is the same ½, but the pull on spare
units is a coefficient of degree 2, many times larger. The jump of the loss says how much is missing, the slope says
how far away it is.

**What to vary.** `d`, `bias` and `seed` (the spare units), `step`.

Sources: by design, after a short post by Kaarel on learning theory, footnote 8; Abbe et al. 2023, arXiv 2302.11055.

Ledger: 1.15, 1.16
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo import _descent
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square
from geartrain.zoo.landscapes._parity_nets import (
    Net,
    cube,
    leap_of,
    net_truths,
    parity,
    power_by_degree,
    sawtooth,
    sum_of_parities,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

A, B, C, AB = (0, 1), (2, 3), (4, 5), (0, 1, 2, 3)
_SPARE = 4
_ORTHOGONAL = "χ_AB is orthogonal to every function of A's bits alone, and of B's."
_LINE = "Both layers move along the line: the network in between, over the cube."


@dataclass(frozen=True)
class CompositionContinued(Toy):
    """A network that knows χ_A + χ_B at the moment when χ_AB is asked of it too.

    Attributes:
        d: Inputs, all 2^d points; 6 or 7.
        bias: Of the spare units, in units of their weights' size; -1 to 1.
        control: Ask for χ_C, of two fresh bits, instead of χ_AB.
        step: Step size of the run times the largest curvature at the switch; 0 to 0.8.
        seed: Draws the spare units.
    """

    title: ClassVar[str] = "Composition, continued"
    ledger: ClassVar[tuple[str, ...]] = ("1.15", "1.16")

    d: int = 6
    bias: float = 0.3
    control: bool = False
    step: float = 0.2

    def __post_init__(self) -> None:
        if self.d not in (6, 7) or not -1 <= self.bias <= 1 or not 0 < self.step <= 0.8:
            raise InputError(
                f"d, bias and step are {self.d}, {self.bias}, {self.step}; allowed: 6 or 7, -1 to 1, above 0 to 0.8."
            )

    # ------------------------------------------------------------------ how it is made

    @property
    def new(self) -> tuple[int, ...]:
        """The set of the term that is asked for."""
        return C if self.control else AB

    @cached_property
    def spare(self) -> tuple[np.ndarray, np.ndarray]:
        """W and b of the units that nothing listens to."""
        drawn = torch.randn(_SPARE, self.d, generator=self.generator(), dtype=torch.float64).numpy()
        weight = drawn / np.sqrt(self.d)
        return weight, self.bias * np.linalg.norm(weight, axis=1)

    @cached_property
    def before(self) -> Net:
        """The network with the target that it knows."""
        x = cube(self.d)
        return Net.of_parities(x, sum_of_parities(x, (A, B)), (A, B)).with_units(*self.spare)

    @cached_property
    def net(self) -> Net:
        """The same with the new target."""
        return replace(self.before, y=self.before.y + parity(self.before.x, self.new))

    @cached_property
    def finished(self) -> Net:
        """The spare units become teeth of the new term (those left over stay silent); the circuits are as they were."""
        weight, bias, out, shift = sawtooth(self.d, self.new)
        old, used = len(self.net.out) - _SPARE, len(out)
        parts = self.net.weight.copy(), self.net.bias.copy(), self.net.out.copy()
        for part, teeth in zip(parts, (weight, bias, out), strict=True):
            part[old : old + used] = teeth
        return Net(self.net.x, self.net.y, *parts, self.net.shift + shift)

    def make_objective(self) -> Objective:
        """The loss right after the switch."""
        return self.net.objective()

    def make_run(self) -> Run:
        """Gradient descent from the switch on."""
        model, data = self.net.model(), self.net.objective().batches[0]
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate)
        size = 2**self.d
        return Run(
            model, half_square, optimizer, data, epochs=200, batch_size=size, shuffle=False, name=self.name()
        )

    # ------------------------------------------------------------------ what is known

    @property
    def rate(self) -> float:
        """Step size of the run."""
        return self.step / float(np.linalg.eigvalsh(self.net.hessian)[-1])

    @property
    def pull(self) -> np.ndarray:
        """Gradient of each spare unit's outgoing weight, -E[χ relu(w·x + b)]."""
        weight, bias = self.spare
        active = np.maximum(self.net.x @ weight.T + bias, 0)
        return -(active * parity(self.net.x, self.new)[:, None]).mean(0)

    def between(self, t: float) -> Net:
        """The network at a share t of the line to the finished one."""
        now, end = self.net, self.finished
        mixed = [
            (1 - t) * getattr(now, part) + t * getattr(end, part)
            for part in ("weight", "bias", "out", "shift")
        ]
        return Net(now.x, now.y, mixed[0], mixed[1], mixed[2], float(mixed[3]))

    def truths(self) -> dict[str, Truth]:
        """The jump, who feels it, what is seen at the switch, and the line to the finished network."""
        old = len(self.net.out) - _SPARE
        sets = (A, B, self.new)
        return {
            **net_truths(self.net),
            **self._to_the_end(),
            "leap": Truth(float(leap_of(sets)), source="Two bits at a time."),
            "leap.model": Truth(2.0, source="It knows A and B.", options={"of": "model", "threshold": 1e-6}),
            "walsh_spectrum": Truth(power_by_degree((A, B), self.d), 1e-9, source="It knows A and B."),
            "loss_jump": Truth(
                0.5, 1e-9, source="½E[χ²], orthogonal to what is fitted.", trial=lambda g: self._jump()
            ),
            "slope_on_the_circuits": Truth(0.0, 1e-9, source=_ORTHOGONAL, trial=lambda g: self._slope(old)),
            "slope_on_spare_units": Truth(
                self.pull,
                1e-9,
                source="-E[χ relu(w·x + b)], by enumeration.",
                trial=lambda g: self._pull(old),
            ),
            "reuse": Truth(
                np.ones(old),
                1e-9,
                source="The circuits are not needed elsewhere: they stay as they are.",
                trial=lambda g: self._cosines(old),
            ),
        }

    def _to_the_end(self) -> dict[str, Truth]:
        now, end = self.net, self.finished
        t = np.linspace(0, 1, 11)
        line = np.array([0.5 * float((self.between(s).residuals ** 2).mean()) for s in t])
        theta, last = _flat(now), _flat(end)
        f, f0 = now.outputs, end.outputs
        found = {
            "distance_from_init": Truth(
                float(np.linalg.norm(theta - last)), source="Definition.", other=_finished
            ),
            "function_distance": Truth(
                float(np.linalg.norm(f - f0) / np.sqrt(0.5 * (f @ f) + 0.5 * (f0 @ f0))),
                1e-6,
                source="χ_AB against the mean of both sums.",
                other=_finished,
                strict=True,
            ),
            "linear_connectivity": Truth(
                line - (1 - t) * line[0] - t * line[-1],
                1e-6,
                source=_LINE,
                other=_finished,
                reading="excess",
                error="none",
            ),
            "linearised_error": Truth(
                float(np.linalg.norm(f - f0 - end.jacobian[:, 0] @ (theta - last)) / np.linalg.norm(f - f0)),
                source="Derivatives at the finished network.",
                other=_finished,
            ),
        }
        if len(now.x) <= 100:
            k, k0 = (n.jacobian[:, 0] @ n.jacobian[:, 0].T for n in (now, end))
            drift = float(np.linalg.norm(k - k0) / np.linalg.norm(k0))
            found["ntk_drift"] = Truth(drift, source="Kernels of both.", other=_finished)
        return found | _descent.motion_truths(self.path, probe=2**self.d)

    @cached_property
    def path(self) -> _descent.Path:
        """The first steps after the switch, by hand."""
        nets = [self.net]
        for _ in range(_descent.STEPS):
            moved = _flat(nets[-1]) - self.rate * _gradient(nets[-1])
            nets.append(_unflat(self.net, moved))
        hidden, d = self.net.weight.shape
        return _descent.Path(
            np.array([_flat(n) for n in nets]),
            np.array([_gradient(n) for n in nets]),
            np.array([0.5 * float((n.residuals**2).mean()) for n in nets]),
            self.net.hessian,
            self.rate,
            (hidden * d + hidden, hidden + 1),
        )

    # ------------------------------------------------------------------ experiments

    def _jump(self) -> Measurement:
        jump = float(self.objective.value()) - float(self.before.objective().value())
        return trial_result("loss_jump", jump, unit="ℓ")

    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradient in W, b and v."""
        hidden, d = self.net.weight.shape
        gradient = self.objective.gradient().numpy()
        ends = np.cumsum([hidden * d, hidden, hidden])
        weight, bias, out, _ = np.split(gradient, ends)
        return weight.reshape(hidden, d), bias, out

    def _slope(self, old: int) -> Measurement:
        """Norm of the gradient in everything that belongs to the circuits."""
        total = sum(float((part[:old] ** 2).sum()) for part in self._parts())
        return trial_result("slope", total**0.5, unit="ℓ/θ")

    def _pull(self, old: int) -> Measurement:
        return trial_result("slope", self._parts()[2][old:], unit="ℓ/θ")

    def _cosines(self, old: int) -> Measurement:
        """Of each circuit unit's incoming weights at the switch and in the finished network."""
        first, last = self.net.weight[:old], self.finished.objective().parameters().numpy()
        last = last[: old * self.d].reshape(old, self.d)
        products = (first * last).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(last, axis=1)
        return trial_result("reuse", products)

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The line to the finished network, and how hard the new term and the control pull."""
        left, right = figure.subplots(1, 2)
        t = np.linspace(0, 1, 101)
        for control, name in ((False, "χ_AB"), (True, "control χ_C")):
            toy = replace(self, control=control)
            left.plot(t, [0.5 * float((toy.between(s).residuals ** 2).mean()) for s in t], label=name)
            pulls = [np.abs(replace(toy, seed=s).pull).mean() for s in range(20)]
            right.bar(name, np.mean(pulls), yerr=np.std(pulls), color=f"C{int(control)}")
        left.axhline(0.5, color="0.6", ls=":", label="right after the switch")
        left.set(
            xlabel="share of the line to the finished network", ylabel="loss (ℓ)", title="same jump, then"
        )
        left.legend(fontsize=8)
        right.set(
            xlabel="what is asked for", ylabel="mean |slope| on a spare unit (ℓ/θ)", title="different slopes"
        )


def _flat(net: Net) -> np.ndarray:
    return np.concatenate([net.weight.ravel(), net.bias, net.out, [net.shift]])


def _unflat(like: Net, theta: np.ndarray) -> Net:
    hidden, d = like.weight.shape
    weight, bias, out, shift = np.split(theta, np.cumsum([hidden * d, hidden, hidden]))
    return Net(like.x, like.y, weight.reshape(hidden, d), bias, out, float(shift[0]))


def _gradient(net: Net) -> np.ndarray:
    return net.residuals @ net.jacobian[:, 0] / len(net.x)


def _finished(toy: CompositionContinued) -> Objective:
    return toy.finished.objective()


TOY = CompositionContinued
