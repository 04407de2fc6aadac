import numpy as np
import pytest
import torch
from tests.training_toys import classifier, fragile_run, sgd_bowl

from geartrain.budget import Budget
from geartrain.instruments import _window
from geartrain.run import Run


def test_a_step_on_a_parabola_is_known_in_closed_form():
    run = sgd_bowl([3.0], lr=0.1)
    step = _window.window(run, 1).steps[0]
    w, after = 1.0, 1.0 - 0.3
    assert step.loss_before == pytest.approx(1.5 * w**2)
    assert step.loss_after == pytest.approx(1.5 * after**2)
    assert step.slope_before == pytest.approx(3.0 * w * -0.3)
    assert step.slope_after == pytest.approx(3.0 * after * -0.3)


def test_it_takes_the_very_steps_that_the_run_takes_next():
    run = classifier()
    run.advance(3)
    taken = _window.window(run, 4)
    before = torch.cat([p.detach().reshape(-1) for p in run.model.parameters()])
    run.advance(4)
    after = torch.cat([p.detach().reshape(-1) for p in run.model.parameters()])
    torch.testing.assert_close(taken.updates.sum(0), after - before)
    np.testing.assert_allclose(taken.column("loss_before"), run.history.column("loss")[3:], rtol=1e-6)


def test_dropout_masks_of_the_step_are_used_again():
    run = fragile_run()
    run.advance(2)
    taken = _window.window(run, 4)
    run.scheduler = None
    run.advance(4)
    np.testing.assert_allclose(taken.column("loss_before"), run.history.column("loss")[2:], rtol=1e-6)
    np.testing.assert_allclose(taken.column("fidelity"), 1.0, atol=1e-6)


def test_instruments_share_one_window_until_the_run_moves():
    run = classifier()
    first = _window.window(run)
    assert _window.window(run) is first
    with run.preserved():
        run.advance(2)
    assert _window.window(run) is first
    run.advance(1)
    assert _window.window(run) is not first


def test_a_changed_setting_makes_a_new_window():
    run = classifier()
    first = _window.window(run)
    run.optimizer.param_groups[0]["lr"] *= 2
    assert _window.window(run) is not first


def test_a_fork_with_another_batch_size_has_its_own_window():
    run = classifier()
    first = _window.window(run)
    from geartrain.run import Change

    with run.branch(Change(batch_size=48)):
        assert _window.window(run) is not first


def test_time_that_is_over_ends_it_early():
    run = classifier()
    clock = Budget(deadline=0.0).start()
    assert len(_window.window(run, 8, clock=clock)) == 0
    assert len(_window.window(run, 8)) == 8


def test_it_goes_on_beyond_the_declared_end():
    run = classifier(epochs=1)
    run.train()
    assert len(_window.window(run, 16)) == 16


def test_the_step_size_stays_what_it_is():
    run = fragile_run()
    run.advance(3)
    assert len(_window.window(run, 60)) == 60
    assert run.lr == pytest.approx(0.01 * (1 - 0.9 * 3 / 50))


def test_a_run_that_breaks_says_so():
    run = sgd_bowl([1.0], lr=1e200)
    taken = _window.window(run, 8)
    assert len(taken) < 8
    assert "broke" in (taken.failure or "")


def test_batches_gathered_for_one_step_count_together():
    run = classifier()
    seen = []

    def step(batch):
        loss = torch.nn.functional.cross_entropy(run.model(batch[0]), batch[1])
        (loss / 2).backward()
        seen.append(1)
        if len(seen) % 2 == 0:
            run.optimizer.step()
            run.optimizer.zero_grad()
        return loss

    run.user_step, run.zero_grad = step, None
    taken = _window.window(run, 8)
    assert [s.updated for s in taken.steps] == [False, True] * 4
    known = taken.column("fidelity")[3::2]
    np.testing.assert_allclose(known, 1.0, atol=1e-6)
    np.testing.assert_allclose((taken.column("used_norm") / taken.column("fresh_norm"))[3::2], 0.5, rtol=1e-5)


def test_lbfgs_can_be_watched():
    run = classifier()
    run.replace_optimizer(torch.optim.LBFGS(run.model.parameters(), lr=0.5, max_iter=3))
    taken = _window.window(run, 3)
    assert len(taken) == 3
    assert np.isfinite(taken.column("loss_after")).all()


def test_the_user_may_hide_the_outputs():
    run = classifier()
    run.batch_loss = lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
    taken = _window.window(run, 3)
    assert taken.classes is None
    assert np.isfinite(taken.column("loss_after")).all()
    assert isinstance(run, Run)
