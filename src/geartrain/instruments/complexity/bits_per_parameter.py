"""Bits per parameter: how coarsely a model can be stored before its loss notices.

Thirty-two bits are nearly always far too many. Flat directions need few bits, sharp ones more: on a parabola the number
follows from the curvature alone.

Ledger: 3.43, 3.25
"""

from __future__ import annotations

from typing import Any

import torch

from geartrain.budget import Budget
from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._limits import stopped
from geartrain.instruments.complexity._quantise import (
    PROBES,
    Crossing,
    Method,
    Quantiser,
    crossing,
    evaluations,
)
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

NAME = "bits_per_parameter"


def _price(objective: Any, *, method: Method = "uniform", samples: int = 8, **options: Any) -> Cost:
    curved = method == "curvature"
    return Cost(
        forwards=evaluations(method, samples),
        gradients=1 if curved else 0,
        products=PROBES if curved else 0,
        peak_bytes=48 * objective.num_params,
    )


@instrument(needs="objective", unit="bit/θ", price=_price)
def bits_per_parameter(
    objective: Objective,
    *,
    rise: float | None = None,
    method: Method = "uniform",
    samples: int = 8,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the fewest bits per parameter at which rounding raises the loss by no more than ``rise`` on average.

    Parameter i is rounded to a grid of step Δ_i = range_i / 2^bits (range of its tensor), shifted at random. Its
    error is then uniform, so near a minimum the mean rise is Σ H_ii Δ_i² / 24 and falls fourfold per bit. Ten numbers
    of bits from 1 to 16 are tried with ``samples`` shifts each, then the crossing is bisected to fractions of a bit.

    **Cost** 15 x ``samples`` + 2 forward passes (``"codebook"``: 17); ``"curvature"``: 8 products more.

    **Assumes** nothing of the loss. The bits are before entropy coding, see `entropy_coded_size`.

    **Misleads** where one outlier stretches the range of a tensor: all its other weights then need more bits. Biases
    count like weights, in tensors of their own.

    Args:
        objective: What to round.
        rise: Allowed rise of the loss, unit ℓ. If omitted, a twentieth of the gain over the model with all
            parameters at zero.
        method: ``"uniform"``: one step per tensor; ``"codebook"``: the best values for each tensor (whole
            bits only); ``"curvature"``: steps by Δ_i ∝ 1/√H_ii, which is optimal on a parabola.
        samples: Random shifts of the grids; at least 2.
        generator: Draws them; a fixed seed if omitted.
        budget: Limit; the curve ends where it is reached.

    Returns:
        Mean bits per parameter, unit bit/θ, with the standard error over the shifts (0 for the codebook, which draws
        none). ``details``: ``bits`` and ``rises`` (the curve), ``rise_errors``, ``rise`` (allowed), ``loss``,
        ``method``.

    Raises:
        InputError: A setting is out of range.

    References:
        Widrow and Kollár (2008), Quantization Noise; LeCun, Denker, Solla (1990), Optimal Brain Damage (curvature);
        Han et al. (2015), arXiv:1510.00149 (codebooks).

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(64, 1, bias=False).double()
    >>> _ = model.weight.data.copy_(torch.linspace(-1, 1, 64)[None])
    >>> x = torch.eye(64).double()  # loss: mean squared error of the weights; Δ²/12 = 1/12 · (2/2^b)²
    >>> objective = gt.Objective(model, torch.nn.functional.mse_loss, (x, model(x).detach()))
    >>> round(float(bits_per_parameter(objective, rise=(2 / 2**5) ** 2 / 12)), 1)
    5.0
    """
    if samples < 2:
        raise InputError(f"samples is {samples}; at least 2 are needed for an error.")
    clock = Budget.of(budget).start()
    if (answer := stopped(NAME, objective, clock, unit="bit/θ")) is not None:
        return answer
    try:
        quantiser = Quantiser(objective, method, generator)
        found = crossing(quantiser, samples, rise, clock)
    except NonFiniteError as error:
        return no_answer(NAME, str(error), unit="bit/θ", state=State.NON_FINITE)
    except UnsupportedError as error:
        return not_applicable(NAME, str(error), unit="bit/θ")
    if found is None:
        return no_answer(
            NAME, "The loss is NaN or infinite before rounding.", unit="bit/θ", state=State.NON_FINITE
        )
    return _answer(found, method)


def _answer(found: Crossing, method: Method) -> Measurement:
    details = {
        "bits": found.curve_bits,
        "rises": found.rises,
        "rise_errors": found.rise_errors,
        "rise": found.allowed,
        "loss": found.loss,
        "method": method,
    }
    if found.bits != found.bits:
        if found.complete:
            sentence = f"Even 16 bits raise the loss by more than {found.allowed:.3g}; allow a larger rise."
            return no_answer(NAME, sentence, unit="bit/θ", details=details)
        sentence = "The budget ended before any number of bits was tried."
        return no_answer(NAME, sentence, unit="bit/θ", state=State.OUT_OF_BUDGET, details=details)
    words = f"{found.bits:.2f} bits per parameter raise the loss by {found.allowed:.3g}"
    if not found.complete:
        status = Status(State.OUT_OF_BUDGET, f"At most {words}; the budget ended the search.")
        return Measurement(NAME, found.bits, "bit/θ", status, float("nan"), details=details)
    exact = method == "codebook"
    status = Status(State.EXACT if exact else State.ESTIMATE, f"{words}.")
    return Measurement(NAME, found.bits, "bit/θ", status, found.error, details=details)
