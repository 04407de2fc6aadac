"""Kernels against the exact stationary laws of their discretised dynamics on Gaussians."""

import math

import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import brentq

from geartrain.errors import InputError, UnknownNameError
from geartrain.sampling import kernels
from geartrain.sampling._walk import Walk
from geartrain.sampling.kernels.hmc import HMC
from geartrain.sampling.kernels.mala import MALA
from geartrain.sampling.kernels.rmsprop_sgld import RMSpropSGLD
from geartrain.sampling.kernels.sghmc import SGHMC
from geartrain.sampling.kernels.sgld import SGLD
from geartrain.sampling.kernels.sgnht import SGNHT
from geartrain.sampling.potential import FunctionPotential

CHAINS = 6000
PRECISIONS = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)


def gaussian(precisions=PRECISIONS):
    return FunctionPotential(lambda w: 0.5 * (precisions * w * w).sum(1), len(precisions))


def noisy_gaussian(h=2.0, examples=50, batch=5, n_beta=20.0, params=1):
    """Each example has its own centre; S is the variance of the minibatch gradient, with replacement."""
    centres = torch.randn(examples, params, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    centres -= centres.mean(0)
    centres /= centres.square().mean(0).sqrt()

    def losses(w, rows):
        return 0.5 * h * (w[:, None, :] - centres[rows]).square().sum(-1)

    potential = FunctionPotential(losses, params, n_beta=n_beta, batch_size=batch, num_examples=examples)
    return potential, n_beta * h, n_beta**2 * h**2 / batch


def walked(kernel, potential, steps, chains=CHAINS, start=None, seed=0):
    start = torch.zeros(chains, potential.num_params, dtype=torch.float64) if start is None else start
    walk = Walk(potential, kernel, start, torch.Generator().manual_seed(seed), 0)
    for _ in range(steps):
        walk.step()
    return walk


def assert_variance(x, truth, slack=4.0):
    """Independent draws (chains, params): a variance has the relative standard error sqrt(2 / chains)."""
    z = (x.square().mean(0) / torch.as_tensor(truth) - 1) / math.sqrt(2 / len(x))
    assert z.abs().max() < slack, z


# ------------------------------------------------------------------ SGLD


def test_ula_variance_and_autocorrelation():
    step = 0.25
    walk = walked(SGLD(step), gaussian(), 120)
    before = walk.state.positions.clone()
    assert_variance(before, 1 / (PRECISIONS * (1 - step * PRECISIONS / 4)))
    walk.step()
    after = walk.state.positions
    rho = 1 - step * PRECISIONS / 2
    measured = (before * after).mean(0) / before.square().mean(0)
    z = (measured - rho) / ((1 - rho**2) / CHAINS).sqrt()
    assert z.abs().max() < 4


def test_minibatch_noise_widens_as_predicted():
    potential, curvature, noise = noisy_gaussian()
    step = 0.6 / curvature
    truth = (step + step**2 * noise / 4) / (1 - (1 - step * curvature / 2) ** 2)
    assert truth > 1.5 / curvature  # the effect is large enough to be missed by nobody
    assert_variance(walked(SGLD(step), potential, 60).state.positions, truth)


def test_step_sizes_differ_between_chains():
    steps = torch.tensor([0.1, 1.0], dtype=torch.float64).repeat(CHAINS // 2)
    x = walked(SGLD(steps), gaussian(torch.tensor([1.0]).double()), 150).state.positions
    assert_variance(x[::2], 1 / (1 - 0.1 / 4))
    assert_variance(x[1::2], 1 / (1 - 1.0 / 4))


def test_without_noise_it_descends():
    walk = walked(SGLD(0.5, noise_level=0.0), gaussian(), 3, chains=2, start=torch.ones(2, 4).double())
    assert torch.allclose(walk.state.positions, ((1 - 0.25 * PRECISIONS) ** 3).expand(2, 4))


def test_frozen_rmsprop_is_sgld_in_other_units():
    potential = gaussian()
    kernel = RMSpropSGLD(0.1)
    start = torch.zeros(CHAINS, 4, dtype=torch.float64)
    walk = Walk(potential, kernel, start, torch.Generator().manual_seed(1), 1)
    walk.step()  # burn-in of one step, then the preconditioner is frozen
    frozen = walk.state.own["square"].clone()
    for _ in range(400):
        walk.step()
    assert torch.equal(walk.state.own["square"], frozen)
    metric = 0.1 / (frozen.sqrt() + 0.1)
    truth = 1 / (PRECISIONS * (1 - metric * PRECISIONS / 4))
    assert_variance(walk.state.positions / truth.sqrt(), torch.ones(4).double())


def test_rmsprop_that_is_not_frozen_goes_on():
    walk = Walk(gaussian(), RMSpropSGLD(0.1, freeze=False), torch.ones(2, 4).double(), torch.Generator(), 1)
    walk.step()
    before = walk.state.own["square"].clone()
    walk.step()
    assert not torch.equal(walk.state.own["square"], before)


# ------------------------------------------------------------------ kernels with velocities


def lyapunov(step, friction, curvature, noise, added):
    """Stationary covariance of (x, v) of v' = (1 - a) v - (e/2)(c x + n) + z, x' = x + v'."""
    a = torch.tensor(
        [[1 - step * curvature / 2, 1 - friction], [-step * curvature / 2, 1 - friction]]
    ).double()
    q = step * added + step**2 / 4 * noise
    return torch.as_tensor(solve_discrete_lyapunov(a.numpy(), q * torch.ones(2, 2).double().numpy()))


@pytest.mark.parametrize("friction", [0.1, 0.5, 1.0])
def test_sghmc_solves_its_lyapunov_equation(friction):
    potential, curvature, noise = noisy_gaussian()
    step = 0.4 / curvature
    walk = walked(SGHMC(step, friction=friction), potential, 250)
    truth = lyapunov(step, friction, curvature, noise, friction)
    assert_variance(walk.state.positions, truth[0, 0])
    assert_variance(walk.state.own["velocity"], truth[1, 1])
    if friction == 1.0:  # nothing is remembered: SGLD
        sgld = (step + step**2 * noise / 4) / (1 - (1 - step * curvature / 2) ** 2)
        assert truth[0, 0] == pytest.approx(sgld)


def test_sghmc_takes_off_the_noise_it_is_told_of():
    potential, curvature, noise = noisy_gaussian()
    step = 0.1 / curvature
    told = step * noise / 4
    walk = walked(SGHMC(step, friction=0.5, noise_estimate=told), potential, 150)
    assert_variance(walk.state.positions, lyapunov(step, 0.5, curvature, 0.0, 0.5)[0, 0])


def test_the_thermostat_absorbs_minibatch_noise():
    potential, curvature, noise = noisy_gaussian(params=60)
    step = 0.05 / curvature
    start = torch.randn(8, 60, generator=torch.Generator().manual_seed(5)).double() / math.sqrt(curvature)
    walk = Walk(potential, SGNHT(step, diffusion=0.1), start, torch.Generator().manual_seed(0), 0)
    first = walk.state.own["friction"].clone()
    total, heat, steps, settling = 0.0, 0.0, 4000, 1500
    for i in range(steps):
        walk.step()
        heat = heat + walk.state.own["velocity"].square().mean(1)
        total = total + walk.state.positions.square().mean(1) * (i >= settling)
    # What the thermostat does is exact at every moment: the mean heat can differ from ε/2 only by its own drift.
    drift = (walk.state.own["friction"] - first) / steps
    assert torch.allclose(heat / steps, 0.5 * step + drift, rtol=1e-9)
    variance = total / (steps - settling)
    mean, error = variance.mean(), variance.std() / math.sqrt(len(variance))
    # With 60 parameters the friction settles where the velocities' variance is ε/2.
    settled = brentq(lambda a: float(lyapunov(step, a, curvature, noise, 0.1)[1, 1]) - step / 2, 0.1, 1.0)
    truth = lyapunov(step, settled, curvature, noise, 0.1)[0, 0]
    assert lyapunov(step, 0.1, curvature, noise, 0.1)[0, 0] > 1.5 * truth  # friction that does not adapt
    assert abs(mean - truth) < 4 * error + 0.01 * truth


# ------------------------------------------------------------------ kernels that accept or reject


@pytest.mark.parametrize(("product", "table"), [(0.1, 0.9975), (0.5, 0.972), (1.0, 0.921), (2.0, 0.784)])
def test_mala_mean_acceptance(product, table):
    """log a = -(ε/8) Λ² (y² - x²) on a Gaussian; its mean by quadrature over x and the noise."""
    curvature, step = 3.0, product / 3.0
    grid = torch.linspace(-9, 9, 1801, dtype=torch.float64)
    density = torch.exp(-0.5 * grid**2)
    weight = density[:, None] * density[None, :]
    x = grid[:, None] / math.sqrt(curvature)
    y = x * (1 - step * curvature / 2) + math.sqrt(step) * grid[None, :]
    accept = torch.exp((-(step / 8) * curvature**2 * (y**2 - x**2)).clamp(max=0))
    truth = float((accept * weight).sum() / weight.sum())
    assert truth == pytest.approx(table, abs=6e-4)
    potential = gaussian(torch.tensor([curvature]).double())
    start = torch.randn(40000, 1, generator=torch.Generator().manual_seed(2)).double() / math.sqrt(curvature)
    walk = Walk(potential, MALA(step), start, torch.Generator().manual_seed(0), 0)
    seen = walk.step().acceptance
    assert abs(seen.mean() - truth) < 4 * seen.std() / math.sqrt(len(seen))


@pytest.mark.parametrize(
    "kernel", [MALA(1.2), MALA(0.2), HMC(0.8, steps=3), HMC(0.95, steps=5, jitter=1.0)], ids=repr
)
def test_moments_do_not_depend_on_the_step(kernel):
    walk = walked(kernel, gaussian(), 120 if kernel.name == "mala" else 25, seed=3)
    x = walk.state.positions * PRECISIONS.sqrt()
    assert_variance(x, torch.ones(4).double())
    z = (x.pow(4).mean(0) - 3) / math.sqrt(96 / CHAINS)
    assert z.abs().max() < 4
    cross = (x[:, 0] * x[:, 3]).mean() * math.sqrt(CHAINS)
    assert abs(cross) < 4


def test_hmc_with_a_mass_samples_the_same_law():
    potential = gaussian()
    kernel = HMC(0.9, steps=3)
    start = torch.zeros(CHAINS, 4, dtype=torch.float64)
    walk = Walk(potential, kernel, start, torch.Generator().manual_seed(0), 0)
    walk.state.shared = {"variance": 1 / PRECISIONS}
    for _ in range(15):
        walk.step()
    assert_variance(walk.state.positions, 1 / PRECISIONS)


def test_leapfrog_is_of_second_order_and_reversible():
    potential = FunctionPotential(lambda w: (w**4).sum(1), 3)
    start = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)).double() + 0.5

    def error(step, length):
        walk = Walk(potential, HMC(step), start.clone(), torch.Generator().manual_seed(4), 0)
        _, info = walk.kernel.trajectory(walk.state, potential, walk.stream, length)
        return info.energy_error.abs().max()

    assert error(0.02, 20) / error(0.01, 40) == pytest.approx(4, rel=0.1)


