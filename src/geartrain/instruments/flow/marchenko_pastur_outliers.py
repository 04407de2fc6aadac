"""Singular values of the weights that no random matrix has: what a layer has learnt, as a count of directions.

The entries of an untrained layer are independent, so its squared singular values fill a known interval. A direction
that training has planted there shows as a singular value beyond the edge, as soon as it is strong enough (below
the threshold of Baik, Ben Arous and Péché it cannot be seen at all). No outliers in a trained layer: it has kept its
random features, or learnt many weak directions.

References:
    Marchenko, Pastur (1967); Baik, Ben Arous, Péché (2005), arXiv:math/0403022; Kritchman, Nadler (2009);
    Johnstone (2001); Ma (2012), arXiv:0810.1329; Martin, Mahoney (2021), arXiv:1810.01075.

Ledger: 0.15
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.flow import _matrices, _spectra
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

_LEAST = 8
_MISFIT = 0.05


def _price(objective: Objective, **options: Any) -> Cost:
    return _matrices.price(objective.layout)


@instrument(needs="objective", unit="1", price=_price)
def marchenko_pastur_outliers(
    objective: Objective,
    *,
    level: float = 0.01,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure how many singular values of each weight matrix lie beyond the edge of its random bulk.

    The variance s² of the noise is fitted to the lower nine tenths of the squared singular values, quantile by
    quantile of the Marchenko-Pastur law, leaving out what was found to be beyond it, until nothing changes. A value
    counts if it exceeds what the largest one of pure noise exceeds with probability ``level``: the edge (√m + √n)²
    s² with its Tracy-Widom allowance.

    **Cost** no pass over the data; one singular value decomposition per matrix.

    **Assumes** that whatever is not learnt is independent noise of one variance with finite fourth moments: true of the
    usual initialisations, not of orthogonal ones (which have no bulk at all, nor outliers).

    **Misleads** where training has bent the whole bulk (``misfit`` above 0.05 and a few steps of the distribution;
    the sentence says so): the tail of a heavy bulk then counts as outliers. Convolutions and embeddings with rows
    of unequal variance have wider bulks. Matrices with a side below 8 are too small for the law and are NaN.

    Args:
        objective: What to measure; a restricted one measures its own parameters only.
        level: Probability of a false alarm per matrix, above 0 and at most 0.1.
        generator: Not used: nothing is drawn.
        budget: Limit in time; matrices that it does not reach are NaN.

    Returns:
        The count, dims ``("layer",)``; its error is not known (NaN): under pure noise it is above 0 with
        probability of about ``level`` (up to twice that: the variance is fitted). ``details``: per layer
        ``noise_std`` (s, unit θ), ``edge`` and ``threshold`` (as singular values, unit θ), ``largest`` (σ₁),
        ``misfit`` (largest distance between the distribution of the rest and the law), and dicts by layer:
        ``outliers`` (singular values, unit θ), ``strength`` (c of the planted direction: σ²/(n s²) = (1 + c)(1 +
        β/c)), ``overlap_short`` and ``overlap_long`` (squared cosines of its singular vectors on the shorter and
        the longer side with the planted ones, (1 - β/c²)/(1 + β/c) and (1 - β/c²)/(1 + 1/c)); ``share`` (of the
        squared norm that the outliers hold), ``total``.

    Raises:
        InputError: The level is out of range.

    References:
        Kritchman, Nadler (2009), IEEE Trans. Signal Process. 57, for the test; Johnstone (2001), theorem 1.1; Baik,
        Ben Arous, Péché (2005); Benaych-Georges, Nadakuditi (2012), arXiv:1103.2221, for overlaps.

    Example:
        Noise has none; a planted direction is one.

        >>> import torch
        >>> source = torch.Generator().manual_seed(0)
        >>> model = torch.nn.Linear(60, 40, bias=False).double()
        >>> model.weight.data = torch.randn(40, 60, generator=source).double()
        >>> x, y = torch.ones(1, 60).double(), torch.ones(1, 40).double()
        >>> objective = Objective(model, torch.nn.functional.mse_loss, (x, y))
        >>> marchenko_pastur_outliers(objective).value.tolist()
        [0.0]
        >>> model.weight.data[0] += 3
        >>> marchenko_pastur_outliers(objective).value.tolist()
        [1.0]
    """
    name = "marchenko_pastur_outliers"
    if not 0 < level <= 0.1:
        raise InputError(f"{name}: level is {level}; allowed: above 0 and at most 0.1.")
    shapes = _matrices.shapes_of(objective.layout)
    if not any(min(shape) >= _LEAST for shape in shapes.values()):
        return not_applicable(
            name, f"No weight matrix has both sides of {_LEAST} or more, so there is no bulk to speak of."
        )
    parameters = objective.parameters()
    if not bool(torch.isfinite(parameters).all()):
        return no_answer(name, "A parameter is NaN or infinite.", state=State.NON_FINITE)
    found = _matrices.spectra(objective.layout, parameters, Budget.of(budget).start())
    rows = {label: _compared(values, shapes[label], level) for label, values in found.items()}
    value = np.array([row["count"] for row in rows.values()])
    reached = sum(len(values) > 0 for values in found.values())
    return Measurement(
        name,
        value,
        "1",
        _status(rows, reached),
        np.full(len(value), np.nan),
        ("layer",),
        {"layer": list(rows)},
        details=_details(rows),
    )


