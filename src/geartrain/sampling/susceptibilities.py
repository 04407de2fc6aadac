"""How the posterior responds: Bayesian influence functions between examples, susceptibilities of parts of a network.

Both are covariances of losses under the localised posterior exp(-nβ L(w) - γ/2 |w - w*|²), sampled exactly by default.
On quadratics they are known in closed form (`truths.quadratic_covariance`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch.flat import ParameterFilter
from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement, State, Status, format_number
from geartrain.sampling.draws import Draws
from geartrain.sampling.learning_coefficient.error import mean_of
from geartrain.sampling.learning_coefficient.settings import n_beta_of
from geartrain.sampling.llc import LOCALISATION
from geartrain.sampling.potential import BasePotential, Potential
from geartrain.sampling.sample import sample

_CUT = (State.OUT_OF_BUDGET, State.INTERRUPTED)
_FEWEST_DRAWS = 4


def bayesian_influence(
    objective: Objective | BasePotential,
    rows: Sequence[int] | Tensor | None = None,
    on: Sequence[int] | Tensor | None = None,
    *,
    n_beta: float | str | None = None,
    localisation: float | None = None,
    parameters: ParameterFilter | None = None,
    correlation: bool = False,
    generator: torch.Generator | int | None = None,
    budget: Budget | int | str | None = None,
    **options: Any,
) -> Measurement:
    """Bayesian influence of example j on the loss of example i: -Cov(l_i, l_j) under the localised posterior.

    That is the derivative of E[l_i] with respect to the weight of l_j, nβL being a weighted sum of the losses.
    Negative for examples that help each other.

    **Cost** that of sampling, and one forward pass over the examples per draw. Memory: chains x draws x examples.

    **Assumes** mixed chains: a covariance needs more draws than a mean.

    **Misleads** where chains drift together: everything then correlates with everything.

    Args:
        objective: As for `geartrain.llc`.
        rows: Examples i; all if omitted.
        on: Examples j; the same as i if omitted.
        n_beta: nβ; n/log n if omitted.
        localisation: γ; 1 if omitted.
        parameters: Sample these parameters only.
        correlation: Correlations instead of covariances (and with the sign of a correlation: minus it).
        generator: A generator or a seed.
        budget: As for `geartrain.sampling.sample`.
        **options: Of `geartrain.sampling.sample`: kernel, chains, draws, burn_in, ...

    Returns:
        Shape (example, source), unit ℓ² (1 for correlations), with the standard error from the chains.

    Raises:
        InputError: A setting that cannot be, or examples that do not exist.

    References:
        Kreer et al. (2025), *Bayesian influence functions for Hessian-free data attribution*.
    """
    potential = _potential(objective, n_beta, localisation, parameters)
    first = _rows(rows, potential, "rows")
    second = first if on is None else _rows(on, potential, "on")
    union, where = torch.unique(torch.cat([first, second]), return_inverse=True)
    draws = _drawn(potential, union, generator, budget, options)
    unit = "1" if correlation else "ℓ²"
    cut = _unusable(draws, "bayesian_influence", unit)
    if cut is not None:
        return cut
    losses = draws.observed["examples"][draws.alive].double()
    one, other = losses[..., where[: len(first)]], losses[..., where[len(first) :]]
    covariance, error = covariances(one, other)
    if correlation:
        scale = one.flatten(0, 1).std(0)[:, None] * other.flatten(0, 1).std(0)
        covariance, error = covariance / scale, error / scale
    return Measurement(
        "bayesian_influence", -covariance.cpu().numpy(), unit, _status(draws),
        standard_error=error.cpu().numpy(), dims=("example", "source"),
        coords={"example": first.tolist(), "source": second.tolist()}, cost=draws.cost,
        details={"n_beta": potential.n_beta_mean, "localisation": potential.localisation, "notes": draws.notes},
    )  # fmt: skip


def susceptibilities(
    objective: Objective,
    blocks: Mapping[str, ParameterFilter],
    rows: Sequence[int] | Tensor | None = None,
    *,
    n_beta: float | str | None = None,
    localisation: float | None = None,
    generator: torch.Generator | int | None = None,
    budget: Budget | int | str | None = None,
    **options: Any,
) -> Measurement:
    """Susceptibility of every block C of parameters to every example x.

    χ_C(x) = -(E_C[φ (l_x - L)] - E_C[φ] E[l_x - L]) with φ = L(w) - L(w*), E_C over the posterior of the block alone
    (the rest held at w*) and E over that of all parameters. Negative where raising the weight of x makes the block's
    loss landscape narrower (the block expresses x), positive where it suppresses it.

    **Cost** one sampling of all parameters and one for each block.

    **Misleads** as every covariance of few effective draws does: look at the errors.

    Args:
        objective: Model, loss and data at w*.
        blocks: Patterns over parameter names (or predicates), by the name of the block.
        rows: Examples x; all if omitted.
        n_beta: nβ; n/log n if omitted.
        localisation: γ; 1 if omitted.
        generator: A generator or a seed; blocks share their random numbers.
        budget: For each sampling.
        **options: Of `geartrain.sampling.sample`.

    Returns:
        Shape (block, example), unit ℓ², with the standard error from the chains.

    Raises:
        InputError: No blocks, or a setting that cannot be.

    References:
        Baker et al. (2025), arXiv:2504.18274, appendix C.4.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False).double()
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> x = torch.eye(2).double()[[0] * 12 + [1] * 4]  # twelve examples see one weight, four the other
        >>> objective = Objective(model, torch.nn.MSELoss(), (x, torch.zeros(16, 1).double()))
        >>> found = susceptibilities(objective, {"all": "*"}, [0, 15], draws=200)
        >>> found.dims, (found.value[0] > 0).tolist()  # one more of the few narrows the landscape
        (('block', 'example'), [True, False])
    """
    if not blocks:
        raise InputError("blocks is empty; pass for example {'first': 'layers.0.*', 'second': 'layers.1.*'}.")
    whole = _potential(objective, n_beta, localisation, None)
    index = _rows(rows, whole, "rows")
    everything = _drawn(whole, index, generator, budget, options)
    unusable = _unusable(everything, "susceptibilities", "ℓ²")
    if unusable is not None:
        return unusable
    excess, _ = _excess(whole, everything)
    centred = everything.observed["examples"][everything.alive].double() - excess[..., None]
    mean_full = centred.mean((0, 1))
    full_error = _by_chain(centred.mean(1))
    values, errors, cost, status = [], [], everything.cost, _status(everything)
    for pattern in blocks.values():
        part = _potential(objective, n_beta, localisation, pattern)
        draws = _drawn(part, index, generator, budget, options)
        unusable = _unusable(draws, "susceptibilities", "ℓ²")
        if unusable is not None:
            return unusable
        value, error = _susceptibility(part, draws, mean_full, full_error)
        values.append(value)
        errors.append(error)
        cost = cost + draws.cost
        status = _status(draws) if draws.status.state in _CUT else status
    return Measurement(
        "susceptibilities", torch.stack(values).cpu().numpy(), "ℓ²", status,
        standard_error=torch.stack(errors).cpu().numpy(), dims=("block", "example"),
        coords={"block": list(blocks), "example": index.tolist()}, cost=cost,
        details={"n_beta": whole.n_beta_mean, "localisation": whole.localisation, "notes": everything.notes},
    )  # fmt: skip


def covariances(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances between columns of (chains, draws, i) and (chains, draws, j), with errors from the chains.

    Args:
        one: Quantities i.
        other: Quantities j, on the same draws.

    Returns:
        Both of shape (i, j); the errors are NaN for one chain.
    """
    chains, draws = one.shape[:2]
    a, b = one - one.mean((0, 1)), other - other.mean((0, 1))
    by_chain = torch.einsum("cti,ctj->cij", a, b) / draws
    covariance = by_chain.mean(0) * (chains * draws / max(chains * draws - 1, 1))
    return covariance, _by_chain(by_chain)


