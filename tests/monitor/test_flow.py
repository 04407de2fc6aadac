"""Signal flow per layer: the same numbers as the instruments, and nothing where the layers cannot be seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.monitor import loops
from torch import nn

import geartrain as gt
from geartrain.instruments.flow.activation_flow import activation_flow
from geartrain.instruments.flow.gradient_flow import gradient_flow
from geartrain.monitor.flow import participation_ratio

EACH = {"overhead": None, "every": {"norms": 0, "updates": 0, "flow": 1, "noise": 0}}


@pytest.mark.parametrize("kind", ["mlp", "text"])
def test_the_same_numbers_as_the_instruments(kind):
    """Their values are rms over examples of per-example rms: with equal positions in all, the same mean square."""
    torch.manual_seed(0)
    model = loops.plain_mlp() if kind == "mlp" else loops.TinyText().double()
    data = loops.examples(16, dtype=torch.float64) if kind == "mlp" else loops.sentences(16)
    monitor = loops.watched(model, torch.optim.SGD(model.parameters(), lr=0.0), [data], options=EACH)
    objective = gt.Objective(model, loops.loss_of, data)
    for table, instrument in (("activation_rms", activation_flow), ("gradient_rms", gradient_flow)):
        found, wanted = monitor.tables[table], instrument(objective)
        assert list(found.layers) == list(wanted.coords["layer"])
        np.testing.assert_allclose(found.array()[0], wanted.value, rtol=1e-5)  # single precision


def test_evaluations_between_the_steps_are_not_noted():
    model, (inputs, targets) = loops.plain_mlp(), loops.examples(16, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gt.watch(model, optimizer, **EACH) as monitor:
        for _ in range(2):
            with torch.no_grad():
                model(100 * inputs)
            optimizer.zero_grad()
            loops.loss_of(model(inputs), targets).backward()
            with torch.no_grad():
                model(100 * inputs)
            optimizer.step()
    rows = monitor.tables["activation_rms"].array()
    assert len(rows) == 2
    np.testing.assert_array_equal(rows[0], rows[1])
    assert monitor.history.column("batch_size").tolist() == [16, 16]


def test_layers_that_recompute_their_outputs_are_noted_once():
    """Activation checkpointing calls them a second time, in the backward pass."""

    class Thrifty(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = loops.plain_mlp(), nn.Linear(3, 3, dtype=torch.float64)

        def forward(self, x):
            return self.head(torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False))

    model, data = Thrifty(), loops.examples(16, dtype=torch.float64)
    monitor = loops.watched(model, torch.optim.SGD(model.parameters(), lr=0.0), [data] * 2, options=EACH)
    assert monitor.tables["activation_rms"].layers == ("inner.0", "inner.1", "inner.2", "head")


def test_participation_ratio_of_known_covariances():
    """Equal variances in k of d directions: k, up to the noise of the sample; a single direction: 1."""
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(100, 1, generator=generator) @ torch.randn(1, 8, generator=generator)
    assert float(participation_ratio(line)) == pytest.approx(1.0, rel=1e-4)
    table = torch.cat([torch.eye(4).repeat(8, 1), torch.zeros(32, 5)], 1)
    # Corners of a simplex: 3 directions of equal variance.
    assert float(participation_ratio(table)) == pytest.approx(3.0, rel=1e-5)
    images = torch.randn(4, 3, 9, 9, generator=generator)
    assert float(participation_ratio(images)) <= 3.0


def test_the_ratio_is_noted_where_asked_for():
    model, data = loops.plain_mlp(), loops.examples(16, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    assert "participation_ratio" not in loops.watched(model, optimizer, [data], options=EACH).tables
    options = {**EACH, "extras": ("participation_ratio",)}
    found = loops.watched(model, optimizer, [data], options=options).tables["participation_ratio"].last()
    assert set(found) == {"0", "1", "2"}
    assert all(1 <= v <= 6 for v in found.values())


def test_replicas_are_not_looked_into():
    model = nn.DataParallel(loops.plain_mlp())
    monitor = loops.watched(
        model, torch.optim.SGD(model.parameters(), lr=0.0), [loops.examples(16, dtype=torch.float64)]
    )
    assert "activation_rms" not in monitor.tables
    assert monitor.governor.accounts["flow"].off == "not visible"
    assert monitor.tables["grad_norm"].layers == ("0", "2")
