import math

import numpy as np
import pytest
import torch
from torch import nn

from geartrain import claims
from geartrain.claims.generalisation import _noisy_digits as net
from geartrain.claims.generalisation import _random_relu as relu
from geartrain.claims.generalisation import double_descent_model as claim
from geartrain.claims.generalisation._curves import crossed_ends
from geartrain.zoo.risk.random_features import RandomFeatures, ridge_fit

OUTCOME = claims.Outcome
PLACES = len(claim.RATIOS)


def verdicts(results):
    found = claim.CLAIM().analyse(results)
    return {name: part.rule.decide(found[name]).outcome for name, part in claim.CLAIM.parts.items()}


def made(peak=3.0, at=claim.PEAK, end=-1.0, control=-0.02, width_at=2, seeds=8):
    """A curve of height 0 (in ln) with a peak, an end, and controls that change by `control` a step."""
    generator = np.random.default_rng(0)

    def noisy(logs, *shape):
        return np.exp(np.asarray(logs) + 0.03 * generator.normal(size=(*shape, len(logs))))

    logs = np.zeros(PLACES)
    logs[at], logs[-1] = peak, end
    quiet = control * np.arange(PLACES)
    least = noisy(logs, seeds, 8)
    mean = least.mean(1)
    risk = {"least norm": least, "right labels": noisy(logs, seeds, 8)}
    risk |= {k: noisy(quiet, seeds, 8) for k in ("ridge", "best ridge")}
    risk |= {"mean": mean, "bias2": mean / 4, "variance": 3 * mean / 4}
    cells = [claims.Cell({"model": "random features"}, tuple(range(seeds)), risk)]
    widths = (2, 8, 32, 128, 512)
    path = [0.0, 0.0, 0.0, 0.0, end]
    path[width_at] = peak
    for loss, noise in (("squared error", 0.2), ("cross-entropy", 0.2), ("squared error", 0.0)):
        final, best = noisy(path, seeds), noisy([control * k for k in range(5)], seeds)
        error = noisy([-k for k in range(5)], seeds)
        for k, width in enumerate(widths):
            arrays = {
                "loss": final[:, k],
                "best": best[:, k],
                "error": error[:, k],
                "misfit": np.full(seeds, float(width < 32)),
            }
            config = {"model": "digits network", "fits": loss, "noise": noise, "width": width}
            cells.append(claims.Cell(config, tuple(range(seeds)), arrays))
    return claims.Results(cells)


def test_draws_are_those_of_plain_least_squares():
    found = claim.draws(2000, 2)
    toy = RandomFeatures(samples=claim.SAMPLES)
    generator = torch.Generator().manual_seed(2_000_001)
    x, y = toy.problem(generator)
    rows = relu.unit_rows(toy, generator, 1600)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0)
    fresh = toy.inputs(torch.Generator().manual_seed(77), claim.FRESH)
    for place, size in ((4, 80), (12, 400)):
        phi, asked = relu.lifted(toy, x, rows[:size]), relu.lifted(toy, fresh, rows[:size])
        for kind, fit in (
            ("least norm", np.linalg.pinv(phi) @ y),
            ("ridge", ridge_fit(phi, y, claim.RIDGE)),
            ("right labels", np.linalg.pinv(phi) @ (x @ toy.teacher)),
        ):
            risk = ((asked @ fit - fresh @ toy.teacher) ** 2).mean()
            assert found[kind][1, place] == pytest.approx(risk, rel=1e-6), kind
    np.testing.assert_allclose(found["bias2"] + found["variance"], found["mean"], rtol=1e-9)
    # Theory is a limit of large dimensions; d is 30.
    assert np.median(found["ridge"][:, 12]) == pytest.approx(relu.theory(200, 400, 0.3, 0.01), rel=0.4)
    assert relu.theory(200, 80, 0.3, relu.best_ridge(200, 80, 0.3)) < relu.theory(200, 80, 0.3)


def test_first_minimum_is_where_theory_has_it():
    exact = [relu.theory(claim.SAMPLES, round(r * claim.SAMPLES), RandomFeatures.noise) for r in claim.RATIOS]
    assert int(np.argmin(exact[: claim.PEAK])) == claim.FIRST
    assert int(np.argmax(exact)) == claim.PEAK


def test_networks_are_those_of_a_plain_loop():
    seeds, steps = [7, 8], 20
    config = {"fits": "cross-entropy", "samples": 40, "noise": 0.2, "width": 12, "steps": steps}
    found = claim.train(config, seeds)
    data = net.NoisyDigits.draw(seeds, 40, 0.2, "cross-entropy")
    torch.manual_seed(seeds[1])
    model = net.network(12)
    optimizer = torch.optim.Adam(model.parameters(), lr=claim.STEP)
    x, y = data.inputs[data.rows[1]], data.targets[data.rows[1]]
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        tested = nn.functional.cross_entropy(model(data.test[0]), data.test[1]).item()
        fitted, wrong = (
            nn.functional.cross_entropy(model(x), y).item(),
            (model(x).argmax(1) != y).float().mean(),
        )
    assert found["loss"][1] == pytest.approx(tested, rel=1e-4)
    assert found["fitted"][1] == pytest.approx(fitted, rel=1e-4)
    assert found["misfit"][1] == pytest.approx(wrong.item(), abs=1e-6)


def test_threshold_and_ends():
    width = np.array([2.0, 8.0, 32.0])
    misfit = np.array([[[0.2, 0.1, 0.0], [0.2, 0.0, 0.0], [0.1, 0.0, 0.0]], np.ones((3, 3))])
    found = claim._threshold(width, misfit)
    assert found[0] == 8
    assert math.isnan(found[1])
    curves = np.exp(np.array([[0.3, 0.0, 2.0, -0.5]]) + np.zeros((4, 1)))
    np.testing.assert_allclose(crossed_ends(curves), 0.5)


def test_verdicts_follow_what_was_planted():
    planted = verdicts(made())
    assert [planted[p] for p in "abcdef"] == [OUTCOME.SUPPORTED] * 6
    assert (planted["g"], planted["h"]) == (OUTCOME.REFUTED,) * 2  # formula; planted errors fall
    flat = verdicts(made(peak=0.0))
    assert (flat["a"], flat["c"]) == (OUTCOME.REFUTED,) * 2
    moved = verdicts(made(at=12, width_at=1))
    assert (moved["a"], moved["b"], moved["d"]) == (OUTCOME.REFUTED,) * 3
    assert verdicts(made(end=0.5))["e"] is OUTCOME.REFUTED
    noisy = verdicts(made(control=0.5))
    assert OUTCOME.SUPPORTED not in (noisy["a"], noisy["c"])


def test_runs_from_end_to_end(tmp_path):
    verdict = claim.CLAIM().run(scale="test", workers=0, progress=False, folder=tmp_path)
    assert not verdict.invalid
    assert (tmp_path / "figure.svg").exists()
    again = claims.load(tmp_path)
    assert [str(p.decision) for p in again.parts] == [str(p.decision) for p in verdict.parts]
