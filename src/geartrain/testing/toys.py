"""The checks that every toy passes, ours and those of other packages."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from geartrain import instruments
from geartrain.errors import GeartrainError, InputError, UnknownNameError
from geartrain.testing.instruments import ConformanceError
from geartrain.zoo import Toy, Truth, certificate

_ELSEWHERE, _FEW, _ATTEMPTS = 2, 6, 20


def check_toy(
    toy: type[Toy],
    *,
    checks: Iterable[str] | None = None,
    parameters: Iterable[Mapping[str, object]] = ({},),
) -> None:
    """Check a toy against the promises of the zoo.

    Args:
        toy: Its class, a frozen dataclass derived from `geartrain.zoo.Toy`.
        checks: Names from `TOY_CHECKS`; all of them if omitted.
        parameters: Parameters with which it is checked, one mapping after another; its defaults if omitted.

    Raises:
        ConformanceError: A promise is broken.
        UnknownNameError: There is no such check.
    """
    names = list(TOY_CHECKS if checks is None else checks)
    for name in names:
        if name not in TOY_CHECKS:
            raise UnknownNameError("conformance check", name, list(TOY_CHECKS))
    for chosen in parameters:
        made = toy.make(**chosen)  # once: what it knows may take a second to compute
        for name in names:
            TOY_CHECKS[name](made)


# ------------------------------------------------------------------ the promises


def explains_itself(toy: Toy) -> None:
    """It has a title, and its file teaches: what it is in one line, then at least a dozen lines and its sources."""
    text = inspect.getdoc(inspect.getmodule(type(toy))) or ""
    _require(bool(toy.title), toy, "has a title", "none")
    _require(
        len(text.splitlines()) >= 12, toy, "is explained at the top of its file", f"{len(text)} characters"
    )
    _require("Ledger" in text or bool(toy.ledger), toy, "names the ledger's ids", "none")


def refuses_nonsense(toy: Toy) -> None:
    """A parameter that it does not have is refused by name."""
    try:
        type(toy).make(no_such_parameter=1)
    except InputError as error:
        _require(type(toy).name() in str(error), toy, "says which toy refuses a parameter", str(error))
    else:
        raise _broken(toy, "refuses unknown parameters", "nothing was raised")
    _require(dataclasses.is_dataclass(toy), toy, "is a dataclass", type(toy).__name__)


def knows_something(toy: Toy) -> None:
    """Each truth is finite or NaN on purpose, has a source and a tolerance, and names an instrument that exists."""
    _require(bool(toy.truth), toy, "knows something exactly", "no truth")
    for quantity, truth in toy.truth.items():
        where = f"about {quantity}"
        _require(isinstance(truth, Truth), toy, f"states a Truth {where}", type(truth).__name__)
        _require(
            not np.isinf(np.asarray(truth.value, dtype=float)).any(), toy, f"is finite {where}", "infinite"
        )
        _require(0 <= truth.tolerance < 1, toy, f"has a tolerance in [0, 1) {where}", str(truth.tolerance))
        _require(bool(truth.source.strip()), toy, f"cites or derives {where}", "no source")
        if truth.trial is None:
            name = truth.instrument or quantity.partition(".")[0]
            _require(name in instruments.names(), toy, f"names an instrument {where}", name)


def is_made_alike(toy: Toy) -> None:
    """The same parameters give the same toy, whatever the program's random numbers were; they are left alone."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = _numbers(dataclasses.replace(toy))
    _require(
        torch.equal(before, torch.get_rng_state()), toy, "leaves the random numbers alone", "they were drawn"
    )
    torch.manual_seed(2)
    second = _numbers(dataclasses.replace(toy))
    _require(first == second, toy, "is the same every time it is made", "other numbers")


def tells_the_truth(toy: Toy) -> None:
    """Every truth is met: by its instrument or by the toy's own trial."""
    _none_wrong(toy, "tells the truth", certificate.check_toy(toy))


