"""Following a loop: what is attached to the optimizer and the model, and what happens at which moment of a step.

A step begins where the optimizer ended the one before. What the governor finds due is prepared there; then the model
is called, gradients arrive, the optimizer is about to step, and has stepped. At most steps nothing is due, and the
hooks do next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geartrain.monitor import _checks
from geartrain.monitor._hooks import Hook, Sentinel, loss_scaler_in_use
from geartrain.monitor._parameters import Parameters, fingerprint
from geartrain.monitor._processes import Processes
from geartrain.monitor._taps import Taps, batch_size, is_compiled, loss_in
from geartrain.monitor.alarms import Alarms
from geartrain.monitor.governor import WINDOW, Governor
from geartrain.monitor.groups import Group, Scene, watches_inside
from geartrain.monitor.noise import Noise
from geartrain.monitor.record import Record, Row

LIMIT = 2**25
"""Entries in a flat copy of the parameters; of larger models every k-th is copied (norms are always of all)."""

PATIENCE = 8
"""Steps after which a model that returns no loss is believed not to return any."""

SEARCH = 8
"""Measured steps in which a gradient scaler is looked for, unless a trace of one is seen: not all leave one."""


class Loop:
    """One loop, followed from step to step.

    Args:
        model: The model that is trained.
        optimizer: Whose steps are followed.
        groups: What is measured, by name.
        governor: When.
        record: Where it goes.
        alarms: Who hears of skipped steps.
        processes: Who else trains the same model.
        scaler: The loop's gradient scaler; looked for if ``None``.
        clock: Seconds.

    Attributes:
        active: Whether it is being followed.
        prompt: Whether rows are wanted at once, as far as nobody has to wait for them.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        groups: Mapping[str, Group],
        governor: Governor,
        record: Record,
        alarms: Alarms,
        processes: Processes,
        scaler: Any,
        clock: Callable[[], float],
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.groups, self.governor, self.record, self.alarms = groups, governor, record, alarms
        self.processes, self.scaler, self.clock = processes, scaler, clock
        self.active = self.prompt = False
        self._paused = False
        self._parameters = Parameters(model, optimizer, LIMIT)
        self._taps = Taps(model)
        if not self._taps.layers:
            governor.switch_off("flow", "not visible")
        self._sentinel = Sentinel(self)
        self._returns_loss: bool | None = None
        self._losses: list[Tensor | float] = []
        self._handles: list[Any] = []
        self._root_handles: list[Any] = []
        self._due: list[Group] = []
        self.scene = Scene(self._parameters, Row(0))
        self._ready = self._in_closure = False
        self._end = 0.0
        self._asleep_until = self._searched = 0

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Attach to the optimizer and the model."""
        self.processes.meet()
        self.active, self._paused = True, False
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        ]
        self._sentinel.attach(self._known())
        self._end = self.clock()
        self._open()

    def stop(self) -> None:
        """Remove every hook."""
        if self.active and self.record.steps < self._asleep_until:
            self.governor.slept(self.record.steps, 0, self.clock() - self._end)
        self.active, self._asleep_until = False, 0
        self._spoil()
        self._sentinel.detach()
        for handle in (*self._handles, *self._root_handles):
            handle.remove()
        self._handles, self._root_handles = [], []
        for group in self.groups.values():
            group.forget()

    def pause(self) -> None:
        """Look away."""
        self._paused = True
        self._spoil()

    def resume(self) -> None:
        """Look again; the step under way is not noted."""
        self._paused = False
        self._end = self.clock()
        if self.active:
            self._sentinel.attach(self._known())

    def tell(self, loss: Tensor | float) -> None:
        """A loss of the step under way."""
        # In a closure that is called several times only the first call is at the start of the step.
        if (
            self.active
            and not self._paused
            and not self._in_closure
            and self.record.steps >= self._asleep_until
        ):
            self._returns_loss = False  # the loop knows better
            self._losses.append(_kept(loss))

    # ------------------------------------------------------------------ from step to step

    def _known(self) -> Parameters:
        """The parameters as the optimizer holds them now."""
        if self._parameters.fingerprint != fingerprint(self.optimizer):
            self._parameters = Parameters(self.model, self.optimizer, LIMIT)
            self._spoil()
            for group in self.groups.values():
                group.forget()
            self._sentinel.attach(self._parameters)
        return self._parameters

    def _open(self) -> None:
        """A new step begins."""
        parameters = self._known()
        due = self.governor.due(self.record.steps)
        self._due = [g for n, g in self.groups.items() if n in due] if due else []
        self.scene = Scene(
            parameters,
            Row(self.record.steps),
            ranks=self.processes.size,
            charge=self.governor.charge,
            clock=self.clock,
        )
        self._ready = False
        if self._losses:
            self._losses = []
        for group in self._due:
            self._timed(group, group.begin)
        self._look_at_calls()
        self._sentinel.rest(not self._due)

    def _look_at_calls(self) -> None:
        """Hooks on calls of the whole model, while there is something to be seen."""
        open_question = self._returns_loss is None and self.record.steps < PATIENCE
        wanted = (
            bool(self._due or self._returns_loss or open_question) and self.record.steps >= self._asleep_until
        )
        if (
            bool(self._root_handles) == wanted
            or not _checks.may_be_hooked(self.model)
            or is_compiled(self.model)
        ):
            return
        if wanted:
            self._root_handles = [
                self.model.register_forward_pre_hook(Hook(self._enter), with_kwargs=True),
                self.model.register_forward_hook(Hook(self._leave)),
            ]
            return
        for handle in self._root_handles:
            handle.remove()
        self._root_handles = []

    def _looking(self) -> bool:
        return (
            self.active and not self._paused and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        )

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """The model is called."""
        if not self._due or not self._looking():
            return
        start, own = self.clock(), self.governor.own_now
        self.scene.batches.append(batch_size(args, kwargs) or 1)
        if watches_inside(self._due):
            self._taps.attach(self._called)
        self._charge_rest(start, own)

    def _called(self, name: str, module: nn.Module, inputs: Tensor | None, output: Tensor) -> None:
        for group in self._due:
            if group.inside:
                self._timed(group, lambda scene, g=group: g.called(name, module, inputs, output, scene))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """The model has answered."""
        self._taps.detach()
        if self._returns_loss is False or self._in_closure or not self._looking():
            return
        loss = loss_in(output)
        if loss is not None:
            self._returns_loss = True
            self._losses.append(_kept(loss))

    def accumulated(self, fresh: bool) -> bool:
        """A backward pass has reached the sentinel; returns whether its end is of interest.

        Args:
            fresh: Whether there was no gradient before it.
        """
        scene = self.scene
        if not self.active or self._paused or self._in_closure:
            return False
        if fresh and scene.backwards:
            self.record.skipped += 1
            self.alarms.skipped(self.record.steps)
            # Layers and parts of the gradient were being listened to before this was known.
            for group in self._due:
                if group.inside:
                    group.forget()
            self._due = [g for g in self._due if not g.inside]
            scene.start_over()
            self._losses = self._losses[-1:]
        scene.cleared = fresh if scene.backwards == 0 else scene.cleared
        scene.backwards += 1
        return any(g.name == "noise" or (g.name == "norms" and self._sentinel.changed) for g in self._due)

    @torch.no_grad()
    def backward_is_over(self) -> None:
        """All gradients of a backward pass have arrived (and were averaged over the processes)."""
        if self._due:
            timed = next((g for g in self._due if g.name == "noise"), self._due[0])
            self._timed(timed, self._note_left)

    def _note_left(self, scene: Scene) -> None:
        scene.left = scene.parameters.norms(scene.parameters.gradients())

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        """The optimizer is about to step."""
        if self._paused or not self.active or self.record.steps < self._asleep_until:
            return None
        self._in_closure = False
        if len(args) == 1 and not kwargs:
            if self._due or self._sentinel.listening:
                self._gradients_ready()
            return None
        place = next((i for i, a in enumerate(args) if i and callable(a)), None)
        if place is not None:
            return (*args[:place], self._seeing(args[place]), *args[place + 1 :]), kwargs
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._seeing(kwargs["closure"])}
        self._gradients_ready()
        return None

    def _seeing(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, noting the loss and the gradients of its first call in a step."""

        def seen() -> Any:
            loss = closure()
            if self.active and not self._paused and not self._in_closure:
                self._in_closure = True
                if isinstance(loss, (Tensor, float)) and not self._losses:
                    self._losses.append(_kept(loss))
                self._gradients_ready()
            return loss

        return seen

    def _gradients_ready(self) -> None:
        self._ready = True
        changed = self._sentinel.compare(several=self.processes.size > 1)
        if not self._due:
            return
        start, own = self.clock(), self.governor.own_now
        with torch.no_grad():
            self._known()
            scene, scaler = self.scene, self.scaler
            scene.changed = self._sentinel.changed
            if scaler is None and (changed or self._searched < SEARCH):
                self._searched += 1
                scaler = self.scaler = loss_scaler_in_use()
            if scaler is not None and scaler.is_enabled():
                scene.loss_scale = float(scaler.get_scale())
            pending = getattr(self.optimizer, "grad_scale", None)
            if isinstance(pending, Tensor):  # a fused optimizer that unscales by itself
                scene.grad_scale = pending
            for group in self._due:
                self._timed(group, group.gradients)
        self._charge_rest(start, own)

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """The optimizer has stepped."""
        if self._paused or not self.active:
            return
        self._in_closure = False
        step = self.record.steps
        self.record.steps = step + 1
        if step < self._asleep_until:
            if self.record.steps == self._asleep_until:
                self._wake_up(step)
            return
        start = self.clock()
        hooked = bool(self._root_handles) and not self._returns_loss
        if not self._due and not hooked and self.processes.size == 1 and self.governor.quiet(step):
            self._pass_by(optimizer, step, start)
            return
        own = self.governor.own_now
        if self._due and self._ready:
            with torch.no_grad():
                for group in self._due:
                    self._timed(group, group.after)
        self._write(optimizer)
        if self.processes.size > 1 and self.record.steps % WINDOW == 0:
            self._average_losses()
        self._charge_rest(start, own)
        end = self.clock()
        self.governor.end_step(step, end - self._end)
        self._end = end
        if self.governor.rest:
            self._fall_asleep()
            return
        self._open()
        self.governor.charge(None, self.clock() - end - self.governor.own_now)

    def _pass_by(self, optimizer: torch.optim.Optimizer, step: int, start: float) -> None:
        """A step at which there is nothing but a loss to be noted: in as few operations as possible."""
        if self._losses:
            self.record.note(step, _mean(self._losses), float(optimizer.param_groups[0]["lr"]))
            self._losses = []
        self._ready, self.scene.backwards, self.scene.row.step = False, 0, step + 1
        if self._sentinel.listening:
            self._sentinel.rest(True)
        end = self.clock()
        self.governor.pass_by(step, end - start, end - self._end)
        self._end = end

    def _fall_asleep(self) -> None:
        """Steps are so short that even looking on is too dear: skip some."""
        self._asleep_until, self.governor.rest = self.record.steps + self.governor.rest, 0
        self._losses = []
        self._spoil()
        self._sentinel.detach()
        self._look_at_calls()

    def _wake_up(self, step: int) -> None:
        end = self.clock()
        self.governor.slept(step, self._asleep_until - step, end - self._end)
        self._end = end
        self._open()
        self.governor.charge(None, self.clock() - end - self.governor.own_now)

    def _write(self, optimizer: torch.optim.Optimizer) -> None:
        """Hand the row of this step over, if there is anything in it."""
        if not self._due:
            if self._losses:
                lr = float(optimizer.param_groups[0]["lr"])
                self.record.note(self.scene.row.step, _mean(self._losses), lr)
            return
        scene, start = self.scene, self.clock()
        if self._losses:
            scene.number("loss", _mean(self._losses))
        scene.number("lr", float(optimizer.param_groups[0]["lr"]))
        if scene.batches:
            scene.number("batch_size", float(sum(scene.batches)))
        if scene.backwards:
            scene.number("backwards", float(scene.backwards))
            noise = self.groups.get("noise")
            if isinstance(noise, Noise):
                noise.parts_expected = scene.backwards
        self.record.add(scene.row, soon=self.prompt)
        spent = self.clock() - start
        for group in self._due:
            self.governor.charge(group.name, spent / len(self._due))

    def _average_losses(self) -> None:
        """Losses of the last steps become those of all processes, in one go."""
        self.record.settle()
        history = self.record.history
        steps, column = history.columns.get("step", []), history.columns.get("loss", [])
        places = {
            int(s): i for i, s in enumerate(steps[-WINDOW:], max(len(steps) - WINDOW, 0)) if i < len(column)
        }
        own = [
            column[places[s]] if s in places else float("nan")
            for s in range(self.record.steps - WINDOW, self.record.steps)
        ]
        known = [0.0 if x != x else 1.0 for x in own]
        sums = self.processes.mean([0.0 if x != x else x for x in own] + known)
        for s, total, count in zip(
            range(self.record.steps - WINDOW, self.record.steps), sums, sums[WINDOW:], strict=False
        ):
            if s in places and count > 0:
                column[places[s]] = total / count

    def _spoil(self) -> None:
        """What was begun for this step cannot be finished."""
        self._taps.detach()
        for group in self._due:
            group.forget()
        self._due = []

    # ------------------------------------------------------------------ time

    def _timed(self, group: Group, act: Callable[[Scene], None]) -> None:
        account = self.governor.accounts[group.name]
        device = self.scene.parameters.home
        # Kernels of another device run on after the call: waiting for them now and then tells what they take.
        wait = device.type == "cuda" and (account.occurrences < 4 or account.occurrences % 16 == 0)
        if wait:
            torch.cuda.synchronize(device)
        start = self.clock()
        act(self.scene)
        if wait:
            torch.cuda.synchronize(device)
        self.governor.charge(group.name, self.clock() - start)

    def _charge_rest(self, start: float, own: float) -> None:
        """What was spent since ``start`` and is on nobody's account."""
        self.governor.charge(None, max(self.clock() - start - (self.governor.own_now - own), 0.0))


def _kept(loss: Tensor | float) -> Tensor | float:
    """A copy: the loop may go on to divide its loss in place."""
    if not isinstance(loss, Tensor):
        return float(loss)
    return loss.item() if loss.device.type == "cpu" else loss.detach().clone()


def _mean(losses: list[Tensor | float]) -> Tensor | float:
    if len(losses) == 1:
        only = losses[0]
        return only.reshape(()) if isinstance(only, Tensor) else only
    if all(isinstance(x, Tensor) for x in losses):
        return torch.stack([x.reshape(()).float() for x in losses if isinstance(x, Tensor)]).mean()
    return sum(float(x) for x in losses) / len(losses)
