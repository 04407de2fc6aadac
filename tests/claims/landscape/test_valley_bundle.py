"""The claim valley-bundle: its runs against plain loops and closed forms, its analysis on planted populations."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from geartrain import claims, zoo
from geartrain.claims.landscape import _valley_runs as runs
from geartrain.claims.landscape import valley_bundle as subject
from geartrain.claims.landscape._stacked import Stack

CLAIM = claims.get("valley-bundle")


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted effects are far from every bound: 500 resamples tell as much as 10,000."""
    every = subject.intervals.bootstrap
    monkeypatch.setattr(subject.intervals, "bootstrap", lambda *a, **o: every(*a, **{**o, "resamples": 500}))


def test_quadratics_are_those_of_a_plain_loop():
    config = {"runs": 2, "dimension": 8, "early": 3, "late": 7}
    found = runs.quadratics(config, [4])
    kappa, share = runs.dials(4, 2)
    toy: Any = zoo.get("quadratic", dimension=8, condition=float(kappa[1]), reflections=0, noise=0.0, seed=9)
    values, rate = toy.eigenvalues, 2 * share[1] / toy.eigenvalues[0]
    at, top = toy.displacement.copy(), []
    losses = [0.5 * values @ at**2]
    for _ in range(60):
        top.append(-rate * values[0] * at[0])
        at = at - rate * values * at
        losses.append(0.5 * values @ at**2)
    slow, back, turned = (found["measures"][1][0, 1, 1, i] for i in (3, 1, 4))
    np.testing.assert_allclose(slow, np.log(losses[7] / losses[0]), rtol=1e-5)
    np.testing.assert_allclose(back, 2 * share[1] - 1, rtol=1e-5)
    assert turned == float(top[8] * top[7] < 0)


def test_the_number_of_steps_of_descent_is_that_of_a_loop():
    values, start = np.array([[1.0, 0.1, 0.02]]), np.array([[1.0, -1.0, 1.0]])
    factor, at, steps = 1 - 1.5 * values, start, 0
    while (values * at**2).sum() > 1e-12 * (values * start**2).sum():
        at, steps = factor * at, steps + 1
    assert runs.descent_iterations(values, start, factor) == [steps]


def test_conjugate_gradients_end_after_as_many_iterations_as_there_are_eigenvalues():
    values, start = np.array([[3.0, 3.0, 1.0, 0.5]]), np.array([[1.0, 2.0, -1.0, 1.0]])
    assert runs.cg_iterations(values, start) == [3]
    np.testing.assert_allclose(runs.conjugate_gradients(values[:, :, None], start, 3), 0, atol=1e-12)
    dense = np.diag(values[0])[None]
    part = [runs.conjugate_gradients(m, start, 2) for m in (values[:, :, None], dense)]
    np.testing.assert_allclose(part[0], part[1], rtol=1e-12)
    # The bound of theorem (5.36) of Nocedal and Wright.
    root = math.sqrt(6)
    energy = [(values * e**2).sum() ** 0.5 for e in (part[0], start)]
    assert energy[0] <= 2 * ((root - 1) / (root + 1)) ** 2 * energy[1]


def test_inputs_go_from_whitened_to_ten_times_raw():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * torch.tensor([5.0, 2.0, 1.0, 0.5, 0.1, 0.0]).double() + 3
    white, raw = runs.scaled(x, 0.0), runs.scaled(x, 1.0)
    spread = torch.linalg.svdvals(white) / math.sqrt(50)
    torch.testing.assert_close(spread[:5], torch.ones(5).double())
    assert spread[5] < 1e-8
    torch.testing.assert_close(raw, 10 * x)


def test_turns_are_a_factor_and_a_share():
    path = np.array([[1.0, 1.0], [-0.5, 0.5], [0.25, 0.25]])
    back, share = runs.turns(path)
    np.testing.assert_allclose(back, [0.5, -0.5])
    np.testing.assert_allclose(share, [1, 0])


def _parabola() -> Stack:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 5, generator=generator, dtype=torch.float64) * torch.tensor([9.0, 3.0, 1.0, 0.5, 0.2])
    return Stack((5, 1), x, torch.randn(30, 1, generator=generator, dtype=torch.float64))


def test_the_conjugate_branch_solves_least_squares_as_linear_conjugate_gradients_do():
    stack, params = _parabola(), torch.zeros(1, 6, dtype=torch.float64)
    design = torch.cat([stack.inputs, torch.ones(30, 1).double()], 1)
    best = torch.linalg.lstsq(design, stack.targets).solution
    floor = (design @ best - stack.targets).square().mean()
    rate = torch.full((1, 1), 1e-3).double()
    # Six unknowns: six iterations of four equivalents each.
    torch.testing.assert_close(stack.losses(runs.conjugate_branch(stack, params, rate, 28))[0], floor)
    assert stack.losses(runs.conjugate_branch(stack, params, rate, 8))[0] > floor * (1 + 1e-6)


def test_the_conjugate_branch_never_raises_the_loss():
    generator = torch.Generator().manual_seed(1)
    stack = Stack((4, 6, 3), torch.randn(20, 4, generator=generator), torch.arange(20) % 3)
    params = 2 * torch.randn(5, 51, generator=generator)
    after = runs.conjugate_branch(stack, params, torch.full((5, 1), 0.1))
    assert (stack.losses(after) <= stack.losses(params)).all()


