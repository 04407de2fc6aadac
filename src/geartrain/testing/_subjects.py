"""Small runs of many kinds, on which every instrument must answer or say why it cannot."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from geartrain.errors import UnknownNameError
from geartrain.run import Run

VOCABULARY, LENGTH = 7, 8


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classifier(dtype: torch.dtype = torch.float32) -> Run:
    """A ReLU and tanh network with dropout on three classes that a plane separates; validation data; momentum."""
    x = _normal(90, 4, seed=1).to(dtype)
    y = (x @ _normal(4, 3, seed=2).to(dtype)).argmax(1)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )
    model.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Run(model, functional.cross_entropy, optimizer, (x[:60], y[:60]), (x[60:], y[60:]), batch_size=12)


def regression(dtype: torch.dtype = torch.float32) -> Run:
    """A tanh network on a noisy curve, through a loader, with Adam."""
    x = _normal(48, 2, seed=3).to(dtype)
    y = (x.sum(1, keepdim=True)).sin() + 0.1 * _normal(48, 1, seed=4).to(dtype)
    model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)
    loader = DataLoader(TensorDataset(x, y), batch_size=12, shuffle=True)
    return Run(model, functional.mse_loss, torch.optim.Adam(model.parameters(), lr=0.01), loader, (x, y))


def images(dtype: torch.dtype = torch.float32) -> Run:
    """A convolution with batch normalisation on 6 x 6 pictures."""
    x = _normal(40, 1, 6, 6, seed=5).to(dtype)
    y = (x.mean((1, 2, 3)) > 0).long()
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2)
    ).to(dtype)
    return Run(
        model, functional.cross_entropy, torch.optim.AdamW(model.parameters()), (x, y), (x, y), batch_size=10
    )


class _Language(nn.Module):
    """One layer of causal attention with tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 24)
        self.head = nn.Linear(8, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.embedding(words)
        query, key, value = self.mix(self.norm(hidden)).chunk(3, dim=-1)
        return self.head(hidden + functional.scaled_dot_product_attention(query, key, value, is_causal=True))


def _next_word(scores: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def language(dtype: torch.dtype = torch.float32) -> Run:
    """A tiny causal transformer with tied embeddings on random text."""
    generator = torch.Generator().manual_seed(6)
    text = torch.randint(VOCABULARY, (40, LENGTH + 1), generator=generator)
    data = (text[:30, :-1], text[:30, 1:])
    model = _Language().to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return Run(model, _next_word, optimizer, data, (text[30:, :-1], text[30:, 1:]), batch_size=10)


def physics(dtype: torch.dtype = torch.float32) -> Run:
    """U' = -u by a loss with input derivatives: no targets, no outputs that a loss function sees."""

    def residual(model: nn.Module, points: Tensor) -> Tensor:
        points = points.requires_grad_()
        values = model(points)
        slope = torch.autograd.grad(values.sum(), points, create_graph=True)[0]
        return (slope + values).square().mean()

    model = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)
    points = _normal(32, 1, seed=7).to(dtype)
    return Run(model, None, torch.optim.Adam(model.parameters()), points, batch_loss=residual, batch_size=8)


class _Named(nn.Module):
    """Takes its batch by name and returns its own loss, as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _Language()

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        scores = self.inner(input_ids)
        return {"loss": _next_word(scores, labels), "logits": scores}


def dictionary(dtype: torch.dtype = torch.float32) -> Run:
    """The same transformer behind batches that are dicts and a loss of its own."""
    text = torch.randint(VOCABULARY, (30, LENGTH + 1), generator=torch.Generator().manual_seed(8))
    model = _Named().to(dtype)
    return Run(
        model,
        None,
        torch.optim.Adam(model.parameters()),
        {"input_ids": text[:, :-1], "labels": text[:, 1:]},
        batch_loss=lambda model, batch: model(**batch)["loss"],
        batch_size=10,
    )


SUBJECTS: dict[str, Callable[..., Run]] = {
    f.__name__: f for f in (classifier, regression, images, language, physics, dictionary)
}


def made(name: str, *, steps: int = 3, dtype: torch.dtype = torch.float32) -> Run:
    """The run of that name, the same bits every time, trained for a few steps.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in SUBJECTS:
        raise UnknownNameError("test subject", name, list(SUBJECTS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        run = SUBJECTS[name](dtype)
        run.advance(steps)
    return run
