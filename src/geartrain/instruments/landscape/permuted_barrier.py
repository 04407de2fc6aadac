"""Loss barrier between two networks once their hidden units have been matched: are they the same up to symmetry?

Units have no names: exchanging two of a layer, with all that is attached to them, changes nothing. Two seeds that
learn the same thing put it in different places, and the line between them meets a barrier that says only this. What is
left after matching says more. Misleads upwards: the best of factorially many exchanges is not found, and narrow
networks keep a barrier that wide ones lose. References: Entezari et al. (2022), arXiv:2110.06296; Ainsworth et
al. (2023), arXiv:2209.04836. Ledger: 1.13, 1.27.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from geartrain._torch import batches as _batches
from geartrain._torch import kernels
from geartrain.budget import Budget
from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.instruments._answers import answer, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._matching import assign, units
from geartrain.instruments._matching.assign import Exchange
from geartrain.instruments._matching.book import Units
from geartrain.instruments._matching.units import Call
from geartrain.instruments.landscape import _path
from geartrain.instruments.landscape._path import Barrier, BatchNorm, Ends, Walker
from geartrain.instruments.landscape._probe import Spending
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, format_number

Method = Literal["weights", "activations"]
Symmetries = Literal["permutations", "all"]
_POINTS, _SAMPLE = 11, 512
_NAME = "permuted_barrier"


def _price(objective: Any, *, points: int = _POINTS, **options: Any) -> Cost:
    return Cost(forwards=_path.price_of(objective, 2, points) + 4)


@instrument(needs="pair", unit="ℓ", price=_price)
def permuted_barrier(
    objective: Objective,
    other: Any,
    *,
    method: Method = "weights",
    symmetries: Symmetries = "permutations",
    points: int = _POINTS,
    batch_norm: BatchNorm = "recompute",
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the barrier on the line from one network to the other with its hidden units exchanged to fit.

    max_t [L((1-t)θ₁ + t π(θ₂)) - (1-t)L(θ₁) - tL(θ₂)], π the exchange of units that brings θ₂ closest to θ₁ (by
    weights: linear assignments, group after group, from several starts) or aligns its activations.

    What may be exchanged is found by tracing the model once and following the axes of its tensors: linear layers,
    convolutions (depthwise ones included), normalisation, pooling, residual sums, concatenations, embeddings, layer
    norm. What is not understood (attention's heads, recurrent cells) keeps its place, and what it reads with it. That
    π leaves the function as it is gets checked on the data.

    **Cost** 2·``points`` + 6 forward passes (about twice that where running statistics are taken anew), and one
    linear assignment (cubic in the width) per group and sweep.

    **Assumes** that both networks have one architecture.

    **Misleads** as an upper bound: matching is a hard problem, and a better exchange may exist. A barrier that
    vanishes shows one basin up to symmetry on these data, not equal functions. Networks that differ by scales (ReLU)
    or signs (tanh) beside permutations need ``symmetries="all"``.

    Args:
        objective: The first network.
        other: The second: an `Objective` (its model is taken), a model, or a vector of parameters.
        method: Match by ``"weights"`` or by ``"activations"`` (on up to 512 examples).
        symmetries: ``"permutations"``, or ``"all"``: also scales of units between linear maps and ReLU, and signs
            between linear maps and odd functions, taken to the first network's.
        points: Points on the line, the ends included.
        batch_norm: Running statistics at each point: ``"recompute"`` or ``"interpolate"``.
        generator: Source of the random orders of weight matching; a fixed seed if ``None``.
        budget: Limit: products (six forward passes count as one), ``"5s"`` or a `Budget`.

    Returns:
        The height of the barrier after matching, at least 0, unit ℓ; its standard error is over the examples.
        ``details``: the profile (``at``, ``points``, ``losses``, ``excess``, ``excess_errors``), ``before`` (barrier
        without matching) and ``before_error``, ``moved`` (share of the units that changed place), ``distance`` and
        ``distance_before`` (unit θ), ``function_error`` (relative change of the outputs by π: rounding), ``orders``
        (per group, named by the tensor that makes it: the unit of the second network that takes each place),
        ``num_groups``, ``not_understood``, ``method``.

    Raises:
        InputError: A setting is out of range, or ``other`` cannot be used.

    References:
        Ainsworth, Hayase, Srinivasa (2023), arXiv:2209.04836, algorithm 1; Jordan et al. (2023), arXiv:2211.08403.

    >>> import copy, geartrain as gt
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    >>> twin = copy.deepcopy(model)
    >>> with torch.no_grad():
    ...     for parameter, axis in ((twin[0].weight, 0), (twin[0].bias, 0), (twin[2].weight, 1)):
    ...         _ = parameter.copy_(parameter.index_select(axis, torch.tensor([2, 0, 3, 1])))
    >>> data = torch.randn(50, 3).double(), torch.randint(2, (50,))
    >>> first = gt.Objective(model, torch.nn.functional.cross_entropy, data)
    >>> permuted_barrier(first, twin).details["orders"]["0.weight"].tolist()
    [1, 3, 0, 2]
    """
    _path.check_points(points, _NAME)
    if method not in ("weights", "activations"):
        raise InputError(f"{_NAME}: method is {method!r}; allowed: 'weights' or 'activations'.")
    if symmetries not in ("permutations", "all"):
        raise InputError(f"{_NAME}: symmetries is {symmetries!r}; allowed: 'permutations' or 'all'.")
    found = _path.ends_of(objective, other, _NAME)
    if isinstance(found, str):
        return not_applicable(_NAME, found, unit="ℓ")
    ends, second = found
    if broken := _path.nan_ends(ends):
        return no_answer(_NAME, broken, unit="ℓ", state=State.NON_FINITE)
    spending = Spending(objective, Budget.of(budget).start())
    if spending.exhausted():
        return no_answer(_NAME, "The budget allows no point.", unit="ℓ", state=State.OUT_OF_BUDGET)
    try:
        match = _matched(objective, second, method, symmetries, generator)
        if isinstance(match, str):
            return not_applicable(_NAME, match, unit="ℓ")
        ends_after = ends.with_second(match.params, match.buffers)
        after = _path.barrier_along(
            Walker(objective, ends_after, batch_norm, _NAME), ends_after.line, points, spending
        )
        before = _path.barrier_along(Walker(objective, ends, batch_norm, _NAME), ends.line, points, spending)
    except NonFiniteError as error:
        return no_answer(_NAME, str(error), unit="ℓ", state=State.NON_FINITE)
    if after is None:
        said = "The budget allowed no point between the ends."
        return no_answer(_NAME, said, unit="ℓ", state=State.OUT_OF_BUDGET)
    return _measurement((ends, ends_after), match, after, before, points, method)


