"""A mean over chains with an error that covers: what the chains disagree about, and what each knows of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from torch import Tensor

from geartrain.sampling import diagnostics

_ESS_PER_FREEDOM = 16.0
"""The spectral estimate of a variance from so many effective draws is as good as one degree of freedom (or better)."""


@dataclass(frozen=True)
class MeanError:
    """A mean with its error.

    Attributes:
        value: Mean of the chains' means.
        error: Standard error.
        between: Standard error from the spread of the chains' means alone; NaN for one chain.
        within: Standard error from the effective sample size of the traces alone.
        freedom: Degrees of freedom of the interval.
        ess: Effective sample size, all chains together.
        by_chain: Means, shape (chains,).
    """

    value: float
    error: float
    between: float
    within: float
    freedom: float
    ess: float
    by_chain: np.ndarray

    def half_width(self, confidence: float = 0.95) -> float:
        """Half the width of the interval, by Student's t."""
        if not self.freedom > 0:
            return math.nan
        return float(stats.t.ppf(0.5 + confidence / 2, self.freedom)) * self.error


def mean_of(trace: Tensor) -> MeanError:
    """Mean of a trace of shape (chains, draws), with its error.

    Chains are independent, so the spread of their means is an honest error whatever the autocorrelation, with few
    degrees of freedom: chains - 1. The effective sample size gives another, with more of them, that trusts the chains
    to have seen everything. The variances are averaged by their degrees of freedom, the second never counting for more
    than the first; where the chains disagree by more than they should (F test at 1 %), the first stands alone.
    """
    x = trace.double()
    chains, draws = x.shape
    means = x.mean(1)
    value = float(means.mean())
    ess = float(diagnostics.ess(x, "mean")) if draws >= 4 else math.nan
    spread = float(x.std()) if x.numel() > 1 else math.nan
    if float(x.max()) == float(x.min()):
        return MeanError(value, 0.0, 0.0, 0.0, max(chains - 1, 1), float(x.numel()), means.cpu().numpy())
    within = spread / math.sqrt(ess) if ess > 0 else math.nan
    freedom = float(chains - 1)
    between = float(means.std()) / math.sqrt(chains) if chains > 1 else math.nan
    own = ess / _ESS_PER_FREEDOM if ess > 0 else 0.0
    if chains == 1:
        return MeanError(value, within, between, within, max(own, 1.0), ess, means.cpu().numpy())
    own = min(own, freedom)
    error = between
    if own >= 1 and between**2 <= within**2 * float(stats.f.ppf(0.99, freedom, own)):
        error = math.sqrt((freedom * between**2 + own * within**2) / (freedom + own))
    return MeanError(value, error, between, within, freedom, ess, means.cpu().numpy())


def across_chains(by_chain: Tensor) -> tuple[float, float]:
    """Mean of one number per chain, and its standard error (NaN for one chain)."""
    values = by_chain.double()
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), error
