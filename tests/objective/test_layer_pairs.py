"""Norms of per-example gradients from pairs of layer inputs and output gradients, against the gradients themselves."""

from __future__ import annotations

import pytest
import torch
from tests.objective import zoo
from torch import nn
from torch.nn import functional

from geartrain._torch import layer_pairs
from geartrain.errors import UnsupportedError
from geartrain.objective import Objective

BY_PAIRS = [
    "linear",
    "layer norm",
    "batch norm 1d",
    "batch norm 2d",
    "group norm",
    "scaled dot product",
    "tied",
]


def table(objective: Objective, params=None) -> torch.Tensor:
    """The same squares from the rows."""
    rows = objective.per_example_gradients(params)
    return torch.stack([rows[:, s].square().sum(1) for s in objective.layout.slices().values()], dim=1)


def answered(objective: Objective) -> set[str]:
    with objective._quiet():
        return set(layer_pairs._by_pairs(objective, None))


def check(model, data, loss=functional.cross_entropy, **options) -> Objective:
    objective = Objective(model.double(), loss, data, training=False, **options)
    torch.testing.assert_close(
        objective.per_example_gradient_squares(), table(objective), rtol=1e-9, atol=1e-14
    )
    return objective


@pytest.mark.parametrize("name", list(zoo.MODELS))
def test_squares_equal_those_of_the_rows(name):
    model, data = zoo.build(name, examples=12)
    objective = check(model, data)
    if name in BY_PAIRS:
        assert answered(objective) == set(objective.layout.names)


CONVOLUTIONS = {
    "groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False),
    "strided, dilated": lambda: nn.Conv2d(4, 3, 3, stride=2, dilation=2, padding=2),
    "same": lambda: nn.Conv2d(4, 3, (1, 3), dilation=2, padding="same"),
    "circular": lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"),
    "one by one": lambda: nn.Conv2d(4, 3, 1),
}


@pytest.mark.parametrize("kind", list(CONVOLUTIONS))
def test_convolutions(kind):
    torch.manual_seed(0)
    layer = CONVOLUTIONS[kind]()
    model = nn.Sequential(
        layer, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(3)
    )
    inputs = torch.randn(10, 4, 8, 8).double()
    model.double()(inputs)
    objective = check(model, (inputs, torch.randint(3, (10,))))
    assert answered(objective) == set(objective.layout.names)


