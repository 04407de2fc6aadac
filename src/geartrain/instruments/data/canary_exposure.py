"""Canary exposure: how well a sequence model remembers random strings that were slipped into its training.

A random string cannot be learnt in any way but by heart. After training on it, it is ranked by its loss among
strings that differ from it in the secret part only: first of 1,024 is an exposure of 10 bits.

Ledger: 3.8
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain.budget import Budget, Clock
from geartrain.errors import InputError
from geartrain.instruments._answers import mean_and_error, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import split_batch
from geartrain.instruments._limits import out_of_budget, stopped
from geartrain.instruments.data import _learning
from geartrain.instruments.data._tokens import TokenForm, token_form
from geartrain.records import Cost, Measurement, State, Status
from geartrain.run import Run

NAME = "canary_exposure"


def _price(
    run: Any, *, canaries: int | Tensor = 4, steps: int = 64, candidates: int = 127, **options: Any
) -> Cost:
    if run.batch_loss is None or token_form(run.probe("train", 8)) is None:
        return Cost()
    trained = isinstance(canaries, Tensor)
    asked = (len(canaries) if trained else 2 * int(canaries)) * (candidates + 1)
    return Cost(gradients=0 if trained else steps, forwards=asked / max(run.stream.batch_size, 1))


@instrument(needs="run", unit="bit", price=_price)
def canary_exposure(
    run: Run,
    *,
    canaries: int | Tensor = 4,
    secret: int = 4,
    candidates: int = 127,
    steps: int = 64,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure log₂(number of candidates) - log₂(rank of the canary), averaged over canaries.

    Random sequences take the place of the first example of every batch, in turn, for ``steps`` further steps of the
    run; then each is ranked by its loss among sequences with the same beginning and other secrets (the last
    ``secret`` tokens): all of them where there are at most ``candidates``, else random ones. The run is put back
    exactly.

    **Cost** ``steps`` gradients, and 2 x ``canaries`` x (``candidates`` + 1) losses of single sequences (before and
    after).

    **Assumes** that targets are the next tokens, and a loss that compares sequences of equal length.

    **Misleads** when read as bits without its reference: an unseen string has log₂(1/u) with u uniform, 1.44 bits
    on average (1 bit in the median), see ``before``. Nothing above log₂(candidates + 1) can be seen: ``saturated``
    is the share there.

    Args:
        run: The run.
        canaries: How many to slip in; or sequences that were in the training data already, shape (n, length),
            inputs and last target: then no step is taken.
        secret: Tokens at the end in which candidates differ.
        candidates: Other secrets to compare with.
        steps: Steps to take with the canaries among the examples.
        generator: Draws canaries and candidates; a fixed seed if omitted.
        budget: Limit; a product counts as two steps.

    Returns:
        Mean exposure in bits, with the standard error over canaries. ``details``: ``exposures``, ``before`` (mean
        before the steps; NaN for canaries of the user's), ``ranks``, ``most`` (bits that could be seen),
        ``saturated``, ``repeats`` (how often each was shown), ``unseen`` (1.44, what chance gives). Not applicable
        where targets are not next tokens.

    Raises:
        InputError: A setting is out of range.

    References:
        Carlini et al. (2019), arXiv:1802.08232, §4.

    >>> exposure_of(np.array([0.5]), np.array([[0.7, 0.9, 0.4]])).tolist()  # second of four: 2 - 1
    [1.0]
    """
    _check(canaries, secret, candidates, steps)
    if run.batch_loss is None:
        return not_applicable(NAME, "The run has only a step(batch); pass batch_loss to rank by.", unit="bit")
    form = token_form(run.probe("train", 256))
    if form is None:
        return not_applicable(
            NAME,
            "The data are not sequences whose targets are the next tokens, so nothing can be slipped in.",
            unit="bit",
        )
    clock = Budget.of(budget).start()
    if (answer := stopped(NAME, run, clock, unit="bit")) is not None:
        return answer
    if clock.products is not None and not isinstance(canaries, Tensor) and clock.products < steps // 2:
        return out_of_budget(NAME, unit="bit")
    return _measured(run, form, canaries, min(secret, form.length - 1), candidates, steps, generator, clock)


def _check(canaries: int | Tensor, secret: int, candidates: int, steps: int) -> None:
    count = len(canaries) if isinstance(canaries, Tensor) else canaries
    if count < 1 or secret < 1 or candidates < 1 or steps < 1:
        raise InputError(
            f"canaries is {count}, secret {secret}, candidates {candidates}, steps {steps}; all must be at least 1."
        )


