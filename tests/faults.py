"""Small runs with exactly one planted fault each, for the mechanisms that `tests.planted` leaves out.

Every run trains for well under a second on one core. ``EXPECTED`` says which mechanisms are a right answer; the
first one is the one planted. The others are names that an expert would accept for the same trouble.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from tests.planted import accuracy
from torch import Tensor, nn
from torch.nn import functional

from geartrain import datasets
from geartrain.run import Run

Maker = Callable[[int], Run]
Data = tuple[Tensor, Tensor]

FAULTS: dict[str, Maker] = {}
EXPECTED: dict[str, tuple[str, ...]] = {}


def fault_run(fault: str, seed: int = 0) -> Run:
    """The run with that fault; the seed sets weights and batches."""
    torch.manual_seed(seed)
    run = FAULTS[fault](seed)
    run.name = fault
    return run


def _fault(name: str, *expected: str) -> Callable[[Maker], Maker]:
    def note(make: Maker) -> Maker:
        FAULTS[name], EXPECTED[name] = make, expected
        return make

    return note


# ---------------------------------------------------------------------- parts


def _mlp(*widths: int, activation: Callable[[], nn.Module] = nn.Tanh, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, bias), activation()]
    return nn.Sequential(*layers[:-1])


def _digits_run(seed: int, model: nn.Module, **changes: object) -> Run:
    """The healthy run on digits with another model or other settings."""
    data = datasets.digits.load()
    settings: dict[str, object] = {
        "loss_fn": functional.cross_entropy,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9),
        "train": data.train,
        "validation": data.validation,
        "epochs": 20,
        "batch_size": 64,
        "metric": accuracy,
        "seed": seed,
    }
    return Run(model, **(settings | changes))  # type: ignore[arg-type]


def _diabetes_run(seed: int, model: nn.Module, train: Data, validation: Data, **changes: object) -> Run:
    """A regression on diabetes that is healthy but for what is handed in."""
    settings: dict[str, object] = {
        "loss_fn": functional.mse_loss,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9),
        "train": train,
        "validation": validation,
        "epochs": 30,
        "batch_size": 32,
        "seed": seed,
    }
    return Run(model, **(settings | changes))  # type: ignore[arg-type]


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, begin: Callable[[], object]
) -> Callable[[Data], Tensor]:
    """A training step as users write it, but for what it begins with."""

    def step(batch: Data) -> Tensor:
        begin()
        inputs, targets = batch
        loss = functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss

    return step


# ---------------------------------------------------------------------- outputs, targets and losses


@_fault("softmax before cross-entropy", "wrong_output_activation")
def _softmax_twice(seed: int) -> Run:
    return _digits_run(seed, nn.Sequential(*_mlp(64, 16, 10), nn.Softmax(dim=-1)))


@_fault("sigmoid head on standardised targets", "wrong_output_activation")
def _sigmoid_head(seed: int) -> Run:
    data = datasets.diabetes.load()
    return _diabetes_run(seed, nn.Sequential(*_mlp(10, 8, 1), nn.Sigmoid()), *data)


@_fault("squared error on class numbers", "wrong_loss")
def _class_numbers(seed: int) -> Run:
    (inputs, labels), (held, held_labels) = datasets.digits.load()
    model = _mlp(64, 16, 1)
    return _digits_run(
        seed,
        model,
        loss_fn=functional.mse_loss,
        train=(inputs, labels[:, None].float()),
        validation=(held, held_labels[:, None].float()),
        metric=lambda outputs, targets: float((outputs.round() == targets).float().mean()),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.003, momentum=0.9),
    )


@_fault("targets from 25 to 346", "unscaled_targets")
def _raw_targets(seed: int) -> Run:
    data, raw = datasets.diabetes.load(), datasets.diabetes.load(standardise=False)
    model = _mlp(10, 16, 1)
    return _diabetes_run(
        seed,
        model,
        (data.train[0], raw.train[1]),
        (data.validation[0], raw.validation[1]),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
    )


@_fault("outputs (n, 1), targets (n,)", "output_target_shape")
def _broadcast(seed: int) -> Run:
    (inputs, targets), (held, held_targets) = datasets.diabetes.load()
    return _diabetes_run(seed, _mlp(10, 8, 1), (inputs, targets[:, 0]), (held, held_targets[:, 0]))


# ---------------------------------------------------------------------- the net


@_fault("two hidden units on digits", "under_capacity")
def _two_units(seed: int) -> Run:
    return _digits_run(seed, _mlp(64, 2, 10))


@_fault("no activations", "missing_nonlinearity")
def _linear_stack(seed: int) -> Run:
    model = _mlp(40, 64, 64, 10, activation=nn.Identity)
    data = datasets.mnist1d.load(1200)
    return _digits_run(
        seed,
        model,
        train=data.train,
        validation=data.validation,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
    )


@_fault("no biases", "missing_bias")
def _no_bias(seed: int) -> Run:
    (inputs, _), (held, _) = datasets.diabetes.load()
    (_, targets), (_, held_targets) = datasets.diabetes.load(standardise=False)
    # Scaled to deviation 1 but not centred: the mean is about 2.
    scale = targets.std()
    return _diabetes_run(
        seed, _mlp(10, 8, 1, bias=False), (inputs, targets / scale), (held, held_targets / scale)
    )


@_fault("first layer without gradient", "frozen_layer")
def _no_gradient(seed: int) -> Run:
    model = _mlp(64, 12, 12, 10)
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    return _digits_run(seed, model)


@_fault("layers missing from the optimizer", "frozen_layer")
def _not_in_optimizer(seed: int) -> Run:
    model = _mlp(64, 12, 12, 10)
    optimizer = torch.optim.SGD(model[4].parameters(), lr=0.03, momentum=0.9)
    return _digits_run(seed, model, optimizer=optimizer)


@_fault("weights ten times too large", "bad_init")
def _large_weights(seed: int) -> Run:
    model = _mlp(64, 16, 16, 16, 16, 10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10.0)
    return _digits_run(seed, model)


@_fault("all weights equal", "bad_init")
def _equal_weights(seed: int) -> Run:
    model = _mlp(64, 32, 10)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.02)
    return _digits_run(seed, model)


@_fault("recurrent weights too large", "exploding_gradients", "bad_init")
def _recurrent(seed: int) -> Run:
    model = _LastState()
    data = datasets.mnist1d.load(800)
    # Every other point: twenty steps in time are enough for gradients to explode.
    train, validation = ((x[:, ::2, None], y) for x, y in data)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    return _digits_run(
        seed, model, optimizer=optimizer, train=train, validation=validation, epochs=10, batch_size=32
    )


class _LastState(nn.Module):
    """A gated recurrent net over a curve, read out at its end, whose recurrent weights are far too large."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(1, 16, batch_first=True)
        self.out = nn.Linear(16, 10)
        nn.init.normal_(self.recurrent.weight_hh_l0, std=1.5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(self.recurrent(inputs)[0][:, -1])


# ---------------------------------------------------------------------- optimisation


@_fault("collinear features", "ill_conditioned")
def _collinear(seed: int) -> Run:
    # Every feature has the same scale, but they are mixtures of hidden causes from strong to weak, and the target
    # depends on all of these alike: the Hessian's condition number is 10,000.
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(300, 16, generator=generator)
    mixing, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator))
    features = causes * torch.logspace(0, -2, 16) @ mixing
    features = (features - features.mean(0)) / features.std(0)
    targets = causes.sum(1, keepdim=True) / 4
    model = nn.Linear(16, 1)
    return Run(
        model,
        functional.mse_loss,
        torch.optim.SGD(model.parameters(), lr=0.1),
        train=(features[:200], targets[:200]),
        validation=(features[200:], targets[200:]),
        epochs=60,
        batch_size=50,
        seed=seed,
    )


