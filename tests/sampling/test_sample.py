"""`sample` against the conjugate posterior; resumption, budgets, interruption, and chains that diverge."""

import math
import os
import signal

import pytest
import torch
from torch import nn

import geartrain as gt
from geartrain.errors import InputError, NonFiniteError
from geartrain.objective import Objective
from geartrain.records import State
from geartrain.sampling import Draws, FunctionPotential, Potential, kernels, price, sample
from geartrain.sampling._walk import Walk
from geartrain.sampling.adaptation import stiffness
from geartrain.sampling.kernels._base import Stream

NOISE, PRIOR, COUNT = 0.5, 2.0, 40


def regression(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(COUNT, 3, generator=g, dtype=dtype) * torch.tensor([1.0, 0.5, 2.0], dtype=dtype)
    y = x @ torch.ones(3, 1, dtype=dtype) + NOISE**0.5 * torch.randn(COUNT, 1, generator=g, dtype=dtype)
    torch.manual_seed(0)
    return Objective(nn.Linear(3, 1, bias=False, dtype=dtype), nn.MSELoss(), (x, y)), x, y


def posterior(x, y):
    covariance = torch.linalg.inv(x.T @ x / NOISE + PRIOR * torch.eye(3).double())
    return covariance @ (x.T @ y)[:, 0] / NOISE, covariance


@pytest.mark.parametrize(
    ("kernel", "draws", "options"),
    [("hmc", 500, {"steps": 5}), ("hmc", 500, {"steps": 5, "mass": "diagonal"}), ("mala", 3000, {})],
    ids=["hmc", "hmc-mass", "mala"],
)
def test_conjugate_regression(kernel, draws, options):
    objective, x, y = regression()
    seen = sample(
        objective, kernel, chains=16, draws=draws, burn_in=300, n_beta=COUNT / (2 * NOISE), prior_precision=PRIOR,
        start="prior", **options,
    )  # fmt: skip
    mean, covariance = posterior(x, y)
    z = (seen.mean() - mean) / seen.mcse()
    assert z.abs().max() < 4
    white = (seen.positions - mean) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    second = torch.einsum("cdi,cdj->cij", white, white) / draws  # one number per chain and pair
    error = second.std(0) / 4
    assert ((second.mean(0) - torch.eye(3)) / error).abs().max() < 4.5
    assert seen.rhat().max() < 1.02
    assert abs(float(seen.acceptance.mean()) - (0.8 if kernel == "hmc" else 0.574)) < 0.1
    # E[n_beta (L - L_min)] + E[prior] of a Gaussian: every quadratic form has its exact mean.
    residual = lambda w: (y - x @ w).square().mean()  # noqa: E731
    truth = residual(mean[:, None]) + (x.T @ x / COUNT * covariance).sum()
    losses = seen.losses.mean(1)
    assert abs(losses.mean() - truth) < 4 * losses.std() / 4


def test_localised_sgld_has_the_predicted_spread():
    objective, x, _ = regression()
    centre = torch.linalg.lstsq(x, regression()[2]).solution[:, 0]
    n_beta, gamma, step = 20.0, 3.0, 5e-3
    potential = Potential(objective, n_beta, gamma, centre=centre)
    seen = sample(potential, "sgld", chains=400, draws=40, burn_in=250, thin=5, step_size=step)
    values, vectors = torch.linalg.eigh(n_beta * 2 * x.T @ x / COUNT + gamma * torch.eye(3).double())
    truth = 1 / (values * (1 - step * values / 4))
    by_chain = ((seen.positions - centre) @ vectors).square().mean(1)
    z = (by_chain.mean(0) - truth) / (by_chain.std(0) / 20)
    assert z.abs().max() < 4


# ------------------------------------------------------------------ the same again


@pytest.mark.parametrize("kernel", kernels.names())
def test_resumption_is_bit_identical(kernel, tmp_path):
    objective, _, _ = regression(torch.float32)
    options = {
        "batch_size": None if kernels.get(kernel).adjusted else 8,
        "prior_precision": 1.0,
        "n_beta": 20.0,
    }
    options |= {"steps": 3, "mass": "diagonal"} if kernel == "hmc" else {}
    arguments = {"chains": 3, "burn_in": 45, "thin": 2, "keep": 3, "engine": "stack", **options}
    whole = sample(objective, kernel, draws=20, **arguments)
    parts = sample(objective, kernel, draws=7, **arguments)
    joined = parts.extend(13)
    parts.save(tmp_path / "draws.pt")
    loaded = Draws.load(tmp_path / "draws.pt", Potential(objective, engine="stack")).extend(6).extend(7)
    for mine in (joined, loaded, parts.extend(13)):
        assert mine.positions.shape == (3, 6, 3)
        assert torch.equal(mine.positions, whole.positions)
        assert torch.equal(mine.losses, whole.losses)
        assert torch.equal(mine.burn_in_losses, whole.burn_in_losses)
        assert torch.equal(mine.mean(), whole.mean())
        assert torch.equal(mine.variance(), whole.variance())
    assert parts.num_draws == 7
    with pytest.raises(InputError, match=r"load them with Draws.load\(path, objective\)"):
        Draws.load(tmp_path / "draws.pt").extend(2)


def test_interrupted_in_burn_in_it_goes_on_bit_for_bit():
    objective, _, _ = regression()
    arguments = {
        "chains": 3,
        "draws": 10,
        "burn_in": 40,
        "steps": 3,
        "mass": "diagonal",
        "prior_precision": 1.0,
    }
    whole = sample(objective, "hmc", **arguments)
    cut = sample(objective, "hmc", **arguments, budget=100 * 3)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert "in burn-in" in cut.status.sentence
    assert cut.num_draws == 0
    assert torch.equal(cut.extend(10).positions, whole.positions)


def test_same_seed_same_bits_and_the_programs_numbers_stay():
    objective, _, _ = regression()
    before = torch.get_rng_state()
    a, b, c = (sample(objective, "hmc", chains=2, draws=5, steps=2, generator=s) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a.positions, b.positions)
    assert not torch.equal(a.positions, c.positions)
    one, two = (torch.Generator().manual_seed(4) for _ in range(2))
    d, e = (sample(objective, "hmc", chains=2, draws=5, steps=2, generator=g) for g in (one, two))
    assert torch.equal(d.positions, e.positions)


# ------------------------------------------------------------------ what goes wrong


def test_a_chain_that_diverges_stops_and_is_never_averaged_in():
    potential = FunctionPotential(lambda w: 0.5 * (w**2).sum(1), 2)
    steps = torch.tensor([0.5, 9.0, 0.5, 0.5])
    start = torch.ones(4, 2)
    seen = sample(potential, "sgld", chains=4, draws=2000, burn_in=10, step_size=steps, start=start)
    assert seen.alive.tolist() == [True, False, True, True]
    at = int(seen.stopped_at[1])
    assert 10 < at < 1200
    assert bool(seen.losses[1, at - 10 :].isnan().all())
    assert bool(seen.losses[1, : at - 11].isfinite().all())
    assert f"1 of 4 chains became NaN or infinite and were stopped: 1 (step {at})" in seen.notes[0]
    assert abs(float(seen.variance().mean()) - 1 / (1 - 0.5 / 4)) < 0.15
    assert bool(torch.isfinite(seen.mean()).all())
    assert seen.good_positions.shape == (3, 2000, 2)
    assert seen.ess().min() > 100
    # The others walk as they would have walked had the fourth stayed.
    steps[1] = 0.5
    healthy = sample(potential, "sgld", chains=4, draws=2000, burn_in=10, step_size=steps, start=start)
    assert torch.equal(healthy.positions[[0, 2, 3]], seen.positions[[0, 2, 3]])


def test_when_all_diverge_it_ends_and_says_so():
    potential = FunctionPotential(lambda w: (w**4).sum(1), 2)
    seen = sample(potential, "sgld", chains=3, draws=500, burn_in=20, step_size=1.0, start=torch.ones(2))
    assert seen.status.state is State.NON_FINITE
    assert "step size below 1.0" in seen.status.sentence
    assert seen.num_alive == 0
    assert "3 chains" in str(seen)


def test_no_chain_can_start():
    potential = FunctionPotential(lambda w: w[:, 0].log(), 1)
    with pytest.raises(NonFiniteError, match="No chain can start"):
        sample(potential, "hmc", start=torch.tensor([-1.0]))


def test_trajectories_that_go_astray_are_counted():
    potential = FunctionPotential(lambda w: 0.5 * (w**2).sum(1), 2)
    seen = sample(
        potential, "hmc", chains=2, draws=10, burn_in=0, step_size=3.0, steps=20, start=torch.ones(2)
    )
    assert bool((seen.diverged == 10).all())
    assert "went astray" in seen.notes[0]
    assert bool((seen.positions == 1).all())


def test_ctrl_c_returns_what_there_is():
    potential = FunctionPotential(lambda w: 0.5 * (w**2).sum(1), 2)
    before = signal.getsignal(signal.SIGINT)
    calls = []

    def pressed(w):
        calls.append(1)
        if len(calls) == 30:
            os.kill(os.getpid(), signal.SIGINT)
        return w[:, 0]

    arguments = {"chains": 2, "draws": 50, "burn_in": 5, "step_size": 0.1, "start": torch.zeros(2)}
    seen = sample(potential, "sgld", **arguments, observe={"first": pressed})
    assert seen.status.state is State.INTERRUPTED
    assert seen.num_draws == 30
    assert signal.getsignal(signal.SIGINT) is before
    whole = sample(potential, "sgld", **arguments, observe={"first": lambda w: w[:, 0]})
    assert torch.equal(seen.extend(20).positions, whole.positions)
    assert torch.equal(whole.observed["first"], whole.positions[..., 0])


def test_a_budget_of_seconds_is_kept():
    objective, _, _ = regression()
    seen = sample(
        objective, "hmc", chains=2, draws=10**5, burn_in=2, keep="statistics", budget="600ms", engine="stack"
    )
    assert seen.status.state is State.OUT_OF_BUDGET
    assert seen.num_draws < 10**5  # how many a busy machine manages is not known
    assert seen.cost.seconds < 5
    assert seen.extend(3).num_draws == seen.num_draws + 3


# ------------------------------------------------------------------ what is kept


def test_what_is_kept_agrees():
    objective, _, _ = regression()
    whole, some, none = (
        sample(objective, "hmc", chains=3, draws=24, burn_in=10, steps=2, keep=k)
        for k in ("whole", 4, "statistics")
    )
    assert torch.equal(some.positions, whole.positions[:, 3::4])
    assert none.positions is None
    flat = whole.positions.reshape(-1, 3)
    for seen in (whole, some, none):
        assert torch.equal(seen.losses, whole.losses)
        assert torch.allclose(seen.mean(), flat.mean(0))
        assert torch.allclose(seen.variance(), flat.var(0))
    by_chain = whole.positions
    within, between = by_chain.var(1).mean(0), by_chain.mean(1).var(0)
    assert torch.allclose(none.rhat(), (between / within + 23 / 24).sqrt())
    with pytest.raises(InputError, match="No positions were kept"):
        none.ess()


def test_price_is_near_the_cost():
    objective, _, _ = regression()
    for kernel, options in (("hmc", {"steps": 6}), ("sgld", {"batch_size": 10, "step_size": 1e-3})):
        arguments = {"chains": 4, "draws": 60, "burn_in": 40, **options}
        quoted, seen = price(objective, kernel, **arguments), sample(objective, kernel, **arguments)
        assert 0.5 < quoted.gradients / seen.cost.gradients < 2
        assert quoted.peak_bytes > seen.positions.nbytes
        assert quoted.seconds > 0


def test_progress_tells_acceptance_and_mixing():
    potential = FunctionPotential(lambda w: 0.5 * (w**2).sum(1), 2)
    told = []
    sample(potential, "hmc", chains=3, draws=40, burn_in=5, steps=2, progress=told.append)
    assert told[0].burning
    assert told[-1].step == told[-1].steps == 45
    assert 0.5 < told[-1].acceptance <= 1
    assert 0.9 < told[-1].rhat < 1.5
    assert "R-hat of the loss" in str(told[-1])


def test_progress_on_standard_error(capsys):
    potential = FunctionPotential(lambda w: 0.5 * (w**2).sum(1), 2)
    sample(potential, "hmc", chains=2, draws=10, burn_in=5, steps=2, progress=True)
    assert "15/15 steps" in capsys.readouterr().err


# ------------------------------------------------------------------ step sizes found by themselves


def test_stiffness_is_the_top_of_the_spectrum():
    objective, x, y = regression()
    potential = Potential(objective, 20.0, 1.5, batch_size=8)
    stream = Stream(torch.Generator().manual_seed(0), 1, 3, torch.float64, torch.device("cpu"))
    top, noise = stiffness(potential, objective.parameters(), stream)
    hessian = 2 * x.T @ x / COUNT
    values, vectors = torch.linalg.eigh(hessian)
    assert float(top) == pytest.approx(float(20 * values[-1] + 1.5), rel=0.05)
    w = objective.parameters()[:, None]
    slopes = 20 * ((2 * (x @ w - y) * x) @ vectors[:, -1])
    assert 0.3 < float(noise) / float(slopes.var() / 8) < 3  # sixteen minibatches
    bowl = FunctionPotential(lambda w: (w**2 * torch.tensor([1.0, 5.0, 2.0])).sum(1), 3, n_beta=3.0)
    assert float(stiffness(bowl, torch.zeros(3).double(), stream)[0]) == pytest.approx(30, rel=0.05)


def test_automatic_steps_of_uncorrected_kernels_are_stable_and_stated():
    objective, _, _ = regression()
    for name in ("sgld", "sghmc", "sgnht", "rmsprop_sgld"):
        seen = sample(objective, name, chains=2, draws=50, prior_precision=1.0, batch_size=8)
        assert seen.num_alive == 2
        assert float(seen.losses.max()) < 50
    walk = Walk(
        FunctionPotential(lambda w: 2.0 * (w**2).sum(1), 2), kernels.make("sgld"), torch.ones(1, 2).double(),
        torch.Generator(), 0,
    )  # fmt: skip
    assert float(walk.state.step_size) == pytest.approx(0.2 / 4, rel=0.01)


# ------------------------------------------------------------------ starts and messages


def test_starts():
    objective, _, _ = regression()
    centre = objective.parameters()
    still = {"chains": 5000, "draws": 1, "burn_in": 0, "step_size": 1e-12}
    point = sample(objective, "sgld", **still)
    assert torch.allclose(point.positions[:, 0], centre.expand(5000, -1), atol=1e-4)
    prior = sample(
        objective, "sgld", start="prior", prior_precision=3.0, localisation=1.0, **still
    ).positions[:, 0]
    z = (prior.mean(0) - centre / 4) * math.sqrt(5000 * 4)
    assert z.abs().max() < 4
    assert ((prior.var(0) * 4 - 1) / math.sqrt(2 / 5000)).abs().max() < 4


OBJECTIVE = regression()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chains": 0}, "chains is 0; it must be a whole number, at least 1"),
        ({"draws": 2.5}, "draws is 2.5"),
        ({"thin": 0}, "thin is 0"),
        ({"burn_in": -1}, "burn_in is -1; it must be a whole number, at least 0"),
        ({"keep": "all"}, "keep is 'all'; allowed: 'whole', 'statistics'"),
        ({"start": "origin"}, "start is 'origin'; allowed: 'point', 'prior'"),
        ({"start": "prior"}, "needs something to draw from"),
        ({"start": torch.zeros(2, 2)}, "The start has shape"),
        ({"generator": "0"}, "generator is '0'"),
        ({"batch_size": 4}, "hmc accepts or rejects by the exact energy"),
        ({"draws": 10**13}, "are free. Pass keep='statistics'"),
    ],
)
def test_messages(options, message):
    with pytest.raises(InputError, match=message):
        sample(OBJECTIVE, "hmc", **options)


def test_only_objectives_and_potentials():
    with pytest.raises(InputError, match="objective is a Linear"):
        sample(nn.Linear(1, 1))
    assert gt.sampling.sample is sample
