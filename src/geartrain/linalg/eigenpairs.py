"""Extreme eigenpairs by Lanczos, stopped by residuals.

**What a residual says, and what not.** ‖A y - θ y‖ = r puts an eigenvalue within r of θ, always. It does not
say that none was missed: two eigenvalues closer to one another than the tolerance may still share one Ritz
value, and the pairs after them are then numbered one too early. A smaller ``tol`` resolves the pair;
``confirm=True`` looks again from a fresh start with everything found taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.linalg.lanczos import LanczosState, Ritz, lanczos_init, lanczos_ritz, lanczos_run, lanczos_step
from geartrain.linalg.operators import Matvec, Meter, ShouldStop, Stop, default_generator

Which = Literal["largest", "magnitude"]


@dataclass(frozen=True)
class EigenResult:
    """Extreme eigenpairs, and the whole Krylov run that they came from.

    Attributes:
        eigenvalues: The k largest (or largest in magnitude), leading first, shape (k,).
        residuals: ‖A y - θ y‖ of each: an eigenvalue lies within this distance, shape (k,).
        smallest_eigenvalues: The algebraically smallest, most negative first, shape (num_smallest,).
        smallest_residuals: Their residuals.
        eigenvectors: Unit vectors in rows, shape (k, n), or ``None`` if not asked for.
        smallest_eigenvectors: Likewise, shape (num_smallest, n).
        stop: Why it ended.
        num_products: Products spent.
        ritz: All Ritz values with residuals and quadrature weights.
        alpha: Diagonal of T.
        beta: Off-diagonal of T; the last entry couples to the vector that was not used.
        asymmetry: Relative size of what a symmetric operator could not have produced.
        symmetric: Whether that is within rounding. If not, the products are noisy or not symmetric.
        peak_bytes: Memory of the basis.
    """

    eigenvalues: np.ndarray
    residuals: np.ndarray
    smallest_eigenvalues: np.ndarray
    smallest_residuals: np.ndarray
    eigenvectors: Tensor | None
    smallest_eigenvectors: Tensor | None
    stop: Stop
    num_products: int
    ritz: Ritz
    alpha: np.ndarray
    beta: np.ndarray
    asymmetry: float
    symmetric: bool
    peak_bytes: int

    @property
    def converged(self) -> bool:
        """Whether every residual asked for is below the tolerance."""
        return self.stop in {Stop.CONVERGED, Stop.COMPLETE}


def top_eigenpairs(
    matvec: Matvec,
    n: int,
    k: int = 10,
    *,
    num_smallest: int = 0,
    which: Which = "largest",
    tol: float = 1e-3,
    max_products: int | None = None,
    should_stop: ShouldStop | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    eigenvectors: bool = False,
    confirm: bool = False,
) -> EigenResult:
    """Extreme eigenpairs of a symmetric operator, each with its residual, from one Krylov run.

    Stops when the k largest and the ``num_smallest`` smallest Ritz pairs have ‖A y - θ y‖ <= tol·|λ|max. The
    error of a separated eigenvalue is about residual²/gap, far smaller than its residual.

    **Cost** m products, m decided by the residuals (typically 2k to 5k), and an (m, n) basis in memory;
    with ``confirm`` about as many again for each round.

    **Assumes** a symmetric operator that gives the same product every time (checked: ``symmetric``).

    **Misleads** when eigenvalues lie closer together than the tolerance: see the module's text.

    Args:
        matvec: ``v -> A v``, shape (n,) to (n,).
        n: Size of the operator.
        k: How many leading eigenpairs; at most n are returned.
        num_smallest: How many of the algebraically smallest.
        which: ``"largest"`` by value or ``"magnitude"``.
        tol: Allowed residual as a fraction of the largest |Ritz value|.
        max_products: Limit on products; ``None`` for n (where the answer is exact).
        should_stop: Asked before each product.
        generator: Source of the starting vector; a fixed seed if ``None``.
        dtype: Dtype of the vectors.
        device: Where they live.
        eigenvectors: Also return the vectors.
        confirm: Search again with everything found taken out, until nothing new turns up.

    Returns:
        The pairs and the run, complete or not: see ``stop``.

    Raises:
        InputError: A setting is out of range.
        NonFiniteError: A product held NaN or infinity.

    >>> diagonal = torch.arange(1.0, 6.0).double()
    >>> result = top_eigenpairs(lambda v: diagonal * v, 5, k=2, num_smallest=1, tol=1e-9)
    >>> result.eigenvalues.round(6).tolist(), result.smallest_eigenvalues.round(6).tolist()
    ([5.0, 4.0], [1.0])
    """
    _check_settings(k, num_smallest, which, tol)
    generator = default_generator(generator)
    meter = Meter(matvec, n, dtype=dtype, device=device, max_products=max_products, should_stop=should_stop)
    state = lanczos_init(meter, None, generator)
    rule = _StopRule(min(k, n), min(num_smallest, n), which, tol)
    stop = lanczos_run(meter, state, rule, generator=generator)
    result = _collect(state, rule, stop, meter, eigenvectors or confirm)
    if confirm and result.converged:
        result = _confirm(meter, result, rule, generator)
    return result if eigenvectors else replace(result, eigenvectors=None, smallest_eigenvectors=None)


def _check_settings(k: int, num_smallest: int, which: str, tol: float) -> None:
    if k < 0 or num_smallest < 0 or k + num_smallest == 0:
        raise InputError(
            f"k is {k} and num_smallest is {num_smallest}; allowed: 0 or more each, and not both 0."
        )
    if which not in ("largest", "magnitude"):
        raise InputError(f"which is {which!r}; allowed: 'largest' or 'magnitude'.")
    if not 0 < tol < 1:
        raise InputError(f"tol is {tol}; allowed: between 0 and 1, a fraction of the largest eigenvalue.")


@dataclass
class _StopRule:
    """Decides, at spaced steps, whether every pair asked for has converged."""

    k: int
    num_smallest: int
    which: Which
    tol: float
    next_check: int = 1

    def key(self, values: np.ndarray) -> np.ndarray:
        return values if self.which == "largest" else np.abs(values)

    def leading(self, values: np.ndarray) -> np.ndarray:
        """Indices of the k leading values, the first one first."""
        return np.argsort(-self.key(values), kind="stable")[: self.k]

    def __call__(self, state: LanczosState) -> bool:
        m = state.num_steps
        if m < self.next_check and not state.closed:
            return False
        # Diagonalising T at every step would cost more than small products: space the checks by 4 %.
        self.next_check = m + max(1, m // 25)
        # Without a budget for it n <= m cannot happen before the space is full, where `closed` is set.
        if m < min(max(self.k, self.num_smallest), state.basis.n):
            return False
        ritz = lanczos_ritz(state)
        limit = max(self.tol * float(np.abs(ritz.values).max()), state.rounding)
        wanted = np.concatenate([self.leading(ritz.values), np.arange(self.num_smallest)])
        return bool((ritz.residuals[wanted] <= limit).all()) and self._nothing_hidden(state, ritz, limit)

    def _nothing_hidden(self, state: LanczosState, ritz: Ritz, limit: float) -> bool:
        """After a fresh start: whatever is still unseen is no more extreme than the newest block's extreme.

        One Krylov space sees each eigenvalue once; further copies can only show in the next block. Before the
        first closing there is no such evidence, and the residuals decide alone.
        """
        full = len(state.basis) == state.basis.n
        if (state.closed and full) or (not state.closed and state.block_start == 0):
            return True
        inside = (ritz.vectors[state.block_start :] ** 2).sum(axis=0) > 0.5
        values, residuals = ritz.values[inside], ritz.residuals[inside]
        if not len(values):
            return False
        settled = True
        if self.k:
            settled &= self._end_settled(self.key(values), residuals, self.key(ritz.values), self.k, limit)
        if self.num_smallest:
            settled &= self._end_settled(-values, residuals, -ritz.values, self.num_smallest, limit)
        return settled

    @staticmethod
    def _end_settled(
        block: np.ndarray, residuals: np.ndarray, every: np.ndarray, count: int, limit: float
    ) -> bool:
        first = int(np.argmax(block))
        last_wanted = np.sort(every)[-count]
        return bool(residuals[first] <= limit and block[first] <= last_wanted + limit)


def _collect(state: LanczosState, rule: _StopRule, stop: Stop, meter: Meter, vectors: bool) -> EigenResult:
    ritz = lanczos_ritz(state)
    top, bottom = rule.leading(ritz.values), np.arange(min(rule.num_smallest, len(ritz.values)))
    scale = max(state.scale, torch.finfo(meter.dtype).tiny)
    # q_{m+1} is in the basis but not in T.
    pad = np.zeros((len(state.basis) - len(ritz.values), len(ritz.values)))
    coefficients = np.concatenate([ritz.vectors[: len(ritz.values)], pad])
    return EigenResult(
        eigenvalues=ritz.values[top],
        residuals=ritz.residuals[top],
        smallest_eigenvalues=ritz.values[bottom],
        smallest_residuals=ritz.residuals[bottom],
        eigenvectors=state.basis.combine(coefficients[:, top]) if vectors else None,
        smallest_eigenvectors=state.basis.combine(coefficients[:, bottom]) if vectors else None,
        stop=stop,
        num_products=meter.products,
        ritz=ritz,
        alpha=np.array(state.alpha),
        beta=np.array(state.beta),
        asymmetry=state.asymmetry / scale,
        symmetric=state.asymmetry / scale <= 10 * torch.finfo(meter.dtype).eps ** 0.5,
        peak_bytes=state.basis.bytes,
    )


@dataclass(frozen=True)
class _End:
    """One end of the spectrum: values, residuals and vectors (rows), most extreme first."""

    values: np.ndarray
    residuals: np.ndarray
    vectors: Tensor

    def merged(
        self, other: _End, key: Callable[[np.ndarray], np.ndarray], margin: float
    ) -> tuple[_End, bool]:
        """The most extreme of both, as many as here; and whether ``other`` beat the last by ``margin``."""
        count = len(self.values)
        if not count or float(key(other.values)[0]) <= float(key(self.values)[-1]) + margin:
            return self, False
        values = np.concatenate([self.values, other.values])
        order = np.argsort(-key(values), kind="stable")[:count]
        residuals = np.concatenate([self.residuals, other.residuals])[order]
        vectors = torch.cat([self.vectors, other.vectors])[order.tolist()]
        return _End(values[order], residuals, vectors), True


def _ends(result: EigenResult) -> tuple[_End, _End]:
    assert result.eigenvectors is not None
    assert result.smallest_eigenvectors is not None
    return (
        _End(result.eigenvalues, result.residuals, result.eigenvectors),
        _End(result.smallest_eigenvalues, result.smallest_residuals, result.smallest_eigenvectors),
    )


def _confirm(meter: Meter, found: EigenResult, rule: _StopRule, generator: torch.Generator) -> EigenResult:
    """Looks for eigenvalues that the first run merged, in the complement of everything found."""
    while True:
        top, low = _ends(found)
        kept = orthonormal_rows(torch.cat([top.vectors, low.vectors]))
        if len(kept) >= meter.n:
            return found
        extra = _search_complement(meter, kept, rule, generator)
        # A y leaves the complement by at most the residuals of what was taken out.
        leak = float(np.linalg.norm(np.concatenate([top.residuals, low.residuals])))
        extra_top, extra_low = (replace(e, residuals=np.hypot(e.residuals, leak)) for e in _ends(extra))
        margin = rule.tol * float(np.abs(found.ritz.values).max())
        top, top_news = top.merged(extra_top, rule.key, margin)
        low, low_news = low.merged(extra_low, np.negative, margin)
        found = replace(
            found,
            eigenvalues=top.values,
            residuals=top.residuals,
            eigenvectors=top.vectors,
            smallest_eigenvalues=low.values,
            smallest_residuals=low.residuals,
            smallest_eigenvectors=low.vectors,
            stop=found.stop if extra.converged else extra.stop,
            num_products=meter.products,
            peak_bytes=max(found.peak_bytes, extra.peak_bytes),
        )
        if not (top_news or low_news) or not extra.converged:
            return found


def _search_complement(
    meter: Meter, kept: Tensor, rule: _StopRule, generator: torch.Generator
) -> EigenResult:
    """The extreme pair of either end in the complement of ``kept``, paid from the same budget."""
    project = projector(kept)
    inner = Meter(lambda v: project(meter(project(v))), meter.n, dtype=meter.dtype, device=meter.device)
    state = lanczos_init(inner, project(meter.random(generator)))
    probe = _StopRule(min(rule.k, 1), min(rule.num_smallest, 1), rule.which, rule.tol)
    while (stop := meter.blocked()) is None:
        lanczos_step(inner, state)
        if probe(state):
            stop = Stop.CONVERGED
            break
        if state.closed:
            stop = Stop.COMPLETE
            break
    return _collect(state, probe, stop, meter, True)


def orthonormal_rows(vectors: Tensor) -> Tensor:
    """Orthonormal rows that span the same space; nearly dependent ones are dropped, shape (r, n)."""
    if not len(vectors):
        return vectors
    _, sizes, rows = torch.linalg.svd(vectors, full_matrices=False)
    return rows[sizes > 1e-3 * sizes[0]]


def projector(rows: Tensor) -> Matvec:
    """V -> v - rowsᵀ (rows v): takes orthonormal ``rows`` out of a vector."""
    return lambda vector: vector - rows.T @ (rows @ vector)
