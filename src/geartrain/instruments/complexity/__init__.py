"""Complexity: how much the function or the weights could be compressed, and how they vary.

There is no one complexity. These instruments ask two different questions, and a network may be simple in one
sense and not in the other.

**Is the function simple?** The parameters do not matter here, only what the model computes.

- `walsh_spectrum` (inputs of two values) and `frequency_spectrum` (inputs that are numbers) say how quickly the
  output varies: by degree, or by half waves along lines between examples. Both are shares of one power, so they
  add up to 1.
- `leap` says how a target is *built*: two targets with the same spectrum can differ in it. A parity of four bits
  has all its power at degree 4 and leap 4; give it the two pairs as stepping stones and the leap is 2.
- `lempel_ziv_complexity` reads the truth table as a string and counts its distinct pieces. It sees repetition
  that a spectrum does not, and misses what is simple in another order of the inputs.

**Could the weights be stored in less?** These leave the function almost as it is: each allows the loss to rise by
the same amount (``rise``; by default a twentieth of what the model gains over all weights at zero), so their
numbers compare.

- `prunability`: how many weights can be zero. `bits_per_parameter`: how coarse the rest may be.
  `entropy_coded_size`: what is then written to disk.
- `weight_norm`, `normalised_margin` and `clusterability` change nothing: they read size, scale-free confidence
  and modular wiring off the weights.

**The gears.** On inputs of two values ``leap(of="model")`` can be no larger than the highest degree at which
`walsh_spectrum` has power. `entropy_coded_size` is at least its own ``entropy`` and, for large tensors, at most
about ``bits`` each: it must be computed at the bits that `bits_per_parameter` gives. Near a minimum the rise
under rounding is Σ H_ii Δ_i²/24, so four times the allowed rise saves one bit per parameter, and the trace of the
Hessian (`hessian_trace`) predicts the number. A model with many zeros (high prunability) has a peaked
distribution of weights and codes short. The smallest `normalised_margin` is negative exactly if an example of the
same data is misclassified.

**How to choose.** To compare training methods, use the weights' side at the *same* rise in units of the loss; to
follow what is being learnt, the function's side. For a claim about modularity use the z-score, never the cut
itself.

**When they mislead.** Rescaling a ReLU layer and undoing it in the next leaves the function alone but moves the
norms, the global pruning order, and the cut: compare only what is invariant (the products of norms, layerwise
pruning, the margin without biases) across architectures. Off the data every function-side number describes points
that training never saw. Smaller weights by themselves save nothing: size on disk follows the shape of their
distribution.
"""
