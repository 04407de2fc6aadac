"""Excess losses L(w) - L(w*), with L(w*) taken on the very examples that L(w) was taken on.

n·beta multiplies every error of the baseline: an L(w*) from a few minibatches of its own gives estimates that scatter
by many times what their chains suggest. Taken on the same rows, most of the noise of a minibatch cancels; taken on
all data, only the noise of L(w) itself is left.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from geartrain.errors import UnsupportedError
from geartrain.sampling.potential import BasePotential, Potential

Baseline = Literal["paired", "full"]


class Excess(BasePotential):
    """A potential whose loss is the excess over the loss at the centre; its gradient is that of the original.

    Args:
        inner: The potential.
        kind: ``"paired"``: the loss at the centre on the same rows; ``"full"``: on all data.

    Attributes:
        start_loss: Loss at the centre on all data.
        virial: At the last evaluation, ∇U·∇(nβL) of every chain, shape (chains,): what the step size and the
            minibatches add to the estimate is ε/8 times its mean (see `step.langevin_bias`).
    """

    def __init__(self, inner: BasePotential, kind: Baseline = "paired") -> None:
        self.inner, self.kind = inner, kind
        self.num_examples, self.num_params = inner.num_examples, inner.num_params
        self.dtype, self.device = inner.dtype, inner.device
        self._settings(
            inner.n_beta, inner.localisation, inner.prior_precision, inner.centre, inner.batch_size
        )
        here = self.centre[None]
        self._by_example: Tensor | None = None
        if kind == "paired" and self.batch_size is not None and _picks_cheaply(inner):
            try:
                self._by_example = inner.per_example_losses(here)[0]
            except UnsupportedError:
                self._by_example = None
        if self._by_example is not None:
            self.start_loss = float(self._by_example.double().mean())
        else:
            self.start_loss = float(inner.losses(here)[0])
        self.virial: Tensor | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """See `BasePotential.notes`."""
        return self.inner.notes

    def loss_and_gradient(self, positions: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `BasePotential.loss_and_gradient`; the losses are excesses."""
        losses, gradient = self.inner.loss_and_gradient(positions, rows)
        return losses - self._baseline(rows, len(positions)), gradient

    def losses(self, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """See `BasePotential.losses`; excesses."""
        return self.inner.losses(positions, rows) - self._baseline(rows, len(positions))

    def per_example_losses(self, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """See `BasePotential.per_example_losses`; not excesses."""
        return self.inner.per_example_losses(positions, rows)

    def energy_and_gradient(
        self, positions: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `BasePotential.energy_and_gradient`."""
        energies, gradient, losses = super().energy_and_gradient(positions, rows)
        self.virial = gradient.square().sum(1)
        if self.localisation:
            pull = (gradient * (positions - self.centre)).sum(1)
            self.virial = self.virial - self.localisation * pull
        if self.prior_precision:
            self.virial = self.virial - self.prior_precision * (gradient * positions).sum(1)
        return energies, gradient, losses

    def last_virial(self, positions: Tensor) -> Tensor:
        """`virial` as an observer; NaN for the one step at which a chain has just stopped."""
        if self.virial is None or len(self.virial) != len(positions):
            return positions.new_full((len(positions),), torch.nan)
        return self.virial

    def _baseline(self, rows: Tensor | None, chains: int) -> Tensor | float:
        if rows is None or self.kind == "full":
            return self.start_loss
        if self._by_example is not None:
            return self._by_example[rows].mean(-1)
        return self.inner.losses(self.centre.expand(chains, -1).contiguous(), rows)


def _picks_cheaply(inner: BasePotential) -> bool:
    """Whether the losses of single examples come from one forward pass, and their mean is the loss."""
    if isinstance(inner, Potential):
        return inner._evaluator.supervised and inner._evaluator.additive
    return True
