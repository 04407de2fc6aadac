"""What every toy must keep: its truths are met by the instruments, also when its parameters are drawn at random."""

from __future__ import annotations

from collections.abc import Collection

from geartrain.zoo import Toy
from geartrain.zoo.certificate import check_quantity


def assert_agrees(toy: Toy, quantities: Collection[str] | None = None) -> None:
    """Every truth (or those named) is met; the message says which is not, and why."""
    chosen = list(toy.truth) if quantities is None else [q for q in quantities if q in toy.truth]
    assert chosen, f"{toy} knows none of {quantities}"
    cells = [check_quantity(toy, quantity) for quantity in chosen]
    wrong = [f"{c.quantity}: {c.value} is not {c.truth} ({c.explanation})" for c in cells if not c.passed]
    assert not wrong, f"{toy}\n" + "\n".join(wrong)


def assert_draws(toy: Toy) -> None:
    """The picture has axes with labels."""
    from matplotlib.figure import Figure

    figure = Figure()
    toy.draw(figure)
    assert figure.axes
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    figure.canvas.draw()
