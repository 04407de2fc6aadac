r"""A chain of random layers: why signals vanish or explode.

$N$ layers $W_l$ of width $n$ with independent entries from $N(0, s^2/n)$, one after the other, no nonlinearity. At
$s = 1$ every layer keeps the *mean square* of its input. Nevertheless the signal of a typical network shrinks.

**Growth.** Whatever the direction of the input $h$, $Wh$ is Gaussian with variance $s^2\lVert h\rVert^2/n$ per
entry. So $\ln\lVert Wh\rVert^2/\lVert h\rVert^2 = \ln(s^2\chi_n^2/n)$, independent from layer to layer, with

$$\mu_1 = \ln s + \tfrac12\left[\psi(n/2) + \ln(2/n)\right] \approx \ln s - \tfrac1{2n},\qquad
\mathrm{variance}\ \tfrac14\psi'(n/2)$$

per layer. The logarithm of the norm is a random walk of $N$ steps with drift $\mu_1$: signals explode or vanish
exponentially unless $s$ is tuned to $e^{1/2n}$, and even then their logarithm spreads like $\sqrt{N/2n}$. Depth over
width is what counts. The mean square says 1 because rare networks are huge.

**All directions.** An area of $i$ directions grows by the determinants of Gaussian matrices, which gives Newman's
exponents $\mu_i = \ln s + \tfrac12[\psi((n-i+1)/2) + \ln(2/n)]$, falling with $i$: after many layers the singular
values lie exponentially far apart, the strongest direction rules, and the effective rank of the whole goes to 1.
Gradients, going back through the transposed layers, fare alike.

**The chain as a toy.** The objective is $\tfrac12$ the mean squared error of one such network against targets of its
own size; its derivatives are those of any chain of linear layers, in closed form.

**What to vary.** `depth`, `width`, `scale` ($s$).

Sources: Furstenberg, Kesten 1960; Newman 1986 (Commun. Math. Phys. 103:121); Hanin, Nica 2018, arXiv 1812.05994.
Ledger: 0.14.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.special import digamma, polygamma

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._chain import LinearChain, chain_truths, pair_truths
from geartrain.zoo._descent import STEPS, Path, motion_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEWMAN = "Newman 1986 (Commun. Math. Phys. 103:121): ln of chi-squared variables, layer by layer."


@dataclass(frozen=True)
class DeepGaussianChain(Toy):
    """A linear network of independent Gaussian layers.

    Attributes:
        depth: Number of layers N.
        width: n, of every layer.
        scale: s; entries have variance s²/n.
        examples: Number of random inputs.
        step: Step size of the run, in units of one over the largest eigenvalue of the Hessian.
    """

    title: ClassVar[str] = "Deep Gaussian chain"
    ledger: ClassVar[tuple[str, ...]] = ("0.14",)

    depth: int = 4
    width: int = 5
    scale: float = 1.0
    examples: int = 20
    step: float = 0.3

    def __post_init__(self) -> None:
        if not 2 <= self.depth <= 20 or not 2 <= self.width <= 12:
            raise InputError(
                f"depth is {self.depth} and width {self.width}; allowed: 2 to 20 layers, 2 to 12 units each."
            )
        if not 0.2 <= self.scale <= 5 or not 0 < self.step < 2:
            raise InputError(
                f"scale is {self.scale} and step {self.step}; allowed: 0.2 to 5, and between 0 and 2."
            )
        if not 5 <= self.examples <= 100:
            raise InputError(f"examples is {self.examples}; allowed: 5 to 100.")

    # ------------------------------------------------------------------ how it is made

    def layers(self, generator: torch.Generator, count: int) -> np.ndarray:
        """That many random layers, shape (count, width, width)."""
        shape = (count, self.width, self.width)
        return (
            self.scale
            / math.sqrt(self.width)
            * torch.randn(shape, generator=generator, dtype=torch.float64).numpy()
        )

    @cached_property
    def chain(self) -> LinearChain:
        """One network, on Gaussian inputs and with targets as large as its outputs are in the mean square."""
        source = self.generator()
        shape = (2, self.examples, self.width)
        x, y = torch.randn(shape, generator=source, dtype=torch.float64).numpy()
        return LinearChain(x, y * self.scale**self.depth, tuple(self.layers(source, self.depth)))

    @cached_property
    def other(self) -> LinearChain:
        """The same network with 1 % more in every layer."""
        return LinearChain(self.chain.inputs, self.chain.targets, tuple(1.01 * w for w in self.chain.weights))

    def make_objective(self) -> Objective:
        """The loss of that network."""
        return self.chain.objective()

    @cached_property
    def rate(self) -> float:
        """Step size of the run."""
        return self.step / float(np.abs(np.linalg.eigvalsh(self.chain.hessian)).max())

    def make_run(self) -> Run:
        """Full-batch gradient descent from there."""
        return self.chain.run(self.rate, epochs=400)

    # ------------------------------------------------------------------ what is known

    @property
    def exponents(self) -> np.ndarray:
        """μᵢ, mean growth of the logarithm per layer, the largest first."""
        n = self.width
        freedom = n - np.arange(n)
        return math.log(self.scale) + 0.5 * (digamma(freedom / 2) + math.log(2 / n))

    @property
    def spread(self) -> float:
        """Variance of the logarithm of the norm per layer."""
        return 0.25 * float(polygamma(1, self.width / 2))

    def path(self) -> Path:
        """The next steps of the run."""
        chains = [self.chain]
        for _ in range(STEPS):
            last, gradient = chains[-1], chains[-1].rows.mean(0)
            cuts = np.cumsum(last.sizes)[:-1]
            parts = zip(last.weights, np.split(gradient, cuts), strict=True)
            weights = tuple(w - self.rate * g.reshape(w.shape) for w, g in parts)
            chains.append(LinearChain(last.inputs, last.targets, weights))
        points = np.array([np.concatenate([w.ravel() for w in c.weights]) for c in chains])
        gradients, losses = np.array([c.rows.mean(0) for c in chains]), np.array([c.loss for c in chains])
        return Path(points, gradients, losses, self.chain.hessian, self.rate, self.chain.sizes)

    def truths(self) -> dict[str, Truth]:
        """The derivatives of this network, and what the law of random matrices says of all of them."""
        truths = chain_truths(self.chain) | motion_truths(self.path(), self.examples)
        truths |= pair_truths(self.chain, self.other, _stretched, 1e-5)
        size = self.chain.rows.shape[1]
        for name in ("hessian_trace", "hessian_diagonal"):
            truths[name] = Truth(
                truths[name].value, source=truths[name].source, options={"num_products": size}
            )
        given = partial(Truth, source=_NEWMAN, assumptions="Mean over 400 networks.")
        return truths | {
            "log_growth": given(float(self.exponents[0]), 1e-9, trial=self._growth),
            "log_growth_variance": given(self.spread, 1e-9, trial=self._growth_variance),
            "exponents": given(
                self.exponents,
                1e-9,
                trial=self._all_exponents,
                assumptions="By QR, one layer after the other, 400 layers; the start is forgotten.",
            ),
        }

    def _logs(self, generator: torch.Generator) -> np.ndarray:
        """Ln ‖h‖ after the whole chain over that before, for 400 networks and one input each, per layer."""
        found = []
        for _ in range(400):
            h = torch.randn(self.width, generator=generator, dtype=torch.float64).numpy()
            start = np.linalg.norm(h)
            for w in self.layers(generator, self.depth):
                h = w @ h
            found.append(math.log(np.linalg.norm(h) / start))
        return np.array(found)

    def _growth(self, generator: torch.Generator) -> Measurement:
        logs = self._logs(generator) / self.depth
        return trial_result("log_growth", logs.mean(), logs.std(ddof=1) / math.sqrt(len(logs)))

    def _growth_variance(self, generator: torch.Generator) -> Measurement:
        squares = (self._logs(generator) - self.depth * self.exponents[0]) ** 2 / self.depth
        return trial_result(
            "log_growth_variance", squares.mean(), squares.std(ddof=1) / math.sqrt(len(squares))
        )

    def _all_exponents(self, generator: torch.Generator, count: int = 400) -> Measurement:
        """Growth of nested areas: ln of the diagonal of R in W Q = Q' R."""
        basis, logs = np.eye(self.width), []
        for w in self.layers(generator, count):
            basis, triangle = np.linalg.qr(w @ basis)
            logs.append(np.log(np.abs(np.diag(triangle))))
        found = np.array(logs)
        return trial_result("exponents", found.mean(0), found.std(0, ddof=1) / math.sqrt(count))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Growth along nested directions, the mean of 30 networks, with the lines that Newman's exponents predict."""
        axes = figure.add_subplot()
        source, depths, chains = self.generator(), np.arange(1, 41), 30
        bases, logs = np.repeat(np.eye(self.width)[None], chains, axis=0), []
        for _ in depths:
            bases, triangles = np.linalg.qr(self.layers(source, chains) @ bases)
            logs.append(np.log(np.abs(np.einsum("cii->ci", triangles))).mean(0))
        grown = np.exp(np.cumsum(logs, axis=0))
        for k, mu in enumerate(self.exponents[:4]):
            (line,) = axes.semilogy(depths, grown[:, k], "o", ms=3, label=f"direction {k + 1}")
            axes.semilogy(depths, np.exp(mu * depths), color=line.get_color(), lw=1)
        axes.set(xlabel="depth (layers)", ylabel="typical growth of the signal", title=self.title)
        axes.legend(title="lines: theory")


def _stretched(toy: DeepGaussianChain) -> Objective:
    return toy.other.objective()


TOY = DeepGaussianChain
