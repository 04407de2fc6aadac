"""Distribution shift: whether training and validation inputs can be told apart.

If a simple classifier can tell them apart, validation measures something else than training does: another
preprocessing, another source, another time. Overlapping windows of one text, and data that were split by time or by
person, are told apart for honest reasons.

References:
    Lopez-Paz and Oquab (2017), "Revisiting classifier two-sample tests", arXiv:1610.06545.

Ledger: 0.13
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.instruments._answers import data_price, estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import class_labels, examples_of, feature_spreads, features, tokens
from geartrain.records import Measurement
from geartrain.run import Run

FOLDS = 5
EXAMPLES = 700
MOST_FEATURES = 1024
PERMUTATIONS = 50


@instrument(needs="run", unit="1", price=data_price)
def distribution_shift(
    run: Run,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure how well a linear discriminant tells validation from training inputs (cross-validated AUC).

    The chance that a random validation example scores higher than a random training one, over 5 folds. The
    discriminant (ridge) sees the features, their squares, and each example's mean, spread and extremes, so that a
    changed scale or noise level shows as well as a changed mean. For tokens it sees how often each occurs.

    **Cost** a solve of size (examples) per fold, on up to 700 examples of each split; the model is not run.

    **Assumes** that the inputs are tables, images or tokens, and that the examples of each split are
    independent of one another.

    **Misleads** where the splits are meant to differ: by time, by person, by source. Neighbouring windows of
    one text are told apart for honest reasons. A shift of the *labels* given the inputs is not seen at all.

    Args:
        run: A run with validation data.
        generator: Shuffles the folds and the permutations; seeded by the run if omitted.
        budget: Not used.

    Returns:
        The AUC: 0.5 = indistinguishable, 1 = always told apart; standard error of the rank statistic. Details:
        ``label_shift`` (total variation between the class shares) and ``label_shift_null`` (its mean over random
        splits); for tokens ``token_shift`` and ``token_shift_null``; ``mean_shift`` (largest difference of a
        feature's mean, in spreads). Not applicable without validation data.

    Example:
        Validation inputs that were not centred:

        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(100, 2, generator=g); y = x[:, :1]
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> data = (x[:60], y[:60]), (x[60:] + 9, y[60:])
        >>> run = Run(model, torch.nn.functional.mse_loss, optimizer, *data, batch_size=9)
        >>> distribution_shift(run).value
        1.0
    """
    name = "distribution_shift"
    train, held = (
        examples_of(run, EXAMPLES),
        None if run.validation_data is None else examples_of(run, EXAMPLES, "validation"),
    )
    if train is None or held is None:
        return not_applicable(name, "The run has no validation data to compare with.")
    rng = _numpy(generator, run.seed)
    pair = _described(train.inputs, held.inputs)
    if pair is None or min(train.size, held.size) < 2 * FOLDS:
        return not_applicable(
            name, "The inputs of the two splits cannot be compared (too few, or of different shapes)."
        )
    first, second = pair
    auc, error = _auc(first, second, rng)
    details = {"mean_shift": _mean_shift(first, second)} | _label_shift(train.targets, held.targets, rng)
    if (words := tokens(train.inputs)) is not None and (others := tokens(held.inputs)) is not None:
        shift, null = _variation(words.cpu().numpy(), others.cpu().numpy(), rng)
        details |= {"token_shift": shift, "token_shift_null": null}
    sentence = f"{train.size} training and {held.size} validation inputs are told apart with AUC {auc:.3f}."
    return estimate(name, auc, error, sentence, details=details)


def _numpy(generator: torch.Generator | None, seed: int) -> np.random.Generator:
    """A NumPy generator that draws from the torch one."""
    source = generator or torch.Generator().manual_seed(seed)
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=source)))


