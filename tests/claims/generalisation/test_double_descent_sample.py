import math

import numpy as np
import pytest
import torch
from torch import nn

from geartrain import claims
from geartrain.claims.generalisation import _noisy_digits as net
from geartrain.claims.generalisation import double_descent_sample as claim
from geartrain.claims.generalisation._curves import crossed_rise, largest_rise
from geartrain.claims.generalisation._spectral_fits import Decomposition

OUTCOME = claims.Outcome


def verdicts(results):
    found = claim.CLAIM().analyse(results)
    return {name: part.rule.decide(found[name]).outcome for name, part in claim.CLAIM.parts.items()}


def made(rise=1.0, control=-0.1, net_rise=1.0, seeds=8, spread=0.05):
    """Results with a planted rise between the two places, and controls that rise by `control`."""
    generator = np.random.default_rng(0)
    n = np.array(claim.COUNTS)

    def curve(step):
        base = np.zeros(len(n))
        base[claim.HIGH :] = step
        return np.exp(base + spread * generator.normal(size=(seeds, 8, len(n))))

    cells = [
        claims.Cell(
            {"model": model}, tuple(range(seeds)),
            {"least norm": curve(rise), "best ridge": curve(control), "best time": curve(control)},
        )
        for model in ("Gaussian features", "random features")
    ]  # fmt: skip
    for place, count in enumerate((32, 128, 512)):
        noise = np.exp(spread * generator.normal(size=(3, seeds)))
        up, down = math.exp(net_rise * (place == 1)), math.exp(control * place)
        arrays = {"loss": up * noise[0], "best": down * noise[1], "error": noise[2]}
        cells.append(
            claims.Cell(
                {"model": "digits network", "samples": count, "width": 32}, tuple(range(seeds)), arrays
            )
        )
    return claims.Results(cells)


def test_fits_are_those_of_the_textbook():
    generator = np.random.default_rng(1)
    for shape in ((12, 7), (7, 12)):
        x, y = generator.normal(size=shape), generator.normal(size=shape[0])
        fit = Decomposition.of(x)
        np.testing.assert_allclose(fit.least_norm(y), np.linalg.pinv(x) @ y, rtol=1e-9)
        normal = x.T @ x + shape[0] * 0.3 * np.eye(shape[1])
        np.testing.assert_allclose(fit.ridge(y, 0.3), np.linalg.solve(normal, x.T @ y), rtol=1e-9)
        step, w = 1e-4, np.zeros(shape[1])
        for _ in range(20_000):
            w -= step * x.T @ (x @ w - y) / shape[0]
        np.testing.assert_allclose(fit.flow(y, np.array([2.0]))[:, 0], w, atol=2e-4)


def test_a_rise_is_found_where_it_is_and_chance_gives_none():
    assert largest_rise(np.array([3.0, 1.0, 2.0, 5.0, 0.0])) == (1, 3)
    assert largest_rise(np.array([3.0, 2.0, 0.0])) == (0, 1)
    planted = np.exp(np.array([[0.5, 0.0, 0.7, 0.2]]) + np.zeros((4, 1)))
    np.testing.assert_allclose(crossed_rise(planted), 0.7)
    noise = np.exp(np.random.default_rng(2).normal(size=(4000, 2, 12)))
    means = [crossed_rise(n).mean() for n in noise[:400]]
    # Two flat curves whose best pair is chosen on the other one rise by 0 on average; a standard error is √2/(2·20).
    assert abs(np.mean(means)) < 4 * math.sqrt(2) / math.sqrt(2 * 400)


def test_gaussian_draws_have_the_exact_mean():
    draws = np.array([claim.gaussian_draw(torch.Generator().manual_seed(s)) for s in range(2000, 2040)])
    off = np.abs(np.array(claim.COUNTS) - claim.SIZE) >= 20
    error = draws[:, 0].std(0, ddof=1) / math.sqrt(len(draws))
    z = (draws[:, 0].mean(0) - claim.theory("Gaussian features")) / error
    assert np.abs(z[off]).max() < 4
    assert (draws[:, 1:] < draws[:, :1] + 1e-9)[:, 1].all()  # no stopping time does worse than the end
    assert (draws[:, 1, claim.COUNTS.index(100)] < 2).all()


def test_random_draws_peak_at_the_threshold_and_ridge_does_not():
    draws = np.array([claim.random_draw(torch.Generator().manual_seed(s)) for s in range(2000, 2008)])
    middle = np.median(draws, 0)
    assert claim.COUNTS[int(middle[0].argmax())] == 100
    assert middle[1].argmax() == 0
    # Theory is a limit of large dimensions; d is 30.
    assert middle[0, claim.LOW] == pytest.approx(claim.theory("random features")[claim.LOW], rel=0.3)


def test_networks_are_those_of_a_plain_loop():
    seeds, steps = [2000, 2001], 20
    found = claim.train(48, 8, steps, seeds)
    data = net.NoisyDigits.draw(seeds, 48, 0.2, "squared error")
    torch.manual_seed(seeds[1])
    model = net.network(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    rows = data.rows[1]
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(data.inputs[rows]), data.targets[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        outputs, fitted = model(data.test[0]), model(data.inputs[rows])
    assert found["loss"][1] == pytest.approx(nn.functional.mse_loss(outputs, data.test[1]).item(), rel=1e-4)
    assert found["error"][1] == pytest.approx(
        (outputs.argmax(1) != data.classes).float().mean().item(), abs=2e-3
    )
    assert found["fitted"][1] == pytest.approx(
        nn.functional.mse_loss(fitted, data.targets[rows]).item(), rel=1e-4
    )


def test_noise_strikes_the_share_it_should_and_samples_are_nested():
    noisy, clean = (net.NoisyDigits.draw([5, 6], 100, p, "cross-entropy") for p in (0.2, 0.0))
    assert torch.equal(noisy.inputs, clean.inputs)
    share = (noisy.targets != clean.targets).float().mean().item()
    assert abs(share - 0.2) < 4 * math.sqrt(0.16 / 2048)
    assert noisy.rows[1].tolist() == list(range(1024, 1124))
    hot = net.NoisyDigits.draw([5, 6], 100, 0.2, "squared error", torch.full((64,), 0.5))
    assert torch.equal(hot.targets.argmax(1), noisy.targets)
    assert torch.equal(hot.inputs, noisy.inputs / 2)


def test_verdicts_follow_what_was_planted():
    planted = verdicts(made())
    assert (planted["a"], planted["b"], planted["c"]) == (OUTCOME.SUPPORTED,) * 3
    assert planted["e"] is not OUTCOME.SUPPORTED  # the planted error is flat
    flat = verdicts(made(rise=0.0, net_rise=0.0))
    assert (flat["a"], flat["b"], flat["c"]) == (OUTCOME.REFUTED,) * 3
    same = verdicts(made(control=1.0))
    assert OUTCOME.SUPPORTED not in (same["a"], same["b"])
    weak = verdicts(made(rise=math.log(1.5), net_rise=math.log(1.5)))
    assert OUTCOME.INCONCLUSIVE in (weak["a"], weak["b"], weak["c"])


def test_runs_from_end_to_end(tmp_path):
    instance = claim.CLAIM()
    verdict = instance.run(scale="test", workers=0, progress=False, folder=tmp_path)
    assert not verdict.invalid
    assert (tmp_path / "figure.svg").exists()
    again = claims.load(tmp_path)
    assert [str(p.finding) for p in again.parts] == [str(p.finding) for p in verdict.parts]
    assert again.effect.count == 4  # two seeds of two draws each
