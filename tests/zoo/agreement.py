"""What every toy must keep: its truths are met by the instruments, also when its parameters are drawn at random."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from geartrain.zoo import Toy
from geartrain.zoo.certificate import check_quantity

DEAR = {
    "basin_volume",
    "bits_per_parameter",
    "linear_connectivity",
    "loss_plane",
    "loss_slice",
    "permuted_barrier",
    "volume_scaling",
}
"""Instruments that take a fraction of a second each: met at the defaults, not again at every other setting."""


def assert_agrees(toy: Toy, quantities: Collection[str] | None = None) -> None:
    """Every truth (or those named) is met; the message says which is not, and why."""
    chosen = list(toy.truth) if quantities is None else [q for q in quantities if q in toy.truth]
    assert chosen, f"{toy} knows none of {quantities}"
    cells = [check_quantity(toy, quantity) for quantity in chosen]
    wrong = [f"{c.quantity}: {c.value} is not {c.truth} ({c.explanation})" for c in cells if not c.passed]
    assert not wrong, f"{toy}\n" + "\n".join(wrong)


def assert_agrees_in_part(toy: Toy, quantities: Collection[str] | None = None, count: int = 8) -> None:
    """So many truths, drawn by lot from those that cost little, are met: enough to try another setting."""
    known = toy.truth if quantities is None else [q for q in toy.truth if q in quantities]
    cheap = sorted(q for q in known if (toy.truth[q].instrument or q.partition(".")[0]) not in DEAR)
    draw = np.random.default_rng(toy.seed)
    assert_agrees(toy, draw.choice(cheap, min(count, len(cheap)), replace=False).tolist())


def assert_draws(toy: Toy) -> None:
    """The picture has axes with labels."""
    from matplotlib.figure import Figure

    figure = Figure()
    toy.draw(figure)
    assert figure.axes
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    figure.canvas.draw()
