"""Run the benchmarks and write their tables: ``python benchmarks/run.py [name ...] [--quick] [--page]``."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from _bench import Bench, one_thread, save, write_page  # noqa: E402


def available() -> list[str]:
    """Every script beside this one that is a benchmark."""
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem != "run" and not p.stem.startswith("_"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Run benchmarks and write docs/benchmarks.md.")
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"any of: {', '.join(available())}; all if omitted"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one repeat of each, nothing written: a smoke test"
    )
    parser.add_argument("--page", action="store_true", help="only write the page from the records that exist")
    options = parser.parse_args()
    if unknown := set(options.names) - set(available()):
        parser.error(
            f"no benchmark is called {', '.join(sorted(unknown))}; there are: {', '.join(available())}"
        )
    modules = {name: importlib.import_module(name) for name in available()}
    for name in [] if options.page else options.names or list(modules):
        bench = Bench(name, quick=options.quick)
        start = time.perf_counter()
        with one_thread():
            modules[name].run(bench)
            if not options.quick:
                print(f"{name}: {save(bench, time.perf_counter() - start)}")
    if not options.quick:
        write_page({name: module.TITLE for name, module in modules.items()})


if __name__ == "__main__":
    main()
