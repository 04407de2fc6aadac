"""Have the chains mixed, and how exact are their averages? For hundreds of thousands of quantities at once.

Rank-normalised split R-hat, bulk and tail effective sample size, Monte Carlo standard errors, nested R-hat and the
energy diagnostic, as in Vehtari et al. (2021) and Margossian et al. (2024). Draws are arrays of shape
(chains, draws, ...); every trailing entry is a quantity of its own (a weight, an output, a loss), and results have the
trailing shape, in float64. Quantities are worked through in chunks, so that memory stays bounded.

A quantity that never moved has no R-hat and no effective sample size (NaN), unless the chains are stuck at
*different* values (infinite R-hat). A quantity with a NaN or an infinity among its draws is NaN throughout: nothing is
left out in silence.

These numbers find chains that disagree. They cannot find a mode that no chain has visited.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import special
from torch import Tensor

from geartrain.errors import InputError
from geartrain.records import format_number, jsonable

CHUNK_BYTES = 32 * 2**20
"""How much the copies of one chunk of quantities may take; small chunks stay in the cache."""

_COPIES = 8  # of the chunk in eight bytes per draw: keys, order, scores, spectra, ...

RhatMethod = Literal["rank", "bulk", "folded", "split", "identity"]
EssKind = Literal["bulk", "tail", "mean", "sd", "quantile"]
McseKind = Literal["mean", "sd", "quantile"]


@dataclass(frozen=True)
class Mixing:
    """Summary of many quantities; every array has the shape of the quantities.

    Attributes:
        mean: Posterior mean.
        sd: Posterior standard deviation.
        rhat: Rank-normalised split R-hat, the larger of the plain and the folded one.
        ess_bulk: Effective number of draws for the centre.
        ess_tail: Effective number of draws for the 5 % and the 95 % quantile, the smaller one.
        mcse_mean: Monte Carlo standard error of the mean.
        mcse_sd: Monte Carlo standard error of the standard deviation.
        num_chains: Number of chains.
        num_draws: Draws per chain.
    """

    mean: Tensor
    sd: Tensor
    rhat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    mcse_mean: Tensor
    mcse_sd: Tensor
    num_chains: int
    num_draws: int

    @property
    def worst_rhat(self) -> float:
        """Largest R-hat; NaN if no quantity has one."""
        known = self.rhat[~self.rhat.isnan()]
        return float(known.max()) if known.numel() else math.nan

    @property
    def least_ess(self) -> float:
        """Smallest of all bulk and tail effective sample sizes; NaN if no quantity has one."""
        both = torch.cat([self.ess_bulk.flatten(), self.ess_tail.flatten()])
        known = both[~both.isnan()]
        return float(known.min()) if known.numel() else math.nan

    def share_mixed(self, rhat_max: float = 1.01) -> float:
        """Share of the quantities with an R-hat at or below a threshold, among those that have one."""
        known = self.rhat[~self.rhat.isnan()]
        return float((known <= rhat_max).double().mean()) if known.numel() else math.nan

    def mixed(self, rhat_max: float = 1.01, ess_min: float = 400.0) -> bool:
        """Whether every quantity passes the thresholds that Vehtari et al. recommend."""
        return self.worst_rhat <= rhat_max and self.least_ess >= ess_min

    @property
    def sentence(self) -> str:
        """What it says, for people."""
        total, still = self.rhat.numel(), int(self.rhat.isnan().sum())
        if still == total:
            return f"None of {total} quantities moved or all hold NaN: there is nothing to compare."
        left_out = f" ({still} that never moved or hold NaN not counted)" if still else ""
        return (
            f"{self.num_chains} chains of {self.num_draws} draws: R-hat at most {format_number(self.worst_rhat, 4)}, "
            f"{100 * self.share_mixed():.0f} % of {total - still} quantities at or below 1.01{left_out}; "
            f"effective sample size at least {format_number(self.least_ess)}."
        )

    def __str__(self) -> str:
        return self.sentence

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            name: jsonable(v.tolist() if isinstance(v, Tensor) else v) for name, v in self.__dict__.items()
        }


def summary(draws: Tensor | np.ndarray) -> Mixing:
    """Mean, spread, R-hat, effective sample sizes and errors of every quantity, in one pass over the chunks.

    **Cost** About 0.1 ms per quantity on one core at 4 x 500 draws; ranks are shared between the parts.

    Args:
        draws: Shape (chains, draws, ...).

    Returns:
        Arrays of the trailing shape.

    Raises:
        InputError: Fewer than four draws or fewer than two axes.
    """
    x = _checked(draws, chains=1)
    parts = _chunked(x, _summarise, outputs=7)
    return Mixing(*parts, num_chains=x.shape[0], num_draws=x.shape[1])


def rhat(draws: Tensor | np.ndarray, method: RhatMethod = "rank") -> Tensor:
    """R-hat: how much wider the pooled draws spread than each half chain by itself. 1 is mixed, above 1.01 is not.

    R = sqrt((B/W + N - 1) / N) with B = N var(means of half chains) and W the mean of their variances, computed on
    normal scores of the ranks, of the draws (``"bulk"``) and of their distances from the median (``"folded"``);
    ``"rank"`` is the larger. ``"split"`` uses the draws themselves, ``"identity"`` whole chains.

    **Misleads** where all chains sit in the same mode of several, and in weight space, where copies of the same
    network under a symmetry count as different (see `geartrain.sampling.symmetries`).

    Args:
        draws: Shape (chains, draws, ...).
        method: Which variant.

    Returns:
        Shape (...), float64.

    Raises:
        InputError: Fewer than two chains or four draws, or an unknown method.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Bürkner (2021), Bayesian Analysis 16(2), arXiv:1903.08008.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> same = torch.randn(4, 500, generator=g)
        >>> apart = same + torch.tensor([[0.0], [0.0], [3.0], [3.0]])
        >>> round(float(rhat(same)), 2), round(float(rhat(apart)), 1)
        (1.0, 1.6)
    """
    known = {"rank": _rhat_rank, "bulk": _rhat_bulk, "folded": _rhat_folded, "split": _rhat_split}
    known["identity"] = lambda x: _rhat_plain(_standardised(x))
    if method not in known:
        raise InputError(f"method is {method!r}; allowed: {', '.join(known)}.")
    return _chunked(_checked(draws, chains=2), lambda x: (known[method](x),))[0]


def ess(draws: Tensor | np.ndarray, kind: EssKind = "bulk", prob: float = 0.05) -> Tensor:
    """Effective sample size: how many independent draws would give the same error.

    N / tau with tau = 1 + 2 sum of autocorrelations over all chains, cut off by Geyer's initial monotone positive
    sequence; antithetic chains may exceed the number of draws, up to N log10 N.

    Args:
        draws: Shape (chains, draws, ...).
        kind: ``"bulk"`` (normal scores of ranks), ``"tail"`` (the worse of the quantiles ``prob`` and ``1 - prob``),
            ``"mean"``, ``"sd"`` (of the squared deviations) or ``"quantile"`` (at ``prob``).
        prob: The quantile.

    Returns:
        Shape (...), float64.

    Raises:
        InputError: Fewer than four draws, an unknown kind, or a probability outside (0, 1).
    """
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "bulk": _ess_bulk,
        "tail": lambda x: torch.fmin(_ess_quantile(x, prob), _ess_quantile(x, 1 - prob)),
        "mean": lambda x: _geyer(_split(_standardised(x))),
        "sd": lambda x: _geyer(_split(_standardised(x) ** 2)),
        "quantile": lambda x: _ess_quantile(x, prob),
    }
    if kind not in known:
        raise InputError(f"kind is {kind!r}; allowed: {', '.join(known)}.")
    _check_probability(prob)
    return _chunked(_checked(draws, chains=1), lambda x: (known[kind](x),))[0]


def mcse(draws: Tensor | np.ndarray, kind: McseKind = "mean", prob: float = 0.5) -> Tensor:
    """Monte Carlo standard error of a posterior mean, standard deviation or quantile, in the unit of the draws.

    Args:
        draws: Shape (chains, draws, ...).
        kind: Of what.
        prob: Which quantile, for ``"quantile"``.

    Returns:
        Shape (...), float64.

    Raises:
        InputError: Fewer than four draws, an unknown kind, or a probability outside (0, 1).
    """
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda x: _moments(x)[1] / _geyer(_split(_standardised(x))).sqrt(),
        "sd": _mcse_sd,
        "quantile": lambda x: _mcse_quantile(x, prob),
    }
    if kind not in known:
        raise InputError(f"kind is {kind!r}; allowed: {', '.join(known)}.")
    _check_probability(prob)
    return _chunked(_checked(draws, chains=1), lambda x: (known[kind](x),))[0]


def nested_rhat(draws: Tensor | np.ndarray, groups: Sequence[int]) -> Tensor:
    """Nested R-hat, for many short chains: groups of chains that started from the same point are compared.

    sqrt(1 + variance between groups / variance within groups), on rank-normalised split chains.

    Args:
        draws: Shape (chains, draws, ...).
        groups: The group of each chain; all groups of the same size.

    Returns:
        Shape (...), float64.

    Raises:
        InputError: Not one group per chain, fewer than two groups, or groups of different sizes.

    References:
        Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari, Gelman (2024), arXiv:2110.13017.
    """
    x = _checked(draws, chains=2)
    ids = np.asarray(groups)
    names, sizes = np.unique(ids, return_counts=True)
    if ids.shape != (x.shape[0],):
        raise InputError(f"groups has shape {ids.shape}; allowed: one group for each of {x.shape[0]} chains.")
    if len(names) < 2 or len(set(sizes.tolist())) > 1:
        raise InputError(
            f"The groups have {sizes.tolist()} chains; allowed: two groups or more, all of the same size."
        )
    order = torch.from_numpy(np.argsort(ids, kind="stable"))

    def nested(part: Tensor) -> tuple[Tensor]:
        halves = _split(part[:, order]).unflatten(1, (2, len(names), -1)).transpose(1, 2).flatten(2, 3)
        count = halves.shape[1:]
        plain = _nested(_scores(halves.flatten(1)).unflatten(1, count))
        folded = _nested(_scores(_fold(halves.flatten(1)), folded=True).unflatten(1, count))
        return (torch.fmax(plain, folded),)

    return _chunked(x, nested)[0]


def bfmi(energies: Tensor | np.ndarray) -> Tensor:
    """Energy diagnostic per chain: mean squared change of the energy over its variance. Below 0.3: too slow.

    Small values say that fresh momenta change the energy too little to reach the tails.

    Args:
        energies: Total energy of the Hamiltonian at every draw, shape (chains, draws).

    Returns:
        Shape (chains,).

    Raises:
        InputError: Not of shape (chains, draws) with at least four draws.

    References:
        Betancourt (2016), arXiv:1604.00695.
    """
    x = torch.as_tensor(energies)
    if x.ndim != 2 or x.shape[1] < 4:
        raise InputError(
            f"energies has shape {tuple(x.shape)}; it must be (chains, draws), with four draws or more."
        )
    x = x.double()
    return x.diff(dim=1).square().sum(1) / (x - x.mean(1, keepdim=True)).square().sum(1)


# ------------------------------------------------------------------ chunks


def _checked(draws: Tensor | np.ndarray, chains: int) -> Tensor:
    x = torch.as_tensor(draws)
    if x.ndim < 2 or x.shape[0] < chains or x.shape[1] < 4:
        raise InputError(
            f"The draws have shape {tuple(x.shape)}; it must be (chains, draws, ...) with {chains} chains or more and "
            "four draws or more. Sample longer, or more chains."
        )
    return x if x.dtype in {torch.float32, torch.float64} else x.double()


def _check_probability(prob: float) -> None:
    if not 0 < prob < 1:
        raise InputError(f"prob is {prob}; allowed: between 0 and 1, both excluded.")


def _chunked(x: Tensor, work: Callable[[Tensor], tuple[Tensor, ...]], outputs: int = 1) -> tuple[Tensor, ...]:
    """Apply ``work`` to pieces of shape (quantities, chains, draws); quantities with NaN or infinity give NaN."""
    shape, flat = x.shape[2:], x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
    count = flat.shape[2]
    step = max(1, CHUNK_BYTES // (8 * _COPIES * flat.shape[0] * flat.shape[1]))
    results = torch.full((outputs, count), torch.nan, dtype=torch.float64, device=x.device)
    for start in range(0, count, step):
        part = flat[:, :, start : start + step].permute(2, 0, 1).contiguous()
        good = part.flatten(1).isfinite().all(1)
        if good.all():
            results[:, start : start + step] = torch.stack([r.double() for r in work(part)])
        elif good.any():
            found = torch.stack([r.double() for r in work(part[good])])
            results[:, start : start + step][:, good] = found
    return tuple(row.reshape(shape) for row in results)


def _summarise(x: Tensor) -> tuple[Tensor, ...]:
    halves = _split(x)
    flat = halves.flatten(1)
    order = _order(flat)
    scores = _scores_from(flat, order).view_as(halves)
    plain = _rhat_plain(scores)
    folded = _rhat_plain(_scores(_fold(flat, order), folded=True).view_as(halves))
    # With an odd number of draws the middle one is in no half, but belongs to the quantiles.
    whole = order if x.shape[2] % 2 == 0 else None
    tails = [_ess_quantile(x, p, flat if whole is not None else None, whole) for p in (0.05, 0.95)]
    mean, sd = _moments(x)
    z = _standardised(x)
    error = sd / _geyer(_split(z)).sqrt()
    largest = torch.fmax(plain, folded) if x.shape[1] > 1 else torch.full_like(plain, torch.nan)
    return mean, sd, largest, _geyer(scores), torch.fmin(*tails), error, _mcse_sd(x, z)


# ------------------------------------------------------------------ ranks


def _split(x: Tensor) -> Tensor:
    """(q, chains, draws) -> (q, 2 chains, draws // 2), first halves of all chains first."""
    half = x.shape[2] // 2
    return torch.cat([x[:, :, :half], x[:, :, -half:]], dim=1)


def _order(x: Tensor) -> Tensor:
    """Indices that sort each row; shape as ``x``, int64."""
    if x.device.type != "cpu":
        return x.sort(dim=-1).indices
    if x.dtype != torch.float32:
        return torch.from_numpy(np.argsort(x.numpy(), axis=-1))
    # Sorting (value, index) packed into one integer is several times faster than argsort: floats order as their
    # bits do, except that the negative ones run backwards. Adding 0 turns -0 into 0.
    bits = (x + 0.0).numpy().view(np.int32)
    keys = np.empty(x.shape, np.int64)
    halves = keys.view(np.int32).reshape(*x.shape, 2)
    low, high = (0, 1) if sys.byteorder == "little" else (1, 0)
    halves[..., high] = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    halves[..., low] = np.arange(x.shape[-1])
    keys.sort(axis=-1)
    return torch.from_numpy(halves[..., low].astype(np.int64))


def _normal_scores(size: int, like: Tensor) -> Tensor:
    """Normal quantiles of the ranks 1, 1.5, 2, ..., size (halves are averages of ties)."""
    ranks = np.arange(2, 2 * size + 1) / 2
    table = special.ndtri((ranks - 0.375) / (size + 0.25))
    return torch.from_numpy(table).to(like)


def _scores(x: Tensor, folded: bool = False) -> Tensor:
    return _scores_from(x, _order(x), folded)


def _scores_from(x: Tensor, order: Tensor, folded: bool = False) -> Tensor:
    """Normal scores of the ranks within each row, ties averaged; (q, size)."""
    size = x.shape[-1]
    table = _normal_scores(size, x)
    sorted_scores = table[::2].expand(x.shape).contiguous()
    ascending = x.gather(-1, order)
    same = ascending[:, 1:] == ascending[:, :-1]
    if folded and size % 2 == 0:
        # The two draws beside the median are equally far from it by construction, whatever rounding says.
        sorted_scores[:, :2] = table[1]
        same[:, 0] = same[:, 0] & same[:, 1]
    rows = same.any(1)
    if rows.any():
        sorted_scores[rows] = table[_twice_average_rank(same[rows]) - 2]
    return torch.empty_like(x).scatter_(-1, order, sorted_scores)


def _twice_average_rank(same: Tensor) -> Tensor:
    """Twice the average rank, from which neighbours in sorted order are equal; (q, size - 1) -> (q, size)."""
    edge = torch.ones_like(same[:, :1])
    first, last = torch.cat([edge, ~same], 1), torch.cat([~same, edge], 1)
    size = first.shape[1]
    ranks = torch.arange(1, size + 1, device=same.device).expand_as(first)
    start = torch.where(first, ranks, 0).cummax(1).values
    end = torch.where(last, ranks, size + 1).flip(1).cummin(1).values.flip(1)
    return start + end


def _fold(x: Tensor, order: Tensor | None = None) -> Tensor:
    """Distance from the median of the row."""
    return (x - _quantile(x, 0.5, order)).abs()


def _quantile(x: Tensor, prob: float, order: Tensor | None = None) -> Tensor:
    """Quantile of each row by linear interpolation, (q, 1)."""
    order = _order(x) if order is None else order
    place = prob * (x.shape[1] - 1)
    low = min(int(place), x.shape[1] - 2)
    two = x.gather(1, order[:, low : low + 2])
    return two[:, :1] + (two[:, 1:] - two[:, :1]) * (place - low)


# ------------------------------------------------------------------ R-hat


def _rhat_rank(x: Tensor) -> Tensor:
    halves = _split(x)
    flat = halves.flatten(1)
    order = _order(flat)
    plain = _rhat_plain(_scores_from(flat, order).view_as(halves))
    return torch.fmax(plain, _rhat_plain(_scores(_fold(flat, order), folded=True).view_as(halves)))


def _rhat_bulk(x: Tensor) -> Tensor:
    halves = _split(x)
    return _rhat_plain(_scores(halves.flatten(1)).view_as(halves))


def _rhat_folded(x: Tensor) -> Tensor:
    halves = _split(x)
    return _rhat_plain(_scores(_fold(halves.flatten(1)), folded=True).view_as(halves))


def _rhat_split(x: Tensor) -> Tensor:
    return _rhat_plain(_split(_standardised(x)))


def _rhat_plain(x: Tensor) -> Tensor:
    """R-hat of the chains as they are, (q, chains, draws) -> (q,)."""
    num = x.shape[2]
    # The variance of a constant is not always zero in floating point.
    # What a constant varies by in floating point is not always zero, so constants are found by comparing.
    low, high = x.aminmax(dim=2)
    means = torch.where(low == high, low, x.mean(2))
    within = torch.where(low == high, 0.0, _square_sum(x - means[:, :, None]) / (num - 1)).double().mean(1)
    between = means.double().var(1)
    value = ((num * between / within + num - 1) / num).sqrt()
    return torch.where(low.amin(1) == high.amax(1), torch.nan, value)


def _square_sum(x: Tensor) -> Tensor:
    """Sum of squares along the last axis."""
    return torch.linalg.vector_norm(x, dim=-1).square()


def _nested(x: Tensor) -> Tensor:
    """Nested R-hat of (q, groups, chains of a group, draws)."""
    x = x.double()
    means = x.mean(3)
    between_chains = means.var(2) if x.shape[2] > 1 else torch.zeros_like(means[:, :, 0])
    within = (x.var(3).mean(2) + between_chains).mean(1)
    return (1 + means.mean(2).var(1) / within).sqrt()


# ------------------------------------------------------------------ effective sample size


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (ddof 1) over chains and draws, in float64."""
    flat = x.flatten(1).double()
    mean = flat.mean(1)
    return mean, (_square_sum(flat - mean[:, None]) / (flat.shape[1] - 1)).sqrt()


def _standardised(x: Tensor) -> Tensor:
    """Mean zero and largest deviation one, so that neither offset nor scale costs digits."""
    wide = x.double()
    wide = wide - wide.mean((1, 2), keepdim=True)
    low, high = wide.flatten(1).aminmax(dim=1)
    scale = torch.maximum(-low, high)[:, None, None]
    return (wide / torch.where(scale > 0, scale, 1.0)).to(x.dtype)


def _ess_bulk(x: Tensor) -> Tensor:
    halves = _split(x)
    return _geyer(_scores(halves.flatten(1)).view_as(halves))


def _ess_quantile(x: Tensor, prob: float, flat: Tensor | None = None, order: Tensor | None = None) -> Tensor:
    """Effective draws for a quantile: those of the indicator of being at or below it."""
    level = _quantile(x.flatten(1) if flat is None else flat, prob, order)
    return _geyer(_split((x <= level[:, :, None]).to(x.dtype)))


def _geyer(x: Tensor) -> Tensor:
    """Effective sample size of chains as they are, (q, chains, draws) -> (q,); NaN for what never moves."""
    chains, num = x.shape[1], x.shape[2]
    total = chains * num
    covariance, means = _autocovariance(x)
    within = covariance[:, 0] * num / (num - 1)
    pooled = covariance[:, 0] + (means.var(1) if chains > 1 else 0.0)
    rho = 1 - (within[:, None] - covariance) / pooled[:, None]
    rho[:, 0] = 1.0
    # Pairs of neighbouring lags; the last one looked at is the first whose sum is not positive.
    pairs = max(1, (num - 1) // 2)
    even, odd = rho[:, 0 : 2 * pairs : 2], rho[:, 1 : 2 * pairs : 2]
    sums = even + odd
    ended = sums <= 0
    last = torch.where(ended.any(1), ended.int().argmax(1), pairs - 1)
    monotone = sums.cummin(1).values
    used = torch.arange(pairs, device=x.device) < last[:, None]
    tail = even.gather(1, last[:, None])[:, 0]
    tail = torch.where(ended.any(1), tail.clamp_min(0), tail)
    tau = -1 + 2 * (monotone * used).sum(1) + tail
    size = total / tau.clamp_min(1 / math.log10(total))
    low, high = x.flatten(1).aminmax(dim=1)
    return torch.where(low == high, torch.nan, size)


def _autocovariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Autocovariance at every lag averaged over chains, (q, draws), divided by the number of draws; and chain means."""
    num = x.shape[2]
    means = x.mean(2)
    length = _fast_length(2 * num - 1)
    spectrum = torch.fft.rfft(x - means[:, :, None], n=length)
    power = (spectrum.real.square() + spectrum.imag.square()).mean(1)
    return (torch.fft.irfft(power, n=length)[:, :num] / num).double(), means.double()


def _fast_length(least: int) -> int:
    """The next length without prime factors above five."""
    while True:
        rest = least
        for p in (2, 3, 5):
            while rest % p == 0:
                rest //= p
        if rest == 1:
            return least
        least += 1


# ------------------------------------------------------------------ errors


def _mcse_sd(x: Tensor, z: Tensor | None = None) -> Tensor:
    """Delta method: sd(s) = sd(mean of squared deviations) / (2 s)."""
    z = _standardised(x) if z is None else z
    squares = z.square()
    size = _geyer(_split(squares))
    flat = squares.flatten(1).double()
    variance = flat.mean(1)
    spread = _square_sum(flat - variance[:, None]) / flat.shape[1]
    in_units_of_scale = (spread / size / variance / 4).sqrt()
    return in_units_of_scale * _moments(x)[1] / _moments(z)[1]


def _mcse_quantile(x: Tensor, prob: float) -> Tensor:
    """Half the distance of the quantiles at the 16 % and 84 % points of the Beta law of the order statistic."""
    flat = x.flatten(1)
    total = flat.shape[1]
    size = _ess_quantile(x, prob).cpu().numpy()
    ascending = flat.sort(1).values
    ends = []
    for p, rounding in ((0.1586553, np.floor), (0.8413447, np.ceil)):
        place = special.betaincinv(size * prob + 1, size * (1 - prob) + 1, p) * total - 1
        index = np.clip(np.nan_to_num(rounding(place)), 0, total - 1).astype(np.int64)
        ends.append(ascending.gather(1, torch.from_numpy(index).to(x.device)[:, None])[:, 0].double())
    error = (ends[1] - ends[0]) / 2
    return torch.where(torch.from_numpy(np.isnan(size)).to(x.device), torch.nan, error)
