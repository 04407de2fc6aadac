"""What happens inside a model while it runs: outputs of its layers, and calls of its activation functions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from geartrain._torch import batches as _batches
from geartrain.objective import Objective

Visit = Callable[[str, nn.Module, Tensor], Tensor | None]


def leaf_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that do one thing: those without children, and attention (which never calls its own children)."""
    chosen = {}
    inside_attention: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside_attention):
            continue
        if isinstance(module, nn.MultiheadAttention):
            inside_attention += (f"{name}.",)
        elif next(module.children(), None) is not None:
            continue
        if not isinstance(module, nn.modules.loss._Loss):
            chosen[name] = module
    return chosen


@contextlib.contextmanager
def leaf_outputs(model: nn.Module, visit: Visit) -> Iterator[None]:
    """Inside the block, ``visit(name, module, output)`` is called at every call of a leaf module.

    A module called again is named ``"relu#2"``. Where ``visit`` returns a tensor, it takes the output's place.
    """
    calls: dict[str, int] = {}

    def watch(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            found = first_tensor(output)
            if found is None:
                return None
            label = name or type(module).__name__
            new = visit(label if calls[name] == 1 else f"{label}#{calls[name]}", module, found)
            return new if isinstance(output, Tensor) else None

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in leaf_modules(model).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: Any) -> Tensor | None:
    """The first floating tensor of a structure (a recurrent layer's output, without its state)."""
    leaves = [output] if isinstance(output, Tensor) else tree_leaves(_plain(output))
    return next((t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()), None)


def _plain(output: Any) -> Any:
    # Hugging Face outputs are ordered dicts that the tree utilities may not know.
    return list(output.values()) if isinstance(output, Mapping) else output


def has_matrix(module: nn.Module) -> bool:
    """Whether the module has weights of its own that mix features (not only scales and shifts)."""
    return any(p.ndim >= 2 for p in module.parameters())


# ---------------------------------------------------------------------- activation functions

CONVOLUTIONS = {f"conv{d}d" for d in (1, 2, 3)} | {f"conv_transpose{d}d" for d in (1, 2, 3)}
PRODUCTS = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "addmm", "bmm", "einsum"}
ACTIVATIONS = {
    "relu", "relu6", "leaky_relu", "clamp_min", "clamp", "sigmoid", "special_expit", "hardsigmoid", "tanh", "hardtanh",
    "softmax", "log_softmax", "softplus", "elu", "gelu", "silu", "logsigmoid", "rrelu", "prelu",
}  # fmt: skip


@dataclass(frozen=True)
class Activation:
    """One call of an activation function inside the model.

    Attributes:
        name: Module in which it was called, with the function where the module does more than that.
        function: Its plain name, ``"relu"``.
        output: What it returned.
        unit_axis: Axis of ``output`` that numbers the units (channels of a convolution, else the last one).
    """

    name: str
    function: str
    output: Tensor
    unit_axis: int


class ActivationWatch(TorchFunctionMode):
    """Calls ``visit`` at every activation function inside the model, modules and functional code alike.

    Functions called by the loss are not reported.

    Args:
        model: The model.
        visit: Called with an `Activation` as it happens.
    """

    def __init__(self, model: nn.Module, visit: Callable[[Activation], None]) -> None:
        super().__init__()
        self.model = model
        self.visit = visit
        self.names: list[str] = []
        self.calls: dict[str, int] = {}
        self.channels_first = False
        self.products_since = 0
        self.handles: list[Any] = []

    def __enter__(self) -> ActivationWatch:
        """Start watching."""
        for name, module in self.model.named_modules():
            self.handles.append(module.register_forward_pre_hook(lambda m, i, n=name: self.names.append(n)))
            self.handles.append(module.register_forward_hook(self._leave))
        return super().__enter__()

    def __exit__(self, *exc: Any) -> None:
        """Stop watching."""
        super().__exit__(*exc)
        for handle in self.handles:
            handle.remove()

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.names.pop()
        if isinstance(module, nn.RNN) and (found := first_tensor(output)) is not None:
            # The recurrent kernel applies its activation where nobody can look; its output is the activation.
            names = [n for n, m in self.model.named_modules() if m is module]
            self.visit(Activation(names[0], module.nonlinearity, found.detach(), -1))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass the call on unchanged, and report it."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").rstrip("_")
        if name in CONVOLUTIONS or name in PRODUCTS or getattr(func, "__name__", "") in PRODUCTS:
            self.channels_first = name in CONVOLUTIONS
            self.products_since += bool(self.names)
        elif name in ACTIVATIONS and self.names and isinstance(result, Tensor):
            self._report(_plain_name(name, args, kwargs or {}), result.detach())
        return result

    def _report(self, function: str | None, output: Tensor) -> None:
        if function is None or output.ndim == 0:
            return
        inner = self.names[-1]
        module = self.model.get_submodule(inner) if inner else self.model
        leaf = next(module.children(), None) is None and bool(inner)
        label = inner if leaf else f"{inner} {function}".strip()
        self.calls[label] = self.calls.get(label, 0) + 1
        label = label if self.calls[label] == 1 else f"{label}#{self.calls[label]}"
        self.products_since = 0
        axis = 1 if output.ndim == 2 or (output.ndim > 2 and self.channels_first) else -1
        self.visit(Activation(label, function, output, axis))


