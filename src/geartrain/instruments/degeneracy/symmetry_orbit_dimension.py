"""Number of directions in which the parameters can move without changing the function at all.

ReLU units can be rescaled, linear ones mixed, logits shifted, the queries of a head turned against its keys: the points
of such an orbit are one function. Flatness, distances and volumes in parameter space are to be read up to it. Misleads
where a unit is dead on every input tried: its parameters are free here, and are no symmetry further on. Ledger: 2.16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geartrain._torch import ntk as _ntk
from geartrain.budget import Budget, Clock
from geartrain.errors import InputError
from geartrain.instruments import _tangent
from geartrain.instruments._answers import answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.degeneracy import _generators, _jacobians
from geartrain.records import Cost, Measurement, State, format_number

MAX_PARAMS = 1000
"""Up to so many parameters the Jacobian is decomposed; above, only the symmetries known by name are counted."""

_EXACT, _NEAR, _CLEAR = 1e-8, 1e-2, 100.0
_MORE = 20  # rows beyond the number of parameters, so that a square matrix is never unlucky
_RANDOM_EXAMPLES = 32  # for the check of one family in a network too large to decompose
_ENTRIES = 30_000_000


@dataclass(frozen=True)
class _Explained:
    """Families that passed the check."""

    dimension: int
    by_kind: dict[str, int]
    near: dict[str, int]


def _price(objective: Any, *, max_params: int = MAX_PARAMS, **options: Any) -> Cost:
    if _tangent.obstacle(objective):
        return Cost()
    outputs = _tangent.count_outputs(objective)
    params, examples = objective.num_params, objective.num_examples
    if params > max_params:
        return Cost(
            gradients=2 * 10 * (1 + min(examples, _RANDOM_EXAMPLES) / examples), peak_bytes=8 * _ENTRIES
        )
    shares = (_count(params, outputs, examples) + _random_count(params, outputs)) / examples
    rows = (_count(params, outputs, examples) + _random_count(params, outputs)) * outputs
    return Cost(forwards=shares, gradients=outputs * shares, peak_bytes=8 * params * (3 * rows + 2 * params))


@instrument(needs="objective", unit="1", price=_price)
def symmetry_orbit_dimension(
    objective: Any,
    *,
    tol: float = 1e-9,
    max_params: int = MAX_PARAMS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Dimension of the continuous symmetry orbit through this point: directions that leave the function as it is.

    Directions v with J v = 0 to rounding on the data *and* on random inputs, more of them than there are parameters:
    params - rank(J). For classes the outputs count up to a shift of the logits, which no softmax sees. The directions
    are then explained, as far as they can be, by symmetries known by name (rescaling of units, mixing of linear units,
    shifts before a softmax or a normalisation, turning queries against keys and values against outputs), each checked.

    **Cost** a Jacobian with a few more rows than parameters, and its singular values, up to ``max_params``; beyond
    that two gradients for every family of known symmetries, and the answer is what these explain: a lower bound.

    **Assumes** that the orbit is as large as its tangent space: true at generic points.

    **Misleads** where parameters do nothing for another reason: a dead unit, a token that never occurs. The details
    count them apart (``silent``). Symmetries broken slightly (a normalisation with its ε) are under ``near``.

    Args:
        objective: What to measure; an `Objective` with ``loss_fn``.
        tol: Singular values of the Jacobian below ``tol`` times the largest count as zero.
        max_params: Largest number of parameters for which the Jacobian is decomposed; its third power is the time.
        generator: Source of the random inputs; a fixed seed if ``None``.
        budget: Limit: passes back, ``"5s"`` or a `Budget`.

    Returns:
        The dimension: exact where the singular values leave a clear gap. ``details``: ``explained`` (dimension that the
        known symmetries span), ``by_kind`` (dimension of each kind by itself; kinds may overlap), ``unexplained``,
        ``silent`` (parameters that change nothing by themselves), ``near`` (by kind, symmetric to 1 % only),
        ``on_data`` (the same dimension on the data alone), ``gap``, ``modulo_softmax``, ``num_params``.

    Raises:
        InputError: A setting is out of range.

    References:
        Kunin et al. (2021), arXiv:2012.04728 (symmetries and their generators); Grigsby et al. (2022),
        arXiv:2209.04036.

    >>> import geartrain as gt
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(3, 4, bias=False), torch.nn.ReLU(), torch.nn.Linear(4, 1, bias=False)
    ... ).double()
    >>> data = torch.randn(60, 3, dtype=torch.float64), torch.zeros(60, 1).double()
    >>> float(symmetry_orbit_dimension(gt.Objective(model, torch.nn.functional.mse_loss, data)))  # one per unit
    4.0
    """
    if not 0 < tol < 1:
        raise InputError(f"tol is {tol}; it must lie between 0 and 1.")
    clock = Budget.of(budget).start()
    source = generator if generator is not None else torch.Generator().manual_seed(0)

    def compute() -> Measurement:
        if reason := _tangent.obstacle(objective):
            return not_applicable("symmetry_orbit_dimension", reason)
        outputs = _tangent.count_outputs(objective)
        if clock.exhausted(outputs - 1):
            raise _tangent.OutOfBudgetError
        objective.value()  # names the first module that is not finite
        wide = _jacobians.in_double(objective)
        if wide.num_params > max_params:
            return _large(wide, clock, source)
        return _small(wide, outputs, tol, source)

    return _tangent.guarded("symmetry_orbit_dimension", compute)


