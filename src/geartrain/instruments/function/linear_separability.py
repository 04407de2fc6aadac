"""Linear separability: how well a linear rule can read the target off each layer, and how much of that is the probe.

A probe that is fitted on many features can learn anything. Its accuracy is therefore set beside that of the same probe
on a control task: random labels per type of input (Hewitt and Liang). What is left is the selectivity.

References:
    Alain and Bengio (2016), arXiv:1610.01644; Hewitt and Liang (2019), arXiv:1909.03368; Allen (1974), for
    leave-one-out residuals in closed form.

Ledger: 4.2, 2.1
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.function._errors import influence_error, share_of
from geartrain.instruments.function._features import Rows, input_gram, layer_grams, rows_of, rows_price
from geartrain.instruments.function._said import broken, is_broken
from geartrain.instruments.function._view import began
from geartrain.objective import Objective
from geartrain.records import Measurement, State, Status
from geartrain.run import Run

NAME = "linear_separability"
ROWS = 400
FOLDS = 5
SHARED = math.sqrt(1 + FOLDS / (FOLDS - 1))
"""Folds share their training sets: the variance of Nadeau and Bengio (2003), (1/k + 1/(k-1))·k times the naive one."""
CONTROLS = 5
PENALTIES = 10.0 ** np.arange(-6, 3)
"""Ridge penalties that are tried, in units of the mean eigenvalue of the centred inner products."""


@instrument(needs="data", unit="1", price=rows_price)
def linear_separability(
    subject: Objective | Run,
    *,
    rows: int = ROWS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure per layer the cross-validated accuracy of a linear probe for the target (for numbers: its R²).

    Ridge regression on one indicator per class, solved in closed form by the eigenvectors of the inner products; in
    every one of 5 folds the penalty is the one with the least leave-one-out error of the training part. Control task:
    the same probe on random labels, drawn once per type of input (token) from the frequencies of the labels; inputs
    that are not tokens are all of different type, so that the control there is at chance unless rows repeat.

    **Cost**: two forward passes over at most ``rows`` examples, and 5 eigendecompositions of (0.8·rows)² per layer.

    **Assumes** independent examples; places of one sequence stay in one fold, and the error is taken over sequences.

    **Misleads** as evidence that the network *uses* what the probe reads. On training data of the network late layers
    separate whatever it was fitted to. With more features than rows accuracy is limited by the rows.

    Args:
        subject: An objective, or a run (validation data where it has them).
        rows: Examples (places) at most.
        generator: Draws the folds and the control labels; a fixed seed if omitted.
        budget: Time; layers that it does not reach are NaN.

    Returns:
        Accuracy per layer, dims ``("layer",)``, first ``input`` where it is a table of numbers; standard errors over
        examples, widened for the training sets that folds share (on the safe side). Details, per layer:
        ``selectivity`` (accuracy less control), ``control``; ``chance`` (share of the most frequent class),
        ``control_kind`` (``"types"``, ``"examples"`` or, for numbers, ``"none"``), ``kind`` (``"accuracy"`` or
        ``"r2"``), ``rows``, ``split``.

    Raises:
        InputError: Too few rows are asked for.

    Example:
        >>> x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        >>> x = x + 8 * torch.sign(x)
        >>> data = x, (x[:, 0] > 0).long()
        >>> objective = Objective(torch.nn.Linear(2, 2), torch.nn.functional.cross_entropy, data)
        >>> linear_separability(objective).value.tolist()
        [1.0, 1.0]
    """
    if rows < 4 * FOLDS:
        raise InputError(f"rows is {rows}; allowed: {4 * FOLDS} or more, for {FOLDS} folds.")
    clock = Budget.of(budget).start()
    view = began(NAME, subject, budget, limit=rows)
    if isinstance(view, Measurement):
        return view
    found = rows_of(view.objective, rows)
    if found is None or found.said.kind == "unjudged":
        return not_applicable(NAME, "The data hold no target for each row of features.")
    if is_broken(found.said):
        return broken(NAME)
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=source, device=source.device)))
    task = _task(found, rng)
    if isinstance(task, str):
        return not_applicable(NAME, task)
    first = input_gram(found)
    grams = ({} if first is None else {"input": first}) | layer_grams(found)
    if not grams:
        return not_applicable(NAME, "No layer has features for each row.")
    results: dict[str, _Score | None] = dict.fromkeys(grams)
    for name, gram in grams.items():
        if clock.deadline is not None and clock.exhausted() and any(results.values()):
            break
        results[name] = _score(gram, task)
    return _answer(results, task, view.split, view.words)


@dataclass(frozen=True)
class _Task:
    """What is to be predicted: indicator columns of the labels and of the control labels, or numbers.

    Attributes:
        columns: The targets, shape (rows, outputs).
        labels: Class codes, shape (rows,), or ``None`` for numbers.
        controls: Control codes, shape (tasks, rows); empty for numbers.
        control_kind: ``"types"``, ``"examples"`` or ``"none"``.
        folds: Fold of each row.
        groups: Example of each row.
    """

    columns: np.ndarray
    labels: np.ndarray | None
    controls: np.ndarray
    control_kind: str
    folds: np.ndarray
    groups: np.ndarray


