"""Many multilayer perceptrons as one stack of tensors: losses, gradients, Hessian products, top eigenpairs.

For what claims need beyond `geartrain.ensemble`: the eigenvectors themselves, and steps that no optimizer
takes. Rows of parameters are in the order of ``nn.Sequential(nn.Linear(...), nn.Tanh(), ...,
nn.Linear(...)).parameters()``, those of an ensemble of such networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

Product = Callable[[Tensor], Tensor]
"""From one vector for each member, (members, params), to the same."""


@dataclass(frozen=True)
class Stack:
    """tanh networks on data, without their parameters.

    Attributes:
        sizes: Widths from input to output.
        inputs: Shape (examples, features), or (members, examples, features) where each has its own.
        targets: Classes, shape (examples,), for cross-entropy; numbers, shape (examples, outputs), for squared error.
    """

    sizes: tuple[int, ...]
    inputs: Tensor
    targets: Tensor

    def outputs(self, params: Tensor) -> Tensor:
        """Shape (members, examples, outputs)."""
        found, place = self.inputs, 0
        for number, (fan_in, fan_out) in enumerate(pairwise(self.sizes)):
            middle = place + fan_in * fan_out
            weight = params[:, place:middle].unflatten(1, (fan_out, fan_in))
            place = middle + fan_out
            found = (torch.tanh(found) if number else found) @ weight.mT + params[:, None, middle:place]
        return found

    def losses(self, params: Tensor) -> Tensor:
        """Of each member: mean cross-entropy, or squared error averaged over examples and outputs."""
        outputs = self.outputs(params)
        if self.targets.is_floating_point():
            return (outputs - self.targets).square().mean((1, 2))
        told = self.targets.expand(len(params), -1)
        return nn.functional.cross_entropy(outputs.mT, told, reduction="none").mean(1)

    def gradient(self, params: Tensor) -> Tensor:
        """Shape (members, params)."""
        at = params.detach().requires_grad_()
        return torch.autograd.grad(self.losses(at).sum(), at)[0]

    def product(self, params: Tensor) -> Product:
        """The Hessians at these parameters; the graph is kept for as long as the product is."""
        at = params.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.losses(at).sum(), at, create_graph=True)
        return lambda v: torch.autograd.grad(slope, at, grad_outputs=v, retain_graph=True)[0]

    def part(self, members: Tensor | slice) -> Stack:
        """The stack of some of the members."""
        return self if self.inputs.ndim == 2 else Stack(self.sizes, self.inputs[members], self.targets)


def top_eigenpairs(
    product: Product, start: Tensor, *, num_products: int = 60, tolerance: float = 1e-2
) -> tuple[Tensor, Tensor, Tensor]:
    """Largest eigenvalue of every member with its eigenvector, by Lanczos with full reorthogonalisation.

    Args:
        product: The operators; what is not finite of their products counts as 0.
        start: Where to begin, shape (members, params).
        num_products: At most so many.
        tolerance: Residual, relative to the eigenvalue, at which it stops.

    Returns:
        Values (members,), unit vectors (members, params), residuals (members,): an eigenvalue lies within the residual,
        and the error of the value is of the order of its square.
    """
    count = min(num_products, start.shape[1])
    basis = start.new_zeros(len(start), count, start.shape[1])
    matrix = start.new_zeros(len(start), count, count)
    vector = start / start.norm(dim=1, keepdim=True)
    tiny, size = torch.finfo(start.dtype).tiny, 0
    values = vectors = residual = start
    for size in range(1, count + 1):
        basis[:, size - 1] = vector
        known, image = basis[:, :size], product(vector).nan_to_num(0.0, 0.0, 0.0)
        matrix[:, size - 1, :size] = matrix[:, :size, size - 1] = torch.einsum("mkp,mp->mk", known, image)
        for _ in range(2):
            image = image - torch.einsum("mk,mkp->mp", torch.einsum("mkp,mp->mk", known, image), known)
        length = image.norm(dim=1)
        values, vectors = torch.linalg.eigh(matrix[:, :size, :size])
        residual = length * vectors[:, -1, -1].abs()
        if bool((residual <= tolerance * values[:, -1].abs()).all()):
            break
        vector = image / length.clamp(min=tiny)[:, None]
    found = torch.einsum("mk,mkp->mp", vectors[:, :, -1], basis[:, :size])
    return values[:, -1], found / found.norm(dim=1, keepdim=True), residual
