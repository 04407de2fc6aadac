"""Curvature against the step: whether the optimizer's step fits the curvature it meets.

A step size is neither large nor small by itself: it is so beside the curvature. Their product is a pure number,
and theory says at which value a step stops converging. These instruments measure on which side of it a run
stands.

**Three views of one question.** `edge_of_stability` asks in advance: the sharpest direction in the optimizer's
own geometry (its preconditioner, momentum and step sizes included), over the value at which it would diverge on
a parabola; 1 is the edge. `preconditioned_sharpness` is the same before the division, in the units that papers
plot, with the threshold beside it (2/η for gradient descent, 38/η for Adam). `step_length_gauge` looks at steps
that were really taken: short of the minimum of their own parabola (-1 to 0), beyond it (0 to 1), or past the
point where they gain anything (above 1).

**Gears that must agree.** On a parabola, gradient descent along curvature λ has a gauge of ηλ - 1 in that
direction, and the edge is at ηλ/2 of the largest λ, so the gauge of full-batch descent never exceeds twice the
edge less one. A value of the edge clearly above 1 must show as alternation along the top eigenvector
(`back_and_forth`) and as a loss that rises in the step (`predicted_decrease` below zero), unless the higher
orders of the loss hold it back. Without momentum and preconditioner, `preconditioned_sharpness` is the first
eigenvalue of `hessian_spectrum`. `curvature_along_update` lies between: at most the sharpness, and as large
only if the updates point along the sharpest direction.

**How to read them.** Full-batch training commonly climbs to the edge and stays there: a value of 1 is no fault,
and lowering the step size only moves the edge. Small batches hold the sharpness well below it; then noise, not
curvature, limits the step (`gradient_noise_scale`). A value far above 1 at a checkpoint that still trains says
that the parabola is no longer the loss there. A gauge near -1 throughout says that longer steps were to be had.

**When they mislead.** The preconditioner is held fixed while the edge is measured, which Adam's is not over many steps.
The Hessian is taken on a probe: on too few examples it is sharper than that of the data. Weight decay is included where
the optimizer adds it to the gradient, decoupled decay is not. And a mean over directions or steps (the gauge) can look
healthy while one direction oscillates.
"""
