"""Finding items by name, geartrain's own and those of other packages."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from geartrain.errors import InputError, UnknownNameError
from geartrain.registry import Registry


@pytest.fixture
def registry(tmp_path, monkeypatch):
    folder = tmp_path / "planted_items"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "apple.py").write_text("def apple(): return 'apple'\nITEM = 1\n")
    (folder / "pear.py").write_text("def pear(): return 'pear'\n")
    (folder / "_hidden.py").write_text("raise RuntimeError('must not be imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Registry("fruit", "planted_items", "planted.items")
    for name in [n for n in sys.modules if n.startswith("planted_items")]:
        del sys.modules[name]


def test_names_import_nothing(registry):
    assert registry.names() == ["apple", "pear"]
    assert "planted_items.apple" not in sys.modules


def test_get_and_items(registry):
    assert registry.get("apple")() == "apple"
    assert registry.get("apple") is registry.get("apple")
    assert [name for name, _ in registry.items()] == ["apple", "pear"]


def test_unknown_names_suggest_the_nearest(registry):
    with pytest.raises(UnknownNameError, match=r"^There is no fruit named 'aple'\. Did you mean 'apple'"):
        registry.get("aple")
    with pytest.raises(KeyError, match=r"named 'zzz'\. Known: apple, pear\."):
        registry.get("zzz")


def test_files_without_their_item_are_named(registry):
    constants = Registry("fruit", "planted_items", "planted.items", attribute="ITEM")
    assert constants.get("apple") == 1
    with pytest.raises(
        InputError, match=r"The fruit file planted_items\.pear does not define 'ITEM'; add it there"
    ):
        constants.get("pear")


def test_other_packages_add_theirs(registry, monkeypatch):
    entry = importlib.metadata.EntryPoint("root", "math:sqrt", "planted.items")
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [entry] if group == "planted.items" else []
    )
    assert registry.names() == ["apple", "pear", "root"]
    assert registry.get("root")(4) == 2
