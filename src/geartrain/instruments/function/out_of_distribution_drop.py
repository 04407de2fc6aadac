"""Out-of-distribution drop: what is lost on data that differ from the training data.

Three kinds of "different": data of the user's own; for a run, validation data beside training data; and three
corruptions of stated size (noise, blur, contrast), which any table or image allows.

References:
    Hendrycks and Dietterich (2019), arXiv:1903.12261; Taori et al. (2020), arXiv:2007.00644.

Ledger: 3.37, 3.17
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from geartrain.budget import Budget, Clock
from geartrain.errors import InputError
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.function._drop import Drop, compared
from geartrain.instruments.function._inputs import InputScale, input_scale
from geartrain.instruments.function._said import Said, broken, hear, is_broken
from geartrain.instruments.function._view import View, began, inputs_of, view_of, with_inputs
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status
from geartrain.run import Run

NAME = "out_of_distribution_drop"
CORRUPTIONS = ("noise", "blur", "scale")


def _price(
    subject: Any, data: Any = None, *, corruptions: Iterable[str] = CORRUPTIONS, **options: Any
) -> Cost:
    shifts = 1 if data is not None else len(list(corruptions))
    held = isinstance(subject, Run) and subject.validation_data is not None and data is None
    return Cost(forwards=1 + shifts + held)


@instrument(needs="data", unit="1", price=_price)
def out_of_distribution_drop(
    subject: Objective | Run,
    data: Any = None,
    *,
    corruptions: Iterable[str] = CORRUPTIONS,
    size: float = 0.5,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the accuracy lost on other data: given ones, held-out ones, or corrupted copies of the present ones.

    ``"noise"`` adds N(0, s²) with s = size · (rms deviation of a feature from its mean); ``"blur"`` averages images
    over 3 x 3 pixels, mixed in with share min(1, 2·size); ``"scale"`` multiplies the deviation from the mean input by
    1 + size. For a linear classifier with margins m_i under noise the accuracy becomes the mean of Φ(m_i / (s‖w‖)).

    **Cost**: one forward pass per point and one for the data as they are.

    **Assumes** that corrupted inputs keep their targets. Errors are of paired differences for corruptions, of two
    independent samples for other data.

    **Misleads** as "robustness": each point is robustness to this one shift. A drop from training to validation data
    is the generalisation gap, not a shift, unless `distribution_shift` tells the two apart.

    Args:
        subject: An objective, or a run (validation data where it has them).
        data: Other data, in the forms that an objective takes; the only point then.
        corruptions: Which of ``"noise"``, ``"blur"`` (images only, left out otherwise) and ``"scale"``.
        size: Of the corruptions.
        generator: Draws the noise; a fixed seed if omitted.
        budget: Time; points that it does not reach are NaN.

    Returns:
        Accuracy before less accuracy on the point (for numbers: 1 - loss before / loss there), dims ``("point",)``,
        labelled ``"given"``, or ``"held out"`` (training less validation, of a run), ``"noise"``, ``"blur"``,
        ``"scale"``. Details, per point by name: ``accuracy_before``, ``accuracy_after``, ``loss_before``,
        ``loss_after``; and ``mean_drop`` (over the corruptions) with ``mean_drop_error``, ``size``, ``split``.

    Raises:
        InputError: No such corruption, or a size that is not positive.

    Example:
        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> model.weight.data = torch.tensor([[-1.0], [1.0]])
        >>> x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
        >>> objective = Objective(model, torch.nn.functional.cross_entropy, (x, y))
        >>> out_of_distribution_drop(objective, (x + 3, y)).value.tolist()
        [0.5]
    """
    chosen = list(corruptions)
    if not set(chosen) <= set(CORRUPTIONS) or not size > 0:
        raise InputError(
            f"corruptions are {chosen} of size {size}; allowed: {', '.join(map(repr, CORRUPTIONS))}, "
            "and a positive size."
        )
    view = began(NAME, subject, budget)
    if isinstance(view, Measurement):
        return view
    clock = replace(Budget.of(budget).start(), products=None)
    before = hear(view.objective)
    if before is None or before.kind == "unjudged":
        return not_applicable(NAME, "The data hold no targets that answers could be compared with.")
    if is_broken(before):
        return broken(NAME)
    if data is not None:
        after = hear(view.objective.on(data))
        if after is None or after.kind != before.kind or is_broken(after):
            return not_applicable(NAME, "The model cannot be judged on the data that were given.")
        return _answer({"given": compared(before, after, paired=False)}, view, size, cut=False)
    drops = _held_out(subject, view, before)
    source = independent_of(generator)
    found = _corrupted(view.objective, before, chosen, size, source, clock)
    if not drops and not found:
        return not_applicable(NAME, "The inputs cannot be corrupted (tokens, or no variation); pass data=.")
    return _answer(drops | found, view, size, cut=clock.exhausted())