@dataclass(frozen=True)
class _Match:
    """The second network with its units exchanged.

    Attributes:
        params: Shape (params,).
        buffers: Floating buffers, exchanged likewise.
        exchanges: What was done, by group.
        groups: The groups.
        function_error: Largest change of the outputs, relative to the largest output.
    """

    params: Tensor
    buffers: Mapping[str, Tensor]
    exchanges: Mapping[int, Exchange]
    groups: Units
    function_error: float


def _matched(
    objective: Objective, second: Objective, method: str, symmetries: str, generator: torch.Generator | None
) -> _Match | str:
    """The match, or a sentence why there is none."""
    models = [copy.deepcopy(o.model) for o in (objective, second)]
    try:
        call = _call(objective, models[0])
        with objective._quiet(), kernels.mode(models[0], objective.training):
            groups = units.trace(models[0], call, frozenset(objective.layout.names))
    except UnsupportedError as error:
        return f"Its units cannot be found by tracing the model: {error}. Compare with linear_connectivity instead."
    if not groups.sizes:
        held = f" ({', '.join(groups.unknown)} keep their places)" if groups.unknown else ""
        return f"The model has no hidden units that could be exchanged{held}; linear_connectivity says all there is."
    named = [_tensors(o.model) for o in (objective, second)]
    exchanges = _exchanges(objective, models, named, groups, call, method, symmetries == "all", generator)
    moved = named[1]
    for exchange in exchanges:
        moved = assign.exchanged(groups, moved, exchange)
    params = second.layout.flatten(moved[n] for n in second.layout.names)
    buffers = {n: moved[n] for n, _ in second.model.named_buffers() if n in moved}
    error = _function_error(second, params, buffers)
    # A wrong exchange changes outputs by their own size; rounding by a few units in the last place.
    if not error <= (1e-8 if objective.dtype == torch.float64 else 1e-3):
        return (
            f"Exchanging the units that the trace calls equal changed the outputs by {100 * error:.2g} %, so the "
            "model's structure is not what the trace shows; compare with linear_connectivity instead."
        )
    combined = {g: _chain([e[g] for e in exchanges if g in e]) for g in groups.sizes}
    return _Match(params, buffers, combined, groups, error)


def _exchanges(
    objective: Objective,
    models: list[nn.Module],
    named: list[dict[str, Tensor]],
    groups: Units,
    call: Call,
    method: str,
    every: bool,
    generator: torch.Generator | None,
) -> list[dict[int, Exchange]]:
    """What to do to the second network, one after the other."""
    if not every:
        scales: list[dict[int, Exchange]] = [{}, {}]
        balanced = named
    else:
        scales = [assign.balancing(groups, tensors) for tensors in named]
        balanced = [assign.exchanged(groups, t, s) for t, s in zip(named, scales, strict=True)]
    if method == "weights":
        match, _ = assign.match_weights(groups, balanced[0], balanced[1], signs=every, generator=generator)
    else:
        seen = [_activations(objective, model, groups, call) for model in models]
        match = assign.match_activations(groups, seen[0], seen[1], signs=every)
    # In the second network's balanced form, then to the scales of the first.
    return [scales[1], match, {g: assign.undone(e) for g, e in scales[0].items()}]