def holds_elsewhere(toy: Toy) -> None:
    """Its truths hold at other parameters as well: drawn at random around those given, a few quantities each time."""
    for seed in range(_ELSEWHERE):
        other = varied(toy, seed)
        known = np.array(list(other.truth))
        few = np.random.default_rng(seed).choice(known, min(_FEW, len(known)), replace=False)
        cells = [certificate.check_quantity(other, str(quantity)) for quantity in few]
        _none_wrong(other, "holds at other parameters", cells)


def varied(toy: Toy, seed: int) -> Toy:
    """The toy with parameters drawn at random: numbers around what they were, words among those that are allowed.

    What the toy refuses is drawn again, so that parameters that belong together need no special care.
    """
    draw, hints = np.random.default_rng(seed), typing.get_type_hints(type(toy))
    for attempt in range(_ATTEMPTS):
        # The more often it refuses, the less is changed; the seed alone always may.
        share = 0.6 * (1 - attempt / (_ATTEMPTS - 1))
        chosen = {
            name: _near(value, hints[name], draw)
            for name, value in toy.parameters.items()
            if name != "seed" and draw.random() < share
        }
        try:
            other = dataclasses.replace(toy, seed=int(draw.integers(1, 1000)), **chosen)
            _ = other.truth
        except InputError:
            continue
        return other
    raise _broken(toy, "may have another seed", "it was refused")


def _near(value: Any, hint: Any, draw: np.random.Generator) -> Any:
    """Another value of a parameter."""
    if typing.get_origin(hint) is typing.Literal:
        return draw.choice(typing.get_args(hint)).item()
    if isinstance(value, bool):
        return bool(draw.integers(2))
    if isinstance(value, int):
        return max(1, round(value * draw.uniform(0.7, 1.3))) if value > 0 else value
    if isinstance(value, float):
        return float(value * draw.uniform(0.75, 1.3))
    if isinstance(value, tuple) and value and all(isinstance(v, float) for v in value):
        return tuple(float(v * draw.uniform(0.85, 1.15)) for v in value)
    return value


def can_be_drawn(toy: Toy) -> None:
    """It draws a picture: axes with labels, something on them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    toy.draw(figure)
    _require(bool(figure.axes), toy, "draws a picture", "no axes")
    labelled = [a for a in figure.axes if a.get_xlabel() or a.get_title() or not a.axison]
    _require(bool(labelled), toy, "labels what it draws", "no label")


TOY_CHECKS: dict[str, Callable[[Toy], None]] = {
    f.__name__: f
    for f in (
        explains_itself,
        refuses_nonsense,
        knows_something,
        is_made_alike,
        tells_the_truth,
        holds_elsewhere,
        can_be_drawn,
    )
}


def _none_wrong(toy: Toy, promise: str, cells: Iterable[certificate.Cell]) -> None:
    """Failures that the instrument itself does not explain are the toy's (or the instrument's) fault."""
    failed = [c for c in cells if c.unexplained]
    seen = "; ".join(f"{c.quantity} is {c.value}, truth {c.truth} ({c.explanation})" for c in failed)
    _require(not failed, toy, promise, f"{toy.parameters}: {seen}")


def _numbers(toy: Toy) -> list[bytes]:
    """Truths and parameters of a toy as bits."""
    found = [np.asarray(t.value, dtype=float).tobytes() for t in toy.truth.values()]
    try:
        found.append(toy.objective.parameters().cpu().numpy().tobytes())
    except GeartrainError:
        pass  # no loss over parameters
    return found


def _require(kept: bool, toy: Toy, promise: str, seen: str) -> None:
    if not kept:
        raise _broken(toy, promise, seen)


def _broken(toy: Toy, promise: str, seen: str) -> ConformanceError:
    return ConformanceError(f"{type(toy).name()}: broken promise '{promise}'; seen: {seen}.")