def _plain_name(name: str, args: Any, kwargs: Any) -> str | None:
    """``clamp(x, min=0)`` is a rectifier; other clamps are no activation functions."""
    if name == "special_expit":
        return "sigmoid"
    if name not in ("clamp", "clamp_min"):
        return name
    low = args[1] if len(args) > 1 else kwargs.get("min")
    high = args[2] if len(args) > 2 else kwargs.get("max")
    return "relu" if isinstance(low, (int, float)) and low == 0 and high is None else None


def watch_activations(objective: Objective, visit: Callable[[Activation], None]) -> None:
    """Run the model over the data of the objective once, reporting its activation functions."""
    for batch in objective.batches:
        # With gradients on: losses with input derivatives need them.
        with objective._quiet(), ActivationWatch(objective.model, visit):
            objective._loss(objective._leaves(None), batch)
    objective.charge(forwards=1)


def in_evaluation(objective: Objective) -> Objective:
    """The same objective, measured in evaluation mode (dropout off, fixed batch statistics)."""
    return objective._copy(training=False)


@dataclass(frozen=True)
class Head:
    """What the model does last.

    Attributes:
        activation: Name of the activation function whose result is the model's output, or ``"none"``.
        low: Least output that it can give.
        high: Greatest output that it can give.
    """

    activation: str
    low: float
    high: float


RANGES: dict[str, tuple[float, float]] = {
    "sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0),
    "relu": (0.0, float("inf")), "relu6": (0.0, 6.0), "softplus": (0.0, float("inf")),
    "log_softmax": (-float("inf"), 0.0), "logsigmoid": (-float("inf"), 0.0), "elu": (-1.0, float("inf")),
    "gelu": (-0.17, float("inf")), "silu": (-0.2785, float("inf")), "hardtanh": (-1.0, 1.0),
}  # fmt: skip


def head_of(objective: Objective, inputs: Any, limit: int = 64) -> tuple[Head, Any]:
    """The last activation function of the model, if its result is the output as it stands, and the outputs.

    Args:
        objective: Whose model; ``loss_fn(outputs, targets)`` objectives only.
        inputs: Of a batch; a few examples are enough.
        limit: How many examples to run.
    """
    part = _batches.take(inputs, slice(0, limit))
    outputs: list[Any] = []
    last = final_activation(
        objective, lambda: outputs.append(objective._outputs(objective._leaves(None), (part,)))
    )
    if last is None:
        return Head("none", -float("inf"), float("inf")), outputs[0]
    low, high = RANGES.get(last.function, (-float("inf"), float("inf")))
    return Head(last.function, low, high), outputs[0]


def final_activation(objective: Objective, forward: Callable[[], Any]) -> Activation | None:
    """The activation whose result leaves the model unchanged (but for its shape), while ``forward`` runs."""
    last: list[Activation] = []
    final: list[Tensor | None] = []
    handle = objective.model.register_forward_hook(
        lambda module, args, output: final.append(first_tensor(output))
    )
    watch = ActivationWatch(objective.model, last.append)
    try:
        with objective._quiet(), watch:
            forward()
    finally:
        handle.remove()
    if not last or not final or final[-1] is None or watch.products_since:
        return None
    left, made = final[-1].detach().reshape(-1), last[-1].output.reshape(-1)
    # No weights after it, and the same numbers: only reshaping can have happened in between.
    return last[-1] if left.shape == made.shape and torch.equal(left, made.to(left.dtype)) else None