def _chain(steps: list[Exchange]) -> Exchange:
    """Several exchanges one after the other as one."""
    order, factor = steps[0].order, steps[0].factor
    for step in steps[1:]:
        order, factor = order[step.order], factor[step.order] * step.factor
    return Exchange(order, factor)


def _call(objective: Objective, model: nn.Module) -> Call:
    """What the loss calls the model with on some examples."""
    calls: list[tuple[Any, Any]] = []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append((_batches.detached(args), _batches.detached(kwargs)))

    batch = _batches.take(objective.batches[0], slice(0, _SAMPLE))
    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with objective._quiet(), kernels.mode(model, objective.training):
            kernels.without_gradients(lambda: objective.batch_loss(model, _batches.detached(batch)))
    finally:
        handle.remove()
    objective.charge(forwards=min(1.0, _batches.size_of(batch) / objective.num_examples))
    if not calls:
        raise UnsupportedError("the loss never calls the model as a whole")
    return units.call_of(model, *calls[0])


def _activations(
    objective: Objective, model: nn.Module, groups: Units, call: Call
) -> dict[int, list[Tensor]]:
    """Activations of every group, each of shape (units, samples), on the examples of the call."""
    keep = frozenset(name for views in groups.views.values() for name, _ in views)
    with objective._quiet(), kernels.mode(model, objective.training), torch.no_grad():
        follower = units.Follower(model, groups.graph, call, keep)
        follower.run()
    return {
        group: [_samples(follower.kept[name], axis) for name, axis in views]
        for group, views in groups.views.items()
    }


def _samples(activations: Tensor, axis: int) -> Tensor:
    """Shape (units, samples). Places of an image are many; some thousands of samples settle a correlation."""
    rows = activations.movedim(axis, 0).reshape(activations.shape[axis], -1)
    some = torch.linspace(0, rows.shape[1] - 1, min(rows.shape[1], 8192)).long()
    return rows[:, some.to(rows.device)]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and floating buffers by name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {n: t.detach() for n, t in named if t.is_floating_point()}


def _function_error(second: Objective, params: Tensor, buffers: Mapping[str, Tensor]) -> float:
    twin = _path.twin_of(second)
    with torch.no_grad():
        for name, buffer in twin.model.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
    try:
        pair = [tree_leaves(second.outputs()), tree_leaves(twin.outputs(params))]
    except UnsupportedError:  # the loss hides the outputs
        pair = [[second.value()], [twin.value(params)]]
    largest, change = 0.0, 0.0
    for old, new in zip(*pair, strict=True):
        if isinstance(old, Tensor) and old.is_floating_point() and old.numel():
            largest = max(largest, float(old.abs().max()))
            change = max(change, float((new - old).abs().max()))
    return change / largest if largest else change


def _measurement(
    pair: tuple[Ends, Ends],
    match: _Match,
    after: Barrier,
    before: Barrier | None,
    points: int,
    method: str,
) -> Measurement:
    if not all(np.isfinite(after.losses[[0, -1]])):
        said = "The loss at an end of the line is not finite."
        return no_answer(_NAME, said, unit="ℓ", state=State.NON_FINITE)
    sizes = match.groups.sizes
    moved = sum(e.moved for e in match.exchanges.values())
    details = {
        **after.details(),
        "before": before.height if before else float("nan"),
        "before_error": before.error if before else float("nan"),
        "moved": moved / sum(sizes.values()),
        "distance": pair[1].distance,
        "distance_before": pair[0].distance,
        "function_error": match.function_error,
        "orders": {_maker(match.groups, g): e.order for g, e in match.exchanges.items()},
        "num_groups": len(sizes),
        "not_understood": match.groups.unknown,
        "method": method,
    }
    complete = before is not None and len(after.points) == len(before.points) == points
    state = State.ESTIMATE if complete else State.OUT_OF_BUDGET
    was = f" ({format_number(before.height)} before)" if before else ""
    sentence = (
        f"Matched by {method}, {moved} of {sum(sizes.values())} units moved; the line rises "
        f"{format_number(after.height)} above its chord{was}."
    )
    if match.groups.unknown:
        sentence += f" Units that {', '.join(match.groups.unknown)} read kept their places."
    if not complete:
        sentence += f" The budget allowed {len(after.points)} of {points} points."
    return answer(_NAME, after.height, sentence, unit="ℓ", error=after.error, state=state, details=details)


def _maker(groups: Units, group: int) -> str:
    """The first tensor that makes these units: a weight where there is one."""
    makers = [use.tensor for use in groups.uses[group] if use.made] or [groups.uses[group][0].tensor]
    return makers[0]
