"""Interventions that several mechanisms share, and the edits of models and data that they are made of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from geartrain import instruments
from geartrain._torch import batches as _batches
from geartrain._torch.loss import SupervisedLoss, call_model
from geartrain.mechanisms._base import Intervention, constant, need
from geartrain.run import Change, Run

# ---------------------------------------------------------------------- step size, batch, length


def _with_lr(factor: float) -> Callable[[Run], Change]:
    return constant(Change(lr_factor=factor))


def _pace(name: str, words: str, factor: float) -> Intervention:
    return Intervention(
        name, f"The whole run again from its start with {words} the step size.", _with_lr(factor)
    )


LR_TENTH = _pace("lr / 10", "a tenth of", 0.1)
LR_HUNDREDTH = _pace("lr / 100", "a hundredth of", 0.01)
LR_TIMES_TEN = _pace("lr x 10", "ten times", 10.0)
LR_TIMES_HUNDRED = _pace("lr x 100", "a hundred times", 100.0)
LR_TIMES_THOUSAND = _pace("lr x 1000", "a thousand times", 1000.0)


def _by_ten_thousand(run: Run) -> Change:
    ratio = float(
        instruments.get("edge_of_stability")(run, generator=torch.Generator().manual_seed(run.seed))
    )
    need(ratio < 1e-4, "the step size is not four orders below the stability threshold")
    return Change(lr_factor=1e4)


LR_TIMES_TEN_THOUSAND = Intervention(
    "lr x 10000",
    "The whole run again from its start with ten thousand times the step size.",
    _by_ten_thousand,
)


def _larger_batch(run: Run) -> Change:
    need(run.user_step is None or run.stream.batch_size > 0, "the batch size is not ours to change")
    total = run.stream.num_examples
    need(
        total is None or run.stream.batch_size * 4 <= total,
        "the batch is already a quarter of the data or more",
    )
    return Change(batch_factor=16.0)


BATCH_TIMES_16 = Intervention(
    "batch x 16",
    "The whole run again with sixteen times the batch at the same step size, for the same number of steps.",
    _larger_batch,
)


def _eighth_of_batch(run: Run) -> Change:
    need(run.stream.batch_size >= 16, "the batch is already small")
    return Change(batch_factor=0.125)


BATCH_EIGHTH = Intervention(
    "batch / 8",
    "From the start an eighth of the batch at the same step size, for the same number of examples.",
    _eighth_of_batch,
    stretch=8.0,
)

KEEP_GOING = Intervention(
    "as long again",
    "The run goes on unchanged from its end for as many steps again.",
    constant(Change(keep_schedule=False)),
    beyond=True,
)


# ---------------------------------------------------------------------- inputs and targets


def _reduce_axes(x: Tensor) -> list[int]:
    """Statistics per feature for flat inputs, per channel for images."""
    return [0] if x.ndim <= 2 else [0, *range(2, x.ndim)]


def _standardise_inputs(run: Run) -> Change:
    batch = run.probe("train")
    need(isinstance(batch, (tuple, list)) and isinstance(batch[0], Tensor), "the inputs are not one tensor")
    inputs = batch[0]
    need(inputs.is_floating_point(), "the inputs are tokens, not numbers")
    axes = _reduce_axes(inputs)
    mean, std = inputs.mean(axes, keepdim=True), inputs.std(axes, keepdim=True)
    std = torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std))
    return Change(transform=lambda b: ((b[0] - mean) / std, b[1]))


STANDARDISE_INPUTS = Intervention(
    "inputs standardised",
    "The whole run again on inputs of mean 0 and variance 1, feature by feature.",
    _standardise_inputs,
)


def _standardise_targets(run: Run) -> Change:
    batch = run.probe("train")
    need(isinstance(batch, (tuple, list)) and isinstance(batch[1], Tensor), "the targets are not one tensor")
    targets = batch[1]
    need(targets.is_floating_point(), "the targets are classes, not numbers")
    mean, std = targets.mean(0, keepdim=True), targets.std(0, keepdim=True).clamp_min(1e-12)
    need(
        _is_distance(run, (targets - mean) / std),
        "the loss is no distance from the targets, which are labels or probabilities",
    )
    return Change(transform=lambda b: (b[0], (b[1] - mean) / std))


def _is_distance(run: Run, targets: Tensor) -> bool:
    """Whether the loss is least where outputs equal targets: a cross-entropy is not, and falls without end on these."""
    if not isinstance(run.batch_loss, SupervisedLoss):
        return not bool(((targets == targets.min()) | (targets == targets.max())).all())
    loss = run.batch_loss.loss_fn
    try:
        with torch.no_grad():
            exact, *others = (float(loss(scale * targets, targets)) for scale in (1.0, 0.5, 2.0, 4.0))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return True  # outputs of another kind (a mean and a variance, say): nothing speaks against it
    return exact <= min(others)


STANDARDISE_TARGETS = Intervention(
    "targets standardised", "The whole run again on targets of mean 0 and variance 1.", _standardise_targets
)


def _standardise_both(run: Run) -> Change:
    inputs, targets = _standardise_inputs(run).transform, _standardise_targets(run).transform
    assert inputs is not None
    assert targets is not None
    return Change(transform=lambda b: targets(inputs(b)), prepare=_to_a_safe_step)


SAFE_SHARE = 0.15
"""Share of the stability threshold that a step size is set to: sharpness rises during training, and noise counts too."""


def _to_a_safe_step(fork: Run) -> None:
    """Set the step size by the curvature: one that was tuned to other units means nothing in these."""
    ratio = float(
        instruments.get("edge_of_stability")(fork, generator=torch.Generator().manual_seed(fork.seed))
    )
    if math.isfinite(ratio) and ratio > 0:
        Change(lr_factor=SAFE_SHARE / ratio).apply(fork)


STANDARDISE_BOTH = Intervention(
    "inputs and targets standardised",
    "The whole run again on inputs and targets of mean 0 and variance 1, with the step size that the curvature then allows.",
    _standardise_both,
)


def whole_training_data(run: Run) -> tuple[Any, Any]:
    """All training data as (inputs, targets), whatever they came as."""
    data = _batches.join(
        _batches.materialise(run.train_data, probe=None, seed=run.seed, what="training data")
    )
    need(isinstance(data, (tuple, list)) and len(data) == 2, "the batches are not (inputs, targets)")
    return data[0], data[1]


def _shuffle_labels(run: Run) -> Change:
    inputs, targets = whole_training_data(run)

    def prepare(fork: Run) -> None:
        order = torch.randperm(
            _batches.size_of(targets), generator=torch.Generator().manual_seed(fork.seed + 7)
        )
        fork.replace_data(train=(inputs, _batches.take(targets, order)))

    return Change(prepare=prepare)


SHUFFLED_LABELS = Intervention(
    "labels shuffled",
    "The whole run again with the training labels shuffled among the examples: if nothing gets worse, they held no information.",
    _shuffle_labels,
)


# ---------------------------------------------------------------------- initialisation and restarts


def reset(model: nn.Module) -> None:
    """Draw every layer's parameters anew by its own default rule."""
    done = 0
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
            done += 1
        elif isinstance(module, nn.MultiheadAttention):
            module._reset_parameters()
            done += 1
    need(done > 0, "no layer knows how to draw its parameters anew")


