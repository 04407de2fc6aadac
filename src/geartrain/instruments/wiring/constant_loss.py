"""Constant loss: the loss of the best predictor that ignores its inputs.

The natural yardstick of a loss: a model above it has learnt less than nothing, one at it has learnt the frequencies
of the classes or the mean of the targets and no more. It assumes that the minimum over one output vector can be
found by descent, which is so for convex losses.

Ledger: 0.21
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from geartrain._torch import batches as _batches
from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments._answers import not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import target_kind
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

ITERATIONS = 200
UNBOUNDED = -1e4


def _price(objective: Objective, **options: Any) -> Cost:
    return Cost(forwards=1 + 1 / objective.num_examples)


@instrument(needs="objective", unit="ℓ", price=_price)
def constant_loss(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure min_c mean_i loss(c, y_i), the loss of the best constant output c.

    By L-BFGS on the user's own loss: the entropy of the label frequencies for cross-entropy, the variance for the
    squared error. For sequences of classes c is shared by all places as well. Where the loss wants probabilities
    or log-probabilities, c is kept among them.

    **Cost** one forward pass of the model, and about 10 to 100 evaluations of the loss alone.

    **Assumes** a loss that is convex in the outputs (otherwise: a local minimum).

    **Misleads** as a floor: it is what no learning reaches, not what good learning does. For unbalanced classes
    it is small although nothing was learnt.

    Args:
        objective: What to measure; made from ``loss_fn(outputs, targets)``.
        generator: Not used: nothing is drawn.
        budget: Not used.

    Returns:
        The loss, in ℓ. Details: ``ratio`` = present loss / constant loss (NaN where the model's loss is not
        finite), ``iterations``, ``output`` (the best constant, where it has at most 64 entries), ``kind``
        (``"scores"``, ``"probabilities"``, ``"log-probabilities"`` or ``"probability"``). Not applicable to losses
        that hide the outputs.

    Example:
        Entropy of three labels 0, 1, 1:

        >>> objective = Objective(
        ...     torch.nn.Linear(1, 2), torch.nn.functional.cross_entropy, (torch.zeros(3, 1), torch.tensor([0, 1, 1]))
        ... )
        >>> round(constant_loss(objective).value, 6) == round(math.log(3) - 2 / 3 * math.log(2), 6)
        True
    """
    name = "constant_loss"
    if objective.loss_fn is None:
        return not_applicable(name, "batch_loss(model, batch) hides the model's outputs.", unit="ℓ")
    problem = _problem(objective)
    if problem is None:
        return not_applicable(
            name, "The outputs are not one tensor, so no constant can take their place.", unit="ℓ"
        )
    best = _best(problem)
    if best is None:
        return not_applicable(
            name, "The loss has no minimum over constant outputs, or refuses them.", unit="ℓ"
        )
    details = {
        "ratio": _ratio(objective, best.loss),
        "iterations": best.iterations,
        "output": best.output.double().cpu().numpy() if best.output.numel() <= 64 else None,
        "kind": best.kind,
    }
    state = State.CONVERGED if best.converged else State.NOT_CONVERGED
    sentence = (
        f"Best constant output after {best.iterations} iterations, on {objective.num_examples} examples."
    )
    return Measurement(name, best.loss, "ℓ", Status(state, sentence), 0.0, details=details)


@dataclass(frozen=True)
class _Problem:
    """Minimise the mean loss over a vector of this shape; ``spread(c, i)`` makes outputs of batch i of it."""

    objective: Objective
    targets: tuple[Any, ...]
    shapes: tuple[torch.Size, ...]
    axis: int | None
    like: Tensor
    start: Tensor

    def loss(self, constant: Tensor) -> Tensor:
        """Mean loss over all batches of that constant."""
        total = torch.zeros((), dtype=constant.dtype, device=constant.device)
        for targets, shape in zip(self.targets, self.shapes, strict=True):
            view = (
                constant
                if self.axis is None
                else constant.reshape([-1 if i == self.axis else 1 for i in range(len(shape))])
            )
            outputs = view + torch.zeros(shape, dtype=constant.dtype, device=constant.device)
            loss = self.objective.loss_fn(outputs, targets)  # type: ignore[misc]
            total = total + loss * (shape[0] / sum(s[0] for s in self.shapes))
        return total


@dataclass(frozen=True)
class _Fit:
    loss: float
    output: Tensor
    iterations: int
    converged: bool
    kind: str


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "scores": lambda c: c,
    "log-probabilities": lambda c: torch.log_softmax(c, -1),
    "probabilities": lambda c: torch.softmax(c, -1),
    "probability": torch.sigmoid,
}


