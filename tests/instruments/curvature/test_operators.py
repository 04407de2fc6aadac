"""The curvature matrices by name: each against its definition written out, and their relations."""

from __future__ import annotations

import pytest
import torch
from tests.bowls import generator
from tests.made import Next, same, sequence_loss, state_of, words
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.errors import InputError, UnsupportedError
from geartrain.instruments import _fisher, hessian_density, hessian_spectrum, hessian_trace
from geartrain.instruments._curvature import UNITS, matvec_of

INPUTS = torch.randn(9, 3, generator=generator(1)).double()
CLASSES = torch.randint(0, 4, (9,), generator=generator(2))
BINARY = torch.randint(0, 2, (9, 2), generator=generator(3)).double()


def network(outputs: int, *end: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, outputs), *end).double()


def dense(objective: gt.Objective, operator: str, seed: int = 0) -> torch.Tensor:
    product = matvec_of(objective, operator, generator(seed))
    return torch.stack([product(row) for row in torch.eye(objective.num_params).double()])


def jacobians(objective: gt.Objective) -> torch.Tensor:
    """∂f/∂θ of each example, shape (examples, outputs, params)."""
    model, named = objective.model, dict(objective.model.named_parameters())

    def outputs(flat: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(named, objective.layout.unflatten(flat), strict=True))
        return torch.func.functional_call(model, parts, (objective.batches[0][0],))

    return torch.autograd.functional.jacobian(outputs, objective.parameters())  # type: ignore[return-value]


def categorical_fisher(objective: gt.Objective, p: torch.Tensor, logarithm: bool) -> torch.Tensor:
    """Σ over classes of p(y) ∇log p(y) ∇log p(y)ᵀ, averaged over the examples."""
    total, rows = 0.0, jacobians(objective)
    for i in range(len(p)):
        for y in range(p.shape[1]):
            chosen = torch.eye(p.shape[1]).double()[y]
            slope = rows[i].T @ (chosen if logarithm else chosen - p[i])
            total = total + p[i, y] * torch.outer(slope, slope) / len(p)
    return total  # type: ignore[return-value]


def test_the_fisher_matrix_of_a_classifier_by_its_definition():
    logits = gt.Objective(network(4), functional.cross_entropy, (INPUTS, CLASSES))
    truth = categorical_fisher(logits, torch.softmax(logits.outputs(), 1), False)
    torch.testing.assert_close(dense(logits, "fisher"), truth)
    torch.testing.assert_close(dense(logits, "ggn"), truth)
    logs = gt.Objective(network(4, nn.LogSoftmax(1)), functional.nll_loss, (INPUTS, CLASSES))
    torch.testing.assert_close(categorical_fisher(logs, logs.outputs().exp(), True), truth)
    # There the Gauss-Newton matrix is zero, since the loss is linear in its outputs; the Fisher matrix is the same.
    torch.testing.assert_close(dense(logs, "fisher"), truth)
    assert float(dense(logs, "ggn").norm()) == 0.0


def test_the_fisher_matrix_of_probabilities_is_that_of_their_logits():
    logits = gt.Objective(network(2), functional.binary_cross_entropy_with_logits, (INPUTS, BINARY))
    known = gt.Objective(network(2, nn.Sigmoid()), functional.binary_cross_entropy, (INPUTS, BINARY))
    p = torch.sigmoid(logits.outputs())
    rows = jacobians(logits)
    truth = torch.einsum("nop,no,noq->pq", rows, p * (1 - p), rows) / p.numel()
    torch.testing.assert_close(dense(logits, "fisher"), truth)
    torch.testing.assert_close(dense(known, "fisher"), truth)


def test_squared_errors_have_the_fisher_matrix_of_their_jacobian():
    objective = gt.Objective(network(2), functional.mse_loss, (INPUTS, BINARY))
    rows = jacobians(objective)
    truth = 2 * torch.einsum("nop,noq->pq", rows, rows) / BINARY.numel()
    torch.testing.assert_close(dense(objective, "fisher"), truth)


