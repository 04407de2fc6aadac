"""Everything that may differ from member to member, checked and spread to one value per member."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geartrain._torch.flat import Layout
from geartrain.ensemble.averaging import Average
from geartrain.ensemble.optimizers import Rule, check_settings, rule_name
from geartrain.ensemble.schedules import Schedule
from geartrain.ensemble.stopping import Stop
from geartrain.errors import InputError


@dataclass(frozen=True)
class Settings:
    """How every member is trained; tensors of shape (members,) are float64 on the CPU.

    Attributes:
        seeds: One per member.
        rule: Optimizer and its settings.
        lr: Step sizes, before the schedule.
        schedule: Factor of the step sizes.
        clip: Largest gradient norms (infinity: none), or ``None``.
        average: Which average of the parameters is kept, or ``None``.
        batch_size: One per member; ``None`` for all of the member's examples.
        label_noise: Shares of wrong labels (or standard deviations).
        subset: Indices of each member's examples, or ``None``.
        stop: When members leave.
        below: Thresholds of ``stop``, or ``None``.
    """

    seeds: tuple[int, ...]
    rule: Rule
    lr: Tensor
    schedule: Schedule
    clip: Tensor | None
    average: Average | None
    batch_size: tuple[int | None, ...]
    label_noise: Tensor
    subset: tuple[Tensor, ...] | None
    stop: Stop
    below: Tensor | None

    @property
    def members(self) -> int:
        """How many."""
        return len(self.seeds)

    @staticmethod
    def of(
        seeds: Any,
        *,
        optimizer: str = "adam",
        lr: Any = 1e-3,
        steps: int = 2000,
        batch_size: Any = None,
        weight_decay: Any = 0.0,
        momentum: Any = None,
        betas: Any = (0.9, 0.999),
        eps: Any = 1e-8,
        alpha: Any = 0.99,
        schedule: Any = None,
        clip_grad_norm: Any = None,
        average: Any = None,
        label_noise: Any = 0.0,
        subset: Any = None,
        stop: Any = None,
    ) -> Settings:
        """The settings meant by what a user passes to `train` or `alone`.

        Raises:
            InputError: One has the wrong length, type or range.
        """
        seeds = seeds_of(seeds)
        count = len(seeds)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise InputError(f"steps is {steps!r}; it must be a whole number, at least 0.")
        name = rule_name(optimizer)
        lrs = per_member("lr", lr, count)
        values = {"weight_decay": per_member("weight_decay", weight_decay, count)}
        if name in ("adam", "adamw"):
            values |= {"eps": per_member("eps", eps, count), **_betas(betas, count)}
        else:
            usual = 0.9 if optimizer in ("momentum", "nesterov") else 0.0
            values["momentum"] = per_member("momentum", usual if momentum is None else momentum, count)
        if name == "sgd":
            values["nesterov"] = per_member("nesterov", float(optimizer == "nesterov"), count)
        if name == "rmsprop":
            values |= {"eps": per_member("eps", eps, count), "alpha": per_member("alpha", alpha, count)}
        check_settings(name, {**values, "lr": lrs})
        if momentum is not None and "momentum" not in values:
            raise InputError(
                f'momentum is a setting of sgd, momentum, nesterov and rmsprop; optimizer="{optimizer}" has betas.'
            )
        rule_stop = Stop.of(stop)
        noise = per_member("label_noise", label_noise, count)
        if bool((noise < 0).any()):
            raise InputError(f"label_noise is {float(noise.min())}; it must be at least 0.")
        return Settings(
            seeds=seeds,
            rule=Rule(name, values),
            lr=lrs,
            schedule=Schedule.of(schedule, max(steps, 1)),
            clip=_clips(clip_grad_norm, count),
            average=Average.of(average),
            batch_size=_batch_sizes(batch_size, count),
            label_noise=noise,
            subset=_subsets(subset, count),
            stop=rule_stop,
            below=None if rule_stop.below is None else per_member("stop.below", rule_stop.below, count),
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors, numbers and strings; a schedule that is a function is only named."""
        return {
            "seeds": list(self.seeds),
            "rule": self.rule.name,
            "rule_settings": dict(self.rule.settings),
            "lr": self.lr,
            "schedule": {**dataclasses.asdict(dataclasses.replace(self.schedule, function=None))},
            "clip": self.clip,
            "average": None if self.average is None else dataclasses.asdict(self.average),
            "batch_size": list(self.batch_size),
            "label_noise": self.label_noise,
            "subset": None if self.subset is None else list(self.subset),
            "plateau": [self.stop.plateau, self.stop.min_change],
            "below": self.below,
        }

    @staticmethod
    def from_state_dict(state: Mapping[str, Any], schedule: Any = None) -> Settings:
        """The inverse of `state_dict`; ``schedule`` replaces the stored one (needed where it was a function)."""
        plateau, min_change = state["plateau"]
        kept = Schedule(**state["schedule"])
        return Settings(
            seeds=tuple(state["seeds"]),
            rule=Rule(state["rule"], state["rule_settings"]),
            lr=state["lr"],
            schedule=kept if schedule is None else Schedule.of(schedule, 1),
            clip=state["clip"],
            average=None if state["average"] is None else Average(**state["average"]),
            batch_size=tuple(state["batch_size"]),
            label_noise=state["label_noise"],
            subset=None if state["subset"] is None else tuple(state["subset"]),
            stop=Stop(below=state["below"], plateau=plateau, min_change=min_change),
            below=state["below"],
        )


