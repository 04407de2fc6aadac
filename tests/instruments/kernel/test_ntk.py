"""The tangent kernel: against the Jacobian for every kind of layer, closed forms, relations, price, sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.made import Next, normal, objective_of, same, seeded, sequence_loss, state_of, words
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain._torch import ntk as engine
from geartrain.errors import InputError
from geartrain.instruments import ntk
from geartrain.records import State

LABELS = torch.arange(7) % 3


class Tied(nn.Module):
    """A transformer block with positions, pre-normalisation, and the embedding as its head."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(9, 6, padding_idx=0), nn.Embedding(5, 6)
        self.norm, self.mix, self.out = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.token.weight

    def forward(self, words):
        hidden = self.token(words) + self.place(torch.arange(words.shape[1]))
        query, key, value = self.mix(self.norm(hidden)).chunk(3, -1)
        hidden = hidden + self.out(functional.scaled_dot_product_attention(query, key, value, is_causal=True))
        return self.head(hidden)


class PlacesFirst(nn.Module):
    """PyTorch's own encoder layer with the examples along axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Embedding(9, 6), nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0)
        self.head = nn.Linear(6, 3)

    def forward(self, words):
        return self.head(self.layer(self.token(words).transpose(0, 1)).mean(0))


class Twice(nn.Module):
    """One layer called twice, on examples and places folded into one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        hidden = torch.tanh(self.a(torch.tanh(self.a(x.reshape(-1, 4)))))
        return self.b(hidden).reshape(len(x), -1)[:, :3]


