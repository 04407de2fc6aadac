"""What `diagnose` promises whatever the run: time kept, nothing changed, interruptions survived, bad input named."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import planted
from torch import Tensor, nn
from torch.nn import functional

import geartrain as gt
from geartrain.diagnosis import forks
from geartrain.diagnosis.evidence import Evidence
from geartrain.diagnosis.watched import Watched, watch
from geartrain.errors import InputError
from geartrain.mechanisms import Intervention
from geartrain.run import Change, Run


def small_run(seed: int = 0, **changes: Any) -> Run:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 3))
    inputs = torch.randn(160, 5)
    labels = inputs[:, :3].argmax(1)
    settings: dict[str, Any] = {
        "train": (inputs[:128], labels[:128]),
        "validation": (inputs[128:], labels[128:]),
        "epochs": 6,
        "batch_size": 16,
    } | changes
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return Run(model, functional.cross_entropy, optimizer, **settings)


def fingerprint(run: Run) -> list[Any]:
    """Everything of the user's that a diagnosis could have disturbed, as comparable values."""
    tensors = [t.detach().clone() for t in (*run.model.parameters(), *run.model.buffers())]
    grads = [None if p.grad is None else p.grad.clone() for p in run.model.parameters()]
    modes = [m.training for m in run.model.modules()]
    state = [
        [v.clone() if isinstance(v, Tensor) else v for v in s.values()] for s in run.optimizer.state.values()
    ]
    groups = [{k: v for k, v in g.items() if k != "params"} for g in run.optimizer.param_groups]
    numbers = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in run.model.modules()]
    optimizer_hooks = len(run.optimizer._optimizer_step_pre_hooks) + len(
        run.optimizer._optimizer_step_post_hooks
    )
    return [
        tensors,
        grads,
        modes,
        state,
        groups,
        numbers,
        hooks,
        optimizer_hooks,
        run.step_count,
        len(run.history),
    ]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return one == other


class TestNothingIsChanged:
    def test_program_is_as_before(self) -> None:
        run = small_run()
        run.advance(11)
        before = fingerprint(run)
        gt.diagnose(run, "8s")
        assert same(before, fingerprint(run))

    def test_run_goes_on_as_if_never_diagnosed(self) -> None:
        plain, diagnosed = small_run(), small_run()
        torch.manual_seed(3)
        plain.train()
        torch.manual_seed(3)
        gt.diagnose(diagnosed, "8s")
        torch.manual_seed(3)
        diagnosed.train()
        assert plain.history.columns["loss"] == diagnosed.history.columns["loss"]

    def test_also_when_interrupted(self) -> None:
        run = small_run()
        before = fingerprint(run)

        def interrupt(share: float, words: str) -> None:
            if words.startswith("trying"):
                raise KeyboardInterrupt

        diagnosis = gt.diagnose(run, "20s", progress=interrupt)
        assert same(before, fingerprint(run))
        assert diagnosis.interrupted
        assert "interrupted" in diagnosis.sentence
        assert diagnosis.measurements


class TestBudget:
    @pytest.mark.parametrize("budget", [3.0, 6.0])
    def test_is_kept(self, budget: float) -> None:
        started = time.perf_counter()
        diagnosis = gt.diagnose(planted.planted_run("batch 1", 0), budget)
        # One instrument or one step may be under way when time is over.
        assert time.perf_counter() - started < budget + 4.0
        assert diagnosis.budget.quoted == budget
        assert sum(diagnosis.budget.stages.values()) <= diagnosis.budget.spent + 1e-6

    def test_plan_is_quoted_beforehand(self) -> None:
        assert "60 s" in gt.diagnosis.plan(60.0)

    def test_a_senseless_budget_is_refused(self) -> None:
        with pytest.raises(InputError, match="positive time"):
            gt.diagnose(small_run(), "soon")

    def test_progress_goes_forward(self) -> None:
        shares: list[float] = []
        gt.diagnose(small_run(), "8s", progress=lambda share, words: shares.append(share))
        assert shares == sorted(shares)
        assert shares[-1] == 1.0