def test_a_leapfrog_beyond_its_limit_accepts_nothing():
    potential = gaussian(torch.tensor([4.0]).double())
    start = torch.ones(50, 1).double()
    stable = Walk(potential, HMC(0.95, steps=40, jitter=0), start, torch.Generator().manual_seed(0), 0)
    beyond = Walk(potential, HMC(1.05, steps=40, jitter=0), start, torch.Generator().manual_seed(0), 0)
    assert stable.step().acceptance.mean() > 0.5
    assert beyond.step().acceptance.max() < 1e-6


def test_the_length_of_trajectories_is_jittered_about_its_mean():
    potential = gaussian()
    kernel = HMC(0.1, steps=8, jitter=0.5)
    walk = Walk(potential, kernel, torch.ones(2, 4).double(), torch.Generator().manual_seed(0), 0)
    lengths = [walk.step().gradients for _ in range(200)]
    assert (min(lengths), max(lengths)) == (4, 12)
    assert abs(sum(lengths) / 200 - kernel.gradients_per_step) < 4 * math.sqrt(80 / 12 / 200)


def test_a_proposal_that_is_not_finite_is_rejected():
    potential = FunctionPotential(lambda w: torch.where(w[:, 0] > 0, w[:, 0], torch.nan), 1)
    walk = Walk(potential, MALA(4.0), torch.full((100, 1), 0.1).double(), torch.Generator().manual_seed(0), 0)
    for _ in range(5):
        walk.step()
    assert bool(walk.alive.all())
    assert bool((walk.state.positions > 0).all())


