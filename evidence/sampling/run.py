"""Do the 95 % intervals cover? One hundred seeds on each posterior of `cases`, whose answers are known exactly.

Run with: ``python evidence/sampling/run.py`` (``--only NAME ...`` for some of the cases, ``--again`` for those on record
as well). Writes verdicts.json and verdicts.md beside this file. A run that was cut off goes on from the seeds that it
had finished: they lie in ``partial/`` until their case is done.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from cases import CASES, Case, Row  # noqa: E402

PARTIAL = HERE / "partial"


def measured(name: str, case: Case, seeds: int) -> dict[str, Any]:
    """All seeds of a case, those of an earlier run included."""
    path = PARTIAL / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines][:seeds]
    PARTIAL.mkdir(exist_ok=True)
    with path.open("a") as file:
        for seed in range(len(rows), seeds):
            begun = time.process_time()
            row = asdict(case.once(seed)) | {"seconds": time.process_time() - begun}
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
    record = summary(case, rows)
    path.unlink()
    return record


def summary(case: Case, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the seeds say together."""
    seconds = [r.pop("seconds") for r in rows]
    found = [Row(**r) for r in rows]
    seeds = len(found)
    values = np.array([r.value for r in found])
    stated, spread = math.sqrt(np.mean([r.error**2 for r in found])), float(values.std(ddof=1))
    hits = sum(r.low <= case.truth <= r.high for r in found)
    exact = stats.binomtest(hits, seeds).proportion_ci()
    agree = 0.75 <= stated / spread <= 1.25
    return {
        "what": case.what,
        "truth": case.truth,
        "seeds": seeds,
        "mean": float(values.mean()),
        "z_of_mean": float((values.mean() - case.truth) / (spread / math.sqrt(seeds))),
        "spread": spread,
        "stated_error": stated,
        "error_over_spread": stated / spread,
        "predicted_bias": float(np.mean([r.bias for r in found])),
        "warned": sorted({name for r in found for name in r.warned}),
        "seconds_per_seed": float(np.mean(seconds)),
        "covered": hits,
        "coverage": hits / seeds,
        "coverage_interval": [exact.low, exact.high],
        "passed": bool(0.9 <= hits / seeds <= 0.99 and (agree or not case.ratio)),
    }


def written(records: dict[str, Any]) -> None:
    """Both files."""
    (HERE / "verdicts.json").write_text(json.dumps(records, indent=1) + "\n")
    lines = [
        "# Sampling: coverage of the stated 95 % interval",
        "",
        "Made by `python evidence/sampling/run.py`: 100 seeds of each posterior. Truth: exact n·beta E[K] (or what the "
        "case names) at the settings sampled. Wanted: coverage from 90 to 99 %; for the last case also a stated error "
        "within 25 % of the spread over seeds. Warnings: those that any of the seeds had.",
        "",
        "| case | truth | mean over seeds | spread | stated error / spread | covered | predicted bias | warnings | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records.values():
        warned = ", ".join(r["warned"]).replace("_", " ") or "none"
        lines.append(
            f"| {r['what']} | {r['truth']:.4f} | {r['mean']:.4f} | {r['spread']:.4f} | {r['error_over_spread']:.2f} | "
            f"{r['covered']} of {r['seeds']} | {r['predicted_bias']:.3g} | {warned} | "
            f"{'as wanted' if r['passed'] else 'missed'} |"
        )
    passed = sum(r["passed"] for r in records.values())
    lines += [
        "",
        f"{passed} of {len(records)} as wanted. torch {torch.__version__}, {platform.machine()}, one thread.",
        "",
    ]
    (HERE / "verdicts.md").write_text("\n".join(lines))


def main() -> None:
    """Run what was asked for and is not on record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--again", action="store_true", help="those on record, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "verdicts.json"
    records = json.loads(path.read_text()) if path.exists() else {}
    for name in options.only:
        if not options.again and records.get(name, {}).get("seeds", 0) >= options.seeds:
            continue
        found = measured(name, CASES[name](), options.seeds)
        # Another process may have added to it.
        records = json.loads(path.read_text()) if path.exists() else {}
        records[name] = found
        written({n: records[n] for n in CASES if n in records})
        print(name, json.dumps({k: v for k, v in records[name].items() if k != "what"}), flush=True)


if __name__ == "__main__":
    main()
