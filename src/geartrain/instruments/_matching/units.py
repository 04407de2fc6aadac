"""Groups of exchangeable units: axes of parameters that can be permuted together without changing the function.

The model is traced once (`torch.fx`) and run on a sample. Every axis of every intermediate tensor carries a label:
which group of units runs along it, or none. A layer that mixes its inputs ties its input axis to their group and starts
a new one; what acts on each unit alone hands labels on; sums make two groups one. Whatever is not understood holds the
groups that enter it *fixed*: matching then never changes what it does not understand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from geartrain.errors import UnsupportedError
from geartrain.instruments._matching.book import Book, Label, Labels, Segment, Units


@dataclass(frozen=True)
class Call:
    """Arguments of one call of a model, by name."""

    tensors: Mapping[str, Tensor]
    constants: Mapping[str, Any]


def call_of(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """The arguments of ``model(*args, **kwargs)`` by the names of ``forward``.

    Raises:
        UnsupportedError: An argument is a structure of tensors, or there is a variable number of them.
    """
    signature = inspect.signature(model.forward)
    kinds = {p.kind for p in signature.parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        raise UnsupportedError("its forward takes a variable number of arguments")
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    tensors = {n: v for n, v in bound.arguments.items() if isinstance(v, Tensor)}
    constants = {n: v for n, v in bound.arguments.items() if n not in tensors}
    if any(isinstance(leaf, Tensor) for leaf in tree_leaves(constants)):
        raise UnsupportedError("its forward takes structures of tensors")
    return Call(tensors, constants)


def trace(model: nn.Module, call: Call, free: frozenset[str]) -> Units:
    """Find the groups of exchangeable units of a model.

    Args:
        model: It is run once, in the mode it is in; batch normalisation in training mode would update its statistics.
        call: Arguments to run it on.
        free: Parameters that may change; groups that touch others are held fixed.

    Returns:
        The groups.

    Raises:
        UnsupportedError: The model cannot be traced: its code branches on values, for example.
    """
    try:
        graph = fx.Tracer().trace(model, concrete_args=dict(call.constants) or None)
        follower = Follower(model, graph, call)
        with torch.no_grad():
            follower.run()
    except Exception as error:  # user code under symbolic values may raise anything
        raise UnsupportedError(
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    return follower.units(free)


class Follower(fx.Interpreter):
    """Runs a traced model and follows the labels; with ``keep``, notes the values of some nodes.

    Args:
        model: The model, or another of the same architecture.
        graph: Its graph.
        call: Arguments.
        keep: Names of nodes whose values are wanted.
    """

    def __init__(
        self, model: nn.Module, graph: fx.Graph, call: Call, keep: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(fx.GraphModule(model, graph), garbage_collect_values=not keep)
        self.traced = graph
        self.call, self.keep = call, keep
        self.kept: dict[str, Tensor] = {}
        self.labels: dict[fx.Node, Labels] = {}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.book = Book()
        named = [*model.named_parameters(), *model.named_buffers()]
        self.names = {id(t): n for n, t in named}
        self.is_parameter = {id(p) for p in model.parameters()}
        self.views: list[tuple[str, Labels]] = []

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The argument of that name (constants are numbered by the tracer)."""
        known = {**self.call.constants, **self.call.tensors}
        return known[target] if target in known else known[target.rpartition("_")[0]]

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and label what it returned."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
            if n.name in self.keep:
                self.kept[n.name] = result.detach()
        labels = self._labelled(n, result)
        if isinstance(result, Tensor):
            self.labels[n] = labels if labels is not None else (None,) * result.ndim
            self.views.append((n.name, self.labels[n]))
        return result

    def units(self, free: frozenset[str]) -> Units:
        """What was found."""
        parameters = {self.names[i] for i in self.is_parameter}
        return self.book.units(free, parameters, self.views, self.traced)

    # ------------------------------------------------------------------ what a node does to labels

    def _labelled(self, n: fx.Node, result: Any) -> Labels | None:
        if n.op == "placeholder":
            return None
        if n.op == "get_attr":
            return self._attribute(n, result)
        rule = self._rule(n)
        if rule is not None and isinstance(result, Tensor):
            try:
                labels = rule(n, result)
            except _NotUnderstood:
                labels = None
            if labels is not None:
                return labels
        if _only_a_size(n, result):
            return None
        self._hold(n)
        return None

    def _rule(self, n: fx.Node) -> Callable[[fx.Node, Tensor], Labels | None] | None:
        if n.op == "call_module":
            module = self.module.get_submodule(str(n.target))
            for kinds, rule in _MODULE_RULES:
                if isinstance(module, kinds):
                    return lambda node, result: rule(self, node, result, module)
            return None
        if n.op in ("call_function", "call_method"):
            name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
            rule = _FUNCTION_RULES.get(name.strip("_"))
            return None if rule is None else lambda node, result: rule(self, node, result)
        return None

    def _attribute(self, n: fx.Node, tensor: Any) -> Labels | None:
        if not isinstance(tensor, Tensor) or id(tensor) not in self.is_parameter:
            return None
        name = self.names[id(tensor)]
        labels = tuple(self.book.new(size) for size in tensor.shape)
        for axis, label in enumerate(labels):
            self.book.tie(name, axis, label, made=True)
        return tuple(self.book.tied(name, axis) for axis in range(tensor.ndim))

    def _hold(self, n: fx.Node) -> None:
        """Everything that enters this node stays as it is."""
        held = False
        for node in n.all_input_nodes:
            for label in self.labels.get(node, ()):
                held |= self.book.hold(label)
        if held and n.op != "output":
            what = self.module.get_submodule(str(n.target)) if n.op == "call_module" else n.target
            words = (
                type(what).__name__ if isinstance(what, nn.Module) else getattr(what, "__name__", str(what))
            )
            self.book.unknown.setdefault(words)

    def input_of(self, n: fx.Node) -> tuple[fx.Node, Labels]:
        """The tensor that a node works on, and its labels."""
        first = n.args[0] if n.args else next(iter(n.kwargs.values()), None)
        if not isinstance(first, fx.Node) or first not in self.labels:
            raise _NotUnderstood
        return first, self.labels[first]

    def tie(self, tensor: Tensor | None, axis: int, label: Label, *, made: bool) -> None:
        """A parameter's or buffer's axis belongs to these units."""
        if tensor is not None:
            self.book.tie(self.names[id(tensor)], axis, label, made=made)


