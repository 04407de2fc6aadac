"""Running a claim: register, check the instruments, compute the units as a sweep, judge, keep the record."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geartrain.budget import Budget
from geartrain.claims.record import REGISTRATION, judge, keep
from geartrain.claims.registration import fingerprint, registration
from geartrain.claims.results import Results
from geartrain.claims.verdict import Verdict
from geartrain.errors import InputError
from geartrain.store import write_file
from geartrain.sweeps import sweep

if TYPE_CHECKING:
    from geartrain.claims._base import Claim

HOME = Path("geartrain-claims")


def place(claim: Claim, scale: str) -> Path:
    """Where the record lies unless told otherwise: another rule gets another folder."""
    return HOME / claim.name / f"{scale}-{fingerprint(claim, scale)[:8]}"


def run(
    claim: Claim,
    seeds: int | Sequence[int] | None,
    budget: Budget | str | None,
    *,
    scale: str,
    folder: str | Path | None,
    workers: int | None,
    progress: bool,
) -> Verdict:
    """See `geartrain.claims.Claim.run`."""
    chosen = _seeds(claim, seeds, scale)
    where = Path(folder) if folder is not None else place(claim, scale)
    registered = _register(claim, scale, chosen, where)
    configs = [{"claim": claim.name, **cell} for cell in claim.cells(scale)]
    work = sweep(
        compute, folder=where / "sweep", configs=configs, seeds=chosen, block=claim.seeds_at(scale),
        version=registered, workers=workers, progress=progress,
    )  # fmt: skip
    clock = Budget.of(budget).start()
    passed = gate(claim.instruments)
    status = work.run(deadline=clock.deadline)
    failed = [f"unit failed: {f}" for f in work.failures]
    results = Results.of(work)
    verdict = judge(
        claim, results, scale=scale, seeds=chosen, registered=registered, gate=passed, invalid=failed,
        complete=status.complete, seconds=_spent(where / "sweep"), folder=str(where),
    )  # fmt: skip
    keep(where, claim, results, verdict, complete=status.complete, failed=failed)
    return verdict


def compute(config: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """One unit of a claim's sweep; the claim's name is among the settings."""
    from geartrain import claims

    settings = dict(config)
    return claims.get(settings.pop("claim")).compute(settings, seeds)


def gate(names: Sequence[str]) -> dict[str, str]:
    """Each instrument on the first toy that knows its truth: ``"passed on quadratic"``, or why not."""
    return {name: _checked(name) for name in names}


@functools.cache
def _checked(instrument: str) -> str:
    from geartrain import zoo
    from geartrain.zoo.certificate import check_quantity

    # The quadratic knows the truth of most instruments.
    for name in sorted(zoo.names(), key=lambda n: (n != "quadratic", n)):
        toy = zoo.get(name)
        for quantity, truth in toy.truth.items():
            if truth.trial is None and (truth.instrument or quantity.partition(".")[0]) == instrument:
                cell = check_quantity(toy, quantity)
                return f"{'passed' if cell.passed else 'failed'} on {cell.toy}"
    return "met no truth"


def _seeds(claim: Claim, seeds: int | Sequence[int] | None, scale: str) -> list[int]:
    count = claim.seeds_at(scale)
    if seeds is None:
        return list(range(count))
    if isinstance(seeds, bool) or (isinstance(seeds, int) and seeds < 2):
        raise InputError(f"seeds is {seeds}; an interval needs two or more, a verdict eight.")
    return list(range(seeds)) if isinstance(seeds, int) else [int(s) for s in seeds]


def _register(claim: Claim, scale: str, seeds: Sequence[int], where: Path) -> str:
    """Write the registration, or find that it is there and the same."""
    mark, path = fingerprint(claim, scale), where / REGISTRATION
    if path.exists():
        said = json.loads(path.read_bytes())
        if said["fingerprint"] != mark:
            raise InputError(
                f"{where} was registered with another rule, analysis or protocol ({said['fingerprint']}, now {mark}). "
                "Its data cannot be judged by the new one; give another folder, or none."
            )
        return mark
    where.mkdir(parents=True, exist_ok=True)
    said = registration(claim, scale, seeds, datetime.now(UTC).isoformat(timespec="seconds"))
    write_file(path, (json.dumps(said, indent=1, ensure_ascii=False, default=str) + "\n").encode())
    return mark


def _spent(folder: Path) -> float:
    """Seconds of all units, from the logs of the sweep."""
    total = 0.0
    for log in (folder / "logs").glob("*.jsonl"):
        total += sum(json.loads(line).get("seconds", 0.0) for line in log.read_text().splitlines())
    return round(total, 1)
