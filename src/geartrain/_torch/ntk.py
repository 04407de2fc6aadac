"""The empirical neural tangent kernel J Jᵀ by contraction layer by layer, without the Jacobian.

The gradient of an output with respect to a weight is a sum over places (words, pixels) of (what went in) x (gradient
of what came out). So its part of the kernel is a sum over pairs of places of products of two small Gram matrices, or,
where there are more places than inputs, the Gram matrix of that weight's gradients alone: whichever takes fewer
operations. Parameters that no layer of a known kind explains (checked against autograd, see `taps.verify`) get rows
of the Jacobian of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import vjp, vmap
from torch.utils._pytree import tree_leaves, tree_map

from geartrain._torch import batches as _batches
from geartrain._torch import kernels, taps
from geartrain.errors import NonFiniteError, UnsupportedError

if TYPE_CHECKING:
    from geartrain.objective import Objective

Kind = Literal["sum", "per_output", "full"]

LIMIT_BYTES = 2**28
"""Working memory beside the kernel itself."""

_ELEMENTWISE = (
    8  # a product entry by entry costs about as much as so many multiply-adds inside a matrix product
)


@dataclass(frozen=True)
class Kernel:
    """A kernel and how it was had.

    Attributes:
        matrix: ``"sum"``: (examples, examples), summed over outputs; ``"per_output"``: (outputs, examples, examples);
            ``"full"``: (examples, outputs, examples, outputs).
        structured: Parameters contracted layer by layer.
        rows: Parameters that took rows of the Jacobian.
        bytes: Memory planned for, in bytes: the kernel, the layers' gradients, the working space.
    """

    matrix: Tensor
    structured: tuple[str, ...]
    rows: tuple[str, ...]
    bytes: int


@dataclass
class _Graph:
    """One forward pass on the batch with its graph."""

    objective: Objective
    leaves: dict[str, Tensor]
    batch: Any
    outputs: Tensor
    record: taps.Record

    @property
    def num_examples(self) -> int:
        return len(self.outputs)


def flat_outputs(structure: Any, num_examples: int) -> Tensor:
    """All outputs that are numbers, one row per example: shape (examples, outputs).

    Raises:
        UnsupportedError: There are none, or the first axis is not that of the examples.
    """
    leaves = [t for t in tree_leaves(structure) if isinstance(t, Tensor) and t.is_floating_point()]
    if not leaves or any(t.ndim == 0 or len(t) != num_examples for t in leaves):
        got = ", ".join(str(tuple(t.shape)) for t in leaves) or "none"
        raise UnsupportedError(
            f"The outputs have the shapes {got} for {num_examples} examples; a tangent kernel needs tensors of real "
            "numbers with the examples along axis 0."
        )
    return torch.cat([t.reshape(num_examples, -1) for t in leaves], dim=1)


def kernel(
    objective: Objective,
    kind: Kind = "sum",
    *,
    outputs: Tensor | None = None,
    params: Tensor | None = None,
    limit: int = LIMIT_BYTES,
    structured: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> Kernel | None:
    """The neural tangent kernel on all the data of the objective.

    Args:
        objective: What to differentiate; its examples must not be coupled.
        kind: See `Kernel`.
        outputs: Indices of the outputs that count, of those that `flat_outputs` lists; all if omitted.
        params: Where; the present parameters if omitted.
        limit: Bytes of working memory.
        structured: False takes the rows of the Jacobian for every parameter.
        should_stop: Asked between passes; ``None`` is returned if it says yes.

    Returns:
        The kernel, in the objective's dtype.

    Raises:
        NonFiniteError: The outputs or their gradients are not finite.
        UnsupportedError: The outputs are no numbers by example, or do not depend on the parameters.
    """
    batch = _batches.join(list(objective.batches))
    names = objective.layout.names
    with objective._quiet():
        graph = _forward(objective, params, batch, names if structured else ())
        index = (
            torch.arange(graph.outputs.shape[1], device=graph.outputs.device) if outputs is None else outputs
        )
        sites = _verified(graph) if structured else []
        done = tuple(n for site in sites for n in site.names)
        rest = tuple(n for n in names if n not in done)
        matrix = _zeros(kind, graph.num_examples, len(index), objective)
        needed = _memory(graph, sites, rest, len(index), kind, limit)
        for part in _portions(graph, sites, len(index), kind, limit):
            for pieces, gradients in _gradients(graph, part, index, kind, limit, should_stop):
                if gradients is None:
                    return None
                view = matrix if pieces is None or kind == "sum" else matrix[pieces]
                _contract_all(view, kind, graph, part, gradients, limit)
        for rows in _rows(graph, rest, index, limit):
            if should_stop():
                return None
            _add_rows(matrix, kind, rows)
    if not bool(torch.isfinite(matrix).all()):
        raise NonFiniteError(
            "The kernel is not finite: gradients of the outputs overflow the type of the parameters."
        )
    return Kernel(matrix, done, rest, needed)


@dataclass(frozen=True)
class Plan:
    """What a kernel will take, known before it is computed.

    Attributes:
        num_outputs: Outputs per example, all of them.
        rows: Parameters that will take rows of the Jacobian.
        bytes: Memory for so many examples and outputs.
    """

    num_outputs: int
    rows: tuple[str, ...]
    bytes: int


def plan(
    objective: Objective, kind: Kind = "sum", *, num_examples: int, num_outputs: int, limit: int = LIMIT_BYTES
) -> Plan:
    """Look at two examples, off the meter, to say what a kernel on many will take."""
    two = objective.on(_batches.take(objective.batches[0], slice(0, 2)))
    with objective._quiet():
        graph = _forward(two, None, two.batches[0], objective.layout.names, charged=False)
        sites = _verified(graph, charged=False)
        done = {n for site in sites for n in site.names}
        rest = tuple(n for n in objective.layout.names if n not in done)
        outputs = min(num_outputs, graph.outputs.shape[1])
        needed = _memory(graph, sites, rest, outputs, kind, limit, num_examples)
    return Plan(graph.outputs.shape[1], rest, needed)


def jacobian(objective: Objective, *, outputs: Tensor | None = None, params: Tensor | None = None) -> Tensor:
    """The Jacobian itself, shape (examples, outputs, params); memory is theirs multiplied."""
    batch = _batches.join(list(objective.batches))
    with objective._quiet():
        graph = _forward(objective, params, batch, ())
        index = (
            torch.arange(graph.outputs.shape[1], device=graph.outputs.device) if outputs is None else outputs
        )
        return _jacobian(graph, objective.layout.names, index, LIMIT_BYTES)


def jvp(objective: Objective, v: Tensor, *, params: Tensor | None = None) -> Tensor:
    """J v on all the data, shape (examples, outputs), by differentiating Jᵀu in u: any model, no forward mode."""
    parts = objective.layout.unflatten(v.to(objective.dtype))
    pieces = []
    for batch in objective.batches:
        with objective._quiet():
            graph = _forward(objective, params, batch, (), charged=False)
            dummy = torch.zeros_like(graph.outputs, requires_grad=True)
            leaves = list(graph.leaves.values())
            pulled = grad(
                graph.outputs, leaves, dummy, create_graph=True, allow_unused=True, materialize_grads=True
            )
            live = [(p, t) for p, t in zip(pulled, parts, strict=True) if p.requires_grad]
            pushed = grad([p for p, _ in live], dummy, [t.to(p.dtype) for p, t in live])[0]
        pieces.append(pushed.detach().to(objective.dtype))
    objective.charge(gradients=2)
    return objective._finite(torch.cat(pieces), "product with the Jacobian", params)


# ---------------------------------------------------------------------- one forward pass, checked


def _forward(
    objective: Objective, params: Tensor | None, batch: Any, names: Sequence[str], *, charged: bool = True
) -> _Graph:
    leaves = objective._leaves(params)
    for name, value in leaves.items():
        if not bool(torch.isfinite(value).all()):  # a saturating unit would hide it from the outputs
            raise NonFiniteError(f"The parameter {name} holds NaN or infinite numbers.")
    with taps.recording(objective.model, names) as record:
        structure = objective._outputs(leaves, batch)
    outputs = flat_outputs(structure, _batches.size_of(batch))
    objective.charge(forwards=float(charged))
    objective._finite(outputs.detach(), "output", params)
    if not outputs.requires_grad:
        raise UnsupportedError("The outputs do not depend on the parameters that are measured.")
    return _Graph(objective, leaves, batch, outputs, record)


def _verified(graph: _Graph, *, charged: bool = True) -> list[taps.Site]:
    """Sites whose products reproduce the gradient of a random test output of every other example."""
    sites = graph.record.sites()
    if not sites:
        return []
    n = graph.num_examples
    source = torch.Generator().manual_seed(n)
    chosen = (torch.arange(n) % 2 == 0).to(graph.outputs.device)
    test = torch.randn(graph.outputs.shape, generator=source).to(graph.outputs) * chosen[:, None]
    names = list(dict.fromkeys(name for site in sites for name in site.names))
    variables = [graph.leaves[name] for name in names]
    answers: dict[str, Any] = {}

    def slopes(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        everything = grad(
            graph.outputs,
            [*tensors, *variables],
            test,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        answers.update(zip(names, everything[len(tensors) :], strict=True))
        return everything[: len(tensors)]

    passed = taps.verify(sites, n, chosen, slopes, answers)
    graph.objective.charge(gradients=float(charged))
    return passed


def _memory(
    graph: _Graph,
    sites: Sequence[taps.Site],
    rest: Sequence[str],
    num_outputs: int,
    kind: Kind,
    limit: int,
    num_examples: int | None = None,
) -> int:
    """Bytes of the kernel, of the layers' gradients held at once, and of the working space."""
    n = num_examples or graph.num_examples
    width = graph.outputs.element_size()
    size = {"sum": 1, "per_output": num_outputs, "full": num_outputs**2}[kind] * n * n * width
    per_example = {id(c): c.output.numel() / graph.num_examples for s in sites for c in s.calls}
    gradients = [width * n * num_outputs * e for e in per_example.values()]
    largest = max(gradients, default=0) if kind == "full" else 0
    spaces = [width * n * num_outputs * sum(graph.leaves[r].numel() for r in rest)]
    for site in sites:
        shape = (n, site.places(graph.num_examples), num_outputs, site.num_channels)
        if site.role == "outer" and _gram_is_cheaper(kind, site, shape):
            spaces.append(3 * width * _pairs(kind, num_outputs) * (n * shape[1]) ** 2)
        else:
            spaces.append(width * n * num_outputs * graph.leaves[site.name].numel())
    working = min(limit, max(spaces))
    return int(size + max(largest, min(limit, sum(gradients))) + working)


