"""Trace of the Hessian: known curvature, relations, coverage, cost and sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.bowls import bowl, generator
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments import hessian_spectrum, hessian_trace
from geartrain.records import Cost, State

SPECTRUM = 1 / np.arange(1, 401) ** 1.2


def test_exact_where_affordable():
    result = hessian_trace(bowl([1.0, -2.0, 4.0]))
    assert float(result) == pytest.approx(3)
    assert result.status.state is State.EXACT
    assert result.cost.products == 3
    assert result.details["mean_eigenvalue"] == pytest.approx(1)


@pytest.mark.parametrize("estimator", ["xtrace", "hutchpp"])
def test_within_its_error(estimator):
    result = hessian_trace(bowl(SPECTRUM), 60, estimator=estimator, generator=generator(3))
    assert result.status.state is State.ESTIMATE
    assert result.details["estimator"] == estimator
    assert abs(float(result) - SPECTRUM.sum()) <= 4 * result.standard_error
    assert result.standard_error < 0.05 * SPECTRUM.sum()


def test_a_diagonal_matrix_is_exact_for_signs():
    result = hessian_trace(bowl(SPECTRUM), 10, estimator="hutchinson")
    assert float(result) == pytest.approx(SPECTRUM.sum())


def test_coverage_over_seeds():
    objective = bowl(SPECTRUM)
    results = [hessian_trace(objective, 40, estimator="xtrace", generator=generator(s)) for s in range(200)]
    values = np.array([float(r) for r in results])
    assert abs(values.mean() - SPECTRUM.sum()) <= 4 * values.std(ddof=1) / np.sqrt(200)
    covered = sum(abs(float(r) - SPECTRUM.sum()) <= 2 * r.standard_error for r in results)
    assert covered >= binom.ppf(0.001, 200, 0.95)


def test_the_sum_of_all_eigenvalues():
    objective = bowl(np.linspace(-1, 3, 30))
    assert float(hessian_trace(objective)) == pytest.approx(hessian_spectrum(objective, 30).value.sum())


def test_scaling_the_loss_scales_the_trace():
    one, seven = (hessian_trace(bowl(SPECTRUM, factor=f), 40, generator=generator()) for f in (1.0, 7.0))
    assert float(seven) == pytest.approx(7 * float(one), rel=1e-9)


def test_piecewise_linear_networks_have_the_trace_of_their_gauss_newton_matrix():
    import geartrain as gt

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).double()
        data = torch.randn(30, 3).double(), torch.randint(0, 2, (30,))
    objective = gt.Objective(model, torch.nn.functional.cross_entropy, data)
    assert float(hessian_trace(objective)) == pytest.approx(float(hessian_trace(objective, operator="ggn")))


def test_cost_and_budget():
    objective = bowl(SPECTRUM)
    assert hessian_trace(objective, 30).cost.products == 30
    assert hessian_trace.spec.price(objective, 30).products == 30
    cut = hessian_trace(objective, 30, budget=10)
    assert cut.cost.products == 10
    assert cut.status.state is State.OUT_OF_BUDGET
    assert "10 products of 30" in cut.status.sentence
    few = hessian_trace(objective, 30, budget=2)
    assert few.details["estimator"] == "hutchinson"
    assert few.cost.products == 2
    none = hessian_trace(objective, budget=0)
    assert np.isnan(none.value)
    assert none.status.state is State.OUT_OF_BUDGET


def test_out_of_time():
    result = hessian_trace(bowl(SPECTRUM), 399, budget="1ms")
    assert result.status.state is State.OUT_OF_BUDGET


def test_not_finite():
    class Broken:
        num_params, dtype, device = 5, torch.float64, torch.device("cpu")

        def hvp(self, v):
            return v * float("nan")

    assert hessian_trace(Broken()).status.state is State.NON_FINITE


def test_refusals():
    with pytest.raises(InputError, match="estimator is 'diag'; allowed"):
        hessian_trace(bowl(SPECTRUM), estimator="diag")
    with pytest.raises(InputError, match="num_products is 4; xtrace needs at least 6"):
        hessian_trace(bowl(SPECTRUM), 4)


# ---------------------------------------------------------------------- from pairs of layers ("ghost")


def seeded(make, *shape, examples=24, classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().double().eval()
        inputs = torch.randn(examples, *shape).double()
        return model, inputs, torch.randint(classes, (examples,))


def network():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def diagonal(objective, product="hvp"):
    matrix = getattr(objective, product)(torch.eye(objective.num_params, dtype=objective.dtype))
    return matrix.diagonal()


@pytest.mark.parametrize(("make", "shape"), [(network, (4,)), (convolutions, (1, 6, 6))])
def test_every_direction_once_is_exact_and_gives_the_layers(make, shape):
    model, inputs, labels = seeded(make, *shape)
    objective = gt.Objective(model, functional.cross_entropy, (inputs, labels))
    result = hessian_trace(objective, estimator="ghost", num_samples=3)
    dense = diagonal(objective)
    assert result.status.state is State.EXACT
    assert float(result) == pytest.approx(float(dense.sum()), rel=1e-9)
    slices = objective.layout.slices()
    for layer, names in objective.layers().items():
        expected = sum(float(dense[slices[n]].sum()) for n in names)
        assert result.details["per_layer"][layer] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_linear_regression_in_closed_form():
    # ½·mean of squares: H = XᵀX/n for each output, over the number of outputs.
    inputs, targets = torch.randn(50, 4, generator=generator(1)).double(), torch.zeros(50, 2).double()
    model = nn.Linear(4, 2, bias=False).double()
    objective = gt.Objective(model, lambda f, y: 0.5 * functional.mse_loss(f, y), (inputs, targets))
    result = hessian_trace(objective, estimator="ghost")
    assert float(result) == pytest.approx(float(inputs.square().sum() / 50), rel=1e-12)
    assert result.status.state is State.EXACT


def softmax_of_twice(outputs, labels):
    return functional.cross_entropy(2 * outputs, labels)


LOSSES = {
    "cross-entropy": functional.cross_entropy,
    "smoothed and weighted": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]).double(), label_smoothing=0.1),
    "float32 weights": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0])),
    "squares": lambda f, y: functional.mse_loss(f, functional.one_hot(y, 3).to(f.dtype)),
    "binary": lambda f, y: functional.binary_cross_entropy_with_logits(
        f, functional.one_hot(y, 3).to(f.dtype)
    ),
    "dense": softmax_of_twice,
    "absolute": lambda f, y: functional.l1_loss(f, functional.one_hot(y, 3).to(f.dtype)),
}


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("samples", [2, 3])
def test_losses_of_every_structure(name, samples):
    model, inputs, labels = seeded(network, 4, examples=60)
    if name == "float32 weights":
        model, inputs = model.float(), inputs.float()
    objective = gt.Objective(model, LOSSES[name], (inputs, labels))
    truth = float(diagonal(objective).double().sum())
    result = hessian_trace(objective, estimator="ghost", num_samples=samples)
    assert abs(float(result) - truth) <= 4 * result.standard_error + 1e-5 * abs(truth)
    assert (result.standard_error == 0) == (samples == 3 or name == "absolute")


def test_places_of_a_sequence_and_uneven_batches():
    model, inputs, _ = seeded(network, 5, 4, examples=20)
    labels = torch.randint(3, (20, 5), generator=generator(2))
    labels[:, 0] = -100

    def loss(outputs, targets):
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    batches = [(inputs[:12], labels[:12]), (inputs[12:], labels[12:])]
    objective = gt.Objective(model, loss, batches)
    truth = float(diagonal(objective).sum())
    exact = hessian_trace(objective, estimator="ghost", num_samples=15)
    assert float(exact) == pytest.approx(truth, rel=1e-9)
    result = hessian_trace(objective, estimator="ghost", num_samples=6)
    assert abs(float(result) - truth) <= 4 * result.standard_error
    assert 0 < result.standard_error < 0.2 * truth


def test_ghost_coverage_over_seeds():
    model, inputs, labels = seeded(network, 4)
    objective = gt.Objective(model, functional.cross_entropy, (inputs, labels))
    truth = float(diagonal(objective).sum())
    results = [
        hessian_trace(objective, estimator="ghost", num_samples=2, generator=generator(s)) for s in range(200)
    ]
    values = np.array([float(r) for r in results])
    assert abs(values.mean() - truth) <= 4 * values.std(ddof=1) / np.sqrt(200)
    covered = sum(abs(float(r) - truth) <= 2 * r.standard_error for r in results)
    assert covered >= binom.ppf(0.001, 200, 0.95)
    assert covered < 200  # nor is the error merely large
    again = hessian_trace(objective, estimator="ghost", num_samples=2, generator=generator(0))
    assert float(again) == values[0]


def test_ghost_relations():
    model, inputs, labels = seeded(network, 4)

    def of(loss, data):
        return float(hessian_trace(gt.Objective(model, loss, data), estimator="ghost", num_samples=3))

    once = of(functional.cross_entropy, (inputs, labels))
    assert of(lambda f, y: 7 * functional.cross_entropy(f, y), (inputs, labels)) == pytest.approx(7 * once)
    assert of(functional.cross_entropy, (inputs.repeat(2, 1), labels.repeat(2))) == pytest.approx(once)
    whole = gt.Objective(model, functional.cross_entropy, (inputs, labels))
    parts = [hessian_trace(whole.restrict(p), estimator="ghost", num_samples=3) for p in ("0.*", "2.*")]
    assert sum(map(float, parts)) == pytest.approx(once)


def test_the_gauss_newton_matrix_of_any_network():
    model, inputs, labels = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), 4)
    objective = gt.Objective(model, functional.cross_entropy, (inputs, labels))
    ggn = float(diagonal(objective, "ggnvp").sum())
    result = hessian_trace(objective, estimator="ghost", operator="ggn", num_samples=3)
    assert float(result) == pytest.approx(ggn, rel=1e-9)
    assert abs(float(diagonal(objective).sum()) / ggn - 1) > 0.05  # the two do differ here
    refused = hessian_trace(objective, estimator="ghost")
    assert refused.status.state is State.NOT_APPLICABLE
    assert (
        "it computes a Tanh, which is not piecewise linear. Use estimator='xtrace'" in refused.status.sentence
    )


def test_the_gradient_covariance_is_exact():
    model, inputs, labels = seeded(network, 4)
    objective = gt.Objective(model, functional.cross_entropy, (inputs, labels))
    result = hessian_trace(objective, estimator="ghost", operator="covariance")
    rows = objective.per_example_gradients()
    assert float(result) == pytest.approx(float(rows.var(0, unbiased=False).sum()), rel=1e-9)
    assert result.unit == "ℓ²/θ²"
    uncentred = hessian_trace(objective, estimator="ghost", operator="empirical_fisher")
    assert float(uncentred) == pytest.approx(float(rows.square().sum(1).mean()), rel=1e-9)
    assert sum(uncentred.details["per_layer"].values()) == pytest.approx(float(uncentred))
    fisher = hessian_trace(objective, 20, operator="fisher")
    assert fisher.details["why_not_ghost"] == "fisher is taken from products"


def test_auto_takes_what_holds():
    make = lambda act: lambda: nn.Sequential(nn.Linear(4, 20), act, nn.Linear(20, 3))  # noqa: E731
    bent, inputs, labels = seeded(make(nn.Tanh()), 4)
    by_products = hessian_trace(gt.Objective(bent, functional.cross_entropy, (inputs, labels)), 40)
    assert by_products.details["estimator"] == "xtrace"
    assert "computes a Tanh" in by_products.details["why_not_ghost"]
    piecewise, inputs, labels = seeded(make(nn.ReLU()), 4)
    objective = gt.Objective(piecewise, functional.cross_entropy, (inputs, labels))
    assert hessian_trace(objective, 40).details["estimator"] == "ghost"
    assert hessian_trace(objective).details["estimator"] == "ghost"
    assert hessian_trace(objective, 10**6).details["estimator"] == "exact"


def test_ghost_says_why_not():
    inputs, labels = torch.randn(8, 4, generator=generator()).double(), torch.zeros(8, dtype=torch.long)

    def why(model, loss=functional.cross_entropy, **options):
        objective = gt.Objective(model.double(), loss, (inputs, labels), **options)
        result = hessian_trace(objective, estimator="ghost")
        assert result.status.state is State.NOT_APPLICABLE
        assert np.isnan(float(result))
        return result.status.sentence

    relu = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    assert "dropout is on" in why(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), training=True)
    assert "batch normalisation is in training mode" in why(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    assert "do not give 1.weight by pairs" in why(nn.Sequential(nn.Linear(4, 3), nn.PReLU()))
    decayed = lambda f, y: functional.cross_entropy(f, y) + sum(p.square().sum() for p in relu.parameters())  # noqa: E731
    assert "looks at parameters beside the outputs" in why(relu, decayed)
    assert "not convex in the outputs" in why(relu, lambda f, y: torch.cos(3 * f).mean())
    assert "couples the outputs of different examples" in why(relu, lambda f, y: f.mean() ** 2)
    hidden = gt.Objective(
        relu, batch_loss=lambda m, b: functional.cross_entropy(m(b[0]), b[1]), data=(inputs, labels)
    )
    assert "hides the model's outputs" in hessian_trace(hidden, estimator="ghost").status.sentence


def test_ghost_cost_price_and_budget():
    model, inputs, labels = seeded(network, 4, examples=100)
    objective = gt.Objective(model, functional.cross_entropy, (inputs, labels))
    price = hessian_trace.spec.price(objective, estimator="ghost", num_samples=2)
    assert objective.work == Cost()  # a price costs nothing
    spent = hessian_trace(objective, estimator="ghost", num_samples=2).cost
    assert spent.products == 0
    assert spent.gradients == pytest.approx(2 * 2 / 3 + 4 / 100)
    assert price.gradients + price.forwards / 3 == pytest.approx(
        spent.gradients + spent.forwards / 3, rel=0.1
    )
    cut = hessian_trace(objective, estimator="ghost", num_samples=2, budget=1)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert "1 backward pass of 2" in cut.status.sentence
    assert np.isnan(cut.standard_error)
    assert hessian_trace(objective, estimator="ghost", budget=0).status.state is State.OUT_OF_BUDGET
    assert hessian_trace(objective, 10, budget=0).status.state is State.OUT_OF_BUDGET
    halves = gt.Objective(
        model, functional.cross_entropy, [(inputs[:50], labels[:50]), (inputs[50:], labels[50:])]
    )
    hurried = hessian_trace(halves, estimator="ghost", num_samples=2, budget=Budget(seconds=1e-9))
    assert hurried.status.state is State.OUT_OF_BUDGET
    assert np.isnan(hurried.value) or np.isnan(hurried.standard_error)


def test_ghost_refusals():
    with pytest.raises(InputError, match="num_samples is 0; allowed: 1 or more"):
        hessian_trace(bowl(SPECTRUM), num_samples=0)
