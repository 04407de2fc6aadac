"""`sample`: draws from a posterior by any kernel, many chains at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from geartrain.budget import Budget, Clock
from geartrain.ensemble.plan import format_bytes, limit_of
from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Cost, State, Status, format_number
from geartrain.sampling import kernels
from geartrain.sampling._interrupt import deferred
from geartrain.sampling._progress import Listener, Reporter
from geartrain.sampling._recorder import Observer, Recorder
from geartrain.sampling._walk import Walk
from geartrain.sampling.draws import Draws
from geartrain.sampling.kernels._base import Kernel
from geartrain.sampling.potential import BasePotential, PerChain, Potential

Start = str | Tensor
Keep = str | int


def sample(
    objective: Objective | BasePotential,
    kernel: str | Kernel = "hmc",
    *,
    chains: int = 8,
    draws: int = 500,
    burn_in: int | None = None,
    thin: int = 1,
    step_size: float | Tensor | str | None = None,
    n_beta: PerChain | None = None,
    localisation: float | None = None,
    prior_precision: float | None = None,
    batch_size: int | None = None,
    start: Start = "point",
    keep: Keep = "whole",
    observe: Mapping[str, Observer] | None = None,
    budget: Budget | int | str | None = None,
    generator: torch.Generator | int | None = None,
    progress: Listener | bool | None = None,
    engine: str = "auto",
    **options: Any,
) -> Draws:
    """Draw from exp(-U), U(w) = nβ·L(w) + γ/2·|w - w₀|² + λ/2·|w|², with many chains at once.

    **Cost** chains x (burn_in + draws x thin) gradients on a minibatch, times the leapfrog steps for ``"hmc"``; see
    `price`. Memory: chains x draws x params numbers with ``keep="whole"``.

    **Misleads** where chains have not mixed: look at ``rhat()`` and ``ess()``, in function space rather than of the
    weights. Kernels that do not accept or reject (all but ``"mala"`` and ``"hmc"``) widen the distribution by their
    step and by minibatch noise. Without prior and localisation, directions that do not change the loss have no
    posterior at all, and chains diffuse along them for ever.

    A chain that becomes non-finite stops, is marked in ``stopped_at``, and no summary uses it. Ctrl-C returns what
    there is.

    Args:
        objective: Model, loss and data; or a potential (the settings below then change it where given).
        kernel: ``"hmc"``, ``"mala"``, ``"sgld"``, ``"rmsprop_sgld"``, ``"sghmc"``, ``"sgnht"``, or a `Kernel`.
        chains: Number of chains.
        draws: Draws per chain.
        burn_in: Steps before the first draw, during which step sizes adapt; half of ``draws`` if omitted.
        thin: Steps per draw.
        step_size: Of the kernel, in its own convention; ``"auto"`` if omitted.
        n_beta: Number of examples times inverse temperature; the number of examples if omitted.
        localisation: γ; 0 if omitted.
        prior_precision: λ; 0 if omitted.
        batch_size: Examples per gradient, drawn afresh for every chain and step, with replacement; all if omitted.
        start: ``"point"`` (all chains at the present parameters), ``"prior"`` (drawn from prior and localisation),
            or positions, (params,) or (chains, params).
        keep: ``"whole"``, ``k`` to keep the position of every k-th draw, or ``"statistics"`` for means and
            variances only. Losses are always kept.
        observe: Functions of positions (chains, params) -> (chains, ...), recorded at every draw under their names.
        budget: Seconds (``"60s"``) or gradients over all data; what is there when it ends is returned.
        generator: A generator or a seed. Same seed, same bits; the same seed at two models gives common random numbers.
        progress: ``True`` for a line on standard error with acceptance and R-hat, or a function of a `Progress`.
        engine: See `Potential`.
        **options: Of the kernel, for example ``steps=32`` for HMC.

    Returns:
        The draws, with everything needed to extend them.

    Raises:
        InputError: A setting that cannot be.
        NonFiniteError: The loss or its gradient is not finite at any start.

    Example:
        A standard normal distribution in two dimensions:

        >>> from geartrain.sampling import FunctionPotential
        >>> bowl = FunctionPotential(lambda w: 0.5 * (w**2).sum(1), 2)
        >>> draws = sample(bowl, "hmc", chains=4, draws=200, step_size=0.5, steps=5, start=torch.zeros(2))
        >>> bool((draws.variance() - 1).abs().max() < 0.3), draws.num_alive
        (True, 4)

    References:
        Neal (2011) for HMC; Welling & Teh (2011) for SGLD; Lau et al. (2023), arXiv:2308.12108, for localised sampling.
    """
    clock = Budget.of(budget).start()
    _check_count("chains", chains, 1)
    _check_count("draws", draws, 1)
    _check_count("thin", thin, 1)
    burn_in = draws // 2 if burn_in is None else burn_in
    _check_count("burn_in", burn_in, 0)
    keep_every = _keep_every(keep)
    mover = kernels.make(kernel, step_size=step_size, **options)
    changes: dict[str, Any] = {
        "n_beta": n_beta, "localisation": localisation, "prior_precision": prior_precision, "batch_size": batch_size,
    }  # fmt: skip
    potential = _potential(objective, changes, engine)
    _check_memory(potential, chains, draws, keep_every)
    own = own_generator(generator, potential.device)
    begun = time.perf_counter()
    walk = Walk(potential, mover, start_positions(potential, start, chains, own), own, burn_in)
    return _Sampling(potential, mover, walk, thin, keep_every, dict(observe or {})).run(
        draws, None, clock, progress, time.perf_counter() - begun
    )


def price(
    objective: Objective | BasePotential,
    kernel: str | Kernel = "hmc",
    *,
    chains: int = 8,
    draws: int = 500,
    burn_in: int | None = None,
    thin: int = 1,
    batch_size: int | None = None,
    keep: Keep = "whole",
    engine: str = "auto",
    **options: Any,
) -> Cost:
    """What `sample` with these arguments will take: gradients over all data, seconds (timed on one), and memory.

    Returns:
        Its cost; gradients are summed over chains.
    """
    mover = kernels.make(kernel, **{k: v for k, v in options.items() if k not in _SETTINGS})
    changes = {"batch_size": batch_size, **{k: v for k, v in options.items() if k in _SETTINGS[:3]}}
    potential = _potential(objective, changes, engine)
    burn_in = draws // 2 if burn_in is None else burn_in
    each = (burn_in + draws * thin) * mover.gradients_per_step + 1
    generator = own_generator(0, potential.device)
    positions = potential.positions(None, chains)
    rows = potential.draw_rows(chains, generator)
    potential.loss_and_gradient(positions, rows)  # chooses the engine
    begun = time.perf_counter()
    potential.loss_and_gradient(positions, rows)
    seconds = time.perf_counter() - begun
    kept = draws // _keep_every(keep) if _keep_every(keep) else 0
    item = torch.finfo(potential.dtype).bits // 8
    return Cost(
        gradients=chains * each * _share(potential),
        seconds=seconds * each,
        peak_bytes=chains * potential.num_params * item * (kept + 8) + 5 * chains * draws * item,
    )


_SETTINGS = ("n_beta", "localisation", "prior_precision", "batch_size", "start", "generator", "observe")


class _Sampling:
    """A walk with the way it is recorded; what `Draws.extend` goes on with."""

    def __init__(
        self,
        potential: BasePotential,
        kernel: Kernel,
        walk: Walk,
        thin: int,
        keep_every: int,
        observers: Mapping[str, Observer],
    ) -> None:
        self.potential, self.kernel, self.walk = potential, kernel, walk
        self.thin, self.keep_every, self.observers = thin, keep_every, observers

    def run(
        self,
        draws: int,
        before: Draws | None,
        clock: Clock,
        progress: Listener | bool | None,
        spent: float = 0.0,
    ) -> Draws:
        """That many more draws, appended to those before."""
        begun, walk, first = time.perf_counter(), self.walk, self.walk.steps
        earlier = None
        if before is not None:
            earlier = (before.num_draws, before.mean_by_chain, before.squares_by_chain)
        recorder = Recorder(walk, draws, self.keep_every, self.observers, earlier)
        done = before.num_draws if before is not None else 0
        last = walk.burn_in + (done + draws) * self.thin
        reporter, burnt = Reporter(progress), []
        status = Status(State.ESTIMATE, f"all {done + draws} draws were made.")
        share = walk.chains * _share(self.potential)
        with deferred() as interrupt:
            try:
                while walk.steps < last:
                    if clock.exhausted(int(walk.gradients * share)):
                        status = Status(
                            State.OUT_OF_BUDGET, self._cut("the budget ended", recorder, done, draws)
                        )
                        break
                    if interrupt.pressed:
                        status = Status(State.INTERRUPTED, self._cut("interrupted", recorder, done, draws))
                        break
                    if walk.running is not None and not len(walk.running):
                        status = Status(State.NON_FINITE, self._all_stopped())
                        break
                    self._step(recorder, burnt)
                    alive, at = walk.alive, recorder.count
                    reporter.tell(
                        walk.steps, last, first, at,
                        recorder.traces["losses"][:, :at], recorder.traces["acceptance"][:, :at], alive,
                    )  # fmt: skip
            except KeyboardInterrupt:  # raised by a listener, or pressed twice
                status = Status(State.INTERRUPTED, self._cut("interrupted", recorder, done, draws))
        reporter.close()
        cost = Cost(gradients=walk.gradients * share, seconds=spent + time.perf_counter() - begun)
        if before is not None:
            cost = Cost(gradients=cost.gradients, seconds=cost.seconds + before.cost.seconds)
        return self._draws(recorder, before, burnt, status, cost)

    def _step(self, recorder: Recorder, burnt: list[Tensor]) -> None:
        walk = self.walk
        info = walk.step()
        recorder.saw(info)
        if walk.steps <= walk.burn_in:
            burnt.append(walk.full(walk.state.losses).clone())
            if walk.steps == walk.burn_in:
                recorder.forget_burn_in()
        elif (walk.steps - walk.burn_in) % self.thin == 0:
            recorder.draw(info)

    def _cut(self, why: str, recorder: Recorder, done: int, draws: int) -> str:
        where = f"after {done + recorder.count} of {done + draws} draws"
        if self.walk.burning:
            where = f"in burn-in, after {self.walk.steps} of {self.walk.burn_in} steps"
        return f"{why} {where}; extend() goes on from here."

    def _all_stopped(self) -> str:
        smaller = format_number(float(self.walk.full(self.walk.state.step_size, 1.0).max()))
        given = self.kernel.step_size if not isinstance(self.kernel.step_size, str) else smaller
        return f"every chain became NaN or infinite; a step size below {given} may be needed."

    def _draws(
        self, recorder: Recorder, before: Draws | None, burnt: list[Tensor], status: Status, cost: Cost
    ) -> Draws:
        walk = self.walk
        made = recorder.done()
        burn = torch.stack(burnt, 1) if burnt else recorder.traces["losses"].new_zeros(walk.chains, 0)
        diverged = recorder.diverged
        if before is not None:
            for name in ("losses", "energies", "acceptance", "total_energies", "positions"):
                if made[name] is not None:
                    made[name] = torch.cat([getattr(before, name).to(made[name].device), made[name]], 1)
            for name, value in before.observed.items():
                new = made["observed"].get(name)
                made["observed"][name] = value if new is None else torch.cat([value.to(new.device), new], 1)
            burn = torch.cat([before.burn_in_losses.to(burn.device), burn], 1)
            diverged = diverged + before.diverged.to(diverged.device)
        mean, squares = recorder.mean, recorder.squares
        if self.keep_every == 1 and made["positions"].shape[1]:
            mean = made["positions"].mean(1)
            squares = (made["positions"] - mean[:, None]).square_().sum(1)
        return Draws(
            **made,
            burn_in_losses=burn,
            mean_by_chain=mean,
            squares_by_chain=squares,
            step_size=walk.full(walk.state.step_size).clone(),
            stopped_at=walk.stopped_at.clone(),
            diverged=diverged,
            kernel=self.kernel.name,
            settings=self._settings(),
            thin=self.thin,
            keep_every=self.keep_every,
            status=status,
            cost=cost,
            notes=self._notes(diverged),
            _continue=self._again,
            _state=self._saved,
        )

    def _settings(self) -> dict[str, Any]:
        p = self.potential
        beta = p.n_beta.tolist() if isinstance(p.n_beta, Tensor) else p.n_beta
        options = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in self.kernel.options.items()}
        return {
            "kernel": options, "n_beta": beta, "localisation": p.localisation,
            "prior_precision": p.prior_precision, "batch_size": p.batch_size, "num_examples": p.num_examples,
        }  # fmt: skip

    def _notes(self, diverged: Tensor) -> tuple[str, ...]:
        p, walk, notes = self.potential, self.walk, []
        stopped = (~walk.alive).nonzero()[:, 0].tolist()
        if stopped:
            told = ", ".join(f"{c} (step {int(walk.stopped_at[c])})" for c in stopped[:8])
            more = "" if len(stopped) <= 8 else f" and {len(stopped) - 8} more"
            notes.append(
                f"{len(stopped)} of {walk.chains} chains became NaN or infinite and were stopped: {told}{more}. "
                "No summary uses them; the step size is too large for where they went."
            )
        if bool(diverged.any()):
            notes.append(
                f"{int(diverged.sum())} transitions went astray by more than 1,000 in energy and were rejected."
            )
        if isinstance(p, Potential) and not p.localisation and not p.prior_precision:
            notes.append(
                "Neither prior nor localisation: along directions that leave the loss alone chains diffuse."
            )
        return (*notes, *p.notes)

    def _saved(self) -> dict[str, Any]:
        p = self.potential
        return {
            "walk": self.walk.state_dict(),
            "kernel": self.kernel.name,
            "options": self.kernel.options,
            "potential": {
                "n_beta": p.n_beta, "localisation": p.localisation, "prior_precision": p.prior_precision,
                "centre": p.centre, "batch_size": p.batch_size,
            },
        }  # fmt: skip

    def _again(
        self,
        before: Draws,
        draws: int,
        *,
        budget: Budget | int | str | None = None,
        progress: Listener | bool | None = None,
    ) -> Draws:
        _check_count("draws", draws, 1)
        clock = Budget.of(budget).start()
        walk = Walk.restored(_cloned(self.walk.state_dict()), self.potential, self.kernel)
        twin = _Sampling(self.potential, self.kernel, walk, self.thin, self.keep_every, self.observers)
        return twin.run(draws, before, clock, progress)


def reattached(draws: Draws, objective: Objective | BasePotential) -> Draws:
    """Draws that were loaded, made able to go on; observers are not saved and have to be done without."""
    saved = draws._state
    if not isinstance(saved, dict):
        raise InputError("These draws carry no state of a sampler; they cannot be extended.")
    settings = saved["potential"]
    kernel = kernels.make(saved["kernel"], **saved["options"])
    if isinstance(objective, BasePotential):
        potential = objective.changed(**settings)
    else:
        potential = Potential(objective, **settings)
    walk = Walk.restored(saved["walk"], potential, kernel)
    sampling = _Sampling(potential, kernel, walk, draws.thin, draws.keep_every, {})
    draws._continue, draws._state = sampling._again, sampling._saved
    return draws


def start_positions(
    potential: BasePotential, start: Start, chains: int, generator: torch.Generator
) -> Tensor:
    """Where the chains begin, shape (chains, params).

    Raises:
        InputError: An unknown word, a wrong shape, or no prior to draw from.
    """
    if isinstance(start, Tensor):
        return potential.positions(start, chains)
    if start == "point":
        return potential.positions(None, chains)
    if start != "prior":
        raise InputError(f"start is {start!r}; allowed: 'point', 'prior', or a tensor of positions.")
    precision = potential.prior_precision + potential.localisation
    if not precision:
        raise InputError(
            "start='prior' needs something to draw from; pass prior_precision= or localisation= above 0."
        )
    shape = (chains, potential.num_params)
    noise = torch.randn(shape, generator=generator, dtype=potential.dtype, device=generator.device)
    middle = potential.centre * (potential.localisation / precision)
    return middle + noise.to(potential.device) * precision**-0.5


def own_generator(generator: torch.Generator | int | None, device: torch.device) -> torch.Generator:
    """A generator of the sampler's own on the device, seeded by the user's (or by a number; 0 if omitted)."""
    if isinstance(generator, torch.Generator):
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    elif generator is None or (isinstance(generator, int) and not isinstance(generator, bool)):
        seed = generator or 0
    else:
        raise InputError(f"generator is {generator!r}; it must be a torch.Generator, a seed, or None.")
    return torch.Generator(device).manual_seed(seed)


def _potential(
    objective: Objective | BasePotential, changes: Mapping[str, Any], engine: str
) -> BasePotential:
    given = {name: value for name, value in changes.items() if value is not None}
    if isinstance(objective, BasePotential):
        return objective.changed(**given) if given else objective
    if isinstance(objective, Objective):
        return Potential(objective, **given, engine=engine)
    raise InputError(f"objective is a {type(objective).__name__}; it must be an Objective or a potential.")


def _keep_every(keep: Keep) -> int:
    if keep == "whole":
        return 1
    if keep == "statistics":
        return 0
    if isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1:
        return keep
    raise InputError(
        f"keep is {keep!r}; allowed: 'whole', 'statistics', or a number k to keep every k-th draw."
    )


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is {value!r}; it must be a whole number, at least {least}.")


def _check_memory(potential: BasePotential, chains: int, draws: int, keep_every: int) -> None:
    if not keep_every:
        return
    item = torch.finfo(potential.dtype).bits // 8
    needed = chains * (draws // keep_every) * potential.num_params * item
    allowed = limit_of(None, potential.device)
    if needed > allowed:
        raise InputError(
            f"Keeping {chains} x {draws // keep_every} positions of {potential.num_params:,} parameters takes "
            f"{format_bytes(needed)}, and {format_bytes(allowed)} are free. Pass keep='statistics', or keep=k to keep "
            "every k-th draw."
        )


def _share(potential: BasePotential) -> float:
    return 1.0 if potential.batch_size is None else potential.batch_size / potential.num_examples


def _cloned(thing: Any) -> Any:
    if isinstance(thing, Tensor):
        return thing.clone()
    if isinstance(thing, dict):
        return {key: _cloned(value) for key, value in thing.items()}
    return thing
