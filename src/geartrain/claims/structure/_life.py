"""Networks that learn one step of the game of life from 3 x 3 neighbourhoods, hundreds at once.

The network is that of `geartrain.zoo.functions.game_of_life.network` for one step, seen at one place of the board:
nine cells to 2m filters, an activation, m units, the activation again, one logit. Patterns lie along the last axis,
so that the first layer of all networks is one matrix product; the gradient is by hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain import ensemble
from geartrain.zoo.functions.game_of_life import PATTERNS, SUM, exact_network, life, network

RIGHT = torch.from_numpy(life(PATTERNS))
INPUTS = torch.from_numpy(PATTERNS.T.copy()).float()
"""All neighbourhoods, one in each column, shape (9, 512)."""
FORMS = ("relu", "square", "residual")
_CHUNK = 64


@dataclass(frozen=True)
class Shape:
    """A network's form.

    Attributes:
        m: Overcompleteness.
        form: ``"relu"``; ``"square"``: squares in both places; ``"residual"``: ReLU, and the units of the second layer
            add to the first m filters' outputs.
    """

    m: int
    form: str = "relu"

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Of weights and biases, layer by layer, as in ``network(1, m).parameters()``."""
        m = self.m
        return (2 * m, 9), (2 * m,), (m, 2 * m), (m,), (1, m), (1,)

    @property
    def count(self) -> int:
        """Parameters."""
        return sum(math.prod(s) for s in self.sizes)

    def split(self, flat: Tensor) -> list[Tensor]:
        """The six tensors, as views, each with the networks' axis in front."""
        parts = flat.split([math.prod(s) for s in self.sizes], 1)
        return [part.view(len(flat), *size) for part, size in zip(parts, self.sizes, strict=True)]

    def start(self, numbers: Sequence[int]) -> Tensor:
        """Networks by their numbers, as torch would begin them: uniform within one over the root of the fan-in."""
        bounds = torch.cat(
            [torch.full((math.prod(s),), f**-0.5) for s, f in zip(self.sizes, self._fans, strict=True)]
        )
        rows = [
            torch.rand(self.count, generator=torch.Generator().manual_seed(int(n)), dtype=torch.float64)
            for n in numbers
        ]
        return ((2 * torch.stack(rows) - 1) * bounds).float()

    @property
    def _fans(self) -> tuple[int, ...]:
        return 9, 9, 2 * self.m, 2 * self.m, self.m, self.m

    def forward(self, flat: Tensor, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (networks, patterns) and what the gradient needs; x is (9, patterns), or (networks, 9, patterns)."""
        first, bias1, second, bias2, out, bias3 = self.split(flat)
        if x.dim() == 2:
            a = torch.addmm(bias1.reshape(-1, 1), first.reshape(-1, 9), x).view(len(flat), 2 * self.m, -1)
        else:
            a = torch.baddbmm(bias1[..., None], first, x)
        h = self._active(a)
        b = torch.baddbmm(bias2[..., None], second, h)
        g = self._active(b)
        if self.form == "residual":
            g = g + h[:, : self.m]
        return torch.baddbmm(bias3[..., None], out, g)[:, 0], [a, h, b, g]

    def gradient(self, flat: Tensor, x: Tensor, kept: list[Tensor], pull: Tensor) -> Tensor:
        """Of the sum over patterns of pull times logit, shaped as `flat`."""
        second, out = self.split(flat)[2], self.split(flat)[4]
        a, h, b, g = kept
        pull = pull[:, None]
        found = torch.empty_like(flat)
        into = self.split(found)
        into[4].copy_(torch.bmm(pull, g.transpose(1, 2)))
        into[5].copy_(pull.sum(2))
        back = out.transpose(1, 2) * pull
        inner = self._chain(back, b)
        into[2].copy_(torch.bmm(inner, h.transpose(1, 2)))
        into[3].copy_(inner.sum(2))
        low = torch.bmm(second.transpose(1, 2), inner)
        if self.form == "residual":
            low[:, : self.m] += back
        low = self._chain(low, a)
        if x.dim() == 2:
            into[0].copy_((low.view(-1, low.shape[2]) @ x.T).view(into[0].shape))
        else:
            into[0].copy_(torch.bmm(low, x.transpose(1, 2)))
        into[1].copy_(low.sum(2))
        return found

    def _active(self, x: Tensor) -> Tensor:
        return x * x if self.form == "square" else x.clamp(min=0)

    def _chain(self, back: Tensor, before: Tensor) -> Tensor:
        if self.form == "square":
            return 2 * back * before
        return torch.ops.aten.threshold_backward(back, before, 0)


def weights(density: float | str) -> np.ndarray:
    """Probabilities of the 512 neighbourhoods.

    Args:
        density: Of living cells; or ``"cases"``: the 18 cases of neighbours and centre are equally likely.

    >>> bool(np.allclose(weights(0.5), 1 / 512))
    True
    """
    alive = PATTERNS.sum(1)
    if density != "cases":
        d = float(density)
        return d**alive * (1 - d) ** (9 - alive)
    case = np.stack([alive - PATTERNS[:, 4], PATTERNS[:, 4]], 1)
    _, place, count = np.unique(case, axis=0, return_inverse=True, return_counts=True)
    return 1 / (18 * count[place.ravel()])


def exact_start() -> Tensor:
    """The hand-built network with m = 1, shape (1, 25)."""
    parts = [*SUM, *-SUM, -3.5, 2.5, -2.0, -2.0, 1.0, 1.0, -0.5]
    return torch.tensor([parts], dtype=torch.float32)


def train(
    shape: Shape,
    start: Tensor,
    *,
    density: float | str = 0.38,
    steps: int = 2000,
    lr: float = 1e-2,
    batch: int | None = None,
    orders: Sequence[int] | None = None,
    every: int = 50,
) -> np.ndarray:
    """Train with Adam until all 512 patterns are right.

    Args:
        shape: Of the networks.
        start: Their first weights, (networks, parameters).
        density: See `weights`.
        steps: Budget.
        lr: Step size.
        batch: Patterns drawn for each step; the exact mean over all of them if None.
        orders: Seeds of each network's draws.
        every: Steps between evaluations.

    Returns:
        Steps at the first evaluation at which a network was right on all patterns; -1 for never.
    """
    share = torch.from_numpy(weights(density))
    found = np.full(len(start), -1)
    for begin in range(0, len(start), _CHUNK):
        rows = list(range(begin, min(begin + _CHUNK, len(start))))
        drawn = None if orders is None else [torch.Generator().manual_seed(int(orders[r])) for r in rows]
        found[rows] = _train(shape, start[rows].clone(), share, steps, lr, batch, drawn, every)
    return found


def _train(
    shape: Shape,
    flat: Tensor,
    share: Tensor,
    steps: int,
    lr: float,
    batch: int | None,
    drawn: list[torch.Generator] | None,
    every: int,
) -> np.ndarray:
    found, alive = np.full(len(flat), -1), np.arange(len(flat))
    mean, square = torch.zeros_like(flat), torch.zeros_like(flat)
    labels, exact = RIGHT.float(), share.float()
    picks = torch.zeros(0)
    for step in range(steps + 1):
        if step % every == 0:
            right = ((shape.forward(flat, INPUTS)[0] > 0) == RIGHT).all(1)
            if right.any():
                found[alive[right.numpy()]] = step
                stay = ~right
                alive, flat, mean, square = alive[stay.numpy()], flat[stay], mean[stay], square[stay]
                drawn = None if drawn is None else [d for d, s in zip(drawn, stay.tolist(), strict=True) if s]
            if not len(alive) or step == steps:
                break
            if batch and drawn is not None:
                picks = torch.stack(
                    [torch.multinomial(share, every * batch, True, generator=d) for d in drawn]
                )
        if batch:
            begin = int(step % every) * batch
            now = picks[:, begin : begin + batch]
            x, y, w = INPUTS.T[now].transpose(1, 2), labels[now], 1 / batch
        else:
            x, y, w = INPUTS, labels, exact
        logits, kept = shape.forward(flat, x)
        gradient = shape.gradient(flat, x, kept, (torch.sigmoid(logits) - y) * w)
        mean.mul_(0.9).add_(gradient, alpha=0.1)
        square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        size = square.sqrt().div_((1 - 0.999 ** (step + 1)) ** 0.5).add_(1e-8)
        flat.addcdiv_(mean, size, value=-lr / (1 - 0.9 ** (step + 1)))
    return found


# ---------------------------------------------------------------------- whole boards


def random_boards(count: int, source: np.random.Generator, density: float = 0.38) -> Tensor:
    """Boards of 12 x 12 with zeros and ones, (count, 1, 12, 12)."""
    return torch.from_numpy((source.random((count, 1, 12, 12)) < density).astype(np.float32))


def evolve(boards: Tensor, steps: int) -> Tensor:
    """The boards after that many steps; cells outside are dead."""
    for _ in range(steps):
        around = torch.nn.functional.unfold(boards, 3, padding=1).transpose(1, 2)
        boards = torch.from_numpy(life(around.reshape(-1, 9).numpy())).reshape(boards.shape).float()
    return boards


def exact_on_boards(steps: int, seed: int) -> float:
    """Share of the cells of 20 random boards that the hand-built network with m = 1 gets right."""
    boards = random_boards(20, np.random.default_rng([seed, 7]))
    right = (exact_network(steps)(boards.double()) > 0) == (evolve(boards, steps) > 0)
    return float(right.double().mean())


def boards(steps: int, m: int, seeds: Sequence[int], settings: dict[str, Any]) -> np.ndarray:
    """Train on boards, several networks for each seed; whether each is right on all of 100 fresh ones.

    Args:
        steps: Of the game.
        m: Overcompleteness.
        seeds: Each with so many networks.
        settings: ``networks`` for each seed and ``steps`` of Adam.
    """
    x = random_boards(2048, np.random.default_rng(11))
    fresh = random_boards(100, np.random.default_rng(12))
    numbers = [10_000 * int(s) + i for s in seeds for i in range(settings["networks"])]
    nets = ensemble.train(
        lambda: network(steps, m),
        (x, evolve(x, steps)),
        loss=torch.nn.functional.binary_cross_entropy_with_logits,
        lr=5e-3,
        steps=settings["steps"],
        seeds=numbers,
        batch_size=16,
        dtype=torch.float32,
        engine="vmap",
    )
    wanted = evolve(fresh, steps) > 0
    with torch.no_grad():
        right = [bool(((nets.member(i)(fresh) > 0) == wanted).all()) for i in range(len(numbers))]
    return np.array(right, dtype=np.int8).reshape(len(seeds), -1)
