"""The always-on monitor: one line in a training loop shows its gears, within a stated share of its time.

```python
with gt.watch(model, optimizer) as monitor:
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = monitor.loss(loss_fn(model(inputs), targets))  # or without it, if the model returns its loss
        loss.backward()
        optimizer.step()
print(monitor)
```

The loop stays what it is: the same bits with and without the monitor, no pass added, every hook gone at the end. What
is noted comes from what passes by anyway: gradients as the optimizer gets them, parameters before and after its step,
inputs and output gradients of the layers.

| group | what | price class |
|---|---|---|
| `norms` | norms of parameters and gradients per layer, before and after clipping | every step |
| `updates` | update norms and ratios per layer, cosine, share taken back, step-length gauge | adaptive |
| `flow` | rms of every layer's output and of its gradient | every tenth step at most |
| `noise` | gradient noise and signal, from micro-batches, processes, or examples | every tenth step at most |

**The governor** keeps them within `overhead` (5 % by default) of the plain step. It knows no prices beforehand: it
times each group whenever it is measured, tells from the steps with and without it what it costs beside (emptied
caches), and divides the allowance: cheap groups as often as their class permits, what is left to the dear ones. Where
steps take less than a fraction of a millisecond, even looking on is too dear, and stretches of steps are slept through.
A quarter of a second in all is free, so that short loops show something. `every={"noise": 16}` fixes a period, 0
switches a group off, `overhead=None` lifts the limit.

**How the numbers hang together.** On a quadratic under gradient descent with ηλ along one direction, the gauge is
ηλ - 1; cosine and share taken back turn from (1, 0) to (-1, 1) where the gauge passes 0; beyond a gauge of 1 the loss
grows. The gauge of single batches is too close to -1 by the factor 1 + noise scale / batch size, which
`step_length_gauge` undoes. A layer's update ratio over its gradient-to-weight ratio is its effective step size; layers
far from the others by that measure learn at another pace. A chain of layers multiplies the growth of `activation_rms`
on the way in with that of `gradient_rms` on the way back.

**When they mislead.** Momentum and Adam make successive updates alike whatever the loss does, so a cosine near their
decay says little. Noise of single steps is large: read `noise_scale()`, which divides means, with its interval. Layers
inside compiled graphs are not looked into (norms and updates are). Of models beyond 33 million parameters every k-th
entry of the updates is read. The monitor's own count of its overhead is not what a stop-watch around the loop says to
the last tenth of a per cent.

**Then.** `monitor.history` is the record that a `geartrain.Run` keeps, so `loss_spikes` and its like read it;
`monitor.tables` are per layer; `monitor.alarms` are few, with reasons; `log=` feeds a tracker; and
`monitor.diagnose(loss_fn, data)` goes on from the present state on forks, and says why the loop behaves as it does.
"""

from geartrain.monitor.alarms import Alarm as Alarm
from geartrain.monitor.governor import Governor as Governor
from geartrain.monitor.watch import Monitor as Monitor
from geartrain.monitor.watch import watch as watch
