"""From a model and a loss to a list of layers: the structure is traced by `torch.fx`, node by node looked up."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from geartrain.ensemble.engines._stack import table
from geartrain.ensemble.engines._stack._layer import Declined, Layer, Weights
from geartrain.ensemble.engines._stack.loss import Loss


@dataclass(frozen=True)
class Ref:
    """The value of a step, as an argument of a later one."""

    index: int


@dataclass
class Step:
    """A layer and where its arguments come from.

    Attributes:
        layer: What is computed.
        args: Arguments; `Ref` for values.
        kwargs: Likewise.
        inputs: The refs among them, in order.
        wanted: Which of those depend on parameters.
    """

    layer: Layer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[int, ...]
    wanted: tuple[bool, ...]


class Program:
    """Forward and backward of a model and its loss.

    Values are numbered: first the model's inputs, then the targets, then what each step gives.

    Raises:
        Declined: Something in the model or loss is not known here.
    """

    def __init__(self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor]) -> None:
        _check_hooks(model)
        prefix = ""
        if type(model) in table("MODULES"):  # tracing opens the outermost module
            model, prefix = nn.Sequential(model), "0."
        self._model = model
        self._first: dict[int, str] = {}
        for name, tensor in (*_named(model, "named_parameters"), *_named(model, "named_buffers")):
            self._first.setdefault(id(tensor), name.removeprefix(prefix))
        graph = _traced(model, "model")
        placeholders = [n for n in graph.nodes if n.op == "placeholder"]
        self.input_names = [n.target for n in placeholders]
        self._defaults = [n.args[0] if n.args else None for n in placeholders]
        self.steps: list[Step] = []
        self.depends = [False] * (len(placeholders) + 1)
        values: dict[fx.Node, Any] = {n: Ref(i) for i, n in enumerate(placeholders)}
        self.output = self._add(graph, values, model)
        call = _LossCall(loss_fn)
        graph = _traced(call, "loss")
        outputs, targets = [n for n in graph.nodes if n.op == "placeholder"]
        ends = {outputs: self.output, targets: Ref(len(placeholders))}
        self.model_steps = len(self.steps)
        last = self._add(graph, ends, call)
        losses = [s for s in self.steps if isinstance(s.layer, Loss)]
        if last.index != len(self.depends) - 1 or losses != self.steps[-1:]:
            raise Declined("its loss is not one cross-entropy or mean squared error")
        self._settle()

    def _add(self, graph: fx.Graph, values: dict[fx.Node, Any], root: nn.Module) -> Ref:
        for node in graph.nodes:
            if node.op == "placeholder":
                continue
            if node.op == "output":
                end = values.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
                if not isinstance(end, Ref):
                    raise Declined("it does not return one tensor")
                return end
            if not node.users:
                continue
            values[node] = self._step(node, values, self._layer(node, root))
        raise Declined("it returns nothing")

    def _layer(self, node: fx.Node, root: nn.Module) -> Layer:
        target: Any = node.target
        try:
            if node.op == "call_module":
                module = root.get_submodule(target)
                make = table("MODULES").get(type(module))
                if make is None:
                    raise Declined(f"it has no fast pass for {type(module).__name__}")
                return make(module, self._names(module))
            if node.op == "get_attr":
                return self._constant(target, root)
            kind = "METHODS" if node.op == "call_method" else "FUNCTIONS"
            make = table(kind).get(target)
            if make is None:
                raise Declined(f"it has no fast pass for {getattr(target, '__name__', target)}()")
            return make(*node.args, **node.kwargs)
        except TypeError as error:
            raise Declined(
                f"{getattr(target, '__name__', target)} is called in an unusual way ({error})"
            ) from error

    def _names(self, module: nn.Module) -> dict[str, str]:
        tensors = (*_named(module, "named_parameters"), *_named(module, "named_buffers"))
        if any(id(tensor) not in self._first for _, tensor in tensors):
            raise Declined("its loss has parameters of its own")
        return {name: self._first[id(tensor)] for name, tensor in tensors}

    def _constant(self, target: str, root: nn.Module) -> Layer:
        value: Any = root
        for part in target.split("."):
            value = getattr(value, part)
        if id(value) not in self._first:
            raise Declined(f"it uses {target}, which is neither a parameter nor a buffer")
        return Constant(self._first[id(value)])

    def _step(self, node: fx.Node, values: Mapping[fx.Node, Any], layer: Layer) -> Ref:
        inputs: list[int] = []

        def to_ref(n: fx.Node) -> Any:
            ref = values[n]
            inputs.append(ref.index)
            return ref

        args: Any = fx.map_arg(node.args, to_ref)
        kwargs: Any = fx.map_arg(node.kwargs, to_ref)
        if not layer.takes_options:
            args, kwargs = tuple(Ref(i) for i in inputs), {}
        wanted = tuple(self.depends[i] for i in inputs)
        self.steps.append(Step(layer, tuple(args), dict(kwargs), tuple(inputs), wanted))
        self.depends.append(layer.depends and (any(wanted) or bool(layer.weight_names)))
        return Ref(len(self.depends) - 1)

    def _settle(self) -> None:
        """Decides what may be overwritten, and who reads the data itself."""
        first = len(self.depends) - len(self.steps)
        uses = [0] * len(self.depends)
        for step in self.steps:
            for i in step.inputs:
                uses[i] += 1
        uses[self.output.index] += 1  # it is handed out
        for step in self.steps:
            if step.inputs:
                step.layer.reads_data = not step.wanted[0]
            if not step.layer.can_be_in_place:
                continue
            at = step.inputs[0]
            while at >= first and uses[at] == 1 and self.steps[at - first].layer.aliases:
                at = self.steps[at - first].inputs[0]
            maker = self.steps[at - first].layer if at >= first else None
            step.layer.in_place = (
                maker is not None and uses[at] == 1 and not maker.keeps_output and not maker.aliases
            )

    def start(self, inputs: Any, targets: Any) -> list[Any]:
        """The values that a pass begins with."""
        if isinstance(inputs, Mapping):
            if unknown := set(inputs) - set(self.input_names):
                raise Declined(f"it takes no {', '.join(sorted(unknown))}")
            given = [inputs.get(n, d) for n, d in zip(self.input_names, self._defaults, strict=True)]
        else:
            given = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
            given += self._defaults[len(given) :]
        return [*given, targets]

    def forward(self, weights: Weights, values: list[Any], *, with_loss: bool) -> list[Any]:
        """Runs the steps; the values of all of them, appended."""
        for step in self.steps if with_loss else self.steps[: self.model_steps]:
            args = [values[a.index] if type(a) is Ref else _resolved(a, values) for a in step.args]
            if step.kwargs:
                values.append(step.layer.forward(weights, *args, **_resolved(step.kwargs, values)))
            else:
                values.append(step.layer.forward(weights, *args))
        return values

    def backward(self, weights: Weights) -> None:
        """Runs them backward from the loss; gradients are put into the weights."""
        first = len(self.depends) - len(self.steps)
        gradients: dict[int, Any] = {}
        for at in range(len(self.depends) - 1, first - 1, -1):
            step = self.steps[at - first]
            gradient = gradients.pop(at, None)
            if not self.depends[at] or (gradient is None and not isinstance(step.layer, Loss)):
                continue
            parts = step.layer.backward(weights, gradient, step.wanted)
            for i, part, wanted in zip(step.inputs, parts, step.wanted, strict=False):
                if part is not None and wanted:
                    gradients[i] = _sum(gradients[i], part) if i in gradients else part
        weights.clear_unreached()


class Constant(Layer):
    """A parameter or buffer used as a value."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.weight_names = (name,)
        self.keeps_output = True

    def forward(self, weights: Weights) -> Tensor:
        """Shape (members, *shape)."""
        return weights.of(self.name)

    def backward(
        self, weights: Weights, gradient: Any, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Its gradient."""
        weights.put(self.name, gradient)
        return ()


class _LossCall(nn.Module):
    def __init__(self, loss_fn: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    def forward(self, outputs: Any, targets: Any) -> Any:
        return self.loss_fn(outputs, targets)


class _Tracer(fx.Tracer):
    """Loss modules become calls of their functions, so that it does not matter where they are kept."""

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if type(m) is nn.CrossEntropyLoss:
            if m.weight is not None:
                raise Declined("its cross-entropy weighs classes or smooths labels")
            options = {n: getattr(m, n) for n in ("ignore_index", "reduction", "label_smoothing")}
            return self.create_proxy("call_function", functional.cross_entropy, args, {**kwargs, **options})
        if type(m) is nn.MSELoss:
            return self.create_proxy(
                "call_function", functional.mse_loss, args, {**kwargs, "reduction": m.reduction}
            )
        return super().call_module(m, forward, args, kwargs)


def _traced(root: nn.Module, what: str) -> fx.Graph:
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            return _Tracer().trace(root)
    except Declined:
        raise
    except Exception as error:  # whatever a model's own code raises on symbolic values
        line = (str(error).strip().splitlines() or [""])[0][:120]
        raise Declined(f"the {what} cannot be traced ({type(error).__name__}: {line})") from error


def _check_hooks(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
        ):
            raise Declined(f"there are hooks on {name or 'the model'}, which would not be called")


def _named(module: nn.Module, method: str) -> list[tuple[str, Tensor]]:
    return list(getattr(module, method)(remove_duplicate=False))


def _resolved(thing: Any, values: list[Any]) -> Any:
    if type(thing) is Ref:
        return values[thing.index]
    if isinstance(thing, (tuple, list)):
        return type(thing)(_resolved(t, values) for t in thing)
    if isinstance(thing, dict):
        return {k: _resolved(t, values) for k, t in thing.items()}
    if isinstance(thing, slice):
        return slice(*(_resolved(t, values) for t in (thing.start, thing.stop, thing.step)))
    return thing


def _sum(a: Any, b: Any) -> Any:
    if isinstance(a, dict):
        return {k: _sum(a[k], b[k]) if k in a and k in b else a.get(k, b.get(k)) for k in {**a, **b}}
    return a.add_(b)
