"""How well the tangent kernel fits the task: whether examples that move one another have the same target.

It grows while features are learnt; a kernel that matches the targets learns them fast and from few examples. Misleads
without its null: with few examples any kernel is aligned with any targets to some extent. References: Cristianini et
al. (2001); Cortes, Mohri, Rostamizadeh (2012), arXiv:1203.0550. Ledger: 0.7.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments import _tangent
from geartrain.instruments._answers import answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.kernel._compare import centred, target_gram
from geartrain.records import Cost, Measurement, State, format_number


def _price(
    objective: Any,
    num_examples: int = _tangent.EXAMPLES,
    *,
    max_outputs: int | None = _tangent.OUTPUTS,
    **options: Any,
) -> Cost:
    return _tangent.kernel_price(objective, num_examples, "sum", max_outputs=max_outputs)


@instrument(needs="objective", unit="1", price=_price)
def ntk_alignment(
    objective: Any,
    num_examples: int = _tangent.EXAMPLES,
    *,
    max_outputs: int | None = _tangent.OUTPUTS,
    num_permutations: int = 200,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Alignment of the neural tangent kernel with the targets, both centred, and what chance would give.

    A = ⟨K_c, Y_c⟩ / (|K_c| |Y_c|) with K summed over outputs, Y the Gram matrix of the targets (of classes: 1 where two
    examples agree) and M_c = H M H, H = I - 11ᵀ/n; for one real target it is yᵀKy/(|K| |y|²) of centred y. 1: the
    kernel knows the targets and nothing else. The null permutes the targets.

    **Cost** that of `ntk`.

    **Assumes** that an example's outputs depend on that example alone.

    **Misleads** if read without its null, or between different numbers of examples or classes.

    Args:
        objective: What to measure; an `Objective` with ``loss_fn`` and targets.
        num_examples: Examples, a random subset where there are more.
        max_outputs: A random subset of so many outputs is used where there are more.
        num_permutations: Permutations of the targets for the null.
        generator: Source of the choices and permutations; a fixed seed if ``None``.
        budget: Limit: passes back, ``"5s"`` or a `Budget`.

    Returns:
        The alignment, between -1 and 1, exact for these examples. ``details``: ``null_mean``, ``null_spread``,
        ``p_value`` (share of permutations at least as aligned, counting this one), ``z``, ``num_examples``.

    Raises:
        InputError: A setting is out of range.

    References:
        Cortes, Mohri, Rostamizadeh (2012), arXiv:1203.0550, eq. (4); Baratin et al. (2021), arXiv:2008.00938.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(1, 1).double()  # K = x x' + 1; its centred part is that of the targets y = x
    >>> x = torch.tensor([[-1.0], [0.0], [1.0]]).double()
    >>> round(float(ntk_alignment(gt.Objective(model, torch.nn.functional.mse_loss, (x, x)))), 12)
    1.0
    """
    if num_permutations < 1:
        raise InputError(f"num_permutations is {num_permutations}; it must be at least 1.")
    passes = _tangent.Passes(Budget.of(budget).start())
    source = generator if generator is not None else torch.Generator().manual_seed(0)

    def compute() -> Measurement:
        place = _tangent.tangent(objective, num_examples, source, max_outputs=max_outputs)
        targets = target_gram(place.objective)
        if targets is None:
            return not_applicable(
                "ntk_alignment", "There are no targets beside the inputs to be aligned with."
            )
        kernel = centred(passes.kernel(place, place.objective, "sum").matrix.double())
        wanted = centred(targets)
        if not float(wanted.norm()) > 1e-12 * max(float(targets.norm()), 1e-300):
            return not_applicable(
                "ntk_alignment", "All targets are the same: there is nothing to be aligned with."
            )
        if not float(kernel.norm()) > 0:
            return not_applicable("ntk_alignment", "The kernel is constant over the examples.")
        return _against_chance(kernel, wanted, num_permutations, source)

    return _tangent.guarded("ntk_alignment", compute)


def _against_chance(
    kernel: Tensor, wanted: Tensor, num_permutations: int, source: torch.Generator
) -> Measurement:
    size = float(kernel.norm() * wanted.norm())
    value = float((kernel * wanted).sum()) / size
    null = np.empty(num_permutations)
    for i in range(num_permutations):
        order = torch.randperm(len(kernel), generator=source).to(kernel.device)
        null[i] = float((kernel * wanted[order][:, order]).sum()) / size
    mean, spread = float(null.mean()), float(null.std())
    details = {
        "null_mean": mean,
        "null_spread": spread,
        "p_value": float((1 + (null >= value * (1 - 1e-12)).sum()) / (1 + num_permutations)),
        "z": (value - mean) / spread if spread > 0 else float("nan"),
        "num_examples": len(kernel),
    }
    sentence = (
        f"Permuted targets give {format_number(mean)} ± {format_number(spread)} on {len(kernel)} examples "
        f"(p = {format_number(details['p_value'])})."
    )
    return answer("ntk_alignment", value, sentence, state=State.EXACT, details=details)
