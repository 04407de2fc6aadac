"""Entropy-coded size: how many bits a model takes on disk when it is stored as coarsely as its loss allows.

Smaller weights do not make a file smaller, and neither does a penalty on them; a peaked distribution of rounded weights
does. Raw size, fixed-length size and coded size are three columns that are never merged.

Ledger: 3.29, 3.25
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._limits import stopped
from geartrain.instruments.complexity._quantise import PROBES, Method, Quantiser, crossing, evaluations
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

NAME = "entropy_coded_size"
HEADER = 96.0
"""Bits per tensor for what the decoder must know: offset, step and number of values."""


def _price(
    objective: Any,
    *,
    bits: float | None = None,
    method: Method = "uniform",
    samples: int = 8,
    **options: Any,
) -> Cost:
    curved = method == "curvature"
    return Cost(
        forwards=evaluations(method, samples) if bits is None else 0,
        gradients=1 if curved else 0,
        products=PROBES if curved else 0,
        peak_bytes=48 * objective.num_params,
    )


@instrument(needs="objective", unit="bit", price=_price)
def entropy_coded_size(
    objective: Objective,
    *,
    bits: float | None = None,
    rise: float | None = None,
    method: Method = "uniform",
    samples: int = 8,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the length of the rounded parameters under an adaptive arithmetic code, tensor by tensor.

    n symbols of counts n_s out of k possible ones take -log₂ [Γ(k/2) Π_s Γ(n_s + ½) / (Γ(½)^k Γ(n + k/2))] bits: the
    code of Krichevsky and Trofimov, which learns the frequencies as it goes and therefore needs no table. With it come
    96 bits per tensor (codebooks: 32 bits per value more).

    **Cost** that of `bits_per_parameter`, or none where ``bits`` are given.

    **Assumes** that nothing is known of the order of weights within a tensor: a code that predicts a weight from its
    neighbours could be shorter.

    **Misleads** for tiny models, whose headers outweigh their weights, and across different allowed rises.

    Args:
        objective: What to store.
        bits: Bits per parameter of the grid; found from ``rise`` if omitted.
        rise: Allowed rise of the loss, as for `bits_per_parameter`.
        method: As for `bits_per_parameter`.
        samples: Random shifts of the grids; at least 2.
        generator: Draws them; a fixed seed if omitted.
        budget: Limit.

    Returns:
        Bits in all, with the standard error over the shifts (given the number of bits). ``details``: ``by_layer``
        (coded bits of each tensor), ``raw`` (as held now), ``fixed_length`` (``bits`` each), ``entropy`` (n times the
        entropy of the counts: no code of this kind can be shorter), ``bits`` (of the grid), ``ratio`` (raw / coded).

    Raises:
        InputError: A setting is out of range.

    References:
        Krichevsky and Trofimov (1981), IEEE Trans. Inf. Theory 27; Han et al. (2015), arXiv:1510.00149.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(100, 1, bias=False)
    >>> _ = model.weight.data.fill_(0.3)
    >>> objective = gt.Objective(model, torch.nn.functional.mse_loss, (torch.ones(1, 100), torch.ones(1, 1)))
    >>> float(entropy_coded_size(objective, bits=4))  # one value: its header says all
    96.0
    """
    if samples < 2:
        raise InputError(f"samples is {samples}; at least 2 are needed for an error.")
    if bits is not None and not 0 < bits <= 24:
        raise InputError(f"bits is {bits}; allowed: above 0 and at most 24.")
    clock = Budget.of(budget).start()
    if (answer := stopped(NAME, objective, clock, unit="bit")) is not None:
        return answer
    try:
        quantiser = Quantiser(objective, method, generator)
        if bits is None:
            found = crossing(quantiser, samples, rise, clock)
            if found is None or found.bits != found.bits:
                return _no_grid(found is not None and not found.complete)
            grid, complete = found.bits, found.complete
        else:
            grid, complete = float(bits), True
    except NonFiniteError as error:
        return no_answer(NAME, str(error), unit="bit", state=State.NON_FINITE)
    except UnsupportedError as error:
        return not_applicable(NAME, str(error), unit="bit")
    return _coded(quantiser, grid, samples, complete)


def _no_grid(out_of_budget: bool) -> Measurement:
    if out_of_budget:
        return no_answer(
            NAME, "The budget ended before a grid was found.", unit="bit", state=State.OUT_OF_BUDGET
        )
    return not_applicable(
        NAME, "Even 16 bits per parameter change the loss too much; pass rise= or bits=.", unit="bit"
    )


def _coded(quantiser: Quantiser, bits: float, samples: int, complete: bool) -> Measurement:
    draws = [quantiser.offsets() for _ in range(1 if quantiser.method == "codebook" else samples)]
    sizes, entropies = [], []
    for offsets in draws:
        numbers = quantiser.symbols(bits, offsets)[0]
        sizes.append([_length(numbers[place], quantiser) for place in quantiser.places.values()])
        entropies.append(sum(_entropy(numbers[place]) for place in quantiser.places.values()))
    table = np.array(sizes)
    totals = table.sum(1)
    size = float(totals.mean())
    error = float(totals.std(ddof=1) / np.sqrt(len(totals))) if len(totals) > 1 else 0.0
    layout = quantiser.objective.layout
    raw = sum(n * d.itemsize * 8 for n, d in zip(layout.sizes, layout.dtypes, strict=True))
    details = {
        "by_layer": dict(zip(quantiser.places, table.mean(0).tolist(), strict=True)),
        "raw": raw,
        "fixed_length": bits * layout.num_params,
        "entropy": float(np.mean(entropies)),
        "bits": bits,
        "ratio": raw / size,
    }
    sentence = f"{size:.0f} bits, {size / layout.num_params:.2f} per parameter, at a grid of {bits:.2f} bits"
    if not complete:
        status = Status(State.OUT_OF_BUDGET, f"At most {sentence}; the budget ended the search for the grid.")
        return Measurement(NAME, size, "bit", status, float("nan"), details=details)
    exact = quantiser.method == "codebook"
    status = Status(State.EXACT if exact else State.ESTIMATE, f"{sentence}.")
    return Measurement(NAME, size, "bit", status, error, details=details)


def _counts(numbers: Tensor) -> np.ndarray:
    return torch.unique(numbers, return_counts=True)[1].double().cpu().numpy()


def _length(numbers: Tensor, quantiser: Quantiser) -> float:
    """Bits of one tensor."""
    counts = _counts(numbers)
    possible = int((numbers.max() - numbers.min()).item()) + 1
    code = krichevsky_trofimov(counts, possible)
    return code + HEADER + (32.0 * possible if quantiser.method == "codebook" else 0.0)


def krichevsky_trofimov(counts: np.ndarray, possible: int) -> float:
    """Bits of a sequence with such counts under the adaptive code over ``possible`` symbols.

    >>> float(round(krichevsky_trofimov(np.array([1.0, 1.0]), 2), 6))  # ½ · ¼: three bits
    3.0
    """
    if possible <= 1:
        return 0.0
    half, total = possible / 2, float(np.sum(counts))
    logs = gammaln(half) - gammaln(total + half) + float(np.sum(gammaln(counts + 0.5) - gammaln(0.5)))
    return max(-float(logs) / float(np.log(2)), 0.0)


def _entropy(numbers: Tensor) -> float:
    counts = _counts(numbers)
    shares = counts / counts.sum()
    return max(float(-(counts * np.log2(shares)).sum()), 0.0)
