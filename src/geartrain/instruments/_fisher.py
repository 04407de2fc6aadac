"""What a loss says about the distribution of the targets, and products with the Fisher matrices that follow from it.

A loss that is a negative log-likelihood defines what the model believes of the targets. The Fisher matrix is
the mean of the squared slopes of that loss over targets drawn from this belief, F = E[Jᵀ s sᵀ J] with s =
∂ℓ/∂f, one draw for every independent prediction. The likelihood is recognised by how the loss bends in outputs
of our own making, not by what it is called, so that a lambda or a flattened sequence loss is as good as the
function of PyTorch.

Where the outputs are the natural parameters (logits under cross-entropy, means under squared error) E[s sᵀ] = ∂²ℓ/∂f²
whatever the target, so that the Fisher matrix *is* the generalised Gauss-Newton matrix (Martens 2020, arXiv:1412.1193,
§9.2). Nothing here divides by a probability, so that a confident network gives small numbers and not NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from geartrain._torch.loss import LossModule, SupervisedLoss
from geartrain.errors import UnsupportedError
from geartrain.linalg.operators import default_generator
from geartrain.objective import Objective

Kind = Literal["categorical", "bernoulli", "gaussian", "log-probabilities", "probabilities"]
_Fit = tuple[Kind, int | None, Tensor]
_Fits = dict[tuple[Kind, int | None], Tensor]
_ELEMENTWISE = ("bernoulli", "gaussian", "probabilities")
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_REFUSAL = (
    "cannot be had: geartrain does not recognise the loss as a likelihood of the targets with equal weights "
    "(cross-entropy on logits, squared error, binary cross-entropy, negative log-likelihood of log-probabilities). "
    "Use operator='ggn', which needs no likelihood, or operator='empirical_fisher'."
)


@dataclass(frozen=True)
class Likelihood:
    """The distribution of the targets that a loss stands for.

    Attributes:
        kind: Its family and parametrisation; the outputs are logits, means, log-probabilities or probabilities.
        axis: Axis of the outputs that numbers the classes; ``None`` where every output stands for itself.
        weights: Per batch: weight of each prediction in the loss of the batch (0 for those that it leaves out), shape
            of the outputs with 1 on the class axis.
        outputs: Per batch: the model's present outputs.
    """

    kind: Kind
    axis: int | None
    weights: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def natural(self) -> bool:
        """Whether the outputs are the natural parameters, so that the Fisher matrix is the Gauss-Newton matrix."""
        return self.kind in ("categorical", "bernoulli", "gaussian")


def fisher_vp(objective: Objective) -> Callable[[Tensor], Tensor]:
    """Product with the exact Fisher matrix at the present parameters.

    Raises:
        UnsupportedError: The loss is not recognised as a likelihood, or hides the outputs.
    """
    believed = likelihood_of(objective)
    if believed.natural:
        return objective.ggnvp
    # E[s sᵀ] is diagonal in these parametrisations.
    roots = [_mean_square(believed.kind, f).sqrt() for f in believed.outputs]
    return _with_slopes(objective, roots, believed.weights, None).ggnvp


def sampled_fisher_vp(objective: Objective, generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    """Product with the Fisher matrix of one target drawn for every prediction, the same in every product.

    Raises:
        UnsupportedError: The loss is not recognised as a likelihood, or hides the outputs.
    """
    believed, source = likelihood_of(objective), default_generator(generator)
    slopes = [_sampled_slopes(believed.kind, believed.axis, f, source) for f in believed.outputs]
    axis = believed.axis if believed.kind in ("categorical", "log-probabilities") else None
    return _with_slopes(objective, slopes, believed.weights, axis).ggnvp


def likelihood_of(objective: Objective) -> Likelihood:
    """The likelihood that the objective's loss stands for. **Cost**: one forward pass.

    Raises:
        UnsupportedError: It is not recognised, or the loss hides the outputs.
    """
    objective._need_outputs("The Fisher matrix")
    outputs = [_outputs_on(objective, batch) for batch in objective.batches]
    objective.charge(forwards=1)
    found = [_recognise(objective, f, batch[1]) for f, batch in zip(outputs, objective.batches, strict=True)]
    known = [f for f in found if f is not None]
    if len(known) < len(found) or len({(kind, axis) for kind, axis, _ in known}) != 1:
        raise UnsupportedError(f"The Fisher matrix {_REFUSAL}")
    kind, axis, _ = known[0]
    return Likelihood(kind, axis, tuple(w for _, _, w in known), tuple(outputs))


def _outputs_on(objective: Objective, batch: Any) -> Tensor:
    with objective._quiet(), torch.no_grad():
        outputs = objective._outputs(objective._leaves(None), batch)
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.ndim == 0:
        raise UnsupportedError(
            f"The Fisher matrix {_REFUSAL} The model's outputs are not one tensor of numbers."
        )
    return objective._finite(outputs, "output", None)


# ---------------------------------------------------------------------- recognising a likelihood


def _recognise(objective: Objective, outputs: Tensor, targets: Any) -> _Fit | None:
    """Family, class axis and weights of the predictions of one batch; ``None`` where nothing fits."""
    source = torch.Generator().manual_seed(objective.seed)
    normal = torch.randn(outputs.shape, generator=source, dtype=torch.float64).to(outputs)
    direction = torch.randn(outputs.shape, generator=source, dtype=torch.float64).to(outputs)
    bent = _bend(objective, normal, targets, direction)
    if bent is not None and bool((bent != 0).any()):
        elsewhere = -3.0 * normal
        again = _bend(objective, elsewhere, targets, direction)
        if again is None:
            return None
        # Two points: Huber's loss is a parabola in places only, and one output alone fits every family somewhere.
        return _agreed(_natural(normal, direction, bent), _natural(elsewhere, direction, again))
    slope = _slope(objective, normal, targets)
    if slope is not None and bent is not None:
        return _log_probabilities(outputs, slope)
    inner = torch.sigmoid(normal)
    slope = _slope(objective, inner, targets)
    return None if slope is None else _probabilities(inner, slope, targets)


def _agreed(one: _Fits, two: _Fits) -> _Fit | None:
    for key, weights in one.items():
        tolerance = 10 * _TOLERANCE.get(weights.dtype, 5e-2)
        if key in two and float((weights - two[key]).abs().max()) <= tolerance * float(weights.max()):
            return (*key, weights)
    return None


def _class_axes(outputs: Tensor) -> list[int]:
    """Axes that may number the classes: the one of PyTorch's losses, and the last."""
    return list(dict.fromkeys((1, outputs.ndim - 1))) if outputs.ndim > 1 else []


