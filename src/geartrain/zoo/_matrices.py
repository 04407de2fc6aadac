"""What follows from a toy's own formulas by linear algebra: truths of a gradient, a Hessian, rows, a Jacobian.

A toy that knows its Hessian in closed form knows the trace, the spectrum, the blocks of the layers and so on. Each
function takes matrices *that theory gave* (never what an instrument measured) and returns the truths that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from geartrain.zoo._base import Truth

TOL = 1e-8
"""Asked of iterative instruments, so that what is left is rounding."""


def curvature_truths(
    hessian: np.ndarray,
    gradient: np.ndarray | None = None,
    *,
    loss: float | None = None,
    layers: Sequence[int] = (),
    source: str = "Textbook: linear algebra of the Hessian in closed form.",
) -> dict[str, Truth]:
    """Everything that the Hessian (and the gradient) at the present point decide.

    Args:
        hessian: Shape (params, params).
        gradient: Shape (params,); without it, or if it is zero, nothing about it is said.
        loss: Value of the loss, for the share that a Newton step gains (positive Hessians only).
        layers: Numbers of parameters of the modules, in their order.
        source: How the matrices came about.

    Returns:
        Truths by quantity.
    """
    values = np.linalg.eigvalsh(hessian)
    n, scale = len(values), float(np.abs(values).max())
    values[np.abs(values) < 1e-11 * scale] = 0.0  # rounding of the decomposition
    # Lanczos from one start sees one copy of a multiple eigenvalue until it is asked to look again.
    multiple = bool((np.diff(values[-11:]) < 1e-6 * scale).any())
    truths = {
        "hessian_spectrum": Truth(
            values[::-1][:10], source=source, options={"tol": TOL, "confirm": multiple}
        ),
        "hessian_trace": Truth(float(np.trace(hessian)), source=source),
        "hessian_diagonal": Truth(np.diag(hessian), source=source),
        "negative_curvature": Truth(values[:3], tolerance=1e-6, source=source, options={"tol": TOL}),
        "hessian_density.negative_mass": Truth(
            float((values < -1e-4 * scale).mean()), tolerance=1e-6, source=source, reading="negative_mass"
        ),
    }
    if layers:
        ends = np.cumsum([0, *layers])
        blocks = [hessian[a:b, a:b] for a, b in pairwise(ends)]
        tops = np.array([np.linalg.eigvalsh(block)[-1] for block in blocks])
        truths["layer_curvature"] = Truth(tops, tolerance=1e-5, source=source)
        traces = np.array([np.trace(block) for block in blocks])
        truths["layer_curvature.trace"] = Truth(traces, tolerance=1e-5, source=source, reading="trace")
    if gradient is None or not np.linalg.norm(gradient) > 0:
        return truths
    truths |= _gradient_truths(hessian, gradient, source)
    if loss and values[0] > 1e-3 * scale:
        gain = 0.5 * float(gradient @ np.linalg.solve(hessian + 1e-4 * scale * np.eye(n), gradient))
        truths["endpoint_certificate"] = Truth(
            gain / loss,
            tolerance=3e-3,
            assumptions="Conjugate gradients end at a residual of 1e-3.",
            source=source,
        )
    return truths


def _gradient_truths(hessian: np.ndarray, gradient: np.ndarray, source: str) -> dict[str, Truth]:
    """Truths of the gradient in the eigenbasis of the Hessian."""
    values, vectors = np.linalg.eigh(hessian)
    scale = float(np.abs(values).max())
    shares = (vectors.T @ gradient) ** 2 / (gradient @ gradient)
    along = float(gradient @ hessian @ gradient / (gradient @ gradient))
    truths = {"curvature_along_gradient": Truth(along, source=source)}
    if not (np.abs(np.abs(values) / scale - 1e-3) < 1e-6).any():
        below = float(shares[values < -1e-3 * scale].sum())
        truths["gradient_negative_overlap"] = Truth(
            below if below > 1e-12 else 0.0, tolerance=1e-4, source=source
        )
    gaps = (values[::-1][:-1] - values[::-1][1:]) / scale
    clear = [
        k for k in range(1, min(6, len(values) // 2 + 1)) if gaps[k - 1] > 1e-2 and values[::-1][k - 1] > 0
    ]
    if clear:
        share = float(shares[::-1][: clear[-1]].sum())
        options = {"k": clear[-1], "tol": TOL}
        truths["gradient_in_top_subspace"] = Truth(share, tolerance=1e-5, source=source, options=options)
    if values[0] > -1e-12 * scale:
        kappa = effective_condition(values, shares)
        if kappa is not None:
            truths["effective_condition_number"] = Truth(kappa, tolerance=1e-4, source=source)
    return truths


def effective_condition(values: np.ndarray, shares: np.ndarray, fraction: float = 0.01) -> float | None:
    """Largest eigenvalue over the smallest one below which less than a fraction of Newton's gain lies.

    Args:
        values: Eigenvalues, none negative; zeros are left out.
        shares: Squared components of the gradient.
        fraction: As above.

    Returns:
        The ratio; ``None`` where rounding could decide it.
    """
    keep = values > 1e-9 * values.max()
    values, gains = values[keep], shares[keep] / (2 * values[keep])
    levels, group = np.unique(values.round(12), return_inverse=True)
    gathered = np.cumsum(np.bincount(group, gains))
    if not gathered[-1] > 0 or (np.abs(gathered / gathered[-1] - fraction) < 1e-3).any():
        return None
    return float(values.max() / levels[np.argmax(gathered >= fraction * gathered[-1])])


def example_truths(
    rows: np.ndarray,
    hessian: np.ndarray | None = None,
    *,
    layers: Sequence[int] = (),
    source: str = "Definition, for the gradients of the examples in closed form.",
) -> dict[str, Truth]:
    """Everything that the gradients of the single examples decide.

    Args:
        rows: Gradient of each example's own loss, shape (examples, params); not all zero.
        hessian: For the commutator with the covariance, shape (params, params).
        layers: Numbers of parameters of the modules, in their order.
        source: How the rows came about.

    Returns:
        Truths by quantity. Noise is that of the examples as a sample: variances with n - 1, |G|² unbiased.
    """
    n, mean = len(rows), rows.mean(0)
    norms = np.linalg.norm(rows, axis=1)
    spread = ((rows - mean) ** 2).sum(0) / (n - 1)
    squares = mean**2 - spread / n
    truths = {
        "per_example_gradients": Truth(
            np.quantile(norms, [0.05, 0.25, 0.5, 0.75, 0.95]), source=source, strict=True
        ),
        "gradient_noise_scale.covariance_trace": Truth(
            float(spread.sum()), source=source, strict=True, reading="covariance_trace"
        ),
    }
    if squares.sum() > 1e-9 * spread.sum() / n:
        truths["gradient_noise_scale.grad_sq_norm"] = Truth(
            float(squares.sum()), source=source, strict=True, reading="grad_sq_norm"
        )
        truths["gradient_noise_scale"] = Truth(
            float(spread.sum() / squares.sum()), source=source, strict=True
        )
    kept = rows[norms > 1e-12 * max(norms.max(), 1e-300)]
    if 2 <= len(kept) and n <= 256:
        units = kept / np.linalg.norm(kept, axis=1, keepdims=True)
        total, count = units.sum(0), len(kept)
        truths["gradient_confusion"] = Truth(
            float((total @ total - count) / (count * (count - 1))), source=source, strict=True
        )
    if layers:
        ends = np.cumsum([0, *layers])
        parts = [slice(a, b) for a, b in pairwise(ends)]
        noise = np.array([spread[p].sum() for p in parts])
        if noise.all():
            ratios = np.array([squares[p].sum() for p in parts]) / noise
            truths["signal_to_noise"] = Truth(ratios, source=source, strict=True)
    if hessian is not None and rows.shape[1] <= 12:
        truths |= _commutator(hessian, (rows - mean).T @ (rows - mean) / n, source)
    return truths


def _commutator(hessian: np.ndarray, covariance: np.ndarray, source: str) -> dict[str, Truth]:
    sizes = np.linalg.norm(hessian), np.linalg.norm(covariance)
    if not min(sizes) > 0:
        return {}
    size = float(np.linalg.norm(hessian @ covariance - covariance @ hessian) / (2 * sizes[0] * sizes[1]))
    return {"commutator_norm": Truth(size, tolerance=1e-6, source=source)}


def kernel_truths(
    jacobian: np.ndarray,
    targets: np.ndarray | None = None,
    *,
    source: str = "Definition, for the derivatives of the outputs in closed form.",
) -> dict[str, Truth]:
    """Everything that the derivatives of the outputs decide.

    Args:
        jacobian: Shape (examples, outputs, params); at most 100 examples, the default of the instruments.
        targets: Numbers, shape (examples, outputs), for the alignment.
        source: How it came about.

    Returns:
        Truths by quantity; none for more examples.
    """
    n, outputs, params = jacobian.shape
    if n > 100:
        return {}
    flat = jacobian.reshape(n * outputs, params)
    mean = np.einsum("iap,jap->ij", jacobian, jacobian) / outputs
    singular = np.linalg.svd(flat, compute_uv=False)
    values = np.zeros(n * outputs)
    values[: len(singular)] = singular**2 / n
    rank = int((singular > 1e-9 * singular[0]).sum())
    truths = {
        "ntk": Truth(mean, source=source),
        "ntk_spectrum": Truth(values, source=source),
        "jacobian_rank": Truth(float(rank), source=source),
    }
    if targets is not None and np.ptp(targets, axis=0).any():
        centre = np.eye(n) - 1 / n
        kernel, gram = (centre @ m @ centre for m in (mean, targets @ targets.T))
        size = float(np.linalg.norm(kernel) * np.linalg.norm(gram))
        constant = np.linalg.norm(kernel) <= 1e-12 * np.linalg.norm(mean)
        aligned = float("nan") if constant else float((kernel * gram).sum()) / size
        truths["ntk_alignment"] = Truth(aligned, source=source)
    return truths


def linear_layer(inputs: np.ndarray, outputs: int) -> np.ndarray:
    """Jacobian of Wx in the entries of W, row by row: shape (examples, outputs, outputs·inputs)."""
    return np.einsum("ab,ni->nabi", np.eye(outputs), inputs).reshape(len(inputs), outputs, -1)


def two_layers(
    inputs: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    *,
    tanh: bool = False,
    last: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and Jacobian of a network v·φ(Wx + b) + c with one output, by the chain rule.

    Args:
        inputs: Shape (examples, inputs).
        weight: W, shape (hidden, inputs).
        bias: b, shape (hidden,).
        out: v, shape (hidden,), with c behind it if there is one.
        tanh: φ is tanh; else ReLU, with slope 0 at 0.
        last: Whether there is a c.

    Returns:
        Outputs (examples,) and derivatives (examples, 1, params) in the order W, b, v, c.
    """
    before = inputs @ weight.T + bias
    after = np.tanh(before) if tanh else np.maximum(before, 0.0)
    slope = 1 - after**2 if tanh else (before > 0).astype(float)
    v = out[: len(weight)]
    back = slope * v
    parts = [np.einsum("nh,ni->nhi", back, inputs).reshape(len(inputs), -1), back, after]
    parts += [np.ones((len(inputs), 1))] if last else []
    return after @ v + (out[len(weight)] if last else 0.0), np.concatenate(parts, axis=1)[:, None]


