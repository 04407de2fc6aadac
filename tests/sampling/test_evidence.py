"""Evidence and WBIC against conjugate linear regression."""

import math

import pytest
import torch
from torch import nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import State
from geartrain.sampling import FunctionPotential, Potential
from geartrain.sampling.evidence import _jackknife, bennett, log_evidence, thermodynamic_integral, wbic
from geartrain.sampling.truths import ConjugateRegression, ProductPosterior

NOISE = 0.25


def negative_log_likelihood(outputs, targets):
    return 0.5 * ((outputs - targets) ** 2 / NOISE + math.log(2 * math.pi * NOISE)).mean()


def regression(n=40, d=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = x @ torch.ones(d, dtype=torch.float64) + NOISE**0.5 * torch.randn(n, generator=g, dtype=torch.float64)
    objective = Objective(nn.Linear(d, 1, bias=False).double(), negative_log_likelihood, (x, y[:, None]))
    return objective, ConjugateRegression(x, y, NOISE, 1.0)


def test_evidence_of_regression_is_the_closed_form():
    objective, truth = regression()
    potential = Potential(objective, engine="vmap")  # timings choose no engine, so that bits repeat
    found = log_evidence(potential, 1.0, levels=12, chains=6, draws=150, steps=6, generator=0)
    assert found.status.state is State.ESTIMATE, found.status
    exact = truth.log_evidence()
    # Five degrees of freedom: the 4.0 quantile of Student's t leaves 1 % outside.
    assert abs(found.value - exact) < 4.1 * found.standard_error
    assert 0 < found.standard_error < 0.2
    other, error = (
        found.details[k] for k in ("thermodynamic_integration", "thermodynamic_integration_error")
    )
    # Trapezoids with end corrections: fourth order in the spacing, here some hundredths of a nat.
    assert abs(other - exact) < 4.1 * error + 0.15
    for t, energy in zip(found.details["inverse_temperature"][4:], found.details["energy"][4:], strict=True):
        assert energy == pytest.approx(truth.expected_energy(float(t)), rel=0.08)


def test_error_of_the_evidence_is_its_spread_over_seeds():
    # Gaussian potential of one parameter: Z(t) = sqrt(1/(1 + 24 t)) exactly, levels drawn independently.
    def energies(seed, chains=6, draws=50):
        g = torch.Generator().manual_seed(seed)
        return torch.stack(
            [12 * torch.randn(chains, draws, generator=g).double() ** 2 / (1 + 24 * t) for t in times]
        )

    times = (torch.arange(8, dtype=torch.float64) / 7) ** 3
    results = [_jackknife(energies(seed), lambda e: bennett(e, times)) for seed in range(60)]
    values, errors = torch.tensor(results, dtype=torch.float64).T
    exact = -0.5 * math.log(25)
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(60)
    # Root mean square of 60 errors of 5 degrees of freedom: good to 4 %; the spread itself to 9 %.
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1, abs=4 * 0.1)
    covered = int(((values - exact).abs() < 2.571 * errors).sum())  # Student's t with 5 degrees of freedom
    assert covered >= 57 - 3 * 1.7 - 1


def test_bennett_and_integral_of_exact_gamma_quantiles():
    # E under t is chi-square/(1 + 24 t) x 12: quantiles instead of draws leave only the error of the rules.
    times = (torch.arange(29, dtype=torch.float64) / 28) ** 3
    z = torch.special.ndtri((torch.arange(4_000, dtype=torch.float64) + 0.5) / 4_000)
    energies = torch.stack([12 * z**2 / (1 + 24 * t) for t in times])[:, None]
    exact = -0.5 * math.log(25)
    assert bennett(energies, times) == pytest.approx(exact, abs=2e-3)
    assert thermodynamic_integral(energies, times) == pytest.approx(exact, abs=2e-3)
    coarse = times[::4]
    corrected = thermodynamic_integral(energies[::4], coarse)
    means = energies[::4].mean((1, 2))
    plain = -float(torch.trapezoid(means, coarse))
    assert abs(corrected - exact) < abs(plain - exact) / 3


def test_evidence_of_a_posterior_with_two_modes():
    # y = a b x: both ridges count, the integral over the plane is the truth.
    truth = ProductPosterior(precision=25.0)
    potential = FunctionPotential(lambda w: 12.5 * (w.prod(1) - 1) ** 2, 2)
    found = log_evidence(potential, 1.0, levels=7, chains=8, draws=200, steps=6, generator=0)
    exact = _plane(truth)
    assert abs(found.value - exact) < 3.5 * found.standard_error  # t with 7 degrees of freedom: 1 % outside
    assert found.standard_error < 0.15


def _plane(truth):
    grid = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    return math.log(float((-truth.energy(torch.stack([a, b], -1))).exp().sum()) * 0.01**2 / (2 * math.pi))


def test_wbic_of_regression_is_the_mean_energy_at_its_temperature():
    objective, truth = regression(n=100)
    found = wbic(Potential(objective, engine="vmap"), 1.0, chains=4, draws=200, steps=6, generator=0)
    exact = truth.expected_energy(1 / math.log(100))
    assert abs(found.value - exact) < 4 * found.standard_error
    assert found.standard_error < 0.5  # sd sqrt(3/2) log n = 5.6 of the energy over 800 draws: 0.2
    assert found.details["rhat"] < 1.05
    # As a criterion: within O(sqrt(log n)) of minus the log evidence.
    assert abs(found.value + truth.log_evidence()) < 2 * math.sqrt(math.log(100))


def test_nothing_of_the_model_changes_and_seeds_repeat():
    objective, _ = regression(n=20)
    before = objective.parameters()
    first = wbic(Potential(objective, engine="vmap"), 1.0, chains=2, draws=20, steps=2, generator=3)
    second = wbic(Potential(objective, engine="vmap"), 1.0, chains=2, draws=20, steps=2, generator=3)
    assert first.value == second.value
    assert torch.equal(objective.parameters(), before)


def test_budgets_and_messages():
    objective, _ = regression(n=20)
    found = log_evidence(objective, 1.0, levels=3, chains=3, draws=50, budget=0)
    assert found.status.state is State.OUT_OF_BUDGET
    assert math.isnan(found.value)
    assert math.isnan(wbic(objective, 1.0, chains=2, draws=50, budget=0).value)
    with pytest.raises(InputError, match="the evidence needs a prior that integrates to one"):
        log_evidence(objective, 0.0)
    with pytest.raises(InputError, match="chains is 2 and levels 16; both must be 3 or more"):
        log_evidence(objective, 1.0, chains=2)
    with pytest.raises(InputError, match="1/log n needs three or more"):
        wbic(FunctionPotential(lambda w: w[:, 0] ** 2, 1), 1.0)
