"""The pages that are made from the code are up to date, and the README's Python runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import geartrain as gt
from geartrain.sampling.learning_coefficient.health import NAMES

ROOT = Path(__file__).parents[1]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = generator().pages()


@pytest.mark.parametrize("page", PAGES)
def test_generated_page_is_current(page: str) -> None:
    kept = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert kept == PAGES[page], "run: python docs/generate.py"


def test_no_page_is_left_of_a_family_that_is_gone() -> None:
    assert {p.name for p in (ROOT / "docs" / "instruments").glob("*.md")} == {
        Path(page).name for page in PAGES if page.startswith("instruments/")
    }


@pytest.mark.parametrize("family", [f for f in gt.instruments.families() if f])
def test_a_family_explains_itself(family: str) -> None:
    first, rest = generator().essay(family)
    assert ":" in first
    assert len(rest.splitlines()) > 5, "what its numbers mean, how they hang together, when they mislead"


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


def test_the_page_on_ensembles_runs(tmp_path: Path) -> None:
    """As a script, since the processes of a sweep import it."""
    page = (ROOT / "docs" / "ensembles.md").read_text(encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "my-sweep.parquet").exists()


def test_the_page_on_sampling_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), space)
    assert "Local learning coefficient" in (tmp_path / "llc.html").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"| `{name}` |" in page, "a warning that the page does not explain"


def test_files_stay_short() -> None:
    long = {str(p): n for p in (ROOT / "src").rglob("*.py") if (n := len(p.read_text().splitlines())) > 600}
    assert not long