def _held_out(subject: Objective | Run, view: View, validation: Said) -> dict[str, Drop | None]:
    if not isinstance(subject, Run) or view.split != "validation":
        return {}
    train = view_of(subject, "train")
    said = hear(train.objective) if isinstance(train, View) else None
    if said is None or said.kind != validation.kind or is_broken(said):
        return {}
    return {"held out": compared(said, validation, paired=False)}


def _corrupted(
    objective: Objective,
    before: Said,
    chosen: list[str],
    size: float,
    source: np.random.Generator,
    clock: Clock,
) -> dict[str, Drop | None]:
    scale = input_scale(objective)
    if scale is None:
        return {}
    drops: dict[str, Drop | None] = {}
    for name in chosen:
        if name == "blur" and scale.mean.ndim != 3:
            continue
        drops[name] = None
        if clock.exhausted():
            continue
        batches = [
            with_inputs(b, corrupted(inputs_of(b).detach(), name, size, scale, source))
            for b in objective.batches
        ]
        after = hear(objective.on(batches))
        if after is not None and not is_broken(after):
            drops[name] = compared(before, after)
    return drops


def independent_of(generator: torch.Generator | None) -> np.random.Generator:
    """A source that draws other numbers than PyTorch would from the same seed.

    Data made with ``torch.manual_seed(0)`` and noise from ``torch.Generator().manual_seed(0)`` are the same numbers.
    """
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=source, device=source.device)))


def corrupted(
    inputs: Tensor, name: str, size: float, scale: InputScale, source: np.random.Generator
) -> Tensor:
    """Inputs, shape (examples, ...), with one corruption."""
    if name == "noise":
        noise = torch.from_numpy(source.standard_normal(tuple(inputs.shape)))
        return inputs + (size * scale.spread * noise).to(inputs.device, inputs.dtype)
    if name == "scale":
        mean = scale.mean.to(inputs.dtype)
        return mean + (1 + size) * (inputs - mean)
    share = min(1.0, 2 * size)
    smooth = functional.avg_pool2d(functional.pad(inputs, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (1 - share) * inputs + share * smooth


def _answer(drops: dict[str, Drop | None], view: View, size: float, *, cut: bool) -> Measurement:
    names = list(drops)
    value = np.array([math.nan if d is None else d.value for d in drops.values()])
    error = np.array([math.nan if d is None else d.error for d in drops.values()])
    done = {name: d for name, d in drops.items() if d is not None}
    if not done:
        state = State.OUT_OF_BUDGET if cut else State.NON_FINITE
        return no_answer(NAME, "No point was reached." if cut else "No output was finite.", state=state)
    details: dict[str, Any] = {"size": size, "split": view.split}
    for name, drop in done.items():
        details[name] = drop.details
    parts = [done[n] for n in names if n in CORRUPTIONS and n in done]
    if parts:
        details["mean_drop"] = float(np.mean([p.value for p in parts]))
        # The corruptions hit the same examples, so their errors add up rather than average out.
        details["mean_drop_error"] = float(np.mean([p.error for p in parts]))
    worst = max(done, key=lambda n: done[n].value)
    sentence = f"Worst: {worst}. {done[worst].words}, on {view.words}."
    missing = cut and len(done) < len(drops)
    if missing:
        sentence += f" The budget reached {len(done)} of {len(drops)} points."
    status = Status(State.OUT_OF_BUDGET if missing else State.ESTIMATE, sentence)
    return Measurement(NAME, value, "1", status, error, ("point",), {"point": names}, details=details)