class Words(nn.Module):
    """Tokens, learnt positions, and an axis of examples that is not the first one inside."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(7, 4, padding_idx=0), nn.Embedding(5, 4)
        self.mix, self.out = nn.Linear(4, 6), nn.Linear(6, 7)

    def forward(self, x):
        hidden = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        hidden = torch.tanh(self.mix(hidden.transpose(0, 1)))
        return self.out(hidden).transpose(0, 1)


@pytest.mark.parametrize("examples", [5, 12])
def test_words_with_positions_and_examples_along_another_axis(examples):
    torch.manual_seed(0)
    words = torch.randint(7, (examples, 5))

    def loss(outputs, targets):
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    objective = check(Words(), (words, words.roll(1, 1)), loss)
    if examples > layer_pairs._WORTH_IT:
        assert answered(objective) == {"tokens.weight", "mix.weight", "mix.bias", "out.weight", "out.bias"}


def test_both_ways_of_a_sum_of_outer_products():
    factor, channels = torch.randn(3, 4, 5).double(), torch.randn(3, 4, 6).double()
    expected = torch.einsum("ntc,ntw->ncw", channels, factor).square().sum((1, 2))
    for width in (5, 50):  # 4 (5 + 6) > 5 · 6 is direct, 4 (50 + 6) < 50 · 6 by Gram matrices
        wide = torch.cat([factor, torch.zeros(3, 4, width - 5).double()], dim=2)
        torch.testing.assert_close(layer_pairs._outer_norms(wide, channels), expected)


def test_pieces_do_not_change_the_result(monkeypatch):
    model, data = zoo.build("batch norm 2d", examples=12)
    whole = Objective(model, functional.cross_entropy, data, training=False).per_example_gradient_squares()
    monkeypatch.setattr(layer_pairs, "_PIECE", 500)
    monkeypatch.setattr(layer_pairs, "_KEEP", 0)
    pieces = Objective(model, functional.cross_entropy, data, training=False).per_example_gradient_squares()
    torch.testing.assert_close(pieces, whole)


def test_elsewhere_restricted_and_in_uneven_batches():
    model, (inputs, labels) = zoo.build("encoder", examples=24)
    objective = Objective(
        model.eval(), functional.cross_entropy, [(inputs[:14], labels[:14]), (inputs[14:], labels[14:])]
    )
    elsewhere = objective.parameters() + 0.1
    torch.testing.assert_close(objective.per_example_gradient_squares(elsewhere), table(objective, elsewhere))
    part = objective.restrict("out.*")
    torch.testing.assert_close(part.per_example_gradient_squares(), table(part))
    assert part.per_example_gradient_squares().shape == (24, 2)
    norms = objective.per_example_gradients().norm(dim=1)
    torch.testing.assert_close(objective.per_example_gradient_norms(), norms)


def test_float32_agrees_to_its_own_precision():
    model, (inputs, labels) = zoo.build("batch norm 2d", examples=20)
    objective = Objective(model.float(), functional.cross_entropy, (inputs.float(), labels), training=False)
    assert answered(objective) == set(objective.layout.names)
    torch.testing.assert_close(
        objective.per_example_gradient_squares(), table(objective), rtol=1e-3, atol=1e-6
    )


def test_losses_that_are_no_mean_are_refused_as_before():
    model, (inputs, labels) = zoo.build("linear", examples=12)
    summed = Objective(model, lambda f, y: functional.cross_entropy(f, y, reduction="sum"), (inputs, labels))
    with pytest.raises(UnsupportedError, match="not the mean over its examples"):
        summed.per_example_gradient_norms()
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 0, 1, 2, 2, 1, 0])  # the few that are tried alone weigh the same
    weights = torch.tensor([1.0, 1.0, 5.0]).double()
    weighted = Objective(model, nn.CrossEntropyLoss(weight=weights), (inputs, labels))
    assert answered(weighted) == set()
    with pytest.raises(UnsupportedError, match="not the mean over its examples"):
        weighted.per_example_gradient_norms()


def test_weights_that_hide_from_the_layers_are_taken_by_rows():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.gain = nn.Linear(4, 3), nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            # The weight is used once by its layer and once behind its back.
            return self.gain * self.layer(x) + x[:, :3] @ self.layer.weight[:, :3].T

    torch.manual_seed(0)
    objective = check(Hidden(), (torch.randn(12, 4).double(), torch.randint(3, (12,))))
    assert "layer.weight" not in answered(objective)
    assert "gain" not in answered(objective)


def test_dropout_draws_for_every_example_and_goes_by_rows(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double().train()
    data = torch.randn(12, 4).double(), torch.randint(3, (12,))
    monkeypatch.setattr(
        layer_pairs, "_by_pairs", lambda *_: pytest.fail("masks differ: nothing could be checked")
    )
    assert Objective(model, functional.cross_entropy, data).per_example_gradient_norms().shape == (12,)


def test_cost_is_two_gradients_and_nothing_is_changed():
    model, data = zoo.build("linear", examples=100)
    objective = Objective(model, functional.cross_entropy, data)
    before = objective.parameters()
    objective.per_example_gradient_norms()
    # One pass, the check that the loss is a mean, and two examples once together and once by themselves.
    assert objective.work.gradients == pytest.approx(1 + 4 / 100)
    assert objective.work.forwards == pytest.approx(1)
    assert torch.equal(objective.parameters(), before)
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
