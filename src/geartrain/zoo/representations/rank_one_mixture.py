r"""A matrix that is many small machines: rank-one components, more of them than rows.

$W = \sum_{c\le C} u_c v_c^\top$ is a sum of $C$ rank-one components. Component $c$ reads the direction $v_c$ and
writes the direction $u_c$. Inputs are sparse, $x = \sum_c g_c a_c v_c$ with gates $g_c$ that are open with
probability $q$: any one input needs about $qC$ components out of all, although $W$ itself is a full matrix with no
trace of its parts. Finding them from $W$ and data is what *parameter decomposition* is for; here they are planted.

**Attributions add up.** For a scalar output $f$, $A_c = \langle \partial f/\partial W, u_c v_c^\top\rangle$ is what
component $c$ contributes to first order, and $\sum_c A_c = \langle\partial f/\partial W, W\rangle$ exactly, because
the inner product is linear. Where $f$ is homogeneous of degree one in $W$ (no nonlinearity, or one ReLU) that is
$f$ itself.

**How many components does an input need?** As many as it has open gates. Fewer would mean that the $v_c$ of the
open gates and those of the smaller set depend on one another linearly; any $d$ of the random directions are
independent, so this cannot be while both sets together number at most $d$. The description of an input is as short
as its gates.

**How the parts can be found.** An input with one open gate points exactly along its $v_c$, and its target along
$u_c$. Among many inputs such directions come again and again, while mixtures of two never repeat: pairs of
directions that occur at least three times are the components.

**The instruments** see the linear model $f = W_0 x$ with $W_0$ a `share` of $W$, on a fixed sample with targets
$y = \sum_c g_c a_c u_c$. It is linear in $W_0$, so the Hessian is $1 \otimes E[xx^\top]$. The targets are not $Wx$:
the $v_c$ are not orthogonal, and what one component reads of another's input is *interference*.

**What to vary.** `components` beyond `dimension` (superposition), `gates` (dense inputs hide the parts).

Sources: Braun et al. 2025, arXiv 2501.14926; Bushnaq, Braun, Sharkey 2025, arXiv 2506.20790.
Ledger: 2.8.
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
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._linear import LinearModel
from geartrain.zoo.representations._readout import readout_truths, stable_step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXAMPLES = 60
_REPEATS = 3
"""Times that a direction must occur to count as a component."""


@dataclass(frozen=True)
class RankOneMixture(Toy):
    """A linear map planted as a sum of rank-one components.

    Attributes:
        dimension: Of inputs and outputs.
        components: C.
        gates: Mean number of open gates, qC.
        share: The model's weights are this share of W.
        samples: Inputs that the trials draw.
    """

    title: ClassVar[str] = "A mixture of rank-one machines"
    ledger: ClassVar[tuple[str, ...]] = ("2.8",)

    dimension: int = 32
    components: int = 64
    gates: float = 2.0
    share: float = 0.5
    samples: int = 4000

    def __post_init__(self) -> None:
        if not 4 <= self.dimension <= 40 or not 4 <= self.components <= 2 * self.dimension:
            raise InputError(
                f"dimension is {self.dimension}, components {self.components}; allowed: 4 to 40, and 4 to twice that. "
                "More directions do not come apart."
            )
        if not 0.5 <= self.gates <= 4 or self.gates > self.components / 2 or not 0 < self.share <= 1:
            raise InputError(
                f"gates is {self.gates}, share {self.share}; allowed: ½ to 4 but at most half of the components, and "
                "above 0 up to 1."
            )
        if self.samples < 1000:
            raise InputError(f"samples is {self.samples}; allowed: 1000 or more, for components to repeat.")

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """The u's and the v's: unit rows, shape (components, dimension), pairwise |cosine| below ½."""
        source = self.generator()
        u = repelled(self.components, self.dimension, source)
        return u, repelled(self.components, self.dimension, source)

    @property
    def weight(self) -> np.ndarray:
        """W, shape (dimension, dimension)."""
        u, v = self.parts
        return u.T @ v

    def draws(self, count: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (count, dimension) and amplitudes g_c a_c (count, components), a_c uniform on [½, 1½]."""
        opened = torch.rand(count, self.components, generator=generator, dtype=torch.float64)
        sizes = 0.5 + torch.rand(count, self.components, generator=generator, dtype=torch.float64)
        active = ((opened < self.gates / self.components) * sizes).numpy()
        return active @ self.parts[1], active

    @cached_property
    def linear(self) -> LinearModel:
        """Inputs with at least one open gate, their targets, and the model W₀ = share·W."""
        x, active = self.draws(20 * _EXAMPLES, torch.Generator().manual_seed(self.seed + 7))
        chosen = np.flatnonzero(active.any(1))[:_EXAMPLES]
        return LinearModel(x[chosen], active[chosen] @ self.parts[0], self.share * self.weight)

    def make_objective(self) -> Objective:
        """½ mean ‖W₀x - y‖²."""
        return self.linear.objective()

    def make_run(self) -> Run:
        """Full-batch gradient descent; an epoch is a step."""
        return self.linear.run(stable_step(self.linear))

    # ------------------------------------------------------------------ what is known

    def truths(self) -> dict[str, Truth]:
        """Additivity, open gates, recovery; the linear model."""
        truths = readout_truths(self.linear, _silent, _fitted)
        spectrum = truths["hessian_spectrum"]
        # Every eigenvalue comes once for each output: finding all copies takes a search for each.
        patient = replace(spectrum, options={**spectrum.options, "budget": 5000})
        return {
            **truths,
            "hessian_spectrum": patient,
            "additivity": Truth(0.0, 1e-12, source="The inner product is linear.", trial=self._additivity),
            "components_needed": Truth(
                np.array([0.0, 1.0, 2.0]),
                0.0,
                "Directions in general position.",
                "Any d of the v's are linearly independent.",
                trial=self._needed,
            ),
            "recovered": Truth(1.0, 0.05, source="Inputs with a single gate repeat.", trial=self._recover),
        }

    def _additivity(self, generator: torch.Generator) -> Measurement:
        """Larger of the relative gaps of Σ_c A_c from ⟨∂f/∂W, W⟩ and from f, for f = Σ relu(Wx)."""
        x = torch.from_numpy(self.draws(50, generator)[0])
        w = torch.from_numpy(self.weight).requires_grad_()
        f = torch.relu(x @ w.T).sum()
        (gradient,) = torch.autograd.grad(f, w)
        u, v = self.parts
        attributions = np.einsum("ca,ab,cb->c", u, gradient.numpy(), v)
        whole = float((gradient.numpy() * self.weight).sum()), float(f.detach())
        gaps = [abs(attributions.sum() - other) for other in whole]
        return trial_result("additivity", max(gaps) / abs(attributions).sum())

    def _needed(self, generator: torch.Generator) -> Measurement:
        """Fewest components that make up an input with 0, 1 and 2 open gates, by trying every one and every pair.

        3 stands for more than two; the mean over inputs is taken.
        """
        x, active = self.draws(self.samples, generator)
        v = self.parts[1]
        first, second = np.triu_indices(self.components, 1)
        overlap = (v @ v.T)[first, second]
        found = []
        for gates in range(3):
            some = x[(active > 0).sum(1) == gates][:100]
            squares, reads = (some**2).sum(1), some @ v.T
            a, b = reads[:, first], reads[:, second]
            best = [
                np.zeros(len(some)),
                (reads**2).max(1),
                ((a**2 + b**2 - 2 * overlap * a * b) / (1 - overlap**2)).max(1),
            ]
            explained = np.stack(best) >= squares - 1e-9 * (squares + 1e-3)
            found.append(np.where(explained.any(0), explained.argmax(0), 3).mean())
        return trial_result("components_needed", np.array(found))

    def _recover(self, generator: torch.Generator) -> Measurement:
        """Mean best |cosine| of the planted u_c v_cᵀ with the pairs of directions that occur at least three times."""
        x, active = self.draws(self.samples, generator)
        y = active @ self.parts[0]
        kept = active.any(1)
        reads, writes = (m[kept] / np.linalg.norm(m[kept], axis=1, keepdims=True) for m in (x, y))
        repeated = (reads @ reads.T > 1 - 1e-9).sum(1) >= _REPEATS
        if not repeated.any():
            return trial_result("recovered", 0.0)
        u, v = self.parts
        return trial_result(
            "recovered", np.abs((u @ writes[repeated].T) * (v @ reads[repeated].T)).max(1).mean()
        )

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The matrix, and the overlaps of what its components read."""
        left, right = figure.subplots(1, 2)
        top = float(np.abs(self.weight).max())
        shown = left.imshow(self.weight, cmap="RdBu", vmin=-top, vmax=top)
        left.set(title="W", xlabel="input", ylabel="output")
        figure.colorbar(shown, ax=left, shrink=0.7).ax.set(xlabel="scale", ylabel="weight")
        shown = right.imshow(np.abs(self.parts[1] @ self.parts[1].T), cmap="viridis", vmin=0, vmax=1)
        right.set(title="directions read", xlabel="component", ylabel="component")
        figure.colorbar(shown, ax=right, shrink=0.7).ax.set(xlabel="scale", ylabel="|cosine|")


def repelled(count: int, dimension: int, generator: torch.Generator) -> np.ndarray:
    """Random unit rows, pushed apart until every pairwise |cosine| is below ½.

    Raises:
        InputError: They do not come apart.
    """
    rows = torch.randn(count, dimension, generator=generator, dtype=torch.float64).numpy()
    for _ in range(2000):
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = rows @ rows.T - np.eye(count)
        if np.abs(cosines).max() < 0.5:
            return rows
        rows = rows - 0.5 * (np.sign(cosines) * np.maximum(np.abs(cosines) - 0.4, 0)) @ rows
    raise InputError(
        f"{count} unit vectors in {dimension} dimensions did not come apart; use fewer components."
    )


def _silent(toy: RankOneMixture) -> Objective:
    return toy.linear.objective(np.zeros_like(toy.linear.weights))


def _fitted(toy: RankOneMixture) -> Objective:
    return toy.linear.objective(toy.linear.minimum)


TOY = RankOneMixture