def linear_pair_truths(here: np.ndarray, there: np.ndarray, other: Callable[[Any], Any]) -> dict[str, Truth]:
    """What two states of a model that is linear in its parameters must say of one another.

    Args:
        here: Parameters of the toy's objective.
        there: Parameters of the second state.
        other: How the second state is made, see `Truth`.

    Returns:
        Truths by quantity.
    """
    linear: dict[str, Any] = {"source": "The outputs are linear in the parameters.", "tolerance": 1e-7}
    return {
        "distance_from_init": Truth(float(np.linalg.norm(here - there)), source="Definition.", other=other),
        "linearised_error": Truth(0.0, other=other, **linear),
        "ntk_drift": Truth(0.0, other=other, **linear),
        "lazy_index": Truth(0.0, other=other, **linear),
        "linear_connectivity": Truth(
            0.0, tolerance=1e-9, source="The loss is convex: it lies below its chords.", other=other
        ),
    }


def parabola(
    loss: float, gradient: np.ndarray, hessian: np.ndarray, direction: np.ndarray, span: float = 1.0
) -> Truth:
    """The slice of a quadratic loss along a direction, at 21 points from -span to span times its length."""
    t = np.linspace(-span, span, 21)
    values = loss + t * (gradient @ direction) + 0.5 * t**2 * (direction @ hessian @ direction)
    return Truth(
        values,
        source="The loss is a parabola along every line.",
        options={"direction": torch.from_numpy(direction), "span": span},
    )