class Used(nn.Module):
    """A weight used by its layer and once more by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        return functional.linear(torch.tanh(self.a(x)), self.a.weight[:3])


def seeded_model(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


def images():
    return normal(7, 3, 9, 8), LABELS


def tokens():
    text = torch.randint(9, (7, 5), generator=seeded())
    return text, text


ARCHITECTURES = {
    "mlp": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(216, 5), nn.ReLU(True), nn.Linear(5, 3)), images(), None, set(),
    ),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, stride=2),
            nn.BatchNorm2d(6),
            nn.ReLU(True),
            nn.Conv2d(6, 6, 3, groups=3, padding="same", padding_mode="circular", dilation=2, bias=False),
            nn.GroupNorm(2, 6),
            nn.Tanh(),
            nn.InstanceNorm2d(6, affine=True),
            nn.Flatten(),
            nn.Linear(120, 3),
        ),
        images(), None, set(),
    ),
    "sequence": (
        lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 5, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(136, 3)),
        images(), None, set(),
    ),
    "volume": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, (2, 3, 3)), nn.Tanh(), nn.Flatten(), nn.Linear(168, 3)
        ),
        images(), None, set(),
    ),
    "transformer": (Tied, tokens(), sequence_loss, {"token.weight", "place.weight"}),
    "places first": (
        PlacesFirst, (tokens()[0], LABELS), None,
        {f"layer.self_attn.{n}" for n in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")},
    ),
    "called twice": (Twice, (normal(7, 24), LABELS), None, set()),
    "used elsewhere": (Used, (normal(7, 4), LABELS), None, {"a.weight", "a.bias"}),
    "recurrent": (
        lambda: Next(9, recurrent=True), tokens(), sequence_loss,
        {f"mix.{n}_l0" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)),
        (normal(7, 4), LABELS), None, set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("limit", [2**28, 3000])
def test_equals_the_full_jacobian(name, limit):
    make, data, loss, by_rows = ARCHITECTURES[name]
    training = False if name == "cnn" else None
    objective = gt.Objective(seeded_model(make), loss or functional.cross_entropy, data, training=training)
    jacobian = dense_jacobian(objective, *data)
    full = torch.einsum("iap,jbp->iajb", jacobian, jacobian)
    truths = {
        "full": full,
        "sum": torch.einsum("iaja->ij", full),
        "per_output": torch.einsum("iaja->aij", full),
    }
    for kind, truth in truths.items():
        found = engine.kernel(objective, kind, limit=limit)
        # Sums of some thousand terms, each rounded to 1e-16.
        assert float((found.matrix - truth).norm() / truth.norm()) < 1e-12
        assert set(found.rows) == by_rows


def dense_jacobian(objective, inputs, _):
    """One backward pass for each output of each example: nothing shared with what is tested."""
    with objective._quiet():
        leaves = objective._leaves(None)
        outputs = objective._outputs(leaves, objective.batches[0]).flatten(1)
        rows = [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(
                        entry,
                        list(leaves.values()),
                        retain_graph=True,
                        allow_unused=True,
                        materialize_grads=True,
                    )
                ]
            )
            for entry in outputs.flatten()
        ]
    return torch.stack(rows).view(*outputs.shape, -1)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_linear_model_has_the_kernel_of_its_inputs(factor):
    x = normal(6, 4)
    model = nn.Linear(4, 2).double()
    objective = objective_of(factor * x, normal(6, 2, seed=1), model)
    truth = factor**2 * (x @ x.T).numpy() + 1  # each output has its own weights; the bias adds one
    assert np.allclose(ntk(objective).value, truth, rtol=1e-12)
    assert np.allclose(ntk(objective, kind="sum").value, 2 * truth, rtol=1e-12)
    full = ntk(objective, kind="full").value
    assert np.allclose(full[:, 0, :, 1], 0)
    assert np.allclose(ntk(objective, kind="per_output").value, truth, rtol=1e-12)


def test_two_layers_by_hand():
    x, w1, w2 = normal(5, 3), normal(4, 3, seed=1), normal(1, 4, seed=2)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 1, bias=False)).double()
    model[0].weight.data, model[2].weight.data = w1, w2
    hidden = torch.tanh(x @ w1.T)
    slopes = w2 * (1 - hidden**2)
    truth = hidden @ hidden.T + (x @ x.T) * (slopes @ slopes.T)
    assert np.allclose(ntk(objective_of(x, normal(5, 1), model)).value, truth.numpy(), rtol=1e-12)


def test_its_trace_is_the_squared_norm_of_the_jacobian():
    objective = objective_of(
        normal(8, 5),
        LABELS.repeat(2)[:8],
        seeded_model(lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))),
    )
    jacobian = engine.jacobian(objective)
    for kind in ("sum", "full", "per_output"):
        assert ntk(objective, kind=kind).details["trace"] == pytest.approx(
            float((jacobian**2).sum()), rel=1e-12
        )


def test_permuting_units_changes_nothing_and_duplicating_data_repeats_it():
    model = seeded_model(lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)))
    x = normal(7, 5)
    before = ntk(objective_of(x, LABELS, model)).value
    twice = ntk(objective_of(torch.cat([x, x]), LABELS.repeat(2), model)).value
    assert np.allclose(twice, np.tile(before, (2, 2)), rtol=1e-12)
    order = torch.randperm(6, generator=seeded())
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight[order])
        model[0].bias.copy_(model[0].bias[order])
        model[2].weight.copy_(model[2].weight[:, order])
    assert np.allclose(ntk(objective_of(x, LABELS, model)).value, before, rtol=1e-12)


def test_batches_and_subsets_are_parts_of_the_whole():
    x, y = normal(30, 4), torch.arange(30) % 3
    model = seeded_model(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    whole = ntk(objective_of(x, y, model)).value
    parts = gt.Objective(model, functional.cross_entropy, [(x[:11], y[:11]), (x[11:], y[11:])])
    assert np.allclose(ntk(parts).value, whole, rtol=1e-12)
    some = ntk(parts, 12, generator=seeded(5))
    chosen = some.details["examples"]
    assert len(set(chosen)) == 12
    assert np.allclose(some.value, whole[np.ix_(chosen, chosen)], rtol=1e-12)
    assert list(some.coords["example"]) == list(chosen)


def test_a_restriction_is_a_part_of_the_sum():
    objective = objective_of(
        normal(7, 4), LABELS, seeded_model(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    )
    parts = [ntk(objective.restrict(p)).value for p in ("0.*", "2.weight", "2.bias")]
    assert np.allclose(sum(parts), ntk(objective).value, rtol=1e-12)


def test_drawn_outputs_cover_the_mean_over_all():
    model = seeded_model(lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 80)))
    objective = objective_of(normal(2, 3), torch.tensor([0, 79]), model)
    truth = ntk(objective, max_outputs=None)
    assert truth.exact
    drawn = [ntk(objective, max_outputs=30, generator=seeded(s)) for s in range(200)]
    assert drawn[0].status.state is State.ESTIMATE
    values = np.array([d.value[0, 1] for d in drawn])
    errors = np.array([d.standard_error[0, 1] for d in drawn])
    # Unbiased: 200 draws; the 5 % tail of t with 29 degrees of freedom, 4 standard deviations of a binomial.
    assert abs(values.mean() - truth.value[0, 1]) <= 4 * values.std(ddof=1) / np.sqrt(200)
    covered = (np.abs(values - truth.value[0, 1]) <= 2.045 * errors).sum()
    assert covered >= 190 - 4 * np.sqrt(200 * 0.95 * 0.05)
    total = ntk(objective, kind="sum", max_outputs=30, generator=seeded(1))
    assert np.allclose(total.value, 80 * drawn[1].value)


def test_price_and_cost():
    objective = objective_of(
        normal(40, 4),
        torch.arange(40) % 3,
        seeded_model(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))),
    )
    found = ntk(objective, 20)
    assert (found.cost.forwards, found.cost.gradients) == pytest.approx((0.5 * 4, 0.5))
    price = ntk.spec.price(objective, 20)
    assert (price.forwards, price.gradients) == pytest.approx((2, 0.5))
    assert price.peak_bytes == found.cost.peak_bytes > 0
    model = Next(recurrent=True)
    text = gt.Objective(model, sequence_loss, words(4, 2))
    assert (
        ntk.spec.price(text).gradients == ntk(text).cost.gradients == 15
    )  # 14 outputs by rows, and the check


def test_memory_stays_near_what_was_said():
    objective = objective_of(
        normal(64, 50),
        torch.arange(64) % 10,
        seeded_model(lambda: nn.Sequential(nn.Linear(50, 200), nn.ReLU(), nn.Linear(200, 10))),
    )
    jacobian_bytes = 8 * 64 * 10 * objective.num_params
    assert ntk(objective).details["bytes"] < jacobian_bytes / 1.5


def test_nothing_is_changed_and_seeds_repeat():
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.Linear(6, 3))
    objective = objective_of(normal(30, 4, dtype=torch.float32), torch.arange(30) % 3, model)
    before = state_of(model)
    first, again = (ntk(objective, 9, generator=seeded(3)).value for _ in range(2))
    assert same(before, state_of(model))
    assert np.array_equal(first, again)


def test_where_there_is_none():
    x, y = normal(8, 2, 3), LABELS.repeat(2)[:8]
    coupled = objective_of(x, y, nn.Sequential(nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(6, 3)).double())
    assert "Batch normalisation is in training mode" in ntk(coupled).status.sentence
    hidden = gt.Objective(nn.Linear(3, 1).double(), batch_loss=lambda m, b: m(b).mean(), data=[x])
    assert "hidden in batch_loss" in ntk(hidden).status.sentence
    assert ntk.spec.price(hidden) == gt.records.Cost()

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            return self.a(x).mean(0)

    pooled = gt.Objective(Pooled(), lambda o, y: o.mean() + 0 * y.sum(), (x.float(), x.float()))
    assert "examples along axis 0" in ntk(pooled).status.sentence


def test_broken_parameters_and_no_budget():
    model = nn.Linear(4, 3)
    objective = objective_of(normal(7, 4, dtype=torch.float32), LABELS, model)
    assert ntk(objective, budget=0).status.state is State.OUT_OF_BUDGET
    assert ntk(objective, budget=2).status.state is State.OUT_OF_BUDGET
    assert ntk(objective, budget=3).exact
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    result = ntk(objective)
    assert result.status.state is State.NON_FINITE
    assert "NaN" in result.status.sentence


def test_refusals():
    objective = objective_of(normal(7, 4), LABELS)
    with pytest.raises(InputError, match="kind is 'trace'; allowed"):
        ntk(objective, kind="trace")
    with pytest.raises(InputError, match="num_examples is 0; it must be at least 1"):
        ntk(objective, 0)
    with pytest.raises(InputError, match="max_outputs is 0; it must be at least 1"):
        ntk(objective, max_outputs=0)
