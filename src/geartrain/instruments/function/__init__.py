"""Function: what the trained network computes, whatever its parameters.

Two networks with very different weights can be the same function, and two with the same loss can be different ones.
The instruments here look at answers only: how good, how sure, how robust they are, how they come about layer by
layer, and how far two networks differ in them. Unless told otherwise they ask in evaluation mode and, of a run, about
its validation data; every status says which data were asked about, because nearly all of these numbers are flattering
on training data.

**How good.** `class_recall` (no class forgotten?), `train_validation_gap`, `margin_distribution` (by how much the right
class wins). **How sure.** `calibration_error` asks whether the stated confidences are honest, `temperature` by which
factor they must be corrected, `selective_risk` whether they at least put the answers into the right order. A network
can fail one and pass the other: dividing all logits by ten ruins calibration and changes no order. **How robust.**
`adversarial_drop` looks for the worst small change, `out_of_distribution_drop` applies stated ones, and
`hull_membership` says whether new points are surrounded by training points at all (in many dimensions: no).
**How it comes about.** `linear_separability` and `feature_neighbours` follow the target through the layers.
**How far apart.** `prediction_disagreement` counts different answers, `function_distance` weighs different confidences,
`representation_similarity` compares layers.

The gears, numbers that must agree:

- `margin_distribution` is negative for exactly the wrong answers. In input space, its share between 0 and ε is what
  an `adversarial_drop` of radius ε in the 2-norm takes away from a *linear* network of two classes; a curved one loses
  more.
- After its logits are divided by `temperature`, a network that was only over- or underconfident has a
  `calibration_error` of 0 within its error. What remains is not a matter of scale.
- The last point of the risk-coverage curve of `selective_risk` is the error rate r; random confidence makes the area
  equal to it, and no order beats r + (1 - r) ln(1 - r).
- `prediction_disagreement` lies between the difference of the accuracies and the sum of the error rates. It is 0 where
  `function_distance` is 0, not conversely. Under permutations of the units both are 0, and `representation_similarity`
  is 1.
- The row ``input`` of `feature_neighbours` is `neighbour_agreement` of the same examples. A layer cannot *add*
  information about the target: where `linear_separability` rises along the layers, the information was there and
  has been unfolded.

Choosing: to say that two seeds found the same solution, take `prediction_disagreement` beside its independent level,
not CKA. To trust confidences, fit `temperature` on one half of the held-out data and read `calibration_error` on the
other. To compare architectures, prefer input-space margins to output margins, which scale with the weights.

When they mislead: few examples (look at the errors; the uncorrected calibration error and the uncorrected CKA are far
from 0 by chance alone, and are shown in the details for comparison only); a probe that reads a feature does not show
that the network uses it; robustness to one corruption is not robustness; a failed attack is no proof.
"""
