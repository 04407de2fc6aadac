"""What the optimizer does with the gradients: how far each layer moves, whether it turns back, where it lands.

Measured on pairs of successive steps. Price class: adaptive, every step if the share allows.

- ``update_norm`` and, per layer, ``update_ratio`` = |update| / |weights|.
- ``cosine`` of successive updates; ``back_and_forth`` = (1 - Σuv / Σ|uv|) / 2 over the entries u, v of two successive
  updates: the share of the motion that is taken back. 1/2 for independent updates, 1 where all turn round.
- ``gauge``: where the *previous* step landed on its own parabola, α = -(slope after) / (slope before) along the update:
  -1 hardly moved, 0 at the minimum, +1 as far up on the other side; on a quadratic, gradient descent gives ηλ - 1.

**Misleads**: the slope after is that of the *next* batch, which is unbiased; the slope before is that of the batch
that made the step, and its noise went into the step. Hence the gauge is pulled towards -1 by the factor
1 / (1 + noise scale / batch size); its sign (beyond the minimum or not) is not affected. The instrument
`step_length_gauge` takes both slopes on one batch and needs a run for it.

References: Schneider, Dangel, Hennig (2021), Cockpit, arXiv:2102.06604, §2.2.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from geartrain.monitor._parameters import Copy, Parameters
from geartrain.monitor.groups import Group, Scene, root_sum_square


class Updates(Group):
    """Updates of successive steps. **Memory**: three copies of the parameters (four with ``distance``).

    Args:
        distance: Also note the distance from where the parameters were when the watching began.
    """

    name: ClassVar[str] = "updates"
    least: ClassVar[int] = 2
    length: ClassVar[int] = 2

    def __init__(self, *, distance: bool = False) -> None:
        self.distance = distance
        self._of: Parameters | None = None
        self._room: list[Copy] = []
        self._start: Copy | None = None
        self._grads: Copy | None = None
        self._before: Copy | None = None
        self._last: tuple[int, Copy, Tensor, Tensor] | None = None

    def _ready(self, parameters: Parameters) -> None:
        if self._of is parameters:
            return
        if self._of is not None:  # parameters came or went: the start is another one as well
            self.forget()
        self._of = parameters
        self._room = [parameters.buffer(), parameters.buffer()]
        self._grads, self._start = parameters.buffer(), None

    def begin(self, scene: Scene) -> None:
        """Keep the start of the distance: the first time this is called."""
        self._ready(scene.parameters)
        if self.distance and self._start is None:
            self._start = scene.parameters.buffer()
            self._start.take(scene.parameters.tensors)

    def gradients(self, scene: Scene) -> None:
        """Copy the parameters and gradients; look back at the last update, if it was that of the step before."""
        parameters = scene.parameters
        self._ready(parameters)
        assert self._grads is not None
        self._grads.take(parameters.gradients())
        if self._last is not None and self._last[0] == scene.row.step - 1:
            _, negative, slope, _ = self._last
            after = -negative.dot(self._grads, parameters.home) / scene.grad_scale
            scene.number("gauge", -after / slope)
            scene.number("slope_before", slope)
            scene.number("slope_after", after)
        else:
            self._release_last()
        self._before = self._before or self._room.pop()  # it is still there if the last step broke off
        self._before.take(parameters.tensors)

    def after(self, scene: Scene) -> None:
        """Note the update, and its angle with the one before."""
        parameters, negative, grads = scene.parameters, self._before, self._grads
        if negative is None or grads is None:
            return
        self._before = None
        negative.subtract(parameters.tensors)
        parts = parameters.norms(negative.views) * parameters.stride**0.5
        length, weights = root_sum_square(parts), root_sum_square(scene.param_norms())
        moved = parameters.by_layer(parts)
        scene.number("update_norm", length)
        scene.number("update_ratio", length / weights)
        scene.layers("update_norm", moved)
        scene.layers("update_ratio", moved / parameters.by_layer(scene.param_norms()))
        slope = -negative.dot(grads, parameters.home) / scene.grad_scale
        # The gradients are not needed any more: their room is used for what follows.
        if self._last is not None:
            self._turn(scene, negative, length, grads)
        self._release_last()
        self._last = (scene.row.step, negative, slope, length)
        if self._start is not None:
            grads.take(parameters.tensors)
            for now, start in zip(grads.flats, self._start.flats, strict=True):
                now.sub_(start)
            scene.number("distance", _norm(grads, parameters.home) * parameters.stride**0.5)

    def _turn(self, scene: Scene, negative: Copy, length: Tensor, room: Copy) -> None:
        assert self._last is not None
        assert self._of is not None
        _, earlier, _, earlier_length = self._last
        home, stride = self._of.home, self._of.stride
        product, extent = room.products(negative, earlier, home)
        scene.number("cosine", product * stride / (length * earlier_length))
        scene.number("back_and_forth", 0.5 - 0.5 * product / extent)

    def _release_last(self) -> None:
        if self._last is not None:
            self._room.append(self._last[1])
            self._last = None

    def forget(self) -> None:
        """Let go of everything."""
        self._of = self._grads = self._start = self._before = self._last = None
        self._room = []


def _norm(copy: Copy, home: torch.device) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(f).to(home) for f in copy.flats]))
