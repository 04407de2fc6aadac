"""Modular tables: gradients and training against plain torch, the wave against hand-built networks, the verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from geartrain import claims
from geartrain.claims.effect import Effect
from geartrain.claims.generalisation import _modular
from geartrain.claims.generalisation._modular import AdamW, Arm, Networks, Tables
from geartrain.zoo.functions.modular_addition import ModularAddition

CLAIM = claims.get("grokking-needs-weight-decay")
SMALL = Arm(7, 16, lr=0.05, decay=1.0, start=0.5, dtype="float64")
KINDS = [
    SMALL,
    replace(SMALL, act="square", safe=True),
    replace(SMALL, loss="squared"),
    replace(SMALL, loss="squared", act="square", table="quotient"),
    replace(SMALL, act="square", penalty=0.1, temperature=3.0),
]


class Plain(nn.Module):
    """One member, as everybody would write it."""

    def __init__(self, arm: Arm, seed: int) -> None:
        super().__init__()
        self.arm = arm
        self.parts = nn.Parameter(Networks.of(arm, [seed]).flat.view(3, arm.p, arm.hidden).clone())

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        first, second, out = self.parts
        sums = first[pairs // self.arm.p] + second[pairs % self.arm.p]
        return (torch.relu(sums) if self.arm.act == "relu" else sums**2) @ out.T

    def loss(self, pairs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self(pairs)
        if self.arm.loss == "squared":
            fit = (logits - nn.functional.one_hot(labels, self.arm.p)).square().sum(1).mean()
        else:
            fit = nn.functional.cross_entropy(logits / self.arm.temperature, labels)
        return fit + self.arm.penalty * logits.square().mean()


@pytest.mark.parametrize("arm", KINDS)
def test_training_is_that_of_a_plain_loop(arm: Arm) -> None:
    seeds = [3, 8]
    tables, nets = Tables.of(arm, seeds), Networks.of(arm, seeds)
    rows, labels = nets.places(tables.train), tables.labels.gather(1, tables.train)
    together = AdamW(nets.flat, arm)
    for _ in range(25):
        together.step(nets.flat, nets.gradient(rows, labels))
    for i, seed in enumerate(seeds):
        plain = Plain(arm, seed)
        alone = torch.optim.AdamW(plain.parameters(), arm.lr, (0.9, 0.98), arm.eps, arm.decay)
        for _ in range(25):
            alone.zero_grad()
            plain.loss(tables.train[i], labels[i]).backward()
            alone.step()
        assert torch.allclose(nets.flat[i], plain.parts.detach().flatten(), rtol=1e-7, atol=1e-9)
        answers = nets.all_logits()[i, tables.test[i]]
        assert torch.allclose(answers, plain(tables.test[i]).detach(), atol=1e-7)


def test_safe_gradient_survives_where_the_plain_one_is_zero() -> None:
    logits, label = torch.tensor([[[30.0, 0.0, 0.0]]]), torch.tensor([[0]])
    arm = replace(SMALL, p=3, dtype="float32")
    plain, safe = (_modular.pull_on_logits(replace(arm, safe=s), logits, label) for s in (False, True))
    assert plain[0, 0, 0] == 0
    assert float(safe[0, 0, 0]) == pytest.approx(-2 * np.exp(-30), rel=1e-4)


def test_wave_of_the_hand_built_network() -> None:
    toy = ModularAddition(p=11, neurons=60, seed=1)
    logits = torch.from_numpy(toy.logits).reshape(1, 121, 11)
    assert float(_modular.wave_share(logits, 11)) == pytest.approx(toy.sum_wave_share, abs=1e-9)
    assert float(_modular.wave(logits, 11)[0, 0]) == pytest.approx(30.0)
    first, second, out = (torch.from_numpy(t) for t in toy.tables)
    nets = Networks(
        Arm(11, 60, act="square", dtype="float64"), torch.stack([first, second, out]).reshape(1, -1)
    )
    assert torch.allclose(nets.all_logits(), logits)


def test_quotients_invert_products() -> None:
    source = np.random.default_rng(0)
    product, quotient = (_modular.table(k, 7, source).reshape(7, 7) for k in ("product", "quotient"))
    for a in range(7):
        for b in range(1, 7):
            assert product[quotient[a, b], b] == a


def test_splits_do_not_overlap_and_random_tables_differ() -> None:
    arm = replace(SMALL, table="random")
    tables = Tables.of(arm, [0, 1])
    assert sorted([*tables.train[0].tolist(), *tables.test[0].tolist()]) == list(range(49))
    assert not torch.equal(tables.labels[0], tables.labels[1])


def test_margins_by_hand() -> None:
    logits, labels = torch.tensor([[[3.0, 1.0, 2.5], [0.0, 4.0, 1.0]]]), torch.tensor([[0, 2]])
    assert _modular.margins(logits, labels).tolist() == [[0.5, -3.0]]


def made(
    without: float, *, twin: float = 1.0, random: float = 0.0, late: float = 2.0, early: float = 1.0
) -> claims.Results:
    """Results in which these shares of the runs grok, and true labels are that much more efficient."""
    cells = []
    for config in CLAIM.cells("full"):
        share = {"random": random, "penalty": 1.0, "scarcity": 1.0, "division": 1.0}.get(
            config["kind"], twin if config["decay"] else without
        )
        seeds, count = 8, len(_modular.checkpoints(config["steps"]))
        test = np.where(
            np.arange(seeds) < round(share * seeds), 90 if config["kind"] == "scarcity" else 600, -1
        )
        arrays = {n: np.ones(seeds) for n in ("early", "late", "norm", "wave_margin", "rest_margin")}
        arrays |= {"train": np.full(seeds, 50), "test": test, "taken": np.full(seeds, config["steps"])}
        arrays |= {f"{n}_curve": np.tile(np.linspace(0.01, 1, count), (seeds, 1)) for n in ("train", "test")}
        rise = 0 if config["kind"] == "random" else 0.5
        arrays["wave_curve"] = np.tile(0.01 + rise * np.linspace(0, 1, count) ** 0.5, (seeds, 1))
        if config["kind"] == "grid":
            arrays["late"], arrays["early"] = np.full(seeds, late), np.full(seeds, early)
        cells.append(claims.Cell(config, tuple(range(seeds)), arrays))
    return claims.Results(cells)


def verdicts(results: claims.Results) -> dict[str, str]:
    found = CLAIM.analyse(results)
    return {n: str(p.rule.decide(found[n]).outcome) for n, p in CLAIM.parts.items() if not found[n].invalid}


def test_planted_effects_are_found() -> None:
    found = verdicts(made(0.0))
    assert (
        found["a"] == found["b"] == found["penalty"] == found["division"] == found["scarcity"] == "supported"
    )


def test_planted_opposites_refute() -> None:
    assert verdicts(made(1.0))["a"] == "refuted"
    assert verdicts(made(0.0, late=1.0))["b"] == "refuted"


@pytest.mark.parametrize("wrong", [{"random": 1.0}, {"twin": 0.5}])
def test_bad_controls_support_nothing(wrong: dict[str, float]) -> None:
    assert verdicts(made(0.0, **wrong))["a"] == "inconclusive"


def test_memorisers_that_differ_from_the_start_support_nothing() -> None:
    assert verdicts(made(0.0, early=2.0))["b"] == "inconclusive"


def test_half_the_runs_decide_nothing() -> None:
    assert verdicts(made(0.5))["a"] == "inconclusive"


def test_chains_are_no_delay_and_short_budgets_do_not_support() -> None:
    finding = CLAIM.analyse(made(0.0))["a"]
    assert all(e.value == 0 for n, e in finding.control.items() if n.startswith("chain"))
    short = {**finding.control, "budget over ten median times of the twin, x": Effect.exact(0.5)}
    decided = CLAIM.parts["a"].rule.decide(claims.Finding(finding.effect, short))
    assert decided.outcome is claims.Outcome.INCONCLUSIVE


def test_runs_from_end_to_end(tmp_path: Path) -> None:
    verdict = CLAIM.run(scale="test", workers=0, progress=False, folder=tmp_path)
    assert verdict.outcome is claims.Outcome.INCONCLUSIVE
    assert not verdict.invalid
    assert (tmp_path / "figure.svg").exists()
    assert {p.name for p in verdict.parts} == set(CLAIM.parts)