_LISTS = ("outliers", "strength", "overlap_short", "overlap_long")
_ENTRIES = ("noise_std", "edge", "threshold", "largest", "misfit", "share")


def _compared(values: np.ndarray, shape: tuple[int, int], level: float) -> dict[str, Any]:
    """Everything about one matrix; NaN where it is too small, zero, or was not reached."""
    short, long = sorted(shape)
    squares = np.sort(values**2)
    nothing = {"count": np.nan, **dict.fromkeys(_LISTS, np.zeros(0))}
    if short < _LEAST or not len(values) or squares[-1] == 0:
        return nothing | dict.fromkeys(_ENTRIES, np.nan)
    beta = short / long
    allowed, outliers = _spectra.noise_threshold(short, long, 1 - level), 0
    while True:
        # A matrix of low rank has no noise at all: rounding keeps the division below alive.
        variance = max(
            _spectra.bulk_variance(squares, long, beta, outliers), np.finfo(float).eps ** 2 * squares[-1]
        )
        threshold = variance * allowed
        out = squares > threshold
        # Half of a matrix cannot stand out from the other half: what is left would be no bulk.
        if int(out.sum()) <= outliers or int(out.sum()) > short // 2:
            break
        outliers = int(out.sum())
    scaled = squares / (long * variance)
    strength = _spectra.spike_strength(scaled[out], beta)
    rest = scaled[~out]
    law = _spectra.bulk_cdf(rest, beta)
    steps = np.arange(len(rest) + 1) / max(len(rest), 1)
    misfit = max(
        float(np.abs(law - steps[1:]).max(initial=0.0)), float(np.abs(law - steps[:-1]).max(initial=0.0))
    )
    return {
        "count": float(out.sum()),
        "outliers": np.sqrt(squares[out])[::-1],
        "strength": strength[::-1],
        "overlap_short": ((1 - beta / strength**2) / (1 + beta / strength))[::-1],
        "overlap_long": ((1 - beta / strength**2) / (1 + 1 / strength))[::-1],
        "noise_std": float(np.sqrt(variance)),
        "edge": float(np.sqrt(variance * long * _spectra.edge(beta))),
        "threshold": float(np.sqrt(threshold)),
        "largest": float(np.sqrt(squares[-1])),
        "misfit": misfit,
        "allowance": _MISFIT + 2 / max(len(rest), 1),  # eigenvalues are rigid: they stray by a few steps only
        "share": float(squares[out].sum() / squares.sum()),
    }


def _details(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    details: dict[str, Any] = {k: np.array([row[k] for row in rows.values()]) for k in _ENTRIES}
    for key in _LISTS:
        details[key] = {label: row[key] for label, row in rows.items()}
    counts = np.array([row["count"] for row in rows.values()])
    details["total"] = float(np.nansum(counts))
    return details


def _status(rows: dict[str, dict[str, Any]], reached: int) -> Status:
    if reached < len(rows):
        return Status(State.OUT_OF_BUDGET, f"The budget reached {reached} of {len(rows)} matrices.")
    known = {label: row for label, row in rows.items() if row["count"] == row["count"]}
    if not known:
        return Status(State.NOT_CONVERGED, "Every large matrix is zero, so no bulk could be fitted.")
    bent = [label for label, row in known.items() if row["misfit"] > row["allowance"]]
    sentence = f"{sum(int(row['count']) for row in known.values())} beyond the bulk in {len(known)} matrices"
    if bent:
        sentence += (
            f"; the bulk of {', '.join(bent)} is not that of independent entries, so its count is doubtful"
        )
    return Status(State.ESTIMATE, f"{sentence}.")
