"""Rank of the activations: how many directions the data fill inside each layer.

A representation that has collapsed onto a few directions carries little to the next layer; one that fills all of them
has thrown nothing away. At the end of training a classifier's last layers fill about as many directions as there are
classes.

The sample covariance of n examples has at most n - 1 directions and inflates its large ones, so ranks taken from
it depend on n. Here both parts of the participation ratio are estimated without bias, for any distribution.

References:
    Himeno, Yamada (2014), Journal of Multivariate Analysis 130, for the unbiased parts; Gao et al. (2017), bioRxiv
    214262, for the participation ratio as a dimension; Roy, Vetterli (2007) for the effective rank.

Ledger: 0.15, 0.19
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain._torch import batches as _batches
from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._layers import leaf_outputs
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

_EXAMPLES = 512
_LEAST = 5


def _price(objective: Objective, *, examples: int = _EXAMPLES, **options: Any) -> Cost:
    count = min(examples, objective.num_examples)
    return Cost(forwards=1, peak_bytes=4 * 8 * count**2)


@instrument(needs="objective", unit="1", price=_price)
def activation_rank(
    objective: Objective,
    *,
    examples: int = _EXAMPLES,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the participation ratio (tr C)²/tr(C²) of the covariance C of every layer's output over the data.

    r for r equal variances, 1 for a single direction. (tr C)² and tr(C²) are unbiased U-statistics of the centred inner
    products between examples (Himeno, Yamada 2014), so the ratio does not depend on the number of examples except for
    its spread; standard errors by the jackknife over examples. Where a layer has many places (pixels, tokens), one
    place is drawn for each example: places of one example are not independent.

    **Cost** one forward pass, and n² inner products per layer for n examples.

    **Assumes** that examples are independent; outputs whose first axis numbers the examples, features along axis 1 for
    images and along the last axis otherwise (other layers are left out).

    **Misleads** where a few features with a large variance (a constant offset between two groups of examples, one
    channel that shouts) hide many small ones that the next layer needs; scales of features count. Above about half the
    number of examples the error is large: look at it.

    Args:
        objective: What to measure.
        examples: At most so many, drawn at random.
        generator: Draws examples and places; seeded by the objective if omitted.
        budget: Not used: one forward pass is the least that can be spent.

    Returns:
        The participation ratio, dims ``("layer",)`` in order of execution, with standard errors; NaN for a layer whose
        output does not vary. ``details``: per layer ``features`` (how many there are), ``relative`` (value/features),
        ``variance`` (tr C, unbiased), ``plug_in`` (the same ratio from the sample covariance: biased towards n and
        below), ``effective_rank`` (exp entropy of the sample covariance's eigenvalues, at most n - 1, biased low), and
        ``examples``, ``left_out`` (layers).

    Raises:
        InputError: Fewer than five examples were asked for.

    References:
        Himeno, Yamada (2014), eq. (2.3); Gao et al. (2017).

    Example:
        The identity on the corners of a square, twice: two equal variances.

        >>> import torch
        >>> model = torch.nn.Linear(2, 2, bias=False).double()
        >>> model.weight.data = torch.eye(2).double()
        >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]] * 100).double()
        >>> result = activation_rank(Objective(model, torch.nn.functional.mse_loss, (x, x)))
        >>> result.value.round(1).tolist()
        [2.0]
    """
    name = "activation_rank"
    if examples < _LEAST:
        raise InputError(
            f"{name}: examples is {examples}; at least {_LEAST} are needed for a covariance's error."
        )
    if objective.num_examples < _LEAST:
        return not_applicable(
            name, f"{objective.num_examples} examples are too few; at least {_LEAST} are needed."
        )
    source = generator or torch.Generator().manual_seed(objective.seed)
    tap = _Tap(objective, examples, source)
    tap.run()
    if not tap.layers():
        return not_applicable(name, "No layer's output has the examples along its first axis.")
    broken = tap.broken
    if broken is not None:
        sentence = f"An activation is NaN or infinite, first in {broken}."
        return no_answer(name, sentence, state=State.NON_FINITE)
    rows = {layer: _measured(tap.rows_of(layer)) for layer in tap.layers()}
    columns = {k: np.array([row[k] for row in rows.values()]) for k in next(iter(rows.values()))}
    value, error = columns.pop("value"), columns.pop("error")
    details = columns | {
        "relative": value / columns["features"],
        "examples": tap.count,
        "left_out": tuple(sorted(tap.left_out - set(rows))),
    }
    return Measurement(
        name,
        value,
        "1",
        Status(State.ESTIMATE, _sentence(value, list(rows), tap.count)),
        error,
        ("layer",),
        {"layer": list(rows)},
        details=details,
    )


def _sentence(value: np.ndarray, layers: list[str], count: int) -> str:
    known = np.flatnonzero(np.isfinite(value))
    if not len(known):
        return f"No layer's output varies over {count} examples."
    low = known[np.argmin(value[known])]
    return f"From {count} examples; lowest in {layers[low]} ({value[low]:.3g})."


# ---------------------------------------------------------------------- the ratio


