"""Diagonal of a symmetric operator known by its products: XDiag and Hutchinson, with an error for every entry.

All use a fixed number of products. Where n products are affordable the diagonal is read off exactly.

References:
    Bekas, Kokiopoulou, Saad (2007), *An estimator for the diagonal of a matrix*; Epperly, Tropp, Webber (2024),
    arXiv:2301.07825, §5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.linalg.operators import Matvec, Meter, ShouldStop, Stop, default_generator, random_normal

DiagonalEstimator = Literal["xdiag", "hutchinson"]
_LEAST = {"xdiag": 8, "hutchinson": 1}
# The samples share their sketch: their plain spread is 0.75 to 1.0 times the true error on flat, power-law, geometric
# and indefinite spectra with 8 to 100 products, and it is itself estimated from few samples.
_CAUTION = 1.25


@dataclass(frozen=True)
class DiagonalResult:
    """A diagonal.

    Attributes:
        values: The entries, shape (n,); NaN if not one sample could be taken.
        standard_errors: Of each entry, from the spread of its samples; 0 if exact, NaN if there is only one sample.
        total: Sum of the entries: the trace.
        total_error: Its standard error, from the spread of the samples' sums.
        estimator: What produced it in the end: ``"exact"`` or an estimator (a run that was cut short falls back to
            Hutchinson on the products already taken).
        num_products: Products spent.
        stop: Why it ended.
        peak_bytes: Memory held in vectors.
    """

    values: Tensor
    standard_errors: Tensor
    total: float
    total_error: float
    estimator: str
    num_products: int
    stop: Stop
    peak_bytes: int


def diagonal(
    matvec: Matvec,
    n: int,
    num_products: int = 100,
    *,
    estimator: DiagonalEstimator = "xdiag",
    exact_if_cheaper: bool = True,
    should_stop: ShouldStop | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> DiagonalResult:
    """The diagonal entries, each with a standard error.

    **Cost** ``num_products`` products; XDiag holds about 3 ``num_products`` vectors, Hutchinson 4. n products
    where that is fewer (exact).

    **Assumes** a symmetric operator that gives the same product every time.

    **Misleads** entry by entry where the spectrum is flat: nothing can then be sketched and the relative error of an
    entry is about √(off-diagonal row sum of squares / products) over the entry.

    Args:
        matvec: ``v -> A v``.
        n: Size.
        num_products: Products to spend; at least 8 (Hutchinson 1).
        estimator: Which one.
        exact_if_cheaper: Take unit vectors when ``n <= num_products``.
        should_stop: Asked before each product.
        generator: Source of the test vectors; a fixed seed if ``None``.
        dtype: Dtype of the vectors.
        device: Where they live.

    Returns:
        The estimate.

    Raises:
        InputError: A setting is out of range.
        NonFiniteError: A product held NaN or infinity.

    >>> diagonal(lambda v: torch.arange(1.0, 5.0, dtype=v.dtype) * v, 4).values.tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    if estimator not in _LEAST:
        raise InputError(f"estimator is {estimator!r}; allowed: {', '.join(map(repr, sorted(_LEAST)))}.")
    exact = exact_if_cheaper and n <= num_products
    if not exact and num_products < _LEAST[estimator]:
        raise InputError(f"num_products is {num_products}; {estimator} needs at least {_LEAST[estimator]}.")
    meter = Meter(matvec, n, dtype=dtype, device=device, should_stop=should_stop)
    if exact:
        return _exact(meter)
    generator = default_generator(generator)
    if estimator == "hutchinson":
        return _hutchinson(meter, num_products, generator)
    return _xdiag(meter, num_products // 2, generator)


def _exact(meter: Meter) -> DiagonalResult:
    values, unit = _empty(meter), torch.zeros(meter.n, dtype=meter.dtype, device=meter.device)
    stop = Stop.COMPLETE
    for i in range(meter.n):
        if (blocked := meter.blocked()) is not None:
            stop = blocked
            break
        unit[i] = 1
        values[i] = meter(unit)[i]
        unit[i] = 0
    errors = torch.where(torch.isnan(values), values, torch.zeros_like(values))
    total = float(values.double().sum())
    return DiagonalResult(values, errors, total, total * 0.0, "exact", meter.products, stop, _bytes(meter, 3))


def _empty(meter: Meter) -> Tensor:
    return torch.full((meter.n,), float("nan"), dtype=meter.dtype, device=meter.device)


def _bytes(meter: Meter, vectors: int) -> int:
    return vectors * meter.n * torch.finfo(meter.dtype).bits // 8


def _hutchinson(meter: Meter, num_products: int, generator: torch.Generator) -> DiagonalResult:
    """Mean of z ⊙ A z over random signs z; the variance of entry i is Σ_{j≠i} a_ij² per sample."""
    running, stop = _Running(meter), Stop.STEPS_DONE
    for _ in range(num_products):
        if (blocked := meter.blocked()) is not None:
            stop = blocked
            break
        signs = meter.random(generator).sign()
        running.add(signs * meter(signs))
    return running.result(stop)


class _Running:
    """Mean and spread of samples that are seen once (Welford): two vectors of memory however many they are."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.count = 0
        self.mean = torch.zeros(meter.n, dtype=meter.dtype, device=meter.device)
        self.squares = torch.zeros_like(self.mean)
        self.sums: list[float] = []

    def add(self, sample: Tensor) -> None:
        self.count += 1
        step = sample - self.mean
        self.mean = self.mean + step / self.count
        self.squares = self.squares + step * (sample - self.mean)
        self.sums.append(float(sample.double().sum()))

    def result(self, stop: Stop) -> DiagonalResult:
        empty, count = _empty(self.meter), self.count
        errors = (self.squares / max(count * (count - 1), 1)).sqrt() if count > 1 else empty
        total, total_error = _mean_and_error(torch.tensor(self.sums, dtype=torch.float64))
        values = self.mean if count else empty
        held = _bytes(self.meter, 4)
        return DiagonalResult(
            values, errors, total, total_error, "hutchinson", self.meter.products, stop, held
        )


def _mean_and_error(samples: Tensor) -> tuple[float, float]:
    if not len(samples):
        return float("nan"), float("nan")
    error = float(samples.std() / len(samples) ** 0.5) if len(samples) > 1 else float("nan")
    return float(samples.mean()), error


def _xdiag(meter: Meter, m: int, generator: torch.Generator) -> DiagonalResult:
    """Every test vector serves the sketch of all the others.

    With Y = A Ω = Q R, leaving vector i out of the sketch turns the projector Q Qᵀ into P = Q (I - s sᵀ) Qᵀ, s the
    normalised i-th column of R⁻ᵀ. Epperly et al. take the diagonal of P A exactly and estimate that of (I - P) A; for
    a symmetric A the products A Q also give A P, so that only (I - P) A (I - P) is left to be estimated, which
    lowers the error by another third at no product.
    """
    starts = random_normal((m, meter.n), generator, meter.dtype, meter.device).sign()
    images, stop = _products(meter, starts)
    if stop is not Stop.STEPS_DONE:
        return _fallback(meter, starts, images, stop)
    q, r = torch.linalg.qr(images.T)
    mapped, stop = _products(meter, q.T)
    if stop is not Stop.STEPS_DONE:
        return _fallback(meter, starts, images, stop)
    sizes = torch.linalg.svdvals(r.double())
    if bool(sizes[-1] <= 10 * m * torch.finfo(meter.dtype).eps * sizes[0]):
        return _captured(meter, q, mapped.T, stop)
    samples = _leave_one_out(starts.T, q, r, mapped.T)
    errors = _CAUTION * samples.std(dim=1) / m**0.5
    total, total_error = _mean_and_error(samples.double().sum(dim=0))
    held = _bytes(meter, 6 * m)
    return DiagonalResult(
        samples.mean(dim=1), errors, total, _CAUTION * total_error, "xdiag", meter.products, stop, held
    )


def _leave_one_out(starts: Tensor, q: Tensor, r: Tensor, z: Tensor) -> Tensor:
    """The m estimates as columns, shape (n, m), from Ω, A Ω = Q R and Z = A Q."""
    eye = torch.eye(len(r), dtype=torch.float64, device=r.device)
    s = torch.linalg.solve_triangular(r.double().T, eye, upper=False)
    s = (s / torch.linalg.vector_norm(s, dim=0)).to(q.dtype)
    h = q.T @ z
    h = (h + h.T) / 2
    qs, bent = q @ s, q @ h
    # diag(P A), and diag(P A P) with (I - ssᵀ) H (I - ssᵀ) multiplied out.
    one_sided = (q * z).sum(dim=1, keepdim=True) - qs * (z @ s)
    two_sided = (bent * q).sum(dim=1, keepdim=True) - 2 * qs * (bent @ s) + qs**2 * (s * (h @ s)).sum(dim=0)
    # (I - P) A (I - P) ωᵢ: A ωᵢ = Q rᵢ and A P ωᵢ = Z p need no further product.
    p = q.T @ starts
    p = p - s * (s * p).sum(dim=0)
    inside = r - h @ p
    inside = inside - s * (s * inside).sum(dim=0)
    rest = q @ (r - inside) - z @ p
    return 2 * one_sided - two_sided + starts * rest


def _products(meter: Meter, rows: Tensor) -> tuple[Tensor, Stop]:
    """A applied to each row, as far as the meter allows."""
    done: list[Tensor] = []
    for row in rows:
        if (blocked := meter.blocked()) is not None:
            return torch.stack(done) if done else rows[:0], blocked
        done.append(meter(row))
    return torch.stack(done), Stop.STEPS_DONE


def _fallback(meter: Meter, starts: Tensor, images: Tensor, stop: Stop) -> DiagonalResult:
    """Hutchinson on products taken for a sketch: they were of random signs all the same."""
    running = _Running(meter)
    for start, image in zip(starts, images, strict=False):
        running.add(start * image)
    return running.result(stop)


def _captured(meter: Meter, q: Tensor, z: Tensor, stop: Stop) -> DiagonalResult:
    """The sketch holds the whole range of the operator, so A = Q Qᵀ A up to rounding."""
    values = (q * z).sum(dim=1)
    noise = 10 * torch.finfo(meter.dtype).eps * float(torch.linalg.vector_norm(z.double()))
    errors = torch.full_like(values, noise)
    total, held = float(values.double().sum()), _bytes(meter, 4 * q.shape[1])
    return DiagonalResult(values, errors, total, noise, "xdiag", meter.products, stop, held)
