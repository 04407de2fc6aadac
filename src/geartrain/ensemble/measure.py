"""Instruments for all members at once: curvature, noise, norms and ranks as batched computations.

The numbers are those of the instruments for one network (`geartrain.instruments`), in evaluation mode, on the data
given; where a model cannot be vectorised, the members are taken one after the other.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from geartrain._torch import batches as _batches
from geartrain._torch import kernels
from geartrain._torch.flat import Layout
from geartrain._torch.loss import check_scalar
from geartrain.ensemble.engines import vmap
from geartrain.ensemble.engines._base import Batch, Buffers, LossFunction
from geartrain.errors import InputError, UnknownNameError
from geartrain.records import Cost, Measurement, State, Status

_ROWS = 1 << 24
"""Numbers of per-example gradients held at once: 128 MB in double precision."""
_BASIS = 1 << 26
"""Numbers of Lanczos vectors held at once."""


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        model: The template.
        loss_fn: ``loss_fn(outputs, targets)``.
        layout: Where each parameter lies in a row.
        params: Shape (members, params).
        buffers: Stacked buffers.
        data: ``(inputs, targets)``.
        seeds: One per member.
        chunk: Members at a time.
        vectorised: Whether vmap runs this model.
    """

    model: nn.Module
    loss_fn: LossFunction
    layout: Layout
    params: Tensor
    buffers: Buffers
    data: tuple[Any, Any]
    seeds: tuple[int, ...]
    chunk: int
    vectorised: bool = True

    @property
    def examples(self) -> int:
        """How many."""
        return _batches.size_of(self.data)

    def chunks(self, most: int | None = None) -> Iterator[Subject]:
        """The members in chunks."""
        size = max(1, self.chunk if most is None else min(self.chunk, most))
        for start in range(0, len(self.params), size):
            part = slice(start, start + size)
            buffers = {name: t[part].clone() for name, t in self.buffers.items()}
            yield replace(self, params=self.params[part], buffers=buffers)

    def losses(self, leaves: dict[str, Tensor], data: tuple[Any, Any]) -> Tensor:
        """Losses of the members, with a graph to the leaves (see `vmap.leaves_of`)."""
        if self.vectorised:
            batch = Batch(data[0], data[1], True, True)
            return vmap.member_losses(self.model, self.loss_fn, leaves, self.buffers, batch)
        caller, found = vmap.Caller(self.model), []
        for i in range(len(self.params)):
            own = {f"model.{name}": t[i] for part in (leaves, self.buffers) for name, t in part.items()}
            outputs = functional_call(caller, own, (data[0],))
            found.append(check_scalar(self.loss_fn(outputs, data[1])))
        return torch.stack(found)

    def gradient(self) -> Tensor:
        """Gradients of the loss on all data, shape (members, params)."""
        leaves = vmap.leaves_of(self.params, self.layout)
        total = self.losses(leaves, self.data).sum()
        parts = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return vmap.flatten(parts, self.params)


Measure = Callable[..., Measurement]
_MEASURES: dict[str, Measure] = {}


def _named(function: Measure) -> Measure:
    _MEASURES[function.__name__] = function
    return function


def names() -> list[str]:
    """Names of the batched instruments."""
    return sorted(_MEASURES)


def measure(subject: Subject, name: str, **options: Any) -> Measurement:
    """Measure one quantity of every member.

    Raises:
        UnknownNameError: There is no such instrument.
    """
    if name not in _MEASURES:
        raise UnknownNameError("instrument of ensembles", name, _MEASURES)
    with kernels.mode(subject.model, False), kernels.twice_differentiable():
        sample = _batches.take(subject.data, slice(0, 4))
        reason = vmap.supports(subject.model, subject.loss_fn, Batch(sample[0], sample[1], True, True))
        return _MEASURES[name](replace(subject, vectorised=reason is None), **options)


