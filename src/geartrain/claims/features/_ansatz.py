"""The feature ansatz and its rivals, on one network without biases given as a list of matrices.

Layer l has weights W (units, inputs). S is the mean over examples of the sum over outputs of g gᵀ, with g the gradient
of an output in the layer's pre-activations. The mean outer product of the gradients in the layer's *inputs* is then
WᵀSW by the chain rule, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Activation = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From pre-activations to activations and their derivative."""

ENOUGH = 1e-12
MEASURES = (
    "ansatz", "ansatz_root", "ansatz_power", "ansatz_r", "ansatz_root_r", "ansatz_centred",
    "isotropy", "isotropy_range", "isotropy_top", "isotropy_random", "top", "root_twin",
    "replaced_gaussian", "replaced_turned", "left_balance", "left_forward",
)  # fmt: skip
"""What `measure` says, in this order."""


def network(sizes: Sequence[int], scale: float, activation: str) -> nn.Sequential:
    """Linear maps without biases, He's initialisation times `scale`, an activation after each but the last."""
    layers: list[nn.Module] = []
    for inputs, units in pairwise(sizes):
        linear = nn.Linear(inputs, units, bias=False)
        nn.init.normal_(linear.weight, std=scale * math.sqrt(2 / inputs))
        layers += [linear, nn.ReLU() if activation == "relu" else nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def relu(z: Tensor) -> tuple[Tensor, Tensor]:
    """max(z, 0)."""
    on = (z > 0).to(z.dtype)
    return z * on, on


def tanh(z: Tensor) -> tuple[Tensor, Tensor]:
    """Hyperbolic tangent."""
    h = z.tanh()
    return h, 1 - h * h


def identity(z: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing: a linear network."""
    return z, torch.ones_like(z)


ACTIVATIONS: dict[str, Activation] = {"relu": relu, "tanh": tanh, "identity": identity}


def forward(
    weights: Sequence[Tensor], x: Tensor, activation: Activation
) -> tuple[list[Tensor], list[Tensor]]:
    """Activations of the hidden layers, (examples, units) each, and their derivatives."""
    hidden, slopes, h = [], [], x
    for w in weights[:-1]:
        h, slope = activation(h @ w.T)
        hidden.append(h)
        slopes.append(slope)
    return hidden, slopes


def frames(weights: Sequence[Tensor], x: Tensor, activation: Activation) -> list[Tensor]:
    """S of every hidden layer, (units, units) each."""
    _, slopes = forward(weights, x, activation)
    back, found = weights[-1].expand(len(x), *weights[-1].shape), []
    for w, slope in zip(reversed(weights[:-1]), reversed(slopes), strict=True):
        g = back * slope[:, None]
        rows = g.flatten(0, 1)
        found.append(rows.T @ rows / len(x))
        back = g @ w
    return found[::-1]


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two matrices as vectors; 0 where one of them vanishes."""
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size > ENOUGH else 0.0


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, over the entries of two matrices."""
    return cosine(a - a.mean(), b - b.mean())


def power(a: Tensor, exponent: float) -> Tensor:
    """Of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh((a + a.T) / 2)
    return (vectors * values.clamp(min=0) ** exponent) @ vectors.T


def isotropy(s: Tensor) -> float:
    """cos(S, I) = tr S / (√k ‖S‖): 1 for a tight frame, 1/√k if one direction has it all."""
    return cosine(s, torch.eye(len(s), dtype=s.dtype))


def balance(w: Tensor, s: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Isotropy of S on all units, on the range of W, on its strongest directions, and on as many random ones.

    The strongest are as many as the participation ratio of W's squared singular values says, but two or more. On the
    range the root form of the ansatz amounts to S ∝ WWᵀ instead: ``root_twin``.
    """
    left, sizes, _ = torch.linalg.svd(w, full_matrices=False)
    left = left[:, sizes > 1e-6 * sizes[0]]
    squares = sizes[: left.shape[1]] ** 2
    top = min(left.shape[1], max(2, round(float(squares.sum() ** 2 / (squares**2).sum()))))
    other = torch.linalg.qr(torch.randn(len(w), top, generator=generator, dtype=w.dtype))[0]
    inside = left.T @ s @ left
    return {
        "isotropy": isotropy(s),
        "isotropy_range": isotropy(inside),
        "isotropy_top": isotropy(inside[:top, :top]),
        "isotropy_random": isotropy(other.T @ s @ other),
        "top": float(top),
        "root_twin": cosine(inside, torch.diag(squares)),
    }


def forms(w: Tensor, s: Tensor, layers_behind: int) -> dict[str, float]:
    """Cosine and correlation of WᵀW with WᵀSW, its root, and its power 1/(number of layers from here to the end)."""
    gram, outer = w.T @ w, w.T @ s @ w
    root, deep = power(outer, 0.5), power(outer, 1 / layers_behind)
    return {
        "ansatz": cosine(gram, outer),
        "ansatz_root": cosine(gram, root),
        "ansatz_power": cosine(gram, deep),
        "ansatz_r": correlation(gram, outer),
        "ansatz_root_r": correlation(gram, root),
    }


def shuffled(w: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """W′ of the same size: Gaussian; and with W's own singular values in random directions."""
    draw = torch.randn(w.shape, generator=generator, dtype=w.dtype)
    left, right = (
        torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=w.dtype))[0]
        for n in (w.shape[0], w.shape[1])
    )
    return {"gaussian": draw * (w.norm() / draw.norm()), "turned": left @ w @ right}


def measure(
    weights: Sequence[Tensor], start: Sequence[Tensor], x: Tensor, activation: str, generator: torch.Generator
) -> list[list[float]]:
    """Everything the claim records of one network: for each hidden layer, `MEASURES`.

    Args:
        weights: Of all layers.
        start: The same before training, for W - W₀.
        x: Inputs, (examples, inputs).
        activation: Its name.
        generator: Of the random replacements.
    """
    act = ACTIVATIONS[activation]
    hidden, all_s = forward(weights, x, act)[0], frames(weights, x, act)
    found: list[list[float]] = []
    for at, s in enumerate(all_s):
        w, moved = weights[at], weights[at] - start[at]
        said = forms(w, s, len(weights) - at) | balance(w, s, generator)
        said["ansatz_centred"] = cosine(moved.T @ moved, w.T @ s @ w)
        for name, other in shuffled(w, generator).items():
            changed = [*weights[:at], other, *weights[at + 1 :]]
            there = frames(changed, x, act)[at]
            said[f"replaced_{name}"] = cosine(other.T @ other, other.T @ there @ other)
        gram, after = w @ w.T, weights[at + 1]
        said["left_balance"] = cosine(gram, after.T @ after)
        said["left_forward"] = cosine(gram, hidden[at].T @ hidden[at])
        found.append([said[name] for name in MEASURES])
    return found
