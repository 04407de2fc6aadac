import pytest
import torch
from tests.training_toys import classifier, sgd_bowl
from torch import nn
from torch.nn import functional

from geartrain import instruments
from geartrain.instruments import _outputs
from geartrain.run import Run


def test_kullback_leibler_agrees_with_torch():
    torch.manual_seed(0)
    old, new = torch.randn(7, 4).double(), torch.randn(7, 4).double()
    expected = functional.kl_div(
        functional.log_softmax(new, 1), functional.log_softmax(old, 1), reduction="batchmean", log_target=True
    )
    assert _outputs.kullback_leibler(old, new, 1) == pytest.approx(float(expected))
    assert _outputs.kullback_leibler(old.T[None], new.T[None], 1) == pytest.approx(float(expected))


def test_small_steps_move_the_function_by_the_square_of_their_length():
    values = [float(instruments.function_step(classifier(lr=lr), steps=1)) for lr in (1e-2, 2e-2)]
    assert values[1] / values[0] == pytest.approx(4.0, rel=0.05)


def test_a_regression_moves_relative_to_its_spread():
    run = sgd_bowl([2.0], lr=0.1)
    assert not instruments.function_step(run).status.usable  # one output of one example does not vary
    run = sgd_bowl([2.0, 2.0], lr=0.1, start=[1.0, -1.0])
    result = instruments.function_step(run, steps=3)
    # Every output shrinks by 0.8, and the mean output is zero: the squared change is 0.2² of the variance.
    assert float(result) == pytest.approx(0.04)
    assert result.details["kind"] == "relative squared change"


def test_yes_or_no_answers_are_distributions_too():
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, 3), torch.randint(0, 2, (40, 1)).float()
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = instruments.function_step(
        Run(model, functional.binary_cross_entropy_with_logits, optimizer, (inputs, targets), batch_size=40)
    )
    assert result.details["kind"] == "kl"
    assert 0 < float(result) < 0.01


@pytest.mark.parametrize(
    ("outputs", "targets", "axis"),
    [
        ((6, 3), (6,), 1),
        ((6, 5, 3), (6, 5), 2),
        ((6, 3, 5, 5), (6, 5, 5), 1),
        ((6, 3), (6, 1), 1),
        ((6, 3), (6, 3), None),
    ],
)
def test_the_axis_of_the_classes_is_found(outputs, targets, axis):
    labels = torch.zeros(targets, dtype=torch.long)
    labels = labels if axis is not None else labels.float()
    assert _outputs.class_axis(torch.zeros(outputs), labels) == axis
