"""The potential: what samplers walk on, U(w) = nβ·L(w) + γ/2·|w - w₀|² + λ/2·|w|², for many chains at once.

`Potential` takes any `Objective`; `FunctionPotential` any function of positions. Positions are matrices of shape
(chains, params), losses have shape (chains,); nothing of the user's model changes. Samplers draw from exp(-U).
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from geartrain._torch import kernels
from geartrain.errors import InputError, UnsupportedError
from geartrain.objective import Objective
from geartrain.sampling._batched import Choice, Evaluator

PerChain = float | Tensor
"""One number for all chains, or one each: shape (chains,)."""


class BasePotential(ABC):
    """U(w) = n_beta · L(w) + localisation/2 · |w - centre|² + prior_precision/2 · |w|².

    Attributes:
        n_beta: Number of examples times inverse temperature, a float or one per chain.
        localisation: γ, strength of the pull towards the centre.
        prior_precision: λ, inverse variance of the Gaussian prior around zero.
        centre: w₀, shape (params,).
        batch_size: Examples per evaluation of the gradient, drawn afresh with replacement; ``None``: all.
        num_examples: Number of examples that the loss is the mean of (1 for a function).
        num_params: Number of parameters.
        dtype: Type of positions.
        device: Where they live.
    """

    n_beta: PerChain
    localisation: float
    prior_precision: float
    centre: Tensor
    batch_size: int | None
    num_examples: int
    num_params: int
    dtype: torch.dtype
    device: torch.device

    # ------------------------------------------------------------------ to be provided

    @abstractmethod
    def loss_and_gradient(self, positions: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss L and its gradient at every position (without n_beta, localisation and prior).

        Args:
            positions: Shape (chains, params).
            rows: Indices of the examples: ``None`` for all, shape (b,) shared by the chains, or (chains, b).

        Returns:
            Losses, shape (chains,), and gradients, shape (chains, params); detached, the caller's own.
        """

    @abstractmethod
    def losses(self, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """Loss L at every position without gradient, shape (chains,)."""

    @abstractmethod
    def per_example_losses(self, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """Loss of each example alone at every position, shape (chains, examples); ``rows`` (b,) or all."""

    # ------------------------------------------------------------------ the potential itself

    def penalty(self, positions: Tensor) -> Tensor:
        """Localisation and prior terms of U, shape (chains,)."""
        total = positions.new_zeros(len(positions))
        if self.localisation:
            total += (0.5 * self.localisation) * (positions - self.centre).square().sum(1)
        if self.prior_precision:
            total += (0.5 * self.prior_precision) * positions.square().sum(1)
        return total

    def energy(self, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """U at every position, shape (chains,)."""
        return self.n_beta * self.losses(positions, rows) + self.penalty(positions)

    def energy_and_gradient(
        self, positions: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """U (chains,), its gradient (chains, params), and the loss L (chains,) that came with it."""
        losses, gradient = self.loss_and_gradient(positions, rows)
        if isinstance(self.n_beta, Tensor):
            gradient *= self.n_beta[:, None]
        else:
            gradient *= self.n_beta
        energies = self.n_beta * losses
        if self.localisation:
            away = positions - self.centre
            gradient.add_(away, alpha=self.localisation)
            energies = energies + (0.5 * self.localisation) * torch.linalg.vecdot(away, away)
        if self.prior_precision:
            gradient.add_(positions, alpha=self.prior_precision)
            energies = energies + (0.5 * self.prior_precision) * torch.linalg.vecdot(positions, positions)
        return energies, gradient, losses

    def draw_rows(self, chains: int, generator: torch.Generator, *, shared: bool = False) -> Tensor | None:
        """Indices of a fresh minibatch per chain (or one for all), with replacement; ``None`` for all data."""
        if self.batch_size is None:
            return None
        shape = (self.batch_size,) if shared else (chains, self.batch_size)
        return torch.randint(self.num_examples, shape, generator=generator, device=generator.device).to(
            self.device
        )

    def changed(
        self,
        *,
        n_beta: PerChain | None = None,
        localisation: float | None = None,
        prior_precision: float | None = None,
        centre: Tensor | None = None,
        batch_size: int | str | None = "same",
    ) -> BasePotential:
        """The same potential with other settings, on the same engine and data. ``batch_size=None`` means all data."""
        twin = copy.copy(self)
        twin._settings(
            self.n_beta if n_beta is None else n_beta,
            self.localisation if localisation is None else localisation,
            self.prior_precision if prior_precision is None else prior_precision,
            self.centre if centre is None else centre,
            self.batch_size if isinstance(batch_size, str) else batch_size,
        )
        return twin

    def for_chains(self, index: Tensor) -> BasePotential:
        """The potential of some of the chains: the same, unless n_beta differs between them."""
        return self.changed(n_beta=self.n_beta[index]) if isinstance(self.n_beta, Tensor) else self

    @property
    def n_beta_mean(self) -> float:
        """The largest n_beta, as one number (they differ only in tempering)."""
        return float(self.n_beta.max()) if isinstance(self.n_beta, Tensor) else float(self.n_beta)

    @property
    def notes(self) -> tuple[str, ...]:
        """Things to know about every number that comes from here, as sentences."""
        return ()

    def positions(self, where: Tensor | None = None, chains: int = 1) -> Tensor:
        """A matrix (chains, params) of the right type: of a point for all chains (the centre by default), or one each.

        Raises:
            InputError: The shape does not fit.
        """
        point = self.centre if where is None else torch.as_tensor(where)
        point = point.detach().to(self.device, self.dtype)
        if point.shape == (self.num_params,):
            return point.expand(chains, -1).clone()
        if point.shape != (chains, self.num_params):
            raise InputError(
                f"The start has shape {tuple(point.shape)}; it must be ({self.num_params},) or "
                f"({chains}, {self.num_params}): chains x parameters, in the order of model.parameters()."
            )
        return point.clone()

    def _settings(
        self, n_beta: PerChain, localisation: float, prior_precision: float, centre: Tensor, batch: int | None
    ) -> None:
        for name, value in (("localisation", localisation), ("prior_precision", prior_precision)):
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} is {value}; it must be a finite number that is 0 or more.")
        beta = torch.as_tensor(n_beta)
        if beta.ndim > 1 or not bool((torch.isfinite(beta) & (beta >= 0)).all()):
            raise InputError(
                f"n_beta is {n_beta}; it must be a finite number that is 0 or more, or one per chain."
            )
        if batch is not None and (isinstance(batch, bool) or batch != int(batch) or batch < 1):
            raise InputError(f"batch_size is {batch}; it must be a number of examples, at least 1, or None.")
        if centre.shape != (self.num_params,):
            raise InputError(
                f"The centre has shape {tuple(centre.shape)}; it must be ({self.num_params},), one per parameter."
            )
        own = {"device": self.device, "dtype": self.dtype}
        self.n_beta = (
            n_beta.detach().to(**own) if isinstance(n_beta, Tensor) and n_beta.ndim else float(n_beta)
        )
        self.localisation, self.prior_precision = float(localisation), float(prior_precision)
        self.centre = centre.detach().to(**own)
        self.batch_size = None if batch is None or batch >= self.num_examples else int(batch)


class Potential(BasePotential):
    """The potential of an objective: any module, any loss, blocks through `Objective.restrict`.

    The model is evaluated in evaluation mode on a copy (no dropout, fixed batch statistics), by the ensemble engines:
    hand-written stacks where the structure is known, ``vmap`` or a loop elsewhere, whichever a short trial finds
    fastest; ``choice`` says which.

    Args:
        objective: Model, loss and data.
        n_beta: Number of examples times inverse temperature; the number of examples (the posterior) if omitted.
        localisation: γ.
        prior_precision: λ.
        centre: w₀, shape (params,); the objective's present parameters if omitted.
        batch_size: Examples per gradient; all if omitted or not fewer than there are.
        engine: ``"auto"``, ``"stack"``, ``"vmap"`` or ``"loop"``. The choice of ``"auto"`` rests on timings, and other
            engines round otherwise: name one where runs must agree bit for bit between processes.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> loss = lambda outputs, targets: 0.5 * ((outputs - targets) ** 2).mean()
        >>> objective = Objective(model, loss, (torch.ones(4, 1).double(), torch.zeros(4, 1).double()))
        >>> potential = Potential(objective, n_beta=10.0, localisation=2.0, centre=torch.zeros(1).double())
        >>> potential.energy(torch.tensor([[1.0], [2.0]]).double())
        tensor([ 6., 24.], dtype=torch.float64)
    """

    def __init__(
        self,
        objective: Objective,
        n_beta: PerChain | None = None,
        localisation: float = 0.0,
        prior_precision: float = 0.0,
        centre: Tensor | None = None,
        batch_size: int | None = None,
        *,
        engine: str = "auto",
    ) -> None:
        self.objective = objective
        self.num_params, self.dtype, self.device = objective.num_params, objective.dtype, objective.device
        self.num_examples = objective.num_examples
        self._evaluator = Evaluator(objective, engine)
        if batch_size is not None and batch_size < self.num_examples and self._evaluator.data is None:
            raise InputError(
                "batch_size cannot be used: the batches of the objective have different shapes, so that examples "
                "cannot be picked one by one. Use batch_size=None (all data), or pad the examples to one shape."
            )
        beta = float(self.num_examples) if n_beta is None else n_beta
        centre = objective.parameters() if centre is None else torch.as_tensor(centre)
        self._settings(beta, localisation, prior_precision, centre, batch_size)

    @property
    def choice(self) -> Choice | None:
        """The engine in use, with one sentence; ``None`` before the first evaluation."""
        return self._evaluator.last

    @property
    def notes(self) -> tuple[str, ...]:
        """See `BasePotential.notes`."""
        with kernels.mode(self.objective.model, self.objective.training):
            model = self.objective.model
            active = kernels.draws_random_numbers(model) or kernels.mixes_examples(model)
        notes = []
        if active:
            notes.append("The model was evaluated in evaluation mode: dropout off, batch statistics fixed.")
        if self.batch_size is not None and not self._evaluator.additive:
            notes.append("The loss is no mean over its examples, so minibatch gradients are biased.")
        if self.choice is not None:
            notes.append(self.choice.sentence)
        return tuple(notes)

    def loss_and_gradient(self, positions: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `BasePotential.loss_and_gradient`."""
        self.objective.charge(gradients=self._passes(positions, rows))
        with torch.inference_mode(False):
            return self._evaluator.loss_and_gradient(self._checked(positions), rows)

    def losses(self, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """See `BasePotential.losses`."""
        self.objective.charge(forwards=self._passes(positions, rows))
        return self._evaluator.losses(self._checked(positions), rows)

    def per_example_losses(self, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """See `BasePotential.per_example_losses`."""
        self.objective.charge(forwards=self._passes(positions, rows))
        return self._evaluator.per_example_losses(self._checked(positions), rows)

    def outputs(self, positions: Tensor, inputs: Any = None) -> Any:
        """The model's outputs at every position, shape (chains, examples, ...), on given inputs or on all the data.

        Raises:
            UnsupportedError: The objective was made from ``batch_loss``.
        """
        if inputs is None:
            if self._evaluator.data is None:
                raise UnsupportedError(
                    "The outputs on all data cannot be had in one tensor: batches differ in shape. Pass inputs."
                )
            inputs = self._evaluator.data[0] if self._evaluator.supervised else self._evaluator.data
        return self._evaluator.outputs(self._checked(positions), inputs)

    def _checked(self, positions: Tensor) -> Tensor:
        if positions.ndim != 2 or positions.shape[1] != self.num_params:
            raise InputError(
                f"The positions have shape {tuple(positions.shape)}; they must be (chains, {self.num_params})."
            )
        return positions.detach().to(self.device, self.dtype).contiguous()

    def _passes(self, positions: Tensor, rows: Tensor | None) -> float:
        return len(positions) * (1.0 if rows is None else rows.shape[-1] / self.num_examples)


class FunctionPotential(BasePotential):
    """The potential of a function of positions: toys in closed form.

    Args:
        function: ``f(positions) -> losses``, (chains, params) -> (chains,), differentiable by autograd; or with
            ``num_examples``, ``f(positions, rows) -> (chains, b)``, losses of single examples, ``rows`` of shape
            (b,) or (chains, b).
        num_params: Number of parameters.
        n_beta: See `Potential`; 1 by default.
        localisation: γ.
        prior_precision: λ.
        centre: w₀; the origin if omitted.
        batch_size: Examples per gradient; needs ``num_examples``.
        num_examples: Number of examples that the function is the mean over.
        dtype: Type of positions.
        device: Where they live.

    Example:
        >>> potential = FunctionPotential(lambda w: w[:, 0] ** 4, 1, n_beta=10.0)
        >>> potential.energy_and_gradient(torch.tensor([[1.0]]).double())[1]
        tensor([[40.]], dtype=torch.float64)
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        num_params: int,
        n_beta: PerChain = 1.0,
        localisation: float = 0.0,
        prior_precision: float = 0.0,
        centre: Tensor | None = None,
        batch_size: int | None = None,
        *,
        num_examples: int | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.function = function
        self.num_params, self.dtype, self.device = num_params, dtype, torch.device(device)
        self.by_example = num_examples is not None
        self.num_examples = num_examples or 1
        if batch_size is not None and not self.by_example:
            raise InputError(
                "batch_size needs num_examples= and a function f(positions, rows) -> (chains, b)."
            )
        centre = torch.zeros(num_params) if centre is None else centre
        self._settings(n_beta, localisation, prior_precision, centre, batch_size)

    def loss_and_gradient(self, positions: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `BasePotential.loss_and_gradient`."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = positions.detach().clone().requires_grad_()
            losses = self._losses(leaf, rows)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), gradient

    def losses(self, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """See `BasePotential.losses`."""
        with torch.no_grad():
            return self._losses(positions, rows)

    def per_example_losses(self, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """See `BasePotential.per_example_losses`."""
        with torch.no_grad():
            if not self.by_example:
                return self.function(positions)[:, None]
            return self.function(positions, self._rows(rows))

    def _losses(self, positions: Tensor, rows: Tensor | None) -> Tensor:
        if not self.by_example:
            return self.function(positions)
        return self.function(positions, self._rows(rows)).mean(-1)

    def _rows(self, rows: Tensor | None) -> Tensor:
        return torch.arange(self.num_examples, device=self.device) if rows is None else rows
