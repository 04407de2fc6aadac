"""Mixed precision, compiled models, several processes: what surrounds real loops."""

from __future__ import annotations

import datetime
import os

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from tests.monitor import loops
from torch import nn

import geartrain as gt
from geartrain.errors import InputError, UnsupportedError

EACH = {"overhead": None, "every": 1}


# ---------------------------------------------------------------------- mixed precision


def scaled_loop(
    scale, *, unscale=False, clip=None, steps=6, fused=False, scaler=None, seed=0, watch=True, half=False
):
    """A loop with a gradient scaler; returns the monitor, the model and the scaler."""
    model, (inputs, targets) = loops.plain_mlp(seed, torch.float32), loops.examples(16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **({"fused": True} if fused else {}))
    made = torch.amp.GradScaler("cpu", init_scale=scale)
    monitor = gt.watch(model, optimizer, **EACH, scaler=made if scaler else None)
    if watch:
        monitor.start()
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16, enabled=half):
            outputs = model(inputs)
        made.scale(loops.loss_of(outputs.float(), targets)).backward()
        if unscale:
            made.unscale_(optimizer)
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        made.step(optimizer)
        made.update()
    monitor.stop()
    return monitor, model, made


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("scaler", [False, True])
def test_gradients_are_noted_unscaled(fused, unscale, scaler):
    """Whether the loop, the scaler or a fused optimizer divides by the scale, and whether the scaler was passed."""
    plain, *_ = scaled_loop(1.0)
    scaled, *_ = scaled_loop(2.0**10, fused=fused, unscale=unscale, scaler=scaler)
    for name in ("grad_norm", "update_norm", "gauge", "cosine", "gradient_noise"):
        # A scaler that was not passed is found at the first step that it makes.
        np.testing.assert_allclose(
            scaled.history.column(name)[1:], plain.history.column(name)[1:], rtol=1e-3, err_msg=name
        )
    rows = [m.tables["grad_norm"].array() for m in (scaled, plain)]
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-3)


def test_clipping_of_unscaled_gradients_is_told_from_the_scale():
    monitor, *_ = scaled_loop(2.0**10, unscale=True, clip=0.01)
    plain, *_ = scaled_loop(1.0, clip=0.01)
    for name in ("grad_norm", "used_grad_norm", "clip_factor"):
        np.testing.assert_allclose(
            monitor.history.column(name)[2:], plain.history.column(name)[2:], rtol=1e-3
        )
    assert (monitor.history.column("clip_factor")[2:] < 0.2).all()


def test_skipped_steps_are_noticed():
    """A scale that overflows is halved until it fits: that many steps are skipped, and no row is wrong."""
    monitor, _, scaler = scaled_loop(2.0**30, steps=30, half=True)
    assert monitor.skipped_steps == 30 - monitor.steps
    assert 0 < monitor.skipped_steps < 30
    assert np.isfinite(monitor.history.column("grad_norm")).all()
    assert scaler.get_scale() < 2.0**30
    assert not any(a.kind == "non-finite" for a in monitor.alarms)


def test_steps_that_keep_being_skipped_raise_an_alarm():
    def act():
        model, (inputs, targets) = loops.plain_mlp(0, torch.float32), loops.examples(16)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gt.watch(model, optimizer) as monitor:
            for _ in range(20):
                optimizer.zero_grad()
                loops.loss_of(model(inputs), targets).backward()
        return monitor

    monitor = act()
    assert monitor.steps == 0
    assert [a.kind for a in monitor.alarms] == ["skipped steps"]
    assert "gradients were thrown away without a step" in monitor.alarms[0].sentence


def test_scaled_loops_stay_bit_identical():
    seen, bare = (scaled_loop(2.0**30, steps=20, half=True, watch=w)[1] for w in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(seen.parameters(), bare.parameters(), strict=True))