# ---------------------------------------------------------------------- gradients of what the layers gave out


def _portions(
    graph: _Graph, sites: Sequence[taps.Site], num_outputs: int, kind: Kind, limit: int
) -> Iterator[list[taps.Site]]:
    """The sites in portions whose gradients fit in memory together; the outputs are gone through once for each."""
    portion: list[taps.Site] = []
    held: dict[int, int] = {}
    for site in sites:
        new = {id(c): c.output.numel() * c.output.element_size() * num_outputs for c in site.calls}
        if portion and sum((held | new).values()) > limit:
            yield portion
            portion, held = [], {}
        portion.append(site)
        held |= new
    if portion:
        yield portion


def _gradients(
    graph: _Graph,
    sites: Sequence[taps.Site],
    index: Tensor,
    kind: Kind,
    limit: int,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[slice | None, dict[int, Tensor] | None]]:
    """Gradients of the outputs with respect to what each call gave out, shape (examples, places, outputs, channels).

    Outputs come a few at a time where all would not fit and the kernel does not mix them.
    """
    calls = list({id(c): c for site in sites for c in site.calls}.values())
    each = sum(c.output.numel() * c.output.element_size() for c in calls)
    step = len(index) if kind == "full" else max(1, min(len(index), limit // max(1, each)))
    n = graph.num_examples
    for start in range(0, len(index), step):
        stop = min(start + step, len(index))
        held = {id(c): graph.outputs.new_empty((n, c.places(n), stop - start, c.num_channels)) for c in calls}
        for place, output in enumerate(index[start:stop].tolist()):
            if should_stop():
                yield None, None
                return
            pulled = grad(
                graph.outputs[:, output].sum(),
                [c.output for c in calls],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            graph.objective.charge(
                forwards=1
            )  # back to what the layers gave out, no weights: about a forward pass
            for call, slope in zip(calls, pulled, strict=True):
                held[id(call)][:, :, place] = call.channels(slope, n)
        yield (slice(start, stop) if step < len(index) else None), held


# ---------------------------------------------------------------------- contraction


def _zeros(kind: Kind, n: int, o: int, objective: Objective) -> Tensor:
    shape = {"sum": (n, n), "per_output": (o, n, n), "full": (n, o, n, o)}[kind]
    return torch.zeros(shape, dtype=objective.dtype, device=objective.device)


def _contract_all(
    matrix: Tensor,
    kind: Kind,
    graph: _Graph,
    sites: Sequence[taps.Site],
    held: Mapping[int, Tensor],
    limit: int,
) -> None:
    for site in sites:
        slopes = _joined([held[id(c)] for c in site.calls], 1).to(matrix.dtype)
        if site.role == "bias":
            _add_rows(matrix, kind, slopes.sum(1))
        elif site.role == "scale":
            _add_rows(matrix, kind, _scaled(site, slopes))
        else:
            _contract(matrix, kind, site, slopes, limit)


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Concatenated; without a copy where there is one only."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def _scaled(site: taps.Site, slopes: Tensor) -> Tensor:
    rows = [
        torch.einsum(
            "nsoc,nsc->noc", slopes[i : i + 16], site.factor(len(slopes), slice(i, i + 16)).to(slopes)
        )
        for i in range(0, len(slopes), 16)
    ]
    return torch.cat(rows)


def _contract(matrix: Tensor, kind: Kind, site: taps.Site, slopes: Tensor, limit: int) -> None:
    """Add the part of one weight by the cheaper of two ways."""
    way = _by_gram if _gram_is_cheaper(kind, site, tuple(slopes.shape)) else _by_rows
    way(matrix, kind, site, slopes, limit)


def _gram_is_cheaper(kind: Kind, site: taps.Site, shape: tuple[int, ...]) -> bool:
    """Multiply-adds of both ways compared, for gradients of shape (examples, places, outputs, channels)."""
    n, s, o, c = shape
    width, mixed = site.width(), o if kind == "full" else 1
    by_gram = n * n * s * s * (width + c * o * mixed + _ELEMENTWISE * _pairs(kind, o))
    by_rows = n * o * s * width * c + n * n * o * mixed * width * c
    return by_gram <= by_rows


def _pairs(kind: Kind, o: int) -> int:
    """Numbers per pair of examples in a kernel."""
    return {"sum": 1, "per_output": o, "full": o * o}[kind]


def _by_rows(matrix: Tensor, kind: Kind, site: taps.Site, slopes: Tensor, limit: int) -> None:
    """Gradients of the weight for every example and output, a few output channels at a time."""
    n, s, o, _ = slopes.shape
    groups, inputs = site.groups, site.width() // site.groups
    channels = max(1, limit // (n * o * inputs * slopes.element_size()))
    examples = max(
        1, limit // max(1, 4 * s * (inputs * groups + o * slopes.shape[3]) * slopes.element_size())
    )
    for g, block in enumerate(slopes.chunk(groups, dim=3)):
        for first in range(0, block.shape[3], channels):
            wanted = block[..., first : first + channels]
            rows = [
                wanted[i : i + examples].flatten(2).transpose(1, 2)
                @ _inputs(site, n, slice(i, i + examples), g, slopes)
                for i in range(0, n, examples)
            ]
            _add_rows(matrix, kind, _joined(rows, 0).reshape(n, o, -1))
    if site.bias is not None:
        _add_rows(matrix, kind, slopes.sum(1))


def _by_gram(matrix: Tensor, kind: Kind, site: taps.Site, slopes: Tensor, limit: int) -> None:
    """Products of Gram matrices of inputs and of gradients, summed over pairs of places, a few examples at a time."""
    n, s, o, _ = slopes.shape
    each = s * s * slopes.element_size() * _pairs(kind, o)
    size = max(1, min(n, int((limit / (3 * each)) ** 0.5)))
    starts = range(0, n, size)
    for g, block in enumerate(slopes.chunk(site.groups, dim=3)):
        for i in starts:
            first = slice(i, i + size)
            left = _inputs(site, n, first, g, slopes)
            for j in starts:
                if j < i:
                    continue
                second = slice(j, j + size)
                right = left if i == j else _inputs(site, n, second, g, slopes)
                inputs = left.flatten(0, 1) @ right.flatten(0, 1).T
                if site.bias is not None:
                    inputs += 1  # a bias is the weight of an input that is always one
                part = _GRAM[kind](inputs, block[first], block[second])
                _place(matrix, kind, part, first, second)


def _gram_sum(inputs: Tensor, left: Tensor, right: Tensor) -> Tensor:
    products = inputs.mul_(left.flatten(2).flatten(0, 1) @ right.flatten(2).flatten(0, 1).T)
    return products.view(len(left), left.shape[1], len(right), right.shape[1]).sum((1, 3))


def _gram_per_output(inputs: Tensor, left: Tensor, right: Tensor) -> Tensor:
    rows, columns = (t.flatten(0, 1).transpose(0, 1) for t in (left, right))
    products = (rows @ columns.transpose(1, 2)).mul_(inputs)
    return products.view(-1, len(left), left.shape[1], len(right), right.shape[1]).sum((2, 4))


def _gram_full(inputs: Tensor, left: Tensor, right: Tensor) -> Tensor:
    (n, s, o, _), (m, t, _, _) = left.shape, right.shape
    products = (left.flatten(0, 2) @ right.flatten(0, 2).T).view(n, s, o, m, t, o)
    return products.mul_(inputs.view(n, s, 1, m, t, 1)).sum((1, 4))


_GRAM: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sum": _gram_sum,
    "per_output": _gram_per_output,
    "full": _gram_full,
}


def _place(matrix: Tensor, kind: Kind, part: Tensor, first: slice, second: slice) -> None:
    """Add a block, and its mirror image below the diagonal."""
    twin = first != second
    if kind == "full":
        matrix[first, :, second] += part
        if twin:
            matrix[second, :, first] += part.permute(2, 3, 0, 1)
        return
    matrix[..., first, second] += part
    if twin:
        matrix[..., second, first] += part.transpose(-1, -2)


def _inputs(site: taps.Site, n: int, part: slice, group: int, like: Tensor) -> Tensor:
    """What went in, for one group of a convolution."""
    factor = site.factor(n, part).to(like)
    return factor.chunk(site.groups, dim=-1)[group] if site.groups > 1 else factor


def _add_rows(matrix: Tensor, kind: Kind, rows: Tensor) -> None:
    """Add rows rowsᵀ for rows of shape (examples, outputs, entries)."""
    rows = rows.to(matrix.dtype)
    if kind == "sum":
        matrix.addmm_(flat := rows.flatten(1), flat.T)
    elif kind == "per_output":
        by_output = rows.transpose(0, 1)
        matrix += by_output @ by_output.transpose(1, 2)
    else:
        flat = rows.flatten(0, 1)
        matrix.view(len(flat), len(flat)).addmm_(flat, flat.T)


# ---------------------------------------------------------------------- rows of the Jacobian, for the rest


def _rows(graph: _Graph, names: Sequence[str], index: Tensor, limit: int) -> Iterator[Tensor]:
    """Rows for some parameters, shape (examples, outputs, entries), as many parameters at a time as fit."""
    portion: list[str] = []
    held = 0
    per_entry = graph.num_examples * len(index) * graph.outputs.element_size()
    for name in names:
        size = graph.leaves[name].numel() * per_entry
        if portion and held + size > limit:
            yield _jacobian(graph, portion, index, limit)
            portion, held = [], 0
        portion.append(name)
        held += size
    if portion:
        yield _jacobian(graph, portion, index, limit)


def _jacobian(graph: _Graph, names: Sequence[str], index: Tensor, limit: int) -> Tensor:
    """Jacobian with respect to some parameters, vectorised over examples and outputs where the model allows it."""
    random = graph.objective._random()
    if not random and not any(isinstance(m, nn.RNNBase) for m in graph.objective.model.modules()):
        try:
            rows = _vectorised(graph, names, index, limit)
        except (RuntimeError, ValueError, TypeError, IndexError, UnsupportedError):
            # vmap does not know every operation, and user code may branch on values; one by one always works.
            rows = None
        if rows is not None:
            graph.objective.charge(gradients=len(index))
            return rows
    found = _one_graph(graph, names, index) if random else _one_by_one(graph, names, index)
    graph.objective.charge(gradients=len(index) * (graph.num_examples if random else 1))
    return found


def _vectorised(graph: _Graph, names: Sequence[str], index: Tensor, limit: int) -> Tensor:
    objective, batch, n = graph.objective, graph.batch, graph.num_examples
    held = {k: v.detach() for k, v in graph.leaves.items()}
    moving = {name: held.pop(name) for name in names}
    flags = tree_map(lambda t: isinstance(t, Tensor) and t.ndim > 0 and t.shape[0] == n, batch)
    axes = tree_map(lambda m: 0 if m else None, flags)
    basis = torch.eye(len(index), dtype=graph.outputs.dtype, device=graph.outputs.device)

    def rows(values: Mapping[str, Tensor], example: Any) -> Mapping[str, Tensor]:
        one = tree_map(lambda t, m: t[None] if m else t, example, flags)

        def outputs(inner: Mapping[str, Tensor]) -> Tensor:
            return flat_outputs(objective._outputs({**held, **inner}, one), 1)[0][index]

        pull = vjp(outputs, values)[1]
        return vmap(pull)(basis)[0]

    # Beside the rows every output keeps its own copy of the gradients of all activations.
    activations = sum(c.output.numel() for calls in graph.record.calls.values() for c in calls) // n
    size = sum(v.numel() for v in moving.values()) + 4 * activations
    chunk = max(1, min(n, limit // (len(index) * size * basis.element_size())))
    pieces = []
    for start in range(0, n, chunk):
        part = _batches.take(batch, slice(start, start + chunk))
        found = vmap(rows, in_dims=(None, axes))(moving, part)
        pieces.append(
            torch.cat([found[name].detach().flatten(2) for name in names], dim=2).to(objective.dtype)
        )
    return torch.cat(pieces)


def _one_by_one(graph: _Graph, names: Sequence[str], index: Tensor) -> Tensor:
    pieces = []
    for i in range(graph.num_examples):
        part = _batches.take(graph.batch, slice(i, i + 1))
        outputs = flat_outputs(graph.objective._outputs(graph.leaves, part), 1)[0]
        pieces.append(torch.stack([_row(graph, names, outputs[a]) for a in index.tolist()]))
    return torch.stack(pieces)


def _one_graph(graph: _Graph, names: Sequence[str], index: Tensor) -> Tensor:
    """Rows from the one forward pass there was: what dropout drew must be the same for all parameters."""
    rows = [
        [_row(graph, names, graph.outputs[i, a]) for a in index.tolist()] for i in range(graph.num_examples)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def _row(graph: _Graph, names: Sequence[str], output: Tensor) -> Tensor:
    variables = [graph.leaves[name] for name in names]
    parts = grad(output, variables, retain_graph=True, allow_unused=True, materialize_grads=True)
    dense = (p.to_dense() if p.is_sparse else p for p in parts)
    return torch.cat([p.reshape(-1).to(graph.objective.dtype) for p in dense])


def uncoupled(objective: Objective) -> bool:
    """Whether no example's outputs depend on the others through batch normalisation."""
    with kernels.mode(objective.model, objective.training):
        return not kernels.mixes_examples(objective.model)
