"""Prunability: how many weights can be set to zero, the smallest first, before the loss notices.

A model that can lose most of its weights is simpler than its size says. No retraining: a lottery ticket may be smaller
still. The curve in ``details`` says more than the number.

Ledger: 3.25, 3.26
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import no_answer
from geartrain.instruments._base import instrument
from geartrain.instruments._decisions import decided, may_decide
from geartrain.instruments._limits import out_of_budget, spent, stopped
from geartrain.instruments.complexity._rise import allowed_rise, loss_at
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

NAME = "prunability"
POINTS = 20
Scope = Literal["global", "layer"]


def _price(objective: Any, **options: Any) -> Cost:
    bisections = max(int(np.ceil(np.log2(max(objective.num_params / POINTS, 1)))), 0)
    curve = (POINTS + 1) * (2 if may_decide(objective) else 1)
    return Cost(forwards=curve + 1 + bisections, peak_bytes=24 * objective.num_params)


@instrument(needs="objective", unit="1", price=_price)
def prunability(
    objective: Objective,
    *,
    rise: float | None = None,
    scope: Scope = "global",
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the largest share of weights that can be removed by magnitude while the loss rises by at most ``rise``.

    Weights are the entries of tensors with two axes or more (of all tensors where there are none); biases and scales
    stay. The loss is evaluated at 21 shares from 0 to 1, then the first crossing is bisected down to one weight.

    **Cost** about 22 + log₂(weights / 20) forward passes, 21 more where the targets are classes (accuracies).

    **Assumes** that a weight's size says how little it matters, which holds when inputs of layers have like scales.

    **Misleads** across models whose layers are scaled differently: rescaling a ReLU layer and undoing it in the next
    changes the global order but not the function (``scope="layer"`` is immune). The curve need not be monotone;
    the value is its *first* crossing.

    Args:
        objective: What to prune.
        rise: Allowed rise of the loss, unit ℓ. If omitted, a twentieth of the gain over the model with all
            weights at zero.
        scope: ``"global"``: one order of all weights; ``"layer"``: the same share of every tensor.
        generator: Not used.
        budget: Limit; the search stops where it is reached.

    Returns:
        A share from 0 to 1, exact to one weight on these data. ``details``: ``shares`` and ``losses`` (the curve),
        ``accuracies`` (NaN where the targets are no classes), ``kept`` and ``weights`` (numbers),
        ``nonzero_by_layer`` (share kept of each tensor), ``rise``, ``loss``.

    Raises:
        InputError: A setting is out of range.

    References:
        Han et al. (2015), arXiv:1506.02626; Blalock et al. (2020), arXiv:2003.03033.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(4, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[0.1, 0.2, 1.0, 2.0]]))
    >>> x = torch.eye(4)
    >>> data = (x, model(x).detach())
    >>> objective = gt.Objective(model, lambda out, y: ((out - y) ** 2).sum() / 1, data)
    >>> float(prunability(objective, rise=0.06))  # 0.1² + 0.2² = 0.05, and 1² more is too much
    0.5
    """
    if scope not in ("global", "layer"):
        raise InputError(f"scope is {scope!r}; allowed: 'global', 'layer'.")
    clock = Budget.of(budget).start()
    if (answer := stopped(NAME, objective, clock)) is not None:
        return answer
    search = _Search(objective, scope)
    loss = search.loss(0)
    if not np.isfinite(loss):
        return no_answer(
            NAME, "The loss is NaN or infinite before anything is removed.", state=State.NON_FINITE
        )
    allowed = allowed_rise(objective, loss, rise)
    if spent(clock, 2):
        return out_of_budget(NAME)
    grid = np.unique(np.round(np.linspace(0, search.count, POINTS + 1)).astype(int))
    losses, accuracies, done = [loss], [search.accuracy(0)], True
    for removed in grid[1:]:
        if spent(clock, search.cost * len(losses) + 2):
            done = False
            break
        losses.append(search.loss(int(removed)))
        accuracies.append(search.accuracy(int(removed)))
    above = np.flatnonzero(np.array(losses) > loss + allowed)
    low = int(grid[len(losses) - 1]) if not len(above) else int(grid[above[0] - 1])
    high = low + 1 if not len(above) else int(grid[above[0]])
    evaluations = search.cost * len(losses) + 1
    while high - low > 1:
        if spent(clock, evaluations):
            done = False
            break
        middle = (low + high) // 2
        low, high = (middle, high) if search.loss(middle) <= loss + allowed else (low, middle)
        evaluations += 1
    details = {
        "shares": grid[: len(losses)] / search.count,
        "losses": np.array(losses),
        "accuracies": np.array(accuracies),
        "kept": search.count - low,
        "weights": search.count,
        "nonzero_by_layer": search.kept_by_layer(low),
        "rise": allowed,
        "loss": loss,
    }
    return _answer(low / search.count, done, details)


def _answer(share: float, done: bool, details: dict[str, Any]) -> Measurement:
    words = (
        f"{share:.1%} of {details['weights']} weights can go before the loss rises by {details['rise']:.3g}"
    )
    if done:
        status = Status(State.EXACT, f"{words}.")
        return Measurement(NAME, share, "1", status, 0.0, details=details)
    status = Status(State.OUT_OF_BUDGET, f"At least {words}; the budget ended the search.")
    return Measurement(NAME, share, "1", status, float("nan"), details=details)


class _Search:
    """The loss as a function of how many weights are removed."""

    def __init__(self, objective: Objective, scope: Scope) -> None:
        self.objective = objective
        self.params = objective.parameters()
        shapes = dict(zip(objective.layout.names, objective.layout.shapes, strict=True))
        places = objective.layout.slices()
        chosen = [n for n in places if len(shapes[n]) >= 2] or list(places)
        self.places = {n: places[n] for n in chosen}
        index = [torch.arange(p.start, p.stop, device=self.params.device) for p in self.places.values()]
        self.count = sum(map(len, index))
        self.order = torch.cat(index)[torch.argsort(self._ranks(index, scope), stable=True)]
        self.classes = may_decide(objective)
        self.cost = 2 if self.classes else 1

    def _ranks(self, index: list[Tensor], scope: Scope) -> Tensor:
        """What the weights are sorted by: their size, or their rank within their tensor."""
        sizes = [self.params[i].abs() for i in index]
        if scope == "global":
            return torch.cat(sizes)
        ranks = [torch.argsort(torch.argsort(s, stable=True), stable=True).double() for s in sizes]
        return torch.cat([(r + 0.5) / len(r) for r in ranks])

    def pruned(self, removed: int) -> Tensor:
        """The parameters without so many weights."""
        params = self.params.clone()
        params[self.order[:removed]] = 0
        return params

    def loss(self, removed: int) -> float:
        """The loss there."""
        return loss_at(self.objective, self.pruned(removed))

    def accuracy(self, removed: int) -> float:
        """Share of right answers; NaN where the targets are no classes."""
        found = decided(self.objective, self.pruned(removed)) if self.classes else None
        if found is None:
            return float("nan")
        return float(found.correct[found.labels >= 0].mean())

    def kept_by_layer(self, removed: int) -> dict[str, float]:
        """Share of each tensor that is left."""
        params = self.pruned(removed)
        return {n: float((params[p] != 0).double().mean()) for n, p in self.places.items()}
