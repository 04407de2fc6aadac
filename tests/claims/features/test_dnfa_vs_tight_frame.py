"""The feature ansatz and tight frames: measures against autograd and algebra, the analysis on planted layers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.autograd.functional import hessian, jacobian

from geartrain import claims
from geartrain.claims import Outcome
from geartrain.claims.features import _ansatz, dnfa_vs_tight_frame
from geartrain.claims.features._ansatz import MEASURES
from geartrain.claims.features.dnfa_vs_tight_frame import LOSSES, TARGETS, TightFrame
from geartrain.ensemble.alone import alone


@pytest.fixture
def dice() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def random_weights(dice: torch.Generator, *sizes: int) -> list[torch.Tensor]:
    pairs = pairwise(sizes)
    return [torch.randn(units, inputs, generator=dice, dtype=torch.float64) for inputs, units in pairs]


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_frames_are_those_of_autograd(name, dice):
    weights = random_weights(dice, 5, 7, 6, 3)
    x = torch.randn(11, 5, generator=dice, dtype=torch.float64)
    found = _ansatz.frames(weights, x, _ansatz.ACTIVATIONS[name])
    act = torch.relu if name == "relu" else torch.tanh

    def rest(z: torch.Tensor, layer: int) -> torch.Tensor:
        for w in weights[layer + 1 :]:
            z = w @ act(z)
        return z

    for layer in (0, 1):
        mean = 0
        for example in x:
            h = example
            for w in weights[:layer]:
                h = act(w @ h)
            g = jacobian(lambda z, layer=layer: rest(z, layer), weights[layer] @ h)
            assert isinstance(g, torch.Tensor)
            mean = mean + g.T @ g / len(x)
        torch.testing.assert_close(found[layer], mean)


def test_input_gradients_follow_by_the_chain_rule(dice):
    weights = random_weights(dice, 4, 8, 8, 2)
    x = torch.randn(9, 4, generator=dice, dtype=torch.float64)
    net = _ansatz.network([4, 8, 8, 2], 1.0, "relu").double()
    for p, w in zip(net.parameters(), weights, strict=True):
        p.data = w
    jacobians = torch.stack([jacobian(net, example) for example in x])  # type: ignore[arg-type]
    outer = torch.einsum("noi,noj->ij", jacobians, jacobians) / len(x)
    s = _ansatz.frames(weights, x, _ansatz.relu)[0]
    torch.testing.assert_close(weights[0].T @ s @ weights[0], outer)


def test_networks_with_known_answers():
    assert dnfa_vs_tight_frame._tight_frame(5) < 1e-10
    assert dnfa_vs_tight_frame._balanced(5) < 1e-10


def test_isotropy_by_hand(dice):
    assert _ansatz.isotropy(3 * torch.eye(9)) == pytest.approx(1)
    one = torch.zeros(9, 9)
    one[2, 2] = 4
    assert _ansatz.isotropy(one) == pytest.approx(1 / 3)
    # Isotropic on the two directions that W uses, and nowhere else.
    w = torch.zeros(4, 3, dtype=torch.float64)
    w[0, 0], w[1, 1] = 2.0, 2.0
    s = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    said = _ansatz.balance(w, s, dice)
    assert said["isotropy"] == pytest.approx(1 / math.sqrt(2))
    assert said["isotropy_range"] == said["isotropy_top"] == pytest.approx(1)
    assert said["top"] == 2
    assert _ansatz.forms(w, s, 2)["ansatz"] == pytest.approx(1)


def test_exactly_met_the_ansatz_means_a_tight_frame_on_the_row_space_and_its_root_does_not(dice):
    w = random_weights(dice, 4, 6)[0]
    left, sizes, _ = torch.linalg.svd(w, full_matrices=False)
    rest = torch.eye(6, dtype=torch.float64) - left @ left.T
    tight = left @ left.T + 5 * rest
    said = _ansatz.forms(w, tight, 2) | _ansatz.balance(w, tight, dice)
    assert said["ansatz"] == pytest.approx(1)
    assert said["isotropy_range"] == pytest.approx(1)
    assert said["isotropy"] < 0.9
    rooted = _ansatz.forms(w, w @ w.T, 2) | _ansatz.balance(w, w @ w.T, dice)
    assert (rooted["ansatz_root"], rooted["root_twin"]) == pytest.approx((1, 1))
    fourth = float((sizes**2).sum() / (2 * (sizes**4).sum().sqrt()))
    assert rooted["isotropy_range"] == pytest.approx(fourth)


def test_replacements_keep_what_they_say(dice):
    w = random_weights(dice, 4, 6)[0]
    found = _ansatz.shuffled(w, dice)
    assert float(found["gaussian"].norm()) == pytest.approx(float(w.norm()))
    torch.testing.assert_close(torch.linalg.svdvals(found["turned"]), torch.linalg.svdvals(w))


@pytest.mark.parametrize("digits", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_want_the_same_and_have_the_same_scale(loss, digits):
    f = dnfa_vs_tight_frame._loss(loss, digits=digits)
    if digits:
        return_to = torch.tensor([2, 5])
        out = torch.zeros(2, 10, dtype=torch.float64, requires_grad=True)
        f(out, return_to).backward()
        assert (out.grad[torch.arange(2), return_to] < 0).all()  # type: ignore[index]
        return
    y = torch.tensor([[0.0], [0.3], [-1.2]], dtype=torch.float64)
    gradient = jacobian(lambda out: f(out, y), y)
    torch.testing.assert_close(gradient, torch.zeros_like(y))
    at_zero = hessian(lambda out: f(out, y[:1]), y[:1])
    assert at_zero.squeeze().item() == pytest.approx(1)  # type: ignore[union-attr]


def test_targets_are_centred_with_variance_one():
    for target in TARGETS[:3]:
        x, y = dnfa_vs_tight_frame._data(target, 200_000)
        assert float(y.mean()) == pytest.approx(0, abs=0.02)
        assert float(y.var()) == pytest.approx(1, abs=0.05)
        assert x.shape == (200_000, 20)


def planted(**said: float) -> claims.Results:
    """Eight seeds of two data sets under all losses, with these measures after training and 0.3 before."""
    dice = np.random.default_rng(0)
    usual = {"ansatz": 0.95, "replaced_gaussian": 0.4, "replaced_turned": 0.4} | said
    cells = [
        claims.Cell(
            {"planted": "tight frame"}, tuple(range(8)), {"error": np.full(8, said.get("error", 0.0))}
        )
    ]
    for target in ("product", "digits"):
        for loss in LOSSES:
            array = 0.3 + dice.normal(0, 0.01, (8, 2, 2, len(MEASURES)))
            for name, value in usual.items():
                if name in MEASURES:
                    array[:, 1, :, MEASURES.index(name)] += value - 0.3
            if loss == "huber":
                array[:, 1, :, 0] += said.get("huber", 0.0)
            found = {"measures": array, "skill": np.full(8, said.get("skill", 0.9))}
            config = {"target": target, "loss": loss, "scale": 1.0, "decay": 0.01}
            cells.append(claims.Cell(config, tuple(range(8)), found))
    return claims.Results(cells)


def outcomes(results: claims.Results) -> dict[str, Outcome]:
    found = TightFrame().analyse(results)
    return {
        name: Outcome.INCONCLUSIVE if found[name].invalid else part.rule.decide(found[name]).outcome
        for name, part in TightFrame.parts.items()
    }


def test_a_planted_tight_frame_supports_and_its_absence_refutes():
    there = outcomes(planted(isotropy=0.95, isotropy_range=0.95, isotropy_top=0.95))
    assert (there["a"], there["b"], there["f"]) == (Outcome.SUPPORTED,) * 3
    absent = outcomes(planted(isotropy=0.3, isotropy_range=0.5, isotropy_top=0.6))
    assert (absent["a"], absent["b"], absent["f"]) == (Outcome.REFUTED,) * 3


def test_wrong_measures_never_support():
    found = outcomes(planted(isotropy=0.95, isotropy_range=0.95, error=0.1))
    assert (found["a"], found["b"]) == (Outcome.INCONCLUSIVE,) * 2


def test_without_layers_that_obey_there_is_no_verdict():
    for results in (planted(ansatz=0.6, isotropy=0.95), planted(skill=0.2, isotropy=0.95)):
        found = outcomes(results)
        assert all(found[part] is Outcome.INCONCLUSIVE for part in "abcef")


def test_replacement_losses_and_twins():
    fell = outcomes(planted())
    assert (fell["c"], fell["d"], fell["e"]) == (Outcome.REFUTED, Outcome.SUPPORTED, Outcome.SUPPORTED)
    stayed = outcomes(planted(replaced_gaussian=0.94, replaced_turned=0.9, huber=-0.3, left_balance=0.97))
    assert (stayed["c"], stayed["d"], stayed["e"]) == (Outcome.SUPPORTED, Outcome.REFUTED, Outcome.REFUTED)


def test_the_long_grid_has_its_thousand_settings():
    assert len(TightFrame().cells("long")) > 1000
    assert len(TightFrame().cells("full")) == 74


def test_end_to_end(tmp_path):
    claim = TightFrame()
    assert claim.name == "dnfa-vs-tight-frame"
    verdict = claim.run(scale="test", workers=0, progress=False, folder=tmp_path)
    assert not verdict.invalid
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert (tmp_path / "figure.svg").exists()
    cell = claims.Results.load(tmp_path).where(target="product")[0]
    assert cell["measures"].shape == (2, 2, 2, len(MEASURES))


def test_a_unit_measures_what_a_plain_loop_trains():
    claim = TightFrame()
    (config,) = [c for c in claim.cells("test") if c.get("loss") == "huber"]
    config |= {"steps": 25, "hidden": 3}
    found = claim.compute(config, [4, 5])["measures"][1]
    assert found.shape == (2, 2, 3, len(MEASURES))
    x, y = dnfa_vs_tight_frame._data("product", 512)
    rows = torch.randperm(512, generator=torch.Generator().manual_seed(5))[:256]
    made = alone(
        lambda: _ansatz.network([20, 24, 24, 24, 1], config["scale"], "relu"), (x, y), seed=5, steps=25,
        loss=lambda out, y: torch.nn.functional.huber_loss(out, y, delta=0.5), optimizer="momentum", lr=0.02,
        schedule="cosine", batch_size=64, weight_decay=config["decay"], subset=rows,
    )  # fmt: skip
    weights = [p.detach().double() for p in made.model.parameters()]
    frames = _ansatz.frames(weights, x[rows].double(), _ansatz.relu)
    for layer, s in enumerate(frames):
        w = weights[layer]
        ansatz = _ansatz.cosine(w.T @ w, w.T @ s @ w)
        np.testing.assert_allclose(found[1, 1, layer, [0, 6]], [ansatz, _ansatz.isotropy(s)], rtol=1e-3)
