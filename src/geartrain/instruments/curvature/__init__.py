"""Curvature: the Hessian, Gauss-Newton, Fisher and gradient-covariance matrices by eigenvalues, trace, diagonal.

A loss is a landscape over the parameters, and curvature says how it bends: which steps are stable, which directions are
already settled and which still hold something to gain. A network has far too many parameters to write the matrix down;
everything here comes from its products with vectors, each about two gradients.

**Six matrices.** Every instrument takes `operator=`. The *Hessian* is the curvature itself and may be negative.
The *generalised Gauss-Newton* matrix leaves out the curvature of the network and keeps that of the loss; it is
never negative where the loss is convex in the outputs. The *Fisher* matrix is the expected square of the slope
under the model's own predictions: for cross-entropy, squared error and the logistic loss on logits it is the
Gauss-Newton matrix exactly; `fisher_mc` draws one label per prediction instead of summing over all. The
*empirical Fisher* matrix squares the slopes of the labels that there are: not a curvature (it vanishes with the
residuals) although often used as one. The *covariance* is that less the square of the mean: the noise of
stochastic gradients.

**Which instrument.** `hessian_spectrum` for the sharpest directions, `negative_curvature` for the other end and
for what can be certified where nothing negative is found, `hessian_density` for the bulk between,
`hessian_trace` for the total, `hessian_diagonal` for single parameters, `layer_curvature` for layers,
`effective_condition_number` for how thin the valley is where it matters. `curvature_along_gradient` and
`curvature_along_update` cost a handful of products: what a step meets.

**Gears that must agree.** The trace is the sum of the eigenvalues, n times the mean of the density, the sum of
the diagonal and the sum of the layers' traces. No layer is sharper than the whole, no direction bends more than
the top eigenvalue or less than the lowest one. The trace of the empirical Fisher matrix is the mean squared
length of the per-example gradients, and that of the covariance is smaller by the squared length of their mean.
For piecewise-linear networks the Hessian and the Gauss-Newton matrix share their diagonal. The tests turn every
one of these.

**When they mislead.** Curvature is not invariant: rescaling two rectifier layers against one another changes
every eigenvalue and no prediction. A sharp minimum in these numbers need not be a bad one. Few examples make a
different matrix, not a noisy version of the same one: negative and tiny eigenvalues in particular belong to the
sample. And a trace near zero can hide large curvature of both signs.
"""
