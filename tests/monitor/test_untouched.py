"""Whatever is watched, the loop's own numbers stay what they are, bit for bit; and nothing is left behind."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.monitor import loops
from torch import nn

import geartrain as gt
from geartrain.errors import InputError

CASES = {"mlp": (loops.mlp, loops.examples), "text": (loops.TinyText, loops.sentences)}


def twins(kind, optimizer, *, seed=0, **settings_):
    """The same loop without and with a monitor; returns what both leave."""
    make, data = CASES[kind]
    found = []
    for with_monitor in (False, True):
        torch.manual_seed(seed)
        model = make()
        made = loops.OPTIMIZERS[optimizer](model.parameters())
        batches = loops.batches(data(seed=seed), 8, 12)
        torch.manual_seed(seed + 1)
        if with_monitor:
            monitor = loops.watched(model, made, batches, tell=True, **settings_)
            losses = monitor.losses
        else:
            losses = loops.train(model, made, batches, **settings_)
        found.append(([x.hex() for x in losses], loops.state(model, made)))
    return found[0], found[1], monitor


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(list(CASES)),
    optimizer=st.sampled_from(list(loops.OPTIMIZERS)),
    micro=st.sampled_from([1, 2, 4]),
    clip=st.sampled_from([None, 0.05, 100.0]),
    set_to_none=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_bit_identical(kind, optimizer, micro, clip, set_to_none, seed):
    plain, seen, monitor = twins(kind, optimizer, micro=micro, clip=clip, set_to_none=set_to_none, seed=seed)
    assert plain == seen
    assert monitor.steps == 12
    assert monitor.skipped_steps == 0


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_bit_identical_with_sparse_gradients_and_tied_weights(sparse, tied):
    if sparse and tied:
        pytest.skip("a dense and a sparse gradient of one parameter cannot be added in place")
    states = []
    for with_monitor in (False, True):
        torch.manual_seed(0)
        model = loops.TinyText(sparse=sparse, tied=tied)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        data = loops.batches(loops.sentences(), 8, 12)
        monitor = (
            loops.watched(model, optimizer, data) if with_monitor else loops.train(model, optimizer, data)
        )
        states.append(loops.state(model, optimizer))
    assert states[0] == states[1]
    assert (monitor.history.column("grad_norm") > 0).all()
    assert (monitor.history.column("update_norm") > 0).all()


@pytest.mark.parametrize("fast", [nn.TransformerEncoderLayer, nn.MultiheadAttention])
def test_kernels_chosen_in_evaluation_are_the_same(fast):
    """PyTorch runs these modules by another kernel while they carry hooks."""
    torch.manual_seed(0)
    if fast is nn.MultiheadAttention:

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

            def forward(self, x):
                return self.inner(x, x, x, need_weights=False)[0]
    else:

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

            def forward(self, x):
                return self.inner(x)

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 5, 8)

    def evaluate():
        model.eval()
        with torch.no_grad():
            result = model(x)
        model.train()
        return result

    before = evaluate()
    with gt.watch(model, optimizer, **loops.ALWAYS):
        assert torch.equal(evaluate(), before)
        assert all(not m._forward_hooks for m in model.modules() if m is not model)


def test_no_pass_is_added():
    model, data = loops.mlp(), loops.batches(loops.examples(), 8, 12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with loops.counted_work(model) as plain:
        loops.train(model, optimizer, data)
    with loops.counted_work(model) as seen:
        loops.watched(model, optimizer, data)
    assert seen == plain == {"forwards": 12, "backwards": 12}


def test_every_hook_is_gone_afterwards():
    model = loops.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = loops.hooks(model, optimizer)
    with gt.watch(model, optimizer, **loops.ALWAYS):
        loops.train(model, optimizer, loops.batches(loops.examples(), 8, 5))
        assert loops.hooks(model, optimizer) > before
    assert loops.hooks(model, optimizer) == before == 0


def test_hooks_are_few_at_steps_where_nothing_is_due():
    """Two on the optimizer; the sentinel and those on the model go once it is clear that they hear nothing new."""
    model = loops.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    counts = []
    with gt.watch(model, optimizer, every=0, overhead=None):
        for batch in loops.batches(loops.examples(), 8, 80):
            loops.train(model, optimizer, [batch])
            counts.append(loops.hooks(model, optimizer))
    assert counts[20] == 3
    assert counts[-1] == 2


def test_an_exception_goes_its_way_and_leaves_no_hook():
    model = loops.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fail():
        raise ValueError("the disk is full")

    monitor = gt.watch(model, optimizer, **loops.ALWAYS)
    with pytest.raises(ValueError, match="the disk is full"), monitor:
        loops.train(model, optimizer, loops.batches(loops.examples(), 8, 6), at={4: fail})
    assert monitor.ended == "ValueError: the disk is full"
    assert loops.hooks(model, optimizer) == 0
    assert monitor.steps == 4
    assert len(monitor.history) == 4


@pytest.mark.parametrize("where", ["forward", "backward", "step"])
def test_an_exception_inside_a_step_spoils_that_step_only(where):
    model = loops.plain_mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = loops.examples(dtype=torch.float64)
    with gt.watch(model, optimizer, **loops.ALWAYS) as monitor:
        for step in range(6):
            optimizer.zero_grad()
            broken = step == 3
            handles = []
            if broken and where == "forward":
                handles.append(model[2].register_forward_pre_hook(lambda *a: 1 / 0))
            if broken and where == "backward":
                handles.append(model[0].weight.register_hook(lambda g: 1 / 0))
            if broken and where == "step":
                handles.append(optimizer.register_step_pre_hook(lambda *a: 1 / 0))
            try:
                loops.loss_of(model(inputs), targets).backward()
                optimizer.step()
            except ZeroDivisionError:
                pass
            for handle in handles:
                handle.remove()
    assert monitor.steps == 5
    assert np_all_finite(monitor.history.column("grad_norm"))
    assert loops.hooks(model, optimizer) == 0


def np_all_finite(values) -> bool:
    return bool((values == values).all()) and len(values) > 0


def test_start_and_stop_without_a_block_and_again():
    model = loops.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gt.watch(model, optimizer, **loops.ALWAYS).start()
    loops.train(model, optimizer, loops.batches(loops.examples(), 8, 3))
    with pytest.raises(InputError, match=r"watching already; stop\(\) it first"):
        monitor.start()
    monitor.stop()
    loops.train(model, optimizer, loops.batches(loops.examples(), 8, 3))
    assert monitor.steps == 3
    with monitor:
        loops.train(model, optimizer, loops.batches(loops.examples(), 8, 3))
    assert monitor.steps == 6
    assert monitor.history.column("step").tolist() == [0, 1, 2, 3, 4, 5]


def test_two_monitors_at_once_see_the_same():
    model = loops.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        gt.watch(model, optimizer, **loops.ALWAYS) as outer,
        gt.watch(model, optimizer, **loops.ALWAYS) as inner,
    ):
        loops.train(model, optimizer, loops.batches(loops.examples(), 8, 6))
    for name in ("grad_norm", "update_norm", "param_norm"):
        assert outer.history.column(name).tolist() == inner.history.column(name).tolist()


def test_pausing_looks_away():
    model = loops.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = loops.batches(loops.examples(), 8, 3)
    with gt.watch(model, optimizer, **loops.ALWAYS) as monitor:
        loops.train(model, optimizer, data)
        monitor.pause()
        loops.train(model, optimizer, data)
        monitor.resume()
        loops.train(model, optimizer, data)
    assert monitor.steps == 6


def test_copies_of_the_model_carry_no_monitor():
    """Averages of the weights are copies made inside the loop; they must neither watch nor hold the monitor."""
    model = loops.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gt.watch(model, optimizer, **loops.ALWAYS) as monitor:
        loops.train(model, optimizer, loops.batches(loops.examples(), 8, 2))
        twin = copy.deepcopy(model)
        stored = pickle.loads(pickle.dumps(model))
        seen = monitor._loop.scene.batches.copy()
        twin(torch.zeros(2, 4)), stored(torch.zeros(2, 4))
        assert monitor._loop.scene.batches == seen
        assert sum(len(p._post_accumulate_grad_hooks or ()) for p in twin.parameters()) == 0


def test_history_and_monitor_travel_by_pickle():
    model = loops.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = loops.watched(model, optimizer, loops.batches(loops.examples(), 8, 6), tell=True)
    history = pickle.loads(pickle.dumps(monitor.history))
    assert history.column("loss").tolist() == monitor.history.column("loss").tolist()
    twin = pickle.loads(pickle.dumps(monitor))
    assert twin.to_dict() == monitor.to_dict()
    assert twin.summary() == monitor.summary()
    with pytest.raises(InputError, match="read from a file: it holds what was seen, not the loop"):
        twin.start()
    with pytest.raises(InputError, match="read from a file"):
        twin.diagnose(data=loops.examples())


def test_numbers_of_the_loop_are_drawn_from_its_own_generators_only():
    """Printing a summary in the middle of the loop draws nothing."""
    model = loops.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gt.watch(model, optimizer, **loops.ALWAYS) as monitor:
        loops.train(model, optimizer, loops.batches(loops.examples(), 8, 3))
        before = torch.get_rng_state()
        assert "steps" in str(monitor)
        assert torch.equal(torch.get_rng_state(), before)
