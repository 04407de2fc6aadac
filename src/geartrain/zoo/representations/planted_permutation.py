r"""A network and its disguise: permuted, flipped, rescaled.

Exchange two hidden units together with their wires and the function stays what it was. With tanh one may also flip the
sign of a unit (in and out); with ReLU multiply what goes in by $a > 0$ and divide what comes out. So every network sits
in a huge family of disguises, and two trained networks that look far apart may be the same: much path dependence in
weight space, little in function space.

**Here the disguise is known.** The network is $f(x) = v\cdot\phi(Wx + b) + c$, its copy

$$W' = DPW, \qquad b' = DPb, \qquad v' = v\,(DP)^{-1},$$

with a random permutation $P$ and, if `disguise` is on, random signs (tanh) or scales (ReLU) $D$. As functions their
distance is 0; as points they lie far apart; and the straight line between them climbs over a barrier, which goes away
when the units are matched first.

**When can the units be matched?** All incoming vectors $u_i = (W_i, b_i)$ have the same length. Noise that moves each
of them by less than half the smallest gap between two of them (signs left out) leaves every unit nearest to its own
original, so the assignment of least total distance is the planted one. `noise` is given as a share of that half gap.
Above 1 nothing is promised.

**What else is exact.** The data are labelled by the network itself: its loss is 0 and the Hessian is the mean outer
product of the output's derivatives, which the chain rule gives. Permutations and flips are orthogonal maps of the
parameters, so the tangent kernel of the copy is the same; scales change it. A ReLU network with $H$ units has an orbit
of dimension $H$ (its scales), a tanh network none (signs are not continuous).

**What to vary.** `activation` and `disguise` (four cases), `hidden`, and `noise` from 0 to 1.

Sources: Entezari et al. 2021, arXiv 2110.06296; Ainsworth, Hayase, Srinivasa 2022, arXiv 2209.04836.
Ledger: 1.13, 1.27.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = "Exchanging, flipping or rescaling units changes the parameters, not the function."
_ZERO_LOSS = "The loss is 0, so H = JᵀJ/n, with J by the chain rule."
_EXAMPLES = 64
_LENGTH = 2.0
"""Of every unit's incoming vector."""
_POINTS = 11
"""Points on the line between the two, the instruments' default."""


