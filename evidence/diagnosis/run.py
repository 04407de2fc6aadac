"""Diagnoses every run with a known answer and records the verdicts: ``python evidence/diagnosis/run.py``.

Writes ``verdicts.json`` (all probabilities) and ``verdicts.md`` (one line a run) beside this file. About twelve
minutes on one core.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import geartrain as gt

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))  # the planted runs live with the tests

from tests import faults, healthy, planted  # noqa: E402


def example(path: Path) -> Callable[[int], gt.Run]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_run


EXAMPLES = {
    "char_transformer_no_mask": ("target_leakage",),
    "diabetes_unscaled": ("unnormalised_inputs", "unscaled_targets"),
    "mnist_cnn_step_too_large": ("lr_too_high",),
    "text_gru_exploding": ("exploding_gradients",),
    "xor_two_hidden": ("local_minimum",),
}


def cases(seeds: int) -> Iterator[tuple[str, str, int, Callable[[], gt.Run], tuple[str, ...]]]:
    """(group, name, seed, maker, accepted mechanisms; none for healthy runs)."""
    for name, accepted in planted.CAUSES.items():
        for seed in range(seeds):
            yield (
                "nine runs on digits",
                name,
                seed,
                lambda n=name, s=seed: planted.planted_run(n, s),
                accepted,
            )
    for name, make in healthy.HEALTHY.items():
        yield "healthy runs of other kinds", name, 0, lambda m=make: m(0), ()
    for name, accepted in EXAMPLES.items():
        make = example(ROOT / "examples" / f"{name}.py")
        yield "examples", name, 0, lambda m=make: m(0), accepted
    for name, accepted in faults.EXPECTED.items():
        yield "other planted faults", name, 0, lambda n=name: faults.fault_run(n), accepted


def judge(make: Callable[[], gt.Run], accepted: tuple[str, ...], budget: str) -> dict[str, Any]:
    started = time.perf_counter()
    diagnosis = gt.diagnose(make(), budget)
    found = {f.mechanism: round(f.probability, 3) for f in (*diagnosis.findings, *diagnosis.ruled_out)}
    above = [m for m, p in found.items() if p > 0.5]
    right = diagnosis.healthy if not accepted else bool(above) and above[0] in accepted
    return {
        "right": right,
        "above_one_half": above,
        "probabilities": found,
        "sentence": diagnosis.sentence,
        "seconds": round(time.perf_counter() - started, 1),
        "skipped": list(diagnosis.budget.skipped),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["# Verdicts on runs with a known answer", "", "Made by `python evidence/diagnosis/run.py`.", ""]
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [row for row in rows if row["group"] == group]
        right = sum(row["right"] for row in mine)
        lines += [
            f"## {group}: {right} of {len(mine)} right",
            "",
            "| run | seed | planted | above one half | |",
            "|---|---|---|---|---|",
        ]
        for row in mine:
            above = ", ".join(f"{m} {row['probabilities'][m]:.2f}" for m in row["above_one_half"]) or "-"
            planted_cause = " or ".join(row["accepted"]) or "nothing"
            lines.append(
                f"| {row['name']} | {row['seed']} | {planted_cause} | {above} | {'✓' if row['right'] else '✗'} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="60s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for group, name, seed, make, accepted in cases(options.seeds):
        rows.append(
            {
                "group": group,
                "name": name,
                "seed": seed,
                "accepted": list(accepted),
                **judge(make, accepted, options.budget),
            }
        )
        print(f"{'✓' if rows[-1]['right'] else '✗'} {name} (seed {seed}): {rows[-1]['sentence']}", flush=True)
    versions = {"geartrain": gt.__version__, "torch": torch.__version__, "python": platform.python_version()}
    record = {
        "command": "python evidence/diagnosis/run.py",
        "versions": versions,
        "budget": options.budget,
        "runs": rows,
    }
    (HERE / "verdicts.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (HERE / "verdicts.md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
