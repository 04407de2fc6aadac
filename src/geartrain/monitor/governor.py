"""The governor: how often each group may be measured so that all of them stay within a share of the time.

Nothing is assumed about prices: what a group costs is timed whenever it is measured, what a plain step takes is what
is left. Every few steps the allowance (a share of the plain step) is divided: cheap groups run as often as their
price class permits, what they leave goes to the dear ones, whose periods grow until they fit. What was spent too
much (the first trials, a slow moment) is saved on later.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

WINDOW = 32
"""Steps between two plans."""

MEMORY = 256
"""Steps from which hidden costs are told."""

TIMED = 0.85
"""Share of the allowance that is planned with; the rest is for what no clock in here sees (calls of the hooks)."""

GRACE = 0.25
"""Seconds in all that may be spent beyond the share, at no more than ten times its rate."""

HORIZON = 128
"""Steps over which debts are paid back."""

TRIALS = 2
"""Times that every group is measured before the plan decides: the first time is slower than all others."""

LAZIEST = 9
"""Of so many stretches of steps at least one is looked at."""

LONGEST = 100_000
"""No period is longer: what never fits is all but never measured."""


_NOBODY: frozenset[str] = frozenset()


@dataclass
class Account:
    """What is known of one group.

    Attributes:
        least: Shortest period that its price class permits, in steps.
        length: Successive steps that one occurrence takes.
        fixed: Period that the user asked for; the plan leaves it alone.
        period: Steps from the start of one occurrence to the next.
        start: Step at which the next occurrence starts.
        begun: Step at which the last one started.
        under_way: Steps that are left of the present one.
        occurrences: Finished ones.
        spent: Seconds in all.
        running: Seconds of the present one.
        open: Whether its price is still to be settled.
        costs: Seconds of the last occurrences.
        hidden: Seconds that an occurrence takes beyond its own, because it empties the caches, say.
        off: Why it is never measured, or ``None``.
    """

    least: int
    length: int = 1
    fixed: int | None = None
    period: int = 1
    start: int = 0
    begun: int | None = None
    under_way: int = 0
    occurrences: int = 0
    spent: float = 0.0
    running: float = 0.0
    open: bool = False
    hidden: float = 0.0
    costs: deque[float] = field(default_factory=lambda: deque(maxlen=5))
    off: str | None = None

    @property
    def cost(self) -> float | None:
        """Seconds of one occurrence; ``None`` until one was timed."""
        return statistics.median(self.costs) if self.costs else None

    @property
    def price(self) -> float:
        """Seconds that an occurrence makes the loop longer, as far as known."""
        return (self.cost or 0.0) + self.hidden


class Governor:
    """Decides at every step which groups are due.

    Args:
        least: Shortest period of each group, by name, cheapest first.
        share: Share of the plain step that everything together may take; ``None``: every group as often as it may.
        lengths: Successive steps that an occurrence of a group takes, where more than one.
        fixed: Periods that are not to be changed, by name.
        grace: Seconds in all that may be spent beyond the share: else a loop of a second would hardly be seen.
        agree: Makes the times of all processes the same, so that they measure at the same steps.

    Attributes:
        accounts: By name of the group.
        plain: Seconds of a step without the monitor (median of the last ones); NaN until known.
        own: Seconds spent by the monitor in all.
        total: Seconds of all steps without the monitor.
        rest: Steps that the monitor should sleep through after the last plan, because even looking on (a few
            microseconds per step) would be too dear; 0 unless steps are very short.
    """

    def __init__(
        self,
        least: Mapping[str, int],
        share: float | None = 0.05,
        *,
        lengths: Mapping[str, int] | None = None,
        fixed: Mapping[str, int] | None = None,
        grace: float = GRACE,
        agree: Callable[[Sequence[float]], Sequence[float]] | None = None,
    ) -> None:
        self.share = share
        self.agree = agree or list
        self.accounts = {
            name: Account(shortest, (lengths or {}).get(name, 1), (fixed or {}).get(name))
            for name, shortest in least.items()
        }
        self.plain = math.nan
        self.own = self.total = 0.0
        self._allowed = grace
        self._base = self._unseen = 0.0
        self._steps_since = self._awake = 0
        self._own_now = 0.0
        self._touched = False
        self._plain_times: deque[float] = deque(maxlen=WINDOW)
        for place, account in enumerate(self.accounts.values()):
            account.start = 0 if share is None or account.fixed else 3 * place
            account.period = account.fixed or (account.least if share is None else 3 * len(self.accounts))
        self._next_plan = 3 * len(self.accounts)
        self._log: deque[tuple[float, frozenset[str]]] = deque(maxlen=MEMORY)
        self.rest = 0
        self._wake = 0
        self._asked: tuple[int, frozenset[str]] = (-1, _NOBODY)

    # ------------------------------------------------------------------ what is due

    def due(self, step: int) -> frozenset[str]:
        """Names of the groups that are to be measured at a step; to be asked for every step, in order."""
        if step == self._asked[0]:  # asked again: the watching was stopped and started in between
            return self._asked[1]
        if step < self._wake:
            return _NOBODY
        found = frozenset(name for name, account in self.accounts.items() if self._is_due(account, step))
        busy = any(a.under_way for a in self.accounts.values())
        self._wake = (
            0 if busy else min((a.start for a in self.accounts.values() if a.off is None), default=LONGEST)
        )
        self._asked = (step, found)
        return found

    def _is_due(self, account: Account, step: int) -> bool:
        if account.off is not None:
            return False
        if account.under_way == 0 and step >= account.start:
            account.begun, account.under_way = step, account.length
            account.start = step + account.period
            if account.fixed:  # at multiples of the period, whatever happened before
                account.start = (step // account.fixed + 1) * account.fixed
        if account.under_way == 0:
            return False
        account.under_way -= 1
        account.open = self._touched = True
        return True

    def switch_off(self, name: str, reason: str) -> None:
        """Never measure a group again, because it cannot be had here."""
        self.accounts[name].off = reason
        self._wake = 0

    # ------------------------------------------------------------------ what it costs

    def charge(self, name: str | None, seconds: float) -> None:
        """Put seconds on the account of a group; ``None``: what is spent at every step in any case."""
        self._own_now += seconds
        if name is None:
            self._base += seconds
        else:
            self.accounts[name].running += seconds

    def end_step(self, step: int, seconds: float) -> None:
        """Close a step.

        Args:
            step: Which one, counted from 0.
            seconds: From the end of the step before to the end of this one, the monitor's own time included.
        """
        if self._touched:
            self._close()
        plain = max(seconds - self._own_now, 0.0)
        self.own += self._own_now
        self.total += plain
        self._own_now = 0.0
        self._plain_times.append(plain)
        self._log.append((plain, self._asked[1] if self._asked[0] == step else _NOBODY))
        self._steps_since += 1
        self._awake += 1
        if step + 1 >= self._next_plan:
            self._plan(step + 1)

    def quiet(self, step: int) -> bool:
        """Whether nothing is due at this step and the next, and no plan is to be made: `pass_by` is enough then."""
        return step + 1 < self._wake and step + 1 < self._next_plan and not self._touched

    def pass_by(self, step: int, own: float, seconds: float) -> None:
        """`charge` and `end_step` for a quiet step, in one and in no time."""
        own += self._own_now
        self._base += own
        self._own_now = 0.0
        plain = seconds - own
        self.own += own
        self.total += plain
        self._plain_times.append(plain)
        self._log.append((plain, _NOBODY))
        self._steps_since += 1
        self._awake += 1

    def slept(self, step: int, steps: int, seconds: float) -> None:
        """Account for steps that were not looked at; ``step`` is the last of them."""
        self.total += max(seconds, 0.0)
        self._steps_since += steps
        self._next_plan = step + 1 + WINDOW

    def _close(self) -> None:
        """Occurrences that are complete get their price."""
        self._touched = False
        for account in self.accounts.values():
            if account.open and account.under_way == 0:
                account.open = False
                account.costs.append(account.running)
                account.spent += account.running
                self._unseen += account.hidden
                account.running = 0.0
                account.occurrences += 1
            self._touched = self._touched or account.open

    def retired(self) -> Governor:
        """A copy that remembers what everything cost and decides nothing any more: for pickling."""
        twin = copy.copy(self)
        twin.agree = list
        return twin

    @property
    def own_now(self) -> float:
        """Seconds spent by the monitor since the end of the last step."""
        return self._own_now

    @property
    def overhead(self) -> float:
        """Share of the plain time taken so far, hidden costs included; NaN before the first step."""
        plain = self.total - self._unseen
        return (self.own + self._unseen) / plain if plain > 0 else math.nan

    # ------------------------------------------------------------------ the plan

    def _plan(self, step: int) -> None:
        young = step < 3 * TRIALS * len(self.accounts)
        self._next_plan = step + (3 * len(self.accounts) if young else WINDOW)
        if self.share is None:
            self.plain = statistics.median(self._plain_times)
            return
        # A pause of the loop (an evaluation, a breakpoint) earns nothing: hence the median.
        plain = statistics.median(self._plain_times)
        share = TIMED * self.share
        self._allowed += share * plain * self._steps_since
        base, credit = self._base / self._awake, self._allowed - self.own - self._unseen
        if not young:
            self._look_for_hidden_costs()
        free = [a for a in self.accounts.values() if a.off is None and a.fixed is None]
        costs = [a.price for a in free]
        # The largest of every time that is spent and the smallest of what may be.
        agreed = list(self.agree([base, -plain, -credit, *costs]))
        base, self.plain, credit, costs = agreed[0], -agreed[1], -agreed[2], agreed[3:]
        self._base, self._steps_since, self._awake = 0.0, 0, 0
        allowance = share * self.plain
        allowance += min(max(credit / HORIZON, -0.75 * allowance), 9.0 * allowance)
        base = base if young else self._doze(base, allowance)
        taken = sum(a.price / a.fixed for a in self.accounts.values() if a.fixed and a.off is None)
        periods = ration(costs, [a.least for a in free], max(allowance - base - taken, 0.0))
        for account, period in zip(free, periods, strict=True):
            if account.costs:
                self._set(account, period, step)
        self._wake = 0

    def _doze(self, base: float, allowance: float) -> float:
        """Steps to sleep through, where looking on takes more than half of what is allowed; what it then takes."""
        self.rest = 0
        if base > 0.5 * allowance:
            share_awake = max(0.5 * allowance / base, 1 / LAZIEST)
            self.rest = math.ceil(WINDOW * (1 / share_awake - 1))
            return base * share_awake
        return base

    def _look_for_hidden_costs(self) -> None:
        """What steps take longer when a group was measured in them or just before, beyond its own time."""
        if len(self._log) >= MEMORY // 4:
            for name, seconds in hidden_costs(list(self._log), list(self.accounts)).items():
                account = self.accounts[name]
                # A slow moment must not make anything priceless.
                account.hidden = min(seconds * account.length, 2.0 * (account.cost or 0.0))

    @staticmethod
    def _set(account: Account, period: int, step: int) -> None:
        if account.occurrences < TRIALS + 2:
            # The first times are slower: they are not to be believed for long.
            period = min(period, max(2 * WINDOW, period // 4))
        account.period = period
        begun = account.begun if account.begun is not None else step
        account.start = max(begun + period, step)


def hidden_costs(log: Sequence[tuple[float, frozenset[str]]], names: Sequence[str]) -> dict[str, float]:
    """How much longer a plain step takes when a group is measured in it, and the step after it; 0 unless it is clear.

    Least squares of the times on what was due in the step and in the one before, pauses left out; of each estimate
    one standard error is taken off, as most groups have no hidden cost at all.
    """
    times = np.array([seconds for seconds, _ in log])
    due = np.array([[float(name in found) for name in names] for _, found in log])
    design = np.concatenate([due[1:], due[:-1]], axis=1)
    times = times[1:]
    kept = times <= 2.0 * np.median(times)
    design, times = design[kept] - design[kept].mean(0), times[kept] - times[kept].mean()
    gram = design.T @ design
    inverse = np.linalg.pinv(gram, rcond=1e-6, hermitian=True)
    slopes = inverse @ (design.T @ times)
    variance = float(np.square(times - design @ slopes).sum()) / max(len(times) - 2 * len(names) - 1, 1)
    count, found = len(names), {}
    for i, name in enumerate(names):
        pick = np.zeros(2 * count)
        pick[[i, i + count]] = 1.0
        # What was due always, never, or together with another cannot be told apart.
        known = bool(np.allclose(gram @ (inverse @ pick), pick, atol=1e-3))
        error = math.sqrt(max(variance * float(pick @ inverse @ pick), 0.0))
        found[name] = max(float(pick @ slopes) - error, 0.0) if known else 0.0
    return found


def ration(costs: Sequence[float], least: Sequence[int], allowance: float) -> list[int]:
    """Periods at which Σ cost / period stays within the allowance per step.

    Everybody gets an equal part; who needs less (because of the shortest period) leaves the rest to the others.

    >>> ration([1.0, 1.0, 30.0], [1, 1, 10], 5.0)
    [1, 1, 10]
    >>> ration([1.0, 8.0, 30.0], [1, 1, 10], 5.0)
    [1, 4, 15]
    """
    periods = [LONGEST] * len(costs)
    waiting = sorted(range(len(costs)), key=lambda i: costs[i] / least[i])
    left = allowance
    while waiting:
        first, part = waiting[0], left / len(waiting)
        if costs[first] <= part * least[first]:
            periods[first] = least[first]
            left -= costs[first] / least[first]
            waiting.pop(0)
            continue
        for i in waiting:
            periods[i] = min(max(math.ceil(costs[i] / part), least[i]), LONGEST) if part > 0 else LONGEST
        break
    return periods
