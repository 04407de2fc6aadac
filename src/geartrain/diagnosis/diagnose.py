"""`diagnose`: watch, examine, intervene, weigh; within the time that was promised, leaving everything as it was."""

from __future__ import annotations

import datetime
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import geartrain
from geartrain import mechanisms as _mechanisms
from geartrain._torch import kernels
from geartrain._torch.rng import preserved, seed_all
from geartrain.budget import parse_seconds
from geartrain.diagnosis import describe, forks
from geartrain.diagnosis.evidence import Evidence
from geartrain.diagnosis.result import Diagnosis
from geartrain.diagnosis.watched import Watched, watch
from geartrain.diagnosis.weigh import finding, optimistic, weigh, weigh_one
from geartrain.errors import InputError
from geartrain.mechanisms import Mechanism
from geartrain.records import BudgetReport, Measurement
from geartrain.run import Run

Progress = Callable[[float, str], None]

WATCH_SHARE = 0.35
EXAMINE_SHARE = 0.35
RESERVE = 0.03
"""Shares of the budget: at most this much for watching; of the rest for examining; kept back for weighing."""
RULED_OUT = 0.05
CONTROLS = 5
"""At least this many interventions are tried on every run, if time allows."""
CALIBRATION = (
    "Uncalibrated: the weights of the predictions come from theory, not yet from runs with known causes; "
    "read the probabilities as a ranking."
)


@dataclass
class _Session:
    """What a diagnosis has at hand while it is made."""

    run: Run
    mechanisms: list[Mechanism]
    started: float
    budget: float
    seed: int
    progress: Progress
    watched: Watched = field(default_factory=Watched)
    stages: dict[str, float] = field(default_factory=dict)
    evidence: Evidence | None = None
    interrupted: bool = False

    @property
    def deadline(self) -> float:
        return self.started + self.budget * (1 - RESERVE)


def diagnose(
    run: Run,
    budget: str | float = "60s",
    *,
    seed: int = 0,
    progress: Progress | None = None,
    reproduce: str | None = None,
) -> Diagnosis:
    """Say what is going on in a run, what would help (having tried it), and how sure that is.

    The run is executed as declared and watched; checkpoints are examined with the dearer instruments; what the
    mechanisms still in question propose is tried on forks of the very same state; then all is weighed. The model,
    the optimizer, the data order and every random generator are afterwards exactly as before.

    **Cost**: as many seconds as ``budget`` says. An interruption (Ctrl-C) ends it early with what is there.

    Args:
        run: A `geartrain.Run`: at its start or on its way (it is watched from there), or over (then from its start).
        budget: Time it may take: ``"60s"``, ``"2min"``, or seconds.
        seed: Seed of everything random in the diagnosis.
        progress: Called as ``progress(share done, words)``.
        reproduce: Command or code that gives this diagnosis again, for the report.

    Returns:
        The diagnosis.

    Raises:
        InputError: ``run`` is no run, the data cannot be used, or the run is over and did not keep its start.
    """
    if not isinstance(run, Run):
        raise InputError(
            f"diagnose needs a geartrain.Run, got a {type(run).__name__}; build one with "
            "geartrain.Run(model, loss_fn, optimizer, train=(x, y), ...)."
        )
    session = _Session(
        run,
        _mechanisms.all_mechanisms(),
        time.perf_counter(),
        parse_seconds(budget),
        seed,
        progress or (lambda share, words: None),
    )
    with kernels.eager(), preserved(), run.preserved():
        _rewind(run)
        seed_all(seed)
        try:
            with warnings.catch_warnings():
                # The run is repeated hundreds of times: what her program warns of, her own training has told her.
                warnings.simplefilter("ignore")
                _watch(session)
                _examine(session)
                _intervene(session)
                _spectrum(session)
        except KeyboardInterrupt:
            session.interrupted = True
        return _conclude(session, reproduce or _code(run, budget, seed))


# ---------------------------------------------------------------------- stages


