"""Two-layer networks on digits with wrong labels, all seeds at once; each has its own sample and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import geartrain as gt
from geartrain.datasets import digits
from geartrain.ensemble import Ensemble

POOL = 1024
"""Digits from which samples are taken; the other 773 are for testing, with their right labels."""
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared error": nn.functional.mse_loss,
    "cross-entropy": nn.functional.cross_entropy,
}


@dataclass(frozen=True)
class NoisyDigits:
    """Samples of several seeds in one pool, and the test digits.

    Attributes:
        inputs: Shape (seeds * 1024, 64); a seed's digits in its own order.
        targets: Their labels, wrong where noise has struck: classes, or one-hot vectors for squared error.
        rows: Which of them each seed is trained on.
        test: Test inputs, and targets of the same kind without noise.
        classes: Test labels.
    """

    inputs: Tensor
    targets: Tensor
    rows: list[Tensor]
    test: tuple[Tensor, Tensor]
    classes: Tensor

    @staticmethod
    def draw(
        seeds: Sequence[int], samples: int, noise: float, loss: str, scales: Tensor | None = None
    ) -> NoisyDigits:
        """The first `samples` of each seed's order: samples of different sizes are nested.

        Args:
            seeds: Of order and noise.
            samples: Examples.
            noise: Probability of a wrong label.
            loss: A name of `LOSSES`.
            scales: Factor of each of the 64 pixels.
        """
        split = digits.load(POOL)
        (images, right), (fresh, classes) = split.train, split.validation
        inputs, labels = [], []
        for seed in seeds:
            generator = np.random.default_rng([seed, 20])
            order = generator.permutation(POOL)
            struck, other = generator.random(POOL) < noise, generator.integers(1, 10, POOL)
            said = right.numpy()[order]
            inputs.append(images[order])
            labels.append(torch.as_tensor(np.where(struck, (said + other) % 10, said)))
        scale = torch.ones(images.shape[1]) if scales is None else scales
        rows = [place * POOL + torch.arange(samples) for place in range(len(seeds))]
        as_loss = _one_hot if loss == "squared error" else _same
        return NoisyDigits(
            torch.cat(inputs) * scale,
            as_loss(torch.cat(labels)),
            rows,
            (fresh * scale, as_loss(classes)),
            classes,
        )

    def train(self, seeds: Sequence[int], width: int, loss: str, **options: Any) -> Ensemble:
        """Networks 64-width-10 with relu, full batch, not a step taken yet."""
        return gt.ensemble.train(
            lambda: network(width), (self.inputs, self.targets), loss=LOSSES[loss], seeds=list(seeds),
            subset=self.rows, steps=0, engine="stack", **options,
        )  # fmt: skip

    def follow(self, nets: Ensemble, steps: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Train for so many steps; test loss and test error (a share) on the way, shape (seeds, checkpoints)."""
        losses, errors = [], []
        for more in np.diff(checkpoints(steps, count), prepend=0):
            nets.train(int(more))
            losses.append(nets.evaluate(self.test).numpy())
            errors.append(nets.evaluate((self.test[0], self.classes), metric=_error).numpy())
        return np.stack(losses, 1), np.stack(errors, 1)

    def fitted(self, nets: Ensemble) -> tuple[np.ndarray, np.ndarray]:
        """Training loss and training error of every seed on its own sample, wrong labels included."""
        labels = self.targets if self.targets.ndim == 1 else self.targets.argmax(1)
        found = np.empty((2, len(nets)))
        for place, rows in enumerate(self.rows):
            model = nets.member(place)
            with torch.no_grad():
                outputs = model(self.inputs[rows])
            found[0, place] = _loss(outputs, self.targets[rows])
            found[1, place] = float(_error(outputs, labels[rows]))
        return found[0], found[1]


def network(width: int) -> nn.Module:
    """64-width-10, relu."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def _loss(outputs: Tensor, targets: Tensor) -> float:
    """The loss that goes with the targets."""
    kind = "cross-entropy" if targets.ndim == 1 else "squared error"
    return float(LOSSES[kind](outputs, targets))


def checkpoints(steps: int, count: int) -> np.ndarray:
    """Steps after which a training is looked at, evenly spaced in their logarithm; 0 is the first."""
    return np.unique(np.r_[0, np.geomspace(min(8, steps), steps, count).round().astype(int)])


def _error(outputs: Tensor, classes: Tensor) -> Tensor:
    return (outputs.argmax(-1) != classes).float().mean()


def _one_hot(labels: Tensor) -> Tensor:
    return torch.eye(10)[labels]


def _same(labels: Tensor) -> Tensor:
    return labels