@dataclass(frozen=True)
class PlantedPermutation(Toy):
    """A two-layer network and a disguised copy of it.

    Attributes:
        inputs: Number of inputs.
        hidden: Number of hidden units.
        activation: "tanh" or "relu".
        disguise: Also flip signs (tanh) or rescale (relu) the units of the copy.
        noise: How far the copy's incoming vectors are moved, as a share of half the smallest gap between two of them.
    """

    title: ClassVar[str] = "A network and its disguise"
    ledger: ClassVar[tuple[str, ...]] = ("1.13", "1.27")

    inputs: int = 4
    hidden: int = 6
    activation: str = "tanh"
    disguise: bool = False
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.inputs <= 20 or not 2 <= self.hidden <= 30:
            raise InputError(
                f"inputs is {self.inputs}, hidden {self.hidden}; allowed: 1 to 20 inputs and 2 to 30 units."
            )
        if self.activation not in {"tanh", "relu"}:
            raise InputError(f"activation is {self.activation!r}; allowed: 'tanh', 'relu'. Choose one.")
        if not 0 <= self.noise < 1:
            raise InputError(
                f"noise is {self.noise}; allowed: from 0 to below 1. From 1 on units may be mistaken for others."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def network(self) -> tuple[np.ndarray, np.ndarray]:
        """Incoming vectors (W, b) with shape (hidden, inputs + 1), and v with c behind it."""
        source = self.generator()
        rows = torch.randn(self.hidden, self.inputs + 1, generator=source, dtype=torch.float64).numpy()
        out = torch.randn(self.hidden + 1, generator=source, dtype=torch.float64).numpy()
        return _LENGTH * rows / np.linalg.norm(rows, axis=1, keepdims=True), out

    @cached_property
    def half_gap(self) -> float:
        """Half the smallest distance between two incoming vectors, signs left out."""
        rows, _ = self.network
        pairs = rows[:, None] + np.array([1, -1])[:, None, None, None] * rows[None]
        distances = np.linalg.norm(pairs, axis=-1).min(0)
        return float(distances[np.triu_indices(self.hidden, 1)].min()) / 2

    @cached_property
    def planted(self) -> tuple[np.ndarray, np.ndarray]:
        """The unit that each unit of the copy is, and the factor of what goes into it."""
        source = torch.Generator().manual_seed(self.seed + 1)
        order = torch.randperm(self.hidden, generator=source)
        while bool((order == torch.arange(self.hidden)).all()):
            order = torch.randperm(self.hidden, generator=source)
        u = torch.rand(self.hidden, generator=source, dtype=torch.float64).numpy()
        factors = np.where(u < 0.5, -1.0, 1.0) if self.activation == "tanh" else 0.5 + 1.5 * u
        return order.numpy(), factors if self.disguise else np.ones(self.hidden)

    @cached_property
    def moved(self) -> np.ndarray:
        """What noise adds to each incoming vector, before the disguise; shape (hidden, inputs + 1)."""
        source = torch.Generator().manual_seed(self.seed + 2)
        shift = torch.randn(self.hidden, self.inputs + 1, generator=source, dtype=torch.float64).numpy()
        return self.noise * self.half_gap * shift / np.linalg.norm(shift, axis=1, keepdims=True)

    def flat(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Parameters in the order of the model: W, b, v, c."""
        return np.concatenate([rows[:, :-1].ravel(), rows[:, -1], out])

    @cached_property
    def here(self) -> np.ndarray:
        """Parameters of the network."""
        return self.flat(*self.network)

    @cached_property
    def there(self) -> np.ndarray:
        """Parameters of the copy."""
        (rows, out), (order, factors) = self.network, self.planted
        return self.flat(
            factors[:, None] * (rows + self.moved)[order], np.append(out[order] / factors, out[-1])
        )

    @cached_property
    def data(self) -> np.ndarray:
        """Inputs, shape (64, inputs)."""
        source = torch.Generator().manual_seed(self.seed + 3)
        return torch.randn(_EXAMPLES, self.inputs, generator=source, dtype=torch.float64).numpy()

    def make_objective(self) -> Objective:
        """½ mean (f - y)² with y from the network itself: 0."""
        phi = nn.Tanh() if self.activation == "tanh" else nn.ReLU()
        model = nn.Sequential(nn.Linear(self.inputs, self.hidden), phi, nn.Linear(self.hidden, 1)).double()
        nn.utils.vector_to_parameters(torch.from_numpy(self.here.copy()), model.parameters())
        x = torch.from_numpy(self.data)
        with torch.no_grad():
            return Objective(model, half_square, (x, model(x)))

    # ------------------------------------------------------------------ what is known

    def outputs(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs (64,) and Jacobian (64, 1, params) by the chain rule, at any parameters."""
        h, d = self.hidden, self.inputs
        parts = flat[: h * d].reshape(h, d), flat[h * d : h * d + h], flat[h * d + h :]
        return _matrices.two_layers(self.data, *parts, tanh=self.activation == "tanh")

    def truths(self) -> dict[str, Truth]:
        """The network's own curvature and kernel, and its relations to the copy."""
        sizes = [self.hidden * (self.inputs + 1), self.hidden + 1]
        f, jacobian = self.outputs(self.here)
        hessian = np.einsum("nap,naq->pq", jacobian, jacobian) / len(f)
        return {
            "matched_units": Truth(1.0, source="Noise below half the smallest gap.", trial=self._match),
            **_matrices.curvature_truths(hessian, layers=sizes, source=_ZERO_LOSS),
            **_matrices.kernel_truths(jacobian, f[:, None]),
            **self._pair_truths(),
            **self._network_truths(f),
            **self._unit_truths(),
        }

    def _pair_truths(self) -> dict[str, Truth]:
        """What separates the network from its copy."""
        (f, j), (g, k) = self.outputs(self.here), self.outputs(self.there)
        kernel, other = (np.einsum("iap,jap->ij", m, m) for m in (j, k))
        drift = float(np.linalg.norm(kernel - other) / np.linalg.norm(other))
        scale = float(np.sqrt(0.5 * (f @ f + g @ g)))
        values = {
            "function_distance": float(np.linalg.norm(f - g)) / scale,
            "prediction_disagreement": float(((f - g) ** 2).mean() / f.var()),
            "distance_from_init": float(np.linalg.norm(self.here - self.there)),
            "ntk_drift": drift,
            "linear_connectivity": self.barrier(self.there),
        }
        truths = {
            name: Truth(value if value > 1e-10 else 0.0, 1e-7, source=_SOURCE, strict=True, other=_copy)
            for name, value in values.items()
        }
        if np.linalg.norm(f - g) > 1e-6 * scale:
            first = k[:, 0] @ (self.here - self.there)
            truths["linearised_error"] = Truth(
                float(np.linalg.norm(f - g - first) / np.linalg.norm(f - g)),
                source="Definition, by the chain rule.",
                other=_copy,
            )
        if self.noise == 0:
            asked = {"symmetries": "all" if self.disguise else "permutations"}
            truths["permuted_barrier"] = Truth(0.0, 1e-9, source=_SOURCE, other=_copy, options=asked)
            truths["aligned_distance"] = Truth(0.0, 1e-10, source=_SOURCE, trial=self._align)
            if self.activation == "tanh" or not self.disguise:
                truths["representation_similarity"] = Truth(
                    np.ones(3),
                    source="Permutations and flips are rotations of the features.",
                    other=_copy,
                    strict=True,
                )
        return truths

    def _network_truths(self, f: np.ndarray) -> dict[str, Truth]:
        """The network by itself."""
        rows, out = self.network
        spectral = np.array([np.linalg.norm(rows[:, :-1], 2), np.linalg.norm(out[:-1])])
        return {
            "weight_norm": Truth(
                np.array([_LENGTH * np.sqrt(self.hidden), np.linalg.norm(out)]), source="Units of length 2."
            ),
            "weight_rank.largest": Truth(spectral, reading="largest", source="Definition."),
            "symmetry_orbit_dimension": Truth(
                float(self.hidden) if self.activation == "relu" else 0.0,
                source="ReLU units can be rescaled, tanh units cannot.",
            ),
            "parameter_symmetry": Truth(0.0, source="Random units are no copies of one another."),
            "label_disagreement_floor": Truth(0.0, source="No input occurs twice."),
            "missing_biases": Truth(0.0, source="By construction."),
            "target_scale": Truth(float(max(f.std(), abs(f.mean()))), source="Definition."),
            "constant_loss": Truth(0.5 * float(f.var()), 1e-5, source="Variance of the targets."),
        }

    def _unit_truths(self) -> dict[str, Truth]:
        """Which hidden units are at work."""
        rows, _ = self.network
        before = self.data @ rows[:, :-1].T + rows[:, -1]
        if self.activation == "relu":
            silent = Truth(float((before <= 0).mean()), reading="inactive_share", source="Definition.")
            none = Truth(float("nan"), source="ReLU does not saturate.")
            return {"dead_units.inactive_share": silent, "saturated_units": none}
        flat = float((1 - np.tanh(before) ** 2 < 0.05).mean())
        return {
            "saturated_units": Truth(flat, source="Slope 1 - tanh² below 0.05."),
            "dead_units": Truth(float("nan"), source="tanh has a slope everywhere."),
        }

    def barrier(self, there: np.ndarray) -> float:
        """Largest excess over the chord at 11 points of the straight line to parameters, by the network's formula."""
        at = np.linspace(0, 1, _POINTS)
        losses = np.array([self.loss_between(there, t) for t in at])
        return float((losses - (1 - at) * losses[0] - at * losses[-1]).max())

    def loss_between(self, there: np.ndarray, t: float) -> float:
        """Loss on the way to other parameters."""
        f = self.outputs((1 - t) * self.here + t * there)[0]
        return 0.5 * float(((f - self.outputs(self.here)[0]) ** 2).mean())

    # ------------------------------------------------------------------ experiments: matching

    def matched(self) -> np.ndarray:
        """For each unit of the copy the unit that linear assignment by |cosine| of incoming vectors gives it."""
        rows, _ = self.network
        others = self.rows_of(self.there)
        sizes = np.outer(np.linalg.norm(others, axis=1), np.linalg.norm(rows, axis=1))
        return linear_sum_assignment(-np.abs(others @ rows.T) / sizes)[1]

    def rows_of(self, flat: np.ndarray) -> np.ndarray:
        """Incoming vectors (W, b)."""
        h, d = self.hidden, self.inputs
        return np.column_stack([flat[: h * d].reshape(h, d), flat[h * d : h * d + h]])

    def aligned(self) -> np.ndarray:
        """Parameters of the copy after its units were matched and their factors taken out."""
        rows, found = self.network[0], self.matched()
        others, out = self.rows_of(self.there), self.there[-self.hidden - 1 :].copy()
        factors = (others * rows[found]).sum(1) / (rows[found] ** 2).sum(1)
        back, weights = np.empty_like(rows), out.copy()
        back[found], weights[:-1][found] = others / factors[:, None], out[:-1] * factors
        return self.flat(back, weights)

    def _match(self, generator: torch.Generator) -> Measurement:
        return trial_result("matched_units", float((self.matched() == self.planted[0]).mean()))

    def _align(self, generator: torch.Generator) -> Measurement:
        return trial_result("aligned_distance", float(np.linalg.norm(self.aligned() - self.here)))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Loss on the line to the copy, as it is and after matching."""
        axes, t = figure.add_subplot(), np.linspace(0, 1, 101)
        for there, label in ((self.there, "units as they are"), (self.aligned(), "units matched")):
            axes.plot(t, [self.loss_between(there, float(s)) for s in t], label=label)
        axes.set(xlabel="t, from the network (0) to its copy (1)", ylabel="loss (ℓ)")
        axes.set_title(f"{self.title}: {self.hidden} {self.activation} units")
        axes.legend()


def _copy(toy: PlantedPermutation) -> Tensor:
    return torch.from_numpy(toy.there)


TOY = PlantedPermutation
