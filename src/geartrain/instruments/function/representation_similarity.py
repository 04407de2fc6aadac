"""Representation similarity: whether two networks, layer by layer, place the examples alike (linear CKA).

Networks of different widths can be compared; rotations of a layer's features and a common scale change nothing. The
plug-in estimate is near 1 for *any* two wide layers on few examples; the debiased one here is not.

References:
    Kornblith et al. (2019), arXiv:1905.00414; Song et al. (2012), JMLR 13, eq. (5), for the unbiased HSIC;
    Nguyen, Raghu, Kornblith (2021), arXiv:2010.15327; Murphy, Zylberberg, Fyshe (2024), arXiv:2405.01012.

Ledger: 1.27, 3.17
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._pair import other_objective
from geartrain.instruments.function._features import ROWS, layer_grams, rows_of, share_of_data
from geartrain.instruments.function._said import broken
from geartrain.instruments.function._view import began
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

NAME = "representation_similarity"
FEWEST = 6
"""Examples below which an unbiased estimate with an error does not exist (n > 3, and one left out, and two more)."""


def _price(objective: Any, *, rows: int = ROWS, **options: Any) -> Cost:
    return Cost(forwards=3 * share_of_data(objective, rows), peak_bytes=48 * rows**2)


@instrument(needs="pair", unit="1", price=_price)
def representation_similarity(
    objective: Objective,
    other: Any,
    *,
    layers: Mapping[str, str] | None = None,
    rows: int = ROWS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the similarity of two networks' representations per layer (linear CKA, debiased).

    CKA = HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)) with K = XXᵀ and L = YYᵀ, rows of X and Y the features of the examples,
    and HSIC estimated without bias: [tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1/((n-1)(n-2)) - 2·1ᵀK̃L̃1/(n-2)] / (n(n-3)), K̃ without diagonal.
    In the limit it is ‖cov(X, Y)‖² / (‖cov X‖ ‖cov Y‖), Frobenius norms.

    **Cost**: three forward passes over at most ``rows`` examples, and O(rows²) per layer for value and error.

    **Assumes** independent examples. For models that answer at every place of a sequence a row is a place, and the
    error is taken over sequences.

    **Misleads** where one direction carries most of the variance: CKA then compares that direction only (an outlier
    unit can make or break it). A high value says that distances are alike, not that the same is computed.

    Args:
        objective: The first network, and the data.
        other: The second one: an objective, a model, or a vector of parameters, shape (params,).
        layers: Names of layers of the first network and their partners in the second. Layers with the same name if
            omitted, in the order of execution.
        rows: Examples (places) at most.
        generator: Not used: the rows are a fixed choice.
        budget: Time to begin in.

    Returns:
        CKA per layer, dims ``("layer",)``, at most 1, slightly negative by chance; NaN for a layer that does not vary.
        Standard errors by the jackknife (each example left out, in closed form). Details: ``biased`` (the plug-in
        estimate per layer), ``partners``, ``rows``.

    Raises:
        InputError: ``layers`` names a layer that one of the networks does not have; ``rows`` is too small.

    Example:
        A rotation of the features is no difference:

        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> model.weight.data = torch.eye(2)
        >>> turned = torch.tensor([0.0, 1.0, -1.0, 0.0])
        >>> x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
        >>> result = representation_similarity(Objective(model, torch.nn.functional.mse_loss, (x, x)), turned)
        >>> result.value.round(6).tolist()
        [1.0]
    """
    if rows < FEWEST:
        raise InputError(
            f"rows is {rows}; allowed: {FEWEST} or more, because a debiased estimate needs them."
        )
    view = began(NAME, objective, budget)
    if isinstance(view, Measurement):
        return view
    found = rows_of(view.objective, rows)
    if found is None:
        return not_applicable(NAME, "The model's outputs cannot be read row by row on these data.")
    if found.said.rows < FEWEST or len(np.unique(found.said.groups)) < FEWEST:
        return not_applicable(NAME, f"A debiased estimate needs {FEWEST} examples at least; give more.")
    first = layer_grams(found)
    second = layer_grams(found, other_objective(found.objective, other, NAME))
    pairs = _pairs(list(first), list(second), layers)
    if not pairs:
        return not_applicable(
            NAME,
            "No layer of the two networks has the same name; pass layers={'name in the first': 'name in the other'}.",
        )
    if not all(np.isfinite(g).all() for g in [*first.values(), *second.values()]):
        return broken(NAME)
    return _answer(
        [(a, b, *cka(first[a], second[b], found.said.groups)) for a, b in pairs], len(first[pairs[0][0]])
    )


