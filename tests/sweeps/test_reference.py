"""Functions found by name."""

from __future__ import annotations

import functools
import pickle
import sys

import pytest
from tests.sweeps import work

from geartrain.errors import InputError
from geartrain.sweeps.reference import Reference, read_reference, reference

SCRIPT = (
    "def f(config, seeds):\n    return {'x': 1}\nclass C:\n    @staticmethod\n    def g(config, seeds): ...\n"
)


def test_a_function_of_a_module():
    found = reference(work.simple)
    assert str(found) == "tests.sweeps.work:simple"
    assert found.load() is work.simple
    assert read_reference(found.described()) == found
    assert pickle.loads(pickle.dumps(found)).load() is work.simple


@pytest.mark.parametrize("text", ["mytoy:f", "mytoy.py:f", "mytoy:C.g"])
def test_by_name(tmp_path, monkeypatch, text):
    (tmp_path / "mytoy.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "mytoy", raising=False)
    found = reference(text)
    assert found.load().__name__ == text[-1]
    # From another folder, in a process that has not seen it yet.
    monkeypatch.delitem(sys.modules, "mytoy", raising=False)
    monkeypatch.setattr(sys, "path", sys.path[1:])
    monkeypatch.chdir("/")
    assert found.load().__name__ == text[-1]
    assert found.load() is found.load()
    monkeypatch.delitem(sys.modules, "mytoy", raising=False)


def test_a_function_of_a_script_that_runs(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(SCRIPT)
    main = type(sys)("__main__")
    exec(SCRIPT, main.__dict__)
    main.__file__ = str(tmp_path / "script.py")
    monkeypatch.setitem(sys.modules, "__main__", main)
    found = reference(main.f)
    assert (found.module, found.file) == ("script", str(tmp_path / "script.py"))
    assert found.load() is main.f


def prompt(config, seeds): ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda config, seeds: {}, "cannot be found by name in another process"),
        (functools.partial(work.simple, a=1), "cannot be found by name"),
        (3, "cannot be found by name"),
        ("simple", "write 'module:function' or 'FILE.py:function'"),
        (":simple", "write 'module:function'"),
        ("no_such_module_here:f", "There is no module 'no_such_module_here' here"),
        ("nothing.py:f", r"nothing\.py is not there any more"),
        ("tests.sweeps.work:nothing", "has no function 'nothing'"),
    ],
)
def test_what_cannot_be_found(function, message):
    with pytest.raises(InputError, match=message):
        reference(function)


def test_one_typed_at_a_prompt(monkeypatch):
    monkeypatch.setattr(prompt, "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(InputError, match="was typed at a prompt"):
        reference(prompt)


def test_one_whose_name_means_another(monkeypatch):
    monkeypatch.setattr(prompt, "__module__", "tests.sweeps.work")
    monkeypatch.setattr(prompt, "__qualname__", "simple")
    with pytest.raises(InputError, match="is not the function that was passed"):
        reference(prompt)


def test_what_the_module_lacks_is_not_blamed_on_the_module(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import no_such_package_at_all")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        Reference("needy", "f").load()
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        reference(f"{tmp_path / 'needy.py'}:f")
    assert "needy" not in sys.modules
