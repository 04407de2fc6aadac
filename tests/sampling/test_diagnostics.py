"""R-hat, effective sample size and Monte Carlo errors: against arviz_stats, exact laws, and at 1e5 quantities."""

import math

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats

from geartrain.errors import InputError
from geartrain.sampling.diagnostics import Mixing, bfmi, ess, mcse, nested_rhat, rhat, summary

SHAPES = [(4, 500), (4, 501), (3, 10), (2, 4), (5, 37)]
AXES = {"chain_axis": -2, "draw_axis": -1}


def ar1(chains, draws, quantities, rho=0.6, seed=0, dtype=torch.float64):
    """Stationary AR(1) chains with unit variance."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(chains, draws, quantities, generator=g, dtype=torch.float64)
    x = noise.clone()
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * noise[:, t]
    return x.to(dtype)


def awkward(chains, draws, dtype=torch.float64):
    """Ties, a shifted chain, heavy tails, a tiny spread on a large offset."""
    x = ar1(chains, draws, 8, dtype=dtype)
    x[:, :, 1] = x[:, :, 1].round()
    x[0, :, 2] += 2
    x[:, :, 3] = (3 * x[:, :, 3]).exp() * 1e3
    x[:, :, 4] = 3 + x[:, :, 4] * (1e-6 if dtype == torch.float64 else 1e-3)
    x[-1, :, 5] *= 3
    return x


def oracle(function, x, **options):
    return function(x.numpy().transpose(2, 0, 1), **AXES, **options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rhat_is_that_of_arviz(shape, dtype):
    x = awkward(*shape, dtype=dtype)
    # Ranks are exact; sums over up to 2,000 draws round to a few hundred units in the last place.
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    for ours, theirs in [("bulk", "z_scale"), ("split", "split"), ("identity", "identity")]:
        np.testing.assert_allclose(rhat(x, ours), oracle(array_stats.rhat, x, method=theirs), rtol=tolerance)


@pytest.mark.parametrize("shape", [(4, 501), (3, 100), (4, 500)])
def test_folded_rhat_differs_from_arviz_only_in_the_tie_at_the_median(shape):
    # Rounding decides for arviz which of the two draws beside the median is closer; swapping their ranks 1 and 2
    # moves two scores by at most d = z(2) - z(1) (one rank of S), hence each half chain's mean by d/N.
    x = awkward(*shape)
    num = shape[0] * (shape[1] // 2) * 2
    for ours, theirs in [("rank", "rank"), ("folded", "folded")]:
        np.testing.assert_allclose(rhat(x, ours), oracle(array_stats.rhat, x, method=theirs), rtol=4 / num)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["bulk", "tail", "mean", "sd", "quantile"])
def test_effective_sample_size_is_that_of_arviz(shape, kind):
    x = awkward(*shape)
    if (
        kind == "tail"
    ):  # where a quantile is the largest draw, its indicator is constant: N for arviz, NaN for us
        x[:, :, 1] = x[:, :, 0]
    options = {"prob": 0.3} if kind == "quantile" else {"prob": 0.05} if kind == "tail" else {}
    np.testing.assert_allclose(
        ess(x, kind, **options), oracle(array_stats.ess, x, method=kind, **options), rtol=1e-8
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["mean", "quantile"])
def test_monte_carlo_error_is_that_of_arviz(shape, kind):
    x = awkward(*shape)
    options = {"prob": 0.3} if kind == "quantile" else {}
    np.testing.assert_allclose(
        mcse(x, kind, **options), oracle(array_stats.mcse, x, method=kind, **options), rtol=1e-8
    )


def test_effective_sample_size_of_an_autoregression_is_the_known_one():
    # AR(1): tau = (1 + rho)/(1 - rho) for means and (1 + rho^2)/(1 - rho^2) for squares. Averaged over 200
    # independent quantities tau is good to about 1 %; the truncation by Geyer leaves a bias of a few per cent.
    def tau(x, kind):
        return 4000 * float((1 / ess(x, kind)).mean())

    slow, antithetic = ar1(4, 1000, 200, rho=0.6), ar1(4, 1000, 200, rho=-0.5)
    assert tau(slow, "mean") == pytest.approx(4, rel=0.05)
    assert tau(slow, "sd") == pytest.approx(1.36 / 0.64, rel=0.05)
    # Here tau is a small difference of large terms, and the cut comes first where the noise is negative.
    assert tau(antithetic, "mean") == pytest.approx(1 / 3, rel=0.1)


@pytest.mark.parametrize("kind", ["mean", "sd", "quantile"])
def test_monte_carlo_errors_are_the_spread_over_repetitions(kind):
    # 500 independent posteriors: the spread of the estimates over them is the error that each one states.
    # Its own relative error is 1/sqrt(1000) = 3.2 %, four of which are allowed, and 3 % for Geyer's truncation.
    x = ar1(4, 400, 500, rho=0.6, seed=1)
    pooled = x.flatten(0, 1)
    values = {"mean": pooled.mean(0), "sd": pooled.std(0), "quantile": pooled.quantile(0.5, dim=0)}[kind]
    stated = mcse(x, kind).square().mean().sqrt()
    assert float(stated / values.std()) == pytest.approx(1, abs=4 * 0.032 + 0.03)


def test_interval_of_the_mean_covers():
    x = ar1(4, 400, 500, rho=0.6, seed=2)
    s = summary(x)
    covered = int((s.mean.abs() < 1.96 * s.mcse_mean).sum())
    # Binomial(500, .95): sd 4.9. The error itself is estimated, which costs about one per cent of coverage.
    assert 475 - 5 - 4 * 4.9 <= covered <= 475 + 4 * 4.9


@pytest.mark.parametrize("draws", [100, 101])
def test_summary_is_the_sum_of_its_parts(draws):
    x = awkward(4, draws)
    s = summary(x)
    for ours, alone in [
        (s.rhat, rhat(x)),
        (s.ess_bulk, ess(x)),
        (s.ess_tail, ess(x, "tail")),
        (s.mcse_mean, mcse(x)),
        (s.mcse_sd, mcse(x, "sd")),
        (s.mean, x.mean((0, 1))),
        (s.sd, x.flatten(0, 1).std(0)),
    ]:
        torch.testing.assert_close(ours, alone, rtol=1e-9, atol=0)


def test_ranks_do_not_see_monotone_maps():
    # Exact in float64 but for rounding of the exponential; ESS of the tail is exactly the same.
    x = ar1(4, 200, 5)
    torch.testing.assert_close(rhat(x, "bulk"), rhat(x.exp(), "bulk"), rtol=1e-12, atol=0)
    torch.testing.assert_close(ess(x), ess(x.exp()), rtol=1e-12, atol=0)


def test_order_of_negative_zeros_and_signs_in_float32():
    x = torch.tensor([-0.0, 0.0, -1.0, 1.0, 1e-30, -1e-30, 3e38, -3e38]).repeat(2, 4)
    x = x * (1 + 1e-3 * torch.arange(32))
    got, wanted = rhat(x, "bulk"), array_stats.rhat(x.numpy(), **AXES, method="z_scale")
    assert float(got) == pytest.approx(float(wanted), rel=1e-6)


def test_shape_of_the_quantities_is_kept_and_chunks_do_not_matter(monkeypatch):
    x = ar1(4, 50, 24).reshape(4, 50, 2, 3, 4)
    whole = summary(x)
    assert whole.rhat.shape == whole.mean.shape == (2, 3, 4)
    monkeypatch.setattr("geartrain.sampling.diagnostics.CHUNK_BYTES", 1)
    torch.testing.assert_close(summary(x).ess_tail, whole.ess_tail, rtol=1e-12, atol=0)
    assert rhat(x[..., 0, 0, 0]).shape == ()


def test_what_never_moved_and_what_is_not_finite():
    x = ar1(4, 40, 5)
    x[:, :, 0] = 0.1
    x[:, :, 1] = torch.tensor([0.1, 0.1, 0.1, 0.7])[:, None]
    x[1, 3, 2] = math.nan
    x[1, 3, 3] = math.inf
    s = summary(x)
    assert s.rhat.isnan().tolist() == [True, False, True, True, False]
    assert s.rhat[1] == math.inf
    assert s.ess_bulk.isnan().tolist() == [True, False, True, True, False]
    assert float(s.ess_bulk[1]) < 10  # four stuck chains tell no more than a handful of draws
    assert "3 that never moved or hold NaN" in s.sentence
    assert "None of 1 quantities" in summary(torch.zeros(4, 10)).sentence
    assert math.isnan(summary(torch.zeros(4, 10)).worst_rhat)
    assert math.isnan(summary(torch.zeros(4, 10)).share_mixed())


def test_verdict_and_sentence():
    good = summary(ar1(4, 1000, 3, rho=0.2))
    assert good.mixed()
    assert good.share_mixed() == 1
    assert "4 chains of 1000 draws" in str(good)
    assert "100 % of 3 quantities" in good.sentence
    x = ar1(4, 1000, 3)
    x[0, :, 1] += 4
    bad = summary(x)
    assert not bad.mixed()
    assert bad.worst_rhat == float(bad.rhat[1]) > 1.5
    assert bad.share_mixed() == pytest.approx(2 / 3)
    assert isinstance(bad, Mixing)
    assert bad.to_dict()["num_chains"] == 4
    assert len(bad.to_dict()["rhat"]) == 3


def test_one_chain_has_no_rhat_but_a_sample_size():
    s = summary(ar1(1, 400, 2))
    assert s.rhat.isnan().all()
    assert (s.ess_bulk > 20).all()
    np.testing.assert_allclose(
        ess(ar1(1, 400, 2)), oracle(array_stats.ess, ar1(1, 400, 2), method="bulk"), rtol=1e-9
    )


@pytest.mark.parametrize("groups", [[0, 0, 1, 1, 2, 2], [2, 0, 1, 1, 0, 2], [0, 1, 2, 3, 4, 5]])
def test_nested_rhat_is_that_of_arviz(groups):
    x = awkward(6, 61)
    wanted = oracle(array_stats.rhat_nested, x, superchain_ids=np.array(groups), method="rank")
    np.testing.assert_allclose(nested_rhat(x, groups), wanted, rtol=1e-2)  # fold tie: two of 360 ranks
    x = x[:, :, :1]
    x[:2] += 3
    assert nested_rhat(x, [0, 0, 1, 1, 2, 2]) > 1.5


def test_energy_diagnostic():
    # Independent energies change by twice their variance on average; a slow walk hardly at all.
    energies = ar1(4, 2000, 1, rho=0.0)[..., 0]
    assert bfmi(energies).tolist() == pytest.approx([2.0] * 4, rel=0.1)
    # arviz divides the mean of n squared changes (one of them missing) by the variance with ddof 0.
    np.testing.assert_allclose(bfmi(energies), array_stats.bfmi(energies.numpy()), rtol=2 / 2000)
    assert (bfmi(ar1(4, 2000, 1, rho=0.95)[..., 0]) < 0.3).all()


def test_weights_of_a_network_at_once():
    # Chunks of bounded memory; the figure for 1e5 quantities belongs to benchmarks, here only that it goes through.
    x = torch.randn(4, 100, 20_000, generator=torch.Generator().manual_seed(0))
    s = summary(x)
    assert s.rhat.shape == (20_000,)
    # Rank R-hat of independent draws: B/W has mean 1, so R is about sqrt(1 + (B/W - 1)/N); a bulk at 1.
    assert float(s.rhat.median()) == pytest.approx(1.0, abs=0.02)


def test_messages():
    with pytest.raises(InputError, match=r"shape \(3,\); it must be \(chains, draws, \.\.\.\) with 1 chains"):
        ess(torch.zeros(3))
    with pytest.raises(InputError, match="2 chains or more and four draws or more"):
        rhat(torch.zeros(1, 10))
    with pytest.raises(InputError, match="four draws"):
        summary(torch.zeros(4, 3))
    with pytest.raises(InputError, match="method is 'best'; allowed: rank, bulk"):
        rhat(torch.zeros(4, 10), "best")
    with pytest.raises(InputError, match="kind is 'best'; allowed: bulk, tail"):
        ess(torch.zeros(4, 10), "best")
    with pytest.raises(InputError, match="kind is 'best'; allowed: mean, sd, quantile"):
        mcse(torch.zeros(4, 10), "best")
    with pytest.raises(InputError, match=r"prob is 1\.5; allowed: between 0 and 1"):
        mcse(torch.zeros(4, 10), "quantile", prob=1.5)
    with pytest.raises(InputError, match="one group for each of 4 chains"):
        nested_rhat(torch.zeros(4, 10), [0, 1])
    with pytest.raises(
        InputError, match=r"\[3, 1\] chains; allowed: two groups or more, all of the same size"
    ):
        nested_rhat(torch.zeros(4, 10), [0, 0, 0, 1])
    with pytest.raises(InputError, match=r"energies has shape \(4,\)"):
        bfmi(torch.zeros(4))
