"""The price of a leak: closed forms for a feature, causality for sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from geartrain.instruments import leak_price
from geartrain.records import State
from geartrain.run import Run


class Neighbour(nn.Module):
    """Logits that name the token ``ahead`` places later (0: the present one)."""

    def __init__(self, ahead: int) -> None:
        super().__init__()
        self.ahead = ahead
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, tokens: Tensor) -> Tensor:
        seen = tokens.roll(-self.ahead, dims=1)
        return self.scale * functional.one_hot(seen, 5).float()


def flat_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def sequence_run(ahead: int) -> Run:
    text = torch.randint(0, 5, (32, 13), generator=torch.Generator().manual_seed(0))
    model = Neighbour(ahead)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return Run(model, flat_loss, optimizer, train=(text[:, :-1], text[:, 1:]), batch_size=8)


def test_a_model_that_reads_the_answer_pays_for_it() -> None:
    found = leak_price(sequence_run(ahead=1))
    assert found.value > 1.0
    assert found.details["kind"] == "future"
    assert found.details["loss_with"] < 0.1


def test_a_causal_model_pays_nothing() -> None:
    assert abs(float(leak_price(sequence_run(ahead=0)).value)) < 1e-6


def test_shuffling_the_only_feature_used_costs_twice_the_variance() -> None:
    """y = x₀ fitted exactly: E(x₀ - x₀')² = 2 var(x₀), and the constant predictor's loss is var(x₀)."""
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(1))
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
        model.bias.zero_()
    run = Run(model, functional.mse_loss, torch.optim.SGD(model.parameters(), 0.1), train=(x, x[:, :1]))
    found = leak_price(run)
    assert found.details["feature"] == 0
    assert abs(float(found.value) - 2.0) < 4 * float(found.standard_error) + 0.15


def test_nothing_is_changed_and_the_same_seed_gives_the_same_bits() -> None:
    run = sequence_run(1)
    state = torch.get_rng_state()
    assert leak_price(run).value == leak_price(run).value
    assert torch.equal(state, torch.get_rng_state())


def test_not_applicable_without_a_loss_function() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = lambda m, b: m(b[0]).square().mean()  # noqa: E731
    run = Run(
        model, None, optimizer, train=(torch.randn(8, 2), torch.zeros(8)), batch_loss=loss, batch_size=4
    )
    assert leak_price(run).status.state is State.NOT_APPLICABLE


def test_outputs_of_any_structure_reach_the_loss_whole() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            return self.linear(inputs), inputs

    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    model = Pair()
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
        model.linear.bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    seen: list[type] = []

    def loss(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        seen.append(type(outputs))
        return functional.mse_loss(outputs[0], targets)

    run = Run(model, loss, optimizer, train=(inputs, inputs[:, :1]))
    # What a constant would be among such outputs is not known, so there is no price; nothing breaks on the way.
    assert leak_price(run).status.state is State.NOT_APPLICABLE
    assert set(seen) == {tuple}
