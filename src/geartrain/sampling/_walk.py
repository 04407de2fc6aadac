"""All chains of a sampler on their way: steps, adaptation, and the end of chains that leave the finite numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geartrain.errors import NonFiniteError
from geartrain.sampling.adaptation import Adaptation, first_step_size, stiffness
from geartrain.sampling.kernels._base import Info, Kernel, State, Stream
from geartrain.sampling.potential import BasePotential


class Walk:
    """Chains that can be moved on, saved, and taken up again bit for bit.

    Args:
        potential: What they walk on.
        kernel: How.
        positions: Where they start, shape (chains, params).
        generator: All randomness; the walk's own from now on.
        burn_in: Steps during which step size and mass adapt.
        groups: Chains of one group share their step size; all one group if omitted.

    Attributes:
        state: Of the chains that run.
        running: Their numbers, or ``None`` while all do.
        stopped_at: Step after which a chain was no longer finite (0: at its start), -1 for those that run;
            shape (chains,).
        steps: Steps taken.
        gradients: Gradients taken per chain.
    """

    def __init__(
        self,
        potential: BasePotential,
        kernel: Kernel,
        positions: Tensor,
        generator: torch.Generator,
        burn_in: int,
        groups: Tensor | None = None,
    ) -> None:
        self.potential, self.kernel, self.burn_in = potential, kernel, burn_in
        self.chains = len(positions)
        self.stream = Stream(generator, self.chains, potential.num_params, potential.dtype, potential.device)
        self.groups = (
            torch.zeros(self.chains, dtype=torch.long, device=potential.device) if groups is None else groups
        )
        self.stopped_at = torch.full((self.chains,), -1, device=potential.device)
        self.running: Tensor | None = None
        self.steps = 0
        self.gradients = 1
        self._here = potential
        self.state = kernel.init(positions, potential, self.stream, self._given_steps())
        self._bury(self.state.finite)
        if self.running is not None and not len(self.running):
            raise NonFiniteError(
                "No chain can start: loss or gradient is NaN or infinite at every start. Start from other positions."
            )
        if isinstance(kernel.step_size, str):
            self._find_step_size()
        self.adaptation = self._adaptation()

    def _given_steps(self) -> Tensor:
        given = self.kernel.step_size
        sizes = torch.ones(self.chains, dtype=self.potential.dtype, device=self.potential.device)
        return sizes if isinstance(given, str) else sizes * torch.as_tensor(given).to(sizes)

    def _find_step_size(self) -> None:
        if self.kernel.adjusted:
            groups = self.groups if self.running is None else self.groups[self.running]
            # Empty groups would have no acceptance to go by; numbering stays, their size is never used.
            sizes = first_step_size(self.kernel, self.state, self._here, self.stream, groups)
        else:
            curvature, noise = stiffness(self._here, self.state.positions[0], self.stream)
            sizes = self.kernel.stable_step(curvature, noise).expand(len(self.state.positions)).clone()
        self.state.step_size = sizes.to(self.potential.dtype)
        if not self.kernel.adjusted:  # velocities are in units of the step
            self.state.own = self.kernel.start(self.state, self.stream)

    def _adaptation(self) -> Adaptation | None:
        if not self.kernel.adjusted or not self.burn_in:
            return None
        return Adaptation(self.kernel, self.groups, self.full(self.state.step_size, 1.0), self.burn_in)

    @property
    def burning(self) -> bool:
        """Whether burn-in still goes on."""
        return self.steps < self.burn_in

    @property
    def alive(self) -> Tensor:
        """Which chains run, shape (chains,)."""
        return self.stopped_at < 0

    def step(self) -> Info:
        """Move every chain that runs by one step."""
        self.state, info = self.kernel.step(self.state, self._here, self.stream)
        self.steps += 1
        self.gradients += info.gradients
        if self.adaptation is not None and self.steps <= self.burn_in:
            self.state = self.adaptation.update(self.state, info, self.running, self.steps)
        if self.steps == self.burn_in:
            if self.adaptation is not None:
                self.state = self.adaptation.finish(self.state, self.running)
            self.state = self.kernel.warmed_up(self.state)
        if not self.kernel.adjusted:  # the others never accept what is not finite
            good = self.state.finite
            if not bool(good.all()):
                self._bury(good)
        return info

    def _bury(self, good: Tensor) -> None:
        if bool(good.all()):
            return
        everyone = torch.arange(self.chains, device=good.device) if self.running is None else self.running
        self.stopped_at[everyone[~good]] = self.steps
        self.running = everyone[good]
        self.stream.running = self.running
        self.state = self.state.take(good.nonzero()[:, 0])
        self._here = self.potential.for_chains(self.running)

    def full(self, values: Tensor, fill: float = float("nan")) -> Tensor:
        """Values of the chains that run among all chains, shape (chains, ...)."""
        if self.running is None:
            return values
        whole = values.new_full((self.chains, *values.shape[1:]), fill)
        whole[self.running] = values
        return whole

    def refresh(self, potential: BasePotential) -> None:
        """Go on with another potential (other temperatures); one gradient."""
        self.potential = potential
        self._here = potential if self.running is None else potential.for_chains(self.running)
        state = self.state
        energies, gradient, losses = self._here.energy_and_gradient(
            state.positions, self.stream.rows(self._here)
        )
        self.gradients += 1
        self.state = State(
            state.positions, energies, losses, gradient, state.step_size, state.own, state.shared
        )

    # ------------------------------------------------------------------ saved and taken up again

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to go on, as plain tensors and numbers."""
        s = self.state
        return {
            "positions": s.positions, "energies": s.energies, "losses": s.losses, "gradient": s.gradient,
            "step_size": s.step_size, "own": dict(s.own), "shared": dict(s.shared),
            "running": self.running, "stopped_at": self.stopped_at, "groups": self.groups,
            "steps": self.steps, "gradients": self.gradients, "burn_in": self.burn_in,
            "generator": self.stream.generator.get_state(), "adaptation": _plain(self.adaptation),
        }  # fmt: skip

    @classmethod
    def restored(cls, saved: dict[str, Any], potential: BasePotential, kernel: Kernel) -> Walk:
        """A walk that goes on where the saved one stood."""
        walk = cls.__new__(cls)
        device = potential.device
        walk.potential, walk.kernel, walk.burn_in = potential, kernel, saved["burn_in"]
        walk.stopped_at, walk.running = saved["stopped_at"].to(device), saved["running"]
        walk.groups, walk.chains = saved["groups"].to(device), len(saved["groups"])
        walk.steps, walk.gradients = saved["steps"], saved["gradients"]
        generator = torch.Generator(device)
        generator.set_state(saved["generator"].cpu())
        walk.stream = Stream(generator, walk.chains, potential.num_params, potential.dtype, device)
        walk.stream.running = walk.running
        walk._here = potential if walk.running is None else potential.for_chains(walk.running)
        names = ("positions", "energies", "losses", "gradient", "step_size")
        parts = [saved[name].to(device) for name in names]
        own, shared = ({n: t.to(device) for n, t in saved[k].items()} for k in ("own", "shared"))
        walk.state = State(*parts, own=own, shared=shared)
        walk.adaptation = walk._adaptation()
        if walk.adaptation is not None and saved["adaptation"] is not None:
            vars(walk.adaptation.averaging).update(saved["adaptation"]["averaging"])
            if walk.adaptation.spread is not None:
                vars(walk.adaptation.spread).update(saved["adaptation"]["spread"])
        return walk


def _plain(adaptation: Adaptation | None) -> dict[str, Any] | None:
    if adaptation is None:
        return None
    spread = adaptation.spread
    return {
        "averaging": dict(vars(adaptation.averaging)),
        "spread": {} if spread is None else dict(vars(spread)),
    }
