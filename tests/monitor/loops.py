"""Hand-written loops of many kinds, each run with and without a monitor around it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import geartrain as gt

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam, for each": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3, history_size=4),
}
EVERYTHING: dict[str, Any] = {"overhead": None, "extras": ("distance", "participation_ratio")}
"""Measure everything as often as possible."""
ALWAYS: dict[str, Any] = {"every": {"norms": 1, "updates": 2, "flow": 1, "noise": 1}, **EVERYTHING}


class TinyText(nn.Module):
    """Embedding (sparse or not), attention, layer normalisation, tied head."""

    def __init__(self, *, sparse: bool = False, tied: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8, sparse=sparse)
        self.mix = nn.Linear(8, 24)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.words(words)
        query, key, value = self.mix(hidden).chunk(3, dim=-1)
        hidden = hidden + functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.head(self.norm(hidden))


def mlp(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(6, 5), nn.Tanh(),
        nn.Linear(5, 3),
    ).to(dtype)  # fmt: skip


def plain_mlp(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def examples(count: int = 48, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator, dtype=dtype)
    return inputs, torch.randint(3, (count,), generator=generator)


def sentences(count: int = 24, places: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(11, (count, places + 1), generator=generator)
    return text[:, :-1], text[:, 1:]


def batches(data: tuple[Tensor, Tensor], size: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    inputs, targets = data
    starts = [(t * size) % (len(inputs) - size + 1) for t in range(steps)]
    return [(inputs[s : s + size], targets[s : s + size]) for s in starts]


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: list[tuple[Tensor, Tensor]],
    *,
    monitor: Any = None,
    micro: int = 1,
    clip: float | None = None,
    set_to_none: bool = True,
    at: dict[int, Callable[[], None]] | None = None,
) -> list[float]:
    """A usual loop; ``micro`` micro-batches per step, something done before some steps; returns the losses."""
    losses = []
    for step, (inputs, targets) in enumerate(data):
        if at and step in at:
            at[step]()

        def closure(inputs=inputs, targets=targets) -> Tensor:
            optimizer.zero_grad(set_to_none=set_to_none)
            for x, y in zip(inputs.chunk(micro), targets.chunk(micro), strict=True):
                loss = loss_of(model(x), y)
                if monitor is not None:
                    monitor.loss(loss)
                loss = loss / micro
                loss.backward()
            losses.append(float(loss.detach()))
            return loss

        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
            continue
        closure()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return losses


def watched(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: list[tuple[Tensor, Tensor]],
    *,
    options: dict[str, Any] | None = None,
    tell: bool = False,
    **settings: Any,
) -> Any:
    """The same loop inside a monitor; returns the monitor."""
    with gt.watch(model, optimizer, **(ALWAYS if options is None else options)) as monitor:
        monitor.losses = train(model, optimizer, data, monitor=monitor if tell else None, **settings)
    return monitor


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[bytes]:
    """Everything that a loop has made, bit for bit."""
    held = [*model.parameters(), *model.buffers()]
    held += [p.grad.to_dense() for p in model.parameters() if p.grad is not None]
    held += [v for entry in optimizer.state.values() for v in entry.values() if isinstance(v, Tensor)]
    return [t.detach().contiguous().numpy().tobytes() for t in (*held, torch.get_rng_state())]


def hooks(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """How many hooks there are on anything."""
    found = len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)
    for module in model.modules():
        found += len(module._forward_hooks) + len(module._forward_pre_hooks)
        found += len(module._backward_hooks) + len(module._backward_pre_hooks)
    for parameter in model.parameters():
        found += len(parameter._backward_hooks or ()) + len(parameter._post_accumulate_grad_hooks or ())
    return found


class Clock:
    """A clock that goes on by a given amount with every reading, and whenever it is told to."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@contextlib.contextmanager
def counted_work(model: nn.Module):
    """Counts forward passes of the model and backward passes through its first parameter."""
    counts = {"forwards": 0, "backwards": 0}

    def count(name: str) -> Callable[..., None]:
        def add(*args: Any) -> None:
            counts[name] += 1

        return add

    parameter = next(model.parameters())
    handles = [
        model.register_forward_hook(count("forwards")),
        parameter.register_post_accumulate_grad_hook(count("backwards")),
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