# ------------------------------------------------------------------ pieces


def _by_chain(values: Tensor) -> Tensor:
    """Standard error over the first axis."""
    if len(values) < 2:
        return torch.full_like(values[0], math.nan)
    return values.std(0) / math.sqrt(len(values))


def _susceptibility(
    part: BasePotential, draws: Draws, mean_full: Tensor, full_error: Tensor
) -> tuple[Tensor, Tensor]:
    excess, start = _excess(part, draws)
    phi = excess - start
    centred = draws.observed["examples"][draws.alive].double() - excess[..., None]
    by_chain = (phi[..., None] * (centred - mean_full)).mean(1)
    # The error of E[l_x - L] under all parameters comes on top, times the mean of φ.
    error = (_by_chain(by_chain).square() + (phi.mean() * full_error).square()).sqrt()
    return -by_chain.mean(0), error


def _excess(potential: BasePotential, draws: Draws) -> tuple[Tensor, float]:
    """L on all data at every draw, (chains, draws), and at the centre."""
    return draws.observed["loss"][draws.alive].double(), float(potential.losses(potential.centre[None])[0])


def _drawn(
    potential: BasePotential,
    index: Tensor,
    generator: torch.Generator | int | None,
    budget: Budget | int | str | None,
    options: Mapping[str, Any],
) -> Draws:
    given: dict[str, Any] = {"kernel": "hmc", "keep": "statistics"} | dict(options)
    watched = {
        "examples": lambda positions: potential.per_example_losses(positions, index),
        "loss": lambda positions: potential.losses(positions),
    }
    return sample(potential, observe=watched, generator=generator, budget=budget, **given)


