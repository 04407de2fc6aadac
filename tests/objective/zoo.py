"""Small float64 modules of every kind, each with a loss and data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attended(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "multihead":
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        elif kind == "encoder":
            self.attention = nn.TransformerEncoderLayer(
                4, 2, 6, dropout=0.0, batch_first=True, activation="gelu"
            )
        else:
            self.attention = nn.Linear(4, 12)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "multihead":
            hidden, _ = self.attention(x, x, x, need_weights=False)
        elif self.kind == "encoder":
            hidden = self.attention(x)
        else:
            q, k, v = self.attention(x).chunk(3, dim=-1)
            hidden = functional.scaled_dot_product_attention(
                q[:, None], k[:, None], v[:, None], is_causal=True
            )[:, 0]
        return self.out(hidden.mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.recurrent = kind(3, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.recurrent(x)[0][:, -1])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))[:, :3]


def _convolution(norm: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        norm,
        nn.Tanh(),
        nn.Conv2d(4, 2, 3),
        nn.Flatten(),
        nn.Linear(2 * 2 * 2, 3),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), (4,)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3)), (4,)),
    "batch norm 1d": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)),
        (4,),
    ),
    "batch norm 2d": (lambda: _convolution(nn.BatchNorm2d(4)), (1, 4, 4)),
    "group norm": (lambda: _convolution(nn.GroupNorm(2, 4)), (1, 4, 4)),
    "instance norm": (lambda: _convolution(nn.InstanceNorm2d(4, affine=True)), (1, 4, 4)),
    "multihead": (lambda: Attended("multihead"), (5, 4)),
    "encoder": (lambda: Attended("encoder"), (5, 4)),
    "scaled dot product": (lambda: Attended("scaled dot product"), (5, 4)),
    "gru": (lambda: Recurrent(nn.GRU), (5, 3)),
    "lstm": (lambda: Recurrent(nn.LSTM), (5, 3)),
    "tied": (Tied, (4,)),
}


def build(name: str, *, examples: int = 6, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(seed)
    make, shape = MODELS[name]
    model = make().double().train()
    for parameter in model.parameters():  # away from the symmetric start of norms and biases
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model, (torch.randn(examples, *shape).double(), torch.randint(3, (examples,)))


def dense_hessian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    return torch.autograd.functional.hessian(function, at)


def at(model: nn.Module, vector: Tensor, names: list[str] | None = None) -> dict[str, Tensor]:
    """A flat vector as named parameters, written independently of the code under test."""
    chosen = {n: p for n, p in model.named_parameters() if names is None or n in names}
    parts, offset = {}, 0
    for name, parameter in chosen.items():
        parts[name] = vector[offset : offset + parameter.numel()].view(parameter.shape)
        offset += parameter.numel()
    return parts


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def loss_at(model: nn.Module, data: tuple[Any, Tensor]) -> Callable[[Tensor], Tensor]:
    def loss(vector: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, at(model, vector), (data[0],))
        return functional.cross_entropy(outputs, data[1])

    return loss
