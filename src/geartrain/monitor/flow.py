"""Signal flow: the size of every layer's output on the way in, of the error signal on the way back.

Price class: every tenth step at most. Also, where asked for, the participation ratio of the outputs.

**Misleads** like `instruments.activation_flow` and `instruments.gradient_flow`: it is the trend over many layers that
counts. Layers inside compiled graphs are not seen; there, ``grad_norm`` over ``param_norm`` per layer says nearly
as much.

Ledger: 0.14
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from geartrain.monitor.groups import Group, Scene

ROWS = 128
"""Examples (or tokens) from which the participation ratio is taken."""


class Flow(Group):
    """rms of outputs and of their gradients, by layer, in the order of execution.

    ``activation_rms`` is √(mean of a²); ``gradient_rms`` is √(mean of (n ∂L/∂a)²) with n examples in the batch, as in
    `instruments.gradient_flow`.

    Args:
        participation_ratio: Also note (tr C)² / tr C² of the covariance C of every output, from 128 rows.
    """

    name: ClassVar[str] = "flow"
    least: ClassVar[int] = 10
    inside: ClassVar[bool] = True

    def __init__(self, *, participation_ratio: bool = False) -> None:
        self.participation_ratio = participation_ratio
        self._forward: dict[str, Tensor] = {}
        self._backward: dict[str, Tensor] = {}
        self._ratios: dict[str, Tensor] = {}

    def begin(self, scene: Scene) -> None:
        """Forget the last time."""
        self.forget()

    @torch.no_grad()
    def called(
        self, name: str, module: nn.Module, inputs: Tensor | None, output: Tensor, scene: Scene
    ) -> None:
        """Note the first call of every layer."""
        if name in self._forward or not output.numel():
            return
        values = output.detach()
        self._forward[name] = _rms(values)
        if self.participation_ratio and values.ndim > 1:
            self._ratios[name] = participation_ratio(values)
        if output.requires_grad:
            size = scene.batches[-1] if scene.batches else 1
            backward = (
                self._backward
            )  # of this step: a graph that is kept longer must not write into a later one

            def tap(gradient: Tensor) -> None:
                backward[name] = _rms(gradient) * size

            output.register_hook(scene.listener(self.name, tap))

    def after(self, scene: Scene) -> None:
        """Note one number per layer that was called."""
        for column, found in (
            ("activation_rms", self._forward),
            ("gradient_rms", self._scaled(1.0 / scene.loss_scale)),
            ("participation_ratio", self._ratios),
        ):
            if found:
                home = scene.parameters.home
                values = torch.stack([v.to(home, torch.float32) for v in found.values()])
                scene.row.layers[column] = (tuple(found), values)
        self.forget()

    def _scaled(self, factor: float) -> dict[str, Tensor]:
        """In the order of execution."""
        return {n: factor * self._backward[n] for n in self._forward if n in self._backward}

    def forget(self) -> None:
        """Forget the outputs seen."""
        self._forward, self._backward, self._ratios = {}, {}, {}


def _rms(values: Tensor) -> Tensor:
    dtype = torch.float32 if values.dtype in (torch.float16, torch.bfloat16) else None
    return torch.linalg.vector_norm(values, dtype=dtype) / values.numel() ** 0.5


def participation_ratio(outputs: Tensor) -> Tensor:
    """(tr C)² / tr C² of at most 128 rows, from their Gram matrix: no eigenvalues are needed.

    >>> float(participation_ratio(torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])))
    2.0
    """
    # The axis of the units: channels of images, else the last one.
    rows = outputs.movedim(1, -1) if outputs.ndim == 4 else outputs
    rows = rows.reshape(-1, rows.shape[-1])
    rows = rows[:: max(1, -(-rows.shape[0] // ROWS))].float()
    rows = rows - rows.mean(0)
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    return gram.diagonal().sum().square() / gram.square().sum()
