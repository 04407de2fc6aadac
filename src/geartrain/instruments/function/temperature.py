"""Temperature: by which one number all logits must be divided for the probabilities to fit.

Above 1 the network is too sure of itself, below 1 it is too timid. It is the one-parameter remedy for overconfidence
that changes no answer, fitted here by maximum likelihood, with its error and what it would gain.

References:
    Guo et al. (2017), arXiv:1706.04599; White (1982), Econometrica 50, for the error of a misspecified model.

Ledger: 3.30
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.instruments._answers import estimate, forward_price, no_answer
from geartrain.instruments._base import instrument
from geartrain.instruments.function._errors import group_sums, mean_of
from geartrain.instruments.function._said import Said, hear, refusal
from geartrain.instruments.function._view import began
from geartrain.objective import Objective
from geartrain.records import Measurement, State
from geartrain.run import Run

NAME = "temperature"
ITERATIONS = 100


@instrument(needs="data", unit="1", price=forward_price)
def temperature(
    subject: Objective | Run,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the softmax temperature T that maximises the likelihood of the targets, softmax(z / T).

    The likelihood is concave in β = 1/T: Newton's method on Σ_i (⟨z⟩_β - z_{i,y}) = 0, whose derivative, the observed
    Fisher information, is Σ_i Var_β(z_i). Error of T: T² times that of β.

    **Cost**: one forward pass.

    **Assumes** scores that are logits. The stated error holds also where no temperature makes the model right, and
    for sequences ("sandwich" of the scores' spread between examples); ``fisher_error`` assumes that it is right.

    **Misleads** on the data that the network was trained on: there T < 1 means overfitting, not timidity.

    Args:
        subject: An objective, or a run (validation data where it has them).
        generator: Not used: nothing is drawn.
        budget: Time to begin in; one forward pass is the least that can be spent.

    Returns:
        T, a pure number, with its standard error. Details: ``fisher_error``, ``nll_before``, ``nll_after`` (nats per
        answer), ``gain`` (their difference; fitting noise gives 1/(2n) on average) and ``gain_error``, ``log_ratio``
        (ln T over its error: |.| > 2 is a clear departure from 1), ``rows``, ``split``. Without a number where every
        answer is right with room to spare (T → 0) or the scores are of no use (T → ∞).

    Example:
        Logits ±2 that are right in 3 of 4 cases want ln 3 instead:

        >>> model = torch.nn.Linear(1, 2, bias=False).double()
        >>> model.weight.data = torch.tensor([[0.0], [2.0]]).double()
        >>> data = torch.ones(40, 1).double(), (torch.arange(40) % 4 > 0).long()
        >>> result = temperature(Objective(model, torch.nn.functional.cross_entropy, data))
        >>> bool(abs(result.value - 2 / torch.log(torch.tensor(3.0))) < 1e-6)
        True
    """
    view = began(NAME, subject, budget)
    if isinstance(view, Measurement):
        return view
    said = hear(view.objective)
    if (refused := refusal(NAME, said, probable=True)) is not None:
        return refused
    assert said is not None
    return of_answers(said, view.split, view.words)


def of_answers(said: Said, split: str = "given", words: str = "these answers") -> Measurement:
    """The answer from what was said."""
    assert said.labels is not None
    found = fit(said.scores, said.labels)
    details = {"rows": said.rows, "split": split}
    if found.reason:
        sentence = f"{found.reason} ({words}), so the likelihood has no maximum at a finite temperature."
        return no_answer(NAME, sentence, state=State.NOT_CONVERGED, details=details)
    error, fisher = found.errors(said.groups)
    gain, gain_error = mean_of(found.gains.numpy(), said.groups)
    before = float(said.losses.mean())
    details |= {
        "fisher_error": fisher,
        "nll_before": before,
        "nll_after": before - gain,
        "gain": gain,
        "gain_error": gain_error,
        "log_ratio": math.log(found.value) / (error / found.value) if error > 0 else math.nan,
    }
    sentence = f"Dividing the logits by {found.value:.3g} gains {gain:.3g} nats per answer on {words}."
    return estimate(NAME, found.value, error, sentence, details=details)


@dataclass(frozen=True)
class Fit:
    """A fitted temperature.

    Attributes:
        value: T; NaN where there is none.
        reason: Why there is none, or empty.
        scores: Derivative of each row's log-likelihood in β, shape (rows,).
        information: Its variance under the model, summed over rows.
        gains: What each row's loss gains, shape (rows,).
    """

    value: float
    reason: str
    scores: Tensor
    information: float
    gains: Tensor

    def errors(self, groups: np.ndarray) -> tuple[float, float]:
        """Standard error of T that needs no right model, and the one by Fisher information."""
        sums = group_sums(self.scores.numpy(), groups)
        count = len(sums)
        spread = math.sqrt(float(sums @ sums) * count / (count - 1)) if count > 1 else math.nan
        square = self.value**2
        return square * spread / self.information, square / math.sqrt(self.information)


def fit(logits: Tensor, labels: Tensor) -> Fit:
    """Maximum-likelihood temperature of logits, shape (rows, classes), for labels, shape (rows,)."""
    logits = _finite(logits)
    true = logits.gather(1, labels[:, None])[:, 0]
    room = true - logits.max(1).values
    none = torch.zeros(0, dtype=logits.dtype)
    if bool((room >= 0).all()):
        return Fit(math.nan, "Every answer is right: colder is always better", none, 0.0, none)
    if float((logits.mean(1) - true).sum()) >= 0:
        return Fit(math.nan, "The scores point away from the right classes", none, 0.0, none)
    beta = _solve(logits, true)
    mean, variance = _moments(logits, beta)
    gains = (logits.logsumexp(1) - true) - ((beta * logits).logsumexp(1) - beta * true)
    return Fit(1 / beta, "", true - mean, float(variance.sum()), gains)


def _finite(logits: Tensor) -> Tensor:
    """Shifted to a greatest logit of 0; classes that are ruled out stay out at any temperature worth fitting."""
    shifted = logits - logits.max(1, keepdim=True).values
    return shifted.clamp_min(-1e4)


def _moments(logits: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    p = (beta * logits).softmax(1)
    mean = (p * logits).sum(1)
    return mean, (p * (logits - mean[:, None]) ** 2).sum(1)


def _solve(logits: Tensor, true: Tensor) -> float:
    """Root of the increasing function Σ ⟨z⟩_β - z_y, by Newton steps kept inside a bracket."""
    low, high = 0.0, math.inf
    beta = 1.0
    for _ in range(ITERATIONS):
        mean, variance = _moments(logits, beta)
        slope, curvature = float((mean - true).sum()), float(variance.sum())
        low, high = (low, beta) if slope > 0 else (beta, high)
        step = beta - slope / curvature if curvature > 0 else math.nan
        if not low < step < high or step > 4 * beta:
            step = 2 * beta if math.isinf(high) else 0.5 * (low + high)
        if abs(step - beta) <= 1e-12 * beta:
            return step
        beta = step
    return beta