def _natural(f: Tensor, u: Tensor, bent: Tensor) -> _Fits:
    """Every family whose outputs are natural parameters and whose curvature could be this one."""
    expected: dict[tuple[Kind, int | None], Tensor] = {}
    for axis in _class_axes(f):
        if f.shape[axis] > 1:
            p = torch.softmax(f, axis)
            expected["categorical", axis] = p * (u - (p * u).sum(axis, keepdim=True))
    p = torch.sigmoid(f)
    expected["bernoulli", None] = p * (1 - p) * u
    expected["gaussian", None] = u
    fits = {key: _fitted(curvature, u, bent, key[1]) for key, curvature in expected.items()}
    return {key: weights for key, weights in fits.items() if weights is not None}


def _fitted(expected: Tensor, u: Tensor, bent: Tensor, axis: int | None) -> Tensor | None:
    """Weights with bent = weight x expected, if there are such and they are all equal or zero."""
    above, below = u * bent, u * expected
    if axis is not None:
        above, below = above.sum(axis, keepdim=True), below.sum(axis, keepdim=True)
    usable = below.abs() > 1e-6 * below.abs().max()
    weights = torch.where(usable, above / torch.where(usable, below, torch.ones_like(below)), 0.0)
    tolerance = _TOLERANCE.get(bent.dtype, 5e-2)
    scale = float(weights.max())
    present = weights.abs() > tolerance * scale
    if not scale > 0:
        return None
    level = torch.where(present | ~usable, (weights * present).sum() / present.sum(), 0.0).to(weights)
    gap = bent - level * expected
    return level if float(gap.norm()) <= tolerance * float(bent.norm()) else None


def _log_probabilities(outputs: Tensor, slope: Tensor) -> _Fit | None:
    """A loss that is linear in the outputs and pulls at one class of each prediction."""
    for axis in _class_axes(outputs):
        chosen = (slope != 0).sum(axis, keepdim=True)
        weights = -slope.sum(axis, keepdim=True)
        scale = float(weights.max())
        # The weights are those of the loss itself, equal up to rounding, and the outputs sum to one in probability.
        equal = bool((((weights - scale).abs() <= 1e-3 * scale) | (weights == 0)).all())
        proper = bool((outputs.logsumexp(axis).abs() <= 1e-3).all())
        if scale > 0 and equal and proper and bool((chosen <= 1).all()):
            return "log-probabilities", axis, weights
    return None


def _probabilities(p: Tensor, slope: Tensor, targets: Any) -> _Fit | None:
    """Binary cross-entropy on probabilities: slope = weight (p - y) / (p (1 - p))."""
    if not isinstance(targets, Tensor) or targets.shape != p.shape:
        return None
    gap = p - targets.to(p)
    weights = slope * p * (1 - p) / torch.where(gap == 0, torch.ones_like(gap), gap)
    scale = float(weights.max())
    equal = bool((((weights - scale).abs() <= 1e-3 * scale) | (weights == 0)).all())
    return ("probabilities", None, weights) if scale > 0 and equal else None


