"""What went into and came out of every layer in one forward pass, in one form for all kinds of layers.

A layer's weight gradient is a sum of products of what went in (``factor``: examples x places x inputs) with the
gradient of what came out (``channels``: examples x places x outputs). Places are words, pixels, or calls of the layer.
A layer whose first axis is not that of the examples, or whose weights are used elsewhere too, is found out by a check
against autograd (`verify`), never by its name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

OUTER = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CHANNEL_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
_TRAILING_NORMS = (nn.LayerNorm, *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()))
SCALES = (*_CHANNEL_NORMS, *_TRAILING_NORMS)
_NOTHING = 1e-30


@dataclass
class Call:
    """One call of one layer.

    Attributes:
        module: The layer.
        inputs: What went in, detached.
        output: What came out, part of the graph.
        axis: Axis of the examples, found by `verify`; ``None`` if there is none.
    """

    module: nn.Module
    inputs: Tensor
    output: Tensor
    axis: int | None = 0

    def places(self, num_examples: int) -> int:
        """Number of places per example."""
        return self.output.numel() // (num_examples * self.num_channels)

    @property
    def num_channels(self) -> int:
        """Length of the axis of outputs."""
        if isinstance(self.module, (*_CONVOLUTIONS, *_CHANNEL_NORMS)):
            return self.output.shape[1]
        if isinstance(self.module, _TRAILING_NORMS):
            return int(torch.tensor(self.module.normalized_shape).prod())
        return self.output.shape[-1]

    def channels(self, tensor: Tensor, num_examples: int) -> Tensor:
        """Something of the shape of the output as (examples, places, outputs)."""
        tensor = self._examples_first(tensor)
        count = self.num_channels
        if isinstance(self.module, (*_CONVOLUTIONS, *_CHANNEL_NORMS)):
            tensor = tensor.unsqueeze(2) if tensor.ndim == 2 else tensor
            if len(tensor) == num_examples:
                return tensor.flatten(2).transpose(1, 2)
            folded = tensor.reshape(num_examples, -1, count, tensor[0, 0].numel())
            return folded.transpose(2, 3).reshape(num_examples, -1, count)
        return tensor.reshape(num_examples, -1, count)

    def factor(self, num_examples: int, part: slice = slice(None)) -> Tensor:
        """What the gradient of the output is multiplied with to give that of the weight, for some of the examples.

        Shape (examples, places, inputs); for scales (examples, places, outputs), multiplied entry by entry.
        """
        inputs = self._examples_first(self.inputs)
        inputs = inputs.reshape(num_examples, -1, *inputs.shape[1:])[part]
        count, inputs = len(inputs), inputs.flatten(0, 1)
        module = self.module
        if isinstance(module, nn.Embedding):
            return _one_hot(module, self.inputs, inputs.reshape(count, -1), self.output.dtype)
        if isinstance(module, nn.Linear):
            return inputs.reshape(count, -1, inputs.shape[-1])
        if isinstance(module, _CONVOLUTIONS):
            return unfold(module, inputs).reshape(count, -1, module.weight[0].numel() * module.groups)
        normalised = _normalised(module, inputs)
        if isinstance(module, _TRAILING_NORMS):
            return normalised.reshape(count, -1, self.num_channels)
        folded = normalised.reshape(count, -1, self.num_channels, normalised[0, 0].numel())
        return folded.transpose(2, 3).reshape(count, -1, self.num_channels)

    def width(self) -> int:
        """Length of the last axis of `factor`."""
        module = self.module
        if isinstance(module, nn.Embedding):
            return len(self.inputs.unique())
        if isinstance(module, nn.Linear):
            return module.in_features
        if isinstance(module, _CONVOLUTIONS):
            return module.weight[0].numel() * module.groups
        return self.num_channels

    def _examples_first(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(0, 1) if self.axis == 1 else tensor


@dataclass
class Site:
    """One weight (with the bias beside it, where both are of one layer), or one bias, and the calls that used it.

    Attributes:
        name: Name of the parameter.
        role: ``"outer"`` (weight as a sum of outer products), ``"scale"`` (entry by entry) or ``"bias"``.
        calls: The calls.
        bias: Name of the bias handled together with the weight.
    """

    name: str
    role: str
    calls: list[Call]
    bias: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters that the site answers for."""
        return (self.name,) if self.bias is None else (self.name, self.bias)

    @property
    def groups(self) -> int:
        """Groups of the convolution, else 1."""
        module = self.calls[0].module
        return module.groups if self.role == "outer" and isinstance(module, _CONVOLUTIONS) else 1

    @property
    def num_channels(self) -> int:
        """Length of the axis of outputs."""
        return self.calls[0].num_channels

    def places(self, num_examples: int) -> int:
        """Number of places per example, over all calls."""
        return sum(call.places(num_examples) for call in self.calls)

    def width(self) -> int:
        """Number of inputs; of an embedding, the distinct tokens that occur."""
        return self.calls[0].width() if self.role != "bias" else 1

    def factor(self, num_examples: int, part: slice = slice(None)) -> Tensor:
        """The factors of all calls, one after another along the places."""
        parts = [call.factor(num_examples, part) for call in self.calls]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def channels(self, gradients: Sequence[Tensor], num_examples: int) -> Tensor:
        """Gradients of the outputs of all calls, one after another along the places."""
        parts = [call.channels(g, num_examples) for call, g in zip(self.calls, gradients, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


@dataclass
class Record:
    """The layers that were called, and the parameters that they own."""

    owners: Mapping[str, list[tuple[nn.Module, str]]]
    calls: dict[nn.Module, list[Call]] = field(default_factory=dict)

    def sites(self) -> list[Site]:
        """A site for every parameter that layers of one known kind use."""
        weights, biases = [], {}
        for name, owners in self.owners.items():
            calls = [call for module, _ in owners for call in self.calls.get(module, [])]
            roles = {(role, _kind(module)) for module, role in owners}
            if len(roles) != 1 or not calls or len({c.width() for c in calls}) != 1:
                continue
            role, kind = roles.pop()
            if kind is nn.Embedding and len(calls) > 1:
                continue  # their tokens are numbered call by call
            if role == "bias":
                biases[name] = Site(name, "bias", calls)
            else:
                weights.append(Site(name, "scale" if kind in SCALES else "outer", calls))
        for site in weights:
            self._marry(site, biases)
        return [*weights, *biases.values()]

    def _marry(self, site: Site, biases: dict[str, Site]) -> None:
        if site.role != "outer" or site.groups != 1 or len(self.owners[site.name]) != 1:
            return
        module = self.owners[site.name][0][0]
        for name in list(biases):
            if [owner for owner, _ in self.owners[name]] == [module]:
                site.bias = biases.pop(name).name


def owners_of(model: nn.Module, names: Sequence[str]) -> dict[str, list[tuple[nn.Module, str]]]:
    """The layers of known kinds that hold each parameter, with the name it has there."""
    wanted = {id(p): n for n, p in model.named_parameters() if n in names}
    owners: dict[str, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        if not isinstance(module, (*OUTER, *SCALES)) or not _plain(module):
            continue
        for short, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in wanted and short in {"weight", "bias"}:
                owners.setdefault(wanted[id(parameter)], []).append((module, short))
    return owners


@contextlib.contextmanager
def recording(model: nn.Module, names: Sequence[str]) -> Iterator[Record]:
    """Note every call of a layer of a known kind that holds one of the parameters."""
    record = Record(owners_of(model, names))
    modules = {module for owners in record.owners.values() for module, _ in owners}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        usable = len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
        if not usable or output.ndim < 2 or not output.requires_grad:
            return output
        record.calls.setdefault(module, []).append(Call(module, inputs[0].detach(), output))
        # An operation in place (ReLU(inplace=True), x += y) must not overwrite what was noted.
        return output.clone()

    handles = [module.register_forward_hook(note) for module in modules]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def verify(
    sites: Sequence[Site],
    num_examples: int,
    chosen: Tensor,
    slopes: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    truth: Mapping[str, Tensor],
) -> list[Site]:
    """The sites whose products give what autograd gives; the axis of the examples of their calls is set.

    Args:
        sites: What is to be checked.
        num_examples: Examples in the batch.
        chosen: Which examples the test output depends on, shape (examples,), bool. A layer whose gradient is not zero
            for the others does not keep the examples apart.
        slopes: Gradients of the test output with respect to tensors.
        truth: Its gradients with respect to the parameters.

    Returns:
        Those that passed.
    """
    passed = []
    calls = list({id(call): call for site in sites for call in site.calls}.values())
    by_call = dict(zip(map(id, calls), slopes([call.output for call in calls]), strict=True))
    for call in calls:
        call.axis = _axis_of(call, by_call[id(call)], num_examples, chosen)
    for site in sites:
        if any(call.axis is None for call in site.calls):
            continue
        gradients = [by_call[id(call)] for call in site.calls]
        if all(_close(v, truth[n]) for n, v in _gradients(site, gradients, num_examples).items()):
            passed.append(site)
    return passed


def unfold(module: Any, inputs: Tensor) -> Tensor:
    """The patches that a convolution sees, shape (batch, places, inputs x kernel), in the order of its weight."""
    mode = "constant" if module.padding_mode == "zeros" else str(module.padding_mode)
    # PyTorch keeps the padding in the order of `pad`, also that of padding="same".
    patches = functional.pad(inputs, list(module._reversed_padding_repeated_twice), mode=mode)
    places = inputs.ndim - 2
    for i, (size, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True)
    ):
        patches = patches.unfold(2 + i, (size - 1) * dilation + 1, stride)[..., ::dilation]
    order = [0, *range(2, 2 + places), 1, *range(2 + places, 2 + 2 * places)]
    return patches.permute(order).reshape(len(inputs), -1, inputs.shape[1] * _product(module.kernel_size))


def _gradients(site: Site, gradients: Sequence[Tensor], num_examples: int) -> dict[str, Tensor]:
    """Gradients of the parameters of a site from those of its outputs, summed over the examples."""
    slopes = site.channels(gradients, num_examples)
    totals = slopes.sum((0, 1))
    if site.role == "bias":
        return {site.name: totals}
    found = {} if site.bias is None else {site.bias: totals}
    weight: Tensor | None = None
    step = max(1, 2**22 // max(1, site.places(num_examples) * site.width()))
    for start in range(0, num_examples, step):
        part = slice(start, start + step)
        factor, piece = site.factor(num_examples, part).flatten(0, 1), slopes[part].flatten(0, 1)
        if site.role == "scale":
            term = (factor * piece).sum(0)
        else:
            term = torch.cat([p.T @ f for p, f in zip(*_grouped(piece, factor, site.groups), strict=True)])
        weight = term if weight is None else weight + term
    assert weight is not None  # there is at least one example
    module = site.calls[0].module
    if isinstance(module, nn.Embedding):
        rows = site.calls[0].inputs.unique()
        weight = torch.zeros_like(module.weight, dtype=weight.dtype).index_add(0, rows, weight.T)
    return {**found, site.name: weight}


def _grouped(slopes: Tensor, factor: Tensor, groups: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    return slopes.chunk(groups, dim=-1), factor.chunk(groups, dim=-1)


def _axis_of(call: Call, slope: Tensor, num_examples: int, chosen: Tensor) -> int | None:
    """The axis along which the gradient vanishes outside the chosen examples."""
    shape = call.output.shape
    candidates = [0] if shape[0] % num_examples == 0 and call.inputs.shape[0] % num_examples == 0 else []
    movable = not isinstance(call.module, (*_CONVOLUTIONS, *_CHANNEL_NORMS))
    if movable and call.output.ndim > 2 and shape[1] == num_examples == call.inputs.shape[1]:
        candidates.append(1)
    for axis in candidates:
        moved = slope.transpose(0, 1) if axis == 1 else slope
        if not bool(moved.reshape(num_examples, -1)[~chosen].any()):
            return axis
    return None


def _close(found: Tensor, truth: Tensor) -> bool:
    tolerance = {torch.float64: 1e-8, torch.float32: 1e-3}.get(found.dtype, 5e-2)
    gap = float((found.reshape(-1) - truth.reshape(-1)).norm())
    return gap <= tolerance * float(truth.norm()) + _NOTHING


def _kind(module: nn.Module) -> type[nn.Module]:
    return next(kind for kind in (*OUTER, *SCALES) if isinstance(module, kind))


def _plain(module: nn.Module) -> bool:
    return not isinstance(module, nn.Embedding) or (module.max_norm is None and not module.scale_grad_by_freq)


def _one_hot(module: nn.Embedding, all_tokens: Tensor, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Which of the tokens that occur each place holds; none for padding, whose row has no gradient."""
    known = all_tokens.unique()
    hot = (tokens[..., None] == known).to(dtype)
    if module.padding_idx is not None:
        hot[tokens == module.padding_idx] = 0
    return hot


def _normalised(module: Any, inputs: Tensor) -> Tensor:
    """What a normalisation layer gives before its scale and shift."""
    if isinstance(module, nn.LayerNorm):
        return functional.layer_norm(inputs, list(module.normalized_shape), eps=module.eps)
    if isinstance(module, nn.GroupNorm):
        return functional.group_norm(inputs, module.num_groups, eps=module.eps)
    if isinstance(module, _TRAILING_NORMS):
        return functional.rms_norm(inputs, list(module.normalized_shape), eps=module.eps)
    use_inputs = module.training or module.running_mean is None
    mean, variance = (None, None) if use_inputs else (module.running_mean, module.running_var)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return functional.batch_norm(inputs, mean, variance, training=use_inputs, eps=module.eps)
    return functional.instance_norm(inputs, mean, variance, use_input_stats=use_inputs, eps=module.eps)


def _product(sizes: Any) -> int:
    return int(torch.tensor(tuple(sizes)).prod())