def _problem(objective: Objective) -> _Problem | None:
    with objective._quiet():
        part = _batches.take(objective.batches[0][0], slice(0, 2))
        outputs = objective._outputs(objective._leaves(None), (part,))
    objective.charge(forwards=2 / objective.num_examples)
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.ndim == 0:
        return None
    outputs = outputs.detach()
    targets = tuple(batch[1] for batch in objective.batches)
    sizes = [_batches.size_of(batch) for batch in objective.batches]
    per_example = len(outputs) / min(2, sizes[0])  # a model may merge sequence and example into one axis
    if outputs.ndim == 1 or per_example != 1:
        shape = torch.Size(outputs.shape[1:])
        shapes = tuple(torch.Size([round(n * per_example), *shape]) for n in sizes)
        return _Problem(objective, targets, shapes, None, outputs, torch.zeros(shape))
    axis = _class_axis(outputs, targets[0])
    shapes = tuple(torch.Size([n, *outputs.shape[1:]]) for n in sizes)
    start = torch.zeros(outputs.shape[1:] if axis is None else (outputs.shape[axis],))
    return _Problem(objective, targets, shapes, axis, outputs, _guess(start, targets))


def _guess(zeros: Tensor, targets: tuple[Any, ...]) -> Tensor:
    """Where to start: log frequencies of classes, means of numbers; the search only has to polish them."""
    if not all(isinstance(t, Tensor) for t in targets):
        return zeros
    if zeros.ndim == 1 and target_kind(targets[0]) in ("classes", "sequence"):
        found = torch.cat([t.reshape(-1) for t in targets]).cpu()
        found = found[(found >= 0) & (found < len(zeros))].long()
        logs = (torch.bincount(found, minlength=len(zeros)).double() + 1e-3).log()
        return logs - logs.mean()
    if (
        target_kind(targets[0]) == "values"
        and len({t.shape[1:] for t in targets}) == 1
        and targets[0].shape[1:] == zeros.shape
    ):
        return torch.cat(targets).double().mean(0).cpu()
    return zeros


def _class_axis(outputs: Tensor, targets: Any) -> int | None:
    """Axis of the classes where every place has one; the constant is then shared by the places."""
    if target_kind(targets) != "sequence" or outputs.ndim < 3:
        return None
    return outputs.ndim - 1 if outputs.shape[1:-1] == targets.shape[1:] else 1


def _best(problem: _Problem) -> _Fit | None:
    """The first kind of constant whose search converges, else the first that got anywhere."""
    numbers = target_kind(problem.targets[0]) == "values"
    kinds = ("scores", "probability") if numbers else tuple(KINDS)
    fits = []
    for kind in kinds:
        fit = _minimise(problem, kind)
        if fit is not None and (fit.converged or numbers):
            return fit
        fits.append(fit)
    return next((fit for fit in fits if fit is not None), None)


def _minimise(problem: _Problem, kind: str) -> _Fit | None:
    """The best constant of a kind; ``None`` where the loss refuses it or has no lower bound."""
    for dtype in (torch.float64, problem.like.dtype):
        try:
            with problem.objective._quiet(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _descend(problem, kind, dtype)
        except (RuntimeError, ValueError, TypeError, IndexError):
            continue  # the loss insists on the model's own precision, or on another range of outputs
    return None


def _descend(problem: _Problem, kind: str, dtype: torch.dtype) -> _Fit | None:
    def cast(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    problem = dataclasses.replace(problem, targets=tuple(tree_map(cast, y) for y in problem.targets))
    start = problem.start.to(problem.like.device, dtype)
    free = start.clone().requires_grad_()
    before = _measure(problem, kind, start, 0)
    tolerance = 1e-7 if dtype == torch.float64 else 1e-5
    search = torch.optim.LBFGS(
        [free],
        max_iter=ITERATIONS,
        tolerance_grad=tolerance,
        tolerance_change=tolerance / 100,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        free.grad = None
        loss = problem.loss(KINDS[kind](free))
        loss.backward()
        return loss

    search.step(closure)  # type: ignore[arg-type]
    after = _measure(problem, kind, free.detach(), int(search.state[free].get("n_iter", 0)))
    # Where the start was the minimum to rounding, a search can only lose its way.
    better = after if math.isfinite(after.loss) and after.loss <= before.loss else before
    return better if math.isfinite(better.loss) and better.loss > UNBOUNDED else None


def _measure(problem: _Problem, kind: str, point: Tensor, iterations: int) -> _Fit:
    free = point.clone().requires_grad_()
    loss = problem.loss(KINDS[kind](free))
    slope = float(torch.autograd.grad(loss, free)[0].abs().max())
    value = float(loss.detach())
    return _Fit(value, KINDS[kind](point), iterations, slope <= 1e-4 * (1 + abs(value)), kind)


def _ratio(objective: Objective, constant: float) -> float:
    try:
        present = float(objective.value())
    except NonFiniteError:
        return math.nan
    return present / constant if constant != 0 else math.inf if present > 0 else math.nan
