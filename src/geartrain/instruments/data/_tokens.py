"""Sequences of tokens behind batches of different forms, and batches made of sequences of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain.instruments._examples import INPUT_KEYS, TARGET_KEYS, split_batch

Form = Literal["shifted", "equal"]


@dataclass(frozen=True)
class TokenForm:
    """How a batch holds its sequences.

    Attributes:
        form: ``"shifted"``: targets are the inputs one place on; ``"equal"``: targets are the inputs (the model
            shifts).
        template: One example, as a batch.
        places: Length of the inputs.
    """

    form: Form
    template: Any
    places: int

    @property
    def length(self) -> int:
        """Tokens in a whole sequence."""
        return self.places + (self.form == "shifted")

    def fits(self, batch: Any) -> bool:
        """Whether the batch holds sequences of this length."""
        inputs = split_batch(batch)[0]
        return isinstance(inputs, Tensor) and inputs.ndim == 2 and inputs.shape[1] == self.places

    def batch(self, sequences: Tensor) -> Any:
        """Sequences of shape (n, length) as a batch."""
        index = torch.zeros(len(sequences), dtype=torch.long, device=sequences.device)
        return self.put(_batches.take(self.template, index), slice(0, len(sequences)), sequences)

    def put(self, batch: Any, rows: slice, sequences: Tensor) -> Any:
        """The batch with some rows replaced; the given one is left alone."""
        shifted = self.form == "shifted"
        new = (sequences[:, :-1], sequences[:, 1:]) if shifted else (sequences, sequences)
        if isinstance(batch, Mapping):
            keys = [next(k for k in names if k in batch) for names in (INPUT_KEYS, TARGET_KEYS)]
            return {
                **batch,
                **{k: _replaced(batch[k], rows, part) for k, part in zip(keys, new, strict=True)},
            }
        parts = list(batch)
        parts[:2] = [_replaced(old, rows, part) for old, part in zip(parts[:2], new, strict=True)]
        return type(batch)(parts) if isinstance(batch, (tuple, list)) else parts


def _replaced(old: Tensor, rows: slice, new: Tensor) -> Tensor:
    result = old.clone()
    result[rows] = new.to(old.device, old.dtype)
    return result


def token_form(batch: Any) -> TokenForm | None:
    """The form of a batch; ``None`` where it holds no sequences whose next tokens are the targets."""
    inputs, targets = split_batch(batch)
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor) or inputs.shape != targets.shape:
        return None
    if inputs.ndim != 2 or inputs.shape[1] < 3 or inputs.is_floating_point() or targets.is_floating_point():
        return None
    template = _batches.take(batch, slice(0, 1))
    if torch.equal(inputs[:, 1:], targets[:, :-1]):
        return TokenForm("shifted", template, inputs.shape[1])
    if torch.equal(inputs, targets):
        return TokenForm("equal", template, inputs.shape[1])
    return None


def sequences_of(batch: Any) -> Tensor | None:
    """Whole sequences, the last target included where targets are shifted; ``None`` where there are none.

    Inputs without such targets serve as they are.
    """
    inputs, targets = split_batch(batch)
    if not isinstance(inputs, Tensor) or inputs.ndim != 2 or inputs.is_floating_point():
        return None
    if inputs.dtype in (torch.bool, torch.uint8):
        return None
    form = token_form(batch)
    if form is None or form.form == "equal" or not isinstance(targets, Tensor):
        return inputs
    return torch.cat([inputs, targets[:, -1:]], dim=1)
