"""Real runs that train in seconds: something to diagnose before there is a run of one's own.

One file per run, each with ``make_run(seed=0, device="cpu")``; all of them are healthy. The file
``breast_cancer.py`` is the run named ``breast-cancer``. A file whose name starts with an underscore is no
built-in run.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Protocol, cast

from geartrain.errors import UnknownNameError

if TYPE_CHECKING:
    from geartrain.run import Run


class MakeRun(Protocol):
    """Builds a run that has not been trained yet."""

    def __call__(self, seed: int = 0, device: str = "cpu") -> Run:
        """The run whose weights and batches come from the seed."""
        ...


def names() -> list[str]:
    """Names of the built-in runs, sorted; imports none of them.

    >>> names()
    ['breast-cancer', 'diabetes', 'digits', 'mnist', 'text']
    """
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in found if not name.startswith("_"))


def get(name: str) -> MakeRun:
    """The function that builds the run of that name; underscores do for hyphens.

    Raises:
        UnknownNameError: There is no such run.
    """
    if name.replace("_", "-") not in names():
        raise UnknownNameError("built-in run", name, names())
    module = importlib.import_module(f"geartrain.builtin.{name.replace('-', '_')}")
    return cast(MakeRun, module.make_run)