def least_squares_truths(
    inputs: np.ndarray, targets: np.ndarray, weight: np.ndarray, *, silent: Callable[[Any], Any] | None = None
) -> dict[str, Truth]:
    """Truths of a layer f = Wx without bias under ½ mean ‖f - y‖².

    Args:
        inputs: Shape (examples, inputs).
        targets: Shape (examples, outputs).
        weight: W, shape (outputs, inputs).
        silent: Makes the second state W = 0 for comparisons; needs W ≠ 0.

    Returns:
        Truths by quantity.
    """
    n, outputs = len(inputs), len(weight)
    residual, moments = inputs @ weight.T - targets, inputs.T @ inputs / n
    hessian, gradient = np.kron(np.eye(outputs), moments), (residual.T @ inputs / n).ravel()
    loss, size = 0.5 * float((residual**2).sum(1).mean()), weight.size
    rows = np.einsum("na,ni->nai", residual, inputs).reshape(n, -1)
    variance = float(((targets - targets.mean(0)) ** 2).sum(1).mean())
    singular = np.linalg.svd(weight, compute_uv=False)
    source = "f = Wx: the Hessian is 1 ⊗ E[xxᵀ]."
    truths = {
        "weight_norm": Truth(np.array([np.linalg.norm(weight)]), source="Definition."),
        "loss_slice": parabola(loss, gradient, hessian, np.ones(size) / np.sqrt(size)),
        "missing_biases": Truth(1.0, source="By definition."),
        "output_reach": Truth(0.0, source="The output is unbounded."),
        "dead_units": Truth(float("nan"), source="There is no rectifier."),
        "saturated_units": Truth(float("nan"), source="There is no sigmoid."),
        **curvature_truths(hessian, gradient, loss=loss, layers=[size], source=source),
    }
    if variance > 1e-9:
        truths["constant_loss"] = Truth(0.5 * variance, tolerance=1e-5, source="Variance of the targets.")
    if np.abs(residual).max() > 1e-9:
        truths |= example_truths(rows, hessian, layers=[size], source=source)
    if n * outputs <= 800:
        truths |= kernel_truths(linear_layer(inputs, outputs), targets, source=source)
    if singular[0] > 0:
        shares = singular[singular > 1e-12 * singular[0]] / singular[singular > 1e-12 * singular[0]].sum()
        truths["weight_rank"] = Truth(
            np.array([float(np.exp(-(shares * np.log(shares)).sum()))]), source="Definition."
        )
        truths["jacobian_singular_values"] = Truth(
            singular, source="The derivative of Wx is W.", tolerance=1e-6
        )
        truths["input_affinity"] = Truth(0.0, source="A linear function.", tolerance=1e-7)
    if silent is not None and singular[0] > 0:
        truths |= linear_pair_truths(weight.ravel(), np.zeros(size), silent)
        truths["function_distance"] = Truth(2**0.5, source="‖f - 0‖/√(½‖f‖²).", other=silent)
    return truths
