"""What a monitor keeps and says: columns, tables, alarms, the log, the summary, and the way to a diagnosis."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.monitor import loops
from torch import nn

import geartrain as gt
from geartrain.diagnosis import Diagnosis
from geartrain.errors import InputError
from geartrain.instruments.losses.loss_spikes import loss_spikes
from geartrain.monitor import _conclude
from geartrain.monitor.alarms import Alarms
from geartrain.monitor.record import LayerTable, Record, Row
from geartrain.run import History


def watched(steps=12, *, tell=True, options=None, model=None, **settings):
    model = model or loops.plain_mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = loops.batches(loops.examples(dtype=next(model.parameters()).dtype), 8, steps)
    return loops.watched(model, optimizer, data, tell=tell, options=options, **settings)


# ---------------------------------------------------------------------- the loss


def test_losses_that_the_loop_passes_come_back_unchanged_and_are_averaged():
    model = loops.plain_mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = loops.examples(16, dtype=torch.float64)
    wanted = []
    with gt.watch(model, optimizer, every=0, overhead=None) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            parts = []
            for x, y in zip(inputs.chunk(2), targets.chunk(2), strict=True):
                loss = loops.loss_of(model(x), y)
                assert monitor.loss(loss) is loss
                parts.append(float(loss.detach()))
                loss /= 2  # in place: what was noted must not change
                loss.backward()
            wanted.append(np.mean(parts))
            optimizer.step()
    np.testing.assert_allclose(monitor.history.column("loss"), wanted, rtol=1e-12)
    assert monitor.loss(1.5) == 1.5


class Returning(nn.Module):
    """A model that computes its loss itself, and returns it in one of the usual ways."""

    def __init__(self, how):
        super().__init__()
        self.inner, self.how = loops.plain_mlp(), how

    def forward(self, x, y):
        outputs = self.inner(x)
        loss = loops.loss_of(outputs, y)
        return {
            "alone": loss,
            "pair": (outputs, loss),
            "dict": {"logits": outputs, "loss": loss},
            "object": type("Output", (), {"loss": loss, "logits": outputs})(),
            "none": outputs,
        }[self.how]


@pytest.mark.parametrize("how", ["alone", "pair", "dict", "object"])
def test_losses_that_the_model_returns_are_seen(how):
    model = Returning(how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = loops.examples(16, dtype=torch.float64)
    wanted = []
    with gt.watch(model, optimizer) as monitor:
        for _ in range(20):
            optimizer.zero_grad()
            output = model(inputs, targets)
            loss = {
                "alone": lambda o: o,
                "pair": lambda o: o[1],
                "dict": lambda o: o["loss"],
                "object": lambda o: o.loss,
            }[how](output)
            wanted.append(float(loss.detach()))
            loss.backward()
            optimizer.step()
    np.testing.assert_allclose(monitor.history.column("loss"), wanted, rtol=1e-12)


def test_outputs_are_not_mistaken_for_losses():
    assert "loss" not in watched(tell=False).history.columns


# ---------------------------------------------------------------------- records


def test_columns_are_those_of_a_history():
    monitor = watched()
    assert isinstance(monitor.history, History)
    assert {"step", "loss", "lr", "grad_norm", "update_norm", "param_norm", "cosine"} <= set(
        monitor.history.columns
    )
    assert len(monitor.history) == monitor.steps == 12
    assert "too few" not in loss_spikes(watched(40).history).status.sentence


def test_everything_is_plain_json():
    found = json.loads(json.dumps(watched().to_dict(), allow_nan=False))
    assert found["columns"]["step"] == list(range(12))
    assert found["layers"]["update_ratio"]["layers"] == ["0", "2"]
    assert np.shape(found["layers"]["update_ratio"]["values"]) == (12, 2)
    assert found["overhead"]["groups"]["norms"]["times"] == 12
    assert found["alarms"] == []


def test_arrays_with_named_axes():
    pytest.importorskip("xarray")
    monitor = watched()
    found = monitor.to_xarray()
    assert found["loss"].dims == ("step",)
    assert found["layer_grad_norm"].dims == ("step", "layer")
    assert found["layer_grad_norm"].sel(layer="2").shape == (12,)
    assert found["grad_norm"].attrs["unit"] == "ℓ/θ"
    np.testing.assert_array_equal(found["loss"].values, monitor.history.column("loss"))


def test_layers_that_come_later_have_no_past():
    table = LayerTable()
    for step, names, row in ((0, ("a",), [1.0]), (5, ("a", "b"), [2.0, 3.0]), (6, ("b",), [4.0])):
        table.names.append(names)
        table.steps.append(step)
        table.rows.append(np.array(row))
    np.testing.assert_array_equal(table.array(), [[1, np.nan], [2, 3], [np.nan, 4]])
    assert table.last() == {"a": 2.0, "b": 4.0}
    assert table.median() == {"a": 1.5, "b": 3.5}


def test_numbers_on_other_devices_are_fetched_together(monkeypatch):
    """Rows wait, at most ``patience`` of them, and are read in one transfer; asking for them reads them too."""
    from geartrain.monitor import record

    transfers = []
    real = record._fetch
    monkeypatch.setattr(record, "_fetch", lambda rows: transfers.append(len(rows)) or real(rows))
    monkeypatch.setattr(Row, "waits", lambda self: True)
    kept = Record(patience=4)
    for step in range(10):
        kept.add(Row(step, {"loss": torch.tensor(float(step))}), soon=True)
    assert transfers == [4, 4]
    kept.settle()
    assert kept.history.column("loss").tolist() == list(range(10))


def test_the_log_gets_flat_dictionaries_at_once():
    seen = []
    monitor = watched(
        options={**loops.ALWAYS, "log": lambda step, numbers: seen.append((step, len(seen), numbers))}
    )
    assert [s for s, _, _ in seen] == list(range(12))
    assert seen[3][2]["update_ratio/2"] == monitor.tables["update_ratio"].array()[3, 1]
    assert seen[3][2]["loss"] == monitor.history.column("loss")[3]
    assert all(isinstance(v, float) for _, _, numbers in seen for v in numbers.values())


def test_a_tracker_that_is_down_does_not_end_the_training():
    def log(step, numbers):
        raise ConnectionError("no route")

    with pytest.warns(
        RuntimeWarning, match=r"log\(step, numbers\) of gt.watch raised ConnectionError: no route"
    ):
        monitor = watched(options={"overhead": None, "log": log})
    assert monitor.steps == 12


def test_summary_and_repr():
    monitor = watched(options={"overhead": None, "name": "a [bold] name"})
    text = monitor.summary()
    assert "a [bold] name: 12 steps, no alarms" in text
    for words in ("step-length gauge", "noise scale / batch", "|Δθ|/|θ|", "updates", "ms each"):
        assert words in text
    assert repr(monitor).startswith("<Monitor of a [bold] name: 12 steps, no alarms")
    assert max(map(len, text.splitlines())) <= 110


def test_a_monitor_that_has_seen_nothing_says_so():
    model = loops.plain_mlp()
    monitor = gt.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert "Sequential: 0 steps, no alarms of 5 % allowed" in monitor.summary()
    assert monitor.to_dict()["columns"] == {}
    assert not monitor.step_length_gauge().status.usable


# ---------------------------------------------------------------------- alarms


def hear(values, **more):
    alarms = Alarms()
    for step, value in enumerate(values):
        alarms.hear(step, {"loss": float(value), **more}, {})
    return alarms.raised


def test_noise_is_no_alarm():
    """Losses with lognormal noise of 30 %, and falling by a factor of ten, in 100 runs of 500 steps: no alarm."""
    for seed in range(100):
        generator = np.random.default_rng(seed)
        losses = np.exp(-np.linspace(0, 2.3, 500) + 0.3 * generator.standard_normal(500))
        assert hear(losses) == []


def test_a_spike_is_reported_once_with_its_size():
    losses = np.exp(0.05 * np.random.default_rng(0).standard_normal(200))
    losses[120:125] = 50.0
    (alarm,) = hear(losses)
    assert (alarm.step, alarm.kind) == (120, "loss spike")
    assert "the loss is 50, " in alarm.sentence
    assert 40 < float(alarm.sentence.split(", ")[1].split(" ")[0]) < 60


def test_numbers_that_are_none_are_placed():
    alarms = Alarms()
    tables = {"activation_rms": {"first": 1.0, "second": math.inf, "third": math.nan}}
    (alarm,) = alarms.hear(7, {"loss": math.nan, "grad_norm": math.inf}, tables)
    assert str(alarm) == "step 7: non-finite: loss and grad_norm stopped being finite, first in layer second."


def test_a_loop_that_breaks_raises_the_alarm_with_the_layer():
    model = loops.plain_mlp()

    def poison():
        model[2].weight.data[0, 0] = math.nan

    seen = []
    monitor = watched(model=model, at={6: poison}, options={**loops.ALWAYS, "on_alarm": seen.append})
    assert [a.kind for a in monitor.alarms] == ["non-finite"]
    assert "first in layer 2" in monitor.alarms[0].sentence
    assert monitor.alarms[0].step == 6
    assert seen == monitor.alarms


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lr", [0.03, 0.1])
def test_a_healthy_loop_raises_no_alarm(seed, lr):
    """The example, as it is and with a smaller step: every layer moves, nothing jumps."""
    path = Path(__file__).parents[2] / "examples" / "watch_a_loop.py"
    spec = importlib.util.spec_from_file_location("watch_a_loop", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monitor, (inputs, targets) = example.train(epochs=12, lr=lr, seed=seed)
    assert monitor.alarms == []
    assert monitor.steps == 12 * 16
    # Not from the history: on a busy machine so short a loop may be slept through for the most part.
    assert nn.functional.cross_entropy(monitor.model(inputs), targets) < 0.5


def test_steps_beyond_the_minimum_raise_an_alarm():
    """Gradient descent with ηλ = 1.8 on a parabola: the gauge is 0.8 and every update turns round."""
    layer = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.8)
    with gt.watch(layer, optimizer, overhead=None) as monitor:
        for _ in range(40):
            optimizer.zero_grad()
            (0.5 * layer.weight.square().sum()).backward()
            optimizer.step()
    assert [a.kind for a in monitor.alarms] == ["overshoot"]
    assert "gauge 0.80" in monitor.alarms[0].sentence
    assert float(monitor.step_length_gauge()) == pytest.approx(0.8)


def test_layers_without_any_gradient_are_named():
    model = loops.plain_mlp()
    model[0].requires_grad_(False)
    monitor = watched(40, model=model, options={"overhead": None})
    assert [a.kind for a in monitor.alarms] == ["no gradient"]
    assert "the optimizer holds 0, but no gradient has ever arrived there" in monitor.alarms[0].sentence


# ---------------------------------------------------------------------- conclusions


def test_the_gauge_is_corrected_for_the_noise():
    """Gradients w + z and steps so short that w stays: the gauge of every step is -1.

    The slope before a step is -η|w + z|² with mean -η(|w|² + noise), the slope after it -η(w + z)·(w + z') with mean
    -η|w|². Their plain ratio is therefore -1/(1 + noise/|w|²); corrected, it is -1.
    """
    generator = torch.Generator().manual_seed(0)
    dims, size = 20, 32
    layer = nn.Linear(dims, 1, bias=False, dtype=torch.float64)
    layer.weight.data.fill_(2.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-9)
    with gt.watch(layer, optimizer, **loops.ALWAYS) as monitor:
        for _ in range(200):
            optimizer.zero_grad()
            inputs = 2.0 + 16.0 * torch.randn(size, dims, generator=generator, dtype=torch.float64)
            layer(inputs).mean().backward()
            optimizer.step()
    found, over = monitor.step_length_gauge(last=200), 256.0 * dims / size / (4.0 * dims)
    error = float(found.standard_error)
    assert abs(found.details["uncorrected"] + 1 / (1 + over)) < 4 * error / (1 + over)
    # The noise scale has an error of its own, of about the same size.
    assert abs(float(found) + 1) < 4 * math.hypot(
        error, float(monitor.noise_scale().standard_error) / size / (1 + over)
    )
    assert error < 0.2


def test_a_diagnosis_of_what_was_watched():
    model = loops.plain_mlp(0, torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = loops.batches(loops.examples(), 8, 12)
    with gt.watch(model, optimizer, name="my loop") as monitor:
        loops.train(model, optimizer, data, clip=0.3)
        before = loops.state(model, optimizer)
        found = monitor.diagnose(loops.loss_of, loops.examples(), budget="2s", steps=20)
        assert loops.state(model, optimizer) == before
        assert monitor.steps == 12
        loops.train(model, optimizer, data, clip=0.3)
        assert monitor.steps == 24
    assert isinstance(found, Diagnosis)
    assert found.name == "my loop"
    assert loops.hooks(model, optimizer) == 0


def test_the_run_has_the_batch_size_and_the_clipping_that_were_seen():
    model = loops.plain_mlp(0, torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = loops.watched(model, optimizer, loops.batches(loops.examples(), 8, 12), clip=0.03)
    run = _conclude.run_of(monitor, loops.loss_of, loops.examples(), None, {})
    assert run.stream.batch_size == 8
    assert run.clip_grad_norm == pytest.approx(0.03, rel=1e-3)
    assert run.total_steps == 54  # 9 epochs of 6: at least the 50 asked for
    free = loops.watched(model, optimizer, loops.batches(loops.examples(), 8, 12))
    assert _conclude.run_of(free, loops.loss_of, loops.examples(), 12, {"batch_size": 16}).total_steps == 12
    assert _conclude.clipping(free.history) is None


def test_a_diagnosis_needs_data():
    model = loops.plain_mlp()
    monitor = gt.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(InputError, match=r"monitor.diagnose needs data=\(inputs, targets\)"):
        monitor.diagnose(loops.loss_of)


# ---------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda m, o: gt.watch("model", o), r"model is a str; gt.watch needs the torch.nn.Module that is trained"),
        (lambda m, o: gt.watch(m, "sgd"), r"optimizer is a str; gt.watch needs the torch optimizer"),
        (lambda m, o: gt.watch(nn.Linear(2, 2), o), r"holds no parameter of Linear: there would be nothing to watch"),
        (lambda m, o: gt.watch(m, o, overhead=5), r"overhead is 5; allowed: a share of the step time between 0 and 1"),
        (lambda m, o: gt.watch(m, o, extras=["distence"]), r"no extra 'distence'; allowed.*Did you mean 'distance'\?"),
        (lambda m, o: gt.watch(m, o, every={"nois": 3}), r"every names 'nois'; the groups are.*Did you mean 'noise'\?"),
        (lambda m, o: gt.watch(m, o, every={"noise": -1}), r"every\['noise'\] is -1; allowed: a number of steps, 0"),
        (lambda m, o: gt.watch(m, o, every={"noise": True}), r"every\['noise'\] is True; allowed"),
    ],
)  # fmt: skip
def test_messages(act, words):
    model = loops.plain_mlp()
    with pytest.raises(InputError, match=words):
        act(model, torch.optim.SGD(model.parameters(), lr=0.1))
