"""The page on a sampler's health: whole, offline, and true to what it shows."""

from __future__ import annotations

import math

import pytest
import torch
from tests.report.test_html import Page

import geartrain as gt
from geartrain.errors import InputError
from geartrain.report import sampler
from geartrain.sampling import FunctionPotential


@pytest.fixture(scope="module")
def found():
    bowl = FunctionPotential(lambda w: 0.5 * (w**2).sum(1), 3, 100.0, 1.0)
    return gt.llc(bowl, draws=60, chains=3, kernel_options={"steps": 4})


def test_page_is_whole_and_loads_nothing(found):
    page = Page(sampler.render(found, "a <bowl> & more"))
    assert not page.faults
    assert not [v for v in page.values("src") + page.values("href") if not v.startswith(("#", "data:"))]
    assert "a <bowl> & more" in page.text
    identifiers = page.values("id")
    assert len(identifiers) == len(set(identifiers))


def test_page_says_what_was_found(found):
    text = Page(sampler.render(found)).text.replace("\xa0", " ")
    assert f"Local learning coefficient {float(found.value):.2f}"[:30] in text
    assert text.count("in order") == 9
    assert "nothing to warn of" in text
    assert "accepted or rejected exactly" in text
    assert all(f"Chain {i}: mean" in text for i in (1, 2, 3))
    assert "further chain" not in text


def test_warnings_lead_and_fail_their_check():
    """A pull that holds everything, and steps that are far too large."""
    quartic = FunctionPotential(lambda w: w[:, 0] ** 4, 1, 100.0, 100.0)
    strong = gt.llc(quartic, draws=100, kernel_options={"steps": 4})
    assert strong.warned("localisation_too_strong")
    text = Page(sampler.render(strong)).text
    assert "localisation too strong" in text
    assert text.count("✗ warning") == len(strong.warnings)
    assert f"{len(strong.warnings)} warning" in text


def test_chains_that_stopped_are_told():
    """Beyond a wall the loss is NaN."""

    def loss(w: torch.Tensor) -> torch.Tensor:
        return torch.where(w[:, 0] > 0.27, torch.nan, 0.5 * w.square().sum(1))

    wall = FunctionPotential(loss, 3, 100.0, 1.0)
    cut = gt.llc(wall, kernel="sgld", step_size=5e-3, chains=40, draws=60, burn_in=20)
    assert 0 < cut.health.excluded < 40
    assert len(cut.details["stopped_at"]) == cut.health.excluded
    text = Page(sampler.render(cut)).text
    chain, step = next(iter(cut.details["stopped_at"].items()))
    assert f"{cut.health.excluded} of 40: chain {chain + 1} at step {step}" in text
    assert f"{cut.health.chains - 12} further chains not drawn; all are averaged." in text


def test_without_a_value_there_is_a_page_that_says_why():
    bowl = FunctionPotential(lambda w: 0.5 * (w**2).sum(1), 2, 100.0, 1.0)
    none = gt.llc(bowl, kernel="sgld", step_size=1.0, draws=500)
    assert math.isnan(none.value)
    page = Page(sampler.render(none))
    assert not page.faults
    assert "There is no value" in page.text
    assert "step size 1.00 is too large" in page.text


def test_writing(found, tmp_path):
    path = found.to_html(tmp_path / "new" / "page.html", "here")
    assert "here" in path.read_text(encoding="utf-8")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Choose a folder that you may write to"):
        found.to_html(tmp_path / "file" / "page.html")


def test_minibatches_have_no_temperature_slope():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 2, generator=g, dtype=torch.float64)

    def losses(w: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return 0.5 * (torch.einsum("cbd,cd->cb", x[rows], w) if rows.ndim == 2 else w @ x[rows].T) ** 2

    noisy = FunctionPotential(losses, 2, 15.0, 1.0, batch_size=16, num_examples=64)
    text = Page(sampler.render(gt.llc(noisy, draws=100, chains=2))).text
    assert "not known with minibatches" in text
    assert "this kernel accepts every step" in text
