"""What a model says about examples: one row of scores per answer that the loss judges, and what the answer was.

The loss is watched while it runs: the arguments of the cross-entropy that it calls are the logits and labels, wherever
they come from (outputs of the model, shifted sequences, dict batches). Where it calls none, outputs and targets are
compared by their shapes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from geartrain._torch import kernels
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._examples import class_labels, split_batch, target_values
from geartrain.instruments._layers import first_tensor
from geartrain.instruments._outputs import class_axis
from geartrain.instruments.function._view import size_of
from geartrain.objective import Objective
from geartrain.records import Measurement, State

ENTRIES = 2**24
"""Scores that are kept at most (rows x classes): of long sequences and large vocabularies, evenly spread rows."""

_SOFTMAX = {"cross_entropy", "nll_loss"}
_BERNOULLI = {"binary_cross_entropy", "binary_cross_entropy_with_logits"}


@dataclass(frozen=True)
class Said:
    """Answers of a model, and what they should have been.

    Attributes:
        kind: ``"classes"``, ``"values"``, or ``"unjudged"`` (outputs without targets).
        scores: Classes: shape (rows, classes); their softmax is what the model believes, if ``probable``.
            Otherwise the outputs, shape (rows, outputs). Float64, on the CPU.
        labels: Class of each row, shape (rows,); ``None`` unless there are classes.
        values: What the outputs should be, shape (rows, outputs); ``None`` unless there are values.
        groups: Example that each row belongs to, shape (rows,): rows of one sequence are not independent.
        places: Place of each row within its example, shape (rows,); all 0 where each example has one answer.
        probable: Whether the scores stand for probabilities.
    """

    kind: Literal["classes", "values", "unjudged"]
    scores: Tensor
    labels: Tensor | None
    values: Tensor | None
    groups: np.ndarray
    places: np.ndarray
    probable: bool = False

    @property
    def rows(self) -> int:
        """Number of answers."""
        return len(self.scores)

    @property
    def predicted(self) -> Tensor:
        """Class that each row names."""
        return self.scores.argmax(1)

    @property
    def right(self) -> np.ndarray:
        """Whether each row names the right class, as 0 and 1."""
        assert self.labels is not None
        return (self.predicted == self.labels).double().numpy()

    @property
    def losses(self) -> Tensor:
        """Cross-entropy of each row in nats."""
        assert self.labels is not None
        return functional.cross_entropy(self.scores, self.labels, reduction="none")

    @property
    def words(self) -> str:
        """Rows in words."""
        examples = len(np.unique(self.groups))
        return (
            f"{self.rows} answers about {examples} examples"
            if examples < self.rows
            else f"{self.rows} answers"
        )


class LossEar(TorchFunctionMode):
    """Notes the arguments of the first cross-entropy that is called inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.heard = "", dict[str, Any]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass the call on unchanged."""
        name = getattr(func, "__name__", "")
        if name in _SOFTMAX | _BERNOULLI and not self.heard:
            try:
                bound = inspect.signature(func).bind(*args, **(kwargs or {}))
            except (TypeError, ValueError):
                return func(*args, **(kwargs or {}))
            bound.apply_defaults()
            self.name, self.heard = name, dict(bound.arguments)
        return func(*args, **(kwargs or {}))


def hear(objective: Objective) -> Said | None:
    """What the model says about the data of an objective, in one forward pass; ``None`` where nothing can be told."""
    parts, first = [], 0
    share = ENTRIES // max(len(objective.batches), 1)
    for batch in objective.batches:
        said = hear_batch(objective, batch, lambda b=batch: objective._loss(objective._leaves(None), b))
        if said is None:
            objective.charge(forwards=1 / len(objective.batches))
            return None
        said = _thinned(said, share)
        parts.append(replace(said, groups=said.groups + first))
        first += size_of(batch)
    objective.charge(forwards=1)
    return joined(parts)


def hear_batch(
    objective: Objective, batch: Any, loss: Callable[[], Any], *, graph: bool = False
) -> Said | None:
    """The same about one batch, while its loss is computed.

    Args:
        objective: Whose model.
        batch: The batch, for its targets.
        loss: Computes the loss of the batch (and, with ``graph``, whatever shall be derived from it).
        graph: Keep the graph of the scores.
    """
    outputs: list[Tensor] = []
    ear = LossEar()

    def note(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(_logits(output))

    def listen() -> Any:
        outputs.clear()
        ear.heard = {}
        return loss()

    handle = objective.model.register_forward_hook(note)
    try:
        with objective._quiet(), ear:
            if graph:
                listen()
            else:
                kernels.without_gradients(listen)
    finally:
        handle.remove()
    size = size_of(batch)
    found = _from_loss(ear, size) if ear.heard else None
    if found is not None:
        return found
    output = next((o for o in outputs if o is not None and o.ndim and len(o) == size), None)
    return None if output is None else _from_outputs(output, split_batch(batch)[1], size)


def _logits(output: Any) -> Any:
    named = getattr(output, "logits", None)
    return named if isinstance(named, Tensor) else first_tensor(output)


def _from_loss(ear: LossEar, size: int) -> Said | None:
    scores, target = ear.heard["input"], ear.heard["target"]
    if not isinstance(scores, Tensor) or not isinstance(target, Tensor):
        return None
    return (
        _softmax_rows(ear, scores, target, size)
        if ear.name in _SOFTMAX
        else _yes_no_rows(ear, scores, target)
    )


def _softmax_rows(ear: LossEar, scores: Tensor, target: Tensor, size: int) -> Said | None:
    if scores.ndim == 1:
        scores, target = scores[None], target[None]
    scores = scores.movedim(1, -1)
    if target.is_floating_point():
        target = target.movedim(1, -1).argmax(-1)
    scores, target = scores.reshape(-1, scores.shape[-1]), target.reshape(-1).cpu()
    if len(scores) != len(target) or len(scores) % size:
        return None
    groups, places = _numbered(size, len(scores) // size)
    kept = target != ear.heard.get("ignore_index", -100)
    chosen = kept.numpy()
    rows = _plain(scores)[kept]
    return Said("classes", rows, target[kept].long(), None, groups[chosen], places[chosen], True)


def _yes_no_rows(ear: LossEar, scores: Tensor, target: Tensor) -> Said | None:
    if scores.shape != target.shape or not bool(((target == 0) | (target == 1)).all()):
        return None
    # Labels and probabilities have one entry per example and question; every question is an answer of its own.
    questions = max(scores[0].numel(), 1) if scores.ndim else 1
    flat = _plain(scores.reshape(-1))
    if ear.name == "binary_cross_entropy":
        flat = torch.logit(flat, eps=1e-12)
    two = torch.stack([torch.zeros_like(flat), flat], dim=1)
    groups, places = _numbered(len(flat) // questions, questions)
    return Said("classes", two, target.detach().reshape(-1).long().cpu(), None, groups, places, True)


def _numbered(examples: int, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Example and place of each row."""
    return np.repeat(np.arange(examples), places), np.tile(np.arange(places), examples)