RESTART = Intervention(
    "restart",
    "The whole run again from other initial weights, drawn by the layers' own default rule.",
    constant(Change(edit=reset)),
    tries=4,
)


# ---------------------------------------------------------------------- edits of models


def executed_leaves(run: Run) -> list[tuple[str, nn.Module]]:
    """Leaf modules in the order in which a forward pass on two examples calls them."""
    batch = _batches.take(run.probe("train"), slice(0, 2))
    order: list[tuple[str, nn.Module]] = []
    handles = []
    for name, module in run.model.named_modules():
        if not list(module.children()):
            hook = lambda m, *_, n=name: order.append((n, m))  # noqa: E731
            handles.append(module.register_forward_hook(hook))
    modes = [(m, m.training) for m in run.model.modules()]
    try:
        run.model.eval()
        with torch.no_grad():
            if isinstance(batch, (tuple, list)):
                call_model(run.model, batch[0])
            elif run.batch_loss is not None:
                run.batch_loss(run.model, batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in modes:
            module.training = flag
    return order


def swap(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule of that name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ACTIVATIONS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softmax,
    nn.LogSoftmax,
    nn.ReLU6,
    nn.Hardtanh,
    nn.Softplus,
    nn.GELU,
    nn.SiLU,
)


def swap_activations(
    kinds: tuple[type[nn.Module], ...],
    new: Callable[[], nn.Module],
    *,
    gain: bool,
    lr_factor: float | None = None,
) -> Callable[[Run], Change]:
    """Replace hidden activation modules of some kinds; with ``gain``, draw weights to suit rectifiers (He et al. 2015)."""

    def make(run: Run) -> Change:
        names = [n for n, m in executed_leaves(run)[:-1] if isinstance(m, kinds)]
        need(bool(names), "the model has no such activation modules (they may be called as functions)")

        def edit(model: nn.Module) -> None:
            for name in names:
                swap(model, name, new())
            for module in model.modules():
                if gain and isinstance(module, LINEAR):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

        return Change(edit=edit, lr_factor=lr_factor)

    return make


def last_activation(run: Run) -> str:
    """Name of the activation module that the forward pass ends in."""
    leaves = executed_leaves(run)
    need(
        bool(leaves) and isinstance(leaves[-1][1], ACTIVATIONS),
        "the output activation is not a module of its own",
    )
    return leaves[-1][0]


NO_OUTPUT_ACTIVATION = Intervention(
    "output activation removed",
    "The whole run again with the activation after the last layer taken away.",
    lambda run: Change(head=(last_activation(run), nn.Identity())),
)


def _median_clip(run: Run) -> Change:
    norms = run.history.column("grad_norm")
    need(len(norms) > 0, "no gradient norms were recorded")
    finite = norms[torch.isfinite(torch.as_tensor(norms)).numpy()]
    need(len(finite) > 0, "no gradient norm was finite")
    # Adam and its kin do not care about the scale of the gradient, only about outliers: clip nearly all of them.
    adaptive = any(key in run.optimizer.param_groups[0] for key in ("betas", "alpha"))
    return Change(clip_grad_norm=float(torch.as_tensor(finite).quantile(0.1 if adaptive else 0.5)))


CLIPPED = Intervention(
    "gradients clipped",
    "The run again from its start with gradients clipped to the median norm of this run (adaptive optimizers: its first decile).",
    _median_clip,
)


LBFGS_SECONDS = 1.5
"""One step of L-BFGS (some 25 gradients) cannot be interrupted, so it must not take longer than this."""


def _affordable(run: Run) -> int:
    """Examples in a batch on which a step of L-BFGS takes at most `LBFGS_SECONDS`."""
    objective = run.objective(probe=64)
    objective.gradient()
    started = time.perf_counter()
    objective.gradient()
    per_example = max(time.perf_counter() - started, 1e-6) / objective.num_examples
    return int(LBFGS_SECONDS / (25 * per_example))


def _lbfgs(run: Run) -> Change:
    need(run.user_step is None, "the run's own step(batch) decides the optimizer")
    inputs, targets = whole_training_data(run)
    size = min(_batches.size_of(targets), 2048, _affordable(run))
    need(size >= 64, "one step of it would take too long on this model")

    def prepare(fork: Run) -> None:
        fork.replace_data(train=_batches.take((inputs, targets), slice(0, size)))
        fork.stream.set_batch_size(size)

    def make(params: Any) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(params, max_iter=20, history_size=20, line_search_fn="strong_wolfe")

    return Change(optimizer=make, prepare=prepare)


LBFGS_BURST = Intervention(
    "L-BFGS burst",
    "From the middle of the run, L-BFGS on a fixed batch in place of the optimizer, at an equal number of gradients (20 per step).",
    _lbfgs,
    at="middle",
    stretch=0.05,
)