def test_autocast():
    model, (inputs, targets) = loops.plain_mlp(0, torch.float32), loops.examples(16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gt.watch(model, optimizer, **EACH) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loops.loss_of(model(inputs), targets)
            loss.backward()
            optimizer.step()
    assert np.isfinite(monitor.history.column("gradient_noise")).all()
    assert monitor.tables["activation_rms"].layers == ("0", "1", "2")


# ---------------------------------------------------------------------- compiled models


class Own(nn.Module):
    """PyTorch does not compile its own containers in place."""

    def __init__(self):
        super().__init__()
        self.inner = loops.plain_mlp(0, torch.float32)

    def forward(self, x):
        return self.inner(x)


def counting_backend():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    return backend, compiled


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor"
)  # PyTorch's own, in a graph in the middle
@pytest.mark.parametrize("how", ["wrapped", "in place", "inner", "function"])
def test_compiled_models_are_compiled_once_and_give_the_same(how):
    """Hooks that come and go must neither break a graph nor compile another one."""
    states, graphs = [], []
    for watch in (False, True):
        torch._dynamo.reset()
        backend, compiled = counting_backend()
        model, data = Own(), loops.batches(loops.examples(), 8, 8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        called = model
        if how == "wrapped":
            called = torch.compile(model, backend=backend)
        elif how == "in place":
            model.compile(backend=backend)
        elif how == "inner":
            model.inner[2] = torch.compile(model.inner[2], backend=backend)
        if how == "function":
            step = torch.compile(lambda x, y: loops.loss_of(model(x), y), backend=backend)
            monitor = gt.watch(model, optimizer, **EACH)
            if watch:
                monitor.start()
            for x, y in data:
                optimizer.zero_grad()
                step(x, y).backward()
                optimizer.step()
            monitor.stop()
        elif watch:
            monitor = loops.watched(called, optimizer, data, options=EACH)
        else:
            loops.train(called, optimizer, data)
        states.append([p.detach().clone() for p in model.parameters()])
        graphs.append(len(compiled))
    assert graphs[0] == graphs[1] == 1
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    assert np.isfinite(monitor.history.column("grad_norm")).all()
    assert len(monitor.history) == 8
    if how in ("wrapped", "in place"):
        assert monitor.governor.accounts["flow"].off == "not visible"
        assert monitor.tables["grad_norm"].layers == ("inner.0", "inner.2")
    torch._dynamo.reset()


# ---------------------------------------------------------------------- several processes


def worker(rank, folder, size, plan):
    os.environ["OMP_NUM_THREADS"] = "1"
    store = torch.distributed.FileStore(f"{folder}/store", size)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60)
    )
    try:
        plan(rank, folder, size)
    finally:
        torch.distributed.destroy_process_group()


def averaged(rank, folder, size):
    """Each process has its own half of every batch, its own speed, and its own losses."""
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(loops.plain_mlp())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    clock = loops.Clock()
    inputs, targets = loops.examples(64, dtype=torch.float64)
    with gt.watch(model, optimizer, every={"flow": 5}, clock=clock) as monitor:
        for step in range(70):
            rows = torch.arange(16) + 16 * (step % 4)
            mine = rows[8 * rank : 8 * (rank + 1)]
            optimizer.zero_grad()
            loss = monitor.loss(loops.loss_of(model(inputs[mine]), targets[mine]))
            loss.backward()
            clock.wait(0.01 * (1 + rank) + 0.001 * (step % 3))
            optimizer.step()
    history = monitor.history
    torch.save(
        {
            "steps": history.column("step"),
            "loss": history.column("loss"),
            "grad_norm": history.column("grad_norm"),
            "noise": history.column("gradient_noise"),
            "signal": history.column("gradient_signal"),
            "layers": monitor.tables["grad_norm"].layers,
            "alarms": [str(a) for a in monitor.alarms],
        },
        f"{folder}/{rank}.pt",
    )


def alone(rank, folder, size):
    """Only one process watches, and says so."""
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(loops.plain_mlp())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = loops.batches(loops.examples(dtype=torch.float64), 8, 6)
    if rank == 0:
        monitor = loops.watched(model, optimizer, data, options={**EACH, "reduce": False})
        torch.save({"norms": monitor.history.column("grad_norm")}, f"{folder}/0.pt")
    else:
        loops.train(model, optimizer, data)


