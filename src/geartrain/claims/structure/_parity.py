"""Networks that learn sums of parities from fresh points of the cube, one for each seed, trained side by side.

Plain SGD on ½ mean (f - y)², written out by hand over batched products; the points of a seed depend on that seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

Terms = tuple[tuple[tuple[int, ...], float], ...]
"""A target: sets of coordinates with their coefficients."""
NEVER, DIVERGED = -1, -2
_CHUNK, _LOOKED_AT = 32, 2048


@dataclass
class Nets:
    """ReLU networks with one output, one for each seed.

    Attributes:
        layers: Weight (seeds, out, in) and bias (seeds, 1, out) of each.
    """

    layers: list[tuple[Tensor, Tensor]]

    @classmethod
    def fresh(cls, sizes: Sequence[int], seeds: Sequence[int], salt: int = 0, bias: float = 0.0) -> Nets:
        """Weights uniform within ±1/√(fan-in), biases of all layers but the last within ±bias."""
        layers = []
        for number, (inputs, units) in enumerate(pairwise(sizes)):
            draws = [
                np.random.default_rng([s, salt, number]).uniform(-1, 1, (units, inputs + 1)) for s in seeds
            ]
            both = torch.from_numpy(np.stack(draws)).float()
            spread = bias if number < len(sizes) - 2 else 0.0
            layers.append((both[..., :-1] / math.sqrt(inputs), spread * both[..., None, :, -1]))
        return cls(layers)

    def hidden(self, x: Tensor, layers: int | None = None) -> list[Tensor]:
        """What each layer says of points x, shape (seeds, points, in); the last of all is not rectified."""
        said = [x]
        for number, (weight, bias) in enumerate(self.layers[:layers]):
            z = torch.baddbmm(bias, said[-1], weight.transpose(1, 2))
            said.append(z if number == len(self.layers) - 1 else z.relu_())
        return said

    def step(self, x: Tensor, y: Tensor, rates: Sequence[float]) -> None:
        """One step of gradient descent on ½ mean (f - y)², with a step size for each layer."""
        said = self.hidden(x)
        back = (said[-1] - y) / x.shape[1]
        for number in reversed(range(len(self.layers))):
            weight, bias = self.layers[number]
            below = torch.bmm(back, weight).mul_(said[number] > 0) if number else back
            weight.baddbmm_(back.transpose(1, 2), said[number], alpha=-rates[number])
            bias.sub_(back.sum(1, keepdim=True), alpha=rates[number])
            back = below

    def of(self, which: Sequence[int] | Tensor) -> Nets:
        """Those of some seeds, copied."""
        return Nets([(w[which].clone(), b[which].clone()) for w, b in self.layers])


@dataclass
class Learnt:
    """What became of a training.

    Attributes:
        times: First step at which a term's coefficient had reached its share of the target's, shape (seeds, terms);
            -1: not within the budget; -2: diverged.
        nets: At the end: of each seed, when all of its terms were there.
        coefficients: Then, shape (seeds, terms).
    """

    times: np.ndarray
    nets: Nets
    coefficients: np.ndarray

    @property
    def last(self) -> np.ndarray:
        """When all terms were there, shape (seeds,); -1 or -2 if not."""
        return np.where((self.times < 0).any(1), self.times.min(1), self.times.max(1))


def mean_field(width: int, rate: float = 0.05) -> tuple[float, float]:
    """Step sizes of both layers in the mean-field ratio: rate·√width, rate/√width."""
    return rate * math.sqrt(width), rate / math.sqrt(width)


def parities(x: Tensor, terms: Terms) -> Tensor:
    """χ_S of each term, shape (..., terms)."""
    return torch.stack([x[..., list(members)].prod(-1) for members, _ in terms], -1)


def train(
    nets: Nets,
    terms: Terms,
    seeds: Sequence[int],
    d: int,
    *,
    rates: Sequence[float],
    budget: int,
    batch: int = 64,
    salt: int = 0,
    below: Nets | None = None,
    share: float = 0.5,
) -> Learnt:
    """Train until each term's coefficient has reached its share, or the budget is spent. The networks are not changed.

    Looks after every other step at first, then each time 3 % more have been made, at 2,048 points. A coefficient counts
    only while the network does better than saying 0: one that blows up passes every threshold.

    Args:
        nets: The networks at the start.
        terms: The target.
        seeds: Of the points.
        d: Inputs.
        rates: Step size of each layer.
        budget: Steps.
        batch: Fresh points for each step.
        salt: Tells streams of points of one seed apart.
        below: Frozen layers that look at the points first.
        share: Of the target's coefficient that counts as learnt.
    """
    scale = torch.tensor([c for _, c in terms])
    looked_at = torch.from_numpy(np.random.default_rng(d).integers(0, 2, (_LOOKED_AT, d))).float() * 2 - 1
    chi = parities(looked_at, terms)
    found = np.full((len(seeds), len(terms)), NEVER)
    ends, left = np.zeros((len(seeds), len(terms))), list(range(len(seeds)))
    final = nets.of(left)
    now, frozen = nets.of(left), None if below is None else below.of(left)
    streams = [np.random.default_rng([s, salt, d]) for s in seeds]
    points, step, look = torch.empty(0), 0, 0
    while left:
        if step >= look or step >= budget:
            look = step + max(2, round(0.03 * step))
            coefficients, loss = _seen(now, frozen, looked_at, chi, scale)
            there = ((coefficients / scale >= share) & (loss < 1)[:, None]).numpy()
            lost = ~torch.isfinite(coefficients).all(1).numpy()
            for row, seed in enumerate(left):
                found[seed, there[row] & (found[seed] == NEVER)] = step
                found[seed] = DIVERGED if lost[row] else found[seed]
            done = lost | (found[left] >= 0).all(1) | (step >= budget)
            for row in np.flatnonzero(done):
                ends[left[row]] = coefficients[row].numpy()
                for (w, b), (weight, bias) in zip(final.layers, now.layers, strict=True):
                    w[left[row]], b[left[row]] = weight[row], bias[row]
            if done.any():
                kept = np.flatnonzero(~done).tolist()
                left = [left[i] for i in kept]
                now, frozen = now.of(kept), None if frozen is None else frozen.of(kept)
                points = points[kept] if len(points) else points
                continue
        if step % _CHUNK == 0:
            points = torch.stack([_signs(streams[i], _CHUNK * batch, d) for i in left])
        at = step % _CHUNK * batch
        x = points[:, at : at + batch]
        y = (parities(x, terms) * scale).sum(-1, keepdim=True)
        now.step(x if frozen is None else _features(frozen, x), y, rates)
        step += 1
    return Learnt(found, final, ends)


def _features(below: Nets, x: Tensor) -> Tensor:
    return below.hidden(x)[-1].relu_()


def _seen(nets: Nets, below: Nets | None, x: Tensor, chi: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Fourier coefficients of the networks at the terms, shape (seeds, terms), and loss in units of that of 0."""
    every = x.expand(len(nets.layers[0][0]), *x.shape)
    outputs = nets.hidden(every if below is None else _features(below, every))[-1][..., 0]
    y = chi @ scale
    return outputs @ chi / len(x), ((outputs - y) ** 2).mean(1) / (y**2).mean()


def _signs(stream: np.random.Generator, points: int, d: int) -> Tensor:
    bits = np.unpackbits(
        np.frombuffer(stream.bytes(math.ceil(points * d / 8)), dtype=np.uint8), count=points * d
    )
    return torch.from_numpy(bits).float().mul_(2).sub_(1).view(points, d)