SOME = CLASSES.index_fill(0, torch.tensor([2]), -100)
CASES = {
    "logits": (network(4), functional.cross_entropy, CLASSES, "categorical"),
    "smoothed": (network(4), nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES, "categorical"),
    "some ignored": (network(4), functional.cross_entropy, SOME, "categorical"),
    "log-probabilities": (network(4, nn.LogSoftmax(1)), functional.nll_loss, CLASSES, "log-probabilities"),
    "binary": (network(2), functional.binary_cross_entropy_with_logits, BINARY, "bernoulli"),
    "probabilities": (network(2, nn.Sigmoid()), functional.binary_cross_entropy, BINARY, "probabilities"),
    "half squares": (network(2), lambda o, y: 0.5 * ((o - y) ** 2).sum(1).mean(), BINARY, "gaussian"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_sampled_targets_give_the_fisher_matrix_in_the_mean(case):
    model, loss, targets, kind = CASES[case]
    objective = gt.Objective(model, loss, (INPUTS, targets))
    assert _fisher.likelihood_of(objective).kind == kind
    exact = dense(objective, "fisher").trace()
    traces = torch.stack([dense(objective, "fisher_mc", seed).trace() for seed in range(60)])
    assert abs(float(traces.mean() - exact)) <= 4 * float(traces.std()) / 60**0.5
    assert torch.equal(dense(objective, "fisher_mc", 1), dense(objective, "fisher_mc", 1))
    assert not torch.equal(dense(objective, "fisher_mc", 1), dense(objective, "fisher_mc", 2))


def test_every_token_of_a_sequence_is_a_prediction():
    torch.manual_seed(0)
    objective = gt.Objective(Next().double(), sequence_loss, words(6, 4))
    believed = _fisher.likelihood_of(objective)
    assert (believed.kind, believed.axis) == ("categorical", 2)
    v = objective.gradient() / objective.gradient().norm()
    exact = float(v @ objective.ggnvp(v))
    samples = torch.tensor([float(v @ matvec_of(objective, "fisher_mc", generator(s))(v)) for s in range(40)])
    assert float(v @ matvec_of(objective, "fisher")(v)) == pytest.approx(exact)
    assert abs(float(samples.mean()) - exact) <= 4 * float(samples.std()) / 40**0.5


def test_batches_count_by_their_examples():
    whole = gt.Objective(network(4), functional.cross_entropy, (INPUTS, CLASSES))
    parts = gt.Objective(
        network(4), functional.cross_entropy, [(INPUTS[:4], CLASSES[:4]), (INPUTS[4:], CLASSES[4:])]
    )
    for operator in ("fisher", "empirical_fisher", "covariance"):
        torch.testing.assert_close(dense(whole, operator), dense(parts, operator))


def test_outer_products_of_the_gradients():
    objective = gt.Objective(network(4), functional.cross_entropy, (INPUTS, CLASSES))
    rows, mean = objective.per_example_gradients(), objective.gradient()
    second = rows.T @ rows / len(rows)
    torch.testing.assert_close(dense(objective, "empirical_fisher"), second)
    torch.testing.assert_close(dense(objective, "covariance"), second - torch.outer(mean, mean))


def test_rows_that_do_not_fit_are_taken_anew(monkeypatch):
    from geartrain.instruments import _outer

    objective = gt.Objective(network(4), functional.cross_entropy, (INPUTS, CLASSES))
    kept = [dense(objective, o) for o in ("empirical_fisher", "covariance")]
    monkeypatch.setattr(_outer, "KEPT_BYTES", 0)
    anew = [dense(objective, o) for o in ("empirical_fisher", "covariance")]
    torch.testing.assert_close(kept, anew)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_saturated_network_has_finite_matrices(dtype):
    """Tools that divide by the probabilities give NaN here."""
    model = network(4).to(dtype)
    with torch.no_grad():
        model[2].weight.mul_(1e4)
    objective = gt.Objective(model, functional.cross_entropy, (INPUTS.to(dtype), CLASSES))
    assert float(torch.softmax(objective.outputs(), 1).max(1).values.min()) > 0.999
    for operator in UNITS:
        result = hessian_trace(objective, operator=operator)  # type: ignore[arg-type]
        assert result.status.usable
        assert torch.isfinite(torch.tensor(float(result)))
    sure = network(2, nn.Sigmoid()).to(dtype)
    with torch.no_grad():
        sure[2].bias.fill_(1e4)
    objective = gt.Objective(sure, functional.binary_cross_entropy, (INPUTS.to(dtype), BINARY.to(dtype)))
    for operator in ("fisher", "fisher_mc"):
        spectrum = hessian_spectrum(objective, 2, operator=operator)  # type: ignore[arg-type]
        assert spectrum.value == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3, 4]).double()), CLASSES),
        (functional.huber_loss, torch.ones(9, 4).double()),
        (functional.l1_loss, torch.ones(9, 4).double()),
    ],
)
def test_what_is_no_likelihood_is_refused(loss, targets):
    objective = gt.Objective(network(4), loss, (INPUTS, targets))
    with pytest.raises(UnsupportedError, match="does not recognise the loss as a likelihood"):
        matvec_of(objective, "fisher")


def test_hidden_outputs_are_refused():
    objective = gt.Objective(network(1), data=[(INPUTS,)], batch_loss=lambda m, b: m(b[0]).square().mean())
    with pytest.raises(UnsupportedError, match="hides the model's outputs"):
        matvec_of(objective, "fisher_mc")


def test_units_bytes_and_cost():
    objective = gt.Objective(network(4), functional.cross_entropy, (INPUTS, CLASSES))
    size = objective.num_params
    result = hessian_spectrum(objective, size, operator="covariance")
    assert result.unit == "ℓ²/θ²"
    assert result.cost.gradients == pytest.approx(1)
    assert result.cost.products == size
    assert hessian_spectrum.spec.price(objective, operator="covariance").peak_bytes >= 9 * size * 8
    assert hessian_density(objective, operator="empirical_fisher").unit == "θ²/ℓ²"
    assert hessian_density(objective, operator="fisher").unit == "θ²/ℓ"
    with pytest.raises(
        InputError, match="operator is 'kfac'; allowed: 'hessian', 'ggn', 'fisher', 'fisher_mc'"
    ):
        matvec_of(objective, "kfac")


def test_nothing_is_changed():
    model = network(4, nn.Dropout(0.2))
    objective = gt.Objective(model, functional.cross_entropy, (INPUTS, CLASSES))
    before = state_of(model)
    for operator in UNITS:
        hessian_spectrum(objective, 2, operator=operator)  # type: ignore[arg-type]
    assert same(before, state_of(model))
