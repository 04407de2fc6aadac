"""The models that people really train, small: built from their own libraries' configurations, never downloaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geartrain.run import Run


def _text(examples: int, length: int, vocabulary: int, seed: int) -> Tensor:
    # Not word 0: BERT's embedding of the padding word is frozen by PyTorch, so it is no variable of the loss.
    return torch.randint(1, vocabulary, (examples, length), generator=torch.Generator().manual_seed(seed))


def hugging_face() -> Any:
    """The library, without torchvision where that was built for another torch (a test tool requires it; we do not)."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:  # "operator torchvision::nms does not exist"
        sys.modules["torchvision"] = None  # type: ignore[assignment]
    import transformers

    return transformers


def gpt2() -> Run:
    """Hugging Face's GPT-2, called with a dict that holds its labels."""
    transformers = hugging_face()
    config = transformers.GPT2Config(
        vocab_size=29, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    text = _text(24, 12, 29, seed=1)
    data = {"input_ids": text, "labels": text}
    return Run(model, None, torch.optim.AdamW(model.parameters(), lr=3e-3), data, batch_size=8)


def bert() -> Run:
    """Hugging Face's BERT as a classifier, with attention masks and a loss function outside the model."""
    transformers = hugging_face()
    config = transformers.BertConfig(
        vocab_size=29, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    text = _text(24, 12, 29, seed=2)
    mask = torch.ones_like(text)
    mask[:, 9:] = 0

    def loss(model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return functional.cross_entropy(model(**inputs).logits, targets)

    data = ({"input_ids": text, "attention_mask": mask}, text[:, 0] % 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Run(model, None, optimizer, data, batch_loss=loss, batch_size=8)


class _Block(nn.Module):
    """A basic residual block, as torchvision's ResNet-18 has it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        return self.relu(out)


def resnet() -> Run:
    """A residual network with batch normalisation, in-place activations and strided shortcuts."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        _Block(6, 6, 1), _Block(6, 12, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip
    x = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    y = torch.arange(32) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Run(model, functional.cross_entropy, optimizer, (x, y), (x, y), batch_size=8)


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 10, num_layers=2, batch_first=True)
        self.head = nn.Linear(10, 11)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(text))[0])


def lstm() -> Run:
    """A two-layer LSTM language model."""
    model = _Recurrent()
    text = _text(24, 9, 11, seed=4)

    def loss(scores: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return Run(model, loss, optimizer, (text[:, :-1], text[:, 1:]), batch_size=8)


def pinn() -> Run:
    """The heat equation u_t = u_xx with its initial condition: derivatives of the network by its inputs."""
    model = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1))

    def loss(model: nn.Module, points: Tensor) -> Tensor:
        points = points.requires_grad_()
        u = model(points)
        slope = torch.autograd.grad(u.sum(), points, create_graph=True)[0]
        second = torch.autograd.grad(slope[:, 1].sum(), points, create_graph=True)[0][:, 1]
        start = torch.stack([torch.zeros_like(points[:, 0]), points[:, 1]], 1)
        wanted = torch.sin(torch.pi * points[:, 1:])
        return (slope[:, 0] - second).square().mean() + (model(start) - wanted).square().mean()

    points = torch.rand(48, 2, generator=torch.Generator().manual_seed(5))
    return Run(
        model, None, torch.optim.Adam(model.parameters(), lr=1e-2), points, batch_loss=loss, batch_size=16
    )


MODELS: dict[str, Callable[[], Run]] = {f.__name__: f for f in (gpt2, bert, resnet, lstm, pinn)}


def made(name: str, *, steps: int = 4, double: bool = False) -> Run:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    try:
        torch.manual_seed(0)
        run = MODELS[name]()
        run.advance(steps)
    finally:
        torch.set_default_dtype(before)
    return run
