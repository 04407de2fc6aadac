"""The claim edge-of-stability: its trainings against plain loops, its analysis on planted results."""

import numpy as np
import pytest
import torch
from torch import nn

from geartrain import claims
from geartrain.claims.landscape import edge_of_stability as subject
from geartrain.claims.landscape._stacked import Stack

CLAIM = claims.get("edge-of-stability")


def test_descent_is_that_of_a_plain_loop_and_its_ratio_that_of_a_dense_hessian():
    found = subject.descent({"net": "curve", "step": 0.1, "steps": 24, "every": 12}, [5, 6])
    x, y = subject.problem("curve")
    torch.manual_seed(6)
    model = subject.make_model("curve").double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(24):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    np.testing.assert_allclose(found["loss"][1][1, -1], nn.functional.mse_loss(model(x), y).item(), rtol=1e-6)
    flat, stack = nn.utils.parameters_to_vector(model.parameters()).detach(), Stack((1, 30, 30, 1), x, y)
    hessian = torch.autograd.functional.hessian(lambda p: stack.losses(p[None])[0], flat, vectorize=True)
    # Single precision, and a residual of 1 % whose square is the error.
    np.testing.assert_allclose(found["ratio"][1][1, -1], 0.05 * torch.linalg.eigvalsh(hessian)[-1], rtol=1e-3)


def test_frozen_adam_is_adam_before_and_a_preconditioned_average_after():
    x, y = subject.problem("digits-adam", 64)
    stack, warm = Stack((64, 32, 10), x, y), 5
    state = subject._Adam(stack, subject._starts("digits-adam", [7]), 0.003, warm)
    torch.manual_seed(7)
    model = subject.make_model("digits")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(warm):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    now = state.advance(warm)
    torch.testing.assert_close(
        now[0], nn.utils.parameters_to_vector(model.parameters()), rtol=1e-4, atol=1e-6
    )
    first, scale = state.first.clone(), state.scale.clone()
    first = 0.9 * first + 0.1 * stack.gradient(now)
    then = state.advance(1)
    torch.testing.assert_close(then, now - 0.003 * first / (1 - 0.9 ** (warm + 1)) * scale**2)
    assert torch.equal(state.scale, scale)


@pytest.mark.parametrize(("rate", "share"), [(1.9, 1.0), (0.5, 0.0)])
def test_on_a_parabola_updates_alternate_if_and_only_if_the_step_goes_beyond_its_middle(
    rate: float, share: float
):
    x, y = torch.tensor([[2.0], [1.0]]).double(), torch.tensor([[1.0], [0.0]]).double()
    stack = Stack((1, 1), x, y)
    params = torch.tensor([[3.0, -1.0]]).double()
    design = torch.cat([x, torch.ones_like(x)], 1)
    top = float(torch.linalg.eigvalsh(design.T @ design)[-1])  # 2/n, and n = 2
    now = [params]

    def advance(steps: int) -> torch.Tensor:
        for _ in range(steps):
            now[0] = now[0] - rate / top * stack.gradient(now[0])
        return now[0]

    assert subject.alternation(stack, params, advance, torch.ones_like(params)) == pytest.approx([share])


def test_the_parabola_keeps_its_ratio():
    before, after = subject._parabola(0, 0.8)
    assert before == pytest.approx(0.8, rel=2e-3)
    assert after == pytest.approx(0.8, rel=2e-3)


def _results(level: float = 1.0, flow: float = 0.2, start: float = 0.3) -> claims.Results:
    """Trainings at two steps that end at this level, and flows that end at that one."""
    cells, seeds = [], tuple(range(8))
    draw = np.random.default_rng(0)
    for net in subject.STEPS:
        for arm, step, end in (("grid", 0.1, level), ("grid", 0.2, level), ("flow", 0.01, flow)):
            ratio = np.full((8, 81), end) + draw.normal(0, 0.01, (8, 81))
            ratio[:, :20] = start
            shares = np.full(8, 0.9 if end > 0.9 else 0.0) + draw.uniform(0, 0.01, 8)
            config = {"net": net, "arm": arm, "step": step, "steps": 4000, "every": 50}
            cells.append(claims.Cell(config, seeds, {"ratio": ratio, "loss": ratio, "alternation": shares}))
    still = claims.Cell({"net": "parabola", "arm": "check"}, seeds, {"ratio": np.full((8, 2), 0.8)})
    return claims.Results([*cells, still])


def _outcomes(results: claims.Results) -> dict[str, str]:
    found = CLAIM.analyse(results)
    return {name: str(part.rule.decide(found[name]).outcome) for name, part in CLAIM.parts.items()}


def test_a_planted_edge_is_supported():
    assert set(_outcomes(_results()).values()) == {"supported"}


def test_a_level_that_does_not_get_there_is_refuted():
    found = _outcomes(_results(level=0.6))
    assert [found[part] for part in "abcdeg"] == ["refuted"] * 6


def test_a_flow_that_gets_there_too_is_never_support():
    found = _outcomes(_results(flow=0.7))
    assert {found[part] for part in "abcd"} == {"inconclusive"}
    assert {_outcomes(_results(flow=1.0))[part] for part in "abcd"} == {"refuted"}


def test_starts_beyond_the_threshold_are_set_aside():
    found = CLAIM.analyse(_results(start=1.2))["a"]
    assert found.invalid
    assert not found.effects


def test_a_seed_that_diverges_counts_as_far_from_the_edge():
    results = _results()
    for cell in results.where(arm="grid"):
        cell["ratio"][:5, 50:] = subject.DIVERGED
    assert {_outcomes(results)[part] for part in "abcd"} == {"inconclusive"}


def test_the_whole_claim_runs(tmp_path):
    verdict = CLAIM.run(scale="test", workers=0, progress=False, folder=tmp_path)
    assert not verdict.invalid
    assert [part.name for part in verdict.parts] == list("abcdefgh")
    assert (tmp_path / "figure.svg").exists()
    (parabola,) = (part for part in verdict.parts if part.name == "h")
    assert parabola.outcome == "supported"