def seeds_of(given: Any) -> tuple[int, ...]:
    """A number of members (seeds 0, 1, ...) or the seeds themselves.

    >>> seeds_of(3), seeds_of([5, 7])
    ((0, 1, 2), (5, 7))
    """
    if isinstance(given, int) and not isinstance(given, bool):
        if given < 1:
            raise InputError(
                f"seeds is {given}; it must be a number of members, at least 1, or a list of seeds."
            )
        return tuple(range(given))
    try:
        seeds = tuple(map(int, given))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"seeds is {given!r}; it must be a number of members or a list of whole numbers."
        ) from error
    if not seeds or min(seeds) < 0:
        raise InputError("seeds must hold at least one seed, and none below 0.")
    return seeds


def per_member(name: str, value: Any, members: int) -> Tensor:
    """One number, or one per member, as float64 of shape (members,).

    Raises:
        InputError: Another length, or not numbers.
    """
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} is {value!r}; it must be a number, or a list or tensor of {members} numbers (one per member)."
        ) from error
    if tensor.ndim == 0:
        return tensor.repeat(members)
    if tensor.shape != (members,):
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)}; it must be one number or one per member, shape ({members},)."
        )
    return tensor.clone()


def _betas(betas: Any, members: int) -> dict[str, Tensor]:
    tensor = torch.as_tensor(betas, dtype=torch.float64)
    if tensor.shape == (2,):
        tensor = tensor.expand(members, 2)
    if tensor.shape != (members, 2):
        raise InputError(
            f"betas has shape {tuple(tensor.shape)}; it must be one pair such as (0.9, 0.999), or {members} pairs."
        )
    return {"beta1": tensor[:, 0].clone(), "beta2": tensor[:, 1].clone()}


def _clips(given: Any, members: int) -> Tensor | None:
    if given is None:
        return None
    if isinstance(given, Sequence):
        given = [float("inf") if one is None else one for one in given]
    clips = per_member("clip_grad_norm", given, members)
    if not bool((clips > 0).all()):
        raise InputError(
            f"clip_grad_norm is {float(clips.min())}; it must be above 0, or None for no clipping."
        )
    return clips


def _batch_sizes(given: Any, members: int) -> tuple[int | None, ...]:
    if given is None:
        return (None,) * members
    many = [given] * members if isinstance(given, int) else list(given)
    sizes = tuple(None if size is None else int(size) for size in many)
    if len(sizes) != members or any(size is not None and size < 1 for size in sizes):
        raise InputError(
            f"batch_size is {given!r}; it must be None (all examples), one number of at least 1, or one per member "
            f"({members})."
        )
    return sizes


def _subsets(given: Any, members: int) -> tuple[Tensor, ...] | None:
    if given is None:
        return None
    one = (isinstance(given, Tensor) and given.ndim == 1) or (
        isinstance(given, (Sequence, range)) and all(isinstance(i, int) for i in given)
    )
    parts = [given] * members if one else list(given)
    subsets = tuple(torch.as_tensor(part, dtype=torch.int64).cpu() for part in parts)
    if len(subsets) != members or any(part.ndim != 1 or not len(part) for part in subsets):
        raise InputError(
            f"subset holds {len(subsets)} lists of indices; it must be one list for all members or one per member "
            f"({members}), each with at least one index."
        )
    return subsets


def masks_of(given: Any, layout: Layout, members: int) -> Tensor | None:
    """Masks as one matrix of 0 and 1, shape (members, params), float32; ``None`` if there are none.

    Args:
        given: ``{name: tensor}`` with tensors of the parameter's shape, or with a member axis before it; a list of
            such dicts, one per member; or the matrix itself, (params,) or (members, params). What is not named is not
            masked.
        layout: Names and shapes.
        members: How many.

    Returns:
        The matrix.

    Raises:
        InputError: A name is unknown, a shape wrong, or a number is not 0 or 1.
    """
    if given is None:
        return None
    matrix = torch.ones(members, layout.num_params)
    if isinstance(given, Tensor):
        if given.shape not in ((layout.num_params,), (members, layout.num_params)):
            raise InputError(
                f"mask has shape {tuple(given.shape)}; it must be ({layout.num_params},) or "
                f"({members}, {layout.num_params})."
            )
        matrix[:] = given.float()
    elif isinstance(given, Mapping):
        _fill(matrix, given, layout)
    else:
        given = list(given)
        if len(given) != members:
            raise InputError(f"mask holds {len(given)} masks; it must be one, or one per member ({members}).")
        for row, mask in zip(matrix, given, strict=True):
            _fill(row[None], mask, layout)
    if not bool(((matrix == 0) | (matrix == 1)).all()):
        raise InputError("mask holds numbers other than 0 and 1; 1 keeps a parameter, 0 holds it at zero.")
    return matrix


def _fill(rows: Tensor, mask: Mapping[str, Tensor], layout: Layout) -> None:
    slices, shapes = layout.slices(), dict(zip(layout.names, layout.shapes, strict=True))
    for name, part in mask.items():
        if name not in slices:
            raise InputError(f"mask names {name!r}; the parameters are {', '.join(layout.names)}.")
        part = torch.as_tensor(part).float()
        shape = tuple(shapes[name])
        if tuple(part.shape) not in (shape, (len(rows), *shape)):
            raise InputError(
                f"mask of {name!r} has shape {tuple(part.shape)}; it must be {shape} or {(len(rows), *shape)}."
            )
        many = part.ndim > len(shape)
        rows[:, slices[name]] = part.reshape(len(rows) if many else 1, -1)
