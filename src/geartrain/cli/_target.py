"""From what was typed as TARGET to a run: a built-in name, ``FILE.py:FUNCTION`` or ``package.module:function``."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geartrain.cli import _output
from geartrain.cli._usage import UsageError, complain, nearest
from geartrain.errors import InputError

if TYPE_CHECKING:
    from types import ModuleType

    from geartrain.run import Run


def make_run(function: Callable[..., Any], target: str, *, seed: int, device: str) -> Run:
    """The run that a function, found by `find`, returns.

    Raises:
        UsageError: It takes no device, and one was asked for.
        InputError: It needs other arguments, or did not return a run.
    """
    from geartrain._torch.rng import seed_all
    from geartrain.run import Run

    with _output.aside():
        seed_all(seed)  # a function that takes no seed becomes repeatable all the same
        try:
            run = _call(function, target, {"seed": seed, "device": device})
        except SystemExit as stop:
            raise InputError(
                f"{target} called exit({_code(stop)}) before it returned a geartrain.Run."
            ) from stop
    if not isinstance(run, Run):
        raise InputError(f"{target} returned {_kind(run)}; it must return a geartrain.Run.")
    return run


def find(target: str) -> Callable[..., Any]:
    """The function that a target names.

    Raises:
        UsageError: There is none.
        InputError: The file or module cannot be loaded.
    """
    with _output.aside():
        return _found(target)


def _found(target: str) -> Callable[..., Any]:
    place, colon, name = target.rpartition(":")
    if not colon:
        return _builtin(target)
    if not place or not name:
        raise UsageError(
            f"TARGET is {target!r}; allowed: a built-in name, FILE.py:FUNCTION or module:function."
        )
    module = _from_file(Path(place)) if place.endswith(".py") else _from_module(place)
    if not hasattr(module, name):
        functions = [
            n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__
        ]
        raise UsageError(f"{place} has no function {name!r}. {nearest(name, functions)}")
    function = getattr(module, name)
    if not callable(function):
        raise UsageError(
            f"{target} is {_kind(function)}; it must be a function that returns a geartrain.Run."
        )
    return function


def _kind(thing: Any) -> str:
    """What something is, with its article."""
    if thing is None:
        return "None"
    name = type(thing).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _code(stop: SystemExit) -> str:
    return "" if stop.code is None else repr(stop.code)


def _builtin(name: str) -> Callable[..., Any]:
    from geartrain import builtin

    path = Path(name)
    if name.endswith(".py"):
        example = next(iter(_functions_in(path)), "make_run") if path.is_file() else "make_run"
        raise UsageError(
            f"{name} names no function; write {name}:{example}, a function that returns a geartrain.Run."
        )
    if name.replace("_", "-") not in builtin.names():
        raise UsageError(
            f"There is no built-in run named {name!r}. {nearest(name, builtin.names())} "
            "For a run of your own write FILE.py:FUNCTION or module:function."
        )
    return builtin.get(name)


def _functions_in(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return []
    return [
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        folder = path.parent
        beside = [p.name for p in folder.glob("*.py")] if folder.is_dir() else []
        hint = nearest(path.name, beside) if beside else "There is no Python file in that folder."
        raise UsageError(f"There is no file {path}. {hint}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as `python FILE.py` does, so that it finds its neighbours
    # Registered under a name of its own: workers of a loader unpickle by it, and it may not hide a real module.
    name = path.stem if path.stem not in sys.modules else f"geartrain_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SystemExit as stop:
        # A script that ends itself (argparse at its top, say) must not end us in silence.
        del sys.modules[name]
        raise InputError(
            f"{path} called exit({_code(stop)}) while it was loaded; put what runs the script under "
            '`if __name__ == "__main__":`.'
        ) from stop
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{path} could not be loaded: {type(error).__name__}: {complain(error)}.") from error
    return module


def _from_module(name: str) -> ModuleType:
    if "/" in name or "\\" in name:
        raise UsageError(f"{name} is no Python file; a file is written FILE.py:FUNCTION.")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except SystemExit as stop:
        raise InputError(
            f"{name} called exit({_code(stop)}) while it was loaded; put what runs the script under "
            '`if __name__ == "__main__":`.'
        ) from stop
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"There is no module {name!r}. Modules are looked for in {Path.cwd()} and where Python's packages are; "
                "a file is written FILE.py:FUNCTION."
            ) from error
        raise InputError(f"{name} could not be loaded: {complain(error)}.") from error
    except Exception as error:
        raise InputError(f"{name} could not be loaded: {type(error).__name__}: {complain(error)}.") from error


def _call(function: Callable[..., Any], target: str, options: dict[str, Any]) -> Any:
    accepted, needed = _parameters(function)
    if needed - options.keys():
        raise InputError(
            f"{target} needs the arguments {', '.join(sorted(needed - options.keys()))}; it may only need seed and "
            "device. Give the others defaults."
        )
    if options["device"] != "cpu" and not accepted & {"device", "**"}:
        raise UsageError(
            f"--device {options['device']} was asked for, but {target} takes no device; let it accept one."
        )
    chosen = options if "**" in accepted else {k: v for k, v in options.items() if k in accepted}
    return function(**chosen)


def _parameters(function: Callable[..., Any]) -> tuple[set[str], set[str]]:
    """Names that may be passed as keywords ("**" for any), and those that must be."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    anything = {"**"} if any(p.kind is p.VAR_KEYWORD for p in parameters) else set()
    return {p.name for p in named} | anything, {p.name for p in named if p.default is p.empty}
