"""Singular values of the input-output Jacobian: how the network stretches a small change of its input.

All of them near 1 (dynamical isometry) is what lets very deep networks train from the start; a mean logarithm far below
0 is a vanishing signal, far above an exploding one, and a wide spread is a network in which most directions are lost
while a few are amplified. The largest one is the local Lipschitz constant: sensitivity to noise and to attacks.

References:
    Saxe, McClelland, Ganguli (2014), arXiv:1312.6120; Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735; Novak
    et al. (2018), arXiv:1802.08760, for sensitivity and generalisation.

Ledger: 0.14
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from geartrain._torch import batches as _batches
from geartrain._torch import kernels
from geartrain.budget import Budget, Clock
from geartrain.errors import GeartrainError, InputError
from geartrain.instruments._answers import mean_and_error, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._layers import first_tensor
from geartrain.instruments.flow._golub_kahan import bidiagonalise
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

_EXAMPLES = 64
_DENSE = 64
_STEPS = 20
_KEEP_BYTES = 2**28


def _price(objective: Objective, *, examples: int = _EXAMPLES, dense: int = _DENSE, **options: Any) -> Cost:
    try:
        found = _part(objective, 1)
        if isinstance(found, str):
            return Cost()
        with objective._quiet():
            one = _Jacobian(objective, *found)
    except GeartrainError:
        return Cost()
    count = min(examples, objective.num_examples)
    share = count / objective.num_examples
    whole = _is_dense(one.outputs, one.inputs, count, dense)
    products = min(one.outputs, one.inputs) if whole else 2 * min(_STEPS, one.outputs, one.inputs)
    entries = one.outputs * one.inputs if whole else (one.outputs + one.inputs) * _STEPS
    return Cost(forwards=share, gradients=products * share, peak_bytes=8 * count * entries)


@instrument(needs="objective", unit="1", price=_price)
def jacobian_singular_values(
    objective: Objective,
    *,
    examples: int = _EXAMPLES,
    dense: int = _DENSE,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the singular values of ∂output/∂input, one set per example, averaged over examples rank by rank.

    Where the smaller side of the Jacobian has at most ``dense`` entries it is built row by row (or column by
    column) for all examples at once and decomposed; beyond, 20 steps of Golub-Kahan-Lanczos with vector-Jacobian
    and Jacobian-vector products give the largest ones with residuals, and the mean logarithm by quadrature.

    **Cost** as many gradients of ``examples`` examples as the smaller side has entries, or 40.

    **Assumes** ``loss_fn(outputs, targets)``, inputs that are one tensor of numbers, and examples that do not see each
    other. Outputs and inputs of one example are taken as long vectors.

    **Misleads** across input scales: inputs measured in other units change every value. Kinks of rectifiers are not
    seen: the Jacobian is that of the linear piece at the example itself. Logits that are never used as such
    (shifted alike) have a direction that does not matter.

    Args:
        objective: What to measure.
        examples: At most so many, drawn at random.
        dense: Up to this size of the smaller side the whole Jacobian is built.
        generator: Draws examples and start vectors; seeded by the objective if omitted.
        budget: Limit: products with the Jacobian (of all examples), ``"5s"`` or a `Budget`.

    Returns:
        Mean singular values in descending order, dims ``("eig",)``, output per input (a pure number), with standard
        errors over the examples. ``details``: ``mean_log`` (mean ln σ over those that are not 0, averaged over
        examples; 0 at isometry) with ``mean_log_error``, ``rms`` (√ mean σ² over all of them), ``isometry_defect``
        (variance of σ² over its squared mean, 0 at isometry), ``condition`` (median over examples of the largest
        over the smallest that is not 0), ``zero_share`` (singular values that are 0), ``largest`` (over the
        examples), ``per_example`` (examples x values), ``residuals`` (means, relative to the largest; 0 where
        exact), ``method``, ``inputs``, ``outputs``, ``examples``.

    Raises:
        InputError: The number of examples or ``dense`` is out of range.

    References:
        Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, §2.

    Example:
        A linear network: the singular values of its product, whatever the input.

        >>> import torch
        >>> model = torch.nn.Sequential(*(torch.nn.Linear(2, 2, bias=False).double() for _ in range(2)))
        >>> for layer in model: layer.weight.data = torch.diag(torch.tensor([3.0, 0.5])).double()
        >>> x = torch.ones(4, 2).double()
        >>> jacobian_singular_values(Objective(model, torch.nn.functional.mse_loss, (x, x))).value.tolist()
        [9.0, 0.25]
    """
    name = "jacobian_singular_values"
    if examples < 1 or dense < 0:
        raise InputError(
            f"{name}: examples is {examples} and dense {dense}; allowed: at least 1 and at least 0."
        )
    clock = Budget.of(budget).start()
    if clock.exhausted():
        return no_answer(name, "The budget allows no product with the Jacobian.", state=State.OUT_OF_BUDGET)
    source = generator or torch.Generator().manual_seed(objective.seed)
    try:
        found = _part(objective, examples, source)
        if isinstance(found, str):
            return not_applicable(name, found)
        with objective._quiet():
            jacobian = _Jacobian(objective, *found)
            if not jacobian.finite:
                return no_answer(name, "An output is NaN or infinite.", state=State.NON_FINITE)
            spectrum = _spectrum(jacobian, clock, dense, source)
    except GeartrainError as error:
        return not_applicable(name, str(error))
    jacobian.charge()
    if spectrum is None:
        return no_answer(name, "The budget ended before the Jacobian was known.", state=State.OUT_OF_BUDGET)
    if not np.isfinite(spectrum.values).all():
        return no_answer(name, "A derivative is NaN or infinite.", state=State.NON_FINITE)
    return _answer(spectrum, jacobian)


