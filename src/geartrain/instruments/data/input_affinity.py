"""Input affinity: whether the model is more than an affine function of its inputs.

A stack of linear layers without activation functions is one linear layer, however deep. A deviation of exactly 0
(rounding) means that; a small one may be a network that has not left its linear regime yet. Softmax and sigmoid at
the output are undone first: they are no nonlinearity in the sense meant here.

Ledger: 0.19
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from geartrain._torch import batches as _batches
from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments._answers import estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._layers import Head, first_tensor, head_of, in_evaluation
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement

PAIRS = 128


def _price(objective: Objective, **options: Any) -> Cost:
    return Cost(forwards=3 * min(PAIRS / objective.num_examples, 0.5))


@instrument(needs="objective", unit="1", price=_price)
def input_affinity(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the relative deviation of the model from an affine function of its inputs.

    √⟨|f((a+b)/2) - (f(a)+f(b))/2|²⟩ / √⟨|f(a) - f(b)|²⟩ over pairs (a, b) of examples, in evaluation mode.
    0 = affine; of order 0.1 = clearly nonlinear.

    **Cost** three forward passes over at most 128 examples.

    **Assumes** that the mean of two inputs is a valid input: numbers, not tokens.

    **Misleads** in a network that has not left its linear regime yet: a small value need not mean that
    activation functions are missing. Exactly 0, up to rounding, does.

    Args:
        objective: What to measure; made from ``loss_fn(outputs, targets)``.
        generator: Draws the pairs; seeded by the objective if omitted.
        budget: Not used.

    Returns:
        The deviation, a pure number. Details: ``num_pairs``, ``head`` (output activation that was undone). Not
        applicable to tokens, to losses that hide the outputs, and where all outputs are equal.

    Raises:
        NonFiniteError: An output is not finite.

    Example:
        >>> x = torch.randn(8, 3)
        >>> objective = Objective(torch.nn.Linear(3, 2), torch.nn.functional.mse_loss, (x, x[:, :2]))
        >>> input_affinity(objective).value < 1e-5
        True
    """
    name = "input_affinity"
    if objective.loss_fn is None:
        return not_applicable(name, "batch_loss(model, batch) hides the model's outputs.")
    inputs = objective.batches[0][0]
    leaves = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    size = _batches.size_of(inputs)
    if not leaves or not all(t.is_floating_point() for t in leaves) or size < 4:
        return not_applicable(
            name, "The inputs are tokens (or too few): there is nothing half-way between two of them."
        )
    source = generator or torch.Generator().manual_seed(objective.seed)
    order = torch.randperm(size, generator=source)[: 2 * min(PAIRS, size // 2)].to(objective.device)
    first, second = (_batches.take(inputs, part) for part in order.chunk(2))
    middle = tree_map(
        lambda a, b: (a + b) / 2 if isinstance(a, Tensor) and a.shape[:1] == (len(order) // 2,) else a,
        first,
        second,
    )
    quiet = in_evaluation(objective)
    head = head_of(quiet, first)[0]
    f, g, h = (_affine_scores(quiet, x, head) for x in (first, second, middle))
    objective.charge(forwards=3 * len(order) / 2 / objective.num_examples)
    gap, size_of_gap = (h - (f + g) / 2).square().mean(1), (f - g).square().mean(1)
    if float(size_of_gap.mean()) == 0:
        return not_applicable(name, "The model gives the same output for all inputs.")
    value = math.sqrt(float(gap.mean() / size_of_gap.mean()))
    error = _error(gap, size_of_gap, value)
    sentence = f"Half-way between two inputs the output is off the middle by {value:.2g} of their distance."
    return estimate(name, value, error, sentence, details={"num_pairs": len(f), "head": head.activation})


def _affine_scores(objective: Objective, inputs: Any, head: Head) -> Tensor:
    """Outputs before the output activation, where that can be undone; shape (examples, outputs), float64."""
    outputs = first_tensor(_in_double(objective, inputs))
    if outputs is None or not bool(torch.isfinite(outputs).all()):
        raise NonFiniteError("The model's outputs are NaN or infinite.")
    scores = outputs.detach().double()
    tiny = 1e-12
    if head.activation == "sigmoid":
        scores = torch.logit(scores.clamp(tiny, 1 - tiny))
    elif head.activation == "tanh":
        scores = torch.atanh(scores.clamp(-1 + tiny, 1 - tiny))
    elif head.activation in ("softmax", "log_softmax"):
        scores = scores.clamp_min(tiny).log() if head.activation == "softmax" else scores
        scores = scores - scores.mean(-1, keepdim=True)
    return scores.reshape(len(scores), -1)


def _in_double(objective: Objective, inputs: Any) -> Any:
    """The outputs in double precision where the model allows it: in a nearly dead model rounding is no curvature."""
    model = objective.model
    state = {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())}
    wide, wide_inputs = tree_map(_widen, state), tree_map(_widen, inputs)
    with objective._quiet():
        try:
            return functional_call(
                objective._caller,
                {f"model.{n}": t for n, t in wide.items()},
                ((wide_inputs,),),
                {"only_outputs": True},
            )
        except RuntimeError:  # the model makes tensors of its own, in its own precision
            return objective._outputs(objective._leaves(None), (inputs,))


def _widen(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _error(gap: Tensor, scale: Tensor, value: float) -> float:
    """Delta method for the root of a ratio of means."""
    ratio = value**2
    spread = float((gap - ratio * scale).std() / math.sqrt(len(gap)) / scale.mean())
    return spread / (2 * value) if value > 0 else 0.0
