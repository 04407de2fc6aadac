"""When a member leaves: its loss is low enough, has stopped falling, or is no longer a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from geartrain.errors import InputError

RUNNING, BELOW, PLATEAU, NON_FINITE = range(4)
_REASONS = {
    RUNNING: "takes part when training goes on",
    BELOW: "the training loss reached the threshold",
    PLATEAU: "the training loss stopped falling",
    NON_FINITE: "the training loss became NaN or infinite",
}


@dataclass(frozen=True)
class Stop:
    """When a member stops, judged at every step by the loss of its batch, before the update.

    A stopped member keeps the parameters that had that loss: the update of that step is not made. A loss that is NaN
    or infinite always stops it ("diverged"), with or without these settings.

    Attributes:
        below: Stop at the first loss at or below this number (one, or one per member).
        plateau: Stop after this many steps in a row without improvement.
        min_change: A loss counts as an improvement if it is lower than the best one by more than this.
    """

    below: Any = None
    plateau: int | None = None
    min_change: float = 0.0

    def __post_init__(self) -> None:
        if self.plateau is not None and self.plateau < 1:
            raise InputError(
                f"plateau is {self.plateau}; it counts steps without improvement: at least 1, or None."
            )

    @staticmethod
    def of(given: Stop | float | None) -> Stop:
        """A `Stop`; a number means ``below``."""
        if given is None or isinstance(given, Stop):
            return given or Stop()
        if isinstance(given, (int, float)) and not isinstance(given, bool):
            return Stop(below=float(given))
        raise InputError(
            f"stop is a {type(given).__name__}; it must be a number (stop at that training loss), a "
            "geartrain.ensemble.Stop, or None."
        )


@dataclass(frozen=True)
class MemberStatus:
    """Where a member stands.

    Attributes:
        state: ``"running"`` (has taken every step asked for and would go on), ``"finished"`` (stopped by a rule) or
            ``"diverged"`` (its loss became NaN or infinite).
        step: Updates it has taken.
        reason: One sentence.
    """

    state: Literal["running", "finished", "diverged"]
    step: int
    reason: str

    def __str__(self) -> str:
        return f"{self.state} at step {self.step}: {self.reason}"


def status_of(code: int, taken: int) -> MemberStatus:
    """The status that belongs to a code of `Watch`."""
    state: Any = {RUNNING: "running", NON_FINITE: "diverged"}.get(code, "finished")
    return MemberStatus(state, taken, _REASONS[code])


class Watch:
    """The stopping rule with its memory of every member: best loss so far, steps since then, code.

    Args:
        stop: The rule.
        below: Thresholds per member on the device, or ``None``.
        members: Their number.
        dtype: Type of the losses.
        device: Where they are.
    """

    def __init__(
        self, stop: Stop, below: Tensor | None, members: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.stop = stop
        self.below = below
        self.best = torch.full((members,), torch.inf, dtype=dtype, device=device)
        self.since = torch.zeros(members, dtype=torch.int64, device=device)
        self.codes = torch.zeros(members, dtype=torch.int64)  # read on the host at every regrouping

    def judge(self, members: Tensor, losses: Tensor) -> Tensor | None:
        """Codes of these members by their losses at this step (shape (members,)); ``None`` if all go on."""
        # One number tells in the usual case, where nothing happens, that no loss is NaN or infinite.
        calm = bool(torch.isfinite(losses.sum()))
        if calm and self.below is None and self.stop.plateau is None:
            return None
        codes = torch.zeros_like(losses, dtype=torch.int64)
        if self.stop.plateau is not None:
            best = self.best[members]
            better = losses < best - self.stop.min_change
            self.best[members] = torch.where(better, losses, best)
            since = torch.where(better, 0, self.since[members] + 1)
            self.since[members] = since
            codes[since >= self.stop.plateau] = PLATEAU
        if self.below is not None:
            codes[losses <= self.below[members]] = BELOW
        codes[~torch.isfinite(losses)] = NON_FINITE
        return codes if bool(codes.any()) else None

    def state_dict(self) -> dict[str, Tensor]:
        """What has to be kept to go on."""
        return {"best": self.best, "since": self.since, "codes": self.codes}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.best.copy_(state["best"])
        self.since.copy_(state["since"])
        self.codes.copy_(state["codes"])
