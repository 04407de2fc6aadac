"""The pages that are made from the code are up to date, and the README's Python runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import geartrain as gt

ROOT = Path(__file__).parents[1]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["instruments", "mechanisms"])
def test_generated_page_is_current(page: str) -> None:
    made = getattr(generator(), f"{page}_page")()
    kept = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert kept == made, "run: python docs/generate.py"


def test_every_instrument_has_a_test_of_its_own() -> None:
    told = "\n".join(
        p.read_text(encoding="utf-8") for p in (ROOT / "tests" / "instruments").rglob("test_*.py")
    )
    missing = [name for name in gt.instruments.names() if not re.search(rf"\b{name}\(", told)]
    assert not missing


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    exec(code, space)
    assert (tmp_path / "report.html").exists()
    diagnosis = space["diagnosis"]
    assert isinstance(diagnosis, gt.Diagnosis)
    assert diagnosis.healthy


def test_files_stay_short() -> None:
    long = {str(p): n for p in (ROOT / "src").rglob("*.py") if (n := len(p.read_text().splitlines())) > 600}
    assert not long
