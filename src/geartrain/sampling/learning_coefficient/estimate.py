"""From a potential and settings to a learning coefficient."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from geartrain.budget import Budget, Clock
from geartrain.errors import NonFiniteError
from geartrain.records import Cost, State, Status, format_number
from geartrain.sampling import kernels
from geartrain.sampling._progress import Listener
from geartrain.sampling.draws import Draws
from geartrain.sampling.kernels._base import Stream
from geartrain.sampling.learning_coefficient import curvature, health, step
from geartrain.sampling.learning_coefficient.baseline import Excess
from geartrain.sampling.learning_coefficient.curvature import Local
from geartrain.sampling.learning_coefficient.error import MeanError, mean_of
from geartrain.sampling.learning_coefficient.result import LearningCoefficient
from geartrain.sampling.learning_coefficient.settings import Settings
from geartrain.sampling.potential import BasePotential, Potential
from geartrain.sampling.sample import own_generator, sample

NAME = "learning_coefficient"
_FEWEST_DRAWS = 4
_ATTEMPTS = 3
_CUT = (State.OUT_OF_BUDGET, State.INTERRUPTED)


def estimate(
    potential: BasePotential,
    settings: Settings,
    *,
    setting: str,
    clock: Clock,
    seed: int,
    progress: Listener | bool | None = None,
) -> LearningCoefficient:
    """The learning coefficient at the centre of a potential."""
    begun, charged = time.perf_counter(), _charged(potential)
    if clock.exhausted():
        return _nothing(State.OUT_OF_BUDGET, "The budget allows no step.", setting)
    own = own_generator(seed, potential.device)
    chains_seed = int(torch.randint(2**62, (), generator=own, device=own.device))
    excess = Excess(potential, settings.baseline)  # type: ignore[arg-type]
    if not math.isfinite(excess.start_loss):
        _refuse(potential)
    stream = Stream(own, settings.chains, potential.num_params, potential.dtype, potential.device)
    local = curvature.look(potential, potential.centre, stream)
    made = _walked(excess, settings, local, clock, stream, chains_seed, progress)
    if isinstance(made, State):
        result = _nothing(made, "The budget ended while the step size was being found.", setting)
    else:
        result = _judged(excess, settings, local, *made, setting)
    spent = _charged(potential) - charged
    return dataclasses.replace(result, cost=dataclasses.replace(spent, seconds=time.perf_counter() - begun))


def _walked(
    excess: Excess,
    settings: Settings,
    local: Local,
    clock: Clock,
    stream: Stream,
    seed: int,
    progress: Listener | bool | None,
) -> tuple[Draws, float] | State:
    """The draws, and the stiffness met while the step size was found."""
    size, start, met = settings.step_size, excess.positions(None, settings.chains), 0.0
    pilot_spent = 0.0
    kernel = kernels.get(settings.kernel)
    if size == "auto" and settings.kernel == "sgld":
        found = step.find(excess, local, settings.chains, settings.bias, stream, clock.deadline)
        if found.stopped is not None:
            return found.stopped
        size, start, met, pilot_spent = found.size, found.positions, found.stiffness, found.gradients
    elif size == "auto" and not settings.adjusted:
        top = torch.tensor([max(local.top, excess.localisation, 1e-12), local.noise])
        size = float(kernels.make(kernel(**settings.options)).stable_step(top[0], top[1]))
    observe: dict[str, Callable[[Tensor], Tensor]] = {
        "distance": lambda positions: (positions - excess.centre).square().sum(1)
    }
    if settings.kernel == "sgld":
        observe["virial"] = excess.last_virial
    tries = 1 if settings.adjusted or settings.step_size != "auto" else _ATTEMPTS
    while True:
        products = None if clock.products is None else max(0, clock.products - int(pilot_spent))
        draws = sample(
            excess, settings.kernel, chains=settings.chains, draws=settings.draws, burn_in=settings.burn_in,
            thin=settings.thin, step_size=size, start=start, keep="statistics", observe=observe,
            budget=Budget(products=products, deadline=clock.deadline), generator=seed, progress=progress,
            **settings.options,
        )  # fmt: skip
        tries -= 1
        if not tries or draws.num_alive == draws.num_chains:
            break
        # The step was ours to choose and was too large: all chains anew, lest only the lucky ones count.
        size, start = float(size) / 4, excess.positions(None, settings.chains)
        pilot_spent += draws.cost.gradients
    return draws, met


def _judged(
    excess: Excess, settings: Settings, local: Local, draws: Draws, met: float, setting: str
) -> LearningCoefficient:
    cut = draws.status.state if draws.status.state in _CUT else None
    if not draws.num_alive:
        size = float(torch.as_tensor(draws.settings["kernel"]["step_size"]).max())
        sentence = (
            f"All {draws.num_chains} chains became NaN or infinite and were stopped: step size {format_number(size)} "
            "is too large. Pass step_size='auto'."
        )
        return _nothing(State.NON_FINITE, sentence, setting)
    if draws.num_draws < _FEWEST_DRAWS:
        return _nothing(cut or State.OUT_OF_BUDGET, f"Too few draws: {draws.status.sentence}", setting)
    beta = excess.n_beta_mean
    values = draws.good_losses.double() * beta
    distances = draws.observed["distance"][draws.alive].double()
    mean = mean_of(values)
    langevin = not settings.adjusted
    size = float(draws.step_size[draws.alive].mean())
    bias = 0.0 if settings.adjusted else math.nan
    if settings.kernel == "sgld":
        bias = step.langevin_bias(size, float(draws.observed["virial"][draws.alive].double().nanmean()))
    report, cautions = health.examine(
        health.Seen(
            values=values,
            distances=distances,
            mean=mean,
            localisation=excess.localisation,
            n_beta=beta,
            minibatches=excess.batch_size is not None,
            langevin=langevin,
            step_size=size,
            acceptance=float(draws.acceptance[draws.alive].nanmean()) if settings.adjusted else math.nan,
            burn_in=settings.burn_in,
            excluded=draws.num_chains - draws.num_alive,
            bias=bias,
            local=local,
            tuned_stiffness=met,
        )
    )
    half = mean.half_width()
    return LearningCoefficient(
        NAME,
        mean.value,
        "1",
        _status(draws, mean, cautions, cut),
        standard_error=mean.error,
        details={
            "interval": (mean.value - half, mean.value + half),
            "confidence": 0.95,
            "degrees_of_freedom": mean.freedom,
            "predicted_bias": bias,
            "n_beta": beta,
            "localisation": excess.localisation,
            "start_loss": excess.start_loss,
            "kernel": settings.kernel,
            "step_size": size,
            "batch_size": excess.batch_size,
            "baseline": settings.baseline if excess.batch_size is not None else "full",
            "setting": setting,
            "health": report,
            "warnings": cautions,
            "by_chain": mean.by_chain,
            "num_params": excess.num_params,
            "num_examples": excess.num_examples,
            "stopped_at": {c: int(draws.stopped_at[c]) for c in (~draws.alive).nonzero()[:, 0].tolist()},
            "trace": values.cpu().numpy(),
            "burn_in_trace": (draws.burn_in_losses[draws.alive].double() * beta).cpu().numpy(),
            "distance_trace": distances.sqrt().cpu().numpy(),
            "notes": draws.notes,
        },
    )


def _status(draws: Draws, mean: MeanError, cautions: tuple[health.Caution, ...], cut: State | None) -> Status:
    told = f"{draws.num_alive} chains x {draws.num_draws} draws, {format_number(mean.ess)} of them effective"
    if cut is not None:
        return Status(cut, f"Cut short: {told}.")
    if cautions:
        names = ", ".join(caution.name for caution in cautions)
        unfinished = {"drifting", "not_mixed"} & {caution.name for caution in cautions}
        state = State.NOT_CONVERGED if unfinished else State.ESTIMATE
        return Status(state, f"{told}; warnings: {names}. {cautions[0]}")
    return Status(State.ESTIMATE, f"{told}; no warning.")


def _nothing(state: State, sentence: str, setting: str) -> LearningCoefficient:
    nan = math.nan
    details: dict[str, Any] = {
        "interval": (nan, nan),
        "predicted_bias": nan,
        "warnings": (),
        "setting": setting,
    }
    if state is State.NON_FINITE:
        details["warnings"] = (health.Caution("diverged_chains", sentence),)
    return LearningCoefficient(NAME, nan, "1", Status(state, sentence), standard_error=nan, details=details)


def _refuse(potential: BasePotential) -> None:
    if isinstance(potential, Potential):
        potential.objective.value(potential.centre)  # names the module that is to blame
    raise NonFiniteError("The loss at the point is NaN or infinite: there is nothing to sample around.")


def _charged(potential: BasePotential) -> Cost:
    return potential.objective.work if isinstance(potential, Potential) else Cost()
