"""Mixing in weights or in functions: targets against slopes and the zoo, planted chains, the analysis."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from geartrain import claims, zoo
from geartrain.claims import Effect, Finding, Outcome
from geartrain.claims.posterior import _targets, hmc_weight_vs_function_rhat
from geartrain.claims.posterior.hmc_weight_vs_function_rhat import Needed, Runs, WeightsOrFunctions, diagnose


@pytest.fixture
def dice() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(
    "target",
    [_targets.product(20.0), _targets.basins(4.0, 2.0), _targets.line(), _targets.network()],
    ids=["product", "basins", "line", "network"],
)
def test_gradients_by_hand_are_slopes_of_the_loss(target, dice):
    w = target.start(dice, 2, 2, False)
    losses, gradient = target.potential.loss_and_gradient(w)
    torch.testing.assert_close(losses, target.potential.losses(w))
    for at in range(w.shape[1]):
        step = torch.zeros(w.shape[1], dtype=torch.float64)
        step[at] = 1e-5
        slope = (target.potential.losses(w + step) - target.potential.losses(w - step)) / 2e-5
        torch.testing.assert_close(gradient[:, at], slope, rtol=1e-5, atol=1e-5)


def test_the_network_is_the_module(dice):
    network = _targets.Network()
    objective = network.objective()
    w = torch.randn(network.num_params, generator=dice, dtype=torch.float64)
    torch.nn.utils.vector_to_parameters(w, objective.model.parameters())
    x, y = _targets.data()
    out = objective.model(x).detach()
    torch.testing.assert_close(network.outputs(w, x[:, 0]), out[:, 0])
    assert float(_targets._scaled(out, y)) == pytest.approx(float(network.losses(w[None])))


def test_symmetric_weights_are_one_canonical_weight():
    target = _targets.product(20.0)
    same = torch.tensor([[0.5, 2.0], [2.0, 0.5], [-0.5, -2.0], [-2.0, -0.5]], dtype=torch.float64)
    assert target.canonical(same).std(0).max() == 0
    assert target.seen(same).std() == 0


def test_the_truth_of_two_wells_is_the_zoos():
    target = _targets.basins(6.0, 1.0)
    toy = zoo.get("two-basins", dimension=2, centre=6 / (2 * math.sqrt(2)))
    assert 1 - target.mass == pytest.approx(float(toy.truth["basin_mass"].value), abs=1e-4)
    assert target.truth is not None
    loss, place, spread = (float(v) for v in target.truth)
    assert loss == pytest.approx(1, abs=1e-3)  # half a unit for each of two parameters, in either well
    centre = 6 / (2 * math.sqrt(2))
    assert place == pytest.approx(-0.8 * centre, abs=1e-3)
    within = 0.1 * 0.25**2 + 0.9 * 0.75**2
    assert spread == pytest.approx(math.sqrt(within + 0.36 * centre**2), abs=1e-3)


@pytest.mark.parametrize("name", ["product", "basins"])
def test_exact_starts_are_draws(name, dice):
    target = _targets.product(20.0) if name == "product" else _targets.basins(4.0, 4.0)
    w = target.start(dice, 5000, 1, True)
    assert target.small is not None
    assert target.truth is not None
    share = float(target.small(w).double().mean())
    assert share == pytest.approx(target.mass, abs=4 * math.sqrt(target.mass / 5000))
    unseen = target.unseen(w)[:, 0]
    assert float(unseen.mean()) == pytest.approx(
        float(target.truth[1]), abs=4 * float(target.truth[2]) / math.sqrt(5000)
    )
    assert float(unseen.std()) == pytest.approx(float(target.truth[2]), rel=0.1)


def test_the_line_has_its_truth(dice):
    target = _targets.line()
    assert target.truth is not None
    inputs = torch.cat([torch.ones(40, 1), _targets.data()[0]], 1).double()
    precision = inputs.T @ inputs / _targets.NOISE**2 + torch.eye(2)
    best = torch.linalg.solve(precision, inputs.T @ _targets.data()[1][:, 0] / _targets.NOISE**2)
    torch.testing.assert_close(target.truth[0], best[0] + best[1] * _targets.places()[0])
    w = torch.distributions.MultivariateNormal(best, precision_matrix=precision).sample((20000,))
    torch.testing.assert_close(target.unseen(w).std(0), target.truth[2], rtol=0.03, atol=0)


def test_stuck_chains_are_told_from_mixed_ones(dice):
    """Four chains that draw exactly but keep the island on which they start."""
    target = _targets.product(20.0)
    a = target.start(dice, 4, 1000, True).view(4, 1000, 2)
    side = torch.tensor([1.0, 1.0, 1.0, -1.0])[:, None, None]
    stuck = diagnose(target, a * a[..., :1].sign() * side)
    assert stuck["rhat_seen"] < 1.01 < 1.5 < stuck["rhat_weights"]
    assert stuck["rhat_canonical"] < 1.01
    assert (stuck["share"], stuck["crossings"]) == (0.75, 0)
    assert stuck["error_seen"] < 3
    mixed = diagnose(target, a)
    assert mixed["rhat_weights"] < 1.01
    assert mixed["crossings"] > 400


def test_wells_that_the_loss_cannot_tell_apart():
    target = _targets.basins(6.0, 1.0)
    start = target.start(torch.Generator().manual_seed(1), 1, 4000, False)
    chains = torch.stack([start[0::2], start[1::2], start[0::2].flip(0), start[1::2].flip(0)])
    said = diagnose(target, chains)
    assert said["rhat_seen"] < 1.01
    assert said["rhat_unseen"] > 1.5
    assert said["share"] == 0.5
    assert said["error_unseen"] > 0.5


def effect(low: float, high: float) -> Effect:
    return Effect((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("effects", "control", "outcome"),
    [
        ({"a": effect(0.7, 0.9), "b": effect(3.5, 5)}, effect(0.7, 0.9), Outcome.REFUTED),
        ({"a": effect(4, 5), "b": effect(3.5, 5)}, effect(0.7, 0.9), Outcome.SUPPORTED),
        ({"a": effect(2.1, 2.9), "b": effect(3.5, 5)}, effect(0.7, 0.9), Outcome.INCONCLUSIVE),
        ({"a": effect(4, 5)}, effect(1.5, 2), Outcome.INCONCLUSIVE),
        ({"a": effect(0.7, 0.9)}, effect(1.5, 2), Outcome.INCONCLUSIVE),
        ({"a": effect(0.7, 0.9)}, None, Outcome.INCONCLUSIVE),
    ],
)
def test_the_rule_of_need(effects, control, outcome):
    finding = Finding(effects, {"line": control} if control else {})
    assert Needed().decide(finding).outcome is outcome


def planted(
    *, error: float = 0.8, excess: float = 0.0, unseen: float = 0.05, line: float = 0.8
) -> claims.Results:
    """Thirty-two repeats: weights never mix on the islands and in cold wells, which are crossed once."""
    dice = np.random.default_rng(0)
    shape = (32, 2)

    def arrays(**said: float) -> dict[str, np.ndarray]:
        usual = {"rhat_seen": 1.002, "rhat_unseen": 1.002, "rhat_weights": 1.8, "rhat_canonical": 1.0}
        usual |= {"error_seen": error, "error_unseen": unseen} | said
        return {name: np.abs(value + dice.normal(0, 0.001, shape)) for name, value in usual.items()}

    def cell(config: dict, found: dict) -> claims.Cell:
        return claims.Cell(config, tuple(range(32)), found)

    cells = [cell({"posterior": "line"}, arrays(rhat_weights=1.001, error_seen=line, error_unseen=0.02))]
    outputs = {"mean_seen": (5,), "mean_unseen": (3,)}
    net = {n: dice.normal(0, 1.0, shape + s) for n, s in outputs.items()}
    cells.append(cell({"posterior": "network"}, arrays() | net | {"mcse_seen": np.ones((*shape, 5))}))
    known = {n: dice.normal(0, 0.01, (32, *s)) for n, s in outputs.items()}
    cells.append(cell({"posterior": "reference"}, known | {"square_unseen": np.ones((32, 3))}))
    islands = {"share": 0.75, "mass": 0.5, "crossings": 0.0}
    cells.append(cell({"posterior": "product", "curvature": 20.0}, arrays(**islands)))
    for apart, temperature, crossings in ((4.0, 1.0, 1.0), (4.0, 12.0, 50.0), (5.0, 12.0, 30.0)):
        for exact in (False, True):
            cold = {"share": 0.5, "mass": 0.1, "crossings": crossings, "rhat_unseen": 1.8}
            hot = {"share": 0.1 if exact else 0.1 + excess, "mass": 0.1, "crossings": crossings}
            hot |= {"rhat_weights": 1.002, "error_unseen": 0.02}
            config = {"posterior": "basins", "apart": apart, "temperature": temperature, "exact": exact}
            cells.append(cell(config, arrays(**(cold if crossings < 20 else hot))))
    return claims.Results(cells)


def outcomes(results: claims.Results) -> dict[str, Outcome]:
    found = WeightsOrFunctions().analyse(results)
    return {n: part.rule.decide(found[n]).outcome for n, part in WeightsOrFunctions.parts.items()}


def test_nothing_planted_is_refuted():
    found = outcomes(planted())
    assert (found["a"], found["b"], found["c"]) == (Outcome.REFUTED, Outcome.SUPPORTED, Outcome.REFUTED)


def test_planted_excess_and_planted_errors_are_found():
    found = outcomes(planted(excess=0.05, unseen=0.9))
    assert (found["c"], found["d"]) == (Outcome.SUPPORTED, Outcome.SUPPORTED)
    large = WeightsOrFunctions().analyse(planted(error=6.0))["a"].effects
    assert large["y = abx"].low > 3
    # The planted network misses by unit normal numbers in units of its own standard error.
    assert large["network"].value == pytest.approx(math.sqrt(2 / math.pi), abs=0.1)


def test_a_control_that_misses_its_truth_never_supports():
    found = outcomes(planted(line=2.0))
    assert found["a"] is Outcome.INCONCLUSIVE


def test_without_crossings_there_is_no_verdict_on_preference():
    results = planted()
    cells = [c for c in results if c.config.get("temperature") != 12.0]
    assert WeightsOrFunctions().analyse(claims.Results(cells))["c"].invalid


def test_the_networks_errors_are_against_the_reference():
    results = planted()
    net, known = results.one(posterior="network"), results.one(posterior="reference")
    own = known["mean_seen"].std(0, ddof=1) / math.sqrt(32)
    first = np.abs(net["mean_seen"][7, 1] - known["mean_seen"].mean(0)) / np.sqrt(1 + own**2)
    arrays = Runs(results).of("network")
    assert arrays["error_seen"].shape == (64,)
    assert arrays["error_seen"][15] == pytest.approx(first.mean())
    other = np.abs(net["mean_unseen"][7, 1] - known["mean_unseen"].mean(0))
    assert arrays["error_unseen"][15] == pytest.approx(other.mean(), rel=1e-3)


def test_end_to_end(tmp_path):
    claim = WeightsOrFunctions()
    assert claim.name == "hmc-weight-vs-function-rhat"
    verdict = claim.run(seeds=2, scale="test", workers=0, progress=False, folder=tmp_path)
    assert not verdict.invalid
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert (tmp_path / "figure.svg").exists()


def test_a_unit_repeats_bit_for_bit():
    claim = WeightsOrFunctions()
    config = next(c for c in claim.cells("test") if c["posterior"] == "basins")
    both = [claim.compute(config, [0, 1]) for _ in range(2)]
    np.testing.assert_array_equal(both[0]["share"][1], both[1]["share"][1])
    other = hmc_weight_vs_function_rhat.WeightsOrFunctions().compute(config, [2, 3])
    assert (both[0]["error_seen"][1] != other["error_seen"][1]).any()
