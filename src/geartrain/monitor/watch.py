"""`watch`: one line in a training loop, cheap enough to stay there; and the `Monitor` that it returns."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from geartrain._torch.kernels import mixes_examples
from geartrain.monitor import _checks, _conclude, summary
from geartrain.monitor._loop import Loop
from geartrain.monitor._parameters import plain_model
from geartrain.monitor._processes import Processes
from geartrain.monitor.alarms import Alarm, Alarms
from geartrain.monitor.flow import Flow
from geartrain.monitor.governor import Governor
from geartrain.monitor.groups import Group
from geartrain.monitor.noise import Noise
from geartrain.monitor.norms import Norms
from geartrain.monitor.record import LayerTable, Record, flattened
from geartrain.monitor.updates import Updates
from geartrain.records import Measurement, jsonable
from geartrain.run import History

Log = Callable[[int, dict[str, float]], None]


def watch(model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> Monitor:
    """Watch a training loop from the inside: ``with gt.watch(model, optimizer) as monitor:`` around it, nothing else.

    The loop's own numbers stay what they are, bit for bit; no pass over the data is added. See `Monitor` for the
    options and for what is noted.

    **Cost** at most ``overhead`` of the time of a step, measured as it goes; three copies of the parameters.

    Args:
        model: The model that is trained (wrapped or compiled, as the loop calls it).
        optimizer: Whose steps are watched.
        **options: Those of `Monitor`.

    Returns:
        The monitor: a context manager, also to be used by ``start()`` and ``stop()``.

    Raises:
        InputError: The two do not belong together, or an option is none.

    Example:
        Gradient descent on x² with a step of 0.4: every step goes 0.8 of the way to the minimum.

        >>> layer = nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.4)
        >>> with watch(layer, optimizer, overhead=None) as monitor:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         layer.weight.square().sum().backward()
        ...         optimizer.step()
        >>> [round(ratio, 3) for ratio in monitor.history.columns["update_ratio"]]
        [0.8, 0.8, 0.8]
        >>> round(float(monitor.step_length_gauge()), 3)
        -0.2
    """
    return Monitor(model, optimizer, **options)


class Monitor:
    """Everything that can be seen of a loop for (nearly) nothing, on a schedule that keeps its price.

    Four groups of observables: ``norms`` (every step), ``updates`` (pairs of steps, as often as the share allows),
    ``flow`` and ``noise`` (every tenth step at most). Their modules say what the numbers mean and when they mislead.

    Args:
        model: The model that is trained.
        optimizer: Whose steps are watched.
        overhead: Share of the time of a plain step that everything together may take; ``None``: no limit, each group
            as often as its price class permits.
        every: Fixed periods in steps, by name of the group (0 = never), or one for all; the governor spaces the rest.
        extras: Further observables: ``"distance"`` (from where the watching began; one more copy of the parameters),
            ``"participation_ratio"`` (of every layer's output).
        log: Called as ``log(step, numbers)`` with a flat dictionary whenever something was noted: for trackers.
        on_alarm: Called with every `Alarm` as it is raised.
        scaler: The loop's `torch.amp.GradScaler`; found by itself where it calls the optimizer.
        reduce: With `torch.distributed`: put the numbers of all processes together. Every process must then watch.
            ``None``: if the model is wrapped in DistributedDataParallel.
        name: For tables.
        clock: Seconds, like `time.perf_counter`.

    Attributes:
        governor: What each group costs, and how often it is measured.
        name: For tables.
        log: Who hears of rows.
        on_alarm: Who hears of alarms.
        ended: The exception that ended the loop, in words, or ``None``.

    Raises:
        InputError: Model and optimizer do not belong together, or an option is none.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        overhead: float | None = 0.05,
        every: Mapping[str, int] | int | None = None,
        extras: Sequence[str] = (),
        log: Log | None = None,
        on_alarm: Callable[[Alarm], None] | None = None,
        scaler: Any = None,
        reduce: bool | None = None,
        name: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        _checks.check_parts(model, optimizer)
        _checks.check_options(overhead, extras)
        self.name = name or type(plain_model(model)).__name__
        self.log = log
        self.on_alarm = on_alarm
        self.ended: str | None = None
        together = isinstance(model, nn.parallel.DistributedDataParallel) if reduce is None else reduce
        processes = Processes(together, next(p.device for g in optimizer.param_groups for p in g["params"]))
        self._noise = Noise(lambda: mixes_examples(model), processes.total)
        found: list[Group] = [
            Norms(),
            Updates(distance="distance" in extras),
            Flow(participation_ratio="participation_ratio" in extras),
            self._noise,
        ]
        groups = {group.name: group for group in found}
        self.governor = _governor(groups, overhead, _checks.periods(every, list(groups)), processes)
        self._record = Record(listen=self._heard)
        self._alarms = Alarms()
        self._loop: Loop | None = Loop(
            model, optimizer, groups, self.governor, self._record, self._alarms, processes, scaler, clock
        )

    # ------------------------------------------------------------------ what was seen

    @property
    def model(self) -> nn.Module | None:
        """The model; ``None`` when read from a file."""
        return self._loop.model if self._loop is not None else None

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer; ``None`` when read from a file."""
        return self._loop.optimizer if self._loop is not None else None

    @property
    def steps(self) -> int:
        """Optimizer steps seen."""
        return self._record.steps

    @property
    def skipped_steps(self) -> int:
        """Gradients that were thrown away without a step (mixed precision does that)."""
        return self._record.skipped

    @property
    def history(self) -> History:
        """Columns over steps, as in `geartrain.Run`: ``loss``, ``lr``, ``grad_norm``, ``update_norm``, ``cosine``, ...

        A row for every step at which anything was noted; NaN where a column was not measured.
        """
        self._record.settle()
        return self._record.history

    @property
    def tables(self) -> dict[str, LayerTable]:
        """Numbers per layer: ``grad_norm``, ``param_norm``, ``update_ratio``, ``activation_rms``, ..."""
        self._record.settle()
        return self._record.tables

    @property
    def alarms(self) -> list[Alarm]:
        """What wants attention, oldest first; empty on a healthy run."""
        self._record.settle()
        return list(self._alarms.raised)

    def noise_scale(self, last: int = 64) -> Measurement:
        """The gradient noise scale from the last readings, with its 95 % interval; see `_conclude.noise_scale`."""
        return _conclude.noise_scale(self.history, self._noise.why_not, last)

    def step_length_gauge(self, last: int = 64) -> Measurement:
        """Where the last steps landed on their own parabola; see `_conclude.step_length_gauge`."""
        return _conclude.step_length_gauge(self.history, last)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return {
            "name": self.name,
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
            "ended": self.ended,
            "overhead": jsonable(_conclude.overhead(self.governor)),
            "alarms": [vars(a) for a in self.alarms],
            **self._record.to_dict(),
        }

    def to_xarray(self) -> Any:
        """Columns and tables with named axes and units (needs the extra ``xarray``)."""
        return self._record.to_xarray()

    def summary(self) -> str:
        """Tables for the terminal: the numbers of the run, those of its layers, what each group cost, the alarms."""
        return summary.render(self)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<Monitor of {summary.headline(self)}>"

    def diagnose(self, loss_fn: Any = None, data: Any = None, **options: Any) -> Any:
        """Say why the loop behaves as it does: builds a `geartrain.Run` from what was watched and diagnoses it.

        See `_conclude.diagnose` for the arguments.
        """
        return _conclude.diagnose(self, loss_fn, data, **options)

    # ------------------------------------------------------------------ what the loop may tell

    def loss(self, value: Any) -> Any:
        """Note the loss of this step and return it as it came; several calls in one step are averaged.

        Args:
            value: A scalar tensor or a number: the loss *before* it is divided by the number of micro-batches or
                multiplied by a loss scale.
        """
        if self._loop is not None:
            self._loop.tell(value)
        return value

    def pause(self) -> None:
        """Look away: nothing is noted until `resume`."""
        if self._loop is not None:
            self._loop.pause()

    def resume(self) -> None:
        """Look again; the step under way is not noted."""
        if self._loop is not None:
            self._loop.resume()

    # ------------------------------------------------------------------ life

    def __enter__(self) -> Monitor:
        """Start watching."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Stop watching; an exception of the loop goes its way."""
        if error is not None:
            self.ended = f"{type(error).__name__}: {error}".strip()
        self.stop()

    def start(self) -> Monitor:
        """Attach to the optimizer and the model; watching may be stopped and started again.

        Raises:
            InputError: It is watching already, or came from a file.
        """
        loop = _checks.check_start(self._loop)
        loop.prompt, self.ended = self.log is not None, None
        loop.start()
        return self

    def stop(self) -> None:
        """Remove every hook and fetch what is still on its way; what was noted stays."""
        if self._loop is not None:
            self._loop.stop()
        self._record.settle()

    def __getstate__(self) -> dict[str, Any]:
        """What was seen, without the loop: for pickling and copying."""
        self._record.settle()
        record = Record(
            self._record.history, self._record.tables, steps=self.steps, skipped=self.skipped_steps
        )
        kept = {k: getattr(self, k) for k in ("name", "ended", "_alarms")}
        return {
            **kept,
            "_record": record,
            "governor": self.governor.retired(),
            "why_not": self._noise.why_not,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._loop = self.log = self.on_alarm = None
        self._noise = Noise()
        self._noise.why_not = state.pop("why_not")
        vars(self).update(state)

    # ------------------------------------------------------------------ listeners

    def _heard(self, step: int, numbers: dict[str, float], layers: dict[str, dict[str, float]]) -> None:
        for alarm in self._alarms.hear(step, numbers, layers):
            if self.on_alarm is not None:
                self.on_alarm(alarm)
        if self.log is None:
            return
        try:
            self.log(step, flattened(numbers, layers))
        except Exception as error:  # a tracker that is down must not end the training
            self.log = None
            if self._loop is not None:
                self._loop.prompt = False
            warnings.warn(
                f"log(step, numbers) of gt.watch raised {type(error).__name__}: {error}; it is not called any more.",
                RuntimeWarning,
                stacklevel=2,
            )


def _governor(
    groups: Mapping[str, Group], overhead: float | None, fixed: Mapping[str, int], processes: Processes
) -> Governor:
    governor = Governor(
        {n: g.least for n, g in groups.items()},
        overhead,
        lengths={n: g.length for n, g in groups.items()},
        fixed={n: k for n, k in fixed.items() if k},
        agree=processes.largest,
    )
    for name, period in fixed.items():
        if period == 0:
            governor.switch_off(name, "never")
    return governor
