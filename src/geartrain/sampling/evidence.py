"""Evidence of a model, log of the integral of likelihood x prior: by tempering, and WBIC.

The likelihood is exp(-n L(w)), with L the mean loss of the objective; it is a log-likelihood if L is one, constants
included. The prior is normal with precision ``prior_precision``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement, State, Status, format_number
from geartrain.sampling import diagnostics
from geartrain.sampling.kernels._base import Kernel
from geartrain.sampling.potential import BasePotential, Potential
from geartrain.sampling.sample import sample
from geartrain.sampling.tempering import temper


def wbic(
    objective: Objective | BasePotential,
    prior_precision: float,
    *,
    chains: int = 8,
    draws: int = 500,
    kernel: str | Kernel = "hmc",
    budget: Budget | int | str | None = None,
    generator: torch.Generator | int | None = None,
    **options: Any,
) -> Measurement:
    """Widely applicable Bayesian information criterion: n E[L] at inverse temperature 1/log n.

    It approximates minus the log evidence, n L(w*) + lambda log n, up to sqrt(log n), also for singular models.

    **Assumes** that the loss is a mean negative log-likelihood. **Misleads** at small n, where the correction of order
    sqrt(log n) and the prior matter: `log_evidence` costs more and has no such error.

    Args:
        objective: Model, loss and data; or a potential.
        prior_precision: Inverse variance of the normal prior.
        chains: Number of chains.
        draws: Draws per chain.
        kernel: See `sample`.
        budget: See `sample`.
        generator: See `sample`.
        **options: See `sample`.

    Returns:
        The criterion in nats with its Monte Carlo error; details: rhat, ess, n_beta.

    Raises:
        InputError: Fewer than three examples.

    References:
        Watanabe (2013), JMLR 14, equation (3).
    """
    n = objective.num_examples
    if n < 3:
        raise InputError(f"There are {n} examples; the temperature 1/log n needs three or more.")
    n_beta = n / math.log(n)
    found = sample(
        objective,
        kernel,
        chains=chains,
        draws=draws,
        n_beta=n_beta,
        prior_precision=prior_precision,
        budget=budget,
        generator=generator,
        **options,
    )
    losses = found.good_losses
    if losses.shape[0] == 0 or losses.shape[1] < 4:
        state = found.status.state if losses.shape[0] else State.NON_FINITE
        return Measurement(
            "wbic", math.nan, "nat", Status(state, found.status.sentence), math.nan, cost=found.cost
        )
    rhat = float(diagnostics.rhat(losses)) if losses.shape[0] > 1 else math.nan
    ess = float(diagnostics.ess(losses, "mean"))
    mixed = not rhat > 1.05
    sentence = f"{found.num_alive} of {found.num_chains} chains, R-hat {format_number(rhat, 4)} of the loss"
    state = found.status.state if mixed else State.NOT_CONVERGED
    if not mixed:
        sentence += ": not mixed, sample longer"
    return Measurement(
        "wbic",
        n * float(losses.double().mean()),
        "nat",
        Status(state, f"{sentence}."),
        n * float(diagnostics.mcse(losses)),
        cost=found.cost,
        details={"rhat": rhat, "ess": ess, "n_beta": n_beta},
    )


def log_evidence(
    objective: Objective | BasePotential,
    prior_precision: float,
    *,
    levels: int = 16,
    chains: int = 8,
    draws: int = 500,
    kernel: str | Kernel = "hmc",
    power: float = 4.0,
    budget: Budget | int | str | None = None,
    generator: torch.Generator | int | None = None,
    **options: Any,
) -> Measurement:
    """Log evidence by parallel tempering from the prior to the posterior.

    The sum over neighbouring temperatures of Bennett's acceptance ratio, which needs no grid to be fine; beside it
    thermodynamic integration, -integral of n E_t[L] dt, with the trapezoidal rule corrected by the variances. That
    the two agree within their errors is part of the status.

    **Cost** levels x chains x draws x 1.5 steps of the kernel. **Misleads** where no level mixes: the error is the
    spread over independent ladders (jackknife), which cannot know of modes that none of them found.

    Args:
        objective: Model, loss and data; or a potential.
        prior_precision: Inverse variance of the normal prior, above 0.
        levels: Temperatures t = (k/(levels - 1))^power, prior and posterior included.
        chains: Independent ladders, at least three.
        draws: Draws per chain and level.
        kernel: One that accepts or rejects.
        power: How strongly the temperatures crowd at the prior, where E[L] changes fastest.
        budget: See `temper`.
        generator: See `temper`.
        **options: See `temper`; ``start`` is the prior unless given.

    Returns:
        Log evidence in nats, its error with chains - 1 degrees of freedom; details: thermodynamic_integration and its
        error, the mean energy of every level, rhat of the loss by level, swap_rate.

    Raises:
        InputError: No proper prior, or fewer than three ladders or levels.

    References:
        Bennett (1976); Friel & Pettitt (2008); Friel, Hurn & Wyse (2014), arXiv:1209.3198, for the correction.
    """
    if not prior_precision > 0:
        raise InputError(
            f"prior_precision is {prior_precision}; it must be above 0: the evidence needs a prior that integrates to "
            "one."
        )
    if chains < 3 or levels < 3:
        raise InputError(f"chains is {chains} and levels {levels}; both must be 3 or more.")
    n = objective.num_examples
    times = (torch.arange(levels, dtype=torch.float64) / (levels - 1)) ** power
    base = objective if isinstance(objective, BasePotential) else Potential(objective)
    # The prior of a posterior is around zero; a localisation would be another prior.
    base = base.changed(localisation=0.0)
    # Ladders that leave from one point share what burn-in has not forgotten, and their spread would not show it.
    options.setdefault("start", "prior")
    found = temper(
        base,
        n * times,
        kernel,
        chains=chains,
        draws=draws,
        prior_precision=prior_precision,
        budget=budget,
        generator=generator,
        **options,
    )
    energies = n * found.losses.double().flip(0)  # (levels, chains, draws), from the prior to the posterior
    if energies.shape[2] < 4 or not bool(energies.isfinite().all()):
        bad = State.OUT_OF_BUDGET if energies.shape[2] < 4 else State.NON_FINITE
        sentence = (
            found.status.sentence if energies.shape[2] < 4 else "a level met losses that are not finite."
        )
        return Measurement("log_evidence", math.nan, "nat", Status(bad, sentence), math.nan, cost=found.cost)
    value, error = _jackknife(energies, lambda e: bennett(e, times))
    integral, integral_error = _jackknife(energies, lambda e: thermodynamic_integral(e, times))
    rhat = torch.stack([diagnostics.rhat(level) for level in energies])
    agree = abs(value - integral) <= 3 * math.hypot(error, integral_error) + 0.05
    mixed = float(rhat.max()) <= 1.05
    sentence = (
        f"{levels} temperatures, thermodynamic integration gives {format_number(integral, 4)}; largest R-hat of the "
        f"loss {format_number(float(rhat.max()), 4)}"
    )
    state = found.status.state
    if state is State.ESTIMATE and not (agree and mixed):
        state = State.NOT_CONVERGED
        sentence += ": use more draws" if not mixed else ": the two disagree, use more levels"
    return Measurement(
        "log_evidence",
        value,
        "nat",
        Status(state, f"{sentence}."),
        error,
        cost=found.cost,
        details={
            "thermodynamic_integration": integral,
            "thermodynamic_integration_error": integral_error,
            "inverse_temperature": times.numpy(),
            "energy": energies.mean((1, 2)).numpy(),
            "rhat": rhat.numpy(),
            "swap_rate": found.swap_rate.cpu().flip(0).numpy(),
        },
    )


def bennett(energies: Tensor, times: Tensor) -> float:
    """Log of Z(t_last)/Z(t_first) by Bennett's acceptance ratio between neighbours.

    For each pair solves sum sigmoid(-dt E - f) over draws at the lower time = sum sigmoid(dt E + f) over draws at the
    upper one, where f is the log ratio.

    Args:
        energies: n L of every draw, shape (levels, chains, draws).
        times: Inverse temperatures in rising order, shape (levels,).

    Returns:
        The log ratio in nats.
    """
    flat = energies.flatten(1)
    steps = times.diff()[:, None].to(flat)
    up, down = -steps * flat[:-1], steps * flat[1:]
    low = torch.minimum(up.amin(1), -down.amax(1)) - 1
    high = torch.maximum(up.amax(1), -down.amin(1)) + 1
    for _ in range(60):  # the left side falls and the right side rises with f
        f = (low + high) / 2
        excess = torch.sigmoid(up - f[:, None]).sum(1) - torch.sigmoid(down + f[:, None]).sum(1)
        low, high = torch.where(excess > 0, f, low), torch.where(excess > 0, high, f)
    return float(((low + high) / 2).sum())


def thermodynamic_integral(energies: Tensor, times: Tensor) -> float:
    """Minus the integral of the mean energy over inverse temperature, trapezoidal rule with end corrections.

    d E_t/dt = -Var_t(E): the correction -dt^2/12 (E'_{i+1} - E'_i) costs nothing.

    Args:
        energies: n L of every draw, shape (levels, chains, draws).
        times: Inverse temperatures in rising order, shape (levels,).

    Returns:
        Log ratio of normalisations in nats.
    """
    flat = energies.flatten(1)
    mean, variance, steps = flat.mean(1), flat.var(1), times.diff().to(flat)
    trapezoid = (steps * (mean[1:] + mean[:-1]) / 2).sum()
    correction = (steps**2 / 12 * (variance[1:] - variance[:-1])).sum()
    return -float(trapezoid + correction)


def _jackknife(energies: Tensor, estimate: Any) -> tuple[float, float]:
    """Estimate from all ladders, and its error from leaving each of them out."""
    chains = energies.shape[1]
    keep = [[c for c in range(chains) if c != left] for left in range(chains)]
    without = torch.tensor([estimate(energies[:, k]) for k in keep], dtype=torch.float64)
    spread = (without - without.mean()).square().sum() * (chains - 1) / chains
    return estimate(energies), float(spread.sqrt())
