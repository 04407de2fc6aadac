"""Kernel: the neural tangent kernel, and how far training is from linear in the parameters.

A small gradient step on example *j* moves the outputs of example *i* by the tangent kernel K(i, j) = Σ_θ ∂f(x_i)/∂θ
· ∂f(x_j)/∂θ. If K stood still, training would be regression with that kernel, and everything about it could be read
off before it starts: which parts of the targets are learnt first, what step size diverges, how the network
generalises. Real networks are somewhere between that (*lazy*) and learning a new kernel on the way (*rich*). This
family measures the kernel, and how far the run is from standing still.

**What to take.** `ntk` is the kernel itself, `ntk_spectrum` its eigenvalues: rates of learning in the linear
regime, a condition number, an effective number of directions. `ntk_alignment` says whether the kernel fits the
*task*; read it against its own null, which is never zero for few examples. `ntk_drift`, `linearised_error` and
`lazy_index` compare two states, of a run by default now and before training: how far the kernel moved, how wrong
the linear model of the start is about the outputs now, and how much kernel was moved for how much loss was won.

**The gears: what must agree with what.**

- The trace of the full kernel is the squared norm of the Jacobian; so is the trace of the sum over outputs.
- The non-zero eigenvalues of K/n are those of JᵀJ/n, the Gauss-Newton matrix of the loss (1/2n) Σ|f - y|². Mind the
  factors: `torch.nn.functional.mse_loss` averages over the o outputs and has no ½, so that its matrix is 2/o of
  that. The number of non-zero ones is `jacobian_rank`.
- With full-batch gradient descent on that loss in the lazy regime the step size may reach 2/λ_1 of `ntk_spectrum`:
  the threshold that `edge_of_stability` measures by the Hessian.
- Zero `linearised_error` and zero `ntk_drift` go together. A model that is linear in its parameters has both; the
  error is the integral of the drift along the way, so that it is about half of it for small moves.
- Multiply the outputs by α and divide the loss by α² (the toy ``lazy-dial``): drift, error and index all fall as
  1/α.

**When they mislead.** A kernel belongs to a point, a mode and a set of examples: dropout and batch statistics
change it, eigenvalues grow in range with the number of examples. A drift may be one of scale only (the outputs
grew): the kernel distance in its details is blind to that. Small errors after a small step say nothing, any smooth
model being linear there. In float32 eigenvalues below 1e-6 of the largest are rounding. Batch normalisation in
training mode couples the examples; the kernel is then refused: measure in evaluation mode.

The kernel is contracted layer by layer, from what went into each layer and the gradients of what came out; the
Jacobian is never formed. Each layer's part is checked against autograd, and what no layer explains (recurrent
cells, attention with fused projections, tied weights) takes rows of the Jacobian of its own, so that the result is
exact for any module.
"""
