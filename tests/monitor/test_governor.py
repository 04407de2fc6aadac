"""The governor keeps its promise on machines of every speed; there is no clock in these tests."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geartrain.monitor.governor import LAZIEST, WINDOW, Governor, hidden_costs, ration

LEAST = {"norms": 1, "updates": 2, "flow": 10, "noise": 10}


def simulate(governor, costs, steps, *, plain=1.0, base=0.0, first=1.0, start=0):
    """Steps of length ``plain``; the first occurrence of a group is ``first`` times as dear. Returns seconds spent."""
    spent, seen, step = [], {}, start
    while step < start + steps:
        own = base
        governor.charge(None, base)
        for name in governor.due(step):
            price = costs[name] * (first if governor.accounts[name].occurrences == 0 else 1.0)
            governor.charge(name, price)
            seen.setdefault(name, []).append(step)
            own += price
        governor.end_step(step, plain + own)
        spent.append(own)
        step += 1
        if governor.rest:
            rest, governor.rest = governor.rest, 0
            governor.slept(step + rest - 1, rest, rest * plain)
            spent += [0.0] * rest
            step += rest
    return spent, seen


def test_cheap_groups_run_as_often_as_they_may():
    governor = Governor(LEAST, 0.05, lengths={"updates": 2})
    _, seen = simulate(governor, dict.fromkeys(LEAST, 1e-4), 400)
    late = {n: [s for s in steps if s >= 200] for n, steps in seen.items()}
    assert late["norms"] == list(range(200, 400))
    assert late["updates"] == list(range(200, 400))  # pairs, one after the other
    assert {b - a for a, b in zip(late["noise"], late["noise"][1:], strict=False)} == {10}


@settings(max_examples=25, deadline=None)
@given(
    costs=st.lists(st.floats(1e-4, 30.0), min_size=4, max_size=4),
    share=st.floats(0.005, 0.3),
    base=st.floats(0.0, 0.2),
    first=st.floats(1.0, 20.0),
)
def test_the_share_is_kept_whatever_the_prices(costs, share, base, first):
    governor = Governor(LEAST, share)
    simulate(governor, dict(zip(LEAST, costs, strict=True)), 400, base=base, first=first)
    account = governor.accounts.values()
    # Trials and their debts are behind: from here on the mean must fit, but for one occurrence of each group.
    spent, _ = simulate(governor, dict(zip(LEAST, costs, strict=True)), 8_000, base=base, start=10**6)
    floor = base / LAZIEST if base > 0.5 * share else 0.0
    unavoidable = 2 * sum(max(c for c in a.costs) if a.costs else 0.0 for a in account) / len(spent)
    assert sum(spent) / len(spent) <= 1.25 * max(share, 2 * floor) + unavoidable


def test_what_was_spent_too_much_is_saved_later():
    """A hundred times too dear for a while: the mean over the whole run still comes down to the share."""
    governor = Governor({"updates": 1}, 0.05)
    simulate(governor, {"updates": 5.0}, 40)
    after_trials = governor.overhead
    simulate(governor, {"updates": 0.01}, 4000, start=40)
    assert after_trials > 0.1
    assert governor.overhead <= 0.05


def test_a_change_of_prices_is_noticed():
    governor = Governor({"updates": 1}, 0.05)
    simulate(governor, {"updates": 0.01}, 200)
    assert governor.accounts["updates"].period == 1
    simulate(governor, {"updates": 1.0}, 3000, start=200)
    assert governor.accounts["updates"].period >= 20


def test_pauses_of_the_loop_earn_nothing():
    """An evaluation that takes as long as a thousand steps does not pay for a thousand measurements."""
    governor = Governor({"updates": 1}, 0.05)
    simulate(governor, {"updates": 0.5}, 300)
    period = governor.accounts["updates"].period
    governor.end_step(300, 1000.0)
    spent, _ = simulate(governor, {"updates": 0.5}, 300, start=301)
    assert abs(governor.accounts["updates"].period - period) <= 1
    assert sum(spent) <= 0.07 * 300


def test_where_even_looking_on_is_too_dear_steps_are_slept_through():
    governor = Governor(LEAST, 0.05)
    spent, _ = simulate(governor, dict.fromkeys(LEAST, 1.0), 30_000, base=0.1)
    assert sum(spent[10_000:]) / len(spent[10_000:]) <= 0.06
    assert sum(s == 0 for s in spent) > 0.7 * len(spent)


def test_without_a_limit_every_group_runs_as_often_as_its_class_permits():
    governor = Governor(LEAST, None, lengths={"updates": 2})
    _, seen = simulate(governor, dict.fromkeys(LEAST, 100.0), 40)
    assert seen["norms"] == list(range(40))
    assert seen["updates"] == list(range(40))
    assert seen["flow"] == [0, 10, 20, 30]


def test_fixed_periods_are_left_alone():
    governor = Governor(LEAST, 0.05, fixed={"noise": 7})
    _, seen = simulate(governor, dict.fromkeys(LEAST, 100.0), 70)
    assert seen["noise"] == list(range(0, 70, 7))


def test_an_occurrence_takes_successive_steps():
    governor = Governor({"updates": 2}, None, lengths={"updates": 2}, fixed={"updates": 5})
    _, seen = simulate(governor, {"updates": 1.0}, 12)
    assert seen["updates"] == [0, 1, 5, 6, 10, 11]
    assert governor.accounts["updates"].occurrences == 3
    assert governor.accounts["updates"].cost == 2.0


def test_what_is_switched_off_stays_off():
    governor = Governor(LEAST, None)
    governor.switch_off("flow", "compiled")
    _, seen = simulate(governor, dict.fromkeys(LEAST, 1.0), 30)
    assert "flow" not in seen


def test_processes_that_agree_measure_at_the_same_steps():
    """Two machines of different speed, who wait for each other at every plan as collectives do."""
    table: dict[int, list[float]] = {}
    both = threading.Barrier(2, timeout=30)
    seen: dict[int, dict[str, list[int]]] = {}

    def work(rank):
        def agree(values):
            table[rank] = list(values)
            both.wait()
            largest = [max(pair) for pair in zip(table[0], table[1], strict=True)]
            both.wait()
            return largest

        governor = Governor(LEAST, 0.05, agree=agree)
        prices = {n: 0.1 * (1 + i) * (1 + rank) for i, n in enumerate(LEAST)}
        seen[rank] = simulate(governor, prices, 1000, plain=1.0 + 0.3 * rank)[1]

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0] == seen[1]
    assert len(seen[0]["norms"]) > 20


def logged(effects, steps=256, *, noise=0.05, seed=0, always=()):
    """Step times with hidden costs {name: (in the step, in the next one)}, each group due now and then."""
    random = np.random.default_rng(seed)
    log, before = [], frozenset()
    for _ in range(steps):
        due = frozenset({n for n in effects if random.random() < 0.2} | set(always))
        seconds = 1.0 + noise * random.standard_normal()
        seconds += sum(effects[n][0] for n in due) + sum(effects[n][1] for n in before)
        log.append((seconds, due))
        before = due
    return log


def test_hidden_costs_are_found():
    effects = {"updates": (0.2, 0.3), "flow": (0.1, 0.0), "noise": (0.0, 0.0)}
    found = hidden_costs(logged(effects), list(effects))
    # The design has 51 of 256 steps per group: the error of a sum of two slopes is about 0.05 sqrt(2 / 41) = 0.011.
    assert found["updates"] == pytest.approx(0.5 - 0.011, abs=0.035)
    assert found["flow"] == pytest.approx(0.1 - 0.011, abs=0.035)
    assert found["noise"] < 0.03


def test_no_hidden_cost_is_made_up():
    """One standard error less leaves, on average, 0.083 of a standard error (0.011 here) where there is nothing."""
    effects = dict.fromkeys(LEAST, (0.0, 0.0))
    found = [
        v for seed in range(200) for v in hidden_costs(logged(effects, seed=seed), list(effects)).values()
    ]
    assert np.mean(found) < 2 * 0.083 * 0.011
    pauses = logged(effects)
    pauses[7] = (1000.0, frozenset(LEAST))
    assert max(hidden_costs(pauses, list(effects)).values()) < 0.05


def test_what_is_always_due_cannot_be_told_from_the_step_itself():
    effects = {"norms": (0.3, 0.0), "flow": (0.1, 0.0)}
    found = hidden_costs(logged(effects, always=("norms",)), list(effects))
    assert found["norms"] == 0.0
    assert found["flow"] > 0.05


def test_the_share_is_kept_with_hidden_costs_included():
    """A group that slows the next step down by as much as it takes itself."""
    random = np.random.default_rng(0)
    governor, before, slowed, own = Governor({"updates": 1, "flow": 1}, 0.05), False, 0.0, 0.0
    for step in range(12_000):
        plain = 1.0 + 0.02 * random.standard_normal()
        late = 0.3 if before else 0.0
        found = governor.due(step)
        before, spent = "updates" in found, 0.0
        for name in found:
            spent += 0.3
            governor.charge(name, 0.3)
        governor.end_step(step, plain + late + spent)
        slowed, own = slowed + late, own + spent
    assert governor.accounts["updates"].hidden == pytest.approx(0.3, abs=0.06)
    assert (slowed + own) / 12_000 <= 0.053
    assert governor.overhead == pytest.approx((slowed + own) / 12_000, rel=0.15)


def test_short_loops_of_short_steps_are_seen_too():
    """200 steps of a millisecond: without a grace they would show next to nothing."""
    strict, kind = Governor(LEAST, 0.05, grace=0.0), Governor(LEAST, 0.05)
    for governor in (strict, kind):
        simulate(governor, dict.fromkeys(LEAST, 1e-3), 200, plain=1e-3)
    assert strict.accounts["norms"].occurrences <= 4
    assert kind.accounts["norms"].occurrences >= 15
    assert kind.own <= 0.25 + 0.05 * kind.total
    simulate(kind, dict.fromkeys(LEAST, 1e-3), 60_000, plain=1e-3, start=200)
    assert kind.own <= 0.26 + 0.05 * kind.total


def test_nothing_is_known_before_the_first_step():
    governor = Governor(LEAST, 0.05)
    assert math.isnan(governor.overhead)
    assert math.isnan(governor.plain)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 20)), min_size=1, max_size=6), st.floats(1e-3, 100)
)
def test_rations_fit_into_the_allowance(wants, allowance):
    costs, least = [c for c, _ in wants], [k for _, k in wants]
    periods = ration(costs, least, allowance)
    assert all(p >= k for p, k in zip(periods, least, strict=True))
    # The longest period is finite, so the last crumb may exceed.
    assert (
        sum(c / p for c, p in zip(costs, periods, strict=True)) <= allowance * (1 + 1e-9) + 6 * 100 / 100_000
    )


def test_what_the_cheap_leave_goes_to_the_dear():
    assert ration([0.1, 9.9], [1, 1], 1.0) == [1, 11]
    assert ration([1.0, 1.0], [1, 1], 0.0) == [100_000, 100_000]


def test_plans_are_made_every_window():
    asked = []
    governor = Governor({"norms": 1}, 0.05, agree=lambda v: asked.append(1) or v)
    simulate(governor, {"norms": 1e-3}, 10 + 5 * WINDOW)
    assert 5 <= len(asked) <= 9


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_dear_groups_share_evenly(share):
    governor = Governor({"a": 1, "b": 1}, share)
    simulate(governor, {"a": 10.0, "b": 10.0}, 60_000)
    counts = [a.occurrences for a in governor.accounts.values()]
    assert abs(counts[0] - counts[1]) <= 2
    assert governor.overhead <= share * 1.05
    assert governor.overhead >= share * 0.6