def _rewind(run: Run) -> None:
    """A run that is over has nothing left to watch: go back to where `Run.train` began."""
    if not run.over:
        return
    if run.origin is None:
        raise InputError(
            f"{run.name} is over after {run.step_count} steps and its start was not kept: there is nothing to watch. "
            "Build the run anew and diagnose it before training, train it with run.train(), or raise run.epochs."
        )
    run.restore(run.origin)


def _watch(session: _Session) -> None:
    started = time.perf_counter()
    deadline = started + WATCH_SHARE * session.budget
    run = session.run
    session.evidence = Evidence(
        run,
        session.watched,
        _interventions(session.mechanisms),
        deadline=session.deadline,
        seed=session.seed,
        probe=256,
    )
    try:
        watch(
            run,
            deadline=deadline,
            progress=lambda s, w: session.progress(0.35 * s, f"watching: {w}"),
            into=session.watched,
        )
    finally:
        session.evidence.history = run.history
        session.stages["watch"] = time.perf_counter() - started
    if not session.watched.marks:
        raise InputError(
            f"The loss of {run.name} is not finite before the first step; check the data and the initial weights."
        )
    _set_baseline(session)


def _interventions(found: list[Mechanism]) -> dict[str, Any]:
    return {i.name: i for m in found for i in m.interventions}


def _set_baseline(session: _Session) -> None:
    evidence, run = session.evidence, session.run
    assert evidence is not None
    evidence.go("start")
    evidence.baseline, evidence.baseline_words = forks.baseline(run)
    evidence.probe = _probe_size(session)


def _probe_size(session: _Session) -> int:
    """The largest probe on which a gradient costs no more than 1/400 of the budget."""
    for size in (512, 256, 128, 64):
        started = time.perf_counter()
        try:
            session.run.objective(probe=size).gradient()
        except geartrain.errors.GeartrainError:
            return size
        if time.perf_counter() - started < session.budget / 400:
            return size
    return 32


def _examine(session: _Session) -> None:
    """Everything that is not an intervention, cheapest points first."""
    started, evidence = time.perf_counter(), session.evidence
    assert evidence is not None
    wanted = _wanted(session, lambda need: not need.startswith("fork:"))
    limit = started + EXAMINE_SHARE * max(session.deadline - started, 0.0)
    full, evidence.deadline = evidence.deadline, limit
    for number, need in enumerate(wanted):
        session.progress(0.35 + 0.25 * number / len(wanted), f"examining: {need}")
        if not evidence.known(need):
            evidence.measure(need)
    evidence.deadline = full
    session.stages["examine"] = time.perf_counter() - started


def _wanted(session: _Session, keep: Callable[[str], bool]) -> list[str]:
    evidence = session.evidence
    assert evidence is not None
    needs = {
        n: None
        for m in session.mechanisms
        for p in m.predictions
        for n in evidence.needs(p.observable)
        if keep(n)
    }
    places = {"": 0, "start": 1, "end": 2, "middle": 3}
    # Derived quantities last: they are made of the others.
    return sorted(needs, key=lambda n: (n.startswith("run:"), places.get(n.partition("@")[2], 0)))


def _intervene(session: _Session) -> None:
    """Try what could still tip a mechanism over, the most telling per second first."""
    started, evidence = time.perf_counter(), session.evidence
    assert evidence is not None
    step_seconds = session.watched.seconds / max(session.watched.steps, 1)
    left = max(session.deadline - started, 0.0)
    evidence.step_seconds = step_seconds
    evidence.fork_steps = max(min(session.watched.steps, round(0.7 * left / 4 / max(step_seconds, 1e-6))), 10)
    tried = 0
    while time.perf_counter() < session.deadline:
        # First what can tip a mechanism over; then, while few have been tried, what is least unlikely to: a run is
        # called healthy after remedies were tried and did not help, not because nothing was tried.
        name = _most_telling(session, 0.5) or (_most_telling(session, 0.02) if tried < CONTROLS else None)
        if name is None:
            break
        session.progress(0.6 + 0.35 * tried / (tried + 6), f"trying: {name}")
        evidence.measure(f"fork:{name}")
        tried += 1
    session.stages["forks"] = time.perf_counter() - started


