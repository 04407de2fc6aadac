"""Per-example gradients against the loop over examples, and against BackPACK."""

from __future__ import annotations

import pytest
import torch
from tests.objective import zoo
from torch import nn
from torch.nn import functional

from geartrain._torch import per_example
from geartrain.errors import UnsupportedError
from geartrain.objective import Objective

INDEPENDENT = [name for name in zoo.MODELS if "batch norm" not in name]


def loop(model, data):
    rows = []
    for i in range(len(data[1])):
        loss = functional.cross_entropy(model(data[0][i : i + 1]), data[1][i : i + 1])
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_rows_equal_the_loop(name):
    model, data = zoo.build(name)
    objective = Objective(model, functional.cross_entropy, data)
    rows, expected = objective.per_example_gradients(), loop(model, data)
    torch.testing.assert_close(rows, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(rows.mean(0), objective.gradient(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(objective.per_example_gradient_norms(), expected.norm(dim=1))
    torch.testing.assert_close(objective.per_example_losses().mean(), objective.value())


@pytest.mark.parametrize("name", ["batch norm 1d", "batch norm 2d"])
def test_batch_norm_needs_evaluation_mode(name):
    model, data = zoo.build(name)
    coupled = Objective(model, functional.cross_entropy, data, training=True)
    for call in (
        coupled.per_example_gradients,
        coupled.per_example_losses,
        coupled.per_example_gradient_norms,
    ):
        with pytest.raises(
            UnsupportedError, match=r"batch normalisation is in training mode.*training=False"
        ):
            call()
    fine = Objective(model, functional.cross_entropy, data, training=False)
    model.eval()
    torch.testing.assert_close(fine.per_example_gradients(), loop(model, data))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_rows_equal_backpack(kind):
    backpack = pytest.importorskip("backpack")
    from backpack.extensions import BatchGrad

    torch.manual_seed(0)
    if kind == "linear":
        model, inputs = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(5, 4)
    else:
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
        inputs = torch.randn(5, 1, 4, 4)
    labels = torch.randint(3, (5,))
    mine = Objective(model, functional.cross_entropy, (inputs, labels)).per_example_gradients()
    extended, loss = backpack.extend(model), backpack.extend(nn.CrossEntropyLoss())
    with backpack.backpack(BatchGrad()):
        loss(extended(inputs), labels).backward()
    theirs = torch.cat(
        [5 * p.grad_batch.reshape(5, -1) for p in model.parameters()], dim=1
    )  # its rows carry 1/n
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_code_that_branches_on_values_falls_back_to_the_loop():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x) if float(x.detach().sum()) > 0 else self.layer(-x)

    torch.manual_seed(0)
    model, data = Branching().double(), zoo.build("linear")[1]

    objective = Objective(model, functional.cross_entropy, (data[0].abs(), data[1]))
    torch.testing.assert_close(objective.per_example_gradients(), loop(model, (data[0].abs(), data[1])))


def test_vectorised_where_it_can_be(monkeypatch):
    objective = Objective(*_parts("encoder"))

    def forbidden(*_):
        raise AssertionError("fell back to one example at a time")

    monkeypatch.setattr(per_example, "_one_by_one", forbidden)
    objective.per_example_gradients()


def _parts(name):
    model, data = zoo.build(name)
    return model, functional.cross_entropy, data


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_chunks_are_the_same_rows(chunk):
    objective = Objective(*_parts("layer norm"))
    parts = list(objective.per_example_gradient_chunks(chunk=chunk))
    assert all(len(p) <= chunk for p in parts)
    torch.testing.assert_close(torch.cat(parts), objective.per_example_gradients())


def test_a_sum_is_refused():
    model, data = zoo.build("linear")
    objective = Objective(model, lambda f, y: functional.cross_entropy(f, y, reduction="sum"), data)
    with pytest.raises(UnsupportedError, match=r"not the mean over its examples.*reduction='mean'"):
        objective.per_example_gradients()


def test_bfloat16_losses_are_not_mistaken_for_sums():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3)).bfloat16()
    inputs, labels = torch.randn(40, 4).bfloat16(), torch.randint(3, (40,))
    rows = Objective(model, functional.cross_entropy, (inputs, labels)).per_example_gradients()
    assert rows.dtype == torch.float32
    assert bool(torch.isfinite(rows).all())


def test_losses_with_input_derivatives():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def residual(net, x):
        x = x.requires_grad_()
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        return ((slope - torch.cos(x)) ** 2).mean()

    x = torch.linspace(0, 1, 5).double()[:, None]
    rows = Objective(model, batch_loss=residual, data=x).per_example_gradients()
    for i in range(5):
        grads = torch.autograd.grad(
            residual(model, x[i : i + 1].clone()), list(model.parameters()), allow_unused=True
        )
        whole = [
            torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), grads, strict=True)
        ]
        torch.testing.assert_close(rows[i], torch.cat([g.reshape(-1) for g in whole]))