class _NotUnderstood(Exception):
    """A rule does not cover this case after all."""


def _only_a_size(n: fx.Node, result: Any) -> bool:
    """Whether a node reads nothing of its input but its shape."""
    name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
    reads = name in {"size", "dim", "getattr", "getitem", "numel", "ndimension", "__len__", "len"}
    return reads and not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result))


# ---------------------------------------------------------------------- rules for modules


def _linear(f: Follower, n: fx.Node, result: Tensor, m: nn.Linear) -> Labels:
    labels = f.input_of(n)[1]
    f.tie(m.weight, 1, labels[-1], made=False)
    return (*labels[:-1], _made(f, m, 0, m.out_features))


def _made(f: Follower, module: nn.Module, axis: int, size: int) -> Label:
    """The units that rows of weights and the bias make; known ones where the layer was called before."""
    weight, bias = module.weight, getattr(module, "bias", None)
    f.tie(weight, axis, f.book.new(size), made=True)  # type: ignore[arg-type]
    label = f.book.tied(f.names[id(weight)], axis)
    f.tie(bias, 0, label, made=True)  # type: ignore[arg-type]
    return label


def _convolution(f: Follower, n: fx.Node, result: Tensor, m: Any) -> Labels | None:
    source, labels = f.input_of(n)
    if len(f.shapes[source]) != m.weight.ndim or any(label is not None for label in labels[2:]):
        return None
    rest = (None,) * (result.ndim - 2)
    if m.groups == 1:
        read, made = (0, 1) if m.transposed else (1, 0)
        f.tie(m.weight, read, labels[1], made=False)
        return (labels[0], _made(f, m, made, m.out_channels), *rest)
    if m.groups == m.in_channels == m.out_channels and not m.transposed:
        # Each unit has a filter of its own, which goes where the unit goes; scales would have to split.
        f.tie(m.weight, 0, labels[1], made=True)
        f.tie(m.bias, 0, labels[1], made=True)
        f.book.restrict(labels[1], positive=False, signed=False)
        return (labels[0], labels[1], *rest)
    return None


def _channel_norm(f: Follower, n: fx.Node, result: Tensor, m: Any) -> Labels | None:
    labels = f.input_of(n)[1]
    if isinstance(m, nn.GroupNorm) and m.num_groups != 1:
        return None
    tensors = ("weight", "bias", "running_mean", "running_var")
    return _norm(f, labels, 1, [getattr(m, t, None) for t in tensors])


def _last_norm(f: Follower, n: fx.Node, result: Tensor, m: Any) -> Labels | None:
    labels = f.input_of(n)[1]
    if len(m.normalized_shape) != 1:
        return None
    return _norm(f, labels, result.ndim - 1, [m.weight, getattr(m, "bias", None)])


def _norm(f: Follower, labels: Labels, axis: int, tensors: list[Tensor | None]) -> Labels:
    for tensor in tensors:
        f.tie(tensor, 0, labels[axis], made=True)
    f.book.restrict(labels[axis], positive=False, signed=False)
    return labels


