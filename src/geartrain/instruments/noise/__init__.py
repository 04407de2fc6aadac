"""Noise: how much the examples' gradients disagree.

A training step follows the mean gradient G of a batch; single examples pull elsewhere. Everything here is a
statement about the gradients g_i of single examples, their mean G and their covariance Σ.

| question | instrument |
|---|---|
| how large must a batch be before noise stops mattering? | `gradient_noise_scale` = trΣ/‖G‖², in examples |
| ... counting noise only where it costs something? | `hessian_noise_scale` = tr(HΣ)/GᵀHG |
| what does my batch size gain, and what step goes with it? | `critical_batch_size` |
| which layer is noisiest? | `signal_to_noise` = ‖G_l‖²/trΣ_l, per layer |
| do examples work against each other? | `gradient_confusion`: cosines over pairs |
| does a handful of examples decide everything? | `per_example_gradients`: quantiles and tail of ‖g_i‖ |

**Gears: which numbers must agree.** The noise scale from single examples, from groups (``groups=``) and from two
halves (``groups=2``) estimates one number: groups of b examples have the covariance Σ/b, and forgetting that is the
usual mistake (a factor of b). `signal_to_noise` of all layers together is its reciprocal. With one curvature in all
directions the Hessian-weighted scale equals the simple one, draw for draw; their ratio (``simple_over_weighted``)
says how much of the noise lies in directions that cost nothing. The mean cosine c̄ of gradients of equal length
fixes the noise scale: trΣ/‖G‖² = (1 - c̄)/c̄. What the critical batch promises can be tried: a step of the best
length at B = B_crit gains half of what it gains without noise.

**How to choose.** `gradient_noise_scale` costs one pass and is right within a factor of a few; it is what to watch
along a run. `critical_batch_size` costs some dozens of Hessian products and is what to ask before paying for larger
batches. The tail index and the confusion name *examples*: look at those examples.

**When they mislead.** ‖G‖² is estimated without bias, so it may come out below zero: the mean gradient is then lost
in noise, the noise scale infinite, and only the lower end of the interval means anything. That is the normal state
late in training. All scales grow along a run by orders of magnitude; a number from its start says nothing about its
end. They hold for plain SGD with a step tuned to the batch; momentum and Adam have larger critical batches. Where
batch normalisation couples the examples, single examples have no gradients: groups are used, or the instrument says
that it does not apply. Errors are jackknife errors over independent examples; duplicates and neighbouring frames of
one film are not independent, and then every interval here is too narrow.
"""
