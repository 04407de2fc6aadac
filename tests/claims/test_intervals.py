"""Intervals cover what they say they cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from geartrain.claims import intervals
from geartrain.errors import InputError


def covered(make, truth, repeats=300) -> int:
    found = [make(np.random.default_rng(seed)) for seed in range(repeats)]
    return sum(e.low <= truth <= e.high for e in found)


def binomial_bounds(repeats: int, level: float = 0.95) -> tuple[float, float]:
    return tuple(stats.binom.ppf([0.001, 0.999], repeats, level))


def test_eight_draws_of_a_mean_are_covered():
    """And plain percentiles would not: the reason for the wider ones."""

    def plain(generator):
        draws = generator.normal(2.0, 1.0, 8)
        means = draws[generator.integers(8, size=(2000, 8))].mean(1)
        return intervals.Effect(draws.mean(), *np.quantile(means, [0.025, 0.975]))

    hits = covered(lambda g: intervals.mean(g.normal(2.0, 1.0, 8), resamples=2000), 2.0)
    low, high = binomial_bounds(300)
    assert (
        low - 6 <= hits <= high
    )  # expanded percentiles are 0.5 to 2 % short at n = 8 (Hesterberg 2015, table 3)
    assert covered(plain, 2.0) < hits - 9


def test_a_paired_difference_is_narrower_than_an_unpaired_one():
    generator = np.random.default_rng(0)
    base = generator.normal(0, 5, 16)
    x, y = base + generator.normal(1, 0.1, 16), base
    paired, apart = intervals.difference(x, y), intervals.difference(x, y, paired=False)
    assert paired.low < 1 < paired.high
    assert apart.half_width > 10 * paired.half_width


def test_slope_is_the_least_squares_slope():
    x = np.arange(5.0)
    y = 3 * x + np.random.default_rng(1).normal(size=(8, 5))
    found = intervals.slope(x, y)
    assert found.value == pytest.approx(np.polyfit(x, y.mean(0), 1)[0])
    assert found.low < 3 < found.high


def test_rank_correlation_is_scipys():
    generator = np.random.default_rng(2)
    x, y = generator.integers(0, 6, 30), generator.normal(size=30)
    found = intervals.spearman(x, y, resamples=200)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)


def test_vectorised_and_plain_statistics_agree():
    x = np.random.default_rng(3).normal(size=12)
    fast = intervals.bootstrap(lambda a: a.mean(1), x, vectorised=True, resamples=4000)
    slow = intervals.bootstrap(lambda a: a.mean(), x, resamples=4000)
    assert fast.value == pytest.approx(slow.value)
    assert fast.low == pytest.approx(slow.low, abs=0.05)


def test_log_ratio_of_medians():
    x = np.array([2.0, 4.0, 8.0])
    assert intervals.log_ratio(x, x / 2).value == pytest.approx(np.log(2))
    assert intervals.log_ratio(x, x / 2).half_width == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("count", "trials", "method"), [(8, 8, "Clopper-Pearson"), (30, 64, "Wilson")])
def test_proportions(count, trials, method):
    found = intervals.proportion(count, trials)
    assert found.method == method
    assert found.low < found.value <= found.high
    flags = np.arange(trials) < count
    assert intervals.proportion(flags) == found


def test_eight_of_eight_is_no_certainty():
    """Clopper-Pearson: the lower end solves p^8 = 0.025."""
    assert intervals.proportion(8, 8).low == pytest.approx(0.025 ** (1 / 8))


def test_difference_of_proportions_is_newcombes():
    """Newcombe 1998, table II, row (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339."""
    found = intervals.difference_of_proportions(np.arange(70) < 56, np.arange(80) < 48)
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: intervals.mean([1.0]), "two or more"),
        (lambda: intervals.difference([1.0, 2.0], [1.0, 2.0, 3.0]), "as many in each"),
        (lambda: intervals.proportion(3, 2), "no more successes"),
    ],
)
def test_bad_samples(call, said):
    with pytest.raises(InputError, match=said):
        call()
