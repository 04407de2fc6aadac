r"""Rescaling a ReLU network: the same function, as sharp or as flat as you like.

A two-layer net without biases, $f(x) = w_2 \cdot \mathrm{relu}(W_1 x)$. Since $\mathrm{relu}(\alpha z) = \alpha\,
\mathrm{relu}(z)$ for $\alpha > 0$, the map $W_1 \to \alpha W_1,\ w_2 \to w_2/\alpha$ leaves the function alone. It
does not leave curvature alone. Whoever says that flat minima generalise has to say *which* flatness.

**Derivation.** Let $T_\alpha = \mathrm{diag}(\alpha I, \alpha^{-1} I)$, so that $L(T_\alpha\theta) = L(\theta)$.
Differentiate twice: $H(T_\alpha\theta) = T_\alpha^{-1} H(\theta)\, T_\alpha^{-1}$. Block by block

$$H_{11} \to \alpha^{-2} H_{11},\qquad H_{12} \to H_{12},\qquad H_{22} \to \alpha^2 H_{22},$$

hence $\lambda_{max} \ge \alpha^2 \lambda_{max}(H_{22})$ and $\lambda_{max}/\alpha^2 \to \lambda_{max}(H_{22})$. The
trace is $\alpha^{-2}\,\mathrm{tr} H_{11} + \alpha^2\,\mathrm{tr} H_{22}$, anything from its least value upward.

**What does not move.** The function and its losses, the derivative in the input, the rank of the Jacobian, the
orbit's dimension (one direction for each hidden unit: every unit can be rescaled by itself), and any curvature that
is measured in units of the parameters themselves, such as the Hessian in $\ln|\theta|$:
$\sum_i \theta_i^2 H_{ii}$ is the same for every $\alpha$.

**Written down by hand.** With the slopes $m_{ni} = [ (W_1x_n)_i > 0 ]$ an example's output has derivatives
$w_{2,i}\, m_{ni}\, x_n$ in row $i$ of $W_1$ and $\mathrm{relu}(W_1x_n)_i$ in $w_{2,i}$; the only second derivative of
$f$ is $m_{ni} x_n$, between row $i$ and $w_{2,i}$.

**What to vary.** `scale` ($\alpha$: 1 is balanced only by chance, 10 makes one layer a hundred times sharper),
`hidden`, `inputs`, `examples`.

Sources: Dinh, Pascanu, Bengio, Bengio 2017, arXiv 1703.04933; Kwon et al. 2021, arXiv 2102.11600 (adaptive
sharpness).
Ledger: 3.22.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._chain import effective_rank
from geartrain.zoo._losses import half_square
from geartrain.zoo._matrices import curvature_truths, example_truths, kernel_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = "H(Tθ) = T⁻¹ H(θ) T⁻¹ for a symmetry T of the loss; Dinh et al. 2017, arXiv 1703.04933."


@dataclass(frozen=True)
class ReluRescaling(Toy):
    """A two-layer ReLU network with its first layer scaled by α and its second by 1/α.

    Attributes:
        scale: α.
        inputs: Number of inputs.
        hidden: Number of hidden units.
        examples: Number of random points.
    """

    title: ClassVar[str] = "Rescaling a ReLU network"
    ledger: ClassVar[tuple[str, ...]] = ("3.22",)

    scale: float = 2.0
    inputs: int = 3
    hidden: int = 4
    examples: int = 50

    def __post_init__(self) -> None:
        if not 1e-3 <= self.scale <= 1e3:
            raise InputError(f"scale is {self.scale}; allowed: 0.001 to 1000. Beyond, rounding decides.")
        if self.inputs < 1 or self.hidden < 1 or not 8 <= self.examples <= 100:
            raise InputError(
                f"inputs, hidden and examples are {self.inputs}, {self.hidden} and {self.examples}; allowed: at least "
                "1, at least 1, and 8 to 100."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def drawn(self) -> tuple[np.ndarray, ...]:
        """Points x, targets y, W₁ and w₂ before the rescaling."""
        generator = self.generator()
        shapes = (
            (self.examples, self.inputs),
            (self.examples, 1),
            (self.hidden, self.inputs),
            (1, self.hidden),
        )
        return tuple(torch.randn(s, generator=generator, dtype=torch.float64).numpy() for s in shapes)

    @property
    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """α W₁ and w₂/α."""
        return self.drawn[2] * self.scale, self.drawn[3] / self.scale

    def make_objective(self) -> Objective:
        """Half the mean squared error on the random points."""
        (x, y), (first, second) = self.drawn[:2], self.weights
        sizes = [(self.inputs, self.hidden), (self.hidden, 1)]
        layers = [nn.Linear(a, b, bias=False, dtype=torch.float64) for a, b in sizes]
        for layer, values in zip(layers, (first, second), strict=True):
            layer.weight.data = torch.from_numpy(values.copy())
        model = nn.Sequential(layers[0], nn.ReLU(), layers[1])
        return Objective(model, half_square, (torch.from_numpy(x), torch.from_numpy(y)))

    # ------------------------------------------------------------------ what is known

    @cached_property
    def hidden_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Slopes m and activations relu(W₁x), shape (examples, hidden) each."""
        before = self.drawn[0] @ self.weights[0].T
        return (before > 0).astype(float), np.maximum(before, 0)

    @cached_property
    def residuals(self) -> np.ndarray:
        """f(x) - y, shape (examples, 1)."""
        return self.hidden_values[1] @ self.weights[1].T - self.drawn[1]

    @cached_property
    def jacobian(self) -> np.ndarray:
        """∂f/∂θ, shape (examples, params): w₂ m x for W₁, relu(W₁x) for w₂."""
        slopes, active = self.hidden_values
        first = np.einsum("ni,nj->nij", slopes * self.weights[1], self.drawn[0])
        return np.concatenate([first.reshape(self.examples, -1), active], axis=1)

    @cached_property
    def hessian(self) -> np.ndarray:
        """JᵀJ/n, and r m x between a row of W₁ and its entry of w₂."""
        total = self.jacobian.T @ self.jacobian / self.examples
        mixed = (self.residuals * self.hidden_values[0]).T @ self.drawn[0] / self.examples
        for unit in range(self.hidden):
            rows = slice(unit * self.inputs, (unit + 1) * self.inputs)
            column = self.hidden * self.inputs + unit
            total[rows, column] += mixed[unit]
            total[column, rows] += mixed[unit]
        return total

    @property
    def blocks(self) -> tuple[slice, slice]:
        """Where W₁ and w₂ lie among the parameters."""
        cut = self.hidden * self.inputs
        return slice(0, cut), slice(cut, None)

    @property
    def second_sharpness(self) -> float:
        """λmax of H₂₂ at α = 1, towards which λmax/α² tends."""
        second = replace(self, scale=1.0)
        return float(np.linalg.eigvalsh(second.hessian[second.blocks[1], second.blocks[1]])[-1])

    def truths(self) -> dict[str, Truth]:
        """Curvature by hand; what moves with α as it should, and what does not."""
        rows = self.jacobian * self.residuals
        layers = (self.hidden * self.inputs, self.hidden)
        how: dict[str, Any] = {"layers": layers, "source": _SOURCE}
        truths = curvature_truths(self.hessian, rows.mean(0), **how)
        truths |= example_truths(rows, self.hessian, **how)
        truths |= kernel_truths(self.jacobian[:, None], self.drawn[1], source=_SOURCE)
        return truths | self._scaled() | self._function()

    def _scaled(self) -> dict[str, Truth]:
        """From the network at α = 1 by the laws above."""
        base, (one, two), a = replace(self, scale=1.0), self.blocks, self.scale
        shift = np.concatenate([np.full(self.hidden * self.inputs, 1 / a**2), np.full(self.hidden, a**2)])
        tops = [np.linalg.eigvalsh(base.hessian[b, b])[-1] for b in (one, two)]
        diagonal = np.diag(base.hessian)
        theta = np.concatenate([w.ravel() for w in base.weights])
        stretch = np.sqrt(shift)
        known: dict[str, Any] = {"source": _SOURCE}
        return {
            "hessian_diagonal": Truth(diagonal * shift, **known),
            "hessian_trace": Truth(float(diagonal @ shift), **known),
            "layer_curvature": Truth(np.array([tops[0] / a**2, tops[1] * a**2]), 1e-3, **known),
            "parameter_weighted_trace": Truth(
                float(theta**2 @ diagonal), 1e-9, trial=self._weighted_trace, **known
            ),
            "distance_from_init": Truth(
                float(np.linalg.norm(theta / stretch - theta)), other=_balanced, **known
            ),
            "function_distance": Truth(0.0, other=_balanced, **known),
            "prediction_disagreement": Truth(0.0, strict=True, other=_balanced, **known),
            "permuted_barrier": Truth(
                0.0,
                assumptions="Scales of units count as a symmetry.",
                other=_balanced,
                options={"symmetries": "all"},
                **known,
            ),
        }

    def _function(self) -> dict[str, Truth]:
        """What is a matter of the function, or of single units."""
        slopes, active = self.hidden_values
        first, second = self.weights
        x, y = self.drawn[:2]
        gradients = np.einsum("ni,ij->nj", slopes * second, first)
        outputs = active @ second.T
        spectra = [np.linalg.svd(w, compute_uv=False) for w in (first, second)]
        errors = self.residuals
        values = {
            "example_losses": 0.5 * (errors**2).ravel(),
            "constant_loss": 0.5 * float(y.var()),
            "target_scale": max(float(y.std()), abs(float(y.mean()))),
            "dead_units": float((~slopes.any(0)).mean()),
            "jacobian_singular_values": np.linalg.norm(gradients, axis=1).mean(keepdims=True),
            "weight_norm": np.array([np.linalg.norm(first), np.linalg.norm(second)]),
            "weight_rank": np.array([effective_rank(s) for s in spectra]),
            "missing_biases": 1.0,
            "activation_flow": np.array([np.sqrt((z**2).mean()) for z in (x @ first.T, active, outputs)]),
            "gradient_flow": np.array(
                [np.sqrt((g**2).mean()) for g in (errors * slopes * second, errors * second, errors)]
            ),
        }
        truths = {k: Truth(v, source="The forward and backward pass by hand.") for k, v in values.items()}
        truths["dead_units.inactive_share"] = Truth(
            float(1 - slopes.mean()), source="Signs of W₁x.", reading="inactive_share"
        )
        told_apart = np.linalg.matrix_rank(self.jacobian) == self.hidden * self.inputs
        if told_apart:
            truths["symmetry_orbit_dimension"] = Truth(
                float(self.hidden),
                0.0,
                source="Every unit can be rescaled by itself, and nothing else is free.",
            )
        return truths

    def _weighted_trace(self, generator: torch.Generator) -> Measurement:
        """Σ θ² H_ii from products with the parameters' own unit vectors."""
        theta = self.objective.parameters()
        products = self.objective.hvp(torch.diag(theta))
        return trial_result("parameter_weighted_trace", float((products * torch.diag(theta)).sum()))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Sharpness and trace over α, beside the measure that does not move."""
        axes = figure.add_subplot()
        scales = np.geomspace(0.1, 10, 60)
        toys = [replace(self, scale=float(a)) for a in scales]
        axes.loglog(scales, [np.linalg.eigvalsh(t.hessian)[-1] for t in toys], label="sharpness λmax")
        axes.loglog(scales, [np.trace(t.hessian) for t in toys], label="trace")
        weighted = [(np.concatenate([w.ravel() for w in t.weights]) ** 2) @ np.diag(t.hessian) for t in toys]
        axes.loglog(scales, weighted, label="Σ θ² H, invariant")
        axes.loglog(scales, scales**2 * self.second_sharpness, "k:", label="α² λmax(H₂₂)")
        axes.set(xlabel="scale α", ylabel="curvature (ℓ/θ², invariant: ℓ)", title=self.title)
        axes.legend()


def _balanced(toy: ReluRescaling) -> Objective:
    return replace(toy, scale=1.0).objective


TOY = ReluRescaling
