"""Life: networks and training against the zoo's network in plain torch, curves against known ones, the verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from geartrain import claims
from geartrain.claims.structure import _life
from geartrain.claims.structure._life import INPUTS, RIGHT, Shape
from geartrain.claims.structure.game_of_life_overcompleteness import half_way, log_odds
from geartrain.zoo.functions.game_of_life import GameOfLife, network, parameters

CLAIM = claims.get("game-of-life-overcompleteness")
BOARDS = INPUTS.T.reshape(-1, 1, 3, 3)


def zoo_network(flat: torch.Tensor, m: int) -> nn.Sequential:
    """The zoo's network with these weights."""
    model = network(1, m).float()
    nn.utils.vector_to_parameters(flat, model.parameters())
    return model


def test_a_network_is_the_zoos() -> None:
    shape = Shape(3)
    start = shape.start([4, 5])
    assert shape.count == parameters(1, 3)
    logits = shape.forward(start, INPUTS)[0]
    for flat, own in zip(start, logits, strict=True):
        assert torch.allclose(zoo_network(flat, 3)(BOARDS)[:, 0, 1, 1], own, atol=1e-5)


def test_the_start_is_torchs_in_size() -> None:
    start = Shape(4).split(Shape(4).start(range(200)))
    model = network(1, 4)
    for own, other in zip(start, model.parameters(), strict=True):
        layer = other.shape[1:] if other.dim() > 1 else None
        bound = (np.prod(layer) if layer else {8: 9, 4: 8, 1: 4}[len(other)]) ** -0.5
        assert bound * 0.97 < float(own.abs().max()) <= bound


@pytest.mark.parametrize("form", _life.FORMS)
def test_gradients_are_autograds(form: str) -> None:
    shape = Shape(2, form)
    flat = shape.start([1, 2, 3]).requires_grad_()
    pull = torch.randn(3, 512, generator=torch.Generator().manual_seed(0))
    x = INPUTS.expand(3, 9, 512)
    for inputs in (INPUTS, x):
        logits, kept = shape.forward(flat, inputs)
        (wanted,) = torch.autograd.grad((logits * pull).sum(), flat)
        with torch.no_grad():
            found = shape.gradient(flat.detach(), inputs, [k.detach() for k in kept], pull)
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_training_is_that_of_a_plain_loop() -> None:
    shape, steps = Shape(8), 300
    start = shape.start([0, 1, 2])
    with torch.no_grad():
        times = _life.train(shape, start, steps=steps, every=10)
    share = torch.from_numpy(_life.weights(0.38)).float()
    model = zoo_network(start[1].clone(), 8)
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    found = -1
    for step in range(steps + 1):
        logits = model(BOARDS)[:, 0, 1, 1]
        if step % 10 == 0 and bool(((logits > 0) == RIGHT).all()):
            found = step
            break
        adam.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(
            logits, RIGHT.float(), share, reduction="sum"
        ).backward()
        adam.step()
    assert found > 0
    assert abs(found - times[1]) <= 10  # rounding may move it past one evaluation


def test_draws_depend_on_the_order_alone() -> None:
    shape = Shape(2)
    start = shape.start([7, 7, 7])
    with torch.no_grad():
        times = _life.train(shape, start, steps=300, batch=64, orders=[1, 1, 2], every=10)
        alone = _life.train(shape, start[:1], steps=300, batch=64, orders=[1], every=10)
    assert times[0] == times[1] == alone[0]


def test_weights_are_those_of_the_zoo() -> None:
    toy = GameOfLife(density=0.3)
    _, label, weight = toy.cases(0.3)
    ours = _life.weights(0.3)
    assert ours.sum() == pytest.approx(1)
    assert ours[RIGHT.numpy()].sum() == pytest.approx(weight[label > 0].sum())
    cases = _life.weights("cases")
    assert cases.sum() == pytest.approx(1)
    assert cases[RIGHT.numpy()].sum() == pytest.approx(3 / 18)


def test_the_exact_network_is_exact() -> None:
    with torch.no_grad():
        assert _life.train(Shape(1), _life.exact_start(), steps=0).tolist() == [0]
    assert _life.exact_on_boards(3, 0) == 1.0


