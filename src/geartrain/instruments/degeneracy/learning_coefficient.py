"""Local learning coefficient: half the number of parameters that count at this minimum, by sampling around it.

The posterior around the point is sampled by many chains at once; `geartrain.llc` is the same with every option, and
prints the sampler's health. Misleads at points that are no minima, which is checked and said.

Ledger: 2.14, 2.16.
"""

from __future__ import annotations

from typing import Any

import torch

from geartrain.budget import Budget
from geartrain.errors import NonFiniteError, UnsupportedError
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.records import Cost, Measurement, State

_CHAINS, _DRAWS = 4, 60


def _price(objective: Any, chains: int = _CHAINS, draws: int = _DRAWS, **options: Any) -> Cost:
    from geartrain.sampling.llc import price

    return price(objective, chains=chains, draws=draws, **options)


@instrument(needs="objective", unit="1", price=_price)
def learning_coefficient(
    objective: Any,
    chains: int = _CHAINS,
    draws: int = _DRAWS,
    *,
    n_beta: float | str | None = None,
    localisation: float | None = None,
    kernel: str | None = None,
    batch_size: int | None = None,
    step_size: float | str | None = None,
    burn_in: int | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Local learning coefficient nβ(E[L] - L(w*)) at the present point, with error, predicted bias and warnings.

    d/2 at a regular minimum of d parameters, less where the loss is degenerate. Four short chains by default, for
    a look; ``gt.llc(objective)`` for more and with all options.

    **Cost** chains x (1.5 draws) x 8 gradients with HMC (up to 8,192 examples), without the 8 and on minibatches
    beyond; about twenty products.

    **Assumes** a minimum of this very loss; a point that is not one is named (``still_training``).

    **Misleads** as an estimate of λ where the multiplicity exceeds one (low by (m-1)/log n) and where the localisation
    confines directions that matter: ``details["warnings"]`` says so. It is the coefficient of *this* point.

    Args:
        objective: What to measure; an `Objective` at a minimum.
        chains: Number of chains, all at once.
        draws: Draws per chain.
        n_beta: nβ; n/log n if omitted.
        localisation: γ; 1 if omitted.
        kernel: As for `geartrain.llc`.
        batch_size: Examples per step (then SGLD).
        step_size: Found by itself if omitted.
        burn_in: Steps left out; half of draws, at least 50, if omitted.
        generator: Source of the noise; a fixed seed if ``None``.
        budget: Limit: gradients over all data, ``"5s"`` or a `Budget`.

    Returns:
        The coefficient, unit 1. ``details``: ``interval`` (95 %), ``predicted_bias``, ``health``, ``warnings``,
        ``n_beta``, ``localisation``, ``trace`` (chains x draws), ``start_loss``, ...

    Raises:
        InputError: A setting is out of range.

    References:
        Lau et al. (2023), arXiv:2308.12108.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> data = torch.eye(2).double().repeat(32, 1), torch.zeros(64, 1).double()
    >>> found = learning_coefficient(gt.Objective(model, torch.nn.MSELoss(), data), localisation=0.01)
    >>> abs(found.value - 1) < 4 * found.standard_error
    True
    """
    from geartrain.sampling.llc import llc

    try:
        return llc(
            objective, chains=chains, draws=draws, n_beta=n_beta, localisation=localisation, kernel=kernel,
            batch_size=batch_size, step_size=step_size, burn_in=burn_in, generator=generator, budget=budget,
        )  # fmt: skip
    except NonFiniteError as error:
        return no_answer("learning_coefficient", str(error), state=State.NON_FINITE)
    except UnsupportedError as error:
        return not_applicable("learning_coefficient", f"The posterior cannot be sampled: {error}")
