"""Autocorrelation of the updates: how long the optimizer remembers where it went.

Full steps too long for the sharpest direction give a negative lag 1 and a positive lag 2 (back and forth); momentum
gives positive ones that decay geometrically; batch noise gives zeros. Unlike `update_cosine`, long steps count more
than short ones, and the whole window is asked for its drift and for its strongest alternation.

References:
    Anderson (1971), *The Statistical Analysis of Time Series*, §8.4, for errors of autocorrelations; Newey, West
    (1987), Econometrica 55, for those of a mean of dependent terms.

Ledger: 0.4
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments import _window
from geartrain.instruments._answers import no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Measurement, State, Status
from geartrain.run import Run

_LEAST = 4


@instrument(needs="run", unit="1", price=_window.price)
def update_autocorrelation(
    run: Run,
    *,
    lags: int = 2,
    steps: int = _window.STEPS,
    window: _window.Window | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure r_k = Σ u_t·u_{t+k} / √(Σ|u_t|² Σ|u_{t+k}|²), the autocorrelation of the updates at lags 1, 2, ...

    Sums over the pairs of steps k apart; no mean is taken off (a drift is part of what is asked for). On one mode of
    curvature λ gradient descent of step η has r_1 = ±1, the sign of 1 - ηλ. Standard errors: linearised, with the
    autocovariance of the terms up to a few lags (Newey-West), never less than that of independent terms, and never less
    than one of the other limit, 1/√pairs over the dimensions that the updates fill.

    **Cost** three gradients per step, as for the other instruments of the next steps (they share them).

    **Assumes** that the next steps are like the present ones.

    **Misleads** under momentum, which alone gives r_k = βᵏ whatever the gradients do (``multiplier`` then shows
    it), and with few steps: a window of 16 sees nothing slower than 16 steps.

    Args:
        run: The run; it is put back exactly.
        lags: How many lags.
        steps: Further steps to take.
        window: Steps taken already.
        generator: Not used: the steps draw what the run's own next steps would draw.
        budget: Limit in time.

    Returns:
        r_k, dims ``("lag",)``, pure numbers from -1 to 1, with standard errors. ``details``: ``multiplier``
        (Σu_t·u_{t+1}/Σ|u_t|²: 1 - ηλ exactly on one mode), ``drift`` (share of the squared lengths at frequency 0,
        |Σu|²/(TΣ|u|²)), ``alternation`` (share at frequency 1/2, |Σ(-1)ᵗu|²/(TΣ|u|²)), ``white`` (what either is for
        steps that have nothing in common: 1/T), ``centred`` (r_k after the mean update is taken off; about -1/T for
        unrelated steps), ``dimension`` (participation ratio of the updates, at most T), ``steps``.

    Raises:
        InputError: Fewer than one lag was asked for.

    References:
        Anderson (1971), §8.4; Newey, West (1987).

    Example:
        Gradient descent on ½·w² with step 1.5 halves and turns every update:

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> data = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
        >>> half_square = lambda f, y: 0.5 * ((f - y) ** 2).mean()
        >>> run = Run(model, half_square, torch.optim.SGD(model.parameters(), lr=1.5), data, batch_size=1)
        >>> result = update_autocorrelation(run)
        >>> result.value.round(9).tolist(), round(result.details["multiplier"], 9)
        ([-1.0, 1.0], -0.5)
    """
    name = "update_autocorrelation"
    if lags < 1:
        raise InputError(f"{name}: lags is {lags}; at least 1 is needed.")
    taken = _window.of(run, steps, window, budget)
    moved = taken.updates.double()
    count = len(moved)
    if count < max(_LEAST, lags + 2):
        broke = taken.failure is not None
        state = State.NON_FINITE if broke else State.OUT_OF_BUDGET
        sentence = f"{count} steps are too few for {lags} lags; at least {max(_LEAST, lags + 2)} are needed."
        return no_answer(name, taken.failure if taken.failure else sentence, state=state)
    inner = (moved @ moved.T).cpu().numpy()
    if not inner.diagonal().any():
        return no_answer(name, "None of the steps moved the parameters.")
    value, error = autocorrelations(inner, lags)
    sentence = f"From {count} steps; {_words(float(value[0]), float(error[0]))}."
    return Measurement(
        name,
        value,
        "1",
        Status(State.ESTIMATE, sentence),
        error,
        ("lag",),
        {"lag": list(range(1, lags + 1))},
        details=_details(inner, lags),
    )