def _measured(
    run: Run,
    form: TokenForm,
    canaries: int | Tensor,
    secret: int,
    candidates: int,
    steps: int,
    generator: torch.Generator | None,
    clock: Clock,
) -> Measurement:
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    alphabet = torch.unique(_seen_tokens(run))
    given = isinstance(canaries, Tensor)
    planted = canaries if given else _draw(alphabet, (canaries, form.length), source)  # type: ignore[arg-type]
    if planted.shape[1:] != (form.length,):
        raise InputError(
            f"canaries have shape {tuple(planted.shape)}; sequences here have {form.length} tokens, "
            f"so the shape must be (n, {form.length})."
        )
    planted = planted.to(run.device)
    others = torch.stack([_others(c, alphabet, secret, candidates, source) for c in planted])
    losses = _losses(run, form, planted, others, clock)
    if losses is None:
        return out_of_budget(NAME, unit="bit")
    before, taken = float("nan"), 0
    if not given:
        before = float(exposure_of(*losses).mean())
        trained = _trained(run, form, planted, others, steps, clock)
        if trained is None:
            return out_of_budget(NAME, unit="bit")
        losses, taken = trained
    if not all(np.isfinite(part).all() for part in losses):
        return no_answer(NAME, "A loss is NaN or infinite.", unit="bit", state=State.NON_FINITE)
    return _answer(losses, before, taken, steps, given)


def _seen_tokens(run: Run) -> Tensor:
    """Tokens that occur in some of the training data."""
    return split_batch(run.probe("train", 256))[0]


def _draw(alphabet: Tensor, shape: tuple[int, ...], source: torch.Generator) -> Tensor:
    chosen = torch.randint(len(alphabet), shape, generator=source, device=source.device)
    return alphabet[chosen.to(alphabet.device)]


def _others(canary: Tensor, alphabet: Tensor, secret: int, count: int, source: torch.Generator) -> Tensor:
    """The canary with other secrets, shape (candidates, length): all of them where they are few."""
    size = len(alphabet)
    if secret * math.log(size) <= math.log(count + 1):
        ends = torch.cartesian_prod(*[alphabet] * secret).reshape(-1, secret)
        ends = ends[(ends != canary[-secret:].to(ends.device)).any(1)]
    else:
        ends = _draw(alphabet, (count, secret), source)
        while bool((same := (ends == canary[-secret:].to(ends.device)).all(1)).any()):
            ends[same] = _draw(alphabet, (int(same.sum()), secret), source)  # a canary is no candidate
    ends = ends.to(canary.device, canary.dtype)
    return torch.cat([canary[:-secret].expand(len(ends), -1), ends], dim=1)


def _losses(
    run: Run, form: TokenForm, planted: Tensor, others: Tensor, clock: Clock
) -> tuple[np.ndarray, np.ndarray] | None:
    """Losses of the canaries, shape (canaries,), and of their candidates, shape (canaries, candidates)."""
    objective = run.objective(probe=1)
    own, theirs = [], []
    for canary, candidates in zip(planted, others, strict=True):
        if clock.deadline is not None and clock.exhausted():
            return None
        batch = form.batch(torch.cat([canary[None], candidates]))
        rows = objective.on([batch]).per_example_losses().double().cpu().numpy()
        own.append(rows[0])
        theirs.append(rows[1:])
        run.work = run.work + Cost(forwards=len(rows) / max(run.stream.batch_size, 1))
    return np.array(own), np.array(theirs)


def _trained(
    run: Run, form: TokenForm, planted: Tensor, others: Tensor, steps: int, clock: Clock
) -> tuple[tuple[np.ndarray, np.ndarray], int] | None:
    """The same losses after some steps with a canary in every batch, and how many of those there were."""
    shown = 0

    def slip_in(batch: Any) -> Any:
        nonlocal shown
        batch = batch if old is None else old(batch)
        if not form.fits(batch) or not _batches.size_of(batch):
            return batch
        chosen = planted[shown % len(planted)]
        shown += 1
        return form.put(batch, slice(0, 1), chosen[None])

    old = run.transform
    with _learning.aside(run, "here"):
        run.transform = slip_in
        taken = run.advance(steps, deadline=clock.deadline)
        run.transform = old
        if taken < steps and run.history.failure is None and clock.exhausted():
            return None
        losses = _losses(run, form, planted, others, clock)
    return None if losses is None else (losses, shown)


def exposure_of(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """log₂(candidates + 1) - log₂(rank), shape (canaries,); equal losses share their ranks.

    Args:
        own: Losses of the canaries, shape (canaries,).
        others: Losses of their candidates, shape (canaries, candidates).
    """
    rank = 1 + (others < own[:, None]).sum(1) + (others == own[:, None]).sum(1) / 2
    return np.log2(others.shape[1] + 1) - np.log2(rank)


def _answer(
    losses: tuple[np.ndarray, np.ndarray], before: float, shown: int, steps: int, given: bool
) -> Measurement:
    exposures = exposure_of(*losses)
    value, error = mean_and_error(exposures)
    most = float(np.log2(losses[1].shape[1] + 1))
    details = {
        "exposures": exposures,
        "before": before,
        "ranks": np.exp2(most - exposures),
        "most": most,
        "saturated": float((exposures >= most - 1e-9).mean()),
        "repeats": float("nan") if given else shown / len(exposures),
        "unseen": 1 / math.log(2),
    }
    history = "as they are" if given else f"after {steps} steps with them (before: {before:.2f})"
    words = f"{value:.2f} bits of at most {most:.2f} over {len(exposures)} canaries {history}; unseen ones have 1.44."
    return Measurement(NAME, value, "bit", Status(State.ESTIMATE, words), error, details=details)
