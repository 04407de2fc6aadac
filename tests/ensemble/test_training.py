"""Going on, stopping, saving, planning: what an ensemble does beside its arithmetic."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from tests.ensemble.nets import CLASSES, POINTS, alone, mlp, normed, train
from tests.made import normal
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.ensemble import Average, Checkpoint, Record, Schedule, Stop, engines
from geartrain.ensemble import checkpoint as files
from geartrain.ensemble.batches import positions
from geartrain.ensemble.driver import REGROUP
from geartrain.errors import InputError, UnknownNameError, UnsupportedError

EVERYTHING = dict(
    engine="vmap", chunk=3, batch_size=5, seeds=7, label_noise=0.2, average=0.9, clip_grad_norm=1.0, lr=0.02,
    schedule=Schedule("cosine", total=40, warmup=3), stop=Stop(below=0.75, plateau=30),
    record=Record(every=7, metrics=("loss", "accuracy")),
)  # fmt: skip


def same(one: gt.ensemble.Ensemble, other: gt.ensemble.Ensemble) -> None:
    assert torch.equal(one.parameters, other.parameters)
    torch.testing.assert_close(one.losses, other.losses, rtol=0, atol=0, equal_nan=True)
    assert one.status == other.status
    assert one.history.steps == other.history.steps
    for name in one.history.values:
        assert np.array_equal(one.history[name], other.history[name])
    for name, buffer in one.buffers.items():
        assert torch.equal(buffer, other.buffers[name])
    assert (one.averages is None) == (other.averages is None)
    if one.averages is not None:
        assert torch.equal(one.averages, other.averages)


@pytest.mark.parametrize("make", [mlp, normed])
def test_going_on_is_bit_identical(make):
    whole = train(make, steps=40, **EVERYTHING)
    assert {s.state for s in whole.status} >= {"running", "finished"}  # or compaction is not tested
    parts = train(make, steps=11, **EVERYTHING)
    parts.train(0).train(13).train(16)
    same(parts, whole)


def test_going_on_across_a_regrouping():
    options = dict(EVERYTHING, record=None)
    steps = REGROUP + 20
    whole = train(steps=steps, **options)
    parts = train(steps=REGROUP - 5, **options).train(10).train(15)
    same(parts, whole)


@pytest.mark.parametrize("engine", engines.names())
def test_save_and_load(tmp_path, engine):
    options = dict(EVERYTHING, engine=engine)
    nets = train(steps=15, **options)
    nets.save(tmp_path / "nets.pt")
    again = gt.ensemble.Ensemble.load(
        tmp_path / "nets.pt", mlp, (POINTS, CLASSES), functional.cross_entropy, record=options["record"]
    )
    assert again.plan is not None
    assert again.plan.engine == engine
    same(again.train(25), train(steps=40, **options))
    numbers = gt.ensemble.Ensemble.load(tmp_path / "nets.pt")
    assert torch.equal(numbers.parameters, nets.parameters)
    assert numbers.seeds == nets.seeds
    with pytest.raises(InputError, match="loaded without its model, so training is not possible; pass"):
        numbers.train(1)
    with pytest.raises(InputError, match="together, or none"):
        gt.ensemble.Ensemble.load(tmp_path / "nets.pt", mlp)
    with pytest.raises(InputError, match="other parameters than those"):
        gt.ensemble.Ensemble.load(tmp_path / "nets.pt", normed, (POINTS, CLASSES), functional.cross_entropy)


CHILD = """
import sys
from tests.ensemble.nets import train
from geartrain.ensemble import Checkpoint
from tests.ensemble.test_training import EVERYTHING
train(steps=100_000, checkpoint=Checkpoint(sys.argv[1], every=3), **dict(EVERYTHING, stop=None))
"""


def test_killed_and_taken_up_again(tmp_path):
    path = tmp_path / "run.pt"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], cwd=os.getcwd())
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.15)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    options = dict(EVERYTHING, stop=None)
    reached = files.load(path)["progress"]["step"]
    assert reached > 0
    assert reached % 3 == 0
    resumed = train(steps=reached + 5, checkpoint=path, **options)
    assert resumed.steps == reached + 5
    same(resumed, train(steps=reached + 5, **options))


def test_a_checkpoint_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    train(steps=4, checkpoint=path)
    before = path.read_bytes()

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        train(steps=8, checkpoint=path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_a_checkpoint_belongs_to_its_settings(tmp_path):
    path = tmp_path / "a.pt"
    train(steps=4, checkpoint=path)
    with pytest.raises(InputError, match="other settings, data or architecture"):
        train(steps=4, checkpoint=path, lr=0.5)
    with pytest.raises(InputError, match="other settings, data or architecture"):
        train(normed, steps=4, checkpoint=path)
    assert train(steps=4, checkpoint=path).steps == 4
    path.write_bytes(b"something else")
    with pytest.raises(InputError, match="is no ensemble"):
        train(steps=4, checkpoint=path)
    with pytest.raises(InputError, match="There is no file"):
        gt.ensemble.Ensemble.load(tmp_path / "b.pt")


def test_stopped_members_keep_what_had_the_loss():
    nets = train(steps=60, lr=0.05, stop=0.6, seeds=6, engine="vmap")
    stopped = [i for i, s in enumerate(nets.status) if s.state == "finished"]
    assert len(stopped) > 1
    losses = nets.evaluate()
    for i in stopped:
        step = nets.status[i].step
        assert losses[i] <= 0.6
        assert losses[i] == pytest.approx(float(nets.losses[i, step]), rel=1e-12)
        assert bool((nets.losses[i, :step] > 0.6).all())
        assert bool(nets.losses[i, step + 1 :].isnan().all())
        assert "threshold" in nets.status[i].reason


def test_one_diverging_member_disturbs_nobody():
    lrs = [0.01, 1e12, 0.02]
    options = dict(optimizer="sgd", loss=lambda out, _: out.square().mean(), steps=40)
    nets = train(lr=lrs, seeds=3, engine="vmap", **options)
    assert [s.state for s in nets.status] == ["running", "diverged", "running"]
    assert nets.status[1].step < 40
    assert not bool(torch.isfinite(nets.losses[1, nets.status[1].step]))
    for i in (0, 2):
        lone = alone(seed=i, lr=lrs[i], **options)
        torch.testing.assert_close(nets.parameters[i], lone.parameters, rtol=1e-10, atol=1e-10)


def test_masked_parameters_stay_exactly_zero():
    mask = {"0.weight": torch.randint(2, (4, 5, 3), generator=torch.Generator().manual_seed(0))}
    for optimizer in ("nesterov", "adamw", "rmsprop"):
        nets = train(mask=mask, optimizer=optimizer, weight_decay=0.1, lr=0.05, clip_grad_norm=0.5)
        assert bool((nets.state("0.weight")[mask["0.weight"] == 0] == 0).all())
        assert bool((nets.state("0.weight")[mask["0.weight"] == 1] != 0).all())


def test_label_noise_is_exact_per_member():
    nets = train(label_noise=[0.0, 0.25, 0.5, 1.0], steps=0)
    noisy = nets._work.task.batches.noisy
    assert [int((row != CLASSES).sum()) for row in noisy] == [0, 6, 12, 24]
    assert int(noisy.min()) >= 0
    assert int(noisy.max()) <= 2
    wrong = train(label_noise=0.5, steps=0, seeds=2)._work.task.batches.noisy
    assert not torch.equal(wrong[0], wrong[1])


def test_noise_of_other_targets():
    binary = (POINTS[:, :1] > 0).double()
    net = lambda: nn.Linear(3, 1).double()  # noqa: E731
    flipped = train(net, (POINTS, binary), loss=functional.mse_loss, label_noise=0.5, steps=0)
    assert bool(((flipped._work.task.batches.noisy != binary).sum((1, 2)) == 12).all())
    many = normal(20_000, 3), torch.full((20_000, 1), 0.5).double()
    spread = train(net, many, loss=functional.mse_loss, label_noise=0.3, steps=0, seeds=1)
    # The standard error of a standard deviation from n draws is σ/√(2n) = 0.0015.
    assert float(spread._work.task.batches.noisy.std()) == pytest.approx(0.3, abs=0.006)


def test_every_epoch_shows_every_example_once():
    order = positions(3, 10, 4, first=0, steps=10).flatten()
    for epoch in range(4):
        assert sorted(order[10 * epoch : 10 * epoch + 10].tolist()) == list(range(10))
    assert not torch.equal(order[:10], order[10:20])
    # The step alone decides, not where a block began.
    assert torch.equal(positions(3, 10, 4, first=7, steps=2), positions(3, 10, 4, first=0, steps=9)[7:])


def test_schedules_are_those_of_torch():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    pairs = [
        (
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=0.1),
            Schedule("cosine", total=10, floor=0.1),
        ),
        (torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5), Schedule("step", every=3, gamma=0.5)),
    ]
    for theirs, mine in pairs:
        for group in optimizer.param_groups:
            group["lr"] = 1.0
        for t in range(10):
            assert optimizer.param_groups[0]["lr"] == pytest.approx(mine.factor(t), rel=1e-12)
            optimizer.step()
            theirs.step()


def test_history_and_labels():
    nets = train(
        steps=20,
        record=Record(every=8, metrics=["loss", "accuracy"], measures=["parameter_norm"]),
        seeds=[4, 9],
    )
    assert nets.history.steps == [0, 8, 16]
    assert nets.history["loss"].shape == (2, 3)
    start = train(steps=0, seeds=[4, 9])
    assert nets.history["loss"][:, 0] == pytest.approx(start.evaluate().numpy(), rel=1e-12)
    data = nets.to_xarray()
    assert data["loss_of_batch"].dims == ("member", "step")
    assert data["parameter_norm"].dims == ("member", "recorded_step", "layer")
    assert list(data["member"].values) == [4, 9]
    assert data["parameters"].sel(param="2.bias[1]").shape == (2,)
    with pytest.raises(
        InputError, match="Nothing was recorded under 'speed'; there are: loss_of_batch, loss, accuracy"
    ):
        nets.history["speed"]


def test_evaluate_as_each_member_by_itself():
    nets = train(normed, steps=5, batch_size=8, average="ema")
    data = (normal(30, 3, seed=9), torch.randint(3, (30,)))
    for metric in ("loss", "accuracy", lambda out, y: float(out[0, 0])):
        values = nets.evaluate(data, metric)
        for i in range(4):
            with torch.no_grad():
                out = nets.member(i).eval()(data[0])
            expected = {
                "loss": functional.cross_entropy(out, data[1]),
                "accuracy": (out.argmax(1) == data[1]).double().mean(),
            }
            assert float(values[i]) == pytest.approx(float(expected.get(metric, out[0, 0])), rel=1e-12)
    assert not torch.equal(nets.evaluate(averaged=True), nets.evaluate())
    before = nets.parameters.clone()
    with torch.no_grad():
        for p in nets.member(0).parameters():
            p.zero_()
    assert torch.equal(nets.parameters, before)


def test_swa_is_the_mean_of_the_snapshots():
    average = Average("swa", start=4, every=3)
    nets = train(steps=4, average=average, engine="loop")
    snapshots = []
    for _ in range(3):
        snapshots.append(nets.train(3).parameters.clone())
    torch.testing.assert_close(nets.averages, torch.stack(snapshots).mean(0), rtol=1e-12, atol=1e-12)


def test_memory_is_planned_before_it_is_taken():
    made = []

    def counted():
        made.append(1)
        return nn.Linear(100, 100)

    data = (torch.zeros(2, 100), torch.zeros(2, 100))
    with pytest.raises(
        InputError, match=r"1000 members need .* even one at a time .* Train at most \d+ members at once"
    ):
        gt.ensemble.train(counted, data, loss=functional.mse_loss, seeds=1000, steps=1, memory="20MB")
    assert len(made) == 1
    nets = gt.ensemble.train(counted, data, loss=functional.mse_loss, seeds=50, steps=2, memory="8MB")
    assert nets.plan is not None
    assert nets.plan.chunk < 50
    assert nets.plan.predicted_bytes <= 8e6
    # The prediction is an upper estimate that is meant to be of use.
    assert 0.3 * nets.plan.predicted_bytes <= nets.plan.measured_bytes <= 1.2 * nets.plan.predicted_bytes
    for words in (
        "50 networks",
        "engine",
        "predicted",
        "of 8.00 MB allowed",
        "µs per network and step",
        "GFLOP/s",
    ):
        assert words in str(nets.plan)
    with pytest.raises(InputError, match=r"chunk=50 needs .* Pass chunk=\d+ or less"):
        gt.ensemble.train(
            counted, data, loss=functional.mse_loss, seeds=50, steps=2, memory="8MB", chunk=50, engine="vmap"
        )
    with pytest.raises(InputError, match="memory is 'plenty'"):
        train(memory="plenty")


def test_flops_of_a_linear_layer():
    nets = train(lambda: nn.Linear(3, 3).double(), steps=1)
    # Forward and the gradient of the weight: two products of 24 x 3 x 3, two operations each; none for the inputs.
    assert nets.plan.flops == 2 * 2 * 24 * 3 * 3
    assert 0 < nets.plan.fraction_of_peak < 1


def test_the_plan_is_told_first():
    told = []
    train(steps=3, progress=told.append)
    assert "networks, " in told[0]
    assert told[-1].startswith("step 3 of 3: 4 of 4 networks running")


def test_calibration_is_remembered(monkeypatch):
    from geartrain.ensemble import calibration

    train(steps=1, seeds=9, batch_size=3)
    monkeypatch.setattr(calibration, "_time", lambda *a: pytest.fail("tried again"))
    train(steps=1, seeds=9, batch_size=3)


BAD = [
    (dict(lr=[0.1, 0.2]), "lr has shape .2,.; it must be one number or one per member, shape .4,."),
    (dict(lr="fast"), "lr is 'fast'; it must be a number"),
    (dict(lr=-1.0), "lr is -1.0; it must be at least 0"),
    (dict(weight_decay=-0.1), "weight_decay is -0.1"),
    (dict(betas=(0.9, 0.999, 0.9)), "betas has shape"),
    (dict(betas=(1.0, 0.9)), "beta1 is 1.0"),
    (dict(momentum=0.5), "momentum is a setting of sgd"),
    (dict(optimizer="nesterov", momentum=0.0), "Nesterov needs a momentum above 0"),
    (dict(optimizer="adm"), "There is no optimizer named 'adm'. Did you mean 'adam'"),
    (dict(steps=-1), "steps is -1"),
    (dict(seeds=0), "seeds is 0"),
    (dict(seeds=[]), "at least one seed"),
    (dict(seeds="abc"), "seeds is 'abc'"),
    (dict(batch_size=0), "batch_size is 0"),
    (dict(batch_size=[1, 2]), "batch_size is"),
    (dict(subset=[[0], [1]]), "subset holds 2 lists of indices"),
    (dict(subset=[0, 99]), "subset holds the index 99"),
    (dict(label_noise=-0.1), "label_noise is -0.1"),
    (dict(label_noise=1.5), "label_noise is 1.5; as a share"),
    (dict(clip_grad_norm=0.0), "clip_grad_norm is 0.0"),
    (dict(schedule="cosin"), "There is no schedule named 'cosin'"),
    (dict(schedule=3), "schedule is a int"),
    (dict(schedule=lambda t: [1.0, 2.0]), "The schedule gave a value of shape"),
    (dict(average="mean"), "There is no average named 'mean'"),
    (dict(average=1.0), "decay is 1.0"),
    (dict(mask={"weight": torch.ones(1)}), "mask names 'weight'; the parameters are 0.weight"),
    (dict(mask={"0.weight": torch.ones(2, 2)}), "mask of '0.weight' has shape"),
    (dict(mask={"0.weight": torch.full((5, 3), 0.5)}), "mask holds numbers other than 0 and 1"),
    (dict(mask=[{}]), "mask holds 1 masks"),
    (dict(mask=torch.ones(3)), "mask has shape"),
    (dict(initial=torch.zeros(3)), "initial has shape"),
    (dict(initial=[{}]), "initial must be a tensor, a state dict"),
    (dict(stop="soon"), "stop is a str"),
    (dict(record="often"), "record is a str"),
    (dict(chunk=0), "chunk is 0"),
    (dict(engine="warp"), "There is no engine named 'warp'"),
    (dict(loss=3), "loss is a int"),
    (dict(loss=lambda out, y: out), "The loss is a tensor of shape"),
    (dict(make=nn.Linear(3, 3)), "make_model is a Linear"),
    (dict(make=lambda: 3), "make_model returned a int"),
    (dict(data=POINTS), "must be .inputs, targets."),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BAD, ids=[m[:24] for _, m in BAD])
def test_messages(options, message):
    with pytest.raises(InputError, match=message):
        train(**options)


def test_messages_of_the_parts():
    for make, message in [
        (lambda: Stop(plateau=0), "plateau is 0"),
        (lambda: Record(every=0), "every is 0"),
        (lambda: Checkpoint("a", every=0), "every is 0"),
        (lambda: Schedule("step"), "needs the number of steps per stair"),
        (lambda: Schedule(warmup=-1), "warmup=-1"),
        (lambda: Average("swa", every=0), "every=0"),
    ]:
        with pytest.raises(InputError, match=message):
            make()
    nets = train(steps=1)
    with pytest.raises(InputError, match=r"There is no 'weight'; there are 0\.weight"):
        nets.state("weight")
    with pytest.raises(InputError, match="There is no member 4; there are 4"):
        nets.member(4)
    with pytest.raises(InputError, match="No average was kept"):
        nets.member(0, averaged=True)
    with pytest.raises(InputError, match="metric is 'speed'"):
        nets.evaluate(metric="speed")
    with pytest.raises(InputError, match="steps is -1"):
        nets.train(-1)
    with pytest.raises(UnknownNameError, match="no instrument of ensembles named 'hessian_top'"):
        nets.measure("hessian_top")
    with pytest.raises(UnsupportedError, match='engine="vmap" cannot train this'):
        train(lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout()).double(), engine="vmap")
    shared = mlp()
    with pytest.raises(InputError, match="the same module twice"):
        train(lambda: shared)
    sizes = iter(range(2, 9))
    with pytest.raises(InputError, match="different architecture"):
        train(lambda: nn.Sequential(nn.Linear(3, (k := next(sizes))), nn.Linear(k, 3)).double())
    with pytest.raises(InputError, match="needs targets that are one tensor"):
        train(
            data=(POINTS, (CLASSES, CLASSES)),
            loss=lambda out, y: functional.cross_entropy(out, y[0]),
            label_noise=0.1,
        )
