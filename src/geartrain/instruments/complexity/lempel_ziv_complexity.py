"""Lempel-Ziv complexity: how many different pieces the model's answers are made of.

The table of a simple function repeats itself; that of a random one does not. Of networks with random weights, simple
functions are by far the likeliest.

Ledger: 2.13, 2.14
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._decisions import decided, may_decide
from geartrain.instruments._limits import out_of_budget, spent, stopped
from geartrain.instruments._outputs import is_bernoulli
from geartrain.instruments.complexity._boolean import hypercube
from geartrain.linalg import walsh
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

NAME = "lempel_ziv_complexity"
LONGEST = 8192


def _price(objective: Any, *, exact_up_to: int = 12, **options: Any) -> Cost:
    found = hypercube(objective, options.get("levels"))
    if found is not None and found.d <= exact_up_to:
        return Cost(forwards=2**found.d / objective.num_examples)
    return Cost(forwards=1 if may_decide(objective) else 0)


@instrument(needs="objective", unit="bit", price=_price)
def lempel_ziv_complexity(
    objective: Objective,
    *,
    references: int = 20,
    exact_up_to: int = 12,
    levels: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the Lempel-Ziv complexity of the model's answers as a string.

    C = log₂(n) (N(x₁...x_n) + N(x_n...x₁)) / 2, and log₂(n) for a constant string; N is the number of words of the
    parsing of 1976, in which each word is the shortest not seen before. On inputs of d ≤ ``exact_up_to`` bits the
    string is the truth table (2^d answers, first bit slowest); else the classes named for the examples, in their
    order.

    **Cost** 2^d evaluations, or one forward pass; then strings only.

    **Assumes** answers that are classes. A single output is cut at 0 (at ½ where targets are 0 and 1 without logits).

    **Misleads** where the string is not a truth table: the order of the examples then matters as much as the model
    (sorted data look simple). Compare ``relative``, which sets it against shuffles with the same counts. Short strings
    (n < 100) hardly differ.

    Args:
        objective: What to measure.
        references: Shuffles of the string, and random strings, to compare with; at least 2.
        exact_up_to: Use the truth table up to this many bits (at most 13).
        levels: The two input values of the cube; found in the data if omitted.
        generator: Draws the references; a fixed seed if omitted.
        budget: Limit.

    Returns:
        The complexity in bits, exact for this string. ``details``: ``relative`` (over the mean of shuffles: 1 = as
        complex as its counts allow), ``relative_error``, ``random`` (mean of uniformly random strings),
        ``shuffled`` (mean of shuffles), ``words``, ``length``, ``alphabet``, ``string`` (``"truth table"`` or
        ``"predictions"``).

    Raises:
        InputError: A setting is out of range.

    References:
        Lempel and Ziv (1976), IEEE Trans. Inf. Theory 22; Valle-Pérez, Camargo, Louis (2019), arXiv:1805.08522;
        Dingle, Camargo, Louis (2018), Nature Communications 9.

    >>> import geartrain as gt
    >>> x = torch.tensor(walsh.cube(4)).float()
    >>> constant = torch.nn.Linear(4, 1)
    >>> _ = constant.weight.data.zero_(), constant.bias.data.fill_(1.0)
    >>> float(lempel_ziv_complexity(gt.Objective(constant, torch.nn.functional.mse_loss, (x, x[:, :1]))))
    4.0
    """
    if references < 2 or not 1 <= exact_up_to <= 13:
        raise InputError(
            f"references is {references} and exact_up_to {exact_up_to}; allowed: references >= 2, exact_up_to 1 to 13."
        )
    clock = Budget.of(budget).start()
    found = hypercube(objective, levels)
    table = found is not None and found.d <= exact_up_to
    if not table and not may_decide(objective):
        return not_applicable(NAME, "The model's answers are not classes, so they are no string of symbols.")
    if (answer := stopped(NAME, objective, clock)) is not None:
        return answer
    if spent(clock, _price(objective, exact_up_to=exact_up_to, levels=levels).forwards - 1e-9):
        return out_of_budget(NAME)
    if found is not None and table:
        # The first coordinate is bit 0 of the number; read the other way round it is the slowest, as in a table.
        values = found.values(np.ascontiguousarray(walsh.cube(found.d)[:, ::-1]))
        symbols = None if values is None else _cut(values, objective)
    else:
        named = decided(objective)
        symbols = None if named is None else named.predicted.ravel()[:LONGEST]
    if symbols is None or len(symbols) < 2:
        return not_applicable(
            NAME, "The model's answers are not classes, one per example, or there is only one."
        )
    if (symbols < 0).any():
        return no_answer(NAME, "An output is NaN or infinite.", state=State.NON_FINITE, unit="bit")
    return _answer(symbols, bool(table), references, generator)


