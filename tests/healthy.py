"""Six healthy runs of other kinds than the planted ones: no mechanism should be found in them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from geartrain import builtin, datasets
from geartrain.run import Run


def tanh_mlp(seed: int = 0) -> Run:
    """Adam on breast cancer."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(30, 16), nn.Tanh(), nn.Linear(16, 2))
    data = datasets.breast_cancer.load()
    return Run(
        model,
        functional.cross_entropy,
        torch.optim.Adam(model.parameters(), lr=3e-3),
        train=data.train,
        validation=data.validation,
        epochs=16,
        batch_size=32,
        metric=_accuracy,
        seed=seed,
        name="tanh mlp",
    )


def cnn(seed: int = 0) -> Run:
    """Adam on MNIST."""
    return builtin.get("mnist")(seed)


def gru(seed: int = 0) -> Run:
    """Adam with a cosine schedule on characters."""
    return builtin.get("text")(seed)


def transformer(seed: int = 0) -> Run:
    """AdamW with a cosine schedule on characters, one causal block."""
    torch.manual_seed(seed)
    data = datasets.text.load(length=32)
    model = CausalTransformer(num_characters=len(data.classes), length=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    epochs = 8
    return Run(
        model,
        lambda scores, targets: functional.cross_entropy(scores.flatten(0, 1), targets.flatten()),
        optimizer,
        train=data.train,
        validation=data.validation,
        epochs=epochs,
        batch_size=32,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs),
        metric=_accuracy,
        seed=seed,
        name="transformer",
    )


def regression(seed: int = 0) -> Run:
    """Momentum and weight decay on diabetes."""
    return builtin.get("diabetes")(seed)


def small_batch(seed: int = 0) -> Run:
    """Batches of eight digits, with the step and the momentum that suit them."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    data = datasets.digits.load()
    return Run(
        model,
        functional.cross_entropy,
        torch.optim.SGD(model.parameters(), lr=5e-3, momentum=0.9),
        train=data.train,
        validation=data.validation,
        epochs=20,
        batch_size=8,
        metric=_accuracy,
        seed=seed,
        name="small batch",
    )


HEALTHY: dict[str, Callable[[int], Run]] = {
    "tanh mlp": tanh_mlp,
    "cnn": cnn,
    "gru": gru,
    "transformer": transformer,
    "regression": regression,
    "small batch": small_batch,
}


class CausalTransformer(nn.Module):
    def __init__(self, num_characters: int, length: int, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.characters = nn.Embedding(num_characters, width)
        self.places = nn.Parameter(0.1 * torch.randn(length, width))
        nn.init.normal_(self.characters.weight, std=0.1)
        self.norm_in, self.norm_mid, self.norm_out = (nn.LayerNorm(width) for _ in range(3))
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.feedforward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scores = nn.Linear(width, num_characters)

    def forward(self, labels: Tensor) -> Tensor:
        hidden = self.characters(labels) + self.places[: labels.shape[1]]
        hidden = hidden + self.attend(self.norm_in(hidden))
        hidden = hidden + self.feedforward(self.norm_mid(hidden))
        return self.scores(self.norm_out(hidden))

    def attend(self, hidden: Tensor) -> Tensor:
        examples, places, width = hidden.shape
        parts = self.query_key_value(hidden).view(examples, places, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.mixed(attended.transpose(1, 2).reshape(examples, places, width))


def _accuracy(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(-1) == targets).float().mean())
