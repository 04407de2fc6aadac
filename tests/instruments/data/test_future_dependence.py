"""Future dependence: masks present and missing, recurrent nets, partial leaks, relations."""

from __future__ import annotations

import math

import pytest
import torch
from tests.made import Next, linear, normal, objective_of, sequence_loss, words
from torch import nn

from geartrain.errors import NonFiniteError
from geartrain.instruments import future_dependence
from geartrain.objective import Objective
from geartrain.records import State


@pytest.mark.parametrize(("causal", "truth"), [(True, 0.0), (False, 1.0)])
def test_attention_with_and_without_its_mask(causal, truth):
    result = future_dependence(objective_of(*words(), Next(causal=causal), sequence_loss))
    assert result.value == truth
    assert result.details["targets_are_shifted_inputs"] == 1
    assert result.status.state is State.EXACT


@pytest.mark.parametrize("both_ways", [False, True])
def test_recurrent_nets(both_ways):
    model = Next(recurrent=True)
    if both_ways:
        model.mix = nn.GRU(8, 4, batch_first=True, bidirectional=True)
    assert future_dependence(objective_of(*words(), model, sequence_loss)).value == both_ways


def test_a_leak_at_half_of_the_places():
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear([1.0])

        def forward(self, x):
            ahead = torch.cat([x[:, 1:], x[:, :1]], dim=1)
            even = (torch.arange(x.shape[1]) % 2 == 0)[None, :, None]
            return self.layer(torch.where(even, ahead, x))

    x = normal(6, 9, 1)
    assert future_dependence(objective_of(x, x, Half())).value == 0.5
    long = normal(6, 101, 1)
    result = future_dependence(objective_of(long, long, Half()))
    assert len(result.details["places"]) == 12
    assert result.status.state is State.ESTIMATE
    assert 0.2 < result.value < 0.8
    assert result.standard_error > 0.1


def test_classes_before_places_and_merged_places():
    class Other(Next):
        def __init__(self, form: str, **options) -> None:
            super().__init__(**options)
            self.form = form

        def forward(self, words):
            scores = super().forward(words)
            return scores.transpose(1, 2) if self.form == "before" else scores.flatten(0, 1)

    text, targets = words()
    for causal in (True, False):
        before = objective_of(text, targets, Other("before", causal=causal), nn.functional.cross_entropy)
        merged = objective_of(
            text,
            targets,
            Other("merged", causal=causal),
            lambda f, y: nn.functional.cross_entropy(f, y.flatten()),
        )
        assert future_dependence(before).value == (not causal)
        assert future_dependence(merged).value == (not causal)


def test_dropout_is_off():
    class Noisy(Next):
        def forward(self, words):
            return nn.functional.dropout(super().forward(words), 0.5, self.training)

    assert future_dependence(objective_of(*words(), Noisy(), sequence_loss)).value == 0


def test_scale_does_not_matter():
    for causal in (True, False):
        model = Next(causal=causal)
        model.scores.weight.data *= 1e-3
        assert future_dependence(objective_of(*words(), model, sequence_loss)).value == (not causal)


def test_unshifted_targets_are_told():
    text, _ = words()
    loss = lambda f, y: f.mean() + 0 * y.sum()  # noqa: E731
    result = future_dependence(objective_of(text, text, Next(), loss))
    assert result.details["targets_are_shifted_inputs"] == pytest.approx(1 / 7, abs=0.1)
    vectors = normal(5, 6, 2)
    floats = future_dependence(objective_of(vectors, vectors[..., :1], linear([1.0, 1.0])))
    assert math.isnan(floats.details["targets_are_shifted_inputs"])


def test_not_applicable():
    x = normal(30, 4)
    assert future_dependence(objective_of(x, x)).status.state is State.NOT_APPLICABLE
    table = torch.randint(5, (30, 3))
    last = lambda f, y: f.mean()  # noqa: E731
    classifier = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(9, 3))
    assert not future_dependence(objective_of(table, torch.arange(30) % 3, classifier, last)).status.usable
    same = torch.zeros(6, 5, dtype=torch.long)
    assert "equal" in future_dependence(objective_of(same, same, Next(), sequence_loss)).status.sentence
    hidden = Objective(Next(), batch_loss=lambda m, b: sequence_loss(m(b[0]), b[1]), data=words())
    assert not future_dependence(hidden).status.usable


def test_nan_is_refused():
    model = Next()
    model.scores.bias.data[0] = math.nan
    with pytest.raises(NonFiniteError, match="outputs"):
        future_dependence(objective_of(*words(), model, sequence_loss))
