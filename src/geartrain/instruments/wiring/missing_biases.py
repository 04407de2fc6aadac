"""Share of the linear and convolutional layers that have no bias and nothing in its place.

A normalisation layer with a shift, directly behind, replaces a bias. Misleads for designs that leave biases out on
purpose (many language models do); ``gradient_share`` says whether the loss asks for them. Ledger: 0.13.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_TRANSPARENT = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


def _price(objective: Any, **options: Any) -> Cost:
    return Cost(forwards=1, gradients=2)


@instrument(needs="objective", unit="1", price=_price)
def missing_biases(
    objective: Objective | Run,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of linear and convolutional layers without a bias or a shift directly behind them.

    Where some are missing, zero biases are added in thought and the gradient of the loss with respect to them is taken:
    at a minimum of a model that has them it would vanish.

    **Cost** one forward pass, and two gradients where a bias is missing.

    **Assumes** that layers are modules that are called.

    **Misleads** for designs that leave biases out on purpose, as many language models do; ``gradient_share``
    says whether the loss asks for them. Only a normalisation *directly* behind counts as a replacement.

    Args:
        objective: An `Objective`, or a `Run` whose training loss is meant.
        generator: Not used.
        budget: Not used.

    Returns:
        The share, between 0 and 1, exact. ``details``: ``names``, ``output_layer`` (whether the last layer is among
        them), ``gradient_share`` (squared norm of the gradient of the missing biases over that of all
        parameters and missing biases; 0 if none is missing), ``gradients`` (norm by name), ``num_layers``.
    """
    if isinstance(objective, Run):
        objective = objective.objective()
    order = _execution_order(objective)
    layers = [i for i, (_, module) in enumerate(order) if isinstance(module, _LAYERS)]
    if not layers:
        return no_answer("missing_biases", "No linear or convolutional layer is called.")
    missing = [order[i][0] for i in layers if order[i][1].bias is None and not _shifted(order[i + 1 :])]
    named = dict.fromkeys(order[i][0] for i in layers)
    missing = list(dict.fromkeys(missing))
    gradients = _bias_gradients(objective, missing) if missing else {}
    details = {
        "names": missing,
        "output_layer": order[layers[-1]][0] in missing,
        "gradient_share": _share(objective, gradients) if missing else 0.0,
        "gradients": gradients,
        "num_layers": len(named),
    }
    sentence = f"{len(missing)} of {len(named)} layers have neither a bias nor a shift behind them."
    return answer("missing_biases", len(missing) / len(named), sentence, state=State.EXACT, details=details)


def _shifted(behind: list[tuple[str, nn.Module]]) -> bool:
    """Whether the next module that does anything is a normalisation with a shift."""
    for _, module in behind:
        if isinstance(module, _TRANSPARENT):
            continue
        return isinstance(module, _NORMS) and getattr(module, "bias", None) is not None
    return False


def _execution_order(objective: Objective) -> list[tuple[str, nn.Module]]:
    """Modules without children in the order in which they are called on the first batch."""
    order: list[tuple[str, nn.Module]] = []
    leaves = {n: m for n, m in objective.model.named_modules() if not any(m.children())}
    handles = [
        m.register_forward_hook(lambda module, args, out, n=n: order.append((n, module)))
        for n, m in leaves.items()
    ]
    try:
        objective.on([objective.batches[0]]).value()
    except NonFiniteError:
        pass  # the order is known all the same
    finally:
        for handle in handles:
            handle.remove()
    return order


def _bias_gradients(objective: Objective, names: list[str]) -> dict[str, float]:
    """Norm of the gradient with respect to a bias added to the output of each module."""
    with _added_biases(objective.model, names) as biases:
        for batch in objective.batches:
            part = objective.on([batch])
            weight = part.num_examples / objective.num_examples
            with part._quiet():
                loss = part._loss(part._leaves(None), part.batches[0])
                used = {n: b for n, b in biases.items() if isinstance(b.value, Tensor)}
                rows = torch.autograd.grad(loss, [b.value for b in used.values()], allow_unused=True)  # type: ignore[misc]
            for bias, row in zip(used.values(), rows, strict=True):
                bias.add(weight * row if row is not None else None)
    return {n: b.norm() for n, b in biases.items()}


class _Bias:
    """A bias of zeros that is made when the size of the output is seen, and the gradient gathered for it."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.value: Tensor | None = None
        self.total: Tensor | None = None

    def hook(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Add the bias."""
        if self.value is None:
            size = output.shape[self.axis]
            self.value = torch.zeros(size, dtype=output.dtype, device=output.device, requires_grad=True)
        shape = [1] * output.ndim
        shape[self.axis] = -1
        return output + self.value.view(shape)

    def add(self, gradient: Tensor | None) -> None:
        """Gather a gradient."""
        if gradient is not None:
            self.total = gradient if self.total is None else self.total + gradient

    def norm(self) -> float:
        """Norm of what was gathered."""
        return float(self.total.double().norm()) if self.total is not None else 0.0


@contextlib.contextmanager
def _added_biases(model: nn.Module, names: list[str]) -> Iterator[dict[str, _Bias]]:
    modules = {n: model.get_submodule(n) for n in names}
    biases = {n: _Bias(-1 if isinstance(m, nn.Linear) else 1) for n, m in modules.items()}
    handles = [m.register_forward_hook(biases[n].hook) for n, m in modules.items()]
    try:
        yield biases
    finally:
        for handle in handles:
            handle.remove()


def _share(objective: Objective, gradients: dict[str, float]) -> float:
    missing = sum(g**2 for g in gradients.values())
    try:
        present = float((objective.gradient().double() ** 2).sum())
    except NonFiniteError:
        return float("nan")
    return missing / (missing + present) if missing + present > 0 else float("nan")