# ------------------------------------------------------------------ names and messages


def test_every_kernel_is_found_by_its_name():
    assert kernels.names() == ("hmc", "mala", "rmsprop_sgld", "sghmc", "sgld", "sgnht")
    assert all(kernels.get(name).name == name for name in kernels.names())
    assert kernels.make("hmc", steps=3).steps == 3
    made = SGLD(0.1)
    assert kernels.make(made) is made


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.get("sgdl"), "Did you mean 'sgld'"),
        (lambda: kernels.make(3), "kernel is 3; it must be a Kernel or one of"),
        (lambda: kernels.make(SGLD(0.1), step_size=0.2), "The kernel is finished"),
        (lambda: SGLD(-1.0), "step_size is -1.0; allowed: a positive number"),
        (lambda: SGLD("big"), "step_size is 'big'"),
        (lambda: SGLD(0.1, noise_level=-1), "noise_level is -1"),
        (lambda: RMSpropSGLD(0.1, decay=1.0), "decay is 1.0"),
        (lambda: RMSpropSGLD(0.1, stability=0.0), "stability is 0.0"),
        (lambda: SGHMC(0.1, friction=0.0), "friction is 0.0"),
        (lambda: SGHMC(0.1, friction=0.5, noise_estimate=0.5), "noise_estimate is 0.5"),
        (lambda: SGNHT(0.1, diffusion=2.0), "diffusion is 2.0"),
        (lambda: MALA(0.1, target_acceptance=1.0), "target_acceptance is 1.0"),
        (lambda: HMC(0.1, target_acceptance=0.0), "target_acceptance is 0.0"),
        (lambda: HMC(0.1, steps=0), "steps is 0"),
        (lambda: HMC(0.1, jitter=2), "jitter is 2"),
        (lambda: HMC(0.1, mass="full"), "mass is 'full'; allowed: 'unit', 'diagonal'"),
    ],
)
def test_messages(call, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        call()


def test_minibatches_are_refused_by_kernels_that_accept_or_reject():
    potential, _, _ = noisy_gaussian()
    with pytest.raises(InputError, match="mala accepts or rejects by the exact energy"):
        walked(MALA(0.1), potential, 1, chains=2)