def _described(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Both sets of inputs as comparable columns."""
    a, b = tokens(first), tokens(second)
    if a is not None and b is not None:
        size = int(max(a.max(), b.max())) + 1
        return _counts(a, size), _counts(b, size)
    left, right = features(first), features(second)
    if left is None or right is None:
        return None
    if left.shape[1] != right.shape[1]:
        return _summaries(left), _summaries(right)
    both = np.concatenate([left, right])
    center, spread = left.mean(0), feature_spreads(both)
    kept = np.flatnonzero(spread > 0)
    kept = kept[:: -(-max(len(kept), 1) // MOST_FEATURES)]
    scaled = [np.clip((t[:, kept] - center[kept]) / spread[kept], -10, 10) for t in (left, right)]
    return tuple(
        np.concatenate([s, s**2, _summaries(t)], axis=1) for s, t in zip(scaled, (left, right), strict=True)
    )  # type: ignore[return-value]


def _counts(words: Tensor, size: int) -> np.ndarray:
    table = np.zeros((len(words), size))
    np.add.at(table, (np.arange(len(words))[:, None], words.cpu().numpy()), 1.0)
    common = np.argsort(-table.sum(0), kind="stable")[:MOST_FEATURES]
    return np.sqrt(table[:, np.sort(common)]) if size > MOST_FEATURES else np.sqrt(table)


def _summaries(table: np.ndarray) -> np.ndarray:
    return np.stack([table.mean(1), table.std(1), table.min(1), table.max(1)], axis=1)


def _auc(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Cross-validated AUC and its standard error.

    The error comes from the spread of the placements (never below a third of that at chance), widened because the
    folds share their training sets (Nadeau and Bengio 2003: variance x (1/k + 1/(k - 1)) k).
    """
    folds = [rng.permutation(len(t)) % FOLDS for t in (first, second)]
    above, below = [], []
    for fold in range(FOLDS):
        a, b = (t[f != fold] for t, f in zip((first, second), folds, strict=True))
        held_a, held_b = (t[f == fold] for t, f in zip((first, second), folds, strict=True))
        direction = _discriminant(a, b)
        comparison = _compare(held_b @ direction, held_a @ direction)
        above.append(comparison.mean(1))
        below.append(comparison.mean(0))
    high, low = np.concatenate(above), np.concatenate(below)
    error = math.sqrt(high.var(ddof=1) / len(high) + low.var(ddof=1) / len(low))
    floor = math.sqrt((len(high) + len(low) + 1) / (12 * len(high) * len(low))) / 3
    return float(high.mean()), max(error, floor) * math.sqrt(1 + FOLDS / (FOLDS - 1))


def _compare(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    scale = 1e-9 * (np.abs(high).max() + np.abs(low).max())
    gap = high[:, None] - low[None, :]
    return np.where(np.abs(gap) <= scale, 0.5, gap > 0)


def _discriminant(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Ridge regression of the membership, each split with half of the weight."""
    table = np.concatenate([first, second])
    weights = np.concatenate([np.full(len(t), 0.5 / len(t)) for t in (first, second)])
    center = weights @ table
    spread = np.sqrt(weights @ (table - center) ** 2)
    scaled = (table - center) / np.where(spread > 0, spread, 1.0) * np.sqrt(weights)[:, None]
    sides = np.concatenate([-np.ones(len(first)), np.ones(len(second))]) * np.sqrt(weights)
    # Penalty of a tenth of the mean eigenvalue seen by the examples: strong enough when features outnumber them.
    penalty = 0.1 * (scaled**2).sum() / min(scaled.shape)
    dual = np.linalg.solve(scaled @ scaled.T + penalty * np.eye(len(scaled)), sides)
    return scaled.T @ dual / np.where(spread > 0, spread, np.inf)


def _mean_shift(first: np.ndarray, second: np.ndarray) -> float:
    spread = feature_spreads(np.concatenate([first, second]))
    gap = np.abs(first.mean(0) - second.mean(0))
    return float((gap[spread > 0] / spread[spread > 0]).max(initial=0.0))


def _label_shift(first: Any, second: Any, rng: np.random.Generator) -> dict[str, float]:
    a, b = class_labels(first), class_labels(second)
    if a is None or b is None:
        return {"label_shift": math.nan, "label_shift_null": math.nan}
    shift, null = _variation(a[:, None], b[:, None], rng)
    return {"label_shift": shift, "label_shift_null": null}


def _variation(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Total variation between how often each number occurs in two tables, and its mean if rows were exchanged."""
    codes = np.unique(np.concatenate([first.reshape(-1), second.reshape(-1)]))
    tables = [np.searchsorted(codes, t) for t in (first, second)]
    counts = np.zeros((len(first) + len(second), len(codes)))
    rows = np.concatenate([tables[0].reshape(len(first), -1), tables[1].reshape(len(second), -1)])
    np.add.at(counts, (np.arange(len(rows))[:, None], rows), 1.0)

    def between(order: np.ndarray) -> float:
        parts = counts[order[: len(first)]].sum(0), counts[order[len(first) :]].sum(0)
        return float(0.5 * np.abs(parts[0] / parts[0].sum() - parts[1] / parts[1].sum()).sum())

    here = between(np.arange(len(rows)))
    return here, float(np.mean([between(rng.permutation(len(rows))) for _ in range(PERMUTATIONS)]))
