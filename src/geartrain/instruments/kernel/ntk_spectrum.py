"""Eigenvalues of the tangent kernel: which functions the network learns fast, and how many it can learn at all.

Misleads if small eigenvalues are read in float32: below 1e-6 of the largest one they are rounding. Gear: the non-zero
eigenvalues are those of the Gauss-Newton matrix of the squared loss. Ledger: 0.7, 0.16.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments import _tangent
from geartrain.instruments._base import instrument
from geartrain.records import Cost, Measurement, State, Status, format_number

MAX_ROWS = 1000
"""Examples x outputs: the full kernel has that many rows, and its eigenvalues take their third power."""


def _price(
    objective: Any,
    num_examples: int = _tangent.EXAMPLES,
    *,
    kind: str = "full",
    max_outputs: int | None = _tangent.OUTPUTS,
    **options: Any,
) -> Cost:
    full = kind == "full"
    return _tangent.kernel_price(
        objective,
        num_examples,
        "full" if full else "sum",
        max_outputs=max_outputs,
        max_rows=MAX_ROWS if full else None,
    )


@instrument(needs="objective", unit="1/θ²", price=_price)
def ntk_spectrum(
    objective: Any,
    num_examples: int = _tangent.EXAMPLES,
    *,
    kind: Literal["full", "mean"] = "full",
    max_outputs: int | None = _tangent.OUTPUTS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Eigenvalues of the neural tangent kernel divided by the number of examples, the largest first.

    In the linear regime and for the loss (1/2n) Σ|f - y|² the error along eigenvector k falls as e^(-λ_k t), and a step
    size above 2/λ_1 diverges. They are the non-zero eigenvalues of the Gauss-Newton matrix JᵀJ/n; for
    ``torch.nn.functional.mse_loss``, which averages over the o outputs and has no ½, of that matrix times o/2.

    **Cost** that of `ntk`, and the eigenvalues of a matrix with at most 1,000 rows: fewer examples are taken where
    ``num_examples`` x outputs would exceed that (``kind="full"``).

    **Assumes** that an example's outputs depend on that example alone.

    **Misleads** in its small end: the ratio of the largest to the smallest eigenvalue grows with the number of
    examples and is infinite when they outnumber the parameters. Compare spectra of the same number of examples only.

    Args:
        objective: What to measure; an `Objective` with ``loss_fn``.
        num_examples: Examples, a random subset where there are more.
        kind: ``"full"`` (examples x outputs) or ``"mean"`` over outputs.
        max_outputs: A random subset of so many outputs is used where there are more; the spectrum is then that of
            these outputs.
        generator: Source of the choice of examples and outputs; a fixed seed if ``None``.
        budget: Limit: passes back, ``"5s"`` or a `Budget`.

    Returns:
        Eigenvalues, unit (output)²/θ², exact for these examples and outputs. ``details``: ``condition_number``
        (infinite if the smallest is rounding), ``condition_number_above_rounding``, ``effective_rank`` (exponential of
        the entropy of the normalised eigenvalues), ``participation_ratio`` ((Σλ)²/Σλ²), ``numerical_rank``,
        ``rounding`` (what counts as zero), ``trace``, ``num_examples``, ``num_outputs``.

    Raises:
        InputError: A setting is out of range.

    References:
        Jacot et al. (2018), arXiv:1806.07572; Roy, Vetterli (2007) (effective rank).

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1, bias=False).double()  # K = x·x'
    >>> data = torch.tensor([[2.0, 0.0], [0.0, 4.0]]).double(), torch.zeros(2, 1).double()
    >>> ntk_spectrum(gt.Objective(model, torch.nn.functional.mse_loss, data)).value
    array([8., 2.])
    """
    if kind not in {"full", "mean"}:
        raise InputError(f"kind is {kind!r}; allowed: 'full', 'mean'.")
    passes = _tangent.Passes(Budget.of(budget).start())
    full = kind == "full"

    def compute() -> Measurement:
        place = _tangent.tangent(
            objective, num_examples, generator, max_outputs=max_outputs, max_rows=MAX_ROWS if full else None
        )
        found = passes.kernel(place, place.objective, "full" if full else "sum")
        rows = place.num_examples * place.num_outputs if full else place.num_examples
        matrix = found.matrix.reshape(rows, rows) / (1 if full else place.num_outputs)
        values = _eigenvalues(matrix / place.num_examples)
        details = {**_summary(values, found.matrix.dtype), "num_examples": place.num_examples}
        details["num_outputs"] = place.num_outputs
        drawn = place.outputs is not None
        status = Status(State.ESTIMATE if drawn else State.EXACT, _sentence(details, place))
        error = np.full(len(values), np.nan) if drawn else 0.0
        cost = Cost(peak_bytes=found.bytes)
        return Measurement("ntk_spectrum", values, "1/θ²", status, error, ("eig",), {}, cost, details)

    return _tangent.guarded("ntk_spectrum", compute, unit="1/θ²")


def _eigenvalues(matrix: torch.Tensor) -> np.ndarray:
    """In float64 whatever the kernel was computed in; the largest first."""
    return torch.linalg.eigvalsh(matrix.double()).flip(0).cpu().numpy()


def _summary(values: np.ndarray, dtype: torch.dtype) -> dict[str, float]:
    rounding = float(torch.finfo(dtype).eps * len(values) * max(values[0], 0.0))
    known = values[values > rounding]
    smallest = float(values[-1])
    total = float(known.sum())
    shares = known / total if total > 0 else known
    return {
        "condition_number": float(values[0] / smallest) if smallest > rounding else float("inf"),
        "condition_number_above_rounding": float(known[0] / known[-1]) if len(known) else float("nan"),
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())) if len(known) else 0.0,
        "participation_ratio": float(1 / (shares**2).sum()) if len(known) else 0.0,
        "numerical_rank": len(known),
        "rounding": rounding,
        "trace": float(values.sum()),
    }


def _sentence(details: dict[str, float], place: _tangent.Tangent) -> str:
    rank, condition = details["numerical_rank"], format_number(details["condition_number"])
    which = "" if place.outputs is None else f", {place.num_outputs} of {place.all_outputs} outputs drawn"
    return (
        f"{rank} eigenvalues above rounding, condition number {condition}, "
        f"on {place.num_examples} examples{which}."
    )
