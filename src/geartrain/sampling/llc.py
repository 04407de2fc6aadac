"""`gt.llc`: the local learning coefficient of any model and loss, with an error that covers and named warnings."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from geartrain._torch.flat import ParameterFilter
from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Cost, format_number
from geartrain.sampling import kernels
from geartrain.sampling._progress import Listener
from geartrain.sampling.learning_coefficient import curvature, estimate, settings, temperatures, trajectory
from geartrain.sampling.learning_coefficient.result import LearningCoefficient
from geartrain.sampling.learning_coefficient.settings import Settings
from geartrain.sampling.learning_coefficient.temperatures import Temperatures
from geartrain.sampling.learning_coefficient.trajectory import Checkpoint, Trajectory
from geartrain.sampling.potential import BasePotential, Potential

LOCALISATION = 1.0


def llc(
    objective: Objective | BasePotential,
    *,
    chains: int | None = None,
    draws: int | None = None,
    burn_in: int | None = None,
    thin: int | None = None,
    kernel: str | None = None,
    step_size: float | str | None = None,
    n_beta: float | str | None = None,
    localisation: float | None = None,
    batch_size: int | None = None,
    baseline: str | None = None,
    bias: float | None = None,
    parameters: ParameterFilter | None = None,
    data: Any = None,
    kernel_options: dict[str, Any] | None = None,
    generator: torch.Generator | int | None = None,
    budget: Budget | int | str | None = None,
    progress: Listener | bool | None = None,
    **names: Any,
) -> LearningCoefficient:
    """Local learning coefficient: nβ (E[L(w)] - L(w*)), w drawn from exp(-nβ L(w) - γ/2 |w - w*|²) around w*.

    d/2 at a regular minimum of d parameters; less where the loss is degenerate: the number of parameters that count,
    halved. Chains start at the present parameters w*. Burn-in is left out; the baseline L(w*) is taken on the same
    examples as L(w). The error comes from the chains' means and the effective draws, the interval from Student's t.

    **Cost** chains x (burn_in + draws x thin) gradients on a minibatch, or 8 times as many on all data for HMC; about
    twenty curvature products. See `price`.

    **Assumes** that w* is a minimum of this very loss (without weight decay); checked, and named if not.

    **Misleads** at finite n: the estimate's own value is nβE[K], which lies below λ by (m-1)/log n where the
    multiplicity m exceeds one, and by what the localisation takes: both are told from the draws. It is the
    coefficient *of this point*: formulas for the global one, over all minima, can be far lower. Unnormalised losses
    (sums, squared errors without the factor 1/(2σ²)) multiply nβ; that changes the value only at singular points.

    Args:
        objective: Model, loss (a mean over examples) and data, at the point w*; or a potential, whose n_beta,
            localisation and centre then hold unless given here.
        chains: Number of chains, all computed at once; 8.
        draws: Draws per chain; 200 for HMC and MALA, 1,000 for others.
        burn_in: Steps before the first draw; half of draws x thin, at least 50.
        thin: Steps per draw; 1.
        kernel: ``"hmc"``, ``"mala"`` (both exact, all data), ``"sgld"``, ``"rmsprop_sgld"``, ``"sghmc"``, ``"sgnht"``.
            ``"auto"``: HMC up to 8,192 examples, SGLD above, or where a step or batch size is given.
        step_size: ε (SGLD: drift ε/2, noise √ε, devinterp's ``lr``); ``"auto"``: found by itself.
        n_beta: nβ; ``"n/log n"`` if omitted, with n the number of examples of the objective.
        localisation: γ; 1 if omitted. 0 lets chains diffuse along flat directions.
        batch_size: Examples per step, drawn afresh with replacement for every chain.
        baseline: ``"paired"`` (L(w*) on the same rows) or ``"full"`` (on all data: more noise, same mean).
        bias: Share of the value that step size and minibatches may add, for ``"auto"``; 0.05.
        parameters: Restrict the draws to these parameters (a pattern over names, or a predicate): the restricted LLC.
        data: Sample the loss on other data, at the same point: the data-refined LLC; n is then theirs.
        kernel_options: Further options of the kernel.
        generator: A generator or a seed. The same seed at two points gives common random numbers.
        budget: Seconds (``"60s"``) or gradients over all data; what is there when it ends is returned and says so.
        progress: As for `geartrain.sampling.sample`.
        **names: devinterp's: lr, nbeta, localization, num_chains, num_draws, num_burnin_steps, num_steps_bw_draws,
            sampling_method, seed.

    Returns:
        The coefficient: ``value``, ``standard_error``, ``interval``, ``predicted_bias``, ``health``, ``warnings``,
        ``trace``, ``to_devinterp()``, ``to_html(path)`` (a page on the sampler's health); prints as a summary.

    Raises:
        InputError: A setting that cannot be, or an unknown name.
        NonFiniteError: The loss at the point is NaN or infinite.

    Example:
        Two parameters at a regular minimum (n = 64): λ = 1.

        >>> model = torch.nn.Linear(2, 1, bias=False).double()
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> x = torch.eye(2).double().repeat(32, 1)
        >>> objective = Objective(model, torch.nn.MSELoss(), (x, torch.zeros(64, 1).double()))
        >>> found = llc(objective, localisation=0.01)
        >>> found.interval[0] < 1 < found.interval[1], found.warnings
        (True, ())

    References:
        Lau et al. (2023), arXiv:2308.12108; Wang et al. (2024), arXiv:2410.02984 (restricted and data-refined);
        Watanabe (2013), JMLR 14, 867 (β = 1/log n).
    """
    clock = Budget.of(budget).start()
    given = {
        "chains": chains, "draws": draws, "burn_in": burn_in, "thin": thin, "kernel": kernel, "step_size": step_size,
        "n_beta": n_beta, "localisation": localisation, "batch_size": batch_size, "baseline": baseline, "bias": bias,
        "parameters": parameters, "data": data, "kernel_options": kernel_options, "generator": generator,
    }  # fmt: skip
    options = settings.translated(given, names)
    seed = seed_of(options.pop("generator", None))
    potential, chosen, setting = prepared(objective, options)
    return estimate.estimate(potential, chosen, setting=setting, clock=clock, seed=seed, progress=progress)


def price(objective: Objective | BasePotential, **options: Any) -> Cost:
    """What `llc` with these options will take, in gradients over all data (summed over chains) and products."""
    options = settings.translated({}, {}) | {settings.DEVINTERP.get(k, k): v for k, v in options.items()}
    for name in ("generator", "budget", "progress"):
        options.pop(name, None)
    count = objective.num_examples
    options = {k: v for k, v in options.items() if v is not None and k not in _OF_POTENTIAL}
    chosen, others = settings.settle(options, count)
    return _price(chosen, others["batch_size"], count, objective.num_params)


def _price(chosen: Settings, batch: int | None, count: int, params: int) -> Cost:
    mover = kernels.get(chosen.kernel)(**chosen.options)
    steps = chosen.burn_in + chosen.draws * chosen.thin
    share = 1.0 if batch is None or batch >= count else batch / count
    if chosen.kernel == "sgld" and chosen.step_size == "auto":
        steps += 160
    seen = min(1.0, 1024 / count)
    products = (min(curvature.PRODUCTS, params) + min(curvature.TRAINING_PRODUCTS, params)) * seen
    item = 8
    return Cost(
        gradients=chosen.chains * steps * mover.gradients_per_step * share + 3,
        products=products,
        peak_bytes=item * (chosen.chains * params * 8 + 6 * chosen.chains * chosen.draws),
    )


_OF_POTENTIAL = ("n_beta", "localisation", "parameters", "data")


def prepared(
    objective: Objective | BasePotential, options: dict[str, Any]
) -> tuple[BasePotential, Settings, str]:
    """The potential, the settings, and the setting in words."""
    own = {name: options.pop(name, None) for name in _OF_POTENTIAL}
    if isinstance(objective, BasePotential):
        if own["parameters"] is not None or own["data"] is not None:
            raise InputError("parameters= and data= need an Objective; a potential is finished.")
        if options.get("batch_size") is None and objective.batch_size is not None:
            options["batch_size"] = objective.batch_size
        chosen, others = settings.settle(options, objective.num_examples)
        beta = own["n_beta"]
        changes: dict[str, Any] = (
            {} if beta is None else {"n_beta": settings.n_beta_of(beta, objective.num_examples)}
        )
        if own["localisation"] is not None:
            changes["localisation"] = own["localisation"]
        potential = objective.changed(**changes, **others)
        return potential, chosen, _setting(potential, chosen, "")
    if not isinstance(objective, Objective):
        raise InputError(
            f"objective is a {type(objective).__name__}; it must be an Objective or a potential."
        )
    if own["data"] is not None:
        objective = objective.on(own["data"])
    if own["parameters"] is not None:
        objective = objective.restrict(own["parameters"])
    chosen, others = settings.settle(options, objective.num_examples)
    beta = settings.n_beta_of(own["n_beta"], objective.num_examples)
    localisation = LOCALISATION if own["localisation"] is None else own["localisation"]
    potential = Potential(objective, beta, localisation, **others)
    default = own["n_beta"] in (None, "n/log n") and objective.num_examples > 2
    told = f" (n/log n, n = {objective.num_examples:,})" if default else ""
    return potential, chosen, _setting(potential, chosen, told)


def _setting(potential: BasePotential, chosen: Settings, told: str) -> str:
    batch = "all data" if potential.batch_size is None else f"batches of {potential.batch_size}"
    return (
        f"n·beta {format_number(potential.n_beta_mean)}{told}, localisation {format_number(potential.localisation)}, "
        f"{chosen.kernel} on {batch}"
    )


def seed_of(generator: torch.Generator | int | None) -> int:
    """A seed from what users pass; 0 if omitted."""
    if isinstance(generator, torch.Generator):
        return int(torch.randint(2**62, (), generator=generator, device=generator.device))
    if generator is None:
        return 0
    if isinstance(generator, int) and not isinstance(generator, bool):
        return generator
    raise InputError(f"generator is {generator!r}; it must be a torch.Generator, a seed, or None.")


def llc_temperatures(
    objective: Objective | BasePotential,
    n_betas: Sequence[float] | None = None,
    *,
    generator: torch.Generator | int | None = None,
    budget: Budget | int | str | None = None,
    **options: Any,
) -> Temperatures:
    """λ and multiplicity m from estimates at several n·beta, nβE[K] = λ - (m-1)/(log nβ + c).

    **Cost** that of `llc` times the number of temperatures.

    **Misleads** where the temperatures span too little: m shows only in a slope of (m-1)/log²(nβ). The probabilities
    of m = 1, 2, 3 say whether they do. The coldest temperatures need short steps and long chains.

    Args:
        objective: As for `llc`.
        n_betas: Where; five from a tenth to ten times n/log n if omitted.
        generator: A generator or a seed.
        budget: For all of them together.
        **options: Of `llc`.

    Returns:
        λ with its interval, probabilities of m, and all estimates.

    Raises:
        InputError: Fewer than three temperatures, or options that cannot be.
    """
    clock = Budget.of(budget).start()
    count = objective.num_examples
    base = objective.n_beta_mean if isinstance(objective, BasePotential) else settings.default_n_beta(count)
    where = np.geomspace(base / 10, base * 10, 5) if n_betas is None else np.asarray(n_betas, dtype=float)
    seed, found = seed_of(generator), []
    for number, beta in enumerate(where):
        left = None
        if clock.deadline is not None:
            now = time.perf_counter()
            left = now + max(clock.deadline - now, 0.0) / (len(where) - number)
        products = None if clock.products is None else clock.products // len(where)
        own = Budget(products=products, deadline=left)
        found.append(llc(objective, n_beta=float(beta), generator=seed + number, budget=own, **options))
    usable = [(beta, e) for beta, e in zip(where, found, strict=True) if math.isfinite(float(e.value))]
    fitted = temperatures.fit(
        [beta for beta, _ in usable], [e.value for _, e in usable], [e.standard_error for _, e in usable]
    )
    return dataclasses.replace(fitted, estimates=tuple(e for _, e in usable))


def llc_trajectory(
    objective: Objective,
    checkpoints: Sequence[Checkpoint] | Mapping[Any, Checkpoint],
    *,
    generator: torch.Generator | int | None = None,
    **options: Any,
) -> Trajectory:
    """Learning coefficients at checkpoints of a run, all with the same random numbers.

    Every checkpoint sees the same minibatches and the same noise, so that differences between neighbours are
    sharper than the values: `Trajectory.difference`. Fix ``step_size`` for the sharpest.

    **Cost** that of `llc` times the number of checkpoints.

    Args:
        objective: Model, loss and data; its model says the architecture, its restriction is kept.
        checkpoints: Modules, state dicts or vectors, in order; or a mapping from labels (steps) to them.
        generator: A generator or a seed.
        **options: Of `llc`.

    Returns:
        Values, errors, and differences.

    Raises:
        InputError: A checkpoint that does not fit.
    """
    seed = seed_of(generator)
    labels, points = trajectory.labelled(checkpoints)
    found = [llc(trajectory.at(objective, point), generator=seed, **options) for point in points]
    return Trajectory(labels, tuple(found))