def test_the_networks_step_is_that_share_of_the_stable_one():
    config = {"runs": 2, "examples": 32, "early": 1, "late": 2}
    found = runs.networks(config, [3])
    dial, share = found["dials"][1][0, 1]
    inputs, targets = subject_data(32)
    torch.manual_seed(3001)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()
    flat = nn.utils.parameters_to_vector(model.parameters()).detach()[None]
    stack = Stack((64, 32, 10), runs.scaled(inputs, float(dial)), targets)
    start = torch.randn(flat.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    top = runs.top_eigenpairs(stack.product(flat), start, num_products=100, tolerance=1e-4)[0]
    after = flat - 2 * float(share) / top * stack.gradient(flat)
    # The curvature is known to the square of a residual of 1e-3.
    expected = (stack.losses(after) / stack.losses(flat)).log()
    np.testing.assert_allclose(found["measures"][1][0, 1, 0, 3], expected, rtol=1e-3)


def subject_data(examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = runs.datasets.digits.load(examples).train
    return inputs.double(), targets


def test_the_noisy_gradient_is_unbiased():
    draw = np.random.default_rng(0)
    values, delta = np.tile([1.0, 0.5], (20_000, 1)), np.tile([1.0, -2.0], (20_000, 1))
    drawn = runs._noisy_gradient(draw, values, delta)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert (np.abs(drawn.mean(0) - values[0] * delta[0]) < 4 * error).all()


def _results(link: float, noise: float = 0.0, back: float | None = None) -> claims.Results:
    """Populations whose measures share that much of one cause."""
    draw, cells = np.random.default_rng(0), []
    for family, count in (("quadratic", 4), ("digits", 16), ("noise", 25)):
        share, shape = (noise if family == "noise" else link), (8, count, 2, len(subject.MEASURES))
        cause = draw.normal(size=(8, count, 1, 1))
        measures = share * cause + math.sqrt(1 - share**2) * draw.normal(size=shape)
        if back is not None and family != "noise":
            measures[..., [1, 4]] = back * cause + math.sqrt(1 - back**2) * measures[..., [1, 4]]
        dials = np.stack([2 + cause[:, :, 0, 0], draw.uniform(0.2, 0.95, (8, count))], 2)
        needed = np.stack([np.exp(0.9 * dials[..., 0]), np.exp(0.3 * dials[..., 0])], 2)
        arrays = {
            "measures": measures,
            "dials": dials,
            "iterations": needed,
            "resolved": np.ones((8, count, 2)),
        }
        cells.append(claims.Cell({"family": family, "early": 100, "late": 400}, tuple(range(8)), arrays))
    return claims.Results(cells)


def _outcomes(results: claims.Results) -> dict[str, str]:
    found = CLAIM.analyse(results)
    return {name: str(part.rule.decide(found[name]).outcome) for name, part in CLAIM.parts.items()}


def test_a_planted_bundle_is_supported_and_its_slope_found():
    found = CLAIM.analyse(_results(0.98))
    outcomes = {name: str(part.rule.decide(found[name]).outcome) for name, part in CLAIM.parts.items()}
    assert [outcomes[part] for part in "acdef"] == ["supported"] * 5
    assert outcomes["b"] in ("supported", "inconclusive")  # the smallest of six shuffled ones may leave ± 0.3
    assert found["c"].effects[""].value == pytest.approx(0.6, abs=1e-6)


def test_independent_measures_are_refuted():
    found = _outcomes(_results(0.0))
    assert {found[part] for part in "abdef"} == {"refuted"}


def test_one_measure_that_goes_its_own_way_refutes_the_bundle_but_not_the_other_three():
    found = _outcomes(_results(0.98, back=-0.98))
    assert (found["a"], found["b"], found["d"]) == ("refuted", "refuted", "supported")


def test_a_decoy_with_the_same_correlations_is_never_support():
    results = _results(0.98, noise=0.98)
    digits, noise = (subject.Population(results.one(family=f)) for f in ("digits", "noise"))
    finding = claims.Finding(digits.pairs(subject.STEADY), subject._controls(digits, noise, subject.STEADY))
    assert CLAIM.parts["d"].rule.decide(finding).outcome == "refuted"


def test_partial_correlation_takes_away_what_the_third_explains():
    draw = np.random.default_rng(0)
    third = draw.normal(size=4000)
    data = np.column_stack(
        [third + 0.5 * draw.normal(size=4000), third + 0.5 * draw.normal(size=4000), third]
    )
    assert subject._plain(subject._ranks(data)[None, :, :2])[0] > 0.7
    # Ranks are not linear in one another, so that a little is left.
    assert abs(subject._partial(subject._ranks(data)[None])[0]) < 0.1


def test_the_whole_claim_runs(tmp_path):
    verdict = CLAIM.run(scale="test", workers=0, progress=False, folder=tmp_path)
    assert not verdict.invalid
    assert [part.name for part in verdict.parts] == list("abcdef")
    assert (tmp_path / "figure.svg").exists()
