"""The quadratic: the one landscape about which everything is known.

Near a minimum every smooth loss looks like L(x) = ½ (x - x*)ᵀ H (x - x*), so that whatever an instrument says of
curvature, noise or motion must be right here first. The eigenvalues λᵢ of H are chosen (``spectrum``); its eigenvectors
are turned by Householder reflections I - 2vvᵀ (``reflections``), which costs a few dot products even in 10⁵ dimensions;
and the gradient of example i is H(x - x*) + ξᵢ, with noise ξ whose mean over the examples is exactly 0 and whose
covariance is exactly the one asked for.

**Gradient descent** with step η multiplies the error along eigenvector i by 1 - ηλᵢ. Everything follows from that
factor: mode i shrinks if η < 2/λᵢ, and changes sign at every step if ηλᵢ > 1. The best fixed step 2/(λmin + λmax)
makes both ends of the spectrum shrink alike, by (κ - 1)/(κ + 1) with κ = λmax/λmin. Conjugate gradients do better:
2 ((√κ - 1)/(√κ + 1))ᵗ after t steps, in the energy norm.

**Momentum** moves the edge of stability. On one mode heavy ball is x(t+1) = (1 + β - ηλ) x(t) - β x(t-1); a root of
z² - (1 + β - ηλ) z + β reaches -1 at η = (2 + 2β)/λ. Where the momentum is an average, as in Adam, a gradient counts
1 - β times, so that the edge lies at (2 + 2β)/((1 - β) λ): 38/λ at β = 0.9.

**Volumes and noise.** The set L < c is an ellipsoid of half-axes √(2c/λᵢ). With noise covariance Σ and gradient G the
simple noise scale is tr Σ/|G|², and the one that knows the curvature is tr(HΣ)/GᵀHG.

**What to vary.** The spectrum ("log-uniform", "power-law", "clustered", "zeros", "indefinite") and its ``condition``;
``step``, in units of 1/λmax: beyond 1 the sharpest mode alternates, beyond 2 it diverges; ``covariance``: noise shaped
like H, as real gradient noise is, points where the loss is sharp and aligns the eigenbases.

Sources: textbook; Cohen et al. (2022), arXiv:2207.14484, for the edge with averaged momentum.
Ledger: 0.2, 0.3, 0.4, 0.9
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth
from geartrain.zoo.curvature import _quadratic_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Spectrum = Literal["log-uniform", "power-law", "clustered", "zeros", "indefinite"]
Covariance = Literal["identity", "curvature"]


@dataclass(frozen=True)
class Quadratic(Toy):
    """½ (x - x*)ᵀ H (x - x*) with a chosen spectrum, rotation, gradient noise and step size.

    Attributes:
        dimension: Number of parameters, 4 or more.
        spectrum: Shape of the eigenvalues: geometric from largest to largest/condition (``"log-uniform"``), a power of
            the index between the same ends, three exact clusters, geometric with the last half zero, or geometric
            with the last quarter negative.
        largest: λmax, unit ℓ/θ².
        condition: κ = λmax/λmin (over the positive eigenvalues).
        reflections: Householder reflections that turn the eigenvectors; 0 leaves them along the axes.
        noise: Standard deviation of the gradient noise per coordinate; 0 for one example without noise.
        covariance: Shape of the noise covariance: noise² times the identity, or times |H|/λmax.
        examples: How many carry noise; more than the dimension, so that the covariance can be exact.
        step: Step size of the run in units of 1/λmax.
    """

    title: ClassVar[str] = "The quadratic"
    ledger: ClassVar[tuple[str, ...]] = ("0.2", "0.3", "0.4", "0.9")

    dimension: int = 24
    spectrum: Spectrum = "log-uniform"
    largest: float = 2.0
    condition: float = 100.0
    reflections: int = 4
    noise: float = 0.5
    covariance: Covariance = "curvature"
    examples: int = 60
    step: float = 1.6

    def __post_init__(self) -> None:
        if self.dimension < 4:
            raise InputError(f"dimension is {self.dimension}; it must be 4 or more.")
        if self.spectrum not in get_args(Spectrum):
            raise InputError(f"spectrum is {self.spectrum!r}; allowed: {', '.join(get_args(Spectrum))}.")
        if self.covariance not in get_args(Covariance):
            raise InputError(
                f"covariance is {self.covariance!r}; allowed: {', '.join(get_args(Covariance))}."
            )
        if not (self.largest > 0 and self.condition >= 1 and self.step > 0 and self.noise >= 0):
            raise InputError(
                f"largest, condition, step and noise are {self.largest}, {self.condition}, {self.step}, {self.noise}; "
                "they must be above 0, at least 1, above 0, and at least 0."
            )
        if self.noise and self.examples <= self.dimension:
            raise InputError(
                f"examples is {self.examples} in {self.dimension} dimensions; noise of an exact covariance needs more "
                "examples than dimensions. Raise examples, or set noise to 0."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        """λ, in descending order, shape (dimension,)."""
        d, top, bottom = self.dimension, self.largest, self.largest / self.condition
        if self.spectrum == "power-law":
            return top * np.arange(1, d + 1) ** (-math.log(self.condition) / math.log(d))
        if self.spectrum == "clustered":
            sizes = (d // 4, d // 2, d - d // 4 - d // 2)
            return np.repeat([top, math.sqrt(top * bottom), bottom], sizes)
        live = {"zeros": d - d // 2, "indefinite": d - d // 4}.get(self.spectrum, d)
        rest = np.zeros(d - live) if self.spectrum == "zeros" else -np.geomspace(bottom, top / 4, d - live)
        return np.concatenate([np.geomspace(top, bottom, live), rest])

    @cached_property
    def reflectors(self) -> Tensor:
        """Unit vectors v of the reflections I - 2 v vᵀ, shape (reflections, dimension)."""
        drawn = torch.randn(self.reflections, self.dimension, generator=self.generator(), dtype=torch.float64)
        return drawn / drawn.norm(dim=1, keepdim=True)

    def turned(self, vectors: Tensor, *, back: bool = False) -> Tensor:
        """Q times vectors in rows, from eigencoordinates to parameters; ``back`` is the other way."""
        for v in self.reflectors.flip(0) if back else self.reflectors:
            vectors = vectors - 2 * (vectors @ v)[..., None] * v
        return vectors

    @cached_property
    def displacement(self) -> np.ndarray:
        """Start minus minimum, along the eigenvectors: signs of size 1, so that every mode takes part."""
        source = self.generator().manual_seed(self.seed + 1)
        return (2 * torch.randint(2, (self.dimension,), generator=source) - 1).double().numpy()

    @cached_property
    def minimum(self) -> Tensor:
        """x*, shape (dimension,)."""
        source = self.generator().manual_seed(self.seed + 2)
        return torch.randn(self.dimension, generator=source, dtype=torch.float64)

    @cached_property
    def noise_variances(self) -> np.ndarray:
        """Eigenvalues of the noise covariance, along the eigenvectors of H."""
        shape = np.abs(self.eigenvalues) / self.largest if self.covariance == "curvature" else 1.0
        return self.noise**2 * shape * np.ones(self.dimension)

    @cached_property
    def noise_rows(self) -> Tensor:
        """Gradient noise of each example, shape (examples, dimension): mean 0, covariance exact."""
        if not self.noise:
            return torch.zeros(1, self.dimension, dtype=torch.float64)
        source = self.generator().manual_seed(self.seed + 3)
        drawn = torch.randn(self.examples, self.dimension, generator=source, dtype=torch.float64)
        columns = torch.linalg.qr(drawn - drawn.mean(0))[0]
        return self.turned(columns * torch.as_tensor(self.noise_variances * self.examples).sqrt())

    def curved(self, x: Tensor) -> Tensor:
        """H x."""
        return self.turned(torch.as_tensor(self.eigenvalues) * self.turned(x, back=True))

    def loss(self, model: nn.Module, noise: Tensor) -> Tensor:
        """½ (x - x*)ᵀ H (x - x*) + ξ · (x - x*), averaged over the examples."""
        away = model() - self.minimum
        return 0.5 * away @ self.curved(away) + noise.mean(0) @ away

    def make_objective(self) -> Objective:
        """The loss at the start, one example per row of noise."""
        return Objective(self.make_model(), data=[self.noise_rows], batch_loss=self.loss)

    def make_run(self) -> Run:
        """Gradient descent on all examples at once: the noise averages out exactly."""
        model = self.make_model()
        rate = self.step / self.largest
        return Run(
            model,
            optimizer=torch.optim.SGD(model.parameters(), lr=rate),
            train=[self.noise_rows],
            batch_loss=self.loss,
            epochs=400,
            name="quadratic",
        )

    def make_model(self) -> Halves:
        """The point where everything starts."""
        return Halves(self.minimum + self.turned(torch.as_tensor(self.displacement)))

    # ------------------------------------------------------------------ what is known

    def truths(self) -> dict[str, Truth]:
        """Everything: see the module's text."""
        return _quadratic_truths.truths(self)

    # ------------------------------------------------------------------ its picture

    def draw(self, figure: Figure) -> None:
        """Error along each eigenvector under gradient descent, and the loss that it adds up to."""
        steps, rates = np.arange(41), 1 - self.step * self.eigenvalues / self.largest
        left, right = figure.subplots(1, 2)
        for i in np.unique(np.linspace(0, self.dimension - 1, 6).astype(int)):
            label = f"λ = {self.eigenvalues[i]:.2g}"
            left.plot(steps, rates[i] ** steps * self.displacement[i], label=label, lw=1.4)
        left.set(xlabel="step", ylabel="error along the eigenvector (θ)", title="each mode by itself")
        left.legend(fontsize=8)
        losses = 0.5 * ((rates[None] ** (2 * steps[:, None])) * self.eigenvalues * self.displacement**2)
        right.semilogy(steps, np.abs(losses.sum(1)), color="black", label="all modes")
        right.semilogy(steps, np.abs(losses[:, 0]), "--", label="sharpest mode alone")
        right.set(xlabel="step", ylabel="loss (ℓ)", title=f"ηλmax = {self.step:g}, κ = {self.condition:g}")
        right.legend(fontsize=8)


class Halves(nn.Module):
    """A point in two halves, so that instruments that go layer by layer have two layers."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.first, self.second = (Half(part) for part in x.tensor_split(2))

    def forward(self) -> Tensor:
        """The point."""
        return torch.cat([self.first(), self.second()])


class Half(nn.Module):
    """Some of the coordinates."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x.clone())

    def forward(self) -> Tensor:
        """These coordinates."""
        return self.x


TOY = Quadratic