def _most_telling(session: _Session, hope: float) -> str | None:
    """The untried intervention with the most log-odds at stake, among mechanisms that can still become that likely."""
    evidence = session.evidence
    assert evidence is not None
    stakes: dict[str, float] = {}
    for mechanism in session.mechanisms:
        if optimistic(mechanism, evidence) <= hope:
            continue
        now = weigh_one(mechanism, evidence).probability
        for prediction in mechanism.predictions:
            for need in evidence.needs(prediction.observable):
                if need.startswith("fork:") and not evidence.known(need):
                    stakes[need[5:]] = stakes.get(need[5:], 0.0) + (
                        prediction.weight + prediction.counter
                    ) * (0.1 + now)
    costs = {name: _relative_cost(evidence, name) for name in stakes}
    return max(stakes, key=lambda name: stakes[name] / costs[name], default=None)


def _relative_cost(evidence: Evidence, name: str) -> float:
    intervention = evidence.interventions[name]
    share = 0.5 if intervention.at == "middle" else 1.0
    return share * intervention.tries * (4.0 if "batch x" in name else 1.0)


def _spectrum(session: _Session) -> None:
    """The spectral density, for the eye, if there is time left."""
    started, evidence = time.perf_counter(), session.evidence
    assert evidence is not None
    session.progress(0.96, "spectrum of the Hessian")
    if started < session.deadline:
        evidence.measure("hessian_density@end")
    session.stages["spectrum"] = time.perf_counter() - started


# ---------------------------------------------------------------------- conclusion


def _conclude(session: _Session, reproduce: str) -> Diagnosis:
    evidence = session.evidence
    assert evidence is not None
    for need in _wanted(session, lambda n: n.startswith("run:")):
        # After an interruption only what needs no further measuring is derived.
        if not evidence.known(need) and session.watched.marks:
            evidence.deadline = 0.0 if session.interrupted else evidence.deadline
            evidence.measure(need) if not session.interrupted else None
    titles = {m.name: m.title for m in session.mechanisms}
    ranked = weigh(session.mechanisms, evidence)
    found = [finding(w, evidence, titles) for w in ranked]
    likely = tuple(f for f in found if f.probability >= RULED_OUT)
    density = evidence.measurements.get("hessian_density@end")
    session.progress(1.0, "done")
    return Diagnosis(
        name=session.run.name,
        sentence=describe.verdict(likely, evidence, session.interrupted),
        healthy=evidence.history.failure is None and not any(f.probability > 0.5 for f in found),
        findings=likely,
        ruled_out=tuple(f for f in found if f.probability < RULED_OUT),
        surprises=describe.surprises(found),
        curves=describe.curves(evidence),
        forks=tuple(sorted(evidence.forks.values(), key=lambda f: -f.gain)),
        measurements=dict(evidence.measurements),
        spectrum=density if isinstance(density, Measurement) and density.status.usable else None,
        setting=describe.setting(session.run, session.watched, evidence),
        budget=_spent(session),
        calibration=CALIBRATION,
        interrupted=session.interrupted,
        reproduce=reproduce,
        versions={
            "geartrain": geartrain.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        seed=session.seed,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _spent(session: _Session) -> BudgetReport:
    evidence = session.evidence
    skipped = dict.fromkeys(evidence.skipped if evidence is not None else ())
    return BudgetReport(
        quoted=session.budget,
        spent=time.perf_counter() - session.started,
        stages=dict(session.stages),
        plan=plan(session.budget),
        skipped=tuple(skipped),
    )


def plan(budget: float) -> str:
    """What a budget will be spent on, one sentence, before it is."""
    watched, rest = WATCH_SHARE * budget, (1 - WATCH_SHARE) * budget
    return (
        f"Up to {watched:.0f} s to watch the run, up to {EXAMINE_SHARE * rest:.0f} s to examine three "
        f"checkpoints, the rest of {budget:.0f} s to try remedies on forks; less if the run is short."
    )


def _code(run: Run, budget: str | float, seed: int) -> str:
    return (
        f"import geartrain as gt\n\n# run: your geartrain.Run ({run.name})\n"
        f"gt.diagnose(run, budget={budget!r}, seed={seed}).to_html('report.html')"
    )
