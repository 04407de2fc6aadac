"""Products with the Hessian, the Gauss-Newton matrix and the gradient covariance against independent truths."""

from __future__ import annotations

import pytest
import torch
from tests.objective import zoo
from torch import nn
from torch.nn import functional

from geartrain._torch import linearization
from geartrain.errors import UnsupportedError
from geartrain.objective import Objective


def central_difference(objective: Objective, v: torch.Tensor, step: float = 1e-3) -> torch.Tensor:
    """Richardson's extrapolation of the central difference of gradients: error of order step⁴, here about 1e-12."""
    here = objective.parameters()

    def slope(h: float) -> torch.Tensor:
        return (objective.gradient(here + h * v) - objective.gradient(here - h * v)) / (2 * h)

    return (4 * slope(step / 2) - slope(step)) / 3


@pytest.mark.parametrize("name", zoo.MODELS)
def test_hessian_products_equal_finite_differences(name):
    model, data = zoo.build(name)
    objective = Objective(model, functional.cross_entropy, data)
    v = torch.randn(objective.num_params, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v /= v.norm()
    product = objective.hvp(v)
    assert (product - central_difference(objective, v)).norm() <= 1e-6 * product.norm()


@pytest.mark.parametrize("name", zoo.MODELS)
def test_hessian_is_symmetric(name):
    objective = Objective(*_parts(name))
    u, v = torch.randn(
        2, objective.num_params, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    left, right = u @ objective.hvp(v), v @ objective.hvp(u)
    assert abs(left - right) <= 1e-10 * u.norm() * objective.hvp(v).norm()


@pytest.mark.parametrize("name", ["linear", "layer norm", "batch norm 1d", "tied"])
def test_hessian_equals_the_dense_one(name):
    model, data = zoo.build(name)
    objective = Objective(model, functional.cross_entropy, data)
    if name == "tied":  # the dense truth needs each tensor once
        matrix = objective.hvp(torch.eye(objective.num_params, dtype=torch.float64))
        v = torch.ones(objective.num_params, dtype=torch.float64)
        torch.testing.assert_close(matrix @ v, central_difference(objective, v), rtol=1e-6, atol=1e-8)
        return
    dense = zoo.dense_hessian(zoo.loss_at(model, data), zoo.flat(model))
    torch.testing.assert_close(objective.hvp(torch.eye(len(dense)).double()), dense, rtol=1e-9, atol=1e-12)


def _parts(name):
    model, data = zoo.build(name)
    return model, functional.cross_entropy, data


@pytest.mark.parametrize("kind", ["cross-entropy", "squared error"])
def test_gauss_newton_equals_the_dense_product(kind):
    model, (inputs, labels) = zoo.build("layer norm")
    targets = labels if kind == "cross-entropy" else torch.randn(6, 3).double()
    loss = functional.cross_entropy if kind == "cross-entropy" else functional.mse_loss
    objective = Objective(model, loss, (inputs, targets))

    def outputs(vector):
        return torch.func.functional_call(model, zoo.at(model, vector), (inputs,)).reshape(-1)

    jacobian = torch.autograd.functional.jacobian(outputs, zoo.flat(model))
    at = outputs(zoo.flat(model)).detach()
    bend = zoo.dense_hessian(lambda f: loss(f.view(6, 3), targets), at)
    dense = jacobian.T @ bend @ jacobian
    product = objective.ggnvp(torch.eye(objective.num_params).double())
    torch.testing.assert_close(product, dense, rtol=1e-9, atol=1e-12)
    assert torch.linalg.eigvalsh(product).min() >= -1e-10  # positive semidefinite


def test_gauss_newton_is_the_hessian_of_a_linear_model():
    torch.manual_seed(0)
    objective = Objective(nn.Linear(4, 3).double(), functional.cross_entropy, zoo.build("linear")[1])
    v = torch.randn(objective.num_params).double()
    torch.testing.assert_close(objective.ggnvp(v), objective.hvp(v), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["linear", "encoder", "batch norm 2d"])
def test_gauss_newton_in_single_precision_on_several_batches(name):
    model, (inputs, labels) = zoo.build(name)
    batches = [(inputs[:2], labels[:2]), (inputs[2:], labels[2:])]
    objective = Objective(model, functional.cross_entropy, batches, training=False)
    whole = Objective(model, functional.cross_entropy, (inputs, labels), training=False)
    v = torch.randn(objective.num_params).double()
    torch.testing.assert_close(objective.ggnvp(v), whole.ggnvp(v))


def test_covariance_equals_the_dense_one():
    objective = Objective(*_parts("layer norm"))
    rows = objective.per_example_gradients()
    dense = rows.T @ rows / len(rows) - torch.outer(rows.mean(0), rows.mean(0))
    torch.testing.assert_close(objective.covariance_vp(torch.eye(objective.num_params).double()), dense)
    v = torch.randn(objective.num_params).double()
    torch.testing.assert_close(objective.covariance_vp(v), dense @ v)


def test_columns_are_single_products():
    objective = Objective(*_parts("gru"))
    v = torch.randn(objective.num_params, 3).double()
    torch.testing.assert_close(
        objective.hvp(v), torch.stack([objective.hvp(c) for c in v.T], 1), rtol=0, atol=0
    )


def test_micro_batches_change_nothing():
    model, data = zoo.build("layer norm", examples=7)
    whole = Objective(model, functional.cross_entropy, data)
    parts = Objective(model, functional.cross_entropy, data, micro_batch=3)
    v = torch.randn(whole.num_params).double()
    assert len(parts.batches) == 3
    torch.testing.assert_close(parts.value(), whole.value())
    torch.testing.assert_close(parts.gradient(), whole.gradient())
    torch.testing.assert_close(parts.hvp(v), whole.hvp(v))
    torch.testing.assert_close(parts.ggnvp(v), whole.ggnvp(v))
    torch.testing.assert_close(parts.per_example_gradients(), whole.per_example_gradients())


def test_graphs_that_do_not_fit_are_rebuilt(monkeypatch):
    model, data = zoo.build("layer norm", examples=6)
    kept = Objective(model, functional.cross_entropy, data, micro_batch=2)
    v = torch.randn(kept.num_params).double()
    expected = kept.hvp(v)
    monkeypatch.setattr(linearization, "RETAIN_BYTES", 0)
    rebuilt = Objective(model, functional.cross_entropy, data, micro_batch=2)
    for _ in range(2):
        torch.testing.assert_close(rebuilt.hvp(v), expected, rtol=0, atol=1e-15)


def test_blocks_of_the_hessian():
    model, data = zoo.build("linear")
    dense = zoo.dense_hessian(zoo.loss_at(model, data), zoo.flat(model))
    whole = Objective(model, functional.cross_entropy, data)
    where = whole.layout.slices()
    for names in whole.layers().values():
        index = torch.cat([torch.arange(where[n].start, where[n].stop) for n in names])
        block = whole.restrict(names)
        torch.testing.assert_close(block.hvp(torch.eye(len(index)).double()), dense[index][:, index])
        torch.testing.assert_close(block.gradient(), whole.gradient()[index])
        direct = Objective(
            model, functional.cross_entropy, data, parameters=lambda n, p, chosen=names: n in chosen
        )
        torch.testing.assert_close(direct.gradient(), block.gradient())
    assert Objective(model, functional.cross_entropy, data, parameters="2.*").num_params == 18


def test_frozen_parameters_are_no_variables():
    model, data = zoo.build("linear")
    model[0].requires_grad_(False)
    objective = Objective(model, functional.cross_entropy, data)
    assert objective.num_params == 18
    v = torch.randn(18).double()
    torch.testing.assert_close(objective.hvp(v), central_difference(objective, v), rtol=1e-6, atol=1e-9)


def test_sparse_embedding_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(6, 3)).double()
    data = (torch.randint(5, (4, 2)), torch.randint(3, (4,)))
    dense = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 3)).double()
    dense.load_state_dict(model.state_dict())
    expected = Objective(dense, functional.cross_entropy, data).gradient()
    torch.testing.assert_close(Objective(model, functional.cross_entropy, data).gradient(), expected)