@dataclass(frozen=True)
class _Spectrum:
    """Singular values of every example, descending, shape (examples, k), with residuals and quadrature weights."""

    values: np.ndarray
    residuals: np.ndarray
    weights: np.ndarray
    method: str
    cut: bool


def _is_dense(outputs: int, inputs: int, count: int, dense: int) -> bool:
    return min(outputs, inputs) <= dense and 8 * count * outputs * inputs <= _KEEP_BYTES


def _spectrum(jacobian: _Jacobian, clock: Clock, dense: int, generator: torch.Generator) -> _Spectrum | None:
    short = min(jacobian.outputs, jacobian.inputs)
    affordable = clock.products is None or clock.products >= short
    if affordable and _is_dense(jacobian.outputs, jacobian.inputs, jacobian.count, dense):
        whole = jacobian.whole(clock)
        if whole is None:
            return None
        values = torch.linalg.svdvals(whole.double()).cpu().numpy()
        return _Spectrum(values, np.zeros_like(values), np.full_like(values, 1 / short), "dense", cut=False)
    steps = min(_STEPS, short)
    limit = steps if clock.products is None else min(steps, clock.products // 2)
    if limit < 1:
        return None
    maps = (
        (jacobian.pull, jacobian.push)
        if jacobian.outputs <= jacobian.inputs
        else (jacobian.push, jacobian.pull)
    )
    start = torch.randn(jacobian.count, short, generator=generator, dtype=torch.float64)
    found = bidiagonalise(*maps, start.to(jacobian.x), limit, generator)
    return _Spectrum(found.values, found.residuals, found.weights, "golub-kahan", cut=limit < steps)


def _answer(spectrum: _Spectrum, jacobian: _Jacobian) -> Measurement:
    values = spectrum.values
    value, error = values.mean(0), _spread(values)
    largest = values.max(1, keepdims=True)
    # Rounding of the products is what a zero looks like.
    limit = largest * 100 * max(jacobian.outputs, jacobian.inputs) * torch.finfo(jacobian.x.dtype).eps
    live = values > limit
    logs = np.log(np.where(live, values, 1.0)) * spectrum.weights
    alive = (spectrum.weights * live).sum(1)
    each = np.divide(logs.sum(1), alive, out=np.full(len(values), math.nan), where=alive > 0)
    mean_log, mean_log_error = mean_and_error(each[np.isfinite(each)])
    second = (spectrum.weights * values**2).sum(1)
    fourth = (spectrum.weights * values**4).sum(1)
    smallest = np.where(live, values, np.inf).min(1)
    known = np.isfinite(smallest)
    details = {
        "mean_log": mean_log,
        "mean_log_error": mean_log_error,
        "rms": math.sqrt(float(second.mean())),
        "isometry_defect": float(fourth.mean() / second.mean() ** 2 - 1) if second.any() else math.nan,
        "condition": float(np.median(largest[known, 0] / smallest[known])) if known.any() else math.nan,
        "zero_share": float(1 - alive.mean()),
        "largest": float(values.max()),
        "per_example": values,
        "residuals": (spectrum.residuals / np.maximum(largest, 1e-300)).mean(0),
        "method": spectrum.method,
        "inputs": jacobian.inputs,
        "outputs": jacobian.outputs,
        "examples": jacobian.count,
    }
    return Measurement(
        "jacobian_singular_values",
        value,
        "1",
        _status(spectrum, details),
        error,
        ("eig",),
        {"eig": list(range(len(value)))},
        details=details,
    )


def _spread(values: np.ndarray) -> np.ndarray:
    if len(values) < 2:
        return np.full(values.shape[1], math.nan)
    return values.std(0, ddof=1) / math.sqrt(len(values))


def _status(spectrum: _Spectrum, details: dict[str, Any]) -> Status:
    what = f"{details['outputs']} x {details['inputs']} Jacobians of {details['examples']} examples"
    sentence = (
        f"{what}; mean ln σ {details['mean_log']:.3g}, isometry defect {details['isometry_defect']:.3g}."
    )
    if spectrum.method == "dense":
        return Status(State.ESTIMATE, sentence)
    worst = float(details["residuals"][0])
    state = State.OUT_OF_BUDGET if spectrum.cut else State.ESTIMATE
    return Status(
        state,
        f"{sentence} Largest of {spectrum.values.shape[1]} Ritz values has a relative residual of {worst:.1g}.",
    )


# ---------------------------------------------------------------------- the Jacobian


def _part(
    objective: Objective, examples: int, generator: torch.Generator | None = None
) -> tuple[Any, int] | str:
    """Some examples as one batch, and how many; or why there is no Jacobian."""
    objective._need_outputs("The Jacobian of the outputs")
    with kernels.mode(objective.model, objective.training):
        if kernels.mixes_examples(objective.model):
            return (
                "Batch normalisation in training mode makes every output depend on all inputs; "
                "measure with Objective(..., training=False)."
            )
    try:
        batch = _batches.join(objective.batches)
    except RuntimeError:  # batches padded to different lengths
        batch = objective.batches[0]
    floats = [t for t in tree_leaves(batch[0]) if isinstance(t, Tensor) and t.is_floating_point()]
    if len(floats) != 1:
        return (
            "The inputs are not one tensor of numbers (tokens have no derivative); "
            "measure the part of the model behind the embedding instead."
        )
    size = _batches.size_of(batch)
    if generator is None or size <= examples:
        index: Any = slice(0, min(examples, size))
    else:
        index = torch.randperm(size, generator=generator)[:examples].sort().values.to(objective.device)
    return _batches.take(batch, index), min(examples, size)


class _Jacobian:
    """Products with the Jacobians of all examples at once; to be used inside ``objective._quiet()``."""

    def __init__(self, objective: Objective, batch: Any, count: int) -> None:
        self.objective, self.count = objective, count
        source = next(t for t in tree_leaves(batch[0]) if isinstance(t, Tensor) and t.is_floating_point())
        self.x = source.detach().clone().requires_grad_()
        # A copy: the first layer may work in place, which a leaf does not allow.
        inputs = tree_map(lambda t: self.x.clone() if t is source else t, batch[0])
        leaves = {n: v.detach() for n, v in objective._leaves(None).items()}
        made = functional_call(
            objective._caller, objective._state(leaves), ((inputs, batch[1]),), {"only_outputs": True}
        )
        output = first_tensor(made)
        if output is None or output.ndim == 0 or output.shape[0] != count:
            raise InputError(
                "The model's output has no axis for the examples, so there is no Jacobian per example."
            )
        self.f = output.reshape(count, -1)
        self.outputs, self.inputs = self.f.shape[1], self.x[0].numel()
        self.finite = bool(torch.isfinite(self.f.detach()).all())
        self._dummy: Tensor | None = None
        self._linear: Tensor | None = None
        self.products = 0

    def pull(self, u: Tensor) -> Tensor:
        """Jᵀu of every example, (examples, outputs) to (examples, inputs)."""
        self.products += 1
        if not self.f.requires_grad:
            return self.x.detach().new_zeros(self.count, self.inputs)
        (found,) = torch.autograd.grad(
            self.f, self.x, u.to(self.f), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return found.reshape(self.count, -1)

    def push(self, v: Tensor) -> Tensor:
        """J v of every example, (examples, inputs) to (examples, outputs): the derivative of Jᵀu in u."""
        self.products += 1
        if not self.f.requires_grad:
            return self.x.detach().new_zeros(self.count, self.outputs)
        if self._linear is None:
            self._dummy = torch.zeros_like(self.f, requires_grad=True)
            (self._linear,) = torch.autograd.grad(
                self.f, self.x, self._dummy, create_graph=True, allow_unused=True, materialize_grads=True
            )
        assert self._dummy is not None
        if not self._linear.requires_grad:
            return self.x.detach().new_zeros(self.count, self.outputs)
        (found,) = torch.autograd.grad(
            self._linear, self._dummy, v.reshape(self.x.shape).to(self.x), retain_graph=True,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        return found.to(self.x.dtype)

    def whole(self, clock: Clock) -> Tensor | None:
        """All of it, shape (examples, outputs, inputs) or its transpose; ``None`` if time ran out."""
        rows = self.outputs <= self.inputs
        side = self.outputs if rows else self.inputs
        parts = []
        for i in range(side):
            if clock.exhausted(i):
                return None
            basis = self.x.detach().new_zeros(self.count, side)
            basis[:, i] = 1
            parts.append(self.pull(basis) if rows else self.push(basis))
        return torch.stack(parts, 1)

    def charge(self) -> None:
        """Put the work on the meter."""
        share = self.count / self.objective.num_examples
        self.objective.charge(forwards=share, gradients=self.products * share)
