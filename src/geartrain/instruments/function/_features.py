"""Features of the layers as matrices of inner products between rows: all that similarity, probes and neighbours need.

A row is an example, or a place of a sequence where the model answers at every place. A layer is reduced to its
inner products while the model runs, so that no more than one layer's features are held at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain._torch import batches as _batches
from geartrain.errors import InputError
from geartrain.instruments._examples import features, standardised, tokens
from geartrain.instruments._layers import leaf_outputs
from geartrain.instruments.function._said import Said, hear, taken
from geartrain.instruments.function._view import inputs_of
from geartrain.objective import Objective
from geartrain.records import Cost

ROWS = 512
"""Rows at most: inner products grow with their square, probes with their cube."""
SEQUENCES = 128
COLUMNS = 2**15
_PASSIVE = (nn.Flatten, nn.Identity, nn.modules.dropout._DropoutNd)


@dataclass(frozen=True)
class Rows:
    """The rows that layers are compared on.

    Attributes:
        objective: The model and one batch that holds them.
        said: What the model answers in each of them, and what is right.
        sequence: Whether rows are places of sequences.
    """

    objective: Objective
    said: Said
    sequence: bool

    @property
    def types(self) -> np.ndarray | None:
        """Token that stands at each row; ``None`` where the inputs are no tokens of the same places."""
        words = tokens(inputs_of(self.objective.batches[0]))
        if words is None or not self.sequence or self.said.places.max(initial=0) >= words.shape[1]:
            return None
        return words.cpu().numpy()[self.said.groups, self.said.places]


def rows_of(objective: Objective, most: int = ROWS) -> Rows | None:
    """A fixed choice of rows, in one forward pass over them; ``None`` where the outputs tell nothing."""
    chosen = _one_batch(objective, most)
    said = hear(chosen)
    if said is None:
        return None
    sequence = bool(said.places.any()) and said.kind == "classes" and _is_sequence(chosen)
    if said.places.any() and not sequence:
        return None
    if said.rows > most:
        said = taken(said, np.linspace(0, said.rows - 1, most).astype(int))
    return Rows(chosen, said, sequence)


def _is_sequence(objective: Objective) -> bool:
    inputs = inputs_of(objective.batches[0])
    return tokens(inputs) is not None or (isinstance(inputs, Tensor) and inputs.ndim == 3)


def share_of_data(objective: Any, most: int = ROWS) -> float:
    """Share of the data that one pass over the rows is, for prices."""
    count = getattr(objective, "num_examples", 0)
    return min(1.0, most / count) if count else 1.0


def _one_batch(objective: Objective, most: int) -> Objective:
    try:
        batch = _batches.join(objective.batches)
    except RuntimeError:  # padded to different lengths
        batch = objective.batches[0]
    size = _batches.size_of(batch)
    limit = min(most, SEQUENCES) if tokens(inputs_of(batch)) is not None else most
    if size > limit:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(objective.seed))
        batch = _batches.take(batch, order[:limit].sort().values)
    return objective.on([batch])


def layer_grams(rows: Rows, objective: Objective | None = None) -> dict[str, np.ndarray]:
    """Inner products of the centred features of every layer, each shape (rows, rows), in the order of execution.

    Args:
        rows: Which rows.
        objective: Another model on the same data; that of the rows if omitted.
    """
    objective = rows.objective if objective is None else objective
    batch = objective.batches[0]
    grams: dict[str, np.ndarray] = {}

    def visit(name: str, module: nn.Module, output: Tensor) -> None:
        if not isinstance(module, _PASSIVE) and (table := _table(output.detach(), rows)) is not None:
            grams[name] = _gram(table)

    with objective._quiet(), leaf_outputs(objective.model, visit):
        objective._loss(objective._leaves(None), batch)
    objective.charge(forwards=1)
    return grams


def layer_table(objective: Objective, layer: str) -> np.ndarray:
    """Features of one layer for all the data, float64, shape (examples, features); one forward pass.

    Raises:
        InputError: There is no such layer, or it has no features per example.
    """
    parts: list[Tensor] = []
    names: set[str] = set()
    for batch in objective.batches:

        def visit(name: str, module: nn.Module, output: Tensor, size: int = _batches.size_of(batch)) -> None:
            if output.ndim and len(output) == size:
                names.add(name)
                if name == layer:
                    parts.append(output.detach().reshape(size, -1).double().cpu())

        with objective._quiet(), leaf_outputs(objective.model, visit):
            objective._loss(objective._leaves(None), batch)
    objective.charge(forwards=1)
    if layer not in names:
        raise InputError(
            f"space is {layer!r}; allowed: 'input' or a layer of the model: {', '.join(map(repr, sorted(names)))}."
        )
    return torch.cat(parts).numpy()


def input_gram(rows: Rows) -> np.ndarray | None:
    """The same of the inputs, every feature divided by its spread; ``None`` for tokens and for places of sequences."""
    found = None if rows.sequence else features(inputs_of(rows.objective.batches[0]))
    if found is None:
        return None
    table = standardised(found)[rows.said.groups]
    return table @ table.T if table.shape[1] else None


def _table(output: Tensor, rows: Rows) -> Tensor | None:
    """Features of the rows, shape (rows, features)."""
    size = rows.objective.num_examples
    if output.ndim < 2 or len(output) != size:
        return None
    groups = torch.from_numpy(rows.said.groups).to(output.device)
    if not rows.sequence:
        return output.reshape(size, -1)[groups]
    if output.ndim != 3 or output.shape[1] <= rows.said.places.max(initial=0):
        return None
    return output[groups, torch.from_numpy(rows.said.places).to(output.device)]


def _gram(table: Tensor) -> np.ndarray:
    total = torch.zeros(len(table), len(table), dtype=torch.float64, device=table.device)
    for part in table.split(COLUMNS, dim=1):
        wide = part.double()
        wide = wide - wide.mean(0)
        total += wide @ wide.T
    return total.cpu().numpy()


def rows_price(subject: Any, *args: Any, rows: int = ROWS, **options: Any) -> Cost:
    """Two passes over the rows: one for the answers, one for the layers."""
    share = share_of_data(subject, rows) if isinstance(subject, Objective) else 1.0
    return Cost(forwards=2 * share, peak_bytes=32 * rows**2)