class TestBadInput:
    def test_not_a_run(self) -> None:
        with pytest.raises(InputError, match=r"needs a geartrain\.Run, got a Linear"):
            gt.diagnose(nn.Linear(2, 2))  # type: ignore[arg-type]

    def test_nan_in_the_data(self) -> None:
        inputs = torch.randn(32, 5)
        inputs[7, 2] = float("nan")
        with pytest.raises(
            InputError, match=r"NaN or infinite numbers: 1 of 32 examples, first at index \(7, 2\)"
        ):
            small_run(train=(inputs, torch.zeros(32, dtype=torch.long)))

    def test_loss_that_is_nan_from_the_start(self) -> None:
        run = small_run()
        with torch.no_grad():
            run.model[0].weight.fill_(float("nan"))  # type: ignore[index]
        with pytest.raises(InputError, match="not finite before the first step"):
            gt.diagnose(run, "5s")

    def test_loss_that_breaks_on_the_way_is_diagnosed_not_raised(self) -> None:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        inputs = torch.randn(64, 4)
        targets = inputs.sum(1, keepdim=True)
        optimizer = torch.optim.SGD(model.parameters(), 50.0)
        run = Run(model, functional.mse_loss, optimizer, train=(inputs, targets), epochs=40, batch_size=32)
        diagnosis = gt.diagnose(run, "20s")
        assert diagnosis.findings[0].mechanism == "lr_too_high"
        assert diagnosis.findings[0].probability > 0.5


class TestWhatComesOut:
    def test_json_and_html_hold_it_all(self, tmp_path: Path) -> None:
        diagnosis = gt.diagnose(small_run(), "6s")
        data = json.loads(diagnosis.to_json(tmp_path / "d.json").read_text())
        assert data["sentence"] == diagnosis.sentence
        assert len(data["findings"]) + len(data["ruled_out"]) == len(gt.mechanisms.names())
        page = diagnosis.to_html(tmp_path / "deep" / "d.html").read_text()
        assert diagnosis.name in page

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        diagnosis = gt.diagnose(small_run(), "4s")
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match=r"Cannot write .* Choose a folder"):
            diagnosis.to_html(tmp_path / "file" / "d.html")

    def test_every_gear_is_sound(self) -> None:
        diagnosis = gt.diagnose(small_run(), "6s")
        for finding in (*diagnosis.findings, *diagnosis.ruled_out):
            assert 0.0 <= finding.probability <= 1.0
            for gear in finding.predictions:
                assert -1.0 <= gear.degree <= 1.0
                assert (gear.verdict == "not measured") == (gear.measured is None)
                assert gear.note or gear.measured is not None, f"{gear.observable} gives no reason"

    def test_a_run_with_only_a_step_is_diagnosed(self) -> None:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        inputs = torch.randn(64, 4)

        def step(batch: Any) -> Tensor:
            optimizer.zero_grad()
            loss = (model(batch[0]) - batch[1]).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        run = Run(model, None, optimizer, train=(inputs, inputs.sum(1, keepdim=True)), step=step, epochs=10)
        assert gt.diagnose(run, "10s").healthy

    def test_one_number_by_hand(self) -> None:
        """The step size times the sharpness of a parabola over its threshold: 0.5 * 3 / 2."""
        torch.manual_seed(0)
        model = nn.Linear(1, 1, bias=False).double()
        ones = torch.full((8, 1), 3.0**0.5).double()

        def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
            return 0.5 * (outputs - targets).square().mean()

        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        run = Run(model, half_square, optimizer, train=(ones, ones), epochs=8, batch_size=8, shuffle=False)
        diagnosis = gt.diagnose(run, "6s")
        found = diagnosis.measurements["edge_of_stability@start"]
        assert float(found.value) == pytest.approx(0.75, rel=1e-6)


