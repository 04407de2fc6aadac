"""A small effect: draws of a normal distribution have a mean above one half.

**Question** Is the mean of a normal distribution with mean 1 above one half?

**Protocol** Twenty numbers a seed, with mean 1; and with mean 0 for the control.

**Control** The same with mean 0.

**What would change our mind** A mean below one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from geartrain import claims
from geartrain.claims import intervals


class SmallEffect(claims.Claim):
    """Means of normal draws."""

    title: ClassVar = "A small effect"
    statement: ClassVar = "Draws of a normal distribution with mean 1 have a mean above one half."
    source: ClassVar = claims.Source("tests", ("the mean is there",))
    ledger: ClassVar = ("0.0",)
    scope: ClassVar = "Normal numbers."
    parts: ClassVar = {
        "a": claims.Part("Mean of the draws", claims.above(0.5)),
        "b": claims.Part("Spread of the draws", claims.within(0.8, 1.2), bears=False),
    }

    def cells(self, scale: str) -> list[dict[str, Any]]:
        """Two arms."""
        size = 40 if scale == "full" else 20
        return [
            {"arm": arm, "mean": mean, "size": size} for arm, mean in (("treated", 1.0), ("control", 0.0))
        ]

    def compute(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """Draws for each seed."""
        draws = [np.random.default_rng(s).normal(config["mean"], 1.0, config["size"]) for s in seeds]
        return {"draws": (("seed", "draw"), np.stack(draws))}

    def analyse(self, results: claims.Results) -> dict[str, claims.Finding]:
        """Means over seeds."""
        treated, control = (results.one(arm=arm)["draws"] for arm in ("treated", "control"))
        quiet = {"mean zero": intervals.mean(control.mean(1))}
        return {
            "a": claims.Finding(intervals.mean(treated.mean(1)), quiet),
            "b": claims.Finding(intervals.mean(treated.std(1, ddof=1))),
        }

    def draw(self, results: claims.Results, figure: Any) -> None:
        """All draws."""
        axes = figure.subplots()
        for place, cell in enumerate(results):
            axes.plot(np.full(cell["draws"].size, place), cell["draws"].ravel(), ".")
        axes.set(xticks=[0, 1], xticklabels=[c["arm"] for c in results], ylabel="draw")


CLAIM = SmallEffect
