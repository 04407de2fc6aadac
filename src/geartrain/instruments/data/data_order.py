"""Data order: whether the batches follow an order that tells something about the targets.

Sorted data make every batch one-sided: the model is pulled to and fro between classes. A ratio below 1 is a
stratified order, which does no harm. Batches of one or a few examples are looked at in windows of 32, because order
shows only between neighbours. Only the targets are looked at (or the tokens): an order in the inputs alone is unseen.

References:
    Bottou (2009), "Curiously fast convergence of some stochastic gradient descent algorithms".

Ledger: 0.13
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain.budget import Budget
from geartrain.instruments._answers import data_price, estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import class_labels, split_batch, target_kind, target_values, tokens
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.run.stream import Stream

WINDOW = 32
PERMUTATIONS = 40
MOST_EXAMPLES = 50_000
MOST_COLUMNS = 256


@instrument(needs="run", unit="1", price=data_price)
def data_order(
    run: Run,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the variance of the targets' mean between the batches of an epoch, relative to random batches.

    F = [Σ_b n_b |ȳ_b - ȳ|² / (batches - 1)] / [Σ_i |y_i - ȳ|² / (n - 1)], y the class indicators, the standardised
    values, or the token frequencies of an example. Its mean over random orders is exactly 1; batches of b
    equal targets give b.

    **Cost** one epoch of data (loaders are read through); the model is not run and the stream stays where it is.

    **Assumes** that the order of the next epoch is like that of this one.

    **Misleads** where order is meant: batches balanced by class give a ratio below 1, which does no harm, and
    curricula one above. Only the targets are looked at (or the tokens): an order in the inputs alone is not
    seen.

    Args:
        run: A run.
        generator: Draws the permutations; seeded by the run if omitted.
        budget: Not used.

    Returns:
        The ratio: 1 = shuffled, the batch size = sorted. The standard error is the spread over random orders.
        Details: ``intraclass_correlation`` (0 = shuffled, 1 = sorted, whatever the batch size), ``window`` (examples
        per batch looked at), ``num_batches``. Not applicable to full batches or where targets do not vary.

    Example:
        >>> y = torch.arange(100) // 50
        >>> model = torch.nn.Linear(1, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> data = (torch.zeros(100, 1), y)
        >>> run = Run(model, torch.nn.functional.cross_entropy, optimizer, data, batch_size=10, shuffle=False)
        >>> round(data_order(run).value, 1)
        11.0
    """
    name = "data_order"
    parts = _first_epoch(run)
    table = _columns([split_batch(b) for b in parts])
    if table is None or table.std() == 0:
        return not_applicable(name, "The targets do not vary, or cannot be put together.")
    sizes = _window_sizes([_batches.size_of(b) for b in parts])
    if len(sizes) < 3:
        return not_applicable(name, f"An epoch has {len(sizes)} batches: too few to have an order.")
    source = generator or torch.Generator().manual_seed(run.seed)
    ratio = _ratio(table, sizes)
    null = [
        _ratio(table[torch.randperm(len(table), generator=source).numpy()], sizes)
        for _ in range(PERMUTATIONS)
    ]
    window = float(np.mean(sizes))
    details = {
        "intraclass_correlation": (ratio - 1) / (window - 1),
        "window": window,
        "num_batches": len(sizes),
    }
    where = f"over {len(sizes)} batches of {window:.3g}"
    sentence = f"Batch means vary {ratio:.3g} times as much as in random order, {where}."
    return estimate(name, ratio, float(np.std(null, ddof=1)), sentence, details=details)


def _first_epoch(run: Run) -> list[Any]:
    """The batches of an epoch, from a stream of our own; the run's stays where it is."""
    stream = run.stream
    data = run.train_data
    twin = Stream(data, batch_size=stream.batch_size, shuffle=stream.shuffle, seed=stream.seed)
    parts, seen = [], 0
    with _batches.preserved_loader(data):
        while seen < MOST_EXAMPLES and (batch := twin.next()) is not None:
            parts.append(batch)
            seen += _batches.size_of(batch)
    return parts


def _columns(pairs: list[tuple[Any, Any]]) -> np.ndarray | None:
    """Targets of all examples in order, shape (examples, columns)."""
    targets = [t for _, t in pairs]
    if all(isinstance(t, Tensor) for t in targets) and len({t.shape[1:] for t in targets}) == 1:
        table = _target_table(torch.cat([t.cpu() for t in targets]))
        if table is not None:
            return table
    words = [tokens(x) for x, _ in pairs]
    if any(w is None for w in words) or len({w.shape[1] for w in words if w is not None}) != 1:
        return None
    return _frequencies(torch.cat([w.cpu() for w in words if w is not None]))


def _target_table(targets: Tensor) -> np.ndarray | None:
    labels, values = class_labels(targets), target_values(targets)
    if labels is not None:
        return (labels[:, None] == np.unique(labels)[None, :]).astype(float)
    if values is not None:
        spread = values.std(0)
        return (values / np.where(spread > 0, spread, np.inf))[:, :MOST_COLUMNS]
    if target_kind(targets) == "sequence" and targets.ndim == 2:
        return _frequencies(targets)
    return None


def _frequencies(words: Tensor) -> np.ndarray:
    codes = words.numpy() - int(words.min())
    table = np.zeros((len(codes), int(codes.max()) + 1), dtype=np.float32)
    np.add.at(table, (np.arange(len(codes))[:, None], codes), 1.0 / codes.shape[1])
    return table[:, np.argsort(-table.sum(0), kind="stable")[:MOST_COLUMNS]].astype(float)


def _window_sizes(sizes: list[int]) -> list[int]:
    """Batch sizes, neighbouring small batches taken together; a rest that is too small is added to the last."""
    if np.mean(sizes) >= 8 or sum(sizes) < 3 * WINDOW:
        return [s for s in sizes if s]
    full = sum(sizes) // WINDOW
    return [WINDOW] * (full - 1) + [sum(sizes) - WINDOW * (full - 1)]


def _ratio(table: np.ndarray, sizes: list[int]) -> float:
    """Between-batch variance over that expected of a random order."""
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    centred = table - table.mean(0)
    sums = np.add.reduceat(centred, starts, axis=0)
    between = ((sums**2).sum(1) / np.array(sizes)).sum() / (len(sizes) - 1)
    return float(between / ((centred**2).sum() / (len(table) - 1)))
