r"""Walking or jumping: does something that changes keep its place?

A point in $d$ dimensions moves in one of two ways. It *walks*: $\theta_{t+1} = \theta_t + \sigma\xi_t$, every step a
fresh Gaussian vector. Or it *jumps*: $\theta_t = \sigma\xi_t$, every place a fresh one. Seen step by step the two
look alike: both change by about as much at every step. What tells them apart is what the changes add up to.

**Distance against lag.** Over $k$ steps the mean squared distance is

$$\text{walk: } k\,d\sigma^2 \quad(\text{exponent } 1),\qquad \text{jump: } 2\,d\sigma^2 \quad(\text{exponent } 0).$$

Training that goes somewhere has exponent 2 at short lags, diffusion in a valley 1, a search by trial 0.

**Successive changes.** Steps of a walk have nothing to do with one another: their cosine is 0. Jumps undo each
other: from $u_t = \sigma(\xi_{t+1} - \xi_t)$ one has $E\,u_t\cdot u_{t+1} = -d\sigma^2$ and $E\lVert u_t\rVert^2 =
2d\sigma^2$, so the cosine is $-\tfrac12$, at lag 2 it is 0. A cosine of $-\tfrac12$ is therefore no sign of a step
size that is too large: that would be $-1$.

**Path and distance.** After $T$ steps a walk is $\sigma\sqrt{Td}$ away and has gone $\sigma T\sqrt d$: an efficiency
of $1/\sqrt T$. A jumper's is $1/T$.

**Concentration.** All of this holds up to $O(1/\sqrt d)$: in many dimensions every step has the same length,
whichever way the point moves. Lengths of steps say nothing; angles do.

**What to vary.** `kind` ("walk" or "jump"), `dimension`, `size` ($\sigma$).

Sources: textbook; the loss is flat, so that nothing but the movement is measured.
Ledger: 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._descent import STEPS
from geartrain.zoo.curvature.quadratic import Halves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = "Moments of independent Gaussian vectors (textbook)."
_LAGS = np.array([1, 2, 4, 8, 16])


class Wander(torch.optim.Optimizer):
    """Moves parameters at random, whatever their gradients.

    What is drawn depends on the seed and on the number of the step, which is kept in the state: put back, it goes on
    as before.

    Args:
        params: What is moved.
        lr: σ.
        jump: Whether each place is a fresh draw, rather than each step.
        seed: Of the draws.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, *, jump: bool, seed: int) -> None:
        super().__init__(params, {"lr": lr})
        self.jump, self.seed = jump, seed

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move once."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for place, p in enumerate(group["params"]):
                count = self.state[p].get("step", 0) + 1
                self.state[p]["step"] = count
                source = torch.Generator().manual_seed((self.seed * 1009 + place) * 1_000_003 + count)
                drawn = group["lr"] * torch.randn(p.shape, generator=source, dtype=torch.float64).to(p)
                p.copy_(drawn if self.jump else p + drawn)
        return loss


