"""Wiring: whether model, loss, data and loop are put together as their author believes.

Most runs that fail do not fail at learning: a gradient is never cleared, a layer is left out of the
optimizer, the loss expects logits and gets probabilities, outputs and targets broadcast against each other.
Each of these instruments compares what the program *does* with what its parts *declare*, and most are exact.

**How they hang together.** `output_target_match`, `output_probability` and `output_reach` look at the seam
between the model's last layer and the loss: shapes, ranges, and whether the targets can be reached at all.
`loss_match` asks whether the loss has its minimum where the targets are. `constant_loss` is the loss of the
best predictor that ignores its input, the yardstick for everything else: a model that does not beat it has
learnt nothing, whatever its curve looks like. `gradient_fidelity` compares the gradient that the optimizer
used with that of the batch: it differs when gradients accumulate, are clipped, or come from elsewhere.
`frozen_parameters` and `missing_biases` list what cannot move; `decay_pull` weighs the pull of weight decay
against that of the loss; `mode_consistency` asks whether training and evaluation mode compute the same
function.

**When they mislead.** A seam that looks wrong can be intended: targets smoothed on purpose, a layer frozen
for transfer, a normalised output trained with a bounded loss. Then the number is right and the alarm is not;
every answer says what it saw, so that its author can tell. They look at a sample of examples: a fault that
hits one example in a thousand can be missed.
"""
