"""The book that a trace keeps: groups of units, which axes belong to them, and what may be done to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

# One stretch of an axis: group, number of units, entries per unit (more than one after flattening an image).
Segment = tuple[int, int, int]
Label = tuple[Segment, ...] | None
Labels = tuple[Label, ...]


@dataclass(frozen=True)
class Use:
    """A stretch of a parameter's or buffer's axis that a group runs along.

    Attributes:
        tensor: Name of the parameter or buffer.
        axis: Its axis.
        start: Where on the axis the stretch begins.
        group: Which group.
        block: Entries per unit.
        made: Whether it makes the units (a row of weights, a bias) rather than reads them (a column).
    """

    tensor: str
    axis: int
    start: int
    group: int
    block: int
    made: bool


@dataclass(frozen=True)
class Units:
    """Groups of exchangeable units of a model.

    Attributes:
        sizes: Number of units of each group, in the order in which they first appear.
        uses: Everything that must be permuted with each group.
        positive: Groups whose units may be scaled by any positive number (between linear maps and ReLU).
        signed: Groups whose units may change sign (between linear maps and odd functions).
        views: Per group the traced nodes at which it fills an axis by itself, one entry per unit: name and axis.
        unknown: What was not understood, in words, without repetition.
    """

    sizes: Mapping[int, int]
    uses: Mapping[int, tuple[Use, ...]]
    positive: frozenset[int]
    signed: frozenset[int]
    views: Mapping[int, tuple[tuple[str, int], ...]]
    unknown: tuple[str, ...]
    graph: fx.Graph = field(repr=False)

    def of_tensor(self, name: str) -> list[Use]:
        """The uses that lie in one parameter or buffer."""
        return [use for uses in self.uses.values() for use in uses if use.tensor == name]


class Book:
    """Groups, what belongs to them, and what is known about them (union-find)."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.size: list[int] = []
        self.held: set[int] = set()
        self.not_positive: set[int] = set()
        self.not_signed: set[int] = set()
        self.ties: dict[tuple[str, int], tuple[Label, bool]] = {}
        self.unknown: dict[str, None] = {}

    def new(self, size: int) -> Label:
        """A label for a fresh group of that many units."""
        self.parent.append(len(self.parent))
        self.size.append(size)
        return ((len(self.parent) - 1, size, 1),)

    def root(self, group: int) -> int:
        """The group that this one has become part of."""
        while self.parent[group] != group:
            group = self.parent[group]
        return group

    def hold(self, label: Label) -> bool:
        """These units stay as they are; whether there were any that could have moved."""
        moved = False
        for group, size, _ in label or ():
            moved |= size > 1 and self.root(group) not in self.held
            self.held.add(group)
            self.held.add(self.root(group))
        return moved

    def join(self, first: Label, second: Label) -> Label:
        """Both labels are the same units from now on."""
        if first is None or second is None or [s[1:] for s in first] != [s[1:] for s in second]:
            self.hold(first)
            self.hold(second)
            return first
        for (a, _, _), (b, _, _) in zip(first, second, strict=True):
            old, kept = sorted((self.root(a), self.root(b)), reverse=True)
            self.parent[old] = kept
        return first

    def tie(self, name: str, axis: int, label: Label, *, made: bool) -> None:
        """An axis of a parameter belongs to these units; to two labels at once only if they are the same."""
        before = self.ties.get((name, axis))
        if before is None:
            self.ties[name, axis] = (label, made)
            return
        self.join(before[0], label)
        if before[1] != made:  # a tied weight makes them here and reads them there: no scale survives that
            self.restrict(label, positive=False, signed=False)

    def tied(self, name: str, axis: int) -> Label:
        """The label of an axis of a parameter."""
        return self.ties[name, axis][0]

    def restrict(self, label: Label, *, positive: bool, signed: bool) -> None:
        """What was done to these units leaves only these symmetries (beside permutations)."""
        for group, _, _ in label or ():
            if not positive:
                self.not_positive.add(group)
            if not signed:
                self.not_signed.add(group)

    def units(
        self, free: frozenset[str], parameters: set[str], views: list[tuple[str, Labels]], graph: fx.Graph
    ) -> Units:
        """Everything by root."""
        for (name, _), (label, _) in self.ties.items():
            if name in parameters and name not in free:
                self.hold(label)
        everyone = range(len(self.parent))
        held = {self.root(g) for g in self.held}
        uses: dict[int, list[Use]] = {}
        for (name, axis), (label, made) in self.ties.items():
            start = 0
            for group, size, block in label or ():
                root = self.root(group)
                uses.setdefault(root, []).append(Use(name, axis, start, root, block, made))
                start += size * block
        movable = [
            g for g in everyone if self.root(g) == g and self.size[g] > 1 and g in uses and g not in held
        ]
        barred = [{self.root(g) for g in bad} for bad in (self.not_positive, self.not_signed)]
        return Units(
            {g: self.size[g] for g in movable},
            {g: tuple(uses[g]) for g in movable},
            frozenset(g for g in movable if g not in barred[0]),
            frozenset(g for g in movable if g not in barred[1]),
            {g: self._views(g, views) for g in movable},
            tuple(self.unknown),
            graph,
        )

    def _views(self, group: int, views: list[tuple[str, Labels]]) -> tuple[tuple[str, int], ...]:
        """Nodes at which the units lie along one axis, one entry each."""
        return tuple(
            (name, axis)
            for name, labels in views
            for axis, label in enumerate(labels)
            if label is not None and len(label) == 1 and label[0][2] == 1 and self.root(label[0][0]) == group
        )