def _count(params: int, outputs: int, examples: int) -> int:
    """Examples of the data that are used: enough rows for every parameter, if there are so many."""
    return min(examples, -(-(params + _MORE) // outputs))


def _random_count(params: int, outputs: int) -> int:
    return -(-(params + _MORE) // outputs)


def _small(wide: Any, outputs: int, tol: float, source: torch.Generator) -> Measurement:
    place = _tangent.tangent(
        wide, _count(wide.num_params, outputs, wide.num_examples), source, max_outputs=None
    )
    classes = _jacobians.class_axis(wide)
    random = wide.on([_jacobians.random_inputs(wide, _random_count(wide.num_params, outputs), source)])
    on_data = _jacobians.jacobian(place.objective, classes)
    everything = torch.linalg.qr(torch.cat([on_data, _jacobians.jacobian(random, classes)]), mode="r")[1]
    values = torch.linalg.svdvals(everything).cpu().numpy()
    found = _jacobians.rank_of(values, tol)
    dimension = wide.num_params - found.rank
    explained = _explained(wide, everything, float(values[0]))
    silent = int((everything.norm(dim=0) <= tol * float(values[0])).sum())
    details = {
        "explained": explained.dimension,
        "by_kind": explained.by_kind,
        "unexplained": dimension - explained.dimension,
        "silent": silent,
        "near": explained.near,
        "on_data": wide.num_params
        - _jacobians.rank_of(torch.linalg.svdvals(on_data).cpu().numpy(), tol).rank,
        "gap": found.gap,
        "modulo_softmax": classes is not None,
        "num_params": wide.num_params,
    }
    sentence = (
        f"{dimension} of {wide.num_params} directions change nothing; {explained.dimension} of them are known"
    )
    sentence += f" symmetries, {silent} are single parameters without effect." if silent else " symmetries."
    state, error = State.EXACT, 0.0
    if found.gap < _CLEAR:
        sentence += (
            f" There is no clear gap between them and the rest (a factor of {format_number(found.gap)})."
        )
        state, error = State.NOT_CONVERGED, float("nan")
    return answer("symmetry_orbit_dimension", dimension, sentence, state=state, error=error, details=details)


def _explained(wide: Any, jacobian: Tensor, largest: float) -> _Explained:
    """Which candidates the Jacobian sends to zero, and what they span together."""
    kept: list[Tensor] = []
    kinds: dict[str, list[Tensor]] = {}
    near: dict[str, int] = {}
    for family in _generators.families(wide):
        sizes = family.directions.norm(dim=1)
        moved = (jacobian @ family.directions.T).norm(dim=0)
        bound = largest * sizes
        passed = family.directions[(moved <= _EXACT * bound) & (sizes > 0)]
        almost = int(((moved > _EXACT * bound) & (moved <= _NEAR * bound)).sum())
        if almost and "normalisation" in family.kind:
            near[family.kind] = near.get(family.kind, 0) + almost
        if len(passed):
            kept.append(passed)
            kinds.setdefault(family.kind, []).append(passed)
    by_kind = {kind: _span(torch.cat(parts)) for kind, parts in kinds.items()}
    return _Explained(_span(torch.cat(kept)) if kept else 0, by_kind, near)


def _span(directions: Tensor) -> int:
    """Dimension of what they span."""
    lengths = directions.norm(dim=1, keepdim=True)
    values = torch.linalg.svdvals(directions / lengths).cpu().numpy()
    return _jacobians.rank_of(values, 1e-9).rank


def _large(wide: Any, clock: Clock, source: torch.Generator) -> Measurement:
    """What the known symmetries explain: of each family a random mixture is checked, on data and on random inputs."""
    random = wide.on([_jacobians.random_inputs(wide, min(wide.num_examples, _RANDOM_EXAMPLES), source)])
    classes = _jacobians.class_axis(wide)
    any_direction = torch.randn(wide.num_params, generator=source, dtype=torch.float64).to(wide.parameters())
    kept: list[Tensor] = []
    kinds: dict[str, int] = {}
    entries, spent, complete = 0, 0, True
    scale = [_moved(o, any_direction, classes) / float(any_direction.norm()) for o in (wide, random)]
    for family in _generators.families(wide):
        spent += 1
        if clock.exhausted(spent) or entries + family.directions.numel() > _ENTRIES:
            complete = False
            break
        weights = torch.randn(len(family.directions), generator=source, dtype=torch.float64).to(any_direction)
        mixture = weights @ family.directions
        length = float(mixture.norm())
        if length == 0:
            continue
        moved = max(
            _moved(o, mixture, classes) / (s * length)
            for o, s in zip((wide, random), scale, strict=True)
            if s
        )
        if moved <= 1e-7:
            kept.append(family.directions)
            kinds[family.kind] = kinds.get(family.kind, 0) + _span_by_gram(family.directions)
            entries += family.directions.numel()
    dimension = _span_by_gram(torch.cat(kept)) if kept else 0
    details = {
        "explained": dimension,
        "by_kind": kinds,
        "modulo_softmax": classes is not None,
        "num_params": wide.num_params,
    }
    sentence = (
        f"At least {dimension} of {wide.num_params} directions change nothing: those of known symmetries. The "
        "network is too large to look for others (max_params)."
    )
    state = State.ESTIMATE if complete else State.OUT_OF_BUDGET
    return answer(
        "symmetry_orbit_dimension", dimension, sentence, error=float("nan"), state=state, details=details
    )


def _moved(objective: Any, direction: Tensor, classes: tuple[tuple[int, ...], int] | None) -> float:
    pushed = _ntk.jvp(objective, direction)
    return float(_jacobians.centred_logits(pushed[..., None], classes).norm())


def _span_by_gram(directions: Tensor) -> int:
    """The same for long directions, by the small matrix of their products (so to half the digits)."""
    used = directions[directions.norm(dim=1) > 0]
    unit = used / used.norm(dim=1, keepdim=True)
    values = torch.linalg.eigvalsh(unit @ unit.T).flip(0).clamp(min=0).sqrt().cpu().numpy()
    return _jacobians.rank_of(values, 1e-6).rank
