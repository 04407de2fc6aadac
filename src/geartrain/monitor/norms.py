"""Norms of parameters and gradients, per layer and in all. Price class: every step.

**Misleads** where gradients are clipped: ``grad_norm`` is the norm that the backward pass left, ``used_grad_norm`` the
one that the optimizer got. They are told apart as soon as somebody was seen to change the gradients in between.
"""

from __future__ import annotations

from typing import ClassVar

from geartrain.monitor.groups import Group, Scene, root_sum_square


class Norms(Group):
    """|θ| and |∂L/∂θ|, before the step."""

    name: ClassVar[str] = "norms"

    def gradients(self, scene: Scene) -> None:
        """Note the norms; where the gradients were changed after the backward pass, both."""
        used, weights = scene.grad_norms(), scene.param_norms()
        total = root_sum_square(used)
        scene.layers("grad_norm", scene.parameters.by_layer(used))
        scene.layers("param_norm", scene.parameters.by_layer(weights))
        scene.number("param_norm", root_sum_square(weights))
        if scene.left is None or not scene.changed:
            scene.number("grad_norm", total)
            return
        left = root_sum_square(scene.left) / scene.loss_scale
        scene.number("grad_norm", left)
        scene.number("used_grad_norm", total)
        scene.number("clip_factor", total / left)
