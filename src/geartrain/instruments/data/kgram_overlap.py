"""Overlap of the validation data with the training data: k-grams of tokens, or equal rows.

A validation score on text that was trained on measures memory. Some short k-grams recur in any language; what
chance would give is stated beside.

Ledger: 3.8, 0.13
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import data_price, estimate, not_applicable, ratio_and_error
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import examples_of, features, standardised
from geartrain.instruments.data._tokens import sequences_of
from geartrain.records import Measurement
from geartrain.run import Run

NAME = "kgram_overlap"
NEAR = 0.1
MOST_PAIRS = 4096
LENGTHS = (2, 4, 8, 16, 32, 64)


@instrument(needs="run", unit="1", price=data_price)
def kgram_overlap(
    run: Run,
    *,
    k: int = 8,
    limit: int = 50_000,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of the validation data's k-grams that occur somewhere in the training data.

    Tokens: every run of k successive tokens within an example (the last target included). Numbers: every whole
    example counts as one piece. Pieces are compared by hashes of 64 bits.

    **Cost** a pass over both data sets; the model is not run.

    **Assumes** nothing; only the first ``limit`` examples (a fixed random choice where the data can be indexed) are
    read.

    **Misleads** for small k, where any two texts of a language overlap, and when the training data are larger than
    ``limit``: the overlap is then a lower bound.

    Args:
        run: A run with validation data.
        k: Length of the pieces; that of the sequences if they are shorter.
        limit: Examples of each split.
        generator: Draws the shuffle behind ``by_chance``; a fixed seed if omitted.
        budget: Not used: nothing is computed with the model.

    Returns:
        The share, with the jackknife error over validation examples. ``details``: ``by_k`` (shares for k = 2, 4, 8,
        ...), ``by_chance`` (the same for validation tokens shuffled), ``kind`` (``"tokens"`` or ``"rows"``),
        ``pieces``, ``near`` (rows: share whose nearest training example is closer than a tenth of a standard
        deviation per feature), ``examples`` (numbers of up to 20 validation examples with the most overlap). Not
        applicable without validation data.

    Raises:
        InputError: k is below 1.

    References:
        Brown et al. (2020), arXiv:2005.14165, appendix C; Lee et al. (2021), arXiv:2107.06499.

    >>> text = torch.tensor([[1, 2, 3, 4, 5]])
    >>> model = torch.nn.Embedding(9, 9)
    >>> loss = lambda out, y: out.mean()
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
    >>> other = torch.tensor([[2, 3, 4, 8, 8]])
    >>> run = Run(model, loss, optimizer, (text, text), (other, other), batch_size=1)
    >>> round(float(kgram_overlap(run, k=2)), 3)  # 23 and 34, but not 48 and 88
    0.5
    """
    if k < 1:
        raise InputError(f"k is {k}; it must be at least 1.")
    if run.validation_data is None:
        return not_applicable(NAME, "The run has no validation data to compare with.")
    train, validation = (run.probe(split, limit) for split in ("train", "validation"))
    texts = sequences_of(train), sequences_of(validation)
    if texts[0] is not None and texts[1] is not None:
        return _tokens(texts[0].cpu().numpy(), texts[1].cpu().numpy(), k, generator)
    return _rows(run, limit)


def _tokens(
    train: np.ndarray, validation: np.ndarray, k: int, generator: torch.Generator | None
) -> Measurement:
    longest = min(train.shape[1], validation.shape[1])
    k = min(k, longest)
    found = known_pieces(train, validation, k)
    inside, total = found.sum(1).astype(float), np.full(len(found), float(found.shape[1]))
    share, error = ratio_and_error(inside, total)
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    order = torch.randperm(validation.size, generator=source, device=source.device).cpu().numpy()
    shuffled = validation.ravel()[order].reshape(validation.shape)
    chance = float(known_pieces(train, shuffled, k).mean())
    best = np.argsort(-inside, kind="stable")[:20]
    details = {
        "by_k": {n: float(known_pieces(train, validation, n).mean()) for n in LENGTHS if n <= longest},
        "by_chance": chance,
        "kind": "tokens",
        "k": k,
        "pieces": int(found.size),
        "near": float("nan"),
        "examples": tuple(int(i) for i in best if inside[i]),
    }
    sentence = (
        f"{share:.1%} of {found.size} {k}-grams occur in the training data; {chance:.1%} would by chance."
    )
    return estimate(NAME, share, error, sentence, details=details)


def known_pieces(train: np.ndarray, validation: np.ndarray, k: int) -> np.ndarray:
    """Whether each k-gram of the validation sequences occurs in training, shape (examples, places - k + 1)."""
    return np.isin(_hashes(validation, k), np.unique(_hashes(train, k)))


def _hashes(table: np.ndarray, k: int) -> np.ndarray:
    """A number of 64 bits for each k-gram, shape (examples, places - k + 1)."""
    windows = np.lib.stride_tricks.sliding_window_view(table.astype(np.uint64), k, axis=1)
    state = np.zeros(windows.shape[:2], dtype=np.uint64)
    for i in range(k):
        # Multiply, xor-shift (splitmix64's finaliser): every bit of every token reaches every bit of the result.
        state = (state ^ (windows[..., i] + np.uint64(1))) * np.uint64(0x9E3779B97F4A7C15)
        state ^= state >> np.uint64(29)
        state *= np.uint64(0xBF58476D1CE4E5B9)
        state ^= state >> np.uint64(32)
    return state


def _rows(run: Run, limit: int) -> Measurement:
    tables: list[Any] = []
    for split in ("train", "validation"):
        found = examples_of(run, limit, split)
        tables.append(None if found is None else features(found.inputs))
    train, validation = tables
    if train is None or validation is None or train.shape[1] != validation.shape[1]:
        return not_applicable(NAME, "The inputs are neither tokens nor numbers that can be compared.")
    known = {row.tobytes() for row in np.ascontiguousarray(train)}
    found = np.array([row.tobytes() in known for row in np.ascontiguousarray(validation)])
    share, error = ratio_and_error(found.astype(float), np.ones(len(found)))
    details = {
        "by_k": {},
        "by_chance": float("nan"),
        "kind": "rows",
        "k": 1,
        "pieces": len(found),
        "near": _near(train, validation),
        "examples": tuple(int(i) for i in np.flatnonzero(found)[:20]),
    }
    near = f"{details['near']:.1%} nearly"
    sentence = f"{share:.1%} of {len(found)} validation examples are in the training data; {near}."
    return estimate(NAME, share, error, sentence, details=details)


def _near(train: np.ndarray, validation: np.ndarray) -> float:
    """Share of the validation examples with a training example very close by."""
    train, validation = train[:MOST_PAIRS], validation[:MOST_PAIRS]
    scaled = standardised(np.concatenate([train, validation]))
    if not scaled.shape[1]:
        return 1.0
    first, second = scaled[: len(train)], scaled[len(train) :]
    squares = (second**2).sum(1)[:, None] + (first**2).sum(1)[None, :] - 2 * second @ first.T
    return float((squares.min(1) <= NEAR**2 * scaled.shape[1]).mean())