def _embedding(f: Follower, n: fx.Node, result: Tensor, m: nn.Embedding) -> Labels:
    labels = f.input_of(n)[1]
    f.tie(m.weight, 0, None, made=False)
    f.tie(m.weight, 1, f.book.new(m.embedding_dim), made=True)
    return (*labels, f.book.tied(f.names[id(m.weight)], 1))


def _pointwise(*, positive: bool = False, signed: bool = False) -> Callable[..., Labels | None]:
    """A function of each unit alone; which symmetries beside permutations it keeps."""

    def rule(f: Follower, n: fx.Node, result: Tensor, module: Any = None) -> Labels | None:
        source, labels = f.input_of(n)
        others = [node for node in n.all_input_nodes if node in f.labels and node is not source]
        if others or f.shapes[source] != tuple(result.shape):
            return None
        for label in labels:
            f.book.restrict(label, positive=positive, signed=signed)
        return labels

    return rule


def _prelu(f: Follower, n: fx.Node, result: Tensor, m: nn.PReLU) -> Labels:
    labels = f.input_of(n)[1]
    if m.num_parameters > 1:
        f.tie(m.weight, 0, labels[1], made=True)
    f.book.restrict(labels[1], positive=False, signed=False)
    return labels


def _pool(*, signed: bool) -> Callable[..., Labels | None]:
    """Pooling over places: units stay, places are summed up."""

    def rule(f: Follower, n: fx.Node, result: Tensor, module: Any = None) -> Labels | None:
        source, labels = f.input_of(n)
        if len(f.shapes[source]) != result.ndim or f.shapes[source][:2] != tuple(result.shape[:2]):
            return None
        if any(label is not None for label in labels[2:]):
            return None
        f.book.restrict(labels[1], positive=True, signed=signed)
        return labels

    return rule