def autocorrelations(inner: np.ndarray, lags: int) -> tuple[np.ndarray, np.ndarray]:
    """r_1 ... r_lags and their standard errors from the inner products of successive vectors.

    Args:
        inner: u_s·u_t, shape (..., steps, steps); further axes are separate problems.
        lags: How many.

    Returns:
        Values and errors, shape (..., lags); NaN where either end of the pairs has no length.
    """
    squares = np.diagonal(inner, axis1=-2, axis2=-1)
    found = [
        _ratio(np.diagonal(inner, k, -2, -1), squares[..., :-k], squares[..., k:], inner)
        for k in range(1, lags + 1)
    ]
    return np.stack([v for v, _ in found], axis=-1), np.stack([e for _, e in found], axis=-1)


def _ratio(
    products: np.ndarray, first: np.ndarray, second: np.ndarray, inner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    count = products.shape[-1]
    a, b = first.sum(-1), second.sum(-1)
    scale = np.sqrt(a * b)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.clip(products.sum(-1) / scale, -1.0, 1.0)
        half = 0.5 * ratio[..., None]
        # Influence of each pair on the ratio.
        terms = products / scale[..., None] - half * (first / a[..., None] + second / b[..., None])
        # Pairs of unrelated steps in d dimensions have the variance 1/d each; near ±1 nothing is left to chance.
        floor = (1 - ratio**2) ** 2 / (count * _dimension(inner))
    return ratio, np.sqrt(np.maximum(_long_run(terms), floor))


def _long_run(terms: np.ndarray) -> np.ndarray:
    """Variance of the sum of dependent terms of zero mean, Bartlett weights; at least that of independent ones."""
    count = terms.shape[-1]
    reach = min(int(4 * (count / 100) ** (2 / 9)) + 1, count - 1)
    plain = (terms**2).sum(-1) * count / max(count - 1, 1)
    total = plain.copy()
    for lag in range(1, reach + 1):
        weight = 2 * (1 - lag / (reach + 1)) * count / max(count - 1, 1)
        total = total + weight * (terms[..., lag:] * terms[..., :-lag]).sum(-1)
    return np.maximum(total, plain)


def _dimension(inner: np.ndarray) -> np.ndarray:
    """Participation ratio of the updates: trace² / sum of squares of their inner products."""
    trace = np.trace(inner, axis1=-2, axis2=-1)
    return trace**2 / (inner**2).sum((-2, -1))


def _details(inner: np.ndarray, lags: int) -> dict[str, Any]:
    count = len(inner)
    squares = float(np.trace(inner))
    signs = (-1.0) ** np.arange(count)
    centring = np.eye(count) - 1 / count
    centred = centring @ inner @ centring
    first = float(inner.diagonal()[:-1].sum())
    return {
        "multiplier": float(inner.diagonal(1).sum()) / first if first > 0 else math.nan,
        "drift": float(inner.sum()) / (count * squares),
        "alternation": float(signs @ inner @ signs) / (count * squares),
        "white": 1 / count,
        "centred": autocorrelations(centred, lags)[0],
        "dimension": float(_dimension(inner)),
        "steps": count,
    }


def _words(value: float, error: float) -> str:
    if value < -2 * error:
        return "successive updates turn back"
    return "successive updates go on" if value > 2 * error else "successive updates have nothing in common"