def test_boards_follow_a_blinker() -> None:
    board, upright = torch.zeros(2, 1, 1, 12, 12)
    board[0, 0, 5, 4:7] = 1
    upright[0, 0, 4:7, 5] = 1
    assert torch.equal(_life.evolve(board, 1), upright)
    assert torch.equal(_life.evolve(board, 2), board)


def test_logistic_curve_is_recovered() -> None:
    widths, n = (1, 2, 4, 8), 10**6
    x = np.log(widths)
    share = 1 / (1 + np.exp(-(-2 + 3 * x)))
    start, slope = log_odds(widths, (share * n)[None], [n] * 4)
    assert (start[0], slope[0]) == (pytest.approx(-2, abs=1e-3), pytest.approx(3, abs=1e-3))
    assert half_way(widths, (share * n)[None], [n] * 4)[0] == pytest.approx(np.exp(2 / 3), rel=1e-3)


def test_half_way_is_held_between_the_widths() -> None:
    rights = np.array([[0, 0, 0], [9, 9, 9], [9, 5, 0]])
    assert half_way((1, 2, 4), rights, [9, 9, 9]).tolist() == [8.0, 1.0, 8.0]


def made(
    *, two: float = 5.0, one: float = 1.9, flip: float = 0.3, again: float = 0.9, best: float = 0.9
) -> claims.Results:
    """Results with these m50, and these rates of success."""
    seeds, cells = 16, []

    def shares(rate: float, count: int) -> np.ndarray:
        return (np.arange(seeds * count) < round(rate * seeds * count)).reshape(count, seeds).T

    for config in CLAIM.cells("full"):
        kind, arrays = config["kind"], {}
        rise = {"exact": one, "boards": {1: one, 2: two}.get(config.get("life", 0), 1.0)}
        if kind in rise:
            rate = 1 / (1 + (rise[kind] / config["m"]) ** 4)
            flags = shares(rate, config["networks"])
            arrays = {"right": flags.astype(int)} if kind == "boards" else {"time": np.where(flags, 100, -1)}
        elif kind == "existence":
            arrays = {"boards": np.ones((seeds, 4)), "hand": np.ones(seeds), "near": np.full((seeds, 16), 50)}
        elif kind == "flip":
            made_: dict[str, Any] = {"flip": flip, "again": again}
            source = np.random.default_rng(0)
            arrays = {n: (source.random((seeds, 53, 4)) < v).astype(int) for n, v in made_.items()}
            arrays |= {"base": np.full(seeds, 0.4), "lucky": np.ones(seeds)}
        else:
            rate = (
                (1.0 if best > 0.6 else 0.5) if kind == "form" else best if config["density"] == 0.3 else 0.6
            )
            arrays = {"time": np.where(shares(rate, config["networks"]), 100, -1)}
        cells.append(claims.Cell(config, tuple(range(seeds)), arrays))
    return claims.Results(cells)


def verdicts(results: claims.Results) -> dict[str, str]:
    found = CLAIM.analyse(results)
    return {
        n: "invalid" if found[n].invalid else str(p.rule.decide(found[n]).outcome)
        for n, p in CLAIM.parts.items()
    }


def test_planted_effects_are_found() -> None:
    assert set(verdicts(made()).values()) == {"supported"}


def test_planted_nulls_are_refuted_or_open() -> None:
    found = verdicts(made(two=1.9, flip=0.9, best=0.6))
    assert (found["a-ratio"], found["b"], found["decisive"]) == ("refuted", "refuted", "refuted")
    assert found["c"] in ("refuted", "inconclusive")
    assert found["d"] in ("refuted", "inconclusive")


def test_unreliable_starts_show_no_decisive_signs() -> None:
    found = verdicts(made(flip=0.5, again=0.5))
    assert found["b"] == "refuted"
    assert found["decisive"] == "invalid"


def test_runs_from_end_to_end(tmp_path: Path) -> None:
    verdict = CLAIM.run(scale="test", workers=0, progress=False, folder=tmp_path)
    assert verdict.outcome is claims.Outcome.INCONCLUSIVE
    assert not verdict.invalid
    assert (tmp_path / "figure.svg").exists()
    assert {p.name for p in verdict.parts} == set(CLAIM.parts)
