"""Objectives that say exactly what a test wants: the inputs are the scores."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.instruments.function._said import Said
from geartrain.objective import Objective


class Echo(nn.Module):
    """Returns its inputs, scaled by a parameter that is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, scores: Tensor) -> Tensor:
        return self.scale * scores


def sequence_loss(scores: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def echo(scores: Tensor, labels: Tensor, loss=nn.functional.cross_entropy) -> Objective:
    return Objective(Echo(), loss if labels.ndim == 1 else sequence_loss, (scores.double(), labels))


def drawn_from(scores: Tensor, seed: int) -> Tensor:
    """Labels that the softmax of the scores describes exactly."""
    g = torch.Generator().manual_seed(seed)
    flat = scores.flatten(0, -2).softmax(-1)
    return torch.multinomial(flat, 1, generator=g).reshape(scores.shape[:-1])


def answered(scores: Tensor, labels: Tensor) -> Said:
    """What an echo says, without the model: for tests that ask hundreds of times."""
    places = 1 if labels.ndim == 1 else labels.shape[1]
    groups, which = np.repeat(np.arange(len(labels)), places), np.tile(np.arange(places), len(labels))
    return Said("classes", scores.double().flatten(0, -2), labels.flatten(), None, groups, which, True)


def calibrated(n: int, seed: int, *, classes: int = 4, size: float = 1.5, factor: float = 1.0, say=answered):
    """Scores whose softmax, once they are divided by ``factor``, is the truth."""
    g = torch.Generator().manual_seed(seed)
    scores = size * torch.randn(n, classes, generator=g, dtype=torch.float64)
    return say(factor * scores, drawn_from(scores, seed + 10_000))


def clustered(sequences: int, places: int, seed: int, *, factor: float = 1.0, say=answered):
    """Sequences whose places all repeat the first: the errors of all are those of ``sequences`` answers."""
    g = torch.Generator().manual_seed(seed)
    scores = 1.5 * torch.randn(sequences, 4, generator=g, dtype=torch.float64)
    labels = drawn_from(scores, seed + 10_000)
    return say(factor * scores[:, None].repeat(1, places, 1), labels[:, None].repeat(1, places))


def covered(results, truth: float, width: float = 2.0) -> int:
    """How many of the intervals value ± width · error hold the truth."""
    pairs = [(float(r.value), float(np.asarray(r.standard_error))) for r in results]
    return sum(abs(v - truth) <= width * e for v, e in pairs)
