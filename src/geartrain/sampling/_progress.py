"""How far a sampler is, while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from geartrain.records import format_number
from geartrain.sampling import diagnostics


@dataclass(frozen=True)
class Progress:
    """How far a sampler is.

    Attributes:
        step: Steps taken, burn-in included.
        steps: Steps in all.
        burning: Whether it is still in burn-in.
        draws: Draws so far.
        acceptance: Mean acceptance of the last draws; NaN for kernels that always accept.
        rhat: R-hat of the loss so far; NaN before eight draws, or with a single chain.
        stopped: Chains that stopped.
        seconds_left: At the present speed.
    """

    step: int
    steps: int
    burning: bool
    draws: int
    acceptance: float
    rhat: float
    stopped: int
    seconds_left: float

    def __str__(self) -> str:
        where = "burn-in" if self.burning else f"{self.draws} draws"
        parts = [f"{self.step}/{self.steps} steps ({where})"]
        if self.acceptance == self.acceptance:
            parts.append(f"acceptance {format_number(self.acceptance)}")
        if self.rhat == self.rhat:
            parts.append(f"R-hat of the loss {format_number(self.rhat, 4)}")
        if self.stopped:
            parts.append(f"{self.stopped} chains stopped")
        return ", ".join([*parts, f"{format_number(self.seconds_left)} s left"])


Listener = Callable[[Progress], None]


class Reporter:
    """Tells a listener at most every so many seconds; the R-hat is worked out only then.

    Args:
        listener: ``True`` for a line on standard error, a function, or ``None``.
        every: Seconds.
    """

    def __init__(self, listener: Listener | bool | None, every: float = 0.5) -> None:
        self.line = listener is True
        self.listener: Listener | None = _show if listener is True else (listener or None)
        self.every, self.last, self.begun = every, 0.0, time.perf_counter()

    def tell(
        self,
        step: int,
        steps: int,
        done_before: int,
        draws: int,
        losses: Tensor,
        acceptance: Tensor,
        alive: Tensor,
    ) -> None:
        """``losses`` and ``acceptance`` are the draws so far, (chains, draws)."""
        now = time.perf_counter()
        if self.listener is None or (now - self.last < self.every and step < steps):
            return
        self.last = now
        speed = max(step - done_before, 1) / max(now - self.begun, 1e-9)
        good = losses[alive]
        mixed = good.shape[0] >= 2 and draws >= 8 and bool(torch.isfinite(good).all())
        recent = acceptance[alive][:, -50:]
        self.listener(
            Progress(
                step=step,
                steps=steps,
                burning=not draws,
                draws=draws,
                acceptance=float(recent.nanmean()) if recent.numel() else float("nan"),
                rhat=float(diagnostics.rhat(good)) if mixed else float("nan"),
                stopped=int((~alive).sum()),
                seconds_left=(steps - step) / speed,
            )
        )

    def close(self) -> None:
        """End the line."""
        if self.line:
            sys.stderr.write("\n")


def _show(progress: Progress) -> None:
    sys.stderr.write(f"\r{progress!s:<110}")
    sys.stderr.flush()
