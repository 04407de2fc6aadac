"""`gt.llc` against exact finite-temperature truths; its baseline, bias, blocks, data, names and budgets."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import geartrain as gt
from geartrain.errors import InputError, NonFiniteError
from geartrain.records import Measurement, State, jsonable
from geartrain.sampling import FunctionPotential, Potential, truths
from geartrain.sampling.learning_coefficient import LearningCoefficient
from geartrain.sampling.learning_coefficient.baseline import Excess
from geartrain.sampling.learning_coefficient.error import mean_of
from geartrain.sampling.learning_coefficient.settings import default_n_beta
from geartrain.sampling.llc import price

N, D = 256, 4
N_BETA = N / math.log(N)


def half(outputs, targets):
    return 0.5 * (outputs - targets).square().mean()


def regression(noise=1.0, dtype=torch.float64, bias=False):
    """Least squares at its minimum, with curvatures and residual variance."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=g, dtype=torch.float64)
    y = x.sum(1, keepdim=True) + noise * torch.randn(N, 1, generator=g, dtype=torch.float64)
    model = nn.Linear(D, 1, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        wide = torch.cat([x, torch.ones(N, 1).double()], 1) if bias else x
        found = torch.linalg.lstsq(wide, y).solution[:, 0]
        model.weight.copy_(found[None, :D])
        if bias:
            model.bias.copy_(found[D:])
    objective = gt.Objective(model.to(dtype), half, (x.to(dtype), y.to(dtype)))
    return objective, torch.linalg.eigvalsh(x.T @ x / N), float((y - x @ found[:D, None]).square().mean())


def bowl(batch_size=None, n_beta=100.0, localisation=1.0):
    """A quadratic whose minibatch noise does not depend on where it is."""
    h = torch.tensor([0.5, 1.0, 2.0]).double()
    tilt = torch.randn(N, 3, generator=torch.Generator().manual_seed(1)).double()
    tilt -= tilt.mean(0)
    tilt = tilt @ torch.linalg.inv(torch.linalg.cholesky(tilt.T @ tilt / N)).T

    def losses(w, rows):
        linear = w @ tilt[rows].T if rows.ndim == 1 else torch.einsum("cbd,cd->cb", tilt[rows], w)
        return 0.5 * (h * w**2).sum(1, keepdim=True) + linear

    potential = FunctionPotential(losses, 3, n_beta, localisation, batch_size=batch_size, num_examples=N)
    return potential, h


CROSSINGS = {"w2": (2,), "w4": (4,)}


@pytest.mark.parametrize("powers", CROSSINGS.values(), ids=CROSSINGS)
def test_crossings_at_finite_temperature(powers):
    potential = FunctionPotential(lambda w: (w ** torch.tensor(powers)).prod(1), len(powers), 100.0, 1.0)
    found = gt.llc(potential, chains=24, draws=200)
    truth = truths.normal_crossing_estimate(powers, 100.0, 1.0)
    assert abs(found.value - truth) < 4 * found.standard_error
    assert found.standard_error < 0.15 * truth
    assert not found.warned("still_training")
    assert not found.warned("too_stiff")


def test_local_stratum_is_not_the_global_coefficient():
    """Widths 3-1-3 at rank one: (3 + 3 - 1)/2 = 2.5, where the origin has 1.5."""
    first, second = torch.tensor([[1.0, 0.0, 0.0]]).double(), torch.tensor([[0.0], [1.0], [0.0]]).double()
    centre = torch.cat([first.flatten(), second.flatten()])

    def loss(w):
        return (w[:, 3:, None] * w[:, None, :3] - second @ first).square().sum((1, 2))

    potential = FunctionPotential(loss, 6, 1e3, 10.0, centre=centre)
    found = gt.llc(potential, chains=16, draws=150)
    exact = truths.reduced_rank_regression_local(3, 1, 3, 1, 1, 1).value
    truth = truths.quadratic_estimate(torch.tensor([4.0, 2.0, 2.0, 2.0, 2.0]), 1e3, 10.0)
    assert exact == 2.5
    assert abs(found.value - truth) < 4 * found.standard_error
    assert found.standard_error < 0.1 < exact - 1.5


@pytest.mark.parametrize("batch", [None, 16], ids=["all", "batches"])
def test_langevin_bias_is_predicted(batch):
    """Step and minibatch bias: the value is the biased truth, and the bias beside it is exact on average."""
    potential, h = bowl(batch)
    step = 2e-3
    noise = 0.0 if batch is None else 100.0**2 / batch
    biased = truths.quadratic_estimate(h, 100.0, 1.0, step_size=step, gradient_noise=noise)
    exact = truths.quadratic_estimate(h, 100.0, 1.0)
    found = gt.llc(potential, kernel="sgld", step_size=step, chains=64, draws=500)
    assert abs(found.value - biased) < 4 * found.standard_error
    # Noise along directions that the localisation holds counts in full in the prediction: γ/Λ of it is too much.
    too_much = sum(step / 8 * noise / (100 * k + 1) for k in h.tolist())
    assert abs(found.predicted_bias - too_much - (biased - exact)) < 0.06 * biased
    assert found.predicted_bias - (biased - exact) == pytest.approx(
        too_much, abs=0.05 * (biased - exact) + 0.01
    )
    assert found.corrected == found.value - found.predicted_bias


@pytest.mark.parametrize("batch", [None, 16], ids=["all", "batches"])
def test_step_size_finds_itself(batch):
    potential, h = bowl(batch)
    found = gt.llc(potential, kernel="sgld", chains=16, draws=800)
    noise = 0.0 if batch is None else 100.0**2 / batch
    truth = truths.quadratic_estimate(
        h, 100.0, 1.0, step_size=found.details["step_size"], gradient_noise=noise
    )
    assert 0 < found.predicted_bias < 0.08 * found.value
    assert truth / truths.quadratic_estimate(h, 100.0, 1.0) < 1.08
    assert abs(found.value - truth) < 4 * found.standard_error
    assert not found.warned("too_stiff")


def test_intervals_cover_and_errors_are_the_spread():
    """Two hundred chains taken eight at a time: 25 estimates; and the same for minibatches with a paired baseline."""
    objective, h, residual = regression()
    noise = truths.least_squares_noise(h, N_BETA, residual, 32)
    for options, least in (
        ({"burn_in": 40}, 0.0),
        ({"lr": 1e-3, "batch_size": 32, "thin": 4, "burn_in": 100}, 1.0),
    ):
        trace = torch.as_tensor(gt.llc(objective, chains=200, draws=60, **options).trace)
        parts = [mean_of(part) for part in trace.split(8)]
        values = np.array([p.value for p in parts])
        errors = np.array([p.error for p in parts])
        truth = truths.quadratic_estimate(
            h, N_BETA, 1.0, step_size=least * 1e-3, gradient_noise=least * noise
        )
        hits = sum(abs(p.value - truth) < p.half_width() for p in parts)
        assert hits >= 20  # of 25; P = 0.001 at 95 %
        ratio = np.sqrt((errors**2).mean()) / values.std(ddof=1)
        assert 0.65 < ratio < 1.6  # spread of a spread of 25: 14 %


def test_paired_baseline_takes_the_same_rows():
    objective, *_ = regression()
    potential = Potential(objective, 10.0, batch_size=8)
    paired, full = Excess(potential, "paired"), Excess(potential, "full")
    positions = potential.positions(None, 3) + 0.1 * torch.arange(3)[:, None]
    rows = potential.draw_rows(3, torch.Generator().manual_seed(0))
    at_start = potential.losses(potential.positions(None, 3), rows)
    torch.testing.assert_close(paired.losses(positions, rows), potential.losses(positions, rows) - at_start)
    assert float(paired.losses(positions, rows)[0]) == 0.0  # at the point itself there is no noise at all
    start = float(objective.value())
    torch.testing.assert_close(full.losses(positions, rows), potential.losses(positions, rows) - start)
    assert paired.start_loss == pytest.approx(start)


def test_pairing_removes_the_noise_of_the_baseline():
    objective, *_ = regression(noise=5.0)
    options = {"lr": 2e-5, "batch_size": 32, "chains": 8, "draws": 200, "burn_in": 100}
    paired = gt.llc(objective, baseline="paired", **options)
    full = gt.llc(objective, baseline="full", **options)
    assert paired.trace.std() < 0.3 * full.trace.std()
    assert paired.details["baseline"] == "paired"
    assert full.details["baseline"] == "full"


def test_any_loss_pairs():
    """A batch loss hides its examples; it is evaluated at the point on the same rows."""
    objective, *_ = regression()
    hidden = gt.Objective(
        objective.model, batch_loss=lambda m, b: half(m(b[0]), b[1]), data=list(objective.batches)
    )
    options = {"lr": 1e-3, "batch_size": 16, "chains": 4, "draws": 30, "burn_in": 20}
    one, other = gt.llc(objective, **options), gt.llc(hidden, **options)
    np.testing.assert_allclose(one.trace, other.trace, rtol=1e-9, atol=1e-9)


def test_defaults_are_stated():
    objective, h, _ = regression()
    found = gt.llc(objective)
    assert isinstance(found, LearningCoefficient)
    assert isinstance(found, Measurement)
    assert found.n_beta == pytest.approx(N_BETA) == default_n_beta(N)
    assert "n/log n, n = 256" in str(found)
    assert "localisation 1" in str(found)
    assert "hmc" in repr(found)
    assert abs(found.value - truths.quadratic_estimate(h, N_BETA, 1.0)) < 4 * found.standard_error
    assert found.health.burn_in == 100
    assert found.trace.shape == (8, 200)
    assert found.predicted_bias == 0.0
    assert found.warnings == ()
    assert found.cost.gradients > 0
    jsonable(found)


def test_price_is_kept():
    objective, *_ = regression()
    for options in (
        {"draws": 20, "burn_in": 10},
        {"lr": 1e-3, "batch_size": 64, "draws": 50},
        {"kernel": "mala", "draws": 50},
    ):
        quoted, spent = price(objective, **options), gt.llc(objective, **options).cost
        assert quoted.gradients / 2 < spent.gradients + spent.forwards / 3 < 2 * quoted.gradients


def test_blocks_and_other_data():
    objective, *_ = regression(bias=True)
    block = gt.llc(objective, parameters="bias", chains=16, draws=80, burn_in=40)
    assert abs(block.value - 0.5 * N_BETA / (N_BETA + 1)) < 4 * block.standard_error
    x, y = objective.batches[0]
    other = gt.llc(objective, data=(x[:64], y[:64]), chains=4, draws=20)
    assert other.n_beta == pytest.approx(64 / math.log(64))
    with pytest.raises(InputError, match="a potential is finished"):
        gt.llc(FunctionPotential(lambda w: w[:, 0] ** 2, 1), parameters="bias")


def test_names_of_devinterp():
    objective, *_ = regression()
    theirs = gt.llc(
        objective, lr=1e-3, nbeta=20.0, localization=2.0, num_chains=3, num_draws=40, num_burnin_steps=10,
        num_steps_bw_draws=2, batch_size=16, seed=4,
    )  # fmt: skip
    ours = gt.llc(
        objective, step_size=1e-3, n_beta=20.0, localisation=2.0, chains=3, draws=40, burn_in=10, thin=2,
        batch_size=16, generator=4, kernel="sgld",
    )  # fmt: skip
    assert np.array_equal(theirs.trace, ours.trace)
    assert theirs.details["kernel"] == "sgld"
    result = ours.to_devinterp()
    assert result["llc/mean"] == pytest.approx(ours.value) == pytest.approx(result["llc/means"][-1])
    assert result["loss/trace"].shape == (3, 40)
    assert result["llc/std"] == pytest.approx(np.std([result[f"llc-chain/{i}"] for i in range(3)], ddof=1))
    assert result["init_loss"] == pytest.approx(float(objective.value()))
    with pytest.raises(InputError, match="lr and step_size are the same option"):
        gt.llc(objective, lr=1e-3, step_size=1e-3)
    with pytest.raises(InputError, match="'num_chain' is not an option of llc"):
        gt.llc(objective, num_chain=3)


BAD = {
    "chains": ({"chains": 0}, "chains is 0"),
    "draws": ({"draws": 2}, "draws is 2"),
    "n_beta": ({"n_beta": -1.0}, "n_beta is -1.0"),
    "word": ({"n_beta": "n"}, "n_beta is 'n'"),
    "baseline": ({"baseline": "none"}, "baseline is 'none'"),
    "bias": ({"bias": 2.0}, "bias is 2.0"),
    "hmc": ({"kernel": "hmc", "batch_size": 8}, "needs all data"),
    "seed": ({"generator": "x"}, "generator is 'x'"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        gt.llc(regression()[0], **options)


def test_bad_subject():
    with pytest.raises(InputError, match="objective is a str"):
        gt.llc("model")


def test_same_seed_same_bits_and_nothing_changes():
    objective, *_ = regression(dtype=torch.float32)
    before = objective.parameters()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = gt.llc(objective, draws=20, burn_in=20, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(objective.parameters(), before)
    other = gt.llc(objective, draws=20, burn_in=20, generator=torch.Generator().manual_seed(3))
    assert np.array_equal(one.trace, other.trace)
    assert one.standard_error == other.standard_error


@pytest.mark.parametrize("kernel", ["rmsprop_sgld", "sghmc", "sgnht", "mala"])
def test_every_kernel(kernel):
    found = gt.llc(regression()[0], kernel=kernel, draws=100, n_beta=20.0)
    assert math.isfinite(found.value)
    assert math.isnan(found.predicted_bias) == (kernel != "mala")
    assert "not predicted" in str(found) or kernel == "mala"


def test_budget():
    objective, *_ = regression()
    nothing = gt.llc(objective, budget=0)
    assert nothing.status.state is State.OUT_OF_BUDGET
    assert math.isnan(nothing.value)
    assert "no value" in str(nothing)
    assert nothing.cost.gradients == 0
    some = gt.llc(objective, draws=4000, burn_in=20, budget=8 * 8 * 60)
    assert some.status.state is State.OUT_OF_BUDGET
    assert math.isfinite(some.value)
    assert some.trace.shape[1] < 4000
    assert "Cut short" in some.status.sentence
    assert gt.llc(objective, lr=None, kernel="sgld", budget="1ms").status.state is State.OUT_OF_BUDGET


def test_point_that_is_not_finite():
    objective, *_ = regression()
    with torch.no_grad():
        objective.model.weight[0, 0] = math.nan
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        gt.llc(objective)