@dataclass(frozen=True)
class WalkOrJump(Toy):
    """A point that takes independent steps, or independent places.

    Attributes:
        kind: ``"walk"`` or ``"jump"``.
        dimension: Number of parameters d.
        size: σ, unit θ.
    """

    title: ClassVar[str] = "Walking or jumping"
    ledger: ClassVar[tuple[str, ...]] = ("2.3",)

    kind: Literal["walk", "jump"] = "walk"
    dimension: int = 4000
    size: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in ("walk", "jump"):
            raise InputError(f"kind is {self.kind!r}; allowed: 'walk' or 'jump'.")
        if not 400 <= self.dimension <= 100_000 or not self.size > 0:
            raise InputError(
                f"dimension is {self.dimension} and size {self.size}; allowed: 400 to 100000 (fewer scatter too much), "
                "and above 0."
            )

    # ------------------------------------------------------------------ how it is made

    @property
    def jumps(self) -> bool:
        """Whether it jumps."""
        return self.kind == "jump"

    def make_run(self) -> Run:
        """Movement on a flat loss, from a place drawn like a jump."""
        start = self.size * torch.randn(self.dimension, generator=self.generator(), dtype=torch.float64)
        model, data = Halves(start), [torch.zeros(1, 1, dtype=torch.float64)]
        optimizer = Wander(model.parameters(), self.size, jump=self.jumps, seed=self.seed)
        return Run(model, optimizer=optimizer, train=data, batch_loss=_flat, epochs=200, shuffle=False)

    # ------------------------------------------------------------------ what is known

    @property
    def scatter(self) -> float:
        """Tolerance: four standard deviations of a cosine of two random directions."""
        return 4 / math.sqrt(self.dimension)

    def truths(self) -> dict[str, Truth]:
        """Lengths, angles and sums of the steps, in the limit of many dimensions."""
        d, steps = self.dimension, STEPS
        length = self.size * math.sqrt(d * (2 if self.jumps else 1))
        away = self.size * math.sqrt(d * (2 if self.jumps else steps))
        times = np.arange(steps)
        ratios = np.full(steps, math.sqrt(2)) if self.jumps else 1 / np.sqrt(1 + times)
        given = partial(
            Truth,
            tolerance=self.scatter,
            strict=True,
            assumptions="Up to 4/√d.",
            source=_SOURCE,
        )
        cosine = -0.5 if self.jumps else 0.0
        return {
            "update_norm": given(length),
            "path_length": given(steps * length),
            "path_length.distance": given(away, reading="distance"),
            "path_length.efficiency": given(away / (steps * length), reading="efficiency"),
            "path_length.random_walk": given(1 / math.sqrt(steps), reading="random_walk"),
            "update_cosine": given(cosine),
            "update_autocorrelation": given(np.array([cosine, 0.0])),
            "update_autocorrelation.drift": given(
                1 / steps**2 if self.jumps else 1 / steps,
                tolerance=1.5 * self.scatter,  # a squared length varies by √(2/d)
                reading="drift",
                source="|Σu|²/(TΣ|u|²).",
            ),
            "update_ratio": given(np.full(2, ratios.mean()), source="|u|/|θ|: √2, or 1/√(1 + t)."),
            "function_step": Truth(math.nan, source="The loss is flat and hides that there are no outputs."),
            "lag_exponent": Truth(
                0.0 if self.jumps else 1.0,
                0.05,
                source=_SOURCE,
                trial=lambda g: self._exponent(),
            ),
            "mean_squared_distance": Truth(
                self.size**2 * d * (np.full(len(_LAGS), 2.0) if self.jumps else 1.0 * _LAGS),
                1e-9,
                source=_SOURCE,
                trial=self._distances,
            ),
        }

    def places(self, steps: int) -> np.ndarray:
        """θ at the start and after each step of the run, shape (steps + 1, dimension)."""
        run = self.make_run()
        parameters = list(run.model.parameters())
        found = [_flattened(parameters)]
        for _ in range(steps):
            run.advance(1)
            found.append(_flattened(parameters))
        return np.array(found)

    def _exponent(self) -> Measurement:
        """Slope of the mean squared distance over the lag, both logarithmic, on 100 steps of the run."""
        path = self.places(100)
        msd = [float(((path[k:] - path[:-k]) ** 2).sum(1).mean()) for k in _LAGS]
        return trial_result("lag_exponent", float(np.polyfit(np.log(_LAGS), np.log(msd), 1)[0]))

    def _distances(self, generator: torch.Generator) -> Measurement:
        """Mean squared distances over fresh movements, coordinate by coordinate."""
        shape = (int(_LAGS[-1]) + 1, self.dimension)
        drawn = self.size * torch.randn(shape, generator=generator, dtype=torch.float64).numpy()
        path = drawn if self.jumps else np.cumsum(drawn, axis=0)
        squares = (path[_LAGS] - path[0]) ** 2
        error = squares.std(1, ddof=1) * math.sqrt(self.dimension)
        return trial_result("mean_squared_distance", squares.sum(1), error, unit="θ²")

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Mean squared distance over the lag, both ways of moving."""
        axes = figure.add_subplot()
        lags = np.arange(1, 41)
        small = replace(self, dimension=min(self.dimension, 1000))
        for toy, colour in ((replace(small, kind="walk"), "C0"), (replace(small, kind="jump"), "C3")):
            path = toy.places(80)
            msd = [float(((path[k:] - path[:-k]) ** 2).sum(1).mean()) for k in lags]
            axes.loglog(lags, msd, "o", ms=3, color=colour, label=toy.kind)
            law = toy.size**2 * toy.dimension * (np.full(len(lags), 2.0) if toy.jumps else lags)
            axes.loglog(lags, law, color=colour, lw=1)
        axes.set(xlabel="lag (steps)", ylabel="mean squared distance (θ²)", title=self.title)
        axes.legend(title="lines: theory")


def _flat(model: nn.Module, batch: Tensor) -> Tensor:
    return 0.0 * model().sum()


def _flattened(parameters: list[nn.Parameter]) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in parameters]).numpy().copy()


TOY = WalkOrJump
