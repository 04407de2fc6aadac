"""Data: what the examples and labels are like before and during training.

Most broken runs are broken here, and most of these numbers can be had before the first step.

**Before training** (the model is not asked): `feature_scales`, `input_conditioning` and `target_scale` say
whether gradient descent meets the inputs and targets on like scales; `label_balance` whether one class dominates;
`data_order` whether batches are shuffled; `distribution_shift` whether training and validation inputs come from
one source; `feature_leak` whether an input gives the answer away; `kgram_overlap` whether validation pieces were
in the training data; `label_disagreement_floor` what no model can get right.

**With the model**: `input_affinity` and `future_dependence` say how it uses its inputs, `leak_price` what it
would lose without a suspicious one, `example_losses` who carries the loss.

**While it trains** (the run is trained again and put back): `learning_speed` and `example_forgetting` read one
replay, the first for *when*, the second for *how steadily*; `label_memorisation` and `canary_exposure` train
forks to see what is known by heart.

**The gears.** The training error cannot stay below `label_disagreement_floor` unless something leaks into the
inputs or the batches, and the mean of `example_losses` cannot fall below its ``floor_loss``. Examples at the top
of `example_losses` should be those learnt last (`learning_speed`) and forgotten most (`example_forgetting`);
where they are also the most memorised (`label_memorisation`) they are rare or mislabelled. Learnt at once, never
forgotten and not memorised is what plain regularity looks like. A replay must agree with itself: the number of
changes of an example's answer is twice its forgetting events, but for where it starts and ends. High
`kgram_overlap` makes a small validation gap worthless. Exposures well above 1.44 bits (what an unseen random
string has on average) are memory. A `leak_price` without a `feature_leak` is a useful honest feature.

**How to choose.** For a run that does not learn: scales, balance, order, floor. For one that looks too good:
leak, overlap, future dependence. For one that fits but does not generalise: shift, memorisation, the tail of the
losses.

**When they mislead.** Floors and overlaps count exact repeats, so a little noise on the inputs hides everything
from them (see their ``near``). Forgetting is only seen at the looks that were taken. Memorisation of a single
example needs many forks; the mean over examples needs few. Text repeats itself: judge short k-grams and canaries
against what chance gives, which is stated beside them.
"""
