import pytest
import torch
from tests.training_toys import classifier, fragile_run
from torch import nn
from torch.nn import functional

from geartrain import instruments


def with_dropout(**options):
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3))
    return classifier(model=model, **options)


def own_loop(run, *, train=True, evaluate=True, back=True):
    def step(batch):
        if train:
            run.model.train()
        run.optimizer.zero_grad()
        loss = functional.cross_entropy(run.model(batch[0]), batch[1])
        loss.backward()
        run.optimizer.step()
        return loss

    def evaluation():
        if evaluate:
            run.model.eval()
        with torch.no_grad():
            loss = functional.cross_entropy(run.model(run.validation_data[0]), run.validation_data[1])
        if back:
            run.model.train()
        return float(loss)

    run.user_step, run.user_evaluate, run.zero_grad, run.training_mode = step, evaluation, None, None
    run.model.train()
    return run


def test_a_declared_loop_is_consistent():
    for run in (with_dropout(), fragile_run()):
        result = instruments.mode_consistency(run)
        assert float(result) == 1.0
        assert result.details["training_share"] == result.details["evaluation_share"] == 1.0


@pytest.mark.parametrize(
    ("habits", "value"),
    [
        ({}, 1.0),
        ({"back": False}, 1.0),  # the step sets the mode itself
        ({"train": False}, 1.0),  # the evaluation puts it back
        ({"train": False, "back": False}, 0.0),  # after the first evaluation nobody does
        ({"evaluate": False}, 0.0),
    ],
)
def test_forgetting_a_mode_shows(habits, value):
    result = instruments.mode_consistency(own_loop(with_dropout(), **habits))
    assert float(result) == value
    wrong = result.details["not_training"] if "train" in habits else result.details["not_evaluating"]
    assert wrong == (["1", "2"] if value == 0.0 else [])


def test_training_in_evaluation_mode_on_purpose_is_named():
    run = with_dropout()
    run.training_mode = False
    result = instruments.mode_consistency(run)
    assert float(result) == 0.0
    assert result.details["not_training"] == ["1", "2"]
    assert "trained in evaluation mode" in result.status.sentence


def test_without_such_modules_the_mode_does_not_matter():
    assert not instruments.mode_consistency(classifier()).status.usable
    model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.0), nn.LayerNorm(4), nn.Linear(4, 3))
    assert not instruments.mode_consistency(classifier(model=model)).status.usable


def test_without_an_evaluation_only_training_is_judged():
    run = with_dropout(validation=None)
    result = instruments.mode_consistency(run)
    assert float(result) == 1.0
    assert result.details["evaluation_share"] != result.details["evaluation_share"]


class Functional(nn.Module):
    """Dropout as a function, which only follows the mode if it is told to."""

    def __init__(self, follow):
        super().__init__()
        self.layer, self.follow = nn.Linear(5, 3), follow

    def forward(self, x):
        return self.layer(functional.dropout(x, 0.5, training=self.training if self.follow else True))


@pytest.mark.parametrize(("follow", "value"), [(True, 1.0), (False, 0.0)])
def test_dropout_as_a_function_counts_too(follow, value):
    result = instruments.mode_consistency(classifier(model=Functional(follow)))
    assert float(result) == value
    assert result.details["not_evaluating"] == ([] if follow else ["function dropout"])


def test_attention_that_drops_while_evaluating_is_seen():
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            x = x[:, None]
            return self.layer(functional.scaled_dot_product_attention(x, x, x, dropout_p=0.2))[:, 0]

    result = instruments.mode_consistency(classifier(model=Attend()))
    assert result.details["not_evaluating"] == ["function scaled_dot_product_attention"]
