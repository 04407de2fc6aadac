"""Lanczos with full reorthogonalisation, repeated where it cancels: one Krylov run answers every spectral question.

The loop is geartrain's own. Without reorthogonalisation converged eigenvalues come back as *ghosts*, copies
that look like multiplicities; with it every copy is real. When the Krylov space closes (a product stays
inside it) the run goes on from a fresh vector orthogonal to everything seen, so that degenerate and low-rank
spectra are complete and multiplicities are right.

`lanczos` runs a fixed number of steps; `lanczos_init`, `lanczos_step`, `lanczos_restart` and `lanczos_ritz`
let other estimators drive the same loop. `top_eigenpairs` in `eigenpairs.py` stops by residuals.

References:
    Parlett, *The Symmetric Eigenvalue Problem* (1998), ch. 13; Paige (1980) for the loss of orthogonality.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.linalg.basis import Basis
from geartrain.linalg.operators import Matvec, Meter, Stop, default_generator

# A coupling below this many rounding units of the operator's scale is noise: the Krylov space has closed.
_BREAKDOWN_UNITS = 20.0
# Rounding in products and projections keeps true residuals from falling below about this many units.
_RESIDUAL_FLOOR_UNITS = 10.0


@dataclass
class LanczosState:
    """Working storage of a run; `lanczos_step` changes it in place.

    Attributes:
        basis: Orthonormal Lanczos vectors q_1 .. q_m (and q_{m+1} while it goes on).
        alpha: Diagonal of the tridiagonal matrix T, one entry per step.
        beta: Coupling after each step; 0 where a fresh vector was started.
        block_start: Index of the first vector since the last fresh start.
        closed: The Krylov space closed and no fresh vector has been taken since.
        start_norm: Norm of the starting vector.
        asymmetry: Largest component of a product that a symmetric operator could not have.
    """

    basis: Basis
    alpha: list[float] = field(default_factory=list)
    beta: list[float] = field(default_factory=list)
    block_start: int = 0
    closed: bool = False
    start_norm: float = 1.0
    asymmetry: float = 0.0

    @property
    def num_steps(self) -> int:
        """Steps taken so far, one product each."""
        return len(self.alpha)

    @property
    def scale(self) -> float:
        """Size of the operator as far as it has been seen."""
        return max((abs(x) for x in (*self.alpha, *self.beta)), default=0.0)

    @property
    def rounding(self) -> float:
        """Size of rounding errors in a residual."""
        return _RESIDUAL_FLOOR_UNITS * torch.finfo(self.basis.dtype).eps * self.scale


@dataclass(frozen=True)
class Ritz:
    """Eigenvalues of the tridiagonal matrix, in ascending order.

    Attributes:
        values: Ritz values θ, shape (m,).
        residuals: ‖A y - θ y‖ for each, not below rounding, shape (m,).
        vectors: Eigenvectors of T in columns, shape (m, m).
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Squared components of the starting vector: Gauss quadrature weights, shape (m,)."""
        return self.vectors[0] ** 2


def lanczos_init(
    meter: Meter, start: Tensor | None = None, generator: torch.Generator | None = None
) -> LanczosState:
    """A run that has taken no step.

    Args:
        meter: The operator.
        start: Starting vector, shape (n,); random normal if ``None``.
        generator: Source of the random start.

    Returns:
        The state, with the normalised start as its first vector.

    Raises:
        InputError: The starting vector is zero or of another shape.
    """
    vector = meter.random(generator) if start is None else start.detach().to(meter.device, meter.dtype)
    if vector.shape != (meter.n,):
        raise InputError(f"start has shape {tuple(vector.shape)}; allowed: ({meter.n},).")
    norm = float(torch.linalg.vector_norm(vector))
    if not np.isfinite(norm) or norm == 0.0:
        raise InputError(f"start has norm {norm}; allowed: a finite vector that is not zero.")
    state = LanczosState(Basis(meter.n, meter.dtype, meter.device), start_norm=norm)
    state.basis.append(vector / norm)
    return state


def lanczos_step(meter: Meter, state: LanczosState) -> None:
    """One product and one more row of T; sets ``state.closed`` when the product stays inside the space.

    **Cost** one product, and 2 (m + 1) n multiplications of reorthogonalisation at step m, or twice that.
    """
    product = meter(state.basis.last()).clone()
    components = _recurrence(state, product)
    components += state.basis.remove_from(product)
    _note_asymmetry(state, components)
    state.alpha.append(float(components[-1]))
    coupling = float(torch.linalg.vector_norm(product))
    noise = _BREAKDOWN_UNITS * torch.finfo(meter.dtype).eps * max(state.scale, coupling)
    full = len(state.basis) == meter.n
    state.closed = full or coupling <= max(noise, torch.finfo(meter.dtype).tiny)
    state.beta.append(0.0 if state.closed else coupling)
    if not state.closed:
        state.basis.append(product / coupling)


def _recurrence(state: LanczosState, product: Tensor) -> np.ndarray:
    """Take the two known components out of a product, in place: what remains of others is rounding, once is enough."""
    taken = np.zeros(len(state.basis))
    if state.beta and state.beta[-1]:
        taken[-2] = state.beta[-1]
        product.sub_(state.basis.before_last(), alpha=state.beta[-1])
    taken[-1] = float(state.basis.last() @ product)
    product.sub_(state.basis.last(), alpha=float(taken[-1]))
    return taken


def lanczos_restart(meter: Meter, state: LanczosState, generator: torch.Generator | None) -> bool:
    """After the space closed, go on from a random vector orthogonal to it; False when none is left."""
    if len(state.basis) >= meter.n:
        return False
    for _ in range(5):
        vector = meter.random(generator)
        vector /= torch.linalg.vector_norm(vector)
        state.basis.remove_from(vector)
        norm = float(torch.linalg.vector_norm(vector))
        if norm > 100 * torch.finfo(meter.dtype).eps:
            # The remainder may be small when the space is nearly full: once more restores orthogonality.
            vector /= norm
            state.basis.remove_from(vector)
            state.basis.append(vector / torch.linalg.vector_norm(vector))
            state.block_start, state.closed = state.num_steps, False
            return True
    return False


def lanczos_ritz(state: LanczosState) -> Ritz:
    """Ritz values with their residuals |β_m s_mi| (Parlett 1998, theorem 13.2.1)."""
    if not state.alpha:
        return Ritz(np.zeros(0), np.zeros(0), np.zeros((1, 0)))
    diagonal, off = np.array(state.alpha), np.array(state.beta)
    if len(diagonal) == 1:
        values, vectors = diagonal.copy(), np.ones((1, 1))
    else:
        values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off[:-1])
    residuals = np.maximum(np.abs(off[-1] * vectors[-1]), state.rounding)
    return Ritz(values, residuals, vectors)


def lanczos_run(
    meter: Meter,
    state: LanczosState,
    done: Callable[[LanczosState], bool],
    *,
    restart: bool = True,
    generator: torch.Generator | None = None,
) -> Stop:
    """Steps until ``done``, until nothing is left, or until the meter says no.

    Args:
        meter: The operator with its budget.
        state: Where to go on from; changed in place.
        done: Asked after every step.
        restart: Whether to go on from a fresh vector when the space closes.
        generator: Source of fresh vectors.

    Returns:
        Why it ended.
    """
    generator = default_generator(generator)
    while True:
        blocked = meter.blocked()
        if blocked is not None:
            return blocked
        lanczos_step(meter, state)
        if done(state):
            return Stop.COMPLETE if state.closed and len(state.basis) == meter.n else Stop.CONVERGED
        if state.closed and not (restart and lanczos_restart(meter, state, generator)):
            return Stop.COMPLETE


def lanczos(
    matvec: Matvec,
    n: int,
    num_steps: int,
    *,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    restart: bool = True,
) -> tuple[LanczosState, Stop]:
    """A plain run of a fixed number of steps, for those who want the pieces.

    >>> state, stop = lanczos(lambda v: 3 * v, 4, 4)
    >>> lanczos_ritz(state).values.round(12).tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    generator = default_generator(generator)
    meter = Meter(matvec, n, dtype=dtype, device=device, max_products=num_steps)
    state = lanczos_init(meter, start, generator)
    stop = lanczos_run(meter, state, lambda s: False, restart=restart, generator=generator)
    return state, Stop.STEPS_DONE if stop is Stop.OUT_OF_PRODUCTS else stop


def _note_asymmetry(state: LanczosState, components: np.ndarray) -> None:
    """For symmetric A, qᵢᵀA q_m is 0 for i < m-1 and β_{m-1} for i = m-1: anything else is not symmetric."""
    unexpected = components[:-1].copy()
    if len(unexpected):
        unexpected[-1] -= state.beta[-1]
        state.asymmetry = max(state.asymmetry, float(np.abs(unexpected).max()))
