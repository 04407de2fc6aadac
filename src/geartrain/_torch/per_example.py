"""Per-example losses and gradients: vectorised where the model allows it, one by one where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.utils._pytree import tree_map

from geartrain._torch import batches as _batches
from geartrain.errors import UnsupportedError

if TYPE_CHECKING:
    from geartrain.objective import Objective


def gradients(objective: Objective, leaves: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, Tensor]:
    """Gradients of shape (examples, params) and the mean of the examples' losses."""
    if not _recurrent(objective.model):
        try:
            return _vectorised(objective, leaves, batch)
        except (RuntimeError, ValueError, TypeError, IndexError):
            # vmap does not know every operation, and user code may branch on values; one by one always works.
            pass
    return _one_by_one(objective, leaves, batch)


def losses(objective: Objective, leaves: Mapping[str, Tensor], batch: Any) -> Tensor:
    """Loss of each example, shape (examples,)."""
    parts = [_batches.take(batch, slice(i, i + 1)) for i in range(_batches.size_of(batch))]
    return torch.stack([objective._forward_loss(leaves, part) for part in parts])


def check_mean(mean_of_losses: Tensor, together: Tensor, *, kernels_random: bool) -> None:
    """Refuse a loss that is not the mean over its examples (a sum, say): its per-example gradients would mislead.

    Raises:
        UnsupportedError: The mean of the examples' losses is not the loss of the batch.
    """
    if kernels_random:
        return  # every example draws its own dropout mask, so the two differ legitimately
    # A bfloat16 loss is itself rounded to three digits.
    tolerance = {torch.float64: 1e-8, torch.float32: 1e-3}.get(together.dtype, 5e-2)
    gap = (mean_of_losses - together.to(mean_of_losses.dtype)).abs()
    if bool(gap > tolerance * (1 + together.abs())):
        raise UnsupportedError(
            f"The loss is not the mean over its examples: the batch has {float(together):.6g}, the mean of its "
            f"examples is {float(mean_of_losses):.6g}. Per-example gradients need a mean (reduction='mean', no "
            "weights by batch, examples along axis 0)."
        )


def _recurrent(model: nn.Module) -> bool:
    return any(isinstance(m, nn.RNNBase) for m in model.modules())


def _vectorised(objective: Objective, leaves: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, Tensor]:
    variables = {n: v.detach() for n, v in leaves.items()}
    size = _batches.size_of(batch)

    def mapped(leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == size

    def loss(values: Mapping[str, Tensor], example: Any) -> Tensor:
        return objective._loss(values, tree_map(lambda t, m: t[None] if m else t, example, flags))

    flags = tree_map(mapped, batch)
    axes = tree_map(lambda m: 0 if m else None, flags)
    rows, values = vmap(grad_and_value(loss), in_dims=(None, axes), randomness="different")(variables, batch)
    flat = torch.cat([rows[n].reshape(size, -1).to(objective.dtype) for n in objective.layout.names], dim=1)
    # Parameters that a filter holds fixed still belong to the graph of the program; rows must not.
    return flat.detach(), values.detach().to(objective.dtype).mean()


def _one_by_one(objective: Objective, leaves: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, Tensor]:
    rows, values = [], []
    for i in range(_batches.size_of(batch)):
        loss = objective._loss(leaves, _batches.take(batch, slice(i, i + 1)))
        parts = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        rows.append(objective.layout.flatten(parts))
        values.append(loss.detach().to(objective.dtype))
    return torch.stack(rows), torch.stack(values).mean()
