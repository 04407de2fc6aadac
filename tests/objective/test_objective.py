"""Every form of model and data, graphs that go stale, and every message."""

from __future__ import annotations

from collections import UserDict
from types import SimpleNamespace

import pytest
import torch
from tests.objective import zoo
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.objective import Objective


def make(name="linear", **options):
    model, data = zoo.build(name)
    return Objective(model, functional.cross_entropy, data, **options)


# ---------------------------------------------------------------- forms of data


def test_all_forms_of_data_give_the_same_loss():
    model, (x, y) = zoo.build("linear")
    expected = functional.cross_entropy(model(x), y)
    forms = [
        (x, y),
        TensorDataset(x, y),
        DataLoader(TensorDataset(x, y), batch_size=4),
        DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True),
        [(x[:1], y[:1]), (x[1:], y[1:])],
        lambda: iter([(x[:2], y[:2]), (x[2:], y[2:])]),
    ]
    for data in forms:
        objective = Objective(model, functional.cross_entropy, data)
        assert objective.num_examples == 6
        torch.testing.assert_close(objective.value(), expected.detach())


class HuggingFaceStyle(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7)

    def forward(self, input_ids, labels=None, attention_mask=None):
        logits = self.head(self.embedding(input_ids))
        return SimpleNamespace(
            logits=logits, loss=functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        )


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_dict_batches_in_hugging_face_style(kind):
    torch.manual_seed(0)
    model = HuggingFaceStyle().double()
    ids = torch.randint(7, (6, 3))
    batch = kind(input_ids=ids, labels=ids.roll(1, 1), attention_mask=torch.ones_like(ids))
    objective = Objective(model, data=batch)
    assert objective.num_examples == 6
    torch.testing.assert_close(objective.value(), model(**batch).loss.detach())
    assert objective.per_example_gradients().shape == (6, objective.num_params)
    halves = [kind({k: v[i : i + 3] for k, v in batch.items()}) for i in (0, 3)]
    torch.testing.assert_close(Objective(model, data=halves).gradient(), objective.gradient())


def test_tuple_inputs_are_positional_and_dicts_are_keywords():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, left, right):
            return self.layer(left - right)

    torch.manual_seed(0)
    model, left, right, y = Two(), torch.randn(5, 2), torch.randn(5, 2), torch.randint(3, (5,))
    positional = Objective(model, functional.cross_entropy, ((left, right), y))
    named = Objective(model, functional.cross_entropy, ({"left": left, "right": right}, y))
    assert positional.value() == named.value()
    assert positional.per_example_gradients().shape == (5, 9)


def test_tied_weights_count_once():
    model, data = zoo.build("tied")
    objective = Objective(model, functional.cross_entropy, data)
    assert objective.num_params == 16 + 4 + 4
    functional.cross_entropy(model(data[0]), data[1]).backward()
    torch.testing.assert_close(
        objective.gradient(), torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    )
    moved = objective.parameters() + 0.1
    value = objective.value(moved)
    torch.nn.utils.vector_to_parameters(moved, model.parameters())
    torch.testing.assert_close(value, functional.cross_entropy(model(data[0]), data[1]).detach())


def test_losses_with_input_derivatives():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def residual(net, x):
        x = x.requires_grad_()
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        return ((slope - torch.cos(x)) ** 2).mean()

    x = torch.linspace(0, 1, 5).double()[:, None]
    objective = Objective(model, batch_loss=residual, data=x)
    assert not x.requires_grad
    v = torch.randn(objective.num_params).double()
    with torch.no_grad():
        value, product = objective.value(), objective.hvp(v)
    torch.testing.assert_close(value, residual(model, x.clone()).detach())
    here, h = objective.parameters(), 1e-5
    slope = (objective.gradient(here + h * v) - objective.gradient(here - h * v)) / (2 * h)
    torch.testing.assert_close(product, slope, rtol=1e-6, atol=1e-8)
    assert not x.requires_grad