def test_products_cost_what_is_said():
    objective = Objective(*_parts("linear"))
    for _ in range(3):
        objective.hvp(torch.ones(objective.num_params).double())
    assert (objective.work.products, objective.work.gradients) == (3, 1)
    objective.value()
    objective.gradient()
    assert (objective.work.forwards, objective.work.gradients) == (1, 2)


def test_dropout_masks_are_fixed_by_the_seed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 20), nn.Dropout(0.5), nn.Linear(20, 3)).double().train()
    data = zoo.build("linear")[1]
    objective = Objective(model, functional.cross_entropy, data)
    assert objective.value() == objective.value()
    assert objective.value() != Objective(model, functional.cross_entropy, data, seed=1).value()
    v = torch.randn(objective.num_params).double()
    torch.testing.assert_close(objective.hvp(v), central_difference(objective, v), rtol=1e-6, atol=1e-9)
    assert any("Dropout" in note for note in objective.notes)


def test_compiled_models_are_differentiated_twice():
    model, data = zoo.build(next(iter(zoo.MODELS)))
    v = torch.ones(Objective(model, functional.cross_entropy, data).num_params, dtype=torch.float64)
    expected = Objective(model, functional.cross_entropy, data).hvp(v)
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(Objective(compiled, functional.cross_entropy, data).hvp(v), expected)


def test_layers_without_a_second_derivative_are_named():
    model = torch.nn.Sequential(torch.nn.EmbeddingBag(9, 3), torch.nn.Linear(3, 2))
    objective = Objective(model, functional.cross_entropy, (torch.ones(4, 2).long(), torch.ones(4).long()))
    with pytest.raises(UnsupportedError, match="embedding_bag"):
        objective.hvp(torch.ones(objective.num_params))