def _reshape(f: Follower, n: fx.Node, result: Tensor, module: Any = None) -> Labels | None:
    """Axes that survive a change of shape, alone or merged with the axes right of them."""
    source, labels = f.input_of(n)
    old, new = f.shapes[source], tuple(result.shape)
    found: list[Label] = [None] * len(new)
    for axis, label in enumerate(labels):
        if label is None:
            continue
        before, after = _product(old[:axis]), _product(old[axis + 1 :])
        for place, size in enumerate(new):
            inner = _product(new[place + 1 :])
            if (
                _product(new[:place]) == before
                and inner
                and after % inner == 0
                and size == old[axis] * (after // inner)
            ):
                found[place] = tuple((g, s, b * (after // inner)) for g, s, b in label)
                break
        else:
            return None
    return tuple(found)


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


# ---------------------------------------------------------------------- rules for functions


def _binary(f: Follower, n: fx.Node, result: Tensor) -> Labels | None:
    """Sums and products, entry by entry, with broadcasting."""
    operands = [a for a in n.args[:2] if isinstance(a, fx.Node) and a in f.labels]
    name = getattr(n.target, "__name__", str(n.target)).strip("_")
    product = name in {"mul", "imul", "rmul", "truediv", "div", "itruediv"}
    if len(operands) == 1:
        labels = f.labels[operands[0]]
        scaled = product and n.args[0] is operands[0]
        for label in labels:
            f.book.restrict(label, positive=scaled, signed=scaled)
        return labels if f.shapes[operands[0]] == tuple(result.shape) else None
    if len(operands) != 2:
        return None
    found: list[Label] = []
    for back in range(result.ndim, 0, -1):
        sides = [(f.labels[o][-back], f.shapes[o][-back]) for o in operands if len(f.shapes[o]) >= back]
        wide = [
            label for label, size in sides if size == result.shape[-back] and (size > 1 or len(sides) == 1)
        ]
        label = wide[0] if wide else None
        if len(wide) == 2:
            label = f.book.join(wide[0], wide[1])
        if (
            product or len(wide) == 1
        ):  # a number added to, or multiplied into, every unit alike knows no scale
            f.book.restrict(label, positive=False, signed=False)
        found.append(label)
    return tuple(found)


def _concatenate(f: Follower, n: fx.Node, result: Tensor) -> Labels | None:
    parts = n.args[0]
    axis = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", n.kwargs.get("axis", 0))
    if not isinstance(parts, (list, tuple)) or not isinstance(axis, int):
        return None
    nodes = [p for p in parts if isinstance(p, fx.Node) and p in f.labels]
    if len(nodes) != len(parts):
        return None
    axis %= result.ndim
    joined: list[Label] = []
    for place in range(result.ndim):
        labels = [f.labels[node][place] for node in nodes]
        if place != axis:
            for label in labels[1:]:
                f.book.join(labels[0], label)
            joined.append(labels[0])
            continue
        pieces: list[Segment] = []
        for node, label in zip(nodes, labels, strict=True):
            if label is None:  # inputs beside units: a group that is held
                label = f.book.new(f.shapes[node][place])
                f.book.hold(label)
            pieces += label or ()
        joined.append(tuple(pieces))
    return tuple(joined)


def _mean(f: Follower, n: fx.Node, result: Tensor) -> Labels | None:
    labels = f.input_of(n)[1]
    dims = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", n.kwargs.get("axis"))
    if dims is None:
        return None
    gone = {d % len(labels) for d in ([dims] if isinstance(dims, int) else dims)}  # type: ignore[union-attr]
    if any(labels[d] is not None for d in gone):
        return None
    kept = result.ndim == len(labels)
    return tuple(label for axis, label in enumerate(labels) if kept or axis not in gone)


def _transpose(f: Follower, n: fx.Node, result: Tensor) -> Labels | None:
    labels = list(f.input_of(n)[1])
    first, second = n.args[1], n.args[2]
    labels[first], labels[second] = labels[second], labels[first]  # type: ignore[index]
    return tuple(labels)


def _permute(f: Follower, n: fx.Node, result: Tensor) -> Labels | None:
    labels = f.input_of(n)[1]
    order = n.args[1] if isinstance(n.args[1], (list, tuple)) else n.args[1:]
    return tuple(labels[axis] for axis in order)  # type: ignore[index]


def _getitem(f: Follower, n: fx.Node, result: Tensor) -> Labels | None:
    """Slices and numbers along axes that carry no label."""
    _, labels = f.input_of(n)
    index = n.args[1] if isinstance(n.args[1], tuple) else (n.args[1],)
    if not all(isinstance(i, (int, slice)) or i is Ellipsis for i in index):
        return None
    if Ellipsis in index:
        place = index.index(Ellipsis)
        missing = (slice(None),) * (len(labels) - len(index) + 1)
        index = (*index[:place], *missing, *index[place + 1 :])
    index = (*index, *(slice(None),) * (len(labels) - len(index)))
    for label, i in zip(labels, index, strict=True):
        if label is not None and i != slice(None):
            return None
    return tuple(label for label, i in zip(labels, index, strict=True) if not isinstance(i, int))


_LINEAR_EACH = _pointwise(positive=True, signed=True)
_RELU_LIKE = _pointwise(positive=True)
_ODD = _pointwise(signed=True)
_ANY = _pointwise()

_MODULE_RULES: tuple[tuple[tuple[type, ...], Callable[..., Labels | None]], ...] = (
    ((nn.Linear,), _linear),
    ((nn.modules.conv._ConvNd,), _convolution),
    ((nn.modules.batchnorm._NormBase, nn.GroupNorm), _channel_norm),
    ((nn.LayerNorm, nn.RMSNorm), _last_norm),
    ((nn.Embedding,), _embedding),
    ((nn.Identity, nn.modules.dropout._DropoutNd), _LINEAR_EACH),
    ((nn.ReLU6,), _ANY),
    ((nn.ReLU, nn.LeakyReLU), _RELU_LIKE),
    ((nn.Tanh, nn.Softsign), _ODD),
    ((nn.GELU, nn.SiLU, nn.ELU, nn.CELU, nn.SELU, nn.Sigmoid, nn.Softplus, nn.Mish, nn.LogSigmoid), _ANY),
    ((nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softmax, nn.Threshold), _ANY),
    ((nn.PReLU,), _prelu),
    ((nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd), _pool(signed=True)),
    ((nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd), _pool(signed=False)),
    ((nn.Flatten, nn.Unflatten), _reshape),
)

_FUNCTION_RULES: dict[str, Callable[..., Labels | None]] = {
    **dict.fromkeys(("add", "sub", "mul", "truediv", "div", "iadd", "isub", "imul", "itruediv"), _binary),
    **dict.fromkeys(("relu", "relu_", "leaky_relu", "clamp_min"), _RELU_LIKE),
    **dict.fromkeys(("tanh", "sin", "softsign", "neg"), _ODD),
    **dict.fromkeys(("dropout", "contiguous", "clone", "float", "double", "to", "detach"), _LINEAR_EACH),
    **dict.fromkeys(
        ("gelu", "silu", "elu", "selu", "sigmoid", "softplus", "mish", "hardtanh", "hardswish", "square", "pow", "abs",
         "exp", "softmax", "log_softmax", "clamp", "normalize"),
        _ANY,
    ),
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten"), _reshape),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"), _pool(signed=True)),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "adaptive_max_pool2d"), _pool(signed=False)),
    **dict.fromkeys(("mean", "sum"), _mean),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenate),
    "transpose": _transpose,
    "permute": _permute,
    "getitem": _getitem,
}  # fmt: skip
