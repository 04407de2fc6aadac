"""Have the chains mixed as functions? The outputs of every draw, and R-hat in three spaces at once.

Weights can disagree where networks do not: chains in mirror images of one network have a large R-hat in weight space,
a small one after the symmetries are divided out, and a small one in their outputs. Only the last is about predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from geartrain.errors import InputError, UnsupportedError
from geartrain.objective import Objective
from geartrain.records import format_number
from geartrain.sampling import diagnostics
from geartrain.sampling.diagnostics import Mixing
from geartrain.sampling.potential import Potential
from geartrain.sampling.symmetries import Symmetries, find_symmetries

_CHUNK_BYTES = 128 * 2**20


class HasPositions(Protocol):
    """Draws that know which chains never stopped."""

    @property
    def good_positions(self) -> Tensor:
        """Shape (chains, draws, params)."""
        ...


@dataclass(frozen=True)
class ThreeSpaces:
    """R-hat and effective sample sizes of the same draws in three spaces.

    Attributes:
        weights: Of every weight as it is.
        canonical: Of every weight after the symmetries were divided out.
        functions: Of every output on the given inputs.
        symmetries: What was divided out.
        note: What the functions are, one sentence.
    """

    weights: Mixing
    canonical: Mixing
    functions: Mixing
    symmetries: Symmetries
    note: str

    @property
    def worst_rhat(self) -> tuple[float, float, float]:
        """The three numbers: the largest R-hat of weights, canonical weights and functions."""
        return self.weights.worst_rhat, self.canonical.worst_rhat, self.functions.worst_rhat

    @property
    def sentence(self) -> str:
        """What it says, for people."""
        raw, canonical, functions = (format_number(r, 4) for r in self.worst_rhat)
        numbers = (
            f"Worst R-hat: {raw} of weights, {canonical} with symmetries divided out, {functions} of outputs."
        )
        good = [m.worst_rhat <= 1.01 for m in (self.weights, self.canonical, self.functions)]
        if good[2] and good[0]:
            verdict = "Mixed in every space."
        elif good[2] and good[1]:
            verdict = "The chains sit in copies of the same network: mixed as functions, and up to symmetry."
        elif good[2]:
            verdict = "Mixed as functions; weights still differ in ways that these inputs do not show."
        elif good[1]:
            verdict = "Outputs have not mixed although the weights seem to: sample longer."
        else:
            verdict = "Not mixed as functions: averages over these draws are not yet posterior averages."
        return f"{numbers} {verdict}"

    def __str__(self) -> str:
        return f"{self.sentence} {self.note} {self.symmetries.sentence}"


def outputs(
    objective: Objective,
    draws: HasPositions | Tensor,
    inputs: Any = None,
    *,
    max_examples: int = 128,
    transform: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Outputs of every draw, chains that stopped left out.

    For cross-entropy the outputs are log-probabilities (logits have a constant that nothing depends on). For
    objectives made from ``batch_loss`` they are the losses of single examples.

    **Cost** chains x draws forward passes over the examples; they are held in memory, four or eight bytes each.

    Args:
        objective: Model, loss and data.
        draws: From `sample`, or positions of shape (chains, draws, params).
        inputs: As the model takes them. If omitted, a fixed random choice of the objective's examples.
        max_examples: How many of them.
        transform: Applied to the outputs (draws, examples, ...) instead of the default.
        generator: Chooses the examples; seed 0 if omitted.

    Returns:
        Shape (chains, draws, examples, ...).

    Raises:
        InputError: The positions have another shape, or the model's output is no single tensor.
    """
    positions = _positions(draws, objective.num_params)
    potential = Potential(objective)
    flat = positions.flatten(0, 1)
    change = transform or _default_transform(objective)
    rows = None
    if inputs is None and objective.num_examples > max_examples:
        own = generator or torch.Generator().manual_seed(0)
        rows = torch.randperm(objective.num_examples, generator=own)[:max_examples]

    def piece(part: Tensor) -> Tensor:
        try:
            if inputs is not None:
                return potential.outputs(part, inputs)
            found = potential.outputs(part)
        except UnsupportedError:
            return potential.per_example_losses(part, rows)
        if not isinstance(found, Tensor):
            raise InputError(
                f"The model returns a {type(found).__name__}, not one tensor; pass a model whose forward returns the "
                "tensor to compare."
            )
        return change(found if rows is None else found[:, rows.to(found.device)])

    first = piece(flat[:1])
    per_draw = first.numel() * first.element_size() * (objective.num_examples // max(len(first[0]), 1) + 1)
    step = max(1, min(len(flat), _CHUNK_BYTES // max(per_draw, 1)))
    parts = [piece(flat[i : i + step]).detach() for i in range(0, len(flat), step)]
    return torch.cat(parts).unflatten(0, positions.shape[:2])


def three_spaces(
    objective: Objective | None,
    draws: HasPositions | Tensor,
    inputs: Any = None,
    *,
    function: Callable[[Tensor], Tensor] | None = None,
    symmetries: Symmetries | None = None,
    max_examples: int = 128,
) -> ThreeSpaces:
    """R-hat and effective sample sizes of weights, canonical weights and outputs, with the sentence they make.

    Args:
        objective: Model, loss and data; ``None`` if ``function`` and ``symmetries`` are given.
        draws: From `sample`, or positions of shape (chains, draws, params).
        inputs: See `outputs`.
        function: (draws, params) -> (draws, ...), instead of the model's outputs.
        symmetries: To be divided out; found in the model if omitted.
        max_examples: See `outputs`.

    Returns:
        The three summaries.

    Raises:
        InputError: Neither an objective nor function and symmetries were given.
    """
    if objective is None and (function is None or symmetries is None):
        raise InputError("objective is None; then both function= and symmetries= must be given.")
    positions = _positions(draws, objective.num_params if objective is not None else None)
    if symmetries is None:
        assert objective is not None
        symmetries = find_symmetries(objective)
    if function is not None:
        values = function(positions.flatten(0, 1)).unflatten(0, positions.shape[:2])
        note = "Functions are what was passed."
    else:
        assert objective is not None
        values = outputs(objective, positions, inputs, max_examples=max_examples)
        note = f"Functions are {_words(objective)} on {values.shape[2]} examples."
    return ThreeSpaces(
        diagnostics.summary(positions),
        diagnostics.summary(symmetries.canonical(positions)),
        diagnostics.summary(values),
        symmetries,
        note,
    )


def _positions(draws: HasPositions | Tensor, params: int | None) -> Tensor:
    positions = draws if isinstance(draws, Tensor) else draws.good_positions
    if positions.ndim != 3 or (params is not None and positions.shape[2] != params):
        raise InputError(
            f"The positions have shape {tuple(positions.shape)}; they must be (chains, draws, {params or 'params'})."
        )
    return positions


def _is_cross_entropy(objective: Objective) -> bool:
    loss = objective.loss_fn
    return isinstance(loss, nn.CrossEntropyLoss) or loss is nn.functional.cross_entropy


def _default_transform(objective: Objective) -> Callable[[Tensor], Tensor]:
    if _is_cross_entropy(objective):
        # The class axis of one network is axis 1 (axis 0 for a single example); chains stand before it.
        return lambda found: found.log_softmax(2 if found.ndim > 2 else -1)
    return lambda found: found


def _words(objective: Objective) -> str:
    if objective.loss_fn is None:
        return "losses of single examples"
    return "log-probabilities" if _is_cross_entropy(objective) else "outputs"
