"""Landscape: the loss away from the present point: slices, paths, barriers, basins, and what kind of point this is.

Curvature says what the loss does next to the present point. These instruments walk away from it, as far as the
question asks: along a line (`loss_slice`), across a plane (`loss_plane`), to another network on the straight line
(`linear_connectivity`), on a bent one (`curved_connectivity`), after matching units (`permuted_barrier`), outwards in
all directions (`basin_volume`), or one Newton step ahead (`endpoint_certificate`).

**How they hang together.** At t = 0 a slice has the slope g·d and the curvature dᵀHd that `hessian_spectrum` and the
gradient give: along eigenvector 1 it is the largest eigenvalue, along a random direction the mean one, tr H / n
weighted by the size of the filters. Where slice and parabola part, step-size rules that trust curvature end. Barriers
are ordered: permuted or curved ones are at most about as high as the linear one, because the straight line and the
exchange of nothing are among their candidates (matching minimises distance, not the barrier, so here the order may
break by little). A convex loss has no barrier at all. Two networks whose permuted barrier is 0 while the linear one is
not are the same solution written down in two orders; a curved barrier of 0 beside a permuted one above 0 means two
solutions joined by a valley. On a quadratic, the basin's volume is that of an ellipsoid, so log V =
log B_n + (n/2) log 2c - ½ log det H: it moves by -½ per unit of log det H, and by n log a if all parameters are scaled
by a. A certificate that says "minimum" and a slice along the most negative eigenvector that goes down cannot both hold.

**Which one.** A picture for people: `loss_slice` along a random direction, then along the sharpest one, on the same
scale. Did two runs end in one basin: `linear_connectivity` from a common ancestor, `permuted_barrier` for different
seeds. Is there any way around: `curved_connectivity`. Is training over: `endpoint_certificate`. How likely is such a
solution by chance: `basin_volume`, if the number of parameters is small or the preconditioner good.

**When they mislead.**

- Two directions out of a million show the average. Ravines, saddles and escapes are invisible in random planes.
- Everything here changes when parameters are rescaled without changing the function (ReLU, normalisation layers).
  Filter normalisation cures the pictures of part of it, ``symmetries="all"`` the barriers, nothing the volumes.
- Running statistics belong to one network. Between two they are taken anew, or every pair seems to have a barrier.
- Barriers found are upper bounds of the true ones: a better path or matching may exist.
- A volume in many dimensions rests on its few longest rays. Believe the effective number of samples.
- Errors are over the examples and paired where two points are compared; they know nothing of other seeds.
"""
