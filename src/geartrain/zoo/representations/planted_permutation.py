"""# A network and its disguise: permuted, flipped, rescaled

Exchange two hidden units together with their wires and the function stays what it was. With tanh one may also flip the sign of
a unit (in and out), with ReLU multiply what goes in by a > 0 and divide what comes out. So every network sits in a huge
family of disguises, and two trained networks that look far apart may be the same.

**Here the disguise is known.** A network f(x) = v·φ(Wx + b) + c and its copy W' = D P W, b' = D P b, v' = v (D P)⁻¹ with a random
permutation P and random signs or scales D. As functions their distance is 0; as points they lie far apart; and the straight
line between them is not constant: it has a barrier, which the right matching of units takes away.

**What is exact.** The data are labelled by the network itself, so the loss of both is 0 and the Hessian is the mean outer product of the
derivatives, which the chain rule gives. Tangent kernels of the copies agree if D only flips signs. A ReLU network with H units
has an orbit of dimension H (its rescalings); a tanh network none.

**What to vary.** Units, activation, disguise, and ``noise`` on the copy's weights: matching finds the planted permutation as long
as the noise is smaller than half the smallest gap between two units' weight vectors.

Sources: Entezari et al. 2021, arXiv:2110.06296; Ainsworth, Hayase, Srinivasa 2022, arXiv:2209.04836. Ledger: T24
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

_SOURCE = "Exchanging, flipping or rescaling units changes the parameters, not the function."
_EXAMPLES = 64


@dataclass(frozen=True)
class PlantedPermutation(Toy):
    """A two-layer network and a disguised copy.

    Attributes:
        inputs: Number of inputs.
        hidden: Number of hidden units, 2 or more.
        activation: "tanh" or "relu".
        disguise: Also flip signs (tanh) or rescale (relu) the units of the copy.
        noise: Spread of what is added to the copy's weights.
        seed: Draws network, data and disguise.
    """

    title: ClassVar[str] = "A network and its disguise"
    ledger: ClassVar[tuple[str, ...]] = ("T24",)

    inputs: int = 4
    hidden: int = 6
    activation: str = "tanh"
    disguise: bool = False
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Refuse networks without a disguise."""
        if self.inputs < 1 or self.hidden < 2:
            raise InputError(f"inputs is {self.inputs} and hidden {self.hidden}; at least 1 and 2 are needed.")
        if self.activation not in {"tanh", "relu"}:
            raise InputError(f"activation is {self.activation!r}; allowed: 'tanh', 'relu'.")
        if not self.noise >= 0:
            raise InputError(f"noise is {self.noise}; it must be 0 or positive.")

    def network(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """W (hidden, inputs), b (hidden,), v with c behind it (hidden + 1,)."""
        source = self.generator()
        weight = torch.randn(self.hidden, self.inputs, generator=source, dtype=torch.float64).numpy()
        bias = 0.3 * torch.randn(self.hidden, generator=source, dtype=torch.float64).numpy()
        out = torch.randn(self.hidden + 1, generator=source, dtype=torch.float64).numpy()
        return weight, bias, out

    def planted(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit of the network that each unit of the copy is, and the factor of what goes into it."""
        source = torch.Generator().manual_seed(self.seed + 1)
        order = torch.randperm(self.hidden, generator=source)
        while bool((order == torch.arange(self.hidden)).all()):
            order = torch.randperm(self.hidden, generator=source)
        u = torch.rand(self.hidden, generator=source, dtype=torch.float64).numpy()
        factors = np.where(u < 0.5, -1.0, 1.0) if self.activation == "tanh" else 0.5 + 1.5 * u
        return order.numpy(), factors if self.disguise else np.ones(self.hidden)

    def copy(self) -> np.ndarray:
        """Parameters of the copy, flat."""
        weight, bias, out = self.network()
        order, factors = self.planted()
        parts = [factors[:, None] * weight[order], factors * bias[order], np.append(out[order] / factors, out[-1])]
        flat = np.concatenate([p.ravel() for p in parts])
        source = torch.Generator().manual_seed(self.seed + 2)
        return flat + self.noise * torch.randn(len(flat), generator=source, dtype=torch.float64).numpy()

    def data(self) -> np.ndarray:
        """Inputs, shape (64, inputs)."""
        source = torch.Generator().manual_seed(self.seed + 3)
        return torch.randn(_EXAMPLES, self.inputs, generator=source, dtype=torch.float64).numpy()

    def make_objective(self) -> Objective:
        """½ mean (f - y)² with y from the network itself: 0."""
        model = nn.Sequential(
            nn.Linear(self.inputs, self.hidden),
            nn.Tanh() if self.activation == "tanh" else nn.ReLU(),
            nn.Linear(self.hidden, 1),
        ).double()
        flat = np.concatenate([p.ravel() for p in self.network()])
        nn.utils.vector_to_parameters(torch.from_numpy(flat), model.parameters())
        x = torch.from_numpy(self.data())
        with torch.no_grad():
            return Objective(model, half_square, (x, model(x)))

    def outputs(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs and Jacobian on the data, by the chain rule, for any parameters."""
        h, d = self.hidden, self.inputs
        parts = flat[: h * d].reshape(h, d), flat[h * d : h * d + h], flat[h * d + h :]
        return _matrices.two_layers(self.data(), *parts, tanh=self.activation == "tanh")

    def truths(self) -> dict[str, Truth]:
        """The network's own curvature and kernel, and its relations to the copy."""
        h, d = self.hidden, self.inputs
        weight, bias, out = self.network()
        here, there = np.concatenate([p.ravel() for p in (weight, bias, out)]), self.copy()
        (f, jacobian), (g, jacobian_there) = self.outputs(here), self.outputs(there)
        hessian = np.einsum("nap,naq->pq", jacobian, jacobian) / len(f)
        sizes = [h * d + h, h + 1]
        norms = np.array([np.linalg.norm(here[: sizes[0]]), np.linalg.norm(here[sizes[0] :])])
        kernel, kernel_there = (np.einsum("iap,jap->ij", j, j) for j in (jacobian, jacobian_there))
        predicted = f + (jacobian[:, 0] @ (there - here))
        pair = {"other": _copy, "source": _SOURCE}
        truths = {
            "matched_units": Truth(1.0, source=_SOURCE, trial=self.match),
            "function_distance": Truth(
                float(np.linalg.norm(f - g) / np.sqrt(0.5 * (f @ f + g @ g))), tolerance=1e-7, **pair
            ),
            "prediction_disagreement": Truth(float(((f - g) ** 2).mean() / f.var()), tolerance=1e-7, **pair),
            "distance_from_init": Truth(float(np.linalg.norm(here - there)), other=_copy, source="Definition."),
            "ntk_drift": Truth(
                float(np.linalg.norm(kernel - kernel_there) / np.linalg.norm(kernel_there)), tolerance=1e-7, **pair
            ),
            "linear_connectivity": Truth(self.barrier(here, there), tolerance=1e-7, strict=True, **pair),
            "weight_norm": Truth(norms, source="Definition."),
            "weight_rank.largest": Truth(
                np.array([np.linalg.norm(weight, 2), np.linalg.norm(out[:-1])]), reading="largest", source="Definition."
            ),
            "symmetry_orbit_dimension": Truth(
                float(h) if self.activation == "relu" else 0.0, source="ReLU units can be rescaled, tanh units cannot."
            ),
            "parameter_symmetry": Truth(0.0, source="Random units are no copies of one another."),
            "label_disagreement_floor": Truth(0.0, source="No input occurs twice."),
            "missing_biases": Truth(0.0, source="By construction."),
            "target_scale": Truth(max(f.std(), abs(f.mean())), tolerance=0.02, source="Definition (n or n - 1)."),
            "constant_loss": Truth(0.5 * float(f.var()), tolerance=1e-5, source="Variance of the targets."),
            **_matrices.curvature_truths(hessian, layers=sizes, source="The loss is 0: H = JᵀJ/n by the chain rule."),
            **_matrices.kernel_truths(jacobian, f[:, None]),
        }
        if self.noise == 0 and not self.disguise:
            truths["permuted_barrier"] = Truth(0.0, tolerance=1e-9, **pair)
            truths["representation_similarity"] = Truth(
                np.ones(3), **pair, tolerance=1e-6, strict=True
            )
        if np.linalg.norm(f - g) > 1e-6 * np.linalg.norm(f):
            error = float(np.linalg.norm(f - predicted) / np.linalg.norm(f - g))
            _ = error
        if self.activation == "tanh":
            after = np.tanh(self.data() @ weight.T + bias)
            truths["saturated_units"] = Truth(float((1 - after**2 < 0.05).mean()), source="Slope 1 - tanh².")
            truths["dead_units"] = Truth(np.nan, source="tanh has a slope everywhere.")
        else:
            active = self.data() @ weight.T + bias > 0
            truths["dead_units.inactive_share"] = Truth(
                float((~active).mean()), reading="inactive_share", source="Definition."
            )
            truths["saturated_units"] = Truth(np.nan, source="ReLU does not saturate.")
        return truths

    def barrier(self, here: np.ndarray, there: np.ndarray) -> float:
        """Largest excess over the chord at 11 points of the straight line, from the formula of the network."""
        y = self.outputs(here)[0]

        def loss(t: float) -> float:
            return 0.5 * float(((self.outputs((1 - t) * here + t * there)[0] - y) ** 2).mean())

        ends = loss(0.0), loss(1.0)
        return max(loss(t) - (1 - t) * ends[0] - t * ends[1] for t in np.linspace(0, 1, 11))

    def match(self, generator: torch.Generator) -> Measurement:
        """Share of the units that a linear assignment by |cosine| of their weights puts in the planted place."""
        weight, bias, _ = self.network()
        size = self.hidden * self.inputs
        copied = self.copy()
        rows = np.column_stack([weight, bias])
        others = np.column_stack([copied[:size].reshape(weight.shape), copied[size : size + self.hidden]])
        cosines = np.abs(others @ rows.T) / np.outer(np.linalg.norm(others, axis=1), np.linalg.norm(rows, axis=1))
        found = linear_sum_assignment(-cosines)[1]
        return trial_result("matched_units", float((found == self.planted()[0]).mean()))

    def draw(self, figure: Figure) -> None:
        """Loss on the line to the copy, as it is and after matching."""
        weight, bias, out = self.network()
        here, there = np.concatenate([p.ravel() for p in (weight, bias, out)]), self.copy()
        y, t = self.outputs(here)[0], np.linspace(0, 1, 101)
        line = [0.5 * ((self.outputs((1 - s) * here + s * there)[0] - y) ** 2).mean() for s in t]
        axes = figure.add_subplot()
        axes.plot(t, line, label="as they are")
        if self.noise == 0:
            axes.axhline(0.0, color="tab:green", label="units matched")
        axes.set(xlabel="t, from the network to its copy", ylabel="loss", title=f"{self.hidden} {self.activation} units")
        axes.legend()


def _copy(toy: PlantedPermutation) -> Tensor:
    return torch.from_numpy(toy.copy())


TOY = PlantedPermutation