def _cut(values: np.ndarray, objective: Objective) -> np.ndarray:
    """Classes from outputs; -1 where one is not finite."""
    broken = ~np.isfinite(values).all(1)
    if values.shape[1] > 1:
        return np.where(broken, -1, np.nan_to_num(values).argmax(1))
    targets = torch.cat([b[1].reshape(-1).double() for b in objective.batches])
    halves = bool(((targets == 0) | (targets == 1)).all()) and not is_bernoulli(objective.loss_fn)
    # Of two scores their difference is taken, whose cut is 0 whatever the targets are called.
    classes = not objective.batches[0][1].is_floating_point()
    return np.where(broken, -1, values[:, 0] > (0.5 if halves and not classes else 0.0)).astype(int)


def _answer(
    symbols: np.ndarray, table: bool, references: int, generator: torch.Generator | None
) -> Measurement:
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    alphabet = max(len(np.unique(symbols)), 2)
    size = len(symbols)
    value = complexity_of(symbols)
    shuffled, random = [], []
    for _ in range(references):
        order = torch.randperm(size, generator=source, device=source.device).cpu().numpy()
        shuffled.append(complexity_of(symbols[order]))
        drawn = torch.randint(alphabet, (size,), generator=source, device=source.device).cpu().numpy()
        random.append(complexity_of(drawn))
    mean, spread = float(np.mean(shuffled)), float(np.std(shuffled, ddof=1) / np.sqrt(references))
    details = {
        "relative": value / mean,
        "relative_error": value / mean**2 * spread,
        "random": float(np.mean(random)),
        "shuffled": mean,
        "words": value / np.log2(size),
        "length": size,
        "alphabet": len(np.unique(symbols)),
        "string": "truth table" if table else "predictions",
    }
    what = f"The truth table of {size} answers" if table else f"The string of {size} answers"
    status = Status(
        State.EXACT,
        f"{what} takes {value:.0f} bits; a shuffled one {mean:.0f}, a random one {details['random']:.0f}.",
    )
    return Measurement(NAME, value, "bit", status, 0.0, details=details)


def complexity_of(symbols: np.ndarray) -> float:
    """C of a string of whole numbers, in bits.

    >>> float(complexity_of(np.zeros(64, dtype=int)))
    6.0
    """
    size = len(symbols)
    if np.all(symbols == symbols[0]):
        return float(np.log2(size))
    text = "".join(map(chr, (symbols + 1).tolist()))
    return float(np.log2(size) * (words_of(text) + words_of(text[::-1])) / 2)


def words_of(text: str) -> int:
    """Words of the parsing of Lempel and Ziv (1976); an unfinished last one counts.

    >>> words_of("0001101001000101")  # 0 · 001 · 10 · 100 · 1000 · 101
    6
    """
    start, count, size = 0, 0, len(text)
    while start < size:
        length, seen = 1, 0
        while start + length <= size:
            # A copy may overlap the word itself, but must begin before it; later tries cannot begin earlier.
            seen = text.find(text[start : start + length], seen, start + length - 1)
            if seen < 0:
                break
            length += 1
        count += 1
        start += length
    return count
