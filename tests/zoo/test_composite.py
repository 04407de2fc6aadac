"""Sums, multiples and products of toys keep their truths, for toys and parameters drawn at random."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part
from torch import nn

import geartrain as gt
from geartrain import testing, zoo
from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.testing.toys import varied
from geartrain.zoo import Toy, Truth, _joined
from geartrain.zoo.certificate import check_quantity
from geartrain.zoo.composite import Product, Scaled, Total
from geartrain.zoo.curvature.pca_landscape import PcaLandscape
from geartrain.zoo.curvature.quadratic import Quadratic

WITH_LOSS = [n for n in zoo.names() if zoo.kind(n).make_objective is not Toy.make_objective]
SMALL = [
    "deep-linear",
    "hypercube-fourier",
    "pca-landscape",
    "power-law-regression",
    "quadratic",
    "step-chain",
]


class _Coordinates(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(count, dtype=torch.float64))

    def forward(self):
        return self.x


@dataclass(frozen=True)
class Power(Toy):
    """Σ |xᵢ|^kᵢ: volume {L < ε} ~ ε^λ with λ = Σ 1/kᵢ, the simplest of all singular minima."""

    called: ClassVar[str] = "power"
    title: ClassVar[str] = "Powers"
    powers: tuple[int, ...] = (4,)

    def make_objective(self) -> Objective:
        powers = torch.tensor(self.powers, dtype=torch.float64)

        def loss(model, batch):
            return (model().abs() ** powers).sum() + 0 * batch.sum()

        return Objective(_Coordinates(len(self.powers)), data=[torch.zeros(1, 1).double()], batch_loss=loss)

    def truths(self) -> dict[str, Truth]:
        return {
            "volume_scaling": Truth(
                sum(1 / k for k in self.powers), 0.02, options={"radius": 0.1, "num_radii": 20}
            )
        }


# ------------------------------------------------------------------ multiples


@pytest.mark.parametrize("name", WITH_LOSS)
def test_a_multiple_keeps_what_dimensional_analysis_says(name):
    draw = np.random.default_rng(len(name))
    toy = zoo.scaled(varied(zoo.get(name), len(name)), math.exp(draw.uniform(-3, 3)))
    assert len(toy.truth) >= 5
    assert_agrees_in_part(toy, count=2)


def test_each_unit_has_its_power():
    toy = zoo.get("quadratic")
    ten = 10.0 * toy
    powers = {
        "hessian_trace": 1,
        "gradient_noise_scale": 0,
        "gradient_noise_scale.covariance_trace": 2,
        "hessian_noise_scale.max_step": -1,
        "ntk_spectrum": 0,
        "weight_norm": 0,
    }
    for quantity, power in powers.items():
        np.testing.assert_allclose(ten.truth[quantity].value, toy.truth[quantity].value * 10.0**power)
    assert ten.truth["basin_volume"].options["cutoff"] == 10 * toy.truth["basin_volume"].options["cutoff"]
    assert float(ten.objective.value()) == pytest.approx(10 * float(toy.objective.value()))
    assert "constant_loss" not in ten.truth, "the instrument looks at how the loss is written"
    assert "largest_stable_step" not in ten.truth, "a trial is about the toy as it was"


# ------------------------------------------------------------------ sums


@pytest.mark.parametrize("seed", range(4))
def test_truths_of_sums_hold_for_random_toys(seed):
    draw = np.random.default_rng(seed)
    a, b = (varied(zoo.get(str(name)), seed) for name in draw.choice(WITH_LOSS, 2))
    toy = a + b
    assert {"hessian_trace", "hessian_spectrum"} & toy.truth.keys(), toy.label
    assert_agrees_in_part(toy, count=12)


def test_spectra_unite_and_traces_add():
    a, b = Quadratic(dimension=4, condition=8.0), PcaLandscape()
    both = zoo.total(a, b)
    spectrum = np.sort(np.concatenate([a.eigenvalues[:2], b.eigenvalues]))[::-1]
    known = np.asarray(both.truth["hessian_spectrum"].value)
    assert len(known) >= 2
    np.testing.assert_allclose(known, spectrum[: len(known)])
    assert both.truth["hessian_trace"].value == pytest.approx(a.eigenvalues.sum() + b.eigenvalues.sum())
    assert float(both.objective.value()) == pytest.approx(float(a.objective.value() + b.objective.value()))
    dense = both.objective.hvp(torch.eye(both.objective.num_params, dtype=torch.float64)).numpy()
    cut = a.objective.num_params
    assert not dense[:cut, cut:].any()


def test_a_list_that_ends_early_ends_the_union():
    """The quadratic names its five largest eigenvalues only: below the fifth, the union is not known."""
    a = Quadratic(dimension=24)
    union = np.asarray((a + zoo.get("pca-landscape")).truth["hessian_spectrum"].value)
    assert union[-1] >= a.eigenvalues[4]
    assert (union == np.sort(union)[::-1]).all()


@pytest.mark.parametrize("powers", [((4,), (2,)), ((8,), (4, 2))])
def test_learning_coefficients_add(powers):
    a, b = (Power(powers=p) for p in powers)
    both = a + b
    assert both.truth["volume_scaling"].value == pytest.approx(sum(1 / k for p in powers for k in p))
    assert_agrees(both, ["volume_scaling"])


def test_a_toy_can_be_added_to_itself():
    toy = zoo.get("step-chain")
    assert_agrees(toy + toy)
    before = toy.objective.parameters()
    models = (toy + toy).objective.model
    assert models.first is not models.second
    assert torch.equal(before, toy.objective.parameters())


def test_composites_are_composed_again():
    a, b = zoo.get("quadratic", dimension=6, condition=10.0), zoo.get("deep-linear")
    toy = 0.5 * (a + 2 * b) + b
    assert toy.label == "0.5 * (quadratic + 2 * deep-linear) + deep-linear"
    trace = 0.5 * a.truth["hessian_trace"].value + 2 * b.truth["hessian_trace"].value
    assert toy.truth["hessian_trace"].value == pytest.approx(trace)
    assert_agrees(toy)


@pytest.mark.parametrize("kind", [Total, Scaled, Product])
def test_composites_keep_the_promises_of_toys(kind):
    parts = {"toy": zoo.get("deep-linear"), "factor": 3.0}
    if kind is not Scaled:
        parts = {"first": zoo.get("deep-linear"), "second": Quadratic(dimension=5, examples=9)}
    checks = sorted(set(testing.TOY_CHECKS) - {"holds_elsewhere"})
    testing.check_toy(kind, checks=checks, parameters=[parts])


@pytest.mark.parametrize("quantity", ["hessian_trace", "hessian_spectrum", "weight_norm", "layer_curvature"])
def test_a_wrong_sum_would_be_seen(quantity, monkeypatch):
    toy = zoo.get("deep-linear") + zoo.get("step-chain")
    right = toy.truths()
    wrong = right | {quantity: dataclasses.replace(right[quantity], value=1.01 * right[quantity].value)}
    monkeypatch.setattr(Total, "truths", lambda self: wrong)
    toy = zoo.get("deep-linear") + zoo.get("step-chain")
    some = {quantity, "hessian_diagonal", "distance_from_init", "jacobian_rank"} & toy.truth.keys()
    assert [q for q in some if not check_quantity(toy, q).passed] == [quantity]


# ------------------------------------------------------------------ products


@pytest.mark.parametrize("seed", range(3))
def test_truths_of_products_hold_for_random_toys(seed):
    draw = np.random.default_rng(seed)
    a, b = (zoo.get(str(name), seed=seed) for name in draw.choice(SMALL, 2))
    assert_agrees_in_part(zoo.product(a, b), count=16)


def test_independent_noise_adds():
    a, b = Quadratic(dimension=5, examples=9), Quadratic(dimension=7, examples=40, seed=1)
    both = zoo.product(a, b)
    rows = both.objective.per_example_gradients().numpy()
    assert len(rows) == 9 * 40
    cut = a.objective.num_params
    covariance = np.cov(rows.T, bias=True)
    np.testing.assert_allclose(covariance[:cut, cut:], 0, atol=1e-12 * np.abs(covariance).max())
    for side, block in ((a, covariance[:cut, :cut]), (b, covariance[cut:, cut:])):
        n = side.objective.num_examples
        own = side.truth["gradient_noise_scale.covariance_trace"].value
        assert np.trace(block) == pytest.approx(own * (n - 1) / n)
    measured = gt.instruments.gradient_noise_scale(both.objective)
    assert measured.details["covariance_trace"] == pytest.approx(
        both.truth["gradient_noise_scale.covariance_trace"].value
    )


# ------------------------------------------------------------------ words and refusals


def test_words_make_the_same_toy():
    assert zoo.get("quadratic + 2 * pca-landscape").label == "quadratic + 2 * pca-landscape"
    assert zoo.get("0.5*step-chain").truth["hessian_trace"].value == pytest.approx(
        0.5 * zoo.get("step-chain").truth["hessian_trace"].value
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.total(), "A total of no toys was asked for"),
        (
            lambda: zoo.get("quadratic").__add__(3),  # type: ignore[arg-type]
            "A int cannot be composed; only toys can",
        ),
        (lambda: -1 * zoo.get("quadratic"), "factor is -1; allowed: positive numbers"),
        (lambda: math.inf * zoo.get("quadratic"), "factor is inf"),
        (lambda: zoo.get("quadratic * 2"), "'quadratic \\* 2' is neither a name nor NUMBER \\* NAME"),
        (lambda: zoo.get("quadratic + "), "'' is neither a name"),
        (lambda: zoo.get("quadratic + nothing"), "There is no toy named 'nothing'"),
        (lambda: zoo.get("quadratic + step-chain", seed=1), "give parameters to each"),
        (
            lambda: zoo.product(*[zoo.get("noisy-linear-regression")] * 2),
            "600 x 600 = 360,000 pairs of examples; allowed: 20,000",
        ),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_is_no_loss_cannot_be_composed():
    @dataclass(frozen=True)
    class Coin(Toy):
        called: ClassVar[str] = "coin"

    with pytest.raises(InputError, match="coin cannot be composed: it is no loss over parameters"):
        zoo.total(zoo.get("quadratic"), Coin())


def test_precisions_are_not_mixed():
    single = Objective(nn.Linear(2, 1), nn.MSELoss(), (torch.ones(1, 2), torch.ones(1, 1)))
    with pytest.raises(InputError, match=r"torch\.float64 on cpu and of torch\.float32"):
        _joined.summed(zoo.get("quadratic").objective, single)
