"""Does training happen in training mode and evaluation in evaluation mode?

Looks at what the modules that care (dropout, batch normalisation, ...) and calls of the function dropout actually do
in a training step, in an evaluation and in the step after it, the user's own functions included. A forgotten
``model.train()`` after the first evaluation and a forgotten ``model.eval()`` both show. Misleads where a mode is
meant: frozen batch statistics in fine-tuning, dropout kept on to sample. Ledger: 0.13.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from geartrain.budget import Budget
from geartrain.instruments import _window
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Cost, Measurement, State
from geartrain.run import History, Run


def _price(run: Any, **options: Any) -> Cost:
    return Cost(forwards=1, gradients=2)


@instrument(needs="run", unit="1", price=_price)
def mode_consistency(
    run: Run, *, generator: torch.Generator | None = None, budget: Budget | int | str | None = None
) -> Measurement:
    """Check the mode of every module that behaves differently in the two, in a step, an evaluation, and a step.

    **Cost** two training steps and one evaluation.

    **Assumes** that the evaluation leaves no traces outside the model.

    **Misleads** where a mode is meant: frozen batch statistics in fine-tuning, dropout kept on to sample
    predictions.

    Args:
        run: The run; it is put back exactly.
        generator: Not used.
        budget: Not used.

    Returns:
        1 if every such module is in training mode in both steps and in evaluation mode in the evaluation, else 0; not
        applicable if no module cares. ``details``: ``sensitive`` (names of those modules), ``not_training`` (names
        of those in evaluation mode in a training step), ``not_evaluating`` (names of those in training mode in the
        evaluation), ``training_share`` and ``evaluation_share`` (of the calls that were in the right mode; NaN where
        there was none).
    """
    watched = {n: m for n, m in run.model.named_modules() if _cares(m)}
    with run.preserved():
        run.scheduler, run.history = None, History()
        with _listening(watched) as calls:
            _train(run)
            first = _drain(calls)
            run.evaluate()
            evaluated = _drain(calls)
            _train(run)
            trained = first + _drain(calls)
        failure = run.history.failure
    if failure is not None:
        return no_answer("mode_consistency", f"The run breaks: {failure}.", state=State.NON_FINITE)
    if not trained:
        return no_answer(
            "mode_consistency", "Nothing in a step behaves differently in training and evaluation mode."
        )
    names = dict.fromkeys([*watched, *(name for name, _ in trained + evaluated)])
    return _measurement(list(names), trained, evaluated)


def _measurement(
    names: list[str], trained: list[tuple[str, bool]], evaluated: list[tuple[str, bool]]
) -> Measurement:
    not_training = sorted({name for name, mode in trained if not mode})
    not_evaluating = sorted({name for name, mode in evaluated if mode})
    details = {
        "sensitive": names,
        "not_training": not_training,
        "not_evaluating": not_evaluating,
        "training_share": _share([mode for _, mode in trained]),
        "evaluation_share": _share([not mode for _, mode in evaluated]),
    }
    parts = [f"{', '.join(not_training)} trained in evaluation mode"] if not_training else []
    parts += [f"{', '.join(not_evaluating)} evaluated in training mode"] if not_evaluating else []
    sentence = ("; ".join(parts) or f"Right mode everywhere ({len(names)} modules care)") + "."
    value = 0.0 if not_training or not_evaluating else 1.0
    return answer("mode_consistency", value, sentence, state=State.EXACT, details=details)


def _train(run: Run) -> None:
    watch = run.watch_optimizer()
    run._step(_window.next_batch(run), watch)


def _share(right: list[bool]) -> float:
    return sum(right) / len(right) if right else float("nan")


def _drain(calls: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    seen = list(calls)
    calls.clear()
    return seen


@contextlib.contextmanager
def _listening(watched: dict[str, nn.Module]) -> Iterator[list[tuple[str, bool]]]:
    """Name and mode of every call of a watched module."""
    calls: list[tuple[str, bool]] = []
    spy = _FunctionSpy(calls)
    handles = [
        module.register_forward_pre_hook(partial(_note, calls, name)) for name, module in watched.items()
    ]
    handles += [module.register_forward_pre_hook(spy.enter) for module in watched.values()]
    handles += [module.register_forward_hook(spy.leave) for module in watched.values()]
    try:
        with spy:
            yield calls
    finally:
        for handle in handles:
            handle.remove()


class _FunctionSpy(TorchFunctionMode):
    """Notes calls of the function dropout, and attention with dropout, that no watched module makes."""

    def __init__(self, calls: list[tuple[str, bool]]) -> None:
        super().__init__()
        self.calls = calls
        self.inside = 0

    def enter(self, module: nn.Module, args: Any) -> None:
        """A watched module begins."""
        self.inside += 1

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """It ends."""
        self.inside -= 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass the call on unchanged."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if not self.inside and "dropout" in name and "training" in kwargs and kwargs.get("p", 0.5) > 0:
            self.calls.append((f"function {name}", bool(kwargs["training"])))
        if not self.inside and name == "scaled_dot_product_attention" and kwargs.get("dropout_p", 0.0) > 0:
            self.calls.append((f"function {name}", True))
        return func(*args, **kwargs)


def _note(calls: list[tuple[str, bool]], name: str, module: nn.Module, args: Any) -> None:
    calls.append((name, module.training))


def _cares(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return float(module.dropout) > 0
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return bool(module.track_running_stats)
    return isinstance(module, nn.RReLU)
