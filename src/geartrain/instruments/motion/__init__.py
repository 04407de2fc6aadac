"""Motion: where the parameters and the function go, step by step and along the run.

Instruments of the *next steps* take a few training steps of the run itself (its own batches, optimizer and random
numbers), note everything, and put the run back bit for bit. They share one such window: the first pays for it, the
others are free. Instruments of the *whole way* read what was recorded and where the run began.

| question | instrument |
|---|---|
| how long is a step, in all and relative to each layer? | `update_norm`, `update_ratio` |
| how far does it move the *function*? | `function_step` (KL of the outputs, or relative squared change) |
| does it gain what its gradient promised? | `predicted_decrease` |
| do steps go on, wander, or turn back? | `update_cosine`, `update_autocorrelation` |
| ... along the sharpest direction? | `back_and_forth` |
| how far has the run come, and by which way? | `distance_from_init`, `path_length` |

**Gears: which numbers must agree.** On one mode of curvature λ, gradient descent of step η multiplies each update
by 1 - ηλ. So the cosine of successive updates flips from +1 to -1 at ηλ = 1, the ``multiplier`` of
`update_autocorrelation` *is* 1 - ηλ, `predicted_decrease` is 1 - ηλ/2, and the path's efficiency falls below one.
Sharpness times step size from the curvature family must tell the same story: a lag-1 autocorrelation near -1 with
ηλ far below 1 is a contradiction worth chasing. The path is never shorter than the distance; where it is, something
besides the optimizer moved the parameters. For unrelated steps distance/path is 1/√steps, and both the ``drift``
and the ``alternation`` of the window are one over its length.

**How to choose.** `function_step` is the honest length of a step, since it does not depend on the parametrisation;
`update_ratio` finds the layer that stands still or is shaken. `update_cosine` weighs all steps alike,
`update_autocorrelation` by their length; the former sees a few wild steps less. To tell a step that is too long
from one that is too noisy ask `back_and_forth`, which looks along the sharpest direction only.

**When they mislead.** Momentum alone makes successive updates alike (autocorrelation β at lag 1), whatever the
gradients do. Lengths in parameter space are not comparable between architectures, between layers with and without
normalisation, or before and after a rescaling that leaves a rectifier network's function alone; permuted units are
far apart although nothing differs. Windows of sixteen steps see nothing slower than sixteen steps, and their errors
are those of a short series. At a constant step size noise lengthens the path for ever without getting anywhere.
"""
