"""Hidden layers whose units are interchangeable, found in the traced graph of a module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from geartrain._torch.flat import Layout


@dataclass(frozen=True)
class Group:
    """The units of one hidden layer and where their weights lie in the flat vector.

    Attributes:
        name: Name of the layer that makes the units.
        size: Number of units.
        permutation: Whether they can be permuted.
        sign: Whether each can be negated.
        scale: Whether each can be scaled by a positive number.
        incoming: Indices of each unit's own weights and bias, shape (units, k).
        outgoing: Indices of the weights that read the unit, shape (units, l).
    """

    name: str
    size: int
    permutation: bool
    sign: bool
    scale: bool
    incoming: Tensor
    outgoing: Tensor


class _Passes(NamedTuple):
    """What an operation between two layers commutes with, unit by unit."""

    sign: bool
    scale: bool


_BOTH, _SIGN, _SCALE, _NEITHER = (
    _Passes(*p) for p in ((True, True), (True, False), (False, True), (False, False))
)

_BY_NAME: dict[str, _Passes] = {
    **dict.fromkeys(("identity", "dropout", "avg_pool", "adaptive_avg_pool", "contiguous", "clone"), _BOTH),
    **dict.fromkeys(("relu", "leaky_relu", "max_pool", "adaptive_max_pool"), _SCALE),
    **dict.fromkeys(
        ("tanh", "softsign", "sin", "erf", "atan", "arctan", "asinh", "softshrink", "hardshrink", "tanhshrink"), _SIGN
    ),
    **dict.fromkeys(
        ("gelu", "sigmoid", "silu", "elu", "selu", "celu", "softplus", "mish", "hardswish", "hardsigmoid", "relu6",
         "logsigmoid", "exp", "cos", "square"), _NEITHER
    ),
}  # fmt: skip
_MODULES: dict[type[nn.Module], str] = {
    nn.Identity: "identity", nn.Dropout: "dropout", nn.Dropout1d: "dropout", nn.Dropout2d: "dropout",
    nn.Dropout3d: "dropout", nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.Tanh: "tanh", nn.Softsign: "softsign",
    nn.Softshrink: "softshrink", nn.Hardshrink: "hardshrink", nn.Tanhshrink: "tanhshrink", nn.GELU: "gelu",
    nn.Sigmoid: "sigmoid", nn.SiLU: "silu", nn.ELU: "elu", nn.SELU: "selu", nn.CELU: "celu", nn.Softplus: "softplus",
    nn.Mish: "mish", nn.Hardswish: "hardswish", nn.Hardsigmoid: "hardsigmoid", nn.ReLU6: "relu6",
    nn.LogSigmoid: "logsigmoid", nn.MaxPool1d: "max_pool", nn.MaxPool2d: "max_pool", nn.MaxPool3d: "max_pool",
    nn.AvgPool1d: "avg_pool", nn.AvgPool2d: "avg_pool", nn.AvgPool3d: "avg_pool",
    nn.AdaptiveAvgPool1d: "adaptive_avg_pool", nn.AdaptiveAvgPool2d: "adaptive_avg_pool",
    nn.AdaptiveAvgPool3d: "adaptive_avg_pool", nn.AdaptiveMaxPool1d: "adaptive_max_pool",
    nn.AdaptiveMaxPool2d: "adaptive_max_pool", nn.AdaptiveMaxPool3d: "adaptive_max_pool",
}  # fmt: skip
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def find_groups(model: nn.Module, layout: Layout) -> tuple[list[Group], list[str]]:
    """The groups of a module, from the input to the output, and sentences on what was left out."""
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # tracing runs the user's forward on proxies: anything may be raised
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return [], [f"The model cannot be traced ({reason}), so its symmetries are not known."]
    modules = dict(model.named_modules(remove_duplicate=False))
    search = _Search(modules, layout, graph)
    groups, notes = [], []
    for node in graph.nodes:
        if search.is_layer(node):
            found = search.group(node)
            if isinstance(found, Group):
                groups.append(found)
            elif found:
                notes.append(found)
    return groups, notes


class _Search:
    def __init__(self, modules: dict[str, nn.Module], layout: Layout, graph: fx.Graph) -> None:
        self.modules, self.layout = modules, layout
        self.slices = layout.slices()
        self.calls: dict[int, int] = {}
        owners: dict[int, set[int]] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                module = modules[str(node.target)]
                self.calls[id(module)] = self.calls.get(id(module), 0) + 1
        for module in {id(m): m for m in modules.values()}.values():
            for p in module.parameters(recurse=False):
                owners.setdefault(id(p), set()).add(id(module))
        self.tied = {p for p, users in owners.items() if len(users) > 1}
        self.read_elsewhere = {str(n.target) for n in graph.nodes if n.op == "get_attr"}

    def is_layer(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self.modules[str(node.target)], _LAYERS)

    def group(self, node: fx.Node) -> Group | str | None:
        """The group of the units that a layer makes; a sentence if it has none for a reason worth saying."""
        name, layer = str(node.target), self.modules[str(node.target)]
        path = self._path(node)
        if path is None:
            return None
        passes, following, nonlinear, flattened = path
        if isinstance(following, str):
            return f"The units of {name} are followed by {following}: their symmetries were left alone."
        reader_name, reader = following
        if why := self._unusable(name, layer) or self._unusable(reader_name, reader):
            return f"The units of {name} were left alone: {why}."
        size = int(layer.get_parameter("weight").shape[0])
        if not nonlinear and size > 1:
            return (
                f"Between {name} and {reader_name} there is no activation: any invertible matrix can be moved across, "
                "which is not divided out. Compare functions there."
            )
        incoming, outgoing = (
            self._incoming(name, layer),
            self._outgoing(reader_name, reader, size, flattened, layer),
        )
        if outgoing is None:
            return (
                f"How {reader_name} reads the units of {name} is not known: their symmetries were left alone."
            )
        return Group(name, size, size > 1, passes.sign, passes.scale, incoming, outgoing)

    def _path(self, node: fx.Node) -> tuple[_Passes, Any, bool, bool] | None:
        """What lies between a layer and the next: what it commutes with, the next layer or why none, if nonlinear."""
        passes, nonlinear, flattened = _BOTH, False, False
        while True:
            users = [u for u in node.users if not _asks_shape(u)]
            if len(users) != 1:
                return None if not users else (passes, "several paths", nonlinear, flattened)
            node = users[0]
            if node.op == "output":
                return None
            if self.is_layer(node):
                name = str(node.target)
                return passes, (name, self.modules[name]), nonlinear, flattened
            if self._flattens(node):
                flattened = True
                continue
            step = self._operation(node)
            if step is None:
                return passes, self._words(node), nonlinear, flattened
            kind, commutes = step
            nonlinear |= commutes != _BOTH and "pool" not in kind
            passes = _Passes(passes.sign and commutes.sign, passes.scale and commutes.scale)

    def _operation(self, node: fx.Node) -> tuple[str, _Passes] | None:
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            if isinstance(module, nn.PReLU) and module.num_parameters == 1:
                return "prelu", _SCALE
            if isinstance(module, nn.Hardtanh) and type(module) is nn.Hardtanh:
                return "hardtanh", _SIGN if module.min_val == -module.max_val else _NEITHER
            kind = _MODULES.get(type(module), "")
        else:
            kind = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
            kind = kind.rstrip("_").removesuffix("1d").removesuffix("2d").removesuffix("3d")
            # Anything else that goes in (a second tensor, say) could tell units apart.
            tensors = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, fx.Node)]
            if len(tensors) != 1:
                return None
        return (kind, _BY_NAME[kind]) if kind in _BY_NAME else None

    def _flattens(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            return isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1
        name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
        if name == "flatten":
            start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
            return len(node.args) <= 2 and (start, node.kwargs.get("end_dim", -1)) == (1, -1)
        sizes = node.args[1:]
        return name in {"view", "reshape"} and len(sizes) == 2 and sizes[1:] == (-1,)

    def _words(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{node.target} ({type(self.modules[str(node.target)]).__name__})"
        return str(getattr(node.target, "__name__", node.target))

    def _unusable(self, name: str, layer: nn.Module) -> str | None:
        if self.calls[id(layer)] > 1:
            return f"{name} is used more than once"
        if getattr(layer, "groups", 1) != 1:
            return f"{name} is a grouped convolution"
        for key, parameter in layer.named_parameters(recurse=False):
            full = f"{name}.{key}"
            if id(parameter) in self.tied or full in self.read_elsewhere:
                return f"{full} is shared with another layer"
            if full not in self.slices:
                return f"{full} is not among the variables"
        if any(True for _ in layer.named_children()) or "weight" not in dict(
            layer.named_parameters(recurse=False)
        ):
            return f"{name} is reparametrised"
        return None

    def _indices(self, full: str) -> Tensor:
        where = self.slices[full]
        shape = self.layout.shapes[self.layout.names.index(full)]
        return torch.arange(where.start, where.stop).view(shape)

    def _incoming(self, name: str, layer: nn.Module) -> Tensor:
        weight = self._indices(f"{name}.weight").flatten(1)
        if f"{name}.bias" not in self.slices:
            return weight
        return torch.cat([weight, self._indices(f"{name}.bias")[:, None]], 1)

    def _outgoing(
        self, name: str, reader: nn.Module, size: int, flattened: bool, layer: nn.Module
    ) -> Tensor | None:
        weight = self._indices(f"{name}.weight")
        width = weight.shape[1]
        if width == size and (not flattened or isinstance(reader, nn.Linear)):
            return weight.transpose(0, 1).flatten(1)
        # Flattened channels lie in blocks; the features of a linear layer on sequences would lie interleaved.
        if flattened and width % size == 0 and not isinstance(layer, nn.Linear):
            return weight.unflatten(1, (size, width // size)).transpose(0, 1).flatten(1)
        return None


def _asks_shape(node: fx.Node) -> bool:
    asks = node.op == "call_method" and node.target in {"size", "dim"}
    return asks or (getattr(node.target, "__name__", "") == "getattr" and node.args[1] in {"shape", "ndim"})
