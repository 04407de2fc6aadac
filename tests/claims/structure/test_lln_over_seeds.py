"""Similar losses: statistics of planted indicators, training against the plain loop, verdicts on made-up numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from geartrain import claims, ensemble
from geartrain.claims.rules import Outcome
from geartrain.claims.structure import lln_over_seeds as lln
from geartrain.zoo.landscapes import xor_blocks

CLAIM = lln.LlnOverSeeds()


def draws(
    shares: np.ndarray, seeds: int, source: np.random.Generator, kind: str = "independent"
) -> np.ndarray:
    """Indicators (seed, structure) with these shares: independent, with one cause, or a fixed number of them."""
    if kind == "independent":
        return source.random((seeds, len(shares))) < shares
    if kind == "common":
        return np.repeat(source.random((seeds, 1)), len(shares), 1) < shares
    ranks = source.random((seeds, len(shares))).argsort(1)
    return ranks < round(shares.sum())


def test_dispersion_and_correlation_by_hand() -> None:
    # Two seeds of two structures that go together: count 2 or 0, variance 1, sum of p(1 - p) 1/2, correlation 1.
    together = np.array([[[1.0, 1.0], [0.0, 0.0]]])
    assert lln.dispersion(together) == pytest.approx(2.0)
    assert lln.correlation(together) == pytest.approx(1.0)
    # One of the two, always: the count is 1.
    either = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    assert lln.dispersion(either) == pytest.approx(0.0)
    assert lln.correlation(either) == pytest.approx(-1.0)
    nothing = np.ones((1, 3, 2))
    assert np.isnan(lln.dispersion(nothing)).all()
    assert np.isnan(lln.correlation(nothing)).all()


def test_statistics_of_independent_indicators() -> None:
    source = np.random.default_rng(0)
    learnt = draws(np.linspace(0.2, 0.8, 16), 20_000, source)[None].astype(float)
    # A variance from n draws has the relative error √(2/n), here 0.01.
    assert lln.dispersion(learnt) == pytest.approx(1.0, abs=0.04)
    assert lln.correlation(learnt) == pytest.approx(0.0, abs=0.04 / 15)
    assert lln.gain_of_best(learnt) == pytest.approx(1.0, abs=0.03)


def test_best_of_16_by_hand() -> None:
    # One structure: the best of 16 has it unless all 16 lack it. Half of the seeds have it.
    learnt = np.array([[[1.0], [0.0], [1.0], [0.0]]])
    assert lln.gain_of_best(learnt) == pytest.approx(1.0)
    # Two that go together: the gain is 2 (1 - 2^-16) - 1, independent ones would give
    together = np.repeat(learnt, 2, axis=2)
    alone = (1 - 0.25**16) + (1 - 0.75**16) - 1
    assert lln.gain_of_best(together) == pytest.approx((2 * (1 - 0.5**16) - 1) / alone)


def test_sampling_noise_cancels_in_the_spread() -> None:
    source = np.random.default_rng(1)
    truth = 0.1 * source.standard_normal((50_000, 1))
    halves = truth + 0.3 * source.standard_normal((50_000, 2))
    # Standard error of the covariance: 0.1² √((1 + 10²) / 50000) = 4.5e-4, of its root 0.0023.
    assert lln.spread(halves) == pytest.approx(0.1, abs=0.01)
    assert lln.line([1, 4, 16], np.log([2.0, 1.0, 0.5])) == pytest.approx(-0.5)


def test_blocks_are_the_zoo_s() -> None:
    sums = lln.block_sums(256, [3])
    losses = xor_blocks.train(256, torch.Generator().manual_seed(3)).numpy()
    fours = [losses[i : i + 4].mean() for i in range(0, 256, 4)]
    assert sums[0, 1] == pytest.approx([np.mean(fours), np.mean(np.square(fours))])
    toy = xor_blocks.XorBlocks(blocks=64, restarts=1)
    share = toy.shares @ xor_blocks.ATOMS
    # Each K with mean m and spread s₁/√K: exactly the slope -1/2.
    exact = np.array([[[[share, share**2 + toy.spread**2 / k] for k in lln.BLOCKS]]])
    assert lln.block_slope(exact) == pytest.approx(-0.5)


def test_parities_are_disjoint_products() -> None:
    x, y = lln.parity_data(3, 4, 2, 50, seed=0)
    assert x.shape == (50, 12)
    assert torch.equal(y[:, 0], x[:, 0] * x[:, 1] * x[:, 2])
    assert torch.equal(y[:, 1], x[:, 3] * x[:, 4] * x[:, 5])


def test_training_is_that_of_a_plain_loop() -> None:
    config = {"degree": 2, "most": 2, "count": 2, "fixed": 8, "neck": 0, "budget": 40}
    found = lln.parities(config, [5, 6], np.array([1.0, 2.0]))
    steps = int(found["steps"][0])
    taken = steps if steps > 0 else 40
    lone = ensemble.alone(
        lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), lln.parity_data(2, 2, 2, 16_384, 0),
        loss=nn.functional.mse_loss, seed=6, steps=taken, optimizer="adam", lr=6e-3, batch_size=64,
    )  # fmt: skip
    x, y = lln.parity_data(2, 2, 2, 2_048, 1)
    errors = ((lone.model(x).detach() - y) ** 2).mean(1)
    # float32 through 40 steps of Adam
    assert found["loss"][1][1] == pytest.approx(
        [float(errors[:1024].mean()), float(errors[1024:].mean())], rel=1e-3
    )


def test_groups_lie_within_classes() -> None:
    source = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    inputs = np.concatenate([centres[np.arange(40) % 4] + 0.1 * source.standard_normal((40, 2))] * 2)
    labels = np.repeat([0, 1], 40)
    groups = lln.clusters(inputs, labels)
    assert groups.max() == 7
    for g in range(8):
        assert len(set(labels[groups == g])) == 1
        assert np.ptp(inputs[groups == g], axis=0).max() < 1.0


def made(kind: str, *, control: str = "common", seeds: int = 64) -> claims.Results:
    """Results of nets whose structures are learnt like that; the loss is the share that is not."""
    source, cells = np.random.default_rng(7), []
    for config in CLAIM.cells("full"):
        if config.get("width", 32) not in (16, 32):
            continue  # two widths of the digits are enough
        if config["task"] == "blocks":
            toy = xor_blocks.XorBlocks()
            mean = float(toy.shares @ xor_blocks.ATOMS)
            rows = [[mean, mean**2 + toy.spread**2 / k] for k in lln.BLOCKS]
            arrays = {"sums": np.array([rows] * seeds)}
        else:
            count = config.get("count", 40)
            how = control if config["common"] else kind
            learnt = draws(np.full(count, 0.5), seeds, source, how if count > 1 else "independent")
            loss = 1 - learnt.mean(1) + 0.002 * source.standard_normal(seeds)
            arrays = {"loss": np.stack([loss, loss], 1), "learnt": learnt, "steps": np.full(seeds, 100)}
        cells.append(claims.Cell(config, tuple(range(seeds)), arrays))
    return claims.Results(cells)


def decided(results: claims.Results) -> dict[str, Outcome]:
    found = CLAIM.analyse(results)
    return {name: part.rule.decide(found[name]).outcome for name, part in CLAIM.parts.items()}


def test_independent_structures_are_not_refuted_and_mostly_supported() -> None:
    found = decided(made("independent"))
    assert found["a"] is found["d"] is found["f"] is found["i"] is Outcome.SUPPORTED
    assert not {found[p] for p in "bceg"} & {Outcome.REFUTED}


def test_a_common_cause_and_a_fixed_number_are_told_apart() -> None:
    shared = decided(made("common"))
    assert {shared[p] for p in "bcdefg"} == {Outcome.REFUTED}
    fixed = decided(made("fixed"))
    assert fixed["e"] is fixed["g"] is Outcome.REFUTED


def test_a_control_without_dependence_never_supports() -> None:
    found = decided(made("independent", control="independent"))
    assert not {found[p] for p in "bcdefg"} & {Outcome.SUPPORTED}


def test_runs_from_end_to_end(tmp_path) -> None:
    verdict = CLAIM.run(seeds=4, scale="test", workers=0, progress=False, folder=tmp_path)
    assert verdict.withheld
    assert not verdict.invalid
    assert [p.name for p in verdict.parts] == list("abcdefghij")
    assert all(math.isfinite(e.value) for e in verdict.parts[1].finding.effects.values())
    assert (tmp_path / "figure.svg").exists()