def _measured(rows: Tensor) -> dict[str, float]:
    """Everything about one layer from its rows, shape (examples, features)."""
    rows = rows.double()
    centred = rows - rows.mean(0)
    # Rounding of constant features is no variation.
    scale = float(rows.abs().max()) * torch.finfo(rows.dtype).eps * 8
    if float(centred.abs().max()) <= scale:
        gram = np.zeros((len(rows), len(rows)))
    else:
        gram = (centred @ centred.T).cpu().numpy()
    value, error = participation(gram)
    n, diagonal = len(gram), gram.diagonal()
    squares = float((gram**2).sum())
    return {
        "value": float(value),
        "error": float(error),
        "features": float(rows.shape[1]),
        "variance": float(diagonal.sum()) / (n - 1),
        "plug_in": float(diagonal.sum()) ** 2 / squares if squares > 0 else math.nan,
        "effective_rank": _entropy_rank(gram),
    }


def participation(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Participation ratio and its jackknife error from centred inner products.

    Args:
        gram: y_i·y_j with y_i = x_i - x̄, shape (..., n, n), n ≥ 5; further axes are separate problems.

    Returns:
        Ratio and error, shape (...); NaN where nothing varies.
    """
    n = gram.shape[-1]
    lengths = np.diagonal(gram, axis1=-2, axis2=-1)
    trace, square = lengths.sum(-1), (gram**2).sum((-2, -1))
    ratio = _ratio(trace, square, (lengths**2).sum(-1), n)
    # Without example i: the mean moves by -y_i/(n-1), the scatter loses n/(n-1) y_i y_iᵀ.
    c = n / (n - 1)
    less_trace = trace[..., None] - c * lengths
    less_square = square[..., None] - 2 * c * (gram**2).sum(-1) + c**2 * lengths**2
    moved = lengths[..., None, :] + 2 * gram / (n - 1) + lengths[..., :, None] / (n - 1) ** 2
    own = np.diagonal(moved, axis1=-2, axis2=-1)
    less_fourth = (moved**2).sum(-1) - own**2
    left_out = _ratio(less_trace, less_square, less_fourth, n - 1)
    centred = left_out - left_out.mean(-1, keepdims=True)
    return ratio, np.sqrt((n - 1) / n * (centred**2).sum(-1))


def _ratio(trace: np.ndarray, square: np.ndarray, fourth: np.ndarray, n: int) -> np.ndarray:
    """Unbiased (tr C)² over unbiased tr(C²), from the scatter A: tr A, tr A², Σ|y|⁴ (Himeno, Yamada 2014)."""
    mean_trace, mean_square, spread = trace / (n - 1), square / (n - 1) ** 2, fourth / (n - 1)
    top = 2 * mean_square + (n**2 - 3 * n + 1) * mean_trace**2 - n * spread
    bottom = (n - 1) * (n - 2) * mean_square + mean_trace**2 - n * spread
    return np.divide(top, bottom, out=np.full(np.shape(top), math.nan), where=bottom > 0)


def _entropy_rank(gram: np.ndarray) -> float:
    values = np.linalg.eigvalsh(gram)
    if not values[-1] > 0:
        return math.nan
    kept = values[values > values[-1] * 1e-12]
    shares = kept / kept.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


# ---------------------------------------------------------------------- the rows


class _Tap:
    """Rows of every layer's output: chosen examples, one place each."""

    def __init__(self, objective: Objective, examples: int, generator: torch.Generator) -> None:
        self.objective = objective
        total = objective.num_examples
        self.count = min(examples, total)
        self.chosen = torch.randperm(total, generator=generator)[: self.count].sort().values
        self.places = torch.rand(self.count, generator=generator, dtype=torch.float64)
        self.parts: dict[str, list[Tensor]] = {}
        self.left_out: set[str] = set()
        self.broken: str | None = None
        self.images = False

    def run(self) -> None:
        """One forward pass over the data."""
        objective, start, done = self.objective, 0, 0
        for batch in objective.batches:
            size = _batches.size_of(batch)
            mine = self.chosen[(self.chosen >= start) & (self.chosen < start + size)] - start
            self.size, self.index = size, mine
            self.place = self.places[done : done + len(mine)]
            with objective._quiet(), leaf_outputs(objective.model, self._note):
                objective._loss(objective._leaves(None), batch)
            start, done = start + size, done + len(mine)
        objective.charge(forwards=1)

    def layers(self) -> list[str]:
        """Layers whose rows are complete, with one number of features throughout."""
        full = [n for n, parts in self.parts.items() if sum(map(len, parts)) == self.count]
        return [n for n in full if len({p.shape[1] for p in self.parts[n]}) == 1]

    def rows_of(self, layer: str) -> Tensor:
        """Shape (examples, features)."""
        return torch.cat(self.parts[layer])

    def _note(self, name: str, module: nn.Module, output: Tensor) -> None:
        if isinstance(module, nn.modules.conv._ConvNd):
            self.images = True
        elif isinstance(module, (nn.Linear, nn.Embedding, nn.RNNBase)):
            self.images = False
        if output.ndim < 2 or output.shape[0] != self.size:
            self.left_out.add(name)
            return
        values = output.detach()[self.index.to(output.device)]
        if self.broken is None and not bool(torch.isfinite(values).all()):
            self.broken = f"{name} ({type(module).__name__})"
        self.parts.setdefault(name, []).append(self._one_place(values))

    def _one_place(self, values: Tensor) -> Tensor:
        if values.ndim == 2:
            return values
        features_second = values.ndim > 3 or self.images
        table = (values.movedim(1, -1) if features_second else values).flatten(1, -2)
        place = (self.place * table.shape[1]).long().clamp(max=table.shape[1] - 1).to(table.device)
        return table[torch.arange(len(table), device=table.device), place]
