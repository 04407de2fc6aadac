"""Every instrument of a run: the run afterwards is the run before, bit for bit, and the answer repeats."""

import numpy as np
import pytest
import torch
from tests.training_toys import classifier, fingerprint, fragile_run

from geartrain import instruments
from geartrain.records import State

NAMES = [
    "update_norm",
    "update_ratio",
    "update_cosine",
    "back_and_forth",
    "predicted_decrease",
    "step_length_gauge",
    "function_step",
    "edge_of_stability",
    "train_validation_gap",
    "gradient_fidelity",
    "mode_consistency",
    "decay_pull",
    "frozen_parameters",
    "initial_scale",
]
ON_OBJECTIVE = ["missing_biases", "endpoint_certificate", "parameter_symmetry"]
ON_HISTORY = [
    "loss_slope",
    "loss_oscillation",
    "loss_plateau",
    "loss_spikes",
    "gradient_spikes",
    "loss_progress",
]


@pytest.mark.parametrize("name", NAMES + ON_OBJECTIVE)
def test_the_run_is_put_back_exactly(name: str) -> None:
    torch.manual_seed(3)
    run, twin = fragile_run(), fragile_run()
    torch.manual_seed(4)
    run.advance(7)
    before = fingerprint(run)
    first = instruments.get(name)(run)
    second = instruments.get(name)(run)
    assert fingerprint(run) == before
    np.testing.assert_array_equal(np.asarray(first.value), np.asarray(second.value))
    run.advance(6)
    torch.manual_seed(4)
    twin.advance(13)
    assert run.history.columns["loss"] == twin.history.columns["loss"]
    after = [p.tolist() for p in run.model.parameters()]
    assert after == [p.tolist() for p in twin.model.parameters()]


@pytest.mark.parametrize("name", NAMES + ON_OBJECTIVE)
def test_a_price_is_quoted_and_the_cost_is_filled_in(name: str) -> None:
    run = classifier()
    run.advance(3)
    function = instruments.get(name)
    subject = run.objective() if function.spec.needs == "objective" else run
    price, result = function.spec.price(subject), function(subject)
    assert price.gradients + price.products + price.forwards > 0
    assert result.cost.seconds > 0
    assert result.name == name
    assert result.unit == function.spec.unit


@pytest.mark.parametrize("name", NAMES + ON_OBJECTIVE)
def test_a_run_that_broke_gives_an_answer_without_a_number_or_a_plain_fact(name: str) -> None:
    run = classifier(lr=1e30)
    run.advance(20)
    with torch.no_grad():
        next(iter(run.model.parameters())).fill_(float("nan"))
    result = instruments.get(name)(run)
    facts = {"frozen_parameters", "initial_scale", "decay_pull", "missing_biases"}
    assert not result.status.usable or name in facts


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {"mode_consistency"}])
def test_an_own_step_without_a_loss_function_is_no_error(name: str) -> None:
    run = classifier()

    def step(batch):
        run.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(run.model(batch[0]), batch[1])
        loss.backward()
        run.optimizer.step()
        return loss

    run.batch_loss, run.loss_fn, run.user_step, run.zero_grad = None, None, step, None
    run.advance(2)
    result = instruments.get(name)(run)
    movements = {"update_norm", "update_ratio", "update_cosine", "frozen_parameters", "decay_pull"}
    assert result.status.usable == (name in movements)


@pytest.mark.parametrize("name", ["edge_of_stability", "back_and_forth", "endpoint_certificate"])
def test_no_products_no_answer(name: str) -> None:
    run = classifier()
    run.advance(2)
    assert instruments.get(name)(run, budget=0).status.state is State.OUT_OF_BUDGET


@pytest.mark.parametrize("name", ON_HISTORY)
def test_too_few_steps_are_said_to_be_too_few(name: str) -> None:
    run = classifier()
    run.advance(3)
    result = instruments.get(name)(run)
    assert result.status.state is State.NOT_APPLICABLE
    assert "at least" in result.status.sentence


@pytest.mark.parametrize("name", ON_HISTORY)
def test_a_run_serves_as_its_history(name: str) -> None:
    run = classifier()
    run.advance(40)
    assert float(instruments.get(name)(run)) == float(instruments.get(name)(run.history))