def test_bfloat16_models_answer_in_single_precision():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)).bfloat16()
    objective = Objective(
        model, functional.cross_entropy, (torch.randn(6, 4).bfloat16(), torch.randint(3, (6,)))
    )
    v = torch.ones(objective.num_params)
    for thing in (objective.value(), objective.gradient(), objective.hvp(v), objective.ggnvp(v)):
        assert thing.dtype == torch.float32


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", ["multihead", "encoder", "scaled dot product"])
def test_attention_in_any_context(name, context):
    model, data = zoo.build(name)
    objective = Objective(model.float().eval(), functional.cross_entropy, (data[0].float(), data[1]))
    v = torch.ones(objective.num_params)
    expected = objective.hvp(v)
    objective.release()
    fast = torch.backends.mha.get_fastpath_enabled()
    with context():
        torch.testing.assert_close(objective.hvp(v), expected)
        torch.testing.assert_close(
            Objective(model, functional.cross_entropy, data_of(objective)).hvp(v), expected
        )
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.backends.cuda.flash_sdp_enabled()
    assert objective.uses_attention
    assert any("math kernel" in note for note in objective.notes)


def data_of(objective):
    return list(objective.batches)


def test_probe_is_a_fixed_subset():
    model, (x, y) = zoo.build("linear", examples=20)
    probe = Objective(model, functional.cross_entropy, (x, y), probe=5)
    assert probe.num_examples == 5
    assert probe.value() == Objective(model, functional.cross_entropy, (x, y), probe=5).value()
    assert probe.value() != Objective(model, functional.cross_entropy, (x, y), probe=5, seed=1).value()
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    assert Objective(model, functional.cross_entropy, loader, probe=6).num_examples == 6


def test_transform_and_other_data():
    model, (x, y) = zoo.build("linear")
    doubled = Objective(model, functional.cross_entropy, (x, y), transform=lambda b: (2 * b[0], b[1]))
    other = Objective(model, functional.cross_entropy, (x, y)).on((2 * x, y))
    assert doubled.value() == other.value()
    assert doubled.outputs().shape == (6, 3)


# ---------------------------------------------------------------- graphs go stale

CHANGES = {
    "optimizer step": lambda m, o, d: o.step(),
    "data of a parameter": lambda m, o, d: m[0].weight.data.mul_(1.5),
    "replaced data": lambda m, o, d: setattr(m[0].weight, "data", m[0].weight.data * 1.5),
    "load_state_dict": lambda m, o, d: m.load_state_dict({k: v * 1.5 for k, v in m.state_dict().items()}),
    "buffer": lambda m, o, d: m[1].running_var.mul_(3),
    "data of a buffer": lambda m, o, d: m[1].running_var.data.mul_(3),
    "mode": lambda m, o, d: m.train(),
    "examples": lambda m, o, d: d[0].mul_(2),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["hvp", "ggnvp"])
def test_products_follow_changes_in_place(change, kind):
    model, data = zoo.build("batch norm 1d")
    model.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    functional.cross_entropy(model(data[0]), data[1]).backward()
    objective = Objective(model, functional.cross_entropy, data)
    v = torch.randn(objective.num_params).double()
    before = getattr(objective, kind)(v)
    CHANGES[change](model, optimizer, data)
    after = getattr(objective, kind)(v)
    fresh = getattr(Objective(model, functional.cross_entropy, data), kind)(v)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, fresh, rtol=0, atol=0)


def test_products_at_given_points_are_never_confused():
    objective = make()
    here = objective.parameters()
    v = torch.randn(objective.num_params).double()
    # Each point is freed before the next is made: it may get the same address.
    products = [objective.hvp(v, here + 0.1 * i) for i in range(4)]
    for i, product in enumerate(products):
        objective.release()
        torch.testing.assert_close(product, objective.hvp(v, here + 0.1 * i), rtol=0, atol=0)
    assert len({float(p.norm()) for p in products}) == 4


def test_the_graph_is_built_once_where_nothing_changes():
    objective = make()
    point = objective.parameters()
    for _ in range(3):
        objective.hvp(torch.ones(objective.num_params).double(), point)
    assert objective.work.gradients == 1


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda m, d: Objective("model", functional.cross_entropy, d),
            r"model is a str; it must be a torch\.nn\.Module",
        ),
        (lambda m, d: Objective(m, functional.cross_entropy), "No data were given"),
        (lambda m, d: Objective(m, data=d), "No loss was given"),
        (
            lambda m, d: Objective(m, functional.cross_entropy, d, batch_loss=len),
            "Both loss_fn and batch_loss",
        ),
        (lambda m, d: Objective(m, functional.cross_entropy, []), "yields no batches"),
        (lambda m, d: Objective(m, functional.cross_entropy, (d[0][:0], d[1][:0])), "is empty; at least one"),
        (
            lambda m, d: Objective(m, functional.cross_entropy, (d[0], d[1][:3])),
            "tensors of different lengths",
        ),
        (lambda m, d: Objective(m, functional.cross_entropy, d, probe=7), "probe of 7 examples.*has 6"),
        (lambda m, d: Objective(m, functional.cross_entropy, d, micro_batch=0), "micro_batch is 0"),
        (
            lambda m, d: Objective(m, functional.cross_entropy, d, parameters="nothing*"),
            "selects nothing.*0.weight",
        ),
        (lambda m, d: Objective(m, lambda f, y: f, d), r"shape \(6, 3\); it must be a scalar.*mean"),
        (lambda m, d: Objective(m, lambda f, y: 1.0, d), "The loss is a float; it must be a scalar"),
    ],
)
def test_what_cannot_be_is_refused(build, message):
    with pytest.raises(InputError, match=message):
        build(*zoo.build("linear"))


