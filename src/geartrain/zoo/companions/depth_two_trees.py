r"""All small decision trees: how many explanations fit equally well?

On $d$ yes-or-no features there are so few decision trees of depth at most two that one can look at all of them. A
tree is a leaf (answer 0 or 1), or a question with a subtree for each answer; below a question it is not asked again.
So there are $s = 2 + 4(d-1)$ subtrees of depth at most one, and
$$2 + d\,s^2$$
trees: for $d = 5$ that is $2 + 5\cdot18^2 = 1622$.

**The Rashomon set** of data is the set of all trees with at most $e$ more errors than the best one. Usually it is
large, and its members ask different questions: data do not decide which mechanism is at work. That many models fit
does not mean that they agree on new cases.

**Counting without looking at the trees.** Once the first question is chosen, the two branches see different examples,
and their errors add up. So the number of trees with $k$ errors is the convolution of two histograms of $s$ subtrees
each, summed over the first questions: $2ds$ evaluations in place of $2 + ds^2$. The trials enumerate all trees.

**Votes.** For every example exactly half of all trees say 1, since flipping all leaves maps trees onto trees: the
mean number of errors over all trees is half the number of examples, whatever the labels.

**What to vary.** `features` ($d$), `examples`, `noise` of the labels (the share that is flipped after a planted tree
gave them), `slack` ($e$).

Sources: Breiman 2001 (Statistical Science 16:199); enumeration as in Xin et al. 2022, arXiv 2209.08040.
Ledger: 3.16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from geartrain.errors import InputError
from geartrain.records import Measurement
from geartrain.zoo._base import Toy, Truth, trial_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tree = int | tuple[int, "Tree", "Tree"]
"""A leaf, or (feature, tree where it is 0, tree where it is 1)."""


@dataclass(frozen=True)
class DepthTwoTrees(Toy):
    """All decision trees of depth at most two, on data from one of them.

    Attributes:
        features: d, 2 to 8.
        examples: Random rows of bits, 1 to 1000.
        noise: Share of labels that are flipped, 0 to ½.
        slack: e, errors more than the best tree's that the Rashomon set admits.
        seed: Draws rows and noise.
    """

    title: ClassVar[str] = "All trees of depth two"
    ledger: ClassVar[tuple[str, ...]] = ("3.16",)

    features: int = 5
    examples: int = 60
    noise: float = 0.2
    slack: int = 3

    def __post_init__(self) -> None:
        if not 2 <= self.features <= 8:
            raise InputError(f"features is {self.features}; allowed: 2 to 8.")
        if not 1 <= self.examples <= 1000:
            raise InputError(f"examples is {self.examples}; allowed: 1 to 1000.")
        if not 0 <= self.noise <= 0.5:
            raise InputError(f"noise is {self.noise}; allowed: 0 to ½.")
        if self.slack < 0:
            raise InputError(f"slack is {self.slack}; allowed: 0 or more.")

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Bits, shape (examples, d), and labels: the first feature or the second, with noise; shape (examples,)."""
        source = self.generator()
        x = (torch.rand(self.examples, self.features, generator=source) < 0.5).numpy()
        flipped = (torch.rand(self.examples, generator=source, dtype=torch.float64) < self.noise).numpy()
        return x, (x[:, 0] | x[:, 1]) ^ flipped

    @cached_property
    def errors(self) -> np.ndarray:
        """Errors of every tree, one after the other."""
        x, y = self.data
        return np.array([(answers(tree, x) != y).sum() for tree in trees(tuple(range(self.features)), 2)])

    # ------------------------------------------------------------------ what is known

    @cached_property
    def histogram(self) -> np.ndarray:
        """Number of trees with 0, 1, 2, ... errors, by convolution; shape (examples + 1,)."""
        x, y = self.data
        found = np.bincount([y.sum(), len(y) - y.sum()], minlength=len(y) + 1)  # the two leaves
        for question in range(self.features):
            rest = tuple(i for i in range(self.features) if i != question)
            branches = []
            for side in (False, True):
                rows = x[:, question] == side
                wrong = [(answers(tree, x[rows]) != y[rows]).sum() for tree in trees(rest, 1)]
                branches.append(np.bincount(wrong))
            both = np.convolve(*branches)
            found[: len(both)] += both
        return found

    @property
    def best(self) -> int:
        """Fewest errors of any tree."""
        return int(np.flatnonzero(self.histogram)[0])

    def truths(self) -> dict[str, Truth]:
        """Number of trees, sizes of the Rashomon sets, mean error."""
        subtrees = 2 + 4 * (self.features - 1)
        near = self.histogram[self.best : self.best + self.slack + 1]
        branches = "Errors of the two branches add up: convolution of their histograms."
        return {
            "trees": Truth(
                float(2 + self.features * subtrees**2), 0.0, source="2 + d(2 + 4(d-1))².", trial=self._count
            ),
            "fewest_errors": Truth(float(self.best), 0.0, source=branches, trial=self._fewest),
            "rashomon_set": Truth(near.cumsum().astype(float), 0.0, source=branches, trial=self._near),
            "mean_error": Truth(
                self.examples / 2,
                1e-12,
                source="Flipping all leaves maps trees onto trees.",
                trial=self._mean,
            ),
        }

    def _count(self, generator: torch.Generator) -> Measurement:
        return trial_result("trees", len(set(trees(tuple(range(self.features)), 2))))

    def _fewest(self, generator: torch.Generator) -> Measurement:
        return trial_result("fewest_errors", self.errors.min())

    def _near(self, generator: torch.Generator) -> Measurement:
        """Number of trees with at most 0, 1, ..., e errors more than the best, of those that could be."""
        most = min(self.slack, self.examples - self.errors.min())
        above = self.errors - self.errors.min()
        return trial_result("rashomon_set", [(above <= extra).sum() for extra in range(most + 1)])

    def _mean(self, generator: torch.Generator) -> Measurement:
        return trial_result("mean_error", self.errors.mean())

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Number of trees by their errors, the Rashomon set marked."""
        axes = figure.add_subplot()
        k = np.arange(len(self.histogram))
        near = (k >= self.best) & (k <= self.best + self.slack)
        axes.bar(k, self.histogram, color="lightgrey", label="all trees")
        size = int(self.histogram[near].sum())
        axes.bar(k[near], self.histogram[near], color="C3", label=f"Rashomon set: {size} trees")
        axes.set(
            xlabel=f"errors on {self.examples} examples",
            ylabel="trees",
            title=f"{self.histogram.sum()} trees",
        )
        axes.legend()


def trees(features: tuple[int, ...], depth: int) -> Iterator[Tree]:
    """All trees of at most that depth that ask about these features.

    >>> len(list(trees((0, 1, 2, 3, 4), 2))), len(list(trees((0, 1, 2, 3), 1)))
    (1622, 18)
    """
    yield from (0, 1)
    if depth == 0:
        return
    for question in features:
        rest = tuple(i for i in features if i != question)
        below = list(trees(rest, depth - 1))
        yield from ((question, no, yes) for no in below for yes in below)


def answers(tree: Tree, x: np.ndarray) -> np.ndarray:
    """What a tree says to each row of bits, shape (examples,)."""
    if isinstance(tree, int):
        return np.full(len(x), bool(tree))
    question, no, yes = tree
    return np.where(x[:, question], answers(yes, x), answers(no, x))


TOY = DepthTwoTrees