def _slope(objective: Objective, outputs: Tensor, targets: Any) -> Tensor | None:
    """Derivative of the batch's loss in the outputs; ``None`` where the loss refuses them."""
    free = outputs.detach().requires_grad_()
    loss = _called(objective, free, targets)
    if loss is None or not loss.requires_grad:
        return None
    slope = torch.autograd.grad(loss, free, allow_unused=True, materialize_grads=True)[0]
    return slope if bool(torch.isfinite(slope).all()) else None


def _bend(objective: Objective, outputs: Tensor, targets: Any, direction: Tensor) -> Tensor | None:
    """Second derivative of the batch's loss in the outputs times ``direction``."""
    free = outputs.detach().requires_grad_()
    loss = _called(objective, free, targets)
    if loss is None or not loss.requires_grad:
        return None
    slope = torch.autograd.grad(loss, free, create_graph=True, allow_unused=True, materialize_grads=True)[0]
    if not slope.requires_grad:
        return torch.zeros_like(outputs)
    bent = torch.autograd.grad(slope, free, direction, allow_unused=True, materialize_grads=True)[0]
    return bent if bool(torch.isfinite(bent).all()) else None


def _called(objective: Objective, outputs: Tensor, targets: Any) -> Tensor | None:
    try:
        with objective._quiet(), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = objective.loss_fn(outputs, targets)  # type: ignore[misc]
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return None
    return loss if isinstance(loss, Tensor) and bool(torch.isfinite(loss).all()) else None


# ---------------------------------------------------------------------- slopes of drawn targets


def _inside(p: Tensor) -> Tensor:
    """Probabilities kept off 0 and 1, where J is 0 and 0/0 would arise."""
    small = torch.finfo(p.dtype).eps
    return p.clamp(small, 1 - small)


def _mean_square(kind: Kind, outputs: Tensor) -> Tensor:
    """Diagonal of E[s sᵀ] where the outputs are probabilities or their logarithms."""
    if kind == "log-probabilities":
        return outputs.exp()
    p = _inside(outputs)
    return 1 / (p * (1 - p))


def _sampled_slopes(kind: Kind, axis: int | None, f: Tensor, source: torch.Generator) -> Tensor:
    """Slopes s = ∂ℓ/∂f for one drawn target per prediction, in the shape of the outputs."""
    if kind == "gaussian":
        return torch.randn(f.shape, generator=source, dtype=torch.float64, device=source.device).to(f)
    if kind in _ELEMENTWISE:
        p = torch.sigmoid(f) if kind == "bernoulli" else _inside(f)
        uniform = torch.rand(f.shape, generator=source, dtype=torch.float64, device=source.device).to(
            f.device
        )
        gap = p - (uniform < p.double()).to(f)
        return gap if kind == "bernoulli" else gap / (p * (1 - p))
    assert axis is not None
    p = torch.softmax(f, axis)
    chosen = torch.zeros_like(f).scatter_(axis, _drawn_classes(p, axis, source), 1.0)
    return p - chosen if kind == "categorical" else -chosen


def _drawn_classes(p: Tensor, axis: int, source: torch.Generator) -> Tensor:
    """One class per prediction, by the inverse of the distribution function (1 on the class axis)."""
    cumulative = p.double().cumsum(axis)
    total = cumulative.narrow(axis, p.shape[axis] - 1, 1)
    uniform = torch.rand(total.shape, generator=source, dtype=torch.float64, device=source.device)
    return (cumulative <= uniform.to(p.device) * total).sum(axis, keepdim=True).clamp(max=p.shape[axis] - 1)


@dataclass(frozen=True)
class _Squares:
    """The loss ½ Σ weight (s·f)²: its Gauss-Newton matrix is the mean of Jᵀ s sᵀ J."""

    axis: int | None

    def __call__(self, outputs: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
        slopes, weights = given
        along = slopes * outputs
        along = along if self.axis is None else along.sum(self.axis, keepdim=True)
        return 0.5 * (weights * along**2).sum()


def _with_slopes(
    objective: Objective, slopes: list[Tensor], weights: tuple[Tensor, ...], axis: int | None
) -> Objective:
    """The objective with a loss whose Gauss-Newton matrix is made of these slopes; it counts on the same meter."""
    loss = _Squares(axis)
    batches = [(batch[0], (s, w)) for batch, s, w in zip(objective.batches, slopes, weights, strict=True)]
    caller = LossModule(objective.model, SupervisedLoss(loss))
    return objective._copy(_batches=batches, loss_fn=loss, batch_loss=SupervisedLoss(loss), _caller=caller)
