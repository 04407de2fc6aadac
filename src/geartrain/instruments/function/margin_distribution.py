"""Margins: by how much the right class wins, in the outputs and in the inputs.

Output margins grow with the norm of the weights and say little across networks; divided by the gradient of the
margin they become distances in input space: how far an example is from the decision boundary, to first order.

References:
    Bartlett, Foster, Telgarsky (2017), arXiv:1706.08498; Elsayed et al. (2018), arXiv:1803.05598, eq. (7).

Ledger: 1.22, 3.37
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.function._errors import influence_error
from geartrain.instruments.function._inputs import input_scale, margin_gradients
from geartrain.instruments.function._said import hear, refusal
from geartrain.instruments.function._view import began
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status
from geartrain.run import Run

NAME = "margin_distribution"
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
SPACES = ("output", "input")


def _price(subject: Any, space: str = "output", **options: Any) -> Cost:
    return Cost(forwards=1, gradients=1.0 if space == "input" else 0.0)


@instrument(needs="data", unit="1", price=_price)
def margin_distribution(
    subject: Objective | Run,
    space: str = "output",
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the quantiles of the margins m = z_right - max of the other scores, or of m / ‖∂m/∂x‖.

    The second is the distance of the example to the boundary if the network were linear near it; it is given in units
    of the inputs' own size, √(mean of ‖x - mean x‖²), so that 0.1 means a tenth of it.

    **Cost**: one forward pass; with ``space="input"`` one gradient more.

    **Assumes** one score per class, and for ``"input"`` inputs that are numbers and one answer per example.

    **Misleads** in output space when networks are compared: scaling the last layer scales all margins. In input space
    it is exact for linear networks only; curved or saturated ones have nearer boundaries than the gradient says, and
    `adversarial_drop` looks for them.

    Args:
        subject: An objective, or a run (validation data where it has them).
        space: ``"output"`` or ``"input"``.
        generator: Not used: nothing is drawn.
        budget: Time to begin in.

    Returns:
        The 5, 25, 50, 75 and 95 % quantiles, dims ``("point",)``, in the unit of the scores (``"output"``) or of the
        inputs' size (``"input"``); standard errors from the order statistics (distribution-free). Details:
        ``mean``, ``smallest``, ``negative`` (share below 0 = error rate), ``space``, ``input_scale`` (size of the
        inputs), ``rows``, ``split``.

    Raises:
        InputError: There is no such space.

    Example:
        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> model.weight.data = torch.tensor([[1.0], [0.0]])
        >>> data = torch.arange(1.0, 6.0)[:, None], torch.zeros(5, dtype=torch.long)
        >>> margin_distribution(Objective(model, torch.nn.functional.cross_entropy, data)).value[2]
        np.float64(3.0)
    """
    if space not in SPACES:
        raise InputError(f"space is {space!r}; allowed: 'output' or 'input'.")
    view = began(NAME, subject, budget)
    if isinstance(view, Measurement):
        return view
    said = hear(view.objective)
    if (refused := refusal(NAME, said)) is not None:
        return refused
    assert said is not None
    assert said.labels is not None
    if said.scores.shape[1] < 2:
        return not_applicable(NAME, "There is one class only, so there is nothing to win against.")
    values, groups, details = margins(said.scores, said.labels).numpy(), said.groups, {}
    if space == "input":
        scale = input_scale(view.objective)
        slopes = margin_gradients(view.objective) if scale is not None and not said.places.any() else None
        if scale is None or slopes is None:
            return not_applicable(
                NAME, "Distances need inputs that are numbers, one answer each; use space='output'."
            )
        values = _distances(values, slopes, scale.size)
        details = {"input_scale": scale.size}
    if np.isnan(values).any():
        return not_applicable(
            NAME, "Two scores of an example are both minus infinity, so they have no difference."
        )
    found = np.array([quantile(values, level, groups) for level in LEVELS])
    details |= {
        "mean": float(values.mean()),
        "smallest": float(values.min()),
        "negative": float((values < 0).mean()),
        "space": space,
        "rows": said.rows,
        "split": view.split,
    }
    sentence = f"Median margin {found[2, 0]:.3g} in {space} space, {(values < 0).mean():.1%} negative, on {view.words}."
    status = Status(State.ESTIMATE, sentence)
    coords = {"point": [f"{level:.0%}" for level in LEVELS]}
    return Measurement(NAME, found[:, 0], "1", status, found[:, 1], ("point",), coords, details=details)


def margins(scores: Tensor, labels: Tensor) -> Tensor:
    """Score of the right class less the best of the others, shape (rows,)."""
    right = scores.gather(1, labels[:, None])
    return right[:, 0] - scores.scatter(1, labels[:, None], -math.inf).max(1).values


def _distances(values: np.ndarray, slopes: np.ndarray, size: float) -> np.ndarray:
    """Margin over slope, in units of the inputs; a margin without a slope never ends."""
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.where(values == 0, 0.0, np.copysign(np.inf, values))
        return np.where(slopes > 0, values / (slopes * size), far)


def quantile(values: np.ndarray, level: float, groups: np.ndarray) -> tuple[float, float]:
    """A quantile and its standard error: half the distance of the quantiles one standard error of the level away."""
    value = float(np.quantile(values, level))
    below = (values <= value).astype(float)
    count = len(np.unique(groups))
    if count < 2:
        return value, math.nan
    spread = max(influence_error(below, groups), math.sqrt(level * (1 - level) / len(values)))
    # Two errors away and halved: one error away is often the very same order statistic.
    low, high = np.quantile(values, np.clip([level - 2 * spread, level + 2 * spread], 0, 1))
    with np.errstate(invalid="ignore"):
        return value, float(np.nan_to_num((high - low) / 4, nan=math.nan, posinf=math.inf))
