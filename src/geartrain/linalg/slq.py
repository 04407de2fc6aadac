"""Spectral density and masses by stochastic Lanczos quadrature, with an honest error.

From a random start, m Lanczos steps give the Gauss quadrature of the *spectral measure* of that start: nodes
θᵢ and weights τᵢ. Averaged over starts, it is the density of eigenvalues. Two errors remain, and both are
stated:

- *sampling*: over starts. For z uniform on the sphere in N dimensions zᵀ f(A) z has variance
  2/(N + 2) · (tr f²/N - (tr f/N)²) exactly, so the error is known even from one probe;
- *resolution*: m steps cannot tell apart what lies closer than about range/m². The bulk of a network's
  spectrum sits within 1e-3 of zero, on both sides; one node then stands for hundreds of eigenvalues
  and takes them all to its own sign. This is why plain quadratures (and, worse, smoothed densities) report
  half of the true negative mass. The Gauss-Radau rule with a node *at* the threshold brackets the mass from
  both sides (Chebyshev, Markov, Stieltjes); the bracket is the resolution error, and it shrinks with m.

Extreme eigenvalues found first are taken out of the probes: they count exactly, and the steps they would
cost sharpen the rest.

References:
    Lin, Saad, Yang (2016), arXiv:1308.5467; Ghorbani, Krishnan, Xiao (2019), arXiv:1901.10159; Golub and
    Meurant, *Matrices, Moments and Quadrature* (2010), §6.2 (Gauss-Radau), ch. 4 (brackets).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.linalg.eigenpairs import projector
from geartrain.linalg.lanczos import LanczosState, Ritz, lanczos_init, lanczos_ritz, lanczos_run, lanczos_step
from geartrain.linalg.operators import Matvec, Meter, ShouldStop, Stop, default_generator

# Pairs are taken out once their residual is this fraction of the operator's size.
_DEFLATION_TOL = 1e-5


@dataclass(frozen=True)
class Quadrature:
    """The spectral measure of one start, as its Jacobi matrix.

    Attributes:
        alpha: Diagonal, shape (m,).
        beta: Off-diagonal, shape (m,); the last entry is 0 when the measure is complete.
        nodes: Gauss nodes, ascending.
        weights: Gauss weights; they sum to 1.
        last: Last components of the eigenvectors of the Jacobi matrix.
    """

    alpha: np.ndarray
    beta: np.ndarray
    nodes: np.ndarray
    weights: np.ndarray
    last: np.ndarray

    @staticmethod
    def of(state: LanczosState) -> Quadrature:
        """From a Lanczos run without fresh starts."""
        ritz = lanczos_ritz(state)
        return Quadrature(
            np.array(state.alpha), np.array(state.beta), ritz.values, ritz.weights, ritz.vectors[-1]
        )

    def bracket(self, x: float) -> tuple[float, float]:
        """Least and largest mass that the measure can have below ``x``, given its 2m moments."""
        if self.beta[-1] == 0.0:
            below = float(self.weights[self.nodes < x].sum())
            return below, below
        distance = self.nodes - x
        if np.abs(distance).min() < 1e-13 * np.abs(self.nodes).max():
            x = x - 1e-12 * float(np.abs(self.nodes).max())
            distance = self.nodes - x
        # Golub and Meurant (2010), §6.2.1: the last diagonal entry that puts a node at x.
        last = x + self.beta[-1] ** 2 * float((self.last**2 / distance).sum())
        nodes, vectors = scipy.linalg.eigh_tridiagonal(np.append(self.alpha, last), self.beta)
        weights, at = vectors[0] ** 2, int(np.argmin(np.abs(nodes - x)))
        return float(weights[:at].sum()), float(weights[: at + 1].sum())


@dataclass(frozen=True)
class MassEstimate:
    """Share of eigenvalues below a threshold.

    Attributes:
        value: Middle of the bracket.
        standard_error: Such that ± 2 covers the whole bracket and 2 sampling errors (added in squares).
        lower: Lower end of the bracket, averaged over probes.
        upper: Its upper end.
        sampling_error: Standard error over random starts.
        threshold: The threshold.
    """

    value: float
    standard_error: float
    lower: float
    upper: float
    sampling_error: float
    threshold: float


@dataclass(frozen=True)
class SpectralMeasure:
    """All eigenvalues, each with weight 1/n, as far as they are known.

    Attributes:
        n: Number of eigenvalues.
        known: Eigenvalues counted one by one, ascending.
        known_residuals: Their residuals.
        probes: Quadratures of random starts in the complement of the known ones.
        ritz: Ritz pairs of the first run, which looked for the extremes.
        num_products: Products spent.
        stop: Why it ended.
        peak_bytes: Memory held.
    """

    n: int
    known: np.ndarray
    known_residuals: np.ndarray
    probes: tuple[Quadrature, ...]
    ritz: Ritz
    num_products: int
    stop: Stop
    peak_bytes: int

    @property
    def num_unknown(self) -> int:
        """Eigenvalues that the probes stand for."""
        return self.n - len(self.known)

    @property
    def exact(self) -> bool:
        """Whether every eigenvalue is known one by one."""
        return self.num_unknown == 0

    @property
    def scale(self) -> float:
        """Largest |eigenvalue| seen."""
        ends = [self.known, *(p.nodes for p in self.probes)]
        return max((float(np.abs(e).max()) for e in ends if len(e)), default=0.0)

    @property
    def extent(self) -> tuple[float, float]:
        """Smallest and largest eigenvalue seen."""
        every = np.concatenate([self.known, *(p.nodes for p in self.probes)])
        return float(every.min()), float(every.max())

    def mass_below(self, threshold: float) -> MassEstimate:
        """Share of eigenvalues below ``threshold``, with both errors."""
        counted = float((self.known < threshold).sum()) / self.n
        if self.exact:
            return MassEstimate(counted, 0.0, counted, counted, 0.0, threshold)
        share = self.num_unknown / self.n
        ends = np.array([probe.bracket(threshold) for probe in self.probes])
        lower, upper = ends.mean(axis=0)
        middle = (lower + upper) / 2
        variance = 2 * middle * (1 - middle) / (self.num_unknown + 2) / len(self.probes)
        sampling, half = share * float(np.sqrt(max(variance, 0.0))), share * (upper - lower) / 2
        return MassEstimate(
            counted + share * middle,
            float(np.hypot(sampling, half / 2)),
            counted + share * lower,
            counted + share * upper,
            sampling,
            threshold,
        )

    def density(self, grid: np.ndarray, kernel_width: float) -> tuple[np.ndarray, np.ndarray]:
        """Density smoothed by a Gaussian of standard deviation ``kernel_width``, and its sampling error.

        Args:
            grid: Where, shape (g,).
            kernel_width: Standard deviation of the kernel, in units of the eigenvalues.

        Returns:
            Density and standard error, shape (g,) each; the density integrates to 1.
        """
        total = _kernel(grid, self.known, kernel_width).sum(axis=1) / self.n
        if self.exact:
            return total, np.zeros_like(total)
        kernels = [_kernel(grid, probe.nodes, kernel_width) for probe in self.probes]
        pairs = list(zip(kernels, self.probes, strict=True))
        first = np.mean([k @ p.weights for k, p in pairs], axis=0)
        second = np.mean([k**2 @ p.weights for k, p in pairs], axis=0)
        variance = 2 * np.maximum(second - first**2, 0) / (self.num_unknown + 2) / len(self.probes)
        share = self.num_unknown / self.n
        return total + share * first, share * np.sqrt(variance)


def _kernel(grid: np.ndarray, nodes: np.ndarray, width: float) -> np.ndarray:
    standard = (grid[:, None] - nodes[None, :]) / width
    return np.exp(-0.5 * standard**2) / (width * np.sqrt(2 * np.pi))


def slq(
    matvec: Matvec,
    n: int,
    *,
    num_probes: int = 4,
    num_steps: int = 100,
    num_deflated: int = 20,
    exact_if_cheaper: bool = True,
    max_products: int | None = None,
    should_stop: ShouldStop | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> SpectralMeasure:
    """The measure of all eigenvalues of a symmetric operator, by quadrature.

    **Cost** at most ``num_steps·(num_probes + 1)`` products (one run finds the extremes); n products, and an
    exact answer, where that is fewer. Memory of ``num_steps + num_deflated`` vectors.

    **Assumes** a symmetric operator that gives the same product every time.

    **Misleads** where the bracket of a mass is wide: read ``lower`` and ``upper``.

    Args:
        matvec: ``v -> A v``.
        n: Size.
        num_probes: Random starts.
        num_steps: Lanczos steps from each.
        num_deflated: At most this many converged extreme pairs are taken out; 0 for plain quadrature.
        exact_if_cheaper: Diagonalise completely when n products are no more than the quadrature's.
        max_products: Limit on products; what is finished then is returned.
        should_stop: Asked before each product.
        generator: Source of the starts; a fixed seed if ``None``.
        dtype: Dtype of the vectors.
        device: Where they live.

    Returns:
        The measure: `SpectralMeasure.mass_below`, `SpectralMeasure.density`.

    Raises:
        InputError: A number is out of range.
        NonFiniteError: A product held NaN or infinity.

    >>> measure = slq(lambda v: torch.tensor([-1.0, 0.5, 2.0, 2.0], dtype=v.dtype) * v, 4)
    >>> measure.mass_below(0.0).value, measure.exact
    (0.25, True)
    """
    if num_probes < 1 or num_steps < 1 or num_deflated < 0:
        raise InputError(
            f"num_probes is {num_probes}, num_steps {num_steps}, num_deflated {num_deflated}; "
            "allowed: at least 1, 1 and 0."
        )
    generator = default_generator(generator)
    meter = Meter(matvec, n, dtype=dtype, device=device, max_products=max_products, should_stop=should_stop)
    planned = num_steps * (num_probes + (num_deflated > 0))
    allowed = planned if meter.remaining is None else min(planned, meter.remaining)
    if exact_if_cheaper and n <= allowed:
        return _complete(meter, generator)
    finder, rows = _find_extremes(meter, num_steps, num_deflated, generator)
    return _probe(meter, finder, rows, num_probes, num_steps, generator)


def _complete(meter: Meter, generator: torch.Generator) -> SpectralMeasure:
    """Every eigenvalue, by a run over the whole space with fresh starts."""
    state = lanczos_init(meter, None, generator)
    stop = lanczos_run(meter, state, lambda s: False, generator=generator)
    ritz = lanczos_ritz(state)
    if stop is Stop.COMPLETE:
        return SpectralMeasure(
            meter.n, ritz.values, ritz.residuals, (), ritz, meter.products, stop, state.basis.bytes
        )
    return _from_finder(meter, state, stop)


def _from_finder(meter: Meter, state: LanczosState, stop: Stop) -> SpectralMeasure:
    """What one unfinished run says, as a single probe."""
    nothing, ritz = np.zeros(0), lanczos_ritz(state)
    # Fresh starts are separate measures; the first block alone belongs to the random start.
    first = LanczosState(state.basis, *_first_block(state))
    probes = (Quadrature.of(first),) if first.alpha else ()
    return SpectralMeasure(meter.n, nothing, nothing, probes, ritz, meter.products, stop, state.basis.bytes)


def _first_block(state: LanczosState) -> tuple[list[float], list[float]]:
    end = next((j + 1 for j, beta in enumerate(state.beta) if beta == 0.0), len(state.beta))
    return state.alpha[:end], state.beta[:end]


def _find_extremes(
    meter: Meter, num_steps: int, num_deflated: int, generator: torch.Generator
) -> tuple[SpectralMeasure, Tensor]:
    """One run, and its converged pairs of largest magnitude as orthonormal rows, shape (r, n)."""
    state = lanczos_init(meter, None, generator)
    stop = Stop.STEPS_DONE
    if num_deflated:
        stop = lanczos_run(meter, state, lambda s: s.num_steps >= num_steps, restart=False)
    found = _from_finder(meter, state, stop)
    ritz = found.ritz
    good = np.flatnonzero(ritz.residuals <= max(_DEFLATION_TOL * state.scale, state.rounding))
    good = good[np.argsort(-np.abs(ritz.values[good]), kind="stable")][:num_deflated]
    good.sort()
    coefficients = np.zeros((len(state.basis), len(good)))
    coefficients[: len(ritz.values)] = ritz.vectors[: len(ritz.values), good]
    known = replace(found, known=ritz.values[good], known_residuals=ritz.residuals[good])
    return known, state.basis.combine(coefficients)


def _probe(
    meter: Meter,
    finder: SpectralMeasure,
    rows: Tensor,
    num_probes: int,
    num_steps: int,
    generator: torch.Generator,
) -> SpectralMeasure:
    """Quadratures of fresh starts in the complement of ``rows``.

    The finder's own start is not used again: the pairs depend on it, which would bias eigenvalues of
    higher multiplicity.
    """
    if finder.stop in {Stop.OUT_OF_PRODUCTS, Stop.INTERRUPTED}:
        return replace(finder, known=np.zeros(0), known_residuals=np.zeros(0))
    project = projector(rows)
    inner = Meter(lambda v: project(meter(v)), meter.n, dtype=meter.dtype, device=meter.device)
    probes: list[Quadrature] = []
    held, stop = rows.numel() * rows.element_size() + finder.peak_bytes, Stop.STEPS_DONE
    for _ in range(num_probes if len(rows) < meter.n else 0):
        state = lanczos_init(inner, project(meter.random(generator)))
        stop = _metered_run(meter, inner, state, num_steps)
        # A cut-off probe would only widen the bracket of the finished ones.
        if stop is Stop.STEPS_DONE or (not probes and state.alpha and not finder.probes):
            probes.append(Quadrature.of(state))
        held = max(held, rows.numel() * rows.element_size() + state.basis.bytes)
        if stop is not Stop.STEPS_DONE:
            break
    if not probes and len(rows) < meter.n:
        return replace(finder, known=np.zeros(0), known_residuals=np.zeros(0), stop=stop)
    return replace(finder, probes=tuple(probes), num_products=meter.products, stop=stop, peak_bytes=held)


def _metered_run(meter: Meter, inner: Meter, state: LanczosState, num_steps: int) -> Stop:
    """A fixed number of steps with a derived operator, paid from the budget of the original."""
    while state.num_steps < num_steps and not state.closed:
        blocked = meter.blocked()
        if blocked is not None:
            return blocked
        lanczos_step(inner, state)
    return Stop.STEPS_DONE
