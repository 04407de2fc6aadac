"""Exact truths of samplers: the published tables, and independent derivations of the formulas."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate

from geartrain.errors import InputError
from geartrain.sampling.truths import (
    ConjugateRegression,
    GaussianBasins,
    ProductPosterior,
    deep_linear_network,
    langevin_variance,
    least_squares_noise,
    mala_acceptance,
    normal_crossing,
    normal_crossing_estimate,
    perceptron_prior,
    quadratic_covariance,
    quadratic_estimate,
    reduced_rank_regression,
    reduced_rank_regression_estimate,
    reduced_rank_regression_local,
)

CROSSINGS = {
    # powers: (lambda, m), values at localisation 1 and n_beta 1e2, 1e3, 1e4, 1e6
    (2,): ((1 / 2, 1), (0.4975, 0.4998, 0.5000, 0.5000)),
    (4,): ((1 / 4, 1), (0.2417, 0.2473, 0.2492, 0.2499)),
    (6,): ((1 / 6, 1), (0.1556, 0.1614, 0.1642, 0.1661)),
    (2, 2): ((1 / 2, 2), (0.3542, 0.3903, 0.4123, 0.4375)),
    (2, 4): ((1 / 4, 1), (0.2057, 0.2249, 0.2358, 0.2455)),
    (4, 4): ((1 / 4, 2), (0.1471, 0.1652, 0.1785, 0.1960)),
    (4, 6): ((1 / 6, 1), (0.1099, 0.1228, 0.1326, 0.1456)),
    (6, 6): ((1 / 6, 2), (0.0874, 0.0979, 0.1065, 0.1190)),
}
LOCALISED = {  # localisation 100 at n_beta 1e2, 1e4, 1e6
    (2, 2): (0.0093, 0.1816, 0.3542),
    (2, 4): (0.0003, 0.0183, 0.1239),
    (4, 4): (0.0000, 0.0008, 0.0227),
    (4, 6): (0.0000, 0.0000, 0.0025),
}
HALF = 0.5e-4 + 1e-9  # the tables give four decimals


@pytest.mark.parametrize("powers", CROSSINGS)
def test_normal_crossings_of_the_table(powers):
    coefficient, values = CROSSINGS[powers]
    assert normal_crossing(powers) == pytest.approx(coefficient)
    for n_beta, value in zip((1e2, 1e3, 1e4, 1e6), values, strict=True):
        assert abs(normal_crossing_estimate(powers, n_beta, 1.0) - value) <= HALF
        assert abs(normal_crossing_estimate(powers[::-1], n_beta, 1.0) - value) <= HALF
    for n_beta, value in zip((1e2, 1e4, 1e6), LOCALISED.get(powers, ()), strict=False):
        assert abs(normal_crossing_estimate(powers, n_beta, 100.0) - value) <= HALF


def test_normal_crossings_against_other_integrals():
    # One direction: the closed form of a Gaussian. Two: adaptive quadrature over the plane, x^2 y^2 at n_beta = 100.
    assert normal_crossing_estimate([2], 50.0, 3.0) == pytest.approx(50 / (2 * 50 + 3), rel=1e-9)

    def weighted(power):
        def inner(x):  # the integral over y is Gaussian: sum of moments in closed form
            precision = 2 * 100 * x * x + 1
            value = math.exp(-x * x / 2) * precision**-0.5
            return value * (100 * x * x / precision) ** power

        return integrate.quad(inner, 0, 30, points=[0.1, 1.0], epsabs=1e-13)[0]

    assert normal_crossing_estimate([2, 2], 100.0, 1.0) == pytest.approx(weighted(1) / weighted(0), rel=1e-8)
    # A prior |w|^h: K = w^2 gives (h + 1)/2 without localisation, here Gamma moments with it.
    assert normal_crossing_estimate([2], 100.0, 2.0, [3]) == pytest.approx(2 * 100 / 101, rel=1e-9)
    assert normal_crossing_estimate([2, 0], 50.0, 3.0) == normal_crossing_estimate([2], 50.0, 3.0)


def test_estimates_approach_the_coefficient_with_the_multiplicity_correction():
    # lambda - (m - 1)/log n_beta + o(1/log): the slope of log Z between n_beta and its tenfold.
    for powers in [(2, 2), (4, 4), (2, 2, 2)]:
        value, m = normal_crossing(powers)
        n_beta = 1e30
        gap = value - normal_crossing_estimate(powers, n_beta, 1.0)
        assert gap * math.log(n_beta) == pytest.approx(m - 1, rel=0.1)
    assert normal_crossing([2, 4, 4], [0, 1, 0]) == (0.25, 1)
    assert normal_crossing([2, 4], [0, 1]) == (0.5, 2)


@pytest.mark.parametrize(
    ("step", "noise", "batch", "value"), [(1e-3, 0, None, 5.158), (1e-3, 1, 128, 5.378), (1e-3, 1, 32, 6.037)]
)
def test_predicted_estimate_of_the_regression_with_ten_parameters(step, noise, batch, value):
    h = torch.ones(10)
    s = least_squares_noise(h, 147.7, 1.0, batch) if noise else 0.0
    assert quadratic_estimate(h, 147.7, 1.0, step_size=step, gradient_noise=s) == pytest.approx(
        value, abs=6e-4
    )


def test_langevin_variance_is_that_of_the_simulated_recursion():
    # Exact second moment: iterate var -> (1 - eps Lam/2)^2 var + eps + eps^2 S/4 to its fixed point.
    precision = torch.tensor([1.0, 30.0, 390.0], dtype=torch.float64)
    for step, noise in [(0.01, 0.0), (0.01, 500.0)]:
        variance = torch.ones(3, dtype=torch.float64)
        for _ in range(3_000):
            variance = (1 - step * precision / 2) ** 2 * variance + step + step**2 * noise / 4
        torch.testing.assert_close(langevin_variance(precision, step, noise), variance, rtol=1e-9, atol=0)
    assert langevin_variance(torch.tensor([401.0]), 0.01).isinf().all()
    plain = 1 / (precision * (1 - 0.01 * precision / 4))
    torch.testing.assert_close(langevin_variance(precision, 0.01), plain)


def test_quadratic_estimate_with_a_displaced_centre():
    # Direct: the posterior is normal with mean gamma d/Lambda and variance 1/Lambda around the minimiser.
    h, d, n_beta, gamma = torch.tensor([2.0, 0.5, 0.0]), torch.tensor([0.3, -1.0, 2.0]), 40.0, 3.0
    precision = n_beta * h + gamma
    mean = gamma * d / precision
    loss = (h / 2 * (1 / precision + mean**2)).sum()
    wanted = n_beta * (loss - (h / 2 * d**2).sum())
    assert quadratic_estimate(h, n_beta, gamma, displacement=d) == pytest.approx(float(wanted), rel=1e-6)
    assert quadratic_estimate(h, n_beta, 0.0) == 1.0  # two curved directions: d/2


@pytest.mark.parametrize(("stiffness", "value"), [(0.1, 0.9975), (0.5, 0.972), (1.0, 0.921), (2.0, 0.784)])
def test_acceptance_of_mala(stiffness, value):
    assert mala_acceptance(stiffness) == pytest.approx(value, abs=5e-4)
    # Twin: the Metropolis ratio of the two proposal densities, on the quantiles of x and of the noise.
    points = torch.special.ndtri((torch.arange(400, dtype=torch.float64) + 0.5) / 400)
    x, xi = points[:, None], points[None]

    def log_joint(a, b):
        return -(a**2) / 2 - (b - (1 - stiffness / 2) * a) ** 2 / (2 * stiffness)

    y = (1 - stiffness / 2) * x + math.sqrt(stiffness) * xi
    ratio = log_joint(y, x) - log_joint(x, y)
    torch.testing.assert_close(ratio, -stiffness / 8 * (y**2 - x**2), rtol=1e-6, atol=1e-9)
    assert float(ratio.clamp(max=0).exp().mean()) == pytest.approx(mala_acceptance(stiffness), abs=2e-3)


def test_covariance_of_quadratics():
    g = torch.Generator().manual_seed(0)
    a, b, root = torch.randn(3, 4, 4, generator=g, dtype=torch.float64)
    a, b = a + a.T, b + b.T
    u, v = torch.randn(2, 4, generator=g, dtype=torch.float64)
    w = torch.randn(400_000, 4, generator=g, dtype=torch.float64) @ root.T
    first = ((w @ a) * w).sum(1) / 2 + w @ u
    second = ((w @ b) * w).sum(1) / 2 + w @ v
    products = (first - first.mean()) * (second - second.mean())
    error = float(products.std()) / math.sqrt(len(w))
    assert abs(float(products.mean()) - quadratic_covariance(root @ root.T, (a, u), (b, v))) < 4 * error


# ------------------------------------------------------------------ linear networks

DEEP = [  # widths, rank, lambda, m
    ([2, 2, 2], 0, 3 / 2, 1),
    ([3, 3, 3], 0, 7 / 2, 2),
    ([3, 3, 3], 1, 4, 1),
    ([5, 3, 5], 0, 13 / 2, 2),
    ([5, 4, 5], 0, 8, 1),
    ([4, 3, 8], 0, 6, 1),
    ([8, 3, 4], 0, 6, 1),
    ([3, 8, 4], 0, 6, 1),
    ([5, 5, 5, 5], 0, 17 / 2, 3),
    ([5, 5, 5, 5], 2, 11, 1),
    ([2, 3, 4, 5], 0, 3, 2),
    ([10] * 5, 0, 63 / 2, 5),
    ([10] * 5, 5, 91 / 2, 4),
    ([4] * 6, 1, 13 / 2, 7),
    ([6, 3, 6, 3, 6], 0, 9 / 2, 1),
    ([6, 3, 6, 3, 6], 2, 21 / 2, 1),
    ([7, 5, 9, 6], 3, 18, 2),
    ([3, 50, 50, 50, 50, 3], 0, 9 / 2, 1),
    ([20] * 11, 0, 110, 1),
    ([20] * 11, 10, 355 / 2, 1),
    ([100] * 4, 50, 9167 / 2, 3),
    # printed in the notebooks of Furman & Lau (validating_lambdahat)
    ([100, 89, 467, 95, 231, 59, 159, 36, 225, 210, 342, 457, 495, 366, 186], 36, 4500, 1),
    ([10, 20, 20, 10], 10, 50, 1),
    ([14, 4, 10, 10, 27, 8, 8, 27, 16, 18, 12, 4, 19, 13, 11, 29, 24, 3], 3, 21, 1),
    ([7, 15, 15, 18, 29, 25, 7, 22, 11, 8, 7], 7, 24.5, 1),
    ([2, 11, 8, 6, 27, 21], 2, 21, 1),
    ([455, 395, 125, 350, 277, 261, 297], 28, 20546.5, 3),
]


@pytest.mark.parametrize(("widths", "rank", "value", "multiplicity"), DEEP)
def test_deep_linear_networks_of_the_table(widths, rank, value, multiplicity):
    assert deep_linear_network(widths, rank) == (value, multiplicity)


@pytest.mark.parametrize("layers", [1, 2, 3, 6])
def test_a_chain_of_scalars_is_a_normal_crossing(layers):
    assert deep_linear_network([1] * (layers + 1), 0) == (0.5, layers) == normal_crossing([2] * layers)


def test_reduced_rank_regression_is_the_two_layer_network():
    cases = 0
    for m, h, n in itertools.product(range(1, 9), repeat=3):
        for r in range(min(m, h, n) + 1):
            assert reduced_rank_regression(m, h, n, r) == deep_linear_network([m, h, n], r)
            cases += 1
    assert cases == 1808


def strata(m, h, n, r):
    """Ranks (a, b) that matrices with a product of rank r can have."""
    pairs = itertools.product(range(min(h, m) + 1), range(min(h, n) + 1))
    return [(a, b) for a, b in pairs if max(0, a + b - h) <= r <= min(a, b)]


def test_the_global_coefficient_is_the_smallest_of_the_strata():
    for m, h, n in itertools.product(range(1, 6), repeat=3):
        for r in range(min(m, h, n) + 1):
            least = min(reduced_rank_regression_local(m, h, n, a, b, r).value for a, b in strata(m, h, n, r))
            assert least == reduced_rank_regression(m, h, n, r).value


@pytest.mark.parametrize(
    ("ranks", "value"),
    [
        ((5, 3, 5, 3, 0, 0), 7.5),
        ((5, 3, 5, 2, 1, 0), 6.5),
        ((5, 3, 5, 3, 3, 3), 10.5),
        ((5, 4, 5, 4, 4, 4), 12),
        ((4, 3, 8, 3, 3, 3), 13.5),
        ((8, 3, 4, 3, 3, 3), 13.5),
        ((3, 8, 4, 3, 4, 3), 6),
    ],
)
def test_local_coefficients_of_the_examples(ranks, value):
    assert reduced_rank_regression_local(*ranks).value == value


def pair(m, h, n, a, b, r, generator):
    """Random A (rank a), B (rank b) with a product of rank r: hidden coordinates 0..r are used by both."""
    first = torch.zeros(h, m, dtype=torch.float64)
    second = torch.zeros(n, h, dtype=torch.float64)
    first[:a] = torch.randn(a, m, generator=generator, dtype=torch.float64)
    used = [*range(r), *range(a, a + b - r)]
    second[:, used] = torch.randn(n, b, generator=generator, dtype=torch.float64)
    mix = torch.linalg.qr(torch.randn(h, h, generator=generator, dtype=torch.float64))[0]
    return mix @ first, second @ mix.T


def test_smooth_part_of_every_stratum_is_the_rank_of_the_jacobian():
    generator = torch.Generator().manual_seed(0)
    tried = 0
    for m, h, n in [(2, 2, 3), (3, 4, 2), (4, 3, 4), (1, 3, 2)]:
        for r in range(min(m, h, n) + 1):
            for a, b in strata(m, h, n, r):
                first, second = pair(m, h, n, a, b, r, generator)
                assert torch.linalg.matrix_rank(second @ first, atol=1e-9, rtol=0.0) == r
                # d(BA) = dB A + B dA as a matrix on (dA, dB).
                eye = torch.eye
                of_first = torch.kron(second, eye(m, dtype=torch.float64))
                of_second = torch.kron(eye(n, dtype=torch.float64), first.T.contiguous())
                rank = int(torch.linalg.matrix_rank(torch.cat([of_first, of_second], 1)))
                assert rank == n * a + m * b - a * b
                coefficient = reduced_rank_regression_local(m, h, n, a, b, r)
                if min(m - a, h - a - b + r, n - b) <= 0:
                    assert coefficient == (rank / 2, 1)
                tried += 1
    assert tried > 50


@pytest.mark.parametrize(
    ("hidden", "shape", "values"),
    [
        (2, (3, 3), (2.3455, 2.4375, 2.4751)),
        (1, (2, 2), (0.8183, 0.8707, 0.9002)),
        (2, (3, 4), (2.7272, 2.8267, 2.8755)),
    ],
)
def test_reduced_rank_regression_at_finite_n(hidden, shape, values):
    for n_beta, value in zip((1e2, 1e3, 1e4), values, strict=True):
        for m, n in (shape, shape[::-1]):  # the product does not know which factor was integrated out
            assert abs(reduced_rank_regression_estimate(m, hidden, n, n_beta) - value) <= HALF


@pytest.mark.parametrize(
    ("hidden", "shape", "values"),
    [(2, (2, 2), (1.4997, 1.5)), (2, (3, 3), (2.4995, 2.5)), (2, (4, 4), (3.4994, 3.5)), (2, (5, 3), (2.9999, 3.0)),
     (2, (2, 5), (2.0, 2.0)), (2, (3, 4), (2.942, 2.962)), (1, (1, 1), (0.4515, 0.4665)), (1, (4, 2), (1.0, 1.0))],
)  # fmt: skip
def test_reduced_rank_regression_at_large_n_approaches_the_coefficient(hidden, shape, values):
    estimates = [reduced_rank_regression_estimate(shape[0], hidden, shape[1], n) for n in (1e8, 1e12)]
    assert estimates == pytest.approx(values, abs=6e-4)
    exact = reduced_rank_regression(shape[0], hidden, shape[1], 0)
    assert estimates[1] == pytest.approx(exact.value - (exact.multiplicity - 1) / math.log(1e12), abs=5e-3)


def test_reduced_rank_integral_against_monte_carlo():
    # E_A[det(1 + 2 n AA')^(-N/2)] by brute force: the ratio estimate of the same integral over normal matrices.
    a = torch.randn(200_000, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eig = torch.linalg.eigvalsh(a @ a.transpose(1, 2))
    weight = (1 + 2 * 10 * eig).prod(1) ** (-4 / 2)
    value = 10 * 4 * (eig / (1 + 2 * 10 * eig)).sum(1)
    mean = (weight * value).sum() / weight.sum()
    error = (weight * (value - mean)).square().sum().sqrt() / weight.sum()
    assert abs(float(mean) - reduced_rank_regression_estimate(3, 2, 4, 10.0)) < 4 * float(error)


# ------------------------------------------------------------------ posteriors


def regression(n=20, d=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = x @ torch.ones(d, dtype=torch.float64) + 0.5 * torch.randn(n, generator=g, dtype=torch.float64)
    return ConjugateRegression(x, y, 0.25, 2.0)


def test_evidence_of_regression_is_the_density_of_the_targets():
    truth = regression()
    covariance = 0.25 * torch.eye(20, dtype=torch.float64) + 2.0 * truth.inputs @ truth.inputs.T
    law = torch.distributions.MultivariateNormal(torch.zeros(20, dtype=torch.float64), covariance)
    assert truth.log_evidence() == pytest.approx(float(law.log_prob(truth.targets)), rel=1e-10)
    assert truth.log_evidence(0.0) == pytest.approx(0.0, abs=1e-10)


def test_expected_energy_of_regression_is_the_slope_of_the_evidence():
    truth = regression()
    for beta in (0.05, 0.3, 1.0):
        step = 1e-4 * beta
        slope = (truth.log_evidence(beta + step) - truth.log_evidence(beta - step)) / (2 * step)
        assert truth.expected_energy(beta) == pytest.approx(-slope, rel=1e-6)
    total = integrate.quad(truth.expected_energy, 0, 1, epsrel=1e-10)[0]  # thermodynamic integration, exactly
    assert -total == pytest.approx(truth.log_evidence(), rel=1e-8)


def test_flat_prior_gives_half_the_number_of_weights():
    truth = ConjugateRegression(regression().inputs, regression().targets, 0.25, 1e12)
    x, y = truth.inputs, truth.targets
    best = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    least = 0.5 * (20 * math.log(2 * math.pi * 0.25) + float((y - x @ best).square().sum()) / 0.25)
    for beta in (0.2, 1.0):
        assert beta * (truth.expected_energy(beta) - least) == pytest.approx(1.5, rel=1e-6)


def test_basins_sample_what_their_energy_says():
    basins = GaussianBasins(
        torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=torch.float64),
        torch.tensor([0.5, 0.25], dtype=torch.float64),
        torch.tensor([0.7, 0.3], dtype=torch.float64),
    )
    grid = torch.linspace(-5, 5, 401, dtype=torch.float64)
    x, y = torch.meshgrid(grid, grid, indexing="ij")
    density = (-basins.energy(torch.stack([x, y], -1))).exp() * 0.025**2
    assert float(density.sum()) == pytest.approx(1, rel=1e-8)
    assert float(density[x > 0.5].sum()) == pytest.approx(0.3, abs=1e-6)
    draws = basins.sample(4000, torch.Generator().manual_seed(0))
    share = float((basins.basin(draws) == 0).double().mean())
    assert abs(share - 0.7) < 4 * math.sqrt(0.21 / 4000)


def test_moments_of_the_product_posterior_by_quadrature_in_the_plane():
    truth = ProductPosterior(target=1.0, precision=25.0, prior_variance=1.0)
    grid = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    weight = (-truth.energy(torch.stack([a, b], -1))).exp()
    mean = float((weight * a * b).sum() / weight.sum())
    variance = float((weight * (a * b - mean) ** 2).sum() / weight.sum())
    assert truth.product_moments() == pytest.approx((mean, variance), rel=1e-6)


def test_perceptron_prior_is_uniform():
    law = perceptron_prior(4)
    assert law.sum() == 1
    assert law[-1] == 0
    points = np.array(list(itertools.product([0, 1], repeat=4)))
    weights = np.random.default_rng(0).standard_normal((20_000, 4))
    counts = np.bincount(((weights @ points.T) > 0).sum(1), minlength=17)
    chi = ((counts[:16] - 1250) ** 2 / 1250).sum()
    assert chi < 15 + 4 * math.sqrt(30)  # chi-square with 15 degrees of freedom
    assert counts[16] == 0


def test_messages():
    with pytest.raises(InputError, match="at least one power above 0"):
        normal_crossing([0, 0])
    with pytest.raises(InputError, match="lists of the same length"):
        normal_crossing([2], [0, 1])
    with pytest.raises(InputError, match="without localisation the posterior of a crossing"):
        normal_crossing_estimate([2, 2], 100, 0.0)
    with pytest.raises(InputError, match="a rank from 0 to the smallest"):
        deep_linear_network([3, 2, 3], 3)
    with pytest.raises(InputError, match="a rank from 0 to the smallest"):
        reduced_rank_regression(3, 2, 3, 3)
    with pytest.raises(
        InputError,
        match=r"no matrices A \(2 x 3\) of rank 2 and B \(3 x 2\) of rank 2 with a product of rank 1",
    ):
        reduced_rank_regression_local(3, 2, 3, 2, 2, 1)
    with pytest.raises(InputError, match="the smaller must be 1 or 2"):
        reduced_rank_regression_estimate(3, 3, 3, 10.0)
