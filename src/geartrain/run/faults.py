"""Where a run broke: the first module that made a number that is none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from geartrain._torch import kernels, rng
from geartrain._torch.finite import all_finite, first_nonfinite_module
from geartrain.run.history import Failure

if TYPE_CHECKING:
    from geartrain.run.run import Run


def failure_of(run: Run, what: str, batch: Any, before: list[Tensor]) -> Failure:
    """How and where the step that has just been counted failed; leaves the run as it is.

    Args:
        run: The run.
        what: ``"loss"`` or ``"gradient"``.
        batch: The batch of that step.
        before: Values of the trained parameters at which its loss was computed; empty if they are the present ones.

    Returns:
        The failure.
    """
    if not all_finite(batch):
        return Failure(run.step_count - 1, what, "the data (this batch holds NaN or infinite numbers)")
    culprit = _first_in_backward(run.model) if what == "gradient" else _first_in_forward(run, batch, before)
    return Failure(run.step_count - 1, what, culprit)


def _first_in_forward(run: Run, batch: Any, before: list[Tensor]) -> str | None:
    loss = run.batch_loss
    if loss is None:
        return None
    with rng.preserved(), _earlier(run.model, before):
        return first_nonfinite_module(
            run.model, lambda: kernels.without_gradients(lambda: loss(run.model, batch))
        )


def _first_in_backward(model: nn.Module) -> str | None:
    """The backward pass goes from the end: the last module with a bad gradient made it."""
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not all_finite(p.grad)]
    if not bad:
        return None
    owner = bad[-1].rpartition(".")[0]
    return f"{owner or 'the model'} ({type(model.get_submodule(owner)).__name__}, backward)"


@contextlib.contextmanager
def _earlier(model: nn.Module, before: list[Tensor]) -> Iterator[None]:
    """The trained parameters at earlier values; they and all buffers are put back afterwards."""
    trained = [p for p in model.parameters() if p.requires_grad]
    tensors = [*trained, *model.buffers()]
    present = [t.detach().clone() for t in tensors]
    with torch.no_grad():
        if len(before) == len(trained):
            for parameter, old in zip(trained, before, strict=True):
                parameter.copy_(old)
        try:
            yield
        finally:
            for tensor, value in zip(tensors, present, strict=True):
                tensor.copy_(value)