@_named
def hessian_top_eigenvalue(
    subject: Subject,
    *,
    num_products: int = 40,
    tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> Measurement:
    """Largest (most positive) eigenvalue of every member's Hessian, by block Lanczos over the members.

    All members share one retained gradient graph; one backward pass through it is one product for each of them, since
    the Hessian of the summed losses is block diagonal. Full reorthogonalisation, twice.

    **Cost** one gradient and at most ``num_products`` products per member; ``num_products`` vectors in memory each.

    **Assumes** a loss that is twice differentiable almost everywhere.

    **Misleads** where two eigenvalues nearly coincide: the residual bounds the distance to *an* eigenvalue.

    Args:
        subject: What is measured.
        num_products: At most so many products.
        tolerance: Stop when every residual is below this share of its eigenvalue.
        generator: Draws the starting vector, the same for all members; a fixed seed if ``None``.

    Returns:
        The eigenvalues, dims ("member",), unit ℓ/θ²; ``standard_error`` is the residual, an upper bound of the
        distance to an eigenvalue. ``details``: ``products``.

    Raises:
        InputError: ``num_products`` is below 1.
    """
    if num_products < 1:
        raise InputError(f"num_products is {num_products}; it must be at least 1.")
    size = subject.layout.num_params
    draw = generator or torch.Generator().manual_seed(0)
    start = torch.randn(size, generator=draw, dtype=torch.float64)
    limit = min(num_products, size)
    values, residuals, products = [], [], 0
    for part in subject.chunks(max(1, _BASIS // (limit * size))):
        found, residual, used = _lanczos(part, start, limit, tolerance)
        values.append(found)
        residuals.append(residual)
        products = max(products, used)
    top, error = torch.cat(values).cpu().numpy(), torch.cat(residuals).cpu().numpy()
    floor = np.finfo(np.float32).eps if subject.params.dtype == torch.float32 else 1e-12
    calm = bool((error <= np.maximum(tolerance, floor) * np.abs(top) + 1e-30).all())
    sentence = f"{products} products; largest residual {np.nanmax(error, initial=0.0):.2g}."
    state = State.CONVERGED if calm else State.NOT_CONVERGED
    if not np.isfinite(top).all():
        state, sentence = (
            State.NON_FINITE,
            f"{int((~np.isfinite(top)).sum())} members have no finite curvature.",
        )
    cost = Cost(gradients=1, products=products)
    return _answer(
        "hessian_top_eigenvalue", subject, top, "ℓ/θ²", Status(state, sentence), error=error, cost=cost,
        details={"products": products},
    )  # fmt: skip


def _lanczos(part: Subject, start: Tensor, limit: int, tolerance: float) -> tuple[Tensor, Tensor, int]:
    leaves = vmap.leaves_of(part.params, part.layout)
    tensors = list(leaves.values())
    total = part.losses(leaves, part.data).sum()
    flat = vmap.flatten(
        torch.autograd.grad(total, tensors, create_graph=True, allow_unused=True, materialize_grads=True),
        part.params,
    )

    def product(v: Tensor) -> Tensor:
        if not flat.requires_grad:  # a loss that is linear in the parameters has no curvature
            return torch.zeros_like(v)
        parts = torch.autograd.grad(
            flat, tensors, grad_outputs=v, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return vmap.flatten(parts, part.params)

    members, size = part.params.shape
    basis = part.params.new_zeros(members, limit, size)
    matrix = torch.zeros(members, limit, limit, dtype=torch.float64, device=part.params.device)
    vector = (start / start.norm()).to(part.params).expand(members, size)
    alive = torch.isfinite(flat.detach().sum(1))
    scale = part.params.new_zeros(members)
    top = residual = torch.full((members,), torch.nan, dtype=torch.float64, device=part.params.device)
    j = 0
    for j in range(limit):
        basis[:, j] = vector
        image = torch.where(alive[:, None], product(vector), 0.0)
        matrix[:, j, j] = (image * vector).sum(1).double()
        known = basis[:, : j + 1]
        for _ in range(2):
            image = image - torch.einsum("mk,mkp->mp", torch.einsum("mkp,mp->mk", known, image), known)
        length = image.norm(dim=1)
        scale = torch.maximum(scale, torch.maximum(matrix[:, j, j].abs().to(length), length))
        # Below rounding the Krylov space is exhausted: what is left is noise, and must not come back as a vector.
        ended = length <= 8 * torch.finfo(length.dtype).eps * size**0.5 * scale
        length = torch.where(ended, 0.0, length)
        vector = torch.where(
            ended[:, None], 0.0, image / length.clamp(min=torch.finfo(length.dtype).tiny)[:, None]
        )
        values, vectors = torch.linalg.eigh(_block(matrix, j))
        # A member that has converged keeps its answer, or it would depend on how long the others take.
        settled = residual <= tolerance * top.abs()
        top = torch.where(settled, top, values[:, -1])
        residual = torch.where(settled, residual, (vectors[:, -1, -1] * length).abs().double())
        if j + 1 < limit:
            matrix[:, j, j + 1] = matrix[:, j + 1, j] = length.double()
        if bool(((residual <= tolerance * top.abs()) | ~alive).all()):
            break
    dead = torch.full_like(top, torch.nan)
    return torch.where(alive, top, dead), torch.where(alive, residual, dead), j + 1


def _block(matrix: Tensor, j: int) -> Tensor:
    """The leading block of the tridiagonal matrix.

    Rows after the end of a member's Krylov space repeat its first entry, which is never above the largest eigenvalue,
    rather than 0, which might be.
    """
    block = matrix[:, : j + 1, : j + 1].clone()
    linked = torch.cat(
        [torch.ones_like(block[:, :1, 0]), torch.diagonal(block, offset=1, dim1=1, dim2=2)], dim=1
    )
    gone = (linked == 0).cumsum(1) > 0
    diagonal = torch.diagonal(block, dim1=1, dim2=2)
    diagonal.copy_(torch.where(gone, diagonal[:, :1], diagonal))
    return torch.nan_to_num(block)


@_named
def gradient_noise_scale(subject: Subject, *, examples: int | None = None) -> Measurement:
    """Simple noise scale B = trΣ/|G|² of every member, in examples, from per-example gradients.

    trΣ = Σ|g_i - ḡ|²/(n - 1), |G|² = |ḡ|² - trΣ/n, both unbiased.

    **Cost** one pass of per-example gradients per member; memory is bounded by taking few examples at a time.

    **Assumes** that the loss is a mean over independent examples.

    **Misleads** late in training, where |G|² vanishes: infinite there.

    Args:
        subject: What is measured.
        examples: Use the first so many only.

    Returns:
        The noise scale, dims ("member",), unit examples. ``details``: ``covariance_trace``, ``grad_sq_norm``. The
        standard error is not known (NaN).

    Raises:
        InputError: Fewer than two examples.
    """
    count = subject.examples if examples is None else min(examples, subject.examples)
    if count < 2:
        raise InputError(f"The noise scale needs at least 2 examples; there are {count}.")
    size = subject.layout.num_params
    traces, norms = [], []
    for part in subject.chunks(max(1, _ROWS // size)):
        step = max(1, _ROWS // (size * len(part.params)))
        total, squares = part.params.new_zeros(len(part.params), size, dtype=torch.float64), 0.0
        for begin in range(0, count, step):
            rows = _example_gradients(part, slice(begin, min(begin + step, count)))
            total += rows.sum(1, dtype=torch.float64)
            squares = squares + rows.double().square().sum((1, 2))
        mean = total.square().sum(1) / count**2
        trace = (squares - count * mean) / (count - 1)
        traces.append(trace)
        norms.append(mean - trace / count)
    trace, norm = torch.cat(traces).cpu().numpy(), torch.cat(norms).cpu().numpy()
    ratio = np.full_like(trace, math.inf)
    np.divide(trace, norm, out=ratio, where=~(norm <= 0))
    lost = int((norm <= 0).sum())
    sentence = f"From {count} examples; the mean gradient of {lost} members is lost in noise."
    return _answer(
        "gradient_noise_scale", subject, ratio, "examples", Status(State.ESTIMATE, sentence),
        error=np.full_like(ratio, math.nan), cost=Cost(gradients=count / subject.examples),
        details={"covariance_trace": trace, "grad_sq_norm": norm},
    )  # fmt: skip


def _example_gradients(part: Subject, which: slice) -> Tensor:
    """Per-example gradients of a chunk, shape (members, examples, params)."""
    data = _batches.take(part.data, which)
    count = _batches.size_of(data)
    if not part.vectorised:
        rows = [replace(part, data=_batches.take(data, slice(i, i + 1))).gradient() for i in range(count)]
        return torch.stack(rows, dim=1)
    caller = vmap.Caller(part.model)

    def of_one(parameters: dict[str, Tensor], others: Buffers, inputs: Any, targets: Any) -> Tensor:
        lone = tree_map(lambda t: t[None] if isinstance(t, Tensor) else t, (inputs, targets))
        own = {f"model.{name}": t for group in (parameters, others) for name, t in group.items()}
        return check_scalar(part.loss_fn(functional_call(caller, own, (lone[0],)), lone[1]))

    leaves = {name: t.detach() for name, t in vmap.leaves_of(part.params, part.layout).items()}
    each = torch.vmap(torch.func.grad(of_one), in_dims=(None, None, 0, 0))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*batching rule.*")
        parts = torch.vmap(each, in_dims=(0, 0, None, None))(leaves, part.buffers, *data)
    return torch.cat([t.reshape(len(part.params), count, -1) for t in parts.values()], dim=2)


@_named
def gradient_norm(subject: Subject) -> Measurement:
    """Norm of every member's gradient on the data, unit ℓ/θ. **Cost** one gradient per member."""
    values = torch.cat([part.gradient().norm(dim=1) for part in subject.chunks()]).double().cpu().numpy()
    return _answer("gradient_norm", subject, values, "ℓ/θ", _exact(values), cost=Cost(gradients=1))


@_named
def parameter_norm(subject: Subject) -> Measurement:
    """Norms of every member's parameters, one per tensor and, last, of all together; unit θ."""
    slices = subject.layout.slices()
    columns = [
        torch.linalg.vector_norm(subject.params[:, s], dim=1, dtype=torch.float64) for s in slices.values()
    ]
    columns.append(torch.linalg.vector_norm(subject.params, dim=1, dtype=torch.float64))
    values = torch.stack(columns, dim=1).cpu().numpy()
    return _answer(
        "parameter_norm",
        subject,
        values,
        "θ",
        _exact(values),
        dims=("layer",),
        coords={"layer": [*slices, "all"]},
    )


@_named
def effective_ranks(subject: Subject) -> Measurement:
    """Effective rank of every weight matrix of every member: the exponential of the entropy of its singular values.

    A convolution counts as (channels out) x (channels in · places). **Cost** one batched singular value decomposition
    per matrix; no pass over the data. NaN for a matrix of zeros or one that is not finite.

    References:
        Roy, Vetterli (2007), definition 1.
    """
    slices, chosen = subject.layout.slices(), []
    for name, shape in zip(subject.layout.names, subject.layout.shapes, strict=True):
        if len(shape) >= 2 and 0 not in shape:
            chosen.append((name, shape))
    columns = []
    for name, shape in chosen:
        matrices = subject.params[:, slices[name]].double().reshape(-1, shape[0], math.prod(shape[1:]))
        calm = torch.isfinite(matrices).all(dim=(1, 2))
        values = torch.linalg.svdvals(torch.where(calm[:, None, None], matrices, 0.0))
        shares = values / values.sum(1, keepdim=True)
        entropy = -torch.special.xlogy(shares, shares).sum(1)
        columns.append(torch.where(calm & (values[:, 0] > 0), entropy.exp(), torch.nan))
    ranks = torch.stack(columns, 1).cpu().numpy() if columns else np.empty((len(subject.params), 0))
    status = Status(State.EXACT, f"From the singular values of {len(chosen)} matrices.")
    return _answer(
        "effective_ranks",
        subject,
        ranks,
        "1",
        status,
        dims=("layer",),
        coords={"layer": [name for name, _ in chosen]},
    )


def _exact(values: np.ndarray) -> Status:
    bad = int((~np.isfinite(values.reshape(len(values), -1))).any(1).sum())
    if bad:
        return Status(State.NON_FINITE, f"{bad} of {len(values)} members are not finite.")
    return Status(State.EXACT, "No estimation involved.")


def _answer(
    name: str,
    subject: Subject,
    values: np.ndarray,
    unit: str,
    status: Status,
    *,
    dims: tuple[str, ...] = (),
    coords: dict[str, Any] | None = None,
    error: np.ndarray | float = 0.0,
    cost: Cost | None = None,
    details: dict[str, Any] | None = None,
) -> Measurement:
    return Measurement(
        name=name,
        value=values,
        unit=unit,
        status=status,
        standard_error=error,
        dims=("member", *dims),
        coords={"member": list(subject.seeds), **(coords or {})},
        cost=cost or Cost(),
        details=details or {},
    )