def _potential(
    objective: Objective | BasePotential,
    n_beta: float | str | None,
    localisation: float | None,
    parameters: ParameterFilter | None,
) -> BasePotential:
    if isinstance(objective, BasePotential):
        if parameters is not None:
            raise InputError("parameters= needs an Objective; a potential is finished.")
        beta = None if n_beta is None else n_beta_of(n_beta, objective.num_examples)
        return objective.changed(n_beta=beta, localisation=localisation)
    if not isinstance(objective, Objective):
        raise InputError(
            f"objective is a {type(objective).__name__}; it must be an Objective or a potential."
        )
    part = objective if parameters is None else objective.restrict(parameters)
    beta = n_beta_of(n_beta, objective.num_examples)
    return Potential(part, beta, LOCALISATION if localisation is None else localisation)


def _rows(rows: Sequence[int] | Tensor | None, potential: BasePotential, name: str) -> Tensor:
    count = potential.num_examples
    if rows is None:
        return torch.arange(count, device=potential.device)
    index = torch.as_tensor(rows, device=potential.device)
    bad = index.ndim != 1 or not len(index) or index.is_floating_point()
    if bad or int(index.min()) < 0 or int(index.max()) >= count:
        raise InputError(f"{name} is {rows}; allowed: numbers of examples from 0 to {count - 1}.")
    return index


def _unusable(draws: Draws, name: str, unit: str) -> Measurement | None:
    if draws.num_alive and draws.num_draws >= _FEWEST_DRAWS:
        return None
    state = draws.status.state if draws.status.state in _CUT else State.NON_FINITE
    nan = float("nan")
    sentence = f"There are too few draws: {draws.status.sentence}"
    return Measurement(name, nan, unit, Status(state, sentence), standard_error=nan, cost=draws.cost)


def _status(draws: Draws) -> Status:
    mixing = float(draws.rhat("losses")) if draws.num_alive > 1 else math.nan
    ess = mean_of(draws.good_losses).ess
    told = f"{draws.num_alive} chains x {draws.num_draws} draws, {format_number(ess)} effective for the loss"
    if draws.num_alive < draws.num_chains:
        told += f"; {draws.num_chains - draws.num_alive} chains diverged and were left out"
    if draws.status.state in _CUT:
        return Status(draws.status.state, f"Cut short: {told}.")
    if mixing > 1.05:
        return Status(State.NOT_CONVERGED, f"{told}; R-hat {format_number(mixing, 3)}: draw longer.")
    return Status(State.ESTIMATE, f"{told}; errors are the spread of the chains.")


def ranked(influence: Measurement, example: int, count: int = 10) -> list[tuple[int, float]]:
    """The sources that lower the loss of one example the most when they weigh more: (source, influence)."""
    value = np.asarray(influence.value)
    row = list(influence.coords["example"]).index(example)
    order = np.argsort(value[row])[:count]
    return [(int(influence.coords["source"][i]), float(value[row, i])) for i in order]