class TestAnywhere:
    """Runs are diagnosed at their start, on their way and when they are over."""

    def test_a_run_that_is_over_is_watched_from_its_start(self) -> None:
        run = small_run()
        run.train()
        before = fingerprint(run)
        diagnosis = gt.diagnose(run, "3s")
        assert "48 watched" in diagnosis.setting["length"]
        assert same(before, fingerprint(run))

    def test_a_run_that_broke_in_training_is_diagnosed(self) -> None:
        run = small_run(epochs=3)
        run.optimizer.param_groups[0]["lr"] = 1e30
        run.train()
        failure = run.history.failure
        assert failure is not None
        diagnosis = gt.diagnose(run, "5s")
        assert not diagnosis.healthy
        assert "breaks" in diagnosis.sentence or diagnosis.findings[0].probability > 0.5
        assert run.history.failure is failure

    def test_a_run_that_is_over_without_its_start_is_refused(self) -> None:
        run = small_run(epochs=1)
        run.advance(8)
        run.origin = None
        with pytest.raises(InputError, match="over after 8 steps"):
            gt.diagnose(run, "3s")

    def test_only_a_step_is_watched_from_the_very_start(self) -> None:
        run = small_run()
        her = TestAnywhere.stepping(run)
        watched = Watched()
        watch(her, deadline=time.perf_counter() + 60, into=watched)
        assert watched.marks[0] == 0 == min(watched.checkpoints)
        assert watched.steps == 48
        assert float(watched.losses[0][0]) == her.history.column("loss")[0]

    def test_streams_of_unknown_length_are_judged_by_their_end(self) -> None:
        run = small_run(epochs=10)
        data = run.train_data
        run = small_run(epochs=10, train=lambda epoch: [(data[0][:64], data[1][:64])] * 9)
        watched = Watched()
        shares: list[float] = []
        watch(
            run,
            deadline=time.perf_counter() + 60,
            into=watched,
            progress=lambda share, words: shares.append(share),
        )
        assert watched.complete
        assert watched.steps == watched.total == 90
        assert watched.marks[-3] > 70
        assert max(shares) == 1.0

    def test_streams_that_grow_are_watched_to_their_end(self) -> None:
        data = small_run().train_data
        run = small_run(epochs=4, train=lambda epoch: [data] * (3 + 5 * epoch))
        watched = Watched()
        watch(run, deadline=time.perf_counter() + 60, into=watched)
        assert watched.complete
        assert watched.steps == 3 + 8 + 13 + 18

    @staticmethod
    def stepping(run: Run) -> Run:
        """The same run with its own step and no loss function."""

        def step(batch: Any) -> Tensor:
            run.optimizer.zero_grad()
            loss = functional.cross_entropy(run.model(batch[0]), batch[1])
            loss.backward()
            run.optimizer.step()
            return loss

        return Run(run.model, None, run.optimizer, train=run.train_data, step=step, epochs=6, batch_size=16)


def test_the_users_terminal_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings are errors in these tests: one from her loss, hundreds of times over, would end the diagnosis."""
    torch.manual_seed(0)
    model = nn.Linear(5, 1)
    inputs = torch.randn(64, 5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = Run(model, functional.mse_loss, optimizer, train=(inputs, inputs.sum(1)), epochs=4, batch_size=16)
    assert gt.diagnose(run, "3s").findings[0].mechanism == "output_target_shape"
    assert capsys.readouterr() == ("", "")


def test_reading_a_diagnosis_draws_no_numbers(tmp_path: Path) -> None:
    run = small_run()
    diagnosis, before = gt.diagnose(run, "2s"), fingerprint(run)
    assert str(diagnosis)
    diagnosis.to_html(tmp_path / "report.html")
    assert same(before, fingerprint(run))


def test_an_early_lead_is_worth_what_is_left_in_the_end() -> None:
    """Losses end at zero: where the original leaves 1% by itself, nothing can win more than that."""
    run, watched = small_run(), Watched()
    watched.marks, watched.losses = [0, 10, 100], [np.array([1.0]), np.array([0.5]), np.array([0.01])]
    watched.losses += [np.array([0.01])] * 2
    watched.marks += [110, 120]
    evidence = Evidence(run, watched, {}, deadline=0.0, seed=0, probe=8)
    evidence.baseline = 1.0
    intervention = Intervention("a", "b", lambda run: Change())
    assert forks._at_stake(evidence, np.array([0, 10]), intervention) == pytest.approx(0.01)
    assert forks._at_stake(evidence, np.array([0, 120]), intervention) == np.inf
