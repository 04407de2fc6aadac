r"""The landscape of principal components: saddles of every index, and no bad minimum.

$L(W_1, W_2) = \tfrac12 \lVert M - W_2 W_1 \rVert_F^2$ with a hidden layer narrower than $M$: the linear autoencoder,
and matrix factorisation. It is the best understood landscape that is not convex, and the model case for the claim
that *local minima are rare while saddles are everywhere*.

**Critical points.** Both gradients, $(W_2W_1 - M) W_1^\top$ and $W_2^\top (W_2W_1 - M)$, vanish if and only if
$W_2 W_1 = \sum_{i\in J} s_i u_i v_i^\top$ for a set $J$ of at most $h$ singular directions of $M$: the net has learnt
some components, each completely, and knows nothing of the others. The loss there is $\tfrac12\sum_{i\notin J} s_i^2$.

**How many ways down?** Take the canonical point: $W_2$ has columns $\sqrt{s_i}u_i$, $W_1$ rows $\sqrt{s_i}v_i^\top$
for $i \in J$, and $h - |J|$ hidden units are silent. In this basis the Hessian falls into small blocks:

* a learnt $i$ against an unlearnt $j$ mixes $(W_2)_{ji}$ with $(W_1)_{ij}$:
  $\begin{pmatrix} s_i & -s_j\\ -s_j & s_i\end{pmatrix}$, eigenvalues $s_i \pm s_j$: negative if the better component
  is missing;
* a silent unit against an unlearnt $j$: eigenvalues $\pm s_j$, negative for each pair.

So the index is $\#\{i \in J, j \notin J: s_j > s_i\} + (h - |J|)\,\#\{j \notin J\}$, which is 0 only for the $h$
largest components. Every other critical point is a strict saddle.

**Flat directions.** $W_2 \to W_2 R^{-1}, W_1 \to R W_1$ changes nothing. With $k = |J|$ learnt components of $m$ the
function has $2mk - k^2$ directions to first order; all other parameters are silent there.

**What to vary.** `learnt` (the set $J$, as places in the list of singular values: () is the worst saddle, (0, 1, ...,
h-1) the minimum), `strengths` (near-equal ones make near-flat saddles) and `hidden`.

Sources: Baldi, Hornik 1989 (Neural Networks 2:53); Kawaguchi 2016, arXiv 1605.07110.
Ledger: 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._chain import LinearChain, chain_truths, pair_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = (
    "Critical points are sets of singular directions; Baldi, Hornik 1989; Kawaguchi 2016, arXiv 1605.07110."
)


@dataclass(frozen=True)
class PcaLandscape(Toy):
    """½‖M - W₂W₁‖² at one of its critical points.

    Attributes:
        strengths: Singular values of M, distinct, the largest first.
        hidden: Width h of the hidden layer, below their number.
        learnt: The set J of components learnt at the point in question, as places in ``strengths``.
    """

    title: ClassVar[str] = "Landscape of principal components"
    ledger: ClassVar[tuple[str, ...]] = ("0.1",)

    strengths: tuple[float, ...] = (4.0, 3.0, 2.0, 1.0)
    hidden: int = 3
    learnt: tuple[int, ...] = (0, 2)

    def __post_init__(self) -> None:
        gaps = -np.diff(self.strengths)
        if len(self.strengths) < 2 or min(self.strengths) <= 0 or gaps.min() <= 0:
            raise InputError(
                f"strengths are {self.strengths}; allowed: two or more positive numbers, the largest first, no two "
                "equal."
            )
        if not 1 <= self.hidden < len(self.strengths):
            raise InputError(
                f"hidden is {self.hidden}; allowed: 1 to {len(self.strengths) - 1}, fewer than there are strengths."
            )
        inside = all(0 <= i < len(self.strengths) for i in self.learnt)
        if not inside or len(set(self.learnt)) != len(self.learnt) or len(self.learnt) > self.hidden:
            raise InputError(
                f"learnt is {self.learnt}; allowed: at most {self.hidden} different places from 0 to "
                f"{len(self.strengths) - 1}."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def bases(self) -> tuple[np.ndarray, np.ndarray]:
        """U and V, random orthogonal matrices."""
        generator, m = self.generator(), len(self.strengths)
        draws = [torch.randn(m, m, generator=generator, dtype=torch.float64).numpy() for _ in range(2)]
        return np.linalg.qr(draws[0])[0], np.linalg.qr(draws[1])[0]

    @cached_property
    def at_point(self) -> LinearChain:
        """The network at the canonical critical point.

        The data are ±√m times the vectors of two orthonormal bases: their second moments are the identity, so that the
        mean of ½‖(W₂W₁ - M)x‖² is the loss above.
        """
        (u, v), m = self.bases, len(self.strengths)
        first, second = np.zeros((self.hidden, m)), np.zeros((m, self.hidden))
        for unit, i in enumerate(self.learnt):
            first[unit] = np.sqrt(self.strengths[i]) * v[:, i]
            second[:, unit] = np.sqrt(self.strengths[i]) * u[:, i]
        turned = np.linalg.qr(np.cos(np.outer(np.arange(1, m + 1), np.arange(m) + 0.5)))[0]
        x = np.sqrt(m) * np.concatenate([np.eye(m), -np.eye(m), turned, -turned])
        return LinearChain(x, x @ (u @ np.diag(self.strengths) @ v.T).T, (first, second))

    @cached_property
    def minimum(self) -> PcaLandscape:
        """The same landscape at its global minimum."""
        return replace(self, learnt=tuple(range(self.hidden)))

    def make_objective(self) -> Objective:
        """The loss at the critical point."""
        return self.at_point.objective()

    # ------------------------------------------------------------------ what is known

    @property
    def missing(self) -> tuple[int, ...]:
        """Components that are not learnt."""
        return tuple(j for j in range(len(self.strengths)) if j not in self.learnt)

    @property
    def loss(self) -> float:
        """½ Σ s² over what is not learnt."""
        return 0.5 * sum(self.strengths[j] ** 2 for j in self.missing)

    @property
    def index(self) -> int:
        """Number of negative directions."""
        swaps = sum(self.strengths[j] > self.strengths[i] for i in self.learnt for j in self.missing)
        return swaps + (self.hidden - len(self.learnt)) * len(self.missing)

    @property
    def eigenvalues(self) -> np.ndarray:
        """Of the Hessian, the largest first: one pair for each pair of a hidden unit and a direction of M."""
        s, silent = self.strengths, self.hidden - len(self.learnt)
        found: list[float] = []
        for i in self.learnt:
            for j in self.missing:
                found += [s[i] + s[j], s[i] - s[j]]
            # (W₂)_{ji} and (W₁)_{kj} for the unit k of j: one curved direction, one flat
            for j in self.learnt:
                found += [s[i] + s[j], 0.0]
        for _ in range(silent):
            for j in self.missing:
                found += [s[j], -s[j]]
            found += [0.0, 0.0] * len(self.learnt)
        return np.sort(found)[::-1]

    def truths(self) -> dict[str, Truth]:
        """Spectrum, index, loss and flat directions at the critical point."""
        k, m = len(self.learnt), len(self.strengths)
        truths = chain_truths(self.at_point)
        if k and self.index:
            truths |= pair_truths(self.at_point, self.minimum.at_point, _at_minimum)
        truths.pop("signal_to_noise", None)  # the first layer's gradient is zero for every example: 0/0
        if not k:
            truths.pop("input_affinity")  # a network of zeros has no variation to compare with
        every = {"k": len(self.eigenvalues), "tol": 1e-8, "confirm": True}
        known: dict[str, Any] = {
            "source": _SOURCE,
            "assumptions": "The canonical (balanced) point of the set.",
        }
        own = {
            "hessian_spectrum": Truth(self.eigenvalues, 1e-6, options=every, **known),
            "hessian_spectrum.index": Truth(
                float(self.index),
                0.0,
                reading="smallest",
                options={**every, "num_smallest": min(self.index + 2, len(self.eigenvalues))},
                extract=lambda smallest: (smallest < -1e-6 * self.strengths[0]).sum(),
                **known,
            ),
            "hessian_trace": Truth(float(self.eigenvalues.sum()), **known),
            "hessian_density.negative_mass": Truth(
                self.index / len(self.eigenvalues), 1e-3, reading="negative_mass", **known
            ),
            "negative_curvature": Truth(self.eigenvalues[-1:], options={"k": 1, "tol": 1e-8}, **known),
            "symmetry_orbit_dimension": Truth(float(2 * m * self.hidden - 2 * m * k + k**2), 0.0, **known),
            "loss": Truth(self.loss, 1e-9, trial=self._loss_at_point, **known),
            "indices": Truth(np.array(self._all_indices()), 0.0, trial=self._count_negative, **known),
        }
        if k:
            own["jacobian_rank"] = Truth(float(2 * m * k - k**2), 0.0, **known)
        return truths | own

    def subsets(self) -> list[tuple[int, ...]]:
        """All sets of at most h components: all critical points."""
        places = range(len(self.strengths))
        return [j for k in range(self.hidden + 1) for j in combinations(places, k)]

    def _all_indices(self) -> list[float]:
        return [float(replace(self, learnt=j).index) for j in self.subsets()]

    def _loss_at_point(self, generator: torch.Generator) -> Measurement:
        return trial_result("loss", float(self.objective.value()))

    def _count_negative(self, generator: torch.Generator) -> Measurement:
        """Negative eigenvalues of the whole Hessian, product by product, at every critical point."""
        counts = []
        for j in self.subsets():
            objective = replace(self, learnt=j).objective
            hessian = objective.hvp(torch.eye(objective.num_params, dtype=torch.float64)).numpy()
            values = np.linalg.eigvalsh((hessian + hessian.T) / 2)
            counts.append(float((values < -1e-9 * self.strengths[0]).sum()))
        return trial_result("indices", np.array(counts))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Loss against index over all critical points: the higher the loss, the more ways down."""
        axes = figure.add_subplot()
        for j in self.subsets():
            point = replace(self, learnt=j)
            axes.plot(point.index, point.loss, "o", color="C0")
            axes.annotate("{" + ",".join(str(i + 1) for i in j) + "}", (point.index, point.loss), fontsize=7)
        axes.plot(self.index, self.loss, "o", color="C3", label="measured here")
        axes.plot(0, self.minimum.loss, "*", ms=14, color="C2", label="the only minimum")
        axes.set(xlabel="index (negative directions)", ylabel="loss (ℓ)", title=f"{self.title}: all sets J")
        axes.legend()


def _at_minimum(toy: PcaLandscape) -> Objective:
    return toy.minimum.objective


TOY = PcaLandscape
