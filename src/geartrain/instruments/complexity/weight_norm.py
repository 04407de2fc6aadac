"""Weight norms: the size of each layer, and the products that bound how steep the network can be.

Weight decay pulls norms down, growing margins push them up; the product of spectral norms enters bounds on
generalisation, see `normalised_margin`.

Ledger: 1.18, 1.22, 3.29
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._base import instrument
from geartrain.instruments._limits import stopped
from geartrain.instruments.complexity._matrices import singular_values
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

NAME = "weight_norm"


def _price(objective: Any, **options: Any) -> Cost:
    return Cost(peak_bytes=16 * objective.num_params)


@instrument(needs="objective", unit="θ", price=_price)
def weight_norm(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the Euclidean (Frobenius) norm of the parameters of every module, and spectral norms beside it.

    ‖θ_l‖ = √(Σ θ²) over the parameters that module l owns; their squares add up to ‖θ‖². The spectral norm of a
    tensor is the largest singular value of its matrix (outputs x everything else).

    **Cost** no pass over the data; one small singular value problem per matrix.

    **Assumes** nothing of the loss.

    **Misleads** as a measure of complexity where a function does not change with the scale of a layer: before
    normalisation layers, and in ReLU networks, whose layers can be rescaled against each other. For a convolution the
    reshaped matrix bounds the operator from below, not above.

    Args:
        objective: Whose parameters.
        generator: Not used.
        budget: Limit in time.

    Returns:
        A norm per module, dims ``("layer",)``, unit θ, exact. ``details``: ``total`` (‖θ‖), ``spectral`` (largest
        singular value by parameter, matrices only), ``stable_rank`` (‖W‖_F² / ‖W‖₂², likewise),
        ``log_product_spectral`` and ``log_product_frobenius`` (natural logarithms of the products over matrices),
        ``l1`` (Σ|θ|), ``largest``.

    References:
        Bartlett, Foster, Telgarsky (2017), arXiv:1706.08498; Neyshabur et al. (2018), arXiv:1707.09564.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    >>> result = weight_norm(gt.Objective(model, torch.nn.functional.mse_loss, (torch.eye(2), torch.eye(2))))
    >>> result.value.tolist(), result.details["spectral"]
    ([5.0], {'weight': 4.0})
    """
    clock = Budget.of(budget).start()
    if clock.deadline is not None or clock.products is None:
        answer = stopped(NAME, objective, clock, unit="θ")
    else:  # it takes no products, so a budget of none is enough
        answer = stopped(NAME, objective, Budget().start(), unit="θ")
    if answer is not None:
        return answer
    named = dict(zip(objective.layout.names, objective.layout.unflatten(objective.parameters()), strict=True))
    layers = objective.layers()
    norms = [
        float(torch.linalg.vector_norm(torch.cat([named[n].double().reshape(-1) for n in names])))
        for names in layers.values()
    ]
    spectra = {n: singular_values(p) for n, p in named.items() if p.ndim >= 2}
    spectral = {n: float(s[0]) for n, s in spectra.items()}
    frobenius = {n: float(np.linalg.norm(s)) for n, s in spectra.items()}
    everything = torch.cat([p.double().reshape(-1) for p in named.values()])
    with np.errstate(divide="ignore"):
        products = [float(np.sum(np.log(list(part.values())))) for part in (spectral, frobenius)]
    details = {
        "total": float(torch.linalg.vector_norm(everything)),
        "spectral": spectral,
        "stable_rank": {n: (frobenius[n] / spectral[n]) ** 2 if spectral[n] else 0.0 for n in spectral},
        "log_product_spectral": products[0],
        "log_product_frobenius": products[1],
        "l1": float(everything.abs().sum()),
        "largest": float(everything.abs().max()),
    }
    names = [name or type(objective.model).__name__ for name in layers]
    status = Status(State.EXACT, f"{len(everything)} parameters of norm {details['total']:.4g} in all.")
    value = np.array(norms)
    return Measurement(
        NAME, value, "θ", status, np.zeros_like(value), ("layer",), {"layer": names}, details=details
    )
