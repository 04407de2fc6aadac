"""Small runs and objectives on data made to order, and a way to see whether anything was changed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geartrain.objective import Objective
from geartrain.run import Run


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def objective_of(
    inputs: Tensor, targets: Tensor, model: nn.Module | None = None, loss: Any = None, **options: Any
) -> Objective:
    """An objective whose model fits the data; a linear one unless given."""
    classes = not targets.is_floating_point()
    if model is None:
        model = flat_linear(inputs, int(targets.max()) + 1 if classes else targets[0].numel())
    return Objective(
        model,
        loss or (functional.cross_entropy if classes else functional.mse_loss),
        (inputs, targets),
        **options,
    )


def run_of(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor] | None = None,
    model: nn.Module | None = None,
    loss: Any = None,
    **options: Any,
) -> Run:
    """A run on such data, never trained."""
    inputs, targets = train
    classes = not targets.is_floating_point()
    if model is None:
        model = flat_linear(inputs, int(targets.max()) + 1 if classes else targets[0].numel())
    loss = loss or (functional.cross_entropy if classes else functional.mse_loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options.setdefault("batch_size", 10)
    return Run(model, loss, optimizer, train, validation, **options)


def flat_linear(inputs: Tensor, outputs: int) -> nn.Module:
    torch.manual_seed(0)
    dtype = inputs.dtype if inputs.is_floating_point() else torch.float32
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), outputs, dtype=dtype))


def linear(*weights: Any, bias: Any = None) -> nn.Linear:
    """A linear layer with these weights (rows = outputs), float64."""
    matrix = torch.tensor(weights, dtype=torch.float64)
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, dtype=torch.float64)
    layer.weight.data = matrix
    if bias is not None:
        layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return layer


class Next(nn.Module):
    """A little language model of one attention layer, causal or not."""

    def __init__(self, vocabulary: int = 7, *, causal: bool = True, recurrent: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(vocabulary, 8)
        self.mix = nn.GRU(8, 8, batch_first=True) if recurrent else nn.Linear(8, 24)
        self.scores = nn.Linear(8, vocabulary)
        self.causal = causal

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.embedding(words)
        if isinstance(self.mix, nn.GRU):
            return self.scores(self.mix(hidden)[0])
        query, key, value = self.mix(hidden).chunk(3, dim=-1)
        return self.scores(functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal))


def sequence_loss(scores: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def words(examples: int = 40, places: int = 9, vocabulary: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    text = torch.randint(vocabulary, (examples, places + 1), generator=seeded(seed))
    return text[:, :-1], text[:, 1:]


def state_of(model: nn.Module) -> list[Any]:
    """Everything that a measurement must leave alone, as comparable values."""
    tensors = [*model.parameters(), *model.buffers()]
    grads = [None if t.grad is None else t.grad.clone() for t in tensors]
    return [
        [t.detach().clone() for t in tensors],
        grads,
        [m.training for m in model.modules()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        torch.get_rng_state(),
        torch.from_numpy(np.random.get_state()[1].astype(np.int64)),  # noqa: NPY002
        hash(random.getstate()),
    ]


def same(first: Any, second: Any) -> bool:
    """Whether two nested structures are equal, bit for bit (NaN equals NaN)."""
    if isinstance(first, (Tensor, np.ndarray)):
        return np.array_equal(
            np.asarray(first), np.asarray(second), equal_nan=np.asarray(first).dtype.kind == "f"
        )
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    return bool(first == second) or (first != first and second != second)