def _pairs(first: list[str], second: list[str], layers: Mapping[str, str] | None) -> list[tuple[str, str]]:
    if layers is None:
        return [(name, name) for name in first if name in second]
    for name, known, which in [(a, first, "first") for a in layers] + [
        (b, second, "other") for b in layers.values()
    ]:
        if name not in known:
            raise InputError(
                f"layers names {name!r}; the {which} network has {', '.join(map(repr, known))}. Take one of these."
            )
    return list(layers.items())


def _answer(rows: list[tuple[str, str, float, float, float]], count: int) -> Measurement:
    names = [a for a, *_ in rows]
    value, error, biased = (np.array([r[i] for r in rows]) for i in (2, 3, 4))
    known = value[np.isfinite(value)]
    low = names[int(np.nanargmin(value))] if len(known) else "none"
    sentence = (
        f"Debiased linear CKA on {count} rows; least alike: {low} ({known.min():.3f})."
        if len(known)
        else "No layer varies over the examples."
    )
    return Measurement(
        NAME,
        value,
        "1",
        Status(State.ESTIMATE, sentence),
        error,
        ("layer",),
        {"layer": names},
        details={"biased": biased, "partners": {a: b for a, b, *_ in rows}, "rows": count},
    )


def cka(
    first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Debiased CKA of two matrices of inner products, its jackknife error over groups, and the plug-in value.

    Args:
        first: Shape (rows, rows).
        second: The same.
        groups: Rows of one group are left out together; each row alone if omitted, shape (rows,).

    Returns:
        Value, standard error, plug-in value; NaN where a representation does not vary.
    """
    _, codes = np.unique(np.arange(len(first)) if groups is None else groups, return_inverse=True)
    scale = [_mean_square(g) for g in (first, second)]
    if not all(s > 0 for s in scale):
        return math.nan, math.nan, math.nan
    # Rounding in the unit of the data would enter the differences of sums; unit scale keeps it at 1e-16.
    a, b = (_without_diagonal(g / s) for g, s in zip((first, second), scale, strict=True))
    (ab, ab_out), (aa, aa_out), (bb, bb_out) = (_hsic(*p, codes) for p in ((a, b), (a, a), (b, b)))
    biased = _plug_in(first / scale[0], second / scale[1])
    if not (aa > 0 and bb > 0):
        return math.nan, math.nan, biased
    value = ab / math.sqrt(aa * bb)
    left = ab_out / np.sqrt(np.where((aa_out > 0) & (bb_out > 0), aa_out * bb_out, np.nan))
    error = math.sqrt((len(left) - 1) / len(left) * float(((left - left.mean()) ** 2).sum()))
    return value, error, biased


def _mean_square(gram: np.ndarray) -> float:
    return float(np.sqrt((_centred(gram) ** 2).mean()))


def _centred(gram: np.ndarray) -> np.ndarray:
    rows = gram.mean(0)
    return gram - rows - rows[:, None] + rows.mean()


def _without_diagonal(gram: np.ndarray) -> np.ndarray:
    centred = _centred(gram)
    np.fill_diagonal(centred, 0.0)
    return centred


def _plug_in(first: np.ndarray, second: np.ndarray) -> float:
    a, b = _centred(first), _centred(second)
    return float((a * b).sum() / math.sqrt(float((a * a).sum()) * float((b * b).sum())))


def _hsic(k: np.ndarray, m: np.ndarray, codes: np.ndarray) -> tuple[float, np.ndarray]:
    """Unbiased HSIC of two matrices with zero diagonal, and the same with each group left out.

    Leaving rows S out takes from every sum the terms that touch S; those within S are taken twice and come back.
    """
    n, sizes = len(k), np.bincount(codes)
    product = k * m
    sums = (product, k, m)
    to_group = [_columns_by_group(t, codes) for t in sums]
    totals = [t.sum() for t in sums]
    left = [
        total - 2 * np.bincount(codes, t.sum(1)) + np.bincount(codes, g[np.arange(n), codes])
        for t, g, total in zip(sums, to_group, totals, strict=True)
    ]
    rows_k, rows_m = k.sum(1), m.sum(1)
    crossed = (rows_k[:, None] - to_group[1]) * (rows_m[:, None] - to_group[2])
    crossed_out = crossed.sum(0) - np.bincount(codes, crossed[np.arange(n), codes])
    full = _combine(float(n), totals, float(rows_k @ rows_m))
    return float(full), _combine(n - sizes, left, crossed_out)


def _columns_by_group(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    if len(codes) == codes.max() + 1:
        return table[:, np.argsort(codes)]
    return np.stack([table[:, codes == g].sum(1) for g in range(codes.max() + 1)], axis=1)


def _combine(n: Any, sums: list[Any], crossed: Any) -> Any:
    """Song et al. (2012), eq. (5)."""
    return (sums[0] + sums[1] * sums[2] / ((n - 1) * (n - 2)) - 2 * crossed / (n - 2)) / (n * (n - 3))
