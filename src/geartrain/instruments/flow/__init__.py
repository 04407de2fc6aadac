"""Flow: signals on their way through the network, forwards and backwards.

A network can be trained where signals reach its last layer and gradients its first one, at a useful size and along
enough directions. One half of this family measures *sizes*, the other *directions*.

| question | instrument |
|---|---|
| is the first loss that of a network that says nothing? | `initial_scale` |
| does the signal grow or shrink from layer to layer? | `activation_flow`, `gradient_flow` |
| which units are off for good, or flat? | `dead_units`, `saturated_units` |
| how does the whole network stretch a small change of its input? | `jacobian_singular_values` |
| how many directions do the weights fill? a step? the data? | `weight_rank`, `update_rank`, `activation_rank` |
| what have the weights learnt beyond their random start? | `marchenko_pastur_outliers` |

**Gears: which numbers must agree.** In a deep linear network of Gaussian layers N(0, s²/n) the mean log-growth of
activations per layer, that of the gradients and the root mean square of the Jacobian's singular values tell one
number, s: growth per layer is about ln s, and ``rms`` about s to the depth. Orthogonal layers of gain g have all
singular values equal to g to the depth (``isometry_defect`` 0); Gaussian ones of the same size spread further with
every layer, so sizes may look perfect while most directions are lost. Freshly initialised weights have the
effective rank of a random matrix (``of_random`` 1) and no outliers; each outlier that training adds is a direction
of strength c above √β, the threshold below which nothing can be seen. The update of a linear layer from B examples
has at most rank B, and outliers come from updates that keep adding up along the same few directions (``of_sum`` far
below ``steps`` times the single rank). A layer cannot put out more directions than it gets in, unless an activation
function bends them.

**Which rank.** The effective rank (exponential of the entropy of the singular values) counts small singular values
too; the stable rank ‖A‖_F²/‖A‖₂² only those near the largest; the participation ratio is the stable rank's smoother
cousin for variances. For *samples* only the participation ratio can be estimated without bias, so it is what
`activation_rank` reports, with an error: ranks of a sample covariance are never above the number of examples.

**When they mislead.** Trained networks change their scales on purpose: a single layer's size says little, the trend
over many layers much. Ranks of weights change under rescalings that leave the function alone. Normalisation layers
hide growth from the signals, not from the Jacobian. The Marchenko-Pastur law is that of independent entries: where
the bulk does not fit it the count is doubtful and the instrument says so. The Jacobian depends on the units of the
inputs.
"""
