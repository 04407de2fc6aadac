"""What is written down on the way: losses at every step, metrics and instruments every so many steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from geartrain.errors import InputError

if TYPE_CHECKING:
    import xarray

Metric = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Record:
    """What to write down every ``every`` steps, beginning with step 0 (before the first update).

    Attributes:
        every: Steps between records.
        metrics: By name: ``metric(outputs, targets) -> number`` of the outputs in evaluation mode, or ``"loss"`` or
            ``"accuracy"`` where the name says it all (a tuple of such names may be given).
        data: ``(inputs, targets)`` to evaluate on; the training data if ``None``.
        measures: Names of batched instruments (see `Ensemble.measure`), with their options if it is a mapping.
    """

    every: int = 100
    metrics: Any = ("loss",)
    data: Any = None
    measures: Any = ()

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"every is {self.every}; it counts the steps between records: at least 1.")

    @staticmethod
    def of(given: Record | int | None) -> Record | None:
        """A `Record`; a number means that many steps between records of the loss on all data."""
        if given is None or isinstance(given, Record):
            return given
        if isinstance(given, int) and not isinstance(given, bool):
            return Record(every=given)
        raise InputError(
            f"record is a {type(given).__name__}; it must be a number of steps, a geartrain.ensemble.Record, or None."
        )

    @property
    def named_metrics(self) -> dict[str, Metric | str]:
        """Metrics by name."""
        if isinstance(self.metrics, Mapping):
            return dict(self.metrics)
        names = [self.metrics] if isinstance(self.metrics, str) else list(self.metrics)
        return {name: name for name in names}

    @property
    def named_measures(self) -> dict[str, dict[str, Any]]:
        """Options of the instruments by name."""
        if isinstance(self.measures, Mapping):
            return {name: dict(options) for name, options in self.measures.items()}
        names = [self.measures] if isinstance(self.measures, str) else list(self.measures)
        return {name: {} for name in names}


@dataclass
class History:
    """What was written down.

    Attributes:
        losses: Training losses at every step (of the batch, before the update), in blocks (members, steps).
        steps: Updates taken when the records were made.
        values: Records by name, one array per record, axis 0 = member.
        dims: Names of the further axes of the records, by name.
    """

    losses: list[Tensor] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    dims: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, name: str, value: Any, dims: tuple[str, ...] = ()) -> None:
        """One record; the step is added by the caller."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        self.values.setdefault(name, []).append(array)
        self.dims[name] = dims

    def all_losses(self, members: int, dtype: torch.dtype) -> Tensor:
        """Losses of all steps, (members, steps)."""
        if len(self.losses) > 1:  # kept joined, so that asking often costs nothing
            self.losses[:] = [torch.cat(self.losses, dim=1)]
        return self.losses[0] if self.losses else torch.empty(members, 0, dtype=dtype)

    def __getitem__(self, name: str) -> np.ndarray:
        """Records of one name, shape (members, records, ...); ``"loss_of_batch"`` is (members, steps)."""
        if name == "loss_of_batch":
            return self.losses_array()
        if name not in self.values:
            known = ", ".join(["loss_of_batch", *self.values])
            raise InputError(f"Nothing was recorded under {name!r}; there are: {known}.")
        return np.stack(self.values[name], axis=1)

    def losses_array(self) -> np.ndarray:
        """Losses of all steps, (members, steps)."""
        return torch.cat(self.losses, dim=1).cpu().numpy() if self.losses else np.empty((0, 0))

    def to_xarray(self, seeds: tuple[int, ...]) -> xarray.Dataset:
        """Labelled: dims member (the seeds) and step; records along recorded_step (needs the extra ``xarray``)."""
        import xarray

        data: dict[str, Any] = {}
        if self.losses:
            data["loss_of_batch"] = (("member", "step"), self.losses_array())
        for name in self.values:
            data[name] = (("member", "recorded_step", *self.dims[name]), self[name])
        coords: dict[str, Any] = {"member": list(seeds)}
        if self.losses:
            coords["step"] = np.arange(sum(t.shape[1] for t in self.losses))
        if self.values:
            coords["recorded_step"] = self.steps
        return xarray.Dataset(data, coords=coords)

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and lists."""
        return {
            "losses": torch.cat(self.losses, dim=1) if self.losses else None,
            "steps": list(self.steps),
            "values": {k: [torch.as_tensor(v) for v in vs] for k, vs in self.values.items()},
            "dims": {k: list(v) for k, v in self.dims.items()},
        }

    @staticmethod
    def from_state_dict(state: Mapping[str, Any]) -> History:
        """The inverse of `state_dict`."""
        return History(
            losses=[] if state["losses"] is None else [state["losses"]],
            steps=list(state["steps"]),
            values={k: [v.numpy() for v in vs] for k, vs in state["values"].items()},
            dims={k: tuple(v) for k, v in state["dims"].items()},
        )
