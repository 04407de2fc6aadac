"""A function by name, so that another process, another machine or another day finds it again."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geartrain.errors import InputError


@dataclass(frozen=True)
class Reference:
    """Where a function is.

    Attributes:
        module: Name of its module; of a script, the name of the file without its ending.
        name: Its name in the module.
        file: The script that holds it, where it is no importable module; else empty.
        root: Folder from which the module is imported; looked into where Python does not find the module by itself.
    """

    module: str
    name: str
    file: str = ""
    root: str = ""

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"

    def load(self) -> Callable[..., Any]:
        """The function.

        Raises:
            InputError: The module or the function is not there.
        """
        module = _script(Path(self.file)) if self.file else _module(self.module, self.root)
        try:
            thing: Any = module
            for part in self.name.split("."):
                thing = getattr(thing, part)
        except AttributeError:
            raise InputError(
                f'{self.file or self.module} has no function {self.name!r}. If it was renamed, change "function" in '
                "sweep.json."
            ) from None
        return thing

    def described(self) -> dict[str, str]:
        """The same in plain JSON types."""
        return {"module": self.module, "name": self.name, "file": self.file, "root": self.root}


def reference(function: Callable[..., Any] | str) -> Reference:
    """The reference of a function, or of ``"module:function"`` or ``"FILE.py:function"``.

    Raises:
        InputError: It is not a function that can be found by name (a lambda, one made inside another, a method).
    """
    if isinstance(function, str):
        return _named(function)
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if module is None or name is None or "<" in name:
        raise InputError(
            f"{function!r} cannot be found by name in another process. Define the function at the top level of a "
            "module or script (no lambda, no function inside a function, no partial: settings go into configs)."
        )
    held = sys.modules.get(module)
    path = getattr(held, "__file__", None)
    if module == "__main__":
        if path is None:
            raise InputError(
                f"{name} was typed at a prompt, so no other process can find it. Put it into a file."
            )
        file = Path(path).resolve()
        return Reference(file.stem, name, file=str(file))
    found: Any = held
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function:
        raise InputError(
            f"{module}:{name} is not the function that was passed. Pass one that its module still names so."
        )
    return Reference(module, name, root=_root(module, path))


def read_reference(said: Mapping[str, str]) -> Reference:
    """The inverse of `Reference.described`."""
    return Reference(**said)


def _named(text: str) -> Reference:
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise InputError(f"The function is named {text!r}; write 'module:function' or 'FILE.py:function'.")
    if place.endswith(".py"):
        file = Path(place).resolve()
        found = Reference(file.stem, name, file=str(file))
    else:
        module = _module(place, "")
        found = Reference(place, name, root=_root(place, getattr(module, "__file__", None)))
    found.load()
    return found


def _root(module: str, path: str | None) -> str:
    if path is None:
        return ""
    file = Path(path).resolve()
    up = len(module.split(".")) - (file.name != "__init__.py")
    return str(file.parents[up])


def _module(name: str, root: str) -> Any:
    if name not in sys.modules and root and root not in sys.path and Path(root).is_dir():
        sys.path.insert(0, root)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        raise InputError(f"There is no module {name!r} here. Start where it can be imported from.") from None


def _script(file: Path) -> Any:
    main = sys.modules.get("__main__")
    if getattr(main, "__file__", None) and Path(str(getattr(main, "__file__"))).resolve() == file:  # noqa: B009 - typed
        return main
    held = sys.modules.get(file.stem)
    if held is not None and getattr(held, "__file__", None) == str(file):
        return held
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise InputError(f'{file} is not there any more. If it was moved, change "file" in sweep.json.')
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))  # as Python does for a script
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[file.stem]
        raise
    return module
