"""The weight matrices behind an objective or a run, and what their singular values say."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from geartrain._torch.flat import Layout
from geartrain.budget import Clock
from geartrain.records import Cost


def shapes_of(layout: Layout) -> dict[str, tuple[int, int]]:
    """Every parameter with two or more axes as (rows, columns), by label.

    A convolution is (channels out, channels in x places). The label is the module's name, or the parameter's where a
    module owns several (recurrent and attention layers).
    """
    chosen = [(n, s) for n, s in zip(layout.names, layout.shapes, strict=True) if len(s) >= 2 and 0 not in s]
    owners = [n.rpartition(".")[0] for n, _ in chosen]
    labels = [o if o and owners.count(o) == 1 else n for o, (n, _) in zip(owners, chosen, strict=True)]
    return {label: (s[0], math.prod(s[1:])) for label, (_, s) in zip(labels, chosen, strict=True)}


def names_of(layout: Layout) -> dict[str, str]:
    """Parameter name of each label of `shapes_of`."""
    chosen = [n for n, s in zip(layout.names, layout.shapes, strict=True) if len(s) >= 2 and 0 not in s]
    return dict(zip(shapes_of(layout), chosen, strict=True))


def matrices(layout: Layout, vector: Tensor) -> dict[str, Tensor]:
    """The matrices of a flat vector (parameters, or an update), in double precision."""
    slices, names = layout.slices(), names_of(layout)
    return {
        label: vector[slices[names[label]]].double().reshape(shape)
        for label, shape in shapes_of(layout).items()
    }


def singular_values(matrix: Tensor) -> np.ndarray:
    """In descending order, shape (min of the sides,)."""
    return torch.linalg.svdvals(matrix).cpu().numpy()


def spectra(layout: Layout, vector: Tensor, clock: Clock) -> dict[str, np.ndarray]:
    """Singular values of every matrix, as far as the clock goes; empty for those that it did not reach."""
    found = {}
    for label, matrix in matrices(layout, vector).items():
        found[label] = np.zeros(0) if clock.exhausted() else singular_values(matrix)
    return found


def price(layout: Layout) -> Cost:
    """No pass over the data; a copy of the largest matrix in double precision and its factors."""
    largest = max((rows * columns for rows, columns in shapes_of(layout).values()), default=0)
    return Cost(peak_bytes=3 * 8 * largest)


def ranks(values: np.ndarray) -> dict[str, float]:
    """Effective, stable and numerical rank and participation ratio of singular values, NaN for a zero matrix.

    >>> ranks(np.array([1.0, 1.0, 0.0]))["effective_rank"]
    2.0
    """
    top = float(values.max(initial=0.0))
    if top == 0.0:
        return {
            k: math.nan for k in ("effective_rank", "stable_rank", "participation_ratio", "numerical_rank")
        }
    scaled = values / top
    shares = scaled[scaled > 0] / scaled.sum()
    squares = scaled**2
    limit = np.finfo(float).eps * 100 * len(values)
    return {
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
        "stable_rank": float(squares.sum()),
        "participation_ratio": float(squares.sum() ** 2 / (squares**2).sum()),
        "numerical_rank": float((scaled > limit).sum()),
    }


def table(rows: Mapping[str, Mapping[str, float]], key: str) -> np.ndarray:
    """One column of a table of rows."""
    return np.array([row[key] for row in rows.values()])
