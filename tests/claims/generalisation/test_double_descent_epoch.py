import math

import numpy as np
import pytest
import torch
from torch import nn

from geartrain import claims
from geartrain.claims.generalisation import _noisy_digits as net
from geartrain.claims.generalisation import double_descent_epoch as claim
from geartrain.zoo.risk.two_scale_regression import TwoScaleRegression

OUTCOME = claims.Outcome
UP, DOWN = math.exp(0.6), math.exp(-0.5)


def verdicts(results):
    found = claim.CLAIM().analyse(results)
    decided = {}
    for name, part in claim.CLAIM.parts.items():
        decided[name] = "invalid" if found[name].invalid else part.rule.decide(found[name]).outcome
    return decided


def made(two=True, equal=False, one=False, share=0.2, seeds=8):
    """Curves with or without a hump in each arm; `share` of the rise is noise."""
    generator = np.random.default_rng(0)

    def curves(humped, *shape):
        path = np.array([1.0, DOWN, DOWN * UP if humped else DOWN, 0.2])
        return path * np.exp(0.02 * generator.normal(size=(*shape, 1)))

    cells = []
    hump = {
        "two clocks": two,
        "per-group steps": equal,
        "one scale": one,
        "few strong": False,
        "no label noise": two,
    }
    for arm, humped in hump.items():
        risk = curves(humped, seeds, 8)
        noise = share * np.maximum(risk - risk[..., 1:2], 0)
        seen = risk * (1 + 1e-3 * generator.normal(size=risk.shape))
        arrays = {"risk": seen, "missing": risk - noise, "noise": noise}
        cells.append(claims.Cell({"model": "two-scale regression", "arm": arm}, tuple(range(seeds)), arrays))
    for arm in claim.NET_ARMS:
        arrays = {"loss": curves(hump[arm], seeds), "error": curves(False, seeds)}
        cells.append(claims.Cell({"model": "digits network", "arm": arm}, tuple(range(seeds)), arrays))
    return claims.Results(cells)


def test_a_hump_is_the_smaller_move_after_a_first_fall():
    found = claim.hump(
        np.array([
            [1.0, 0.5, 1.5, 0.3],   # falls, rises by 3, falls by 5
            [1.0, 0.5, 1.5, 1.2],   # falls back a little only
            [1.0, 0.9, 0.5, 0.2],   # never rises
            [1.0, 1.5, 0.4, 0.3],   # rises without having fallen
            [1.0, 0.98, 1.5, 0.3],  # has hardly fallen
        ])
    )  # fmt: skip
    np.testing.assert_allclose(found, [math.log(3), math.log(1.25), 0, 0, 0], atol=1e-12)


def test_a_step_size_for_each_group_is_one_scale():
    two = TwoScaleRegression.make(seed=3)
    equal = TwoScaleRegression.make(seed=3, **claim.ARMS["per-group steps"])
    root = np.sqrt(two.population)
    np.testing.assert_allclose(two.inputs / root, equal.inputs, rtol=1e-12)
    np.testing.assert_allclose(two.prior * two.population, equal.prior, rtol=1e-12)
    beta, targets = two.draw_problem(torch.Generator().manual_seed(4), 1)
    step, w = 0.002, np.zeros_like(beta)
    for _ in range(1500):
        w -= step * two.inputs.T @ (two.inputs @ w - targets) / two.samples / two.population[:, None]
    same = equal.solution(targets, 3.0)
    assert np.abs(w * root[:, None] - same).max() < 5e-3 * np.abs(same).max()


def test_draws_follow_the_closed_form():
    found = np.array([claim.toy_draw("two clocks", s) for s in range(900, 924)])
    risk, missing, noise = found.transpose(1, 0, 2)
    cell = {"risk": risk, "missing": missing, "noise": noise}
    assert claim.farthest(cell) < 4
    toy = TwoScaleRegression.make(seed=900)
    assert found[0, 1:, 11].sum() == pytest.approx(toy.risk(claim.TIMES[11]))
    assert found[0, 0, 0] == pytest.approx(
        (toy.population * toy.draw_problem(torch.Generator().manual_seed(500_900), 1)[0][:, 0] ** 2).sum()
    )


def test_networks_with_a_step_for_each_group_are_those_of_a_plain_loop():
    seeds, steps, width = [7, 8], 10, 8
    losses, _ = claim.train("per-group steps", width, 48, steps, seeds)
    data = net.NoisyDigits.draw(seeds, 48, claim.NOISE, "squared error", claim.scales("two clocks"))
    torch.manual_seed(seeds[1])
    model = net.network(width)
    factors = claim.scales("two clocks") ** -2
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    rows = data.rows[1]
    for _ in range(steps):
        model.zero_grad()
        nn.functional.mse_loss(model(data.inputs[rows]), data.targets[rows]).backward()
        with torch.no_grad():
            for place, p in enumerate(model.parameters()):
                assert p.grad is not None
                velocity[place].mul_(claim.MOMENTUM).add_(p.grad)
                p -= claim.STEP * velocity[place] * (factors if place == 0 else 1.0)
    with torch.no_grad():
        expected = nn.functional.mse_loss(model(data.test[0]), data.test[1]).item()
    assert losses[1, -1] == pytest.approx(expected, rel=1e-3)


def test_verdicts_follow_what_was_planted():
    planted = verdicts(made())
    assert [planted[p] for p in "abcdf"] == [OUTCOME.SUPPORTED] * 5
    assert planted["e"] is OUTCOME.REFUTED
    assert verdicts(made(share=0.8))["e"] is OUTCOME.SUPPORTED
    flat = verdicts(made(two=False))
    assert (flat["a"], flat["c"], flat["f"]) == (OUTCOME.REFUTED,) * 3
    assert (flat["b"], flat["d"]) == ("invalid", "invalid")  # nothing that could be removed
    assert OUTCOME.SUPPORTED not in [verdicts(made(one=True))[p] for p in "ac"]
    kept = verdicts(made(equal=True))
    assert (kept["b"], kept["d"]) == (OUTCOME.REFUTED,) * 2


def test_runs_from_end_to_end(tmp_path):
    verdict = claim.CLAIM().run(scale="test", workers=0, progress=False, folder=tmp_path)
    assert not verdict.invalid
    assert (tmp_path / "figure.svg").exists()
    again = claims.load(tmp_path)
    assert [str(p.finding) for p in again.parts] == [str(p.finding) for p in verdict.parts]