def absent(rank, folder, size):
    """Only one process watches, and does not say so."""
    from geartrain.monitor import _processes

    _processes.PATIENCE = datetime.timedelta(seconds=0.2)
    model = nn.parallel.DistributedDataParallel(loops.plain_mlp())
    message = ""
    if rank == 0:
        try:
            gt.watch(model, torch.optim.SGD(model.parameters(), lr=0.05)).start()
        except InputError as error:
            message = str(error)
        torch.save({"message": message}, f"{folder}/0.pt")
    torch.distributed.barrier()


def everything(rank, folder, size):
    for plan in (averaged, alone, absent):
        os.makedirs(f"{folder}/{plan.__name__}", exist_ok=True)
        plan(rank, f"{folder}/{plan.__name__}", size)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What two processes left: they are started once for all that is asked, as starting takes seconds."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(worker, args=(str(folder), 2, everything), nprocs=2)
    return {
        plan.__name__: [
            torch.load(path, weights_only=False) for path in sorted((folder / plan.__name__).glob("*.pt"))
        ]
        for plan in (averaged, alone, absent)
    }


def one_process():
    """The same steps on whole batches."""
    torch.manual_seed(0)
    model = loops.plain_mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    inputs, targets = loops.examples(64, dtype=torch.float64)
    noise, signal = [], []
    with gt.watch(model, optimizer, **EACH) as monitor:
        for step in range(70):
            rows = torch.arange(16) + 16 * (step % 4)
            parts = []
            for half in (rows[:8], rows[8:]):
                grads = torch.autograd.grad(
                    loops.loss_of(model(inputs[half]), targets[half]), list(model.parameters())
                )
                parts.append(torch.cat([g.reshape(-1) for g in grads]))
            both = torch.stack(parts)
            noise.append(float(both.var(0, unbiased=True).sum()) / 2)
            signal.append(float(both.mean(0).square().sum()) - noise[-1])
            optimizer.zero_grad()
            monitor.loss(loops.loss_of(model(inputs[rows]), targets[rows])).backward()
            optimizer.step()
    return monitor.history, np.array(noise), np.array(signal)


@pytest.mark.slow
def test_processes_put_their_numbers_together(processes):
    """Two processes see the same steps, the mean loss, and the noise from the gradients of both."""
    first, second = processes["averaged"]
    history, noise, signal = one_process()
    np.testing.assert_array_equal(first["steps"], second["steps"])
    # Losses of the last stretch that is not complete are still each one's own.
    np.testing.assert_allclose(first["loss"][:64], second["loss"][:64])
    np.testing.assert_allclose(first["loss"][:64], history.column("loss")[:64], rtol=1e-6)
    assert np.isfinite(first["noise"]).sum() >= 2
    for found in (first, second):
        known = np.isfinite(found["noise"])
        np.testing.assert_allclose(found["noise"][known], noise[found["steps"].astype(int)][known], rtol=1e-6)
        np.testing.assert_allclose(
            found["signal"][known], signal[found["steps"].astype(int)][known], rtol=1e-6
        )
        seen = np.isfinite(found["grad_norm"])
        np.testing.assert_allclose(found["grad_norm"][seen], history.column("grad_norm")[seen], rtol=1e-9)
    assert first["layers"] == ("0", "2")
    assert first["alarms"] == []


@pytest.mark.slow
def test_one_process_may_watch_alone(processes):
    (found,) = processes["alone"]
    assert np.isfinite(found["norms"]).all()


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named(processes):
    (found,) = processes["absent"]
    assert "entered by process 0 of 2, but not by [1] within 0 s" in found["message"]
    assert "pass reduce=False" in found["message"]


def test_sharded_parameters_are_refused():
    class Shard(nn.Parameter):
        def to_local(self):
            return self

    model = nn.Linear(2, 2)
    model.weight = Shard(model.weight.detach())
    with pytest.raises(
        UnsupportedError, match=r"sharded over processes \(DTensor\).*one process, or DistributedData"
    ):
        gt.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
