"""Loss curve: slope, plateaus, spikes and oscillation of what training recorded.

These read the history of a run and cost nothing: no forward pass, no gradient. They are what everybody
already looks at, with an error bar and a threshold instead of a glance, and they are the *symptoms* that
mechanisms have to explain; none of them names a cause by itself.

**How they hang together.** A curve that still falls has a `loss_slope` clearly below zero and a small
`loss_plateau`; one that no longer does has the opposite pair. `loss_progress` says how much of the way from
the best constant predictor to zero has been covered, so a plateau at high progress is the end of a run and a
plateau at low progress is a run that is stuck. `loss_oscillation` is what is left of the curve after its
trend; it grows with the step size along steep directions and with the noise of small batches, which the curve
cannot tell apart: compare `back_and_forth` (steep directions) and `gradient_noise_scale` (noise).
`loss_spikes` and `gradient_spikes` count departures from the running median; a gradient spike that precedes a
loss spike by a step points at a single bad batch or at a step too large for the curvature just reached
(`edge_of_stability`), a loss spike without one at the data.

**When they mislead.** The training loss of a batch is not the loss of the data: it carries the noise of the
batch and, with dropout or augmentation, of the masks. A slope per step depends on the step size, so runs with
different schedules are compared by progress, not by slope. Short histories have wide errors; they are stated,
and with too few steps there is no number.
"""
