"""Draws: summaries, files, and other tools' formats."""

import sys

import pytest
import torch

from geartrain.errors import InputError
from geartrain.sampling import Draws, FunctionPotential, diagnostics, sample


@pytest.fixture(scope="module")
def draws():
    potential = FunctionPotential(lambda w: 0.5 * (w**2).sum(1), 3)
    return sample(
        potential, "hmc", chains=4, draws=60, steps=3, start="prior", prior_precision=1.0,
        observe={"square": lambda w: w**2, "norm": lambda w: w.norm(dim=1)},
    )  # fmt: skip


def test_shapes_and_diagnostics(draws):
    assert (draws.num_chains, draws.num_draws, draws.num_params, draws.num_alive) == (4, 60, 3, 4)
    assert draws.observed["square"].shape == (4, 60, 3)
    assert torch.equal(draws.observed["square"], draws.positions**2)
    assert torch.equal(draws.rhat(), diagnostics.rhat(draws.positions))
    assert torch.equal(draws.ess(kind="tail"), diagnostics.ess(draws.positions, "tail"))
    assert torch.equal(draws.mcse("norm"), diagnostics.mcse(draws.observed["norm"]))
    assert torch.equal(draws.rhat("losses"), diagnostics.rhat(draws.losses))
    assert draws.bfmi().shape == (4,)
    assert float(draws.bfmi().min()) > 0.3
    with pytest.raises(
        InputError, match="of is 'weights'; allowed: 'positions', 'losses', 'energies', 'square'"
    ):
        draws.rhat("weights")


def test_energies_and_losses_belong_to_the_positions(draws):
    assert torch.allclose(draws.losses, 0.5 * draws.positions.square().sum(-1))
    assert torch.allclose(draws.energies, draws.positions.square().sum(-1))  # prior and loss


def test_it_says_what_it_is(draws):
    told = str(draws)
    assert "4 chains x 60 draws of 3 parameters by hmc" in told
    assert "acceptance 0." in told
    assert "R-hat" in told


def test_saved_and_loaded(draws, tmp_path):
    draws.save(tmp_path / "draws.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["draws.pt"]
    loaded = Draws.load(tmp_path / "draws.pt")
    for name in ("positions", "losses", "energies", "acceptance", "step_size", "stopped_at", "mean_by_chain"):
        assert torch.equal(getattr(loaded, name), getattr(draws, name))
    assert torch.equal(loaded.observed["norm"], draws.observed["norm"])
    assert (loaded.kernel, loaded.status, loaded.cost, loaded.notes) == (
        draws.kernel, draws.status, draws.cost, draws.notes,
    )  # fmt: skip
    torch.save({"format": 0}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"was not written by Draws\.save"):
        Draws.load(tmp_path / "other.pt")


def test_as_xarray(draws):
    pytest.importorskip("xarray")
    dataset = draws.to_xarray()
    assert dict(dataset.sizes) == {"chain": 4, "draw": 60, "param": 3, "square_dim_0": 3}
    assert float(dataset.losses.mean()) == pytest.approx(float(draws.losses.mean()))
    assert dataset.attrs["kernel"] == "hmc"


def test_as_arviz(draws, monkeypatch):
    seen = {}

    class Base:
        @staticmethod
        def from_dict(groups):
            seen.update(groups)
            return "tree"

    monkeypatch.setitem(sys.modules, "arviz_base", Base)
    assert draws.to_arviz() == "tree"
    assert seen["posterior"]["positions"].shape == (4, 60, 3)
    assert seen["posterior"]["square"].shape == (4, 60, 3)
    assert seen["sample_stats"]["energy"].shape == (4, 60)
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(InputError, match="pip install arviz-base"):
        draws.to_arviz()


def test_energy_diagnostics_need_a_kinetic_energy():
    potential = FunctionPotential(lambda w: 0.5 * (w**2).sum(1), 1)
    seen = sample(potential, "sgld", chains=2, draws=20, step_size=0.1)
    with pytest.raises(InputError, match="BFMI needs hmc"):
        seen.bfmi()
