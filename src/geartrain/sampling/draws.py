"""Draws: what a sampler leaves behind, and what can be asked of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.records import Cost, State, Status, format_number, jsonable
from geartrain.sampling import diagnostics
from geartrain.sampling.diagnostics import EssKind, McseKind

if TYPE_CHECKING:
    import xarray

_FORMAT = 1
_TRACES = ("losses", "energies", "acceptance", "total_energies")


@dataclass
class Draws:
    """Draws of several chains. A chain that stopped holds NaN from there on, and no summary uses any part of it.

    Attributes:
        losses: L at every draw (on the minibatch at hand), shape (chains, draws).
        energies: U at every draw, likewise.
        acceptance: Probability of acceptance at every draw, mean over its steps; NaN for kernels that always accept.
        total_energies: U plus kinetic energy before each transition (Hamiltonian kernels; else NaN).
        positions: Shape (chains, kept, params), or ``None`` if only statistics were kept.
        observed: Whatever else was recorded at each draw, by name: (chains, draws, ...).
        burn_in_losses: L at every step of burn-in, shape (chains, burn_in).
        mean_by_chain: Mean position of every chain, shape (chains, params).
        squares_by_chain: Sum of squared differences from it, shape (chains, params).
        step_size: Shape (chains,).
        stopped_at: Step (burn-in counted) at which a chain was no longer finite; -1 for the others.
        diverged: How many transitions of each chain went astray by more than 1,000 in energy; shape (chains,).
        kernel: Name of the kernel.
        settings: How it was sampled, as plain values: kernel options, n_beta, localisation, prior, batch size, ...
        thin: Steps per draw.
        keep_every: Every how many draws a position was kept; 0 for none.
        status: Whether it finished, in one sentence.
        cost: What it took.
        notes: Things to know, as sentences.
    """

    losses: Tensor
    energies: Tensor
    acceptance: Tensor
    total_energies: Tensor
    positions: Tensor | None
    observed: dict[str, Tensor]
    burn_in_losses: Tensor
    mean_by_chain: Tensor
    squares_by_chain: Tensor
    step_size: Tensor
    stopped_at: Tensor
    diverged: Tensor
    kernel: str
    settings: Mapping[str, Any]
    thin: int
    keep_every: int
    status: Status
    cost: Cost
    notes: tuple[str, ...] = ()
    _continue: Callable[..., Draws] | None = field(default=None, repr=False)
    _state: Callable[[], dict[str, Any]] | dict[str, Any] | None = field(default=None, repr=False)

    # ------------------------------------------------------------------ shapes

    @property
    def num_chains(self) -> int:
        """Number of chains, those that stopped included."""
        return len(self.stopped_at)

    @property
    def num_draws(self) -> int:
        """Draws per chain."""
        return self.losses.shape[1]

    @property
    def num_params(self) -> int:
        """Number of parameters."""
        return self.mean_by_chain.shape[1]

    @property
    def alive(self) -> Tensor:
        """Chains that never stopped, shape (chains,)."""
        return self.stopped_at < 0

    @property
    def num_alive(self) -> int:
        """How many of them there are."""
        return int(self.alive.sum())

    @property
    def good_positions(self) -> Tensor:
        """Kept positions of the chains that never stopped, shape (alive, kept, params).

        Raises:
            InputError: No positions were kept.
        """
        if self.positions is None:
            raise InputError(
                "No positions were kept (keep='statistics'); sample with keep='whole' or keep=k for every k-th draw."
            )
        return self.positions if bool(self.alive.all()) else self.positions[self.alive]

    @property
    def good_losses(self) -> Tensor:
        """Loss trace of the chains that never stopped, shape (alive, draws)."""
        return self.losses[self.alive]

    # ------------------------------------------------------------------ summaries

    def mean(self) -> Tensor:
        """Mean position over all draws of the chains that never stopped, shape (params,)."""
        return self.mean_by_chain[self.alive].mean(0)

    def variance(self) -> Tensor:
        """Variance of every parameter over the draws of all chains together, shape (params,)."""
        means = self.mean_by_chain[self.alive]
        between = (means - means.mean(0)).square().sum(0) * self.num_draws
        total = self.squares_by_chain[self.alive].sum(0) + between
        return total / max(self.num_alive * self.num_draws - 1, 1)

    def rhat(self, of: str = "positions") -> Tensor:
        """Rank-normalised split R-hat of every parameter, of the ``"losses"``, or of what was observed by that name.

        Where only statistics were kept, the plain R-hat of the parameters: neither ranks nor halves can be had.
        """
        if of == "positions" and self.positions is None:
            within = self.squares_by_chain[self.alive].mean(0) / max(self.num_draws - 1, 1)
            between = self.mean_by_chain[self.alive].var(0)
            return ((between / within) + (self.num_draws - 1) / self.num_draws).sqrt()
        return diagnostics.rhat(self._quantity(of))

    def ess(self, of: str = "positions", kind: EssKind = "bulk") -> Tensor:
        """Effective sample size; see `diagnostics.ess`."""
        return diagnostics.ess(self._quantity(of), kind)

    def mcse(self, of: str = "positions", kind: McseKind = "mean") -> Tensor:
        """Standard error of a mean (or sd, or median); see `diagnostics.mcse`."""
        return diagnostics.mcse(self._quantity(of), kind)

    def bfmi(self) -> Tensor:
        """Energy diagnostic of each chain that never stopped; see `diagnostics.bfmi`."""
        if not bool(torch.isfinite(self.total_energies[self.alive]).all()):
            raise InputError(f"{self.kernel} has no kinetic energy that is drawn anew; BFMI needs hmc.")
        return diagnostics.bfmi(self.total_energies[self.alive])

    def _quantity(self, of: str) -> Tensor:
        if of == "positions":
            return self.good_positions
        if of in ("losses", "energies"):
            return getattr(self, of)[self.alive]
        if of in self.observed:
            return self.observed[of][self.alive]
        known = ("positions", "losses", "energies", *self.observed)
        raise InputError(f"of is {of!r}; allowed: {', '.join(map(repr, known))}.")

    def __str__(self) -> str:
        lines = [
            f"{self.num_chains} chains x {self.num_draws} draws of {self.num_params:,} parameters by {self.kernel}, "
            f"step size {format_number(float(self.step_size.median()))}."
        ]
        if self.num_draws and bool(torch.isfinite(self.acceptance[self.alive]).any()):
            mean = float(self.acceptance[self.alive].nanmean())
            lines[0] = f"{lines[0][:-1]}, acceptance {format_number(mean)}."
        if self.num_alive >= 2 and self.num_draws >= 4:
            losses = self.good_losses
            rhat, ess = float(diagnostics.rhat(losses)), float(diagnostics.ess(losses))
            lines.append(f"Loss: R-hat {format_number(rhat, 4)}, {format_number(ess)} effective draws.")
        lines += [str(self.status), *self.notes]
        return "\n".join(lines)

    # ------------------------------------------------------------------ more of them

    def extend(self, draws: int, **options: Any) -> Draws:
        """As many more draws: the result is bit for bit that of one longer run. This object stays as it is.

        Args:
            draws: Draws to add.
            **options: ``budget`` and ``progress``, as for `sample`; ``potential`` for draws that were loaded.

        Raises:
            InputError: The draws were loaded and no potential was passed.
        """
        if self._continue is None:
            raise InputError(
                "These draws were loaded without what they were drawn from; load them with "
                "Draws.load(path, objective)."
            )
        return self._continue(self, draws, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file, the state of the sampler included, so that it can go on after loading."""
        state = self._state() if callable(self._state) else self._state
        plain = {name: getattr(self, name) for name in _SAVED}
        plain |= {
            "format": _FORMAT,
            "settings": jsonable(self.settings),
            "status": (self.status.state.value, self.status.sentence),
            "cost": vars(self.cost),
            "notes": list(self.notes),
            "state": state,
        }
        target = Path(path)
        temporary = target.with_name(target.name + ".part")
        torch.save(plain, temporary)
        os.replace(temporary, target)

    @staticmethod
    def load(path: str | os.PathLike[str], objective: Any = None) -> Draws:
        """Draws that were saved; with the objective (or potential) they came from they can be extended.

        Raises:
            InputError: The file is of another format.
        """
        plain = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(plain, dict) or plain.get("format") != _FORMAT:
            raise InputError(f"{path} holds no draws of format {_FORMAT}; it was not written by Draws.save.")
        state, sentence = plain["status"]
        draws = Draws(
            **{name: plain[name] for name in _SAVED},
            settings=plain["settings"],
            status=Status(State(state), sentence),
            cost=Cost(**plain["cost"]),
            notes=tuple(plain["notes"]),
            _state=plain["state"],
        )
        if objective is not None:
            from geartrain.sampling.sample import reattached

            return reattached(draws, objective)
        return draws

    # ------------------------------------------------------------------ for other tools

    def to_xarray(self) -> xarray.Dataset:
        """A dataset with axes chain, draw and param; chains that stopped are included (they hold NaN)."""
        import xarray

        arrays: dict[str, Any] = {
            name: (("chain", "draw"), getattr(self, name).cpu().numpy()) for name in _TRACES
        }
        for name, value in self.observed.items():
            extra = tuple(f"{name}_dim_{i}" for i in range(value.ndim - 2))
            arrays[name] = (("chain", "draw", *extra), value.cpu().numpy())
        if self.positions is not None:
            kept = "draw" if self.keep_every == 1 else "kept_draw"
            arrays["positions"] = (("chain", kept, "param"), self.positions.cpu().numpy())
        arrays["stopped_at"] = (("chain",), self.stopped_at.cpu().numpy())
        arrays["step_size"] = (("chain",), self.step_size.cpu().numpy())
        attributes = {"kernel": self.kernel, "status": str(self.status), "thin": self.thin}
        return xarray.Dataset(arrays, attrs=attributes | {"settings": str(jsonable(self.settings))})

    def to_arviz(self) -> Any:
        """The chains that never stopped, as arviz wants them (needs arviz-base, or arviz).

        Raises:
            InputError: Neither is installed.
        """
        names = {"losses": "lp_loss", "energies": "energy", "acceptance": "acceptance_rate"}
        every = max(self.keep_every, 1)
        statistics = {
            new: getattr(self, old)[self.alive][:, every - 1 :: every].cpu().numpy()
            for old, new in names.items()
        }
        kept = {} if self.positions is None else {"positions": self.good_positions.cpu().numpy()}
        seen = {n: v[self.alive][:, every - 1 :: every].cpu().numpy() for n, v in self.observed.items()}
        groups = {"posterior": kept | seen, "sample_stats": statistics}
        try:
            from arviz_base import from_dict  # type: ignore[import-not-found]
        except ImportError:
            try:
                import arviz  # type: ignore[import-not-found]
            except ImportError as error:
                raise InputError(
                    "to_arviz needs arviz; install it with: pip install arviz-base. to_xarray works without."
                ) from error
            return arviz.from_dict(**groups)
        return from_dict(groups)


_SAVED = (
    *_TRACES,
    "positions",
    "observed",
    "burn_in_losses",
    "mean_by_chain",
    "squares_by_chain",
    "step_size",
    "stopped_at",
    "diverged",
    "kernel",
    "thin",
    "keep_every",
)