def _from_outputs(output: Tensor, targets: Any, size: int) -> Said | None:
    axis = class_axis(output, targets)
    labels = class_labels(targets)
    if axis is not None and (axis != 1 or output.ndim > 2 or labels is not None):
        scores = output.movedim(axis, -1)
        scores = _plain(scores.reshape(-1, scores.shape[-1]))
        return _named(scores, targets.detach().reshape(-1).cpu(), size)
    if labels is not None and output.ndim == 2 and output.shape[1] > max(1, int(labels.max())):
        return _named(_plain(output), torch.from_numpy(labels), size)
    rows = _plain(output.reshape(size, -1))
    values = None if not isinstance(targets, Tensor) else target_values(targets)
    if values is None and isinstance(targets, Tensor) and targets.is_floating_point():
        values = targets.detach().reshape(len(targets), -1).double().cpu().numpy()
    if values is not None and values.shape == tuple(rows.shape):
        return Said("values", rows, None, torch.from_numpy(values), *_numbered(size, 1))
    return Said("unjudged", rows, None, None, *_numbered(size, 1))


def _named(scores: Tensor, labels: Tensor, size: int) -> Said | None:
    if len(scores) != len(labels) or len(labels) % size or int(labels.max()) >= scores.shape[1]:
        return None
    numbers = _numbered(size, len(labels) // size)
    close = 1e-4
    if bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < close).all()):
        return Said("classes", scores.clamp_min(1e-300).log(), labels.long(), None, *numbers, True)
    probable = bool((scores.logsumexp(1).abs() < close).all())
    return Said("classes", scores, labels.long(), None, *numbers, probable)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().double().cpu()


def _thinned(said: Said, entries: int) -> Said:
    """At most so many entries, in rows that lie evenly."""
    most = max(64, entries // max(said.scores.shape[1], 1))
    return said if said.rows <= most else taken(said, np.linspace(0, said.rows - 1, most).astype(int))


def taken(said: Said, index: np.ndarray) -> Said:
    """Some of the rows."""
    pick = torch.from_numpy(index)
    return replace(
        said,
        scores=said.scores[pick],
        labels=None if said.labels is None else said.labels[pick],
        values=None if said.values is None else said.values[pick],
        groups=said.groups[index],
        places=said.places[index],
    )


def joined(parts: list[Said]) -> Said | None:
    """Several batches of the same kind as one; ``None`` if they do not fit."""
    if len({(p.kind, p.scores.shape[1]) for p in parts}) != 1:
        return None
    labels = [p.labels for p in parts if p.labels is not None]
    values = [p.values for p in parts if p.values is not None]
    return Said(
        parts[0].kind,
        torch.cat([p.scores for p in parts]),
        torch.cat(labels) if labels else None,
        torch.cat(values) if values else None,
        np.concatenate([p.groups for p in parts]),
        np.concatenate([p.places for p in parts]),
        all(p.probable for p in parts),
    )


def refusal(
    name: str, said: Said | None, *, probable: bool = False, classes: bool = True
) -> Measurement | None:
    """The answer where a quantity of classifiers does not exist; ``None`` where it does."""
    if said is None or said.kind == "unjudged" or (classes and said.kind != "classes"):
        return not_applicable(
            name,
            "The model gives no class scores that the data judge, so there is no right or wrong to count.",
        )
    if not said.rows:
        return not_applicable(name, "The data hold no judged answer.")
    if is_broken(said):
        return broken(name)
    if probable and not said.probable:
        return not_applicable(
            name,
            "The scores stand for no probabilities (the loss is no cross-entropy); train with one, or divide scores "
            "by a temperature of your own.",
        )
    return None


def is_broken(said: Said) -> bool:
    """Whether an output is NaN or infinite (a score of minus infinity rules a class out, and is none of these)."""
    bad = torch.isnan(said.scores) | (said.scores == math.inf)
    return bool(bad.any()) or (said.kind != "classes" and bool(torch.isinf(said.scores).any()))


def broken(name: str) -> Measurement:
    """The answer where the model itself is broken."""
    return no_answer(name, "The model's outputs are NaN or infinite.", state=State.NON_FINITE)
