"""Share of hidden units that are exact copies of another unit, and will stay so.

Units with the same incoming weights *and* the same gradient move together for ever: a layer of them is worth one unit.
That is what a constant (or all-zero) initialisation does. Equal weights with different gradients (a zero-initialised
residual branch) part at the first step and do not count. Misleads under dropout or other noise per unit,
which breaks the symmetry slowly although the mean gradients agree. Reference: Fukumizu and Amari (2000), Neural
Networks 13:317. Ledger: 0.13.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run


def _price(objective: Any, **options: Any) -> Cost:
    return Cost(forwards=1, gradients=1)


@instrument(needs="objective", unit="1", price=_price)
def parameter_symmetry(
    objective: Objective | Run,
    *,
    tol: float = 1e-5,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of hidden units that share weights and gradient with another unit of their layer.

    Units are the rows of every weight matrix (kernels by output channel, with their bias) but those of the layer that
    is called last and of embeddings. Two are copies if their rows differ by less than ``tol`` of their norm; the same
    is asked of the rows of the gradient.

    **Cost** one gradient.

    **Assumes** that no noise acts on single units.

    **Misleads** under dropout or other noise per unit, which breaks the symmetry slowly although the mean
    gradients agree.

    Args:
        objective: An `Objective`, or a `Run` whose training loss is meant.
        tol: Relative difference up to which rows count as equal.
        generator: Source of the projection that sorts the rows; a fixed seed if ``None``.
        budget: Not used.

    Returns:
        The share, between 0 and 1: of n equal units all n are copies of another. Exact. ``details``: ``copies`` (share
        with equal weights, whatever their gradients), ``layers`` (share by name of the module), ``num_units``.
    """
    if isinstance(objective, Run):
        objective = objective.objective()
    try:
        gradient = objective.gradient()
    except NonFiniteError as error:
        return no_answer("parameter_symmetry", str(error), state=State.NON_FINITE)
    rows = _rows(objective, gradient)
    if not rows:
        return no_answer("parameter_symmetry", "There is no hidden layer of units.")
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    counts, copies, by_layer = 0, 0, {}
    persistent = 0
    for name, (weights, slopes) in rows.items():
        equal = _copies(weights, tol, source)
        stuck = equal & _copies(torch.cat([_unit(weights), _unit(slopes)], dim=1), tol, source)
        counts, copies, persistent = (
            counts + len(equal),
            copies + int(equal.sum()),
            persistent + int(stuck.sum()),
        )
        by_layer[name] = float(stuck.double().mean())
    details = {"copies": copies / counts, "layers": by_layer, "num_units": counts}
    sentence = f"{persistent} of {counts} hidden units are exact copies of another and stay so."
    return answer("parameter_symmetry", persistent / counts, sentence, state=State.EXACT, details=details)


def _rows(objective: Objective, gradient: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Incoming weights (with bias) and their gradients of every hidden layer, shape (units, inputs)."""
    parameters, slices = objective.parameters(), objective.layout.slices()
    shapes = dict(zip(objective.layout.names, objective.layout.shapes, strict=True))
    last, skipped = _last_layer(objective), _embeddings(objective.model)
    rows = {}
    for name, shape in shapes.items():
        owner, _, short = name.rpartition(".")
        if len(shape) < 2 or shape[0] < 2 or owner == last or owner in skipped:
            continue
        bias = f"{owner}.{short.replace('weight', 'bias')}".lstrip(".")
        names = [name, bias] if bias in shapes and bias != name and shapes[bias] == shape[:1] else [name]
        pair = [
            torch.cat([v[slices[n]].reshape(shape[0], -1) for n in names], 1) for v in (parameters, gradient)
        ]
        rows[name.removesuffix(".weight")] = (pair[0], pair[1])
    return rows


def _copies(rows: Tensor, tol: float, generator: torch.Generator) -> Tensor:
    """Which rows equal another row: neighbours after sorting by a random projection are compared in full."""
    direction = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64).to(rows.device)
    order = (rows.double() @ direction).argsort()
    ordered = rows.double()[order]
    scale = torch.maximum(ordered[1:].norm(dim=1), ordered[:-1].norm(dim=1))
    same = (ordered[1:] - ordered[:-1]).norm(dim=1) <= tol * scale
    no = torch.zeros(1, dtype=torch.bool, device=rows.device)
    flags = torch.cat([no, same]) | torch.cat([same, no])
    result = torch.zeros_like(flags)
    result[order] = flags
    return result


def _unit(rows: Tensor) -> Tensor:
    """Rows in units of the largest one, so that weights and gradients count alike."""
    largest = rows.norm(dim=1).max()
    return rows / largest if bool(largest > 0) else rows


def _last_layer(objective: Objective) -> str | None:
    """The module with a weight matrix that is called last: its units are outputs, not hidden."""
    called: list[str] = []  # in the order in which calls begin: a container ends after what it contains
    owners = {
        n: m
        for n, m in objective.model.named_modules()
        if any(p.ndim > 1 for p in m.parameters(recurse=False))
    }
    handles = [m.register_forward_pre_hook(lambda *_, n=n: called.append(n)) for n, m in owners.items()]
    try:
        objective.on([objective.batches[0]]).value()
    finally:
        for handle in handles:
            handle.remove()
    return called[-1] if called else None


def _embeddings(model: nn.Module) -> set[str]:
    return {n for n, m in model.named_modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