def _task(rows: Rows, rng: np.random.Generator) -> _Task | str:
    said = rows.said
    names, members = np.unique(said.groups, return_inverse=True)
    if len(names) < 4 * FOLDS:
        return f"{len(names)} examples are too few for {FOLDS} folds; give {4 * FOLDS} or more."
    folds = (rng.permutation(len(names)) % FOLDS)[members]
    if said.labels is None:
        assert said.values is not None
        values = said.values.numpy()
        if not values.std(0).sum() > 0:
            return "The targets are all the same, so there is nothing to tell apart."
        scaled = (values - values.mean(0)) / np.where(values.std(0) > 0, values.std(0), 1.0)
        return _Task(scaled, None, np.zeros((0, len(values)), dtype=int), "none", folds, said.groups)
    classes, labels = np.unique(said.labels.numpy(), return_inverse=True)
    if len(classes) < 2:
        return "There is one class only, so there is nothing to tell apart."
    kinds = rows.types
    codes = np.arange(len(labels)) if kinds is None else np.unique(kinds, return_inverse=True)[1]
    controls = np.stack(
        [labels[rng.integers(len(labels), size=codes.max() + 1)][codes] for _ in range(CONTROLS)]
    )
    kind = "examples" if kinds is None else "types"
    return _Task(_indicators(labels, len(classes)), labels, controls, kind, folds, said.groups)


def _indicators(codes: np.ndarray, count: int) -> np.ndarray:
    return (codes[:, None] == np.arange(count)).astype(float)


@dataclass(frozen=True)
class _Score:
    value: float
    error: float
    control: float


def _score(gram: np.ndarray, task: _Task) -> _Score:
    count = task.columns.shape[1]
    targets = [task.columns, *(_indicators(c, count) for c in task.controls)]
    predicted = [np.zeros_like(t) for t in targets]
    means = np.zeros_like(task.columns)
    for fold in range(FOLDS):
        test = task.folds == fold
        probe = Probe(gram, ~test, test)
        for target, place in zip(targets, predicted, strict=True):
            place[test] = probe.predict(target[~test])
        means[test] = task.columns[~test].mean(0)
    if task.labels is None:
        return _r2(task.columns, predicted[0], means, task.groups)
    hits = (predicted[0].argmax(1) == task.labels).astype(float)
    control = [float((p.argmax(1) == c).mean()) for p, c in zip(predicted[1:], task.controls, strict=True)]
    value, error = share_of(hits, task.groups)
    return _Score(value, SHARED * error, float(np.mean(control)))


def _r2(truth: np.ndarray, predicted: np.ndarray, means: np.ndarray, groups: np.ndarray) -> _Score:
    left = ((truth - predicted) ** 2).mean(1)
    total = ((truth - means) ** 2).mean(1)
    ratio = float(left.sum() / total.sum())
    error = influence_error((left - ratio * total) / total.mean(), groups)
    return _Score(1 - ratio, SHARED * error, math.nan)


class Probe:
    """Ridge regression with an intercept in the span of training rows, from inner products alone.

    Args:
        gram: Inner products of all rows, shape (rows, rows).
        train: Rows to fit, a mask.
        test: Rows to predict, a mask.
    """

    def __init__(self, gram: np.ndarray, train: np.ndarray, test: np.ndarray) -> None:
        inner = gram[np.ix_(train, train)]
        cross = gram[np.ix_(test, train)]
        rows = inner.mean(0)
        centred = inner - rows - rows[:, None] + rows.mean()
        self.cross = cross - cross.mean(1, keepdims=True) - rows + rows.mean()
        sizes, self.vectors = np.linalg.eigh(centred)
        self.sizes = np.maximum(sizes, 0.0)
        self.unit = float(self.sizes.sum()) / max(len(sizes) - 1, 1)

    def predict(self, targets: np.ndarray) -> np.ndarray:
        """Predictions for the test rows from targets of the training rows, shape (test, outputs)."""
        mean = targets.mean(0)
        if not self.unit > 0:
            return np.broadcast_to(mean, (len(self.cross), len(mean)))
        rotated = self.vectors.T @ (targets - mean)
        penalty = min(PENALTIES * self.unit, key=lambda p: self._left_out(targets - mean, rotated, p))
        return mean + self.cross @ (self.vectors @ (rotated / (self.sizes + penalty)[:, None]))

    def _left_out(self, targets: np.ndarray, rotated: np.ndarray, penalty: float) -> float:
        """Mean square of the leave-one-out residuals: (y - ŷ) / (1 - h)."""
        shrink = self.sizes / (self.sizes + penalty)
        leverage = (self.vectors**2) @ shrink + 1 / len(targets)
        residual = targets - self.vectors @ (shrink[:, None] * rotated)
        return float(((residual / np.maximum(1 - leverage, 1e-12)[:, None]) ** 2).mean())


def _answer(results: dict[str, _Score | None], task: _Task, split: str, words: str) -> Measurement:
    names = list(results)
    value = np.array([math.nan if s is None else s.value for s in results.values()])
    error = np.array([math.nan if s is None else s.error for s in results.values()])
    kind = "r2" if task.labels is None else "accuracy"
    done = {n: s for n, s in results.items() if s is not None}
    chance = math.nan if task.labels is None else float(np.bincount(task.labels).max() / len(task.labels))
    details = {
        "selectivity": {n: s.value - s.control for n, s in done.items()},
        "control": {n: s.control for n, s in done.items()},
        "chance": chance,
        "control_kind": task.control_kind,
        "kind": kind,
        "rows": len(task.columns),
        "split": split,
    }
    best = max(done, key=lambda n: done[n].value)
    against = (
        "" if task.labels is None else f", control {done[best].control:.1%}, most frequent class {chance:.1%}"
    )
    sentence = f"Best read from {best}: {kind} {done[best].value:.1%}{against}, on {words}."
    cut = len(done) < len(names)
    if cut:
        sentence += f" The budget reached {len(done)} of {len(names)} layers."
    status = Status(State.OUT_OF_BUDGET if cut else State.ESTIMATE, sentence)
    return Measurement(NAME, value, "1", status, error, ("layer",), {"layer": names}, details=details)