@_fault("one epoch", "too_few_steps")
def _one_epoch(seed: int) -> Run:
    model = _mlp(64, 16, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    return _digits_run(seed, model, optimizer=optimizer, epochs=1)


@_fault("full batches", "batch_too_large", "too_few_steps")
def _full_batches(seed: int) -> Run:
    model = _mlp(64, 16, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    return _digits_run(seed, model, optimizer=optimizer, epochs=10, batch_size=1024)


@_fault("gradients never cleared", "missing_zero_grad")
def _never_cleared(seed: int) -> Run:
    model = _mlp(64, 16, 10)
    return _digits_run(seed, model, optimizer=torch.optim.SGD(model.parameters(), lr=0.03), zero_grad=False)


@_fault("own step without zero_grad", "missing_zero_grad")
def _own_step_never_clears(seed: int) -> Run:
    model = _mlp(64, 16, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    return _digits_run(seed, model, optimizer=optimizer, step=_step(model, optimizer, lambda: None))


@_fault("exclusive or, two hidden units", "local_minimum")
def _exclusive_or(seed: int) -> Run:
    torch.manual_seed(0)  # this start is one of those that get stuck
    inputs = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    targets = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    model = _mlp(2, 2, 1)
    for layer in (model[0], model[2]):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return Run(
        model,
        functional.binary_cross_entropy_with_logits,
        torch.optim.SGD(model.parameters(), lr=0.5),
        train=(inputs, targets),
        validation=(inputs, targets),
        epochs=800,
        batch_size=4,
        seed=seed,
    )


# ---------------------------------------------------------------------- generalisation


@_fault("three hundred curves, a large net", "overfitting")
def _few_curves(seed: int) -> Run:
    data = datasets.mnist1d.load(1000, train_fraction=0.3)
    model = _mlp(40, 128, 10, activation=nn.ReLU)
    return _digits_run(
        seed,
        model,
        train=data.train,
        validation=data.validation,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        epochs=60,
        batch_size=32,
    )


@_fault("weight decay 0.3", "too_much_regularisation")
def _decay(seed: int) -> Run:
    model = _mlp(64, 16, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=0.3)
    return _digits_run(seed, model, optimizer=optimizer)


@_fault("dropout 0.9", "too_much_regularisation")
def _dropout(seed: int) -> Run:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.9), nn.Linear(32, 10))
    return _digits_run(seed, model)


# ---------------------------------------------------------------------- data and loop


@_fault("four per cent in the rare class", "class_imbalance")
def _rare_class(seed: int) -> Run:
    # Two clouds at a distance of 2: the best net recalls a quarter of the rare class, five sixths if both count alike.
    model = _mlp(2, 8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return _digits_run(
        seed,
        model,
        optimizer=optimizer,
        train=_clouds(1200, share=0.04, seed=seed),
        validation=_clouds(600, share=0.04, seed=seed + 1),
    )


def _clouds(size: int, share: float, seed: int) -> Data:
    """Two overlapping clouds in the plane, one of them with a small share of the examples."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(size) < round(share * size)).long()
    return torch.randn(size, 2, generator=generator) + 2.0**0.5 * labels[:, None], labels


@_fault("own step in evaluation mode", "train_eval_mode")
def _step_in_eval(seed: int) -> Run:
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)

    def begin() -> None:
        model.eval()  # meant: model.train()
        optimizer.zero_grad()

    return _digits_run(seed, model, optimizer=optimizer, step=_step(model, optimizer, begin))


@_fault("evaluation with dropout on", "train_eval_mode")
def _evaluate_in_train(seed: int) -> Run:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
    data = datasets.digits.load()

    def evaluate() -> float:
        model.train()  # forgotten: model.eval()
        inputs, labels = data.validation
        with torch.no_grad():
            return float(functional.cross_entropy(model(inputs), labels))

    return _digits_run(seed, model, evaluate=evaluate)


@_fault("validation images inverted", "train_val_mismatch")
def _inverted(seed: int) -> Run:
    data = datasets.digits.load()
    inputs, labels = data.validation
    return _digits_run(seed, _mlp(64, 16, 10), validation=(1 - inputs, labels))


@_fault("a feature made from the target", "target_leakage")
def _leak(seed: int) -> Run:
    generator = torch.Generator().manual_seed(seed)
    train, validation = (_with_leak(*part, generator) for part in datasets.diabetes.load())
    return _diabetes_run(seed, _mlp(11, 8, 1), train, validation)


def _with_leak(inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Data:
    leak = targets + 0.05 * torch.randn(targets.shape, generator=generator)
    return torch.cat([inputs, leak], dim=1), targets


@_fault("sorted by class", "unshuffled_data")
def _sorted(seed: int) -> Run:
    data = datasets.digits.load()
    inputs, labels = data.train
    order = labels.argsort(stable=True)
    return _digits_run(
        seed, _mlp(64, 16, 10), train=(inputs[order], labels[order]), shuffle=False, batch_size=16, epochs=6
    )
