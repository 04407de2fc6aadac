"""Finds instruments, mechanisms, toys and claims by name: no list is kept by hand.

geartrain's own items are the modules of one folder and of the folders in it, its *families*
(file name = item name); other packages add theirs through an entry point of the same group.
Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
from collections.abc import Iterator
from typing import Any

from geartrain.errors import InputError, UnknownNameError


class Registry:
    """The items of one kind.

    Args:
        kind: Word used in messages, for example ``"instrument"``.
        package: Package whose public modules are the items, for example ``"geartrain.instruments"``.
        group: Entry-point group for items of other packages.
        attribute: Name of the item inside its module; ``None`` means the module's own name.
        in_families: Only modules in folders of the package are items, not those that lie in it directly.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        group: str,
        attribute: str | None = None,
        *,
        in_families: bool = False,
    ) -> None:
        self.kind = kind
        self.package = package
        self.group = group
        self.attribute = attribute
        self.in_families = in_families
        self._loaded: dict[str, Any] = {}

    def names(self) -> list[str]:
        """Names of all items, sorted; imports none of them."""
        return sorted({*self._own(), *self._foreign()})

    def get(self, name: str) -> Any:
        """The item of that name.

        Raises:
            UnknownNameError: No item has that name.
            InputError: The module or entry point of that name does not hold the item.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def family(self, name: str) -> str:
        """Folder that holds the item: its family; empty for items of other packages and for flat registries.

        Raises:
            UnknownNameError: No item has that name.
        """
        own = self._own()
        if name not in own and name not in self._foreign():
            raise UnknownNameError(self.kind, name, self.names())
        return own.get(name, "").removeprefix(self.package).strip(".").rpartition(".")[0]

    def families(self) -> dict[str, list[str]]:
        """Names of the items of each family, both sorted."""
        grouped: dict[str, list[str]] = {}
        for name in self.names():
            grouped.setdefault(self.family(name), []).append(name)
        return dict(sorted(grouped.items()))

    def items(self) -> Iterator[tuple[str, Any]]:
        """Every (name, item); imports all of them."""
        return ((name, self.get(name)) for name in self.names())

    def _load(self, name: str) -> Any:
        path = self._own().get(name)
        if path is not None:
            module = importlib.import_module(path)
            attribute = self.attribute or name
            if not hasattr(module, attribute):
                raise InputError(
                    f"The {self.kind} file {module.__name__} does not define {attribute!r}; add it there."
                )
            return getattr(module, attribute)
        entry = self._foreign().get(name)
        if entry is None:
            raise UnknownNameError(self.kind, name, self.names())
        return entry.load()

    def _own(self) -> dict[str, str]:
        """Module path of each own item. Read from the folders each time: a file added meanwhile is found."""
        found: dict[str, str] = {}
        for folder in importlib.import_module(self.package).__path__:
            for info in _public(folder):
                if not info.ispkg:
                    if not self.in_families:
                        found[info.name] = f"{self.package}.{info.name}"
                    continue
                for inner in _public(os.path.join(folder, info.name)):
                    found[inner.name] = f"{self.package}.{info.name}.{inner.name}"
        return found

    def _foreign(self) -> dict[str, importlib.metadata.EntryPoint]:
        return {entry.name: entry for entry in importlib.metadata.entry_points(group=self.group)}


def _public(folder: str) -> Iterator[pkgutil.ModuleInfo]:
    return (info for info in pkgutil.iter_modules([folder]) if not info.name.startswith("_"))
