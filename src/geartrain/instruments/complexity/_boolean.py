"""A model as a function on the hypercube: its two-valued inputs, and its outputs at points of our choosing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain.errors import InputError
from geartrain.instruments._examples import target_kind
from geartrain.instruments._layers import first_tensor, in_evaluation
from geartrain.objective import Objective

CHUNK = 4096
NOT_BOOLEAN = (
    "The inputs are not points of a hypercube (one tensor of exactly two values per example); "
    "pass levels=(low, high) to measure the model on the corners of that cube."
)
HIDDEN = "batch_loss hides the model's outputs; build the Objective with loss_fn(outputs, targets)."


@dataclass(frozen=True)
class Hypercube:
    """The cube that the inputs of an objective live on.

    Attributes:
        objective: In evaluation mode.
        low: Input value that stands for -1.
        high: Input value that stands for 1.
        inputs: The inputs of the data.
        targets: Their targets, as they are.
    """

    objective: Objective
    low: float
    high: float
    inputs: Tensor
    targets: Tensor

    @property
    def d(self) -> int:
        """Number of coordinates."""
        return self.inputs[0].numel()

    def signs(self) -> np.ndarray:
        """The data as points of {-1, 1}^d, shape (examples, d)."""
        flat = self.inputs.reshape(len(self.inputs), -1)
        return torch.where(flat == self.high, 1, -1).to(torch.int8).cpu().numpy()

    def values(self, signs: np.ndarray) -> np.ndarray | None:
        """The model's outputs at such points, shape (points, outputs), float64; ``None`` where it has none.

        Two scores for two classes become one: their difference.
        """
        parts = []
        for start in range(0, len(signs), CHUNK):
            chosen = torch.from_numpy(signs[start : start + CHUNK]).to(self.inputs.device)
            points = torch.where(chosen > 0, self.high, self.low).to(self.inputs.dtype)
            batch = (points.reshape(-1, *self.inputs.shape[1:]),)
            found = first_tensor(self.objective.on([batch]).outputs())
            if found is None or len(found) != len(chosen):
                return None
            parts.append(found.double().reshape(len(chosen), -1).cpu().numpy())
        outputs = np.concatenate(parts)
        if outputs.shape[1] == 2 and target_kind(self.targets) in {"classes", "one-hot"}:
            return outputs[:, 1:] - outputs[:, :1]
        return outputs

    def target_columns(self) -> np.ndarray | None:
        """Targets as numbers, shape (examples, columns); classes as indicators, two of them as one of -1 and 1."""
        kind = target_kind(self.targets)
        if kind == "classes":
            labels = self.targets.reshape(-1).cpu().numpy()
            classes = np.unique(labels)
            if len(classes) <= 2:
                return np.where(labels == classes[-1], 1.0, -1.0)[:, None]
            return (labels[:, None] == classes[None, :]).astype(float)
        if kind in {"none", "sequence"}:
            return None
        columns = self.targets.detach().reshape(len(self.targets), -1).double().cpu().numpy()
        return 2 * columns - 1 if kind == "binary" else columns


def hypercube(objective: Objective, levels: tuple[float, float] | None) -> Hypercube | None:
    """The cube behind an objective; ``None`` where its inputs are no points of one.

    Args:
        objective: Whose model and data.
        levels: The two input values that stand for -1 and 1; found in the data if omitted.

    Raises:
        InputError: The levels are no pair of different numbers.
    """
    if levels is not None and (len(levels) != 2 or not levels[0] < levels[1]):
        raise InputError(f"levels is {levels!r}; it must be (low, high) with low < high, such as (-1, 1).")
    if objective.loss_fn is None:
        return None
    try:
        batch = _batches.join(objective.batches)
    except RuntimeError:  # batches of different lengths
        return None
    inputs, targets = batch[0], batch[1]
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor) or inputs.ndim < 2:
        return None
    low, high = levels if levels is not None else (float(inputs.min()), float(inputs.max()))
    if levels is None and (low == high or not bool(((inputs == low) | (inputs == high)).all())):
        return None
    return Hypercube(in_evaluation(objective), low, high, inputs, targets)


def reason(objective: Objective) -> str:
    """Why there is no hypercube, as a sentence."""
    return HIDDEN if objective.loss_fn is None else NOT_BOOLEAN


def random_signs(count: int, d: int, generator: torch.Generator | None) -> np.ndarray:
    """Uniform points of {-1, 1}^d, shape (count, d)."""
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2, (count, d), generator=source, device=source.device)
    return (2 * bits.cpu().numpy() - 1).astype(np.int8)