def test_a_frozen_model_is_refused():
    model, data = zoo.build("linear")
    with pytest.raises(InputError, match=r"needs a gradient \(4 parameters.*requires_grad_\(True\)"):
        Objective(model.requires_grad_(False), functional.cross_entropy, data)


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(3, 2), torch.tensor(1.0)])
@pytest.mark.parametrize("kind", ["hvp", "ggnvp", "covariance_vp"])
def test_vectors_of_the_wrong_shape_are_refused(kind, wrong):
    with pytest.raises(InputError, match=r"this objective has 43 parameters, so the shape must be \(43,\)"):
        getattr(make(), kind)(wrong)


def test_points_of_the_wrong_shape_are_refused():
    with pytest.raises(InputError, match=r"shape \(3,\); this objective has 43 parameters"):
        make().value(torch.ones(3))


def test_vectors_with_nan_are_refused():
    objective = make()
    with pytest.raises(NonFiniteError, match="The vector to be multiplied holds NaN"):
        objective.hvp(torch.full((objective.num_params,), torch.nan).double())
    with pytest.raises(
        NonFiniteError, match="The loss is NaN or infinite, first in the parameters that were passed"
    ):
        objective.value(torch.full((objective.num_params,), torch.nan).double())


def test_nan_in_the_data_is_refused_with_its_place():
    model, (x, y) = zoo.build("linear")
    x[4, 2] = torch.nan
    for data in ((x, y), [(x[:2], y[:2]), (x[2:], y[2:])], TensorDataset(x, y)):
        with pytest.raises(InputError, match=r"holds NaN or infinite numbers.*the inputs"):
            Objective(model, functional.cross_entropy, data)


def test_nan_in_the_model_names_the_first_module():
    class Root(nn.Module):
        def forward(self, x):
            return torch.sqrt(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), Root(), nn.Linear(5, 3)).double()
    objective = Objective(model, functional.cross_entropy, zoo.build("linear")[1])
    with pytest.raises(NonFiniteError, match=r"The loss is NaN or infinite, first in 1 \(Root\)") as caught:
        objective.value()
    assert caught.value.module == "1 (Root)"
    with pytest.raises(NonFiniteError, match="gradient is NaN"):
        objective.hvp(torch.ones(objective.num_params).double())


def test_nan_in_the_loss_or_its_derivative_is_told_apart():
    model, data = zoo.build("linear")
    with pytest.raises(NonFiniteError, match="every module's output is finite: the loss function made it"):
        Objective(model, lambda f, y: (-f.abs()).log().mean(), data).value()
    with pytest.raises(NonFiniteError, match="every module's output is finite: its derivative made it"):
        Objective(model, lambda f, y: (f - f.detach()).abs().sqrt().mean(), data).gradient()


def test_hidden_outputs_are_refused():
    model, data = zoo.build("linear")
    objective = Objective(model, batch_loss=lambda m, b: functional.cross_entropy(m(b[0]), b[1]), data=data)
    objective.hvp(torch.ones(objective.num_params).double())
    for call in (objective.outputs, lambda: objective.ggnvp(torch.ones(objective.num_params))):
        with pytest.raises(UnsupportedError, match=r"batch_loss\(model, batch\) hides the model's outputs"):
            call()


def test_micro_batches_of_coupled_examples_are_refused():
    with pytest.raises(UnsupportedError, match="micro_batch would change the loss"):
        make("batch norm 1d", micro_batch=2)
    make("batch norm 1d", micro_batch=2, training=False)
