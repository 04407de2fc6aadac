"""Label-disagreement floor: groups by hand, the Bayes error of coins, prefixes, numbers, near neighbours, relations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.made import Next, normal, objective_of, run_of, sequence_loss

from geartrain.errors import InputError
from geartrain.instruments import label_disagreement_floor
from geartrain.objective import Objective
from geartrain.records import State


def test_groups_by_hand():
    x = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3, 3]).double()[:, None]
    y = torch.tensor([0, 0, 1, 2, 2, 1, 0, 1, 2, 2])
    result = label_disagreement_floor(objective_of(x, y))
    assert float(result) == pytest.approx((1 + 0 + 0 + 2) / 10)
    three = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    four = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert result.details["floor_loss"] == pytest.approx((3 * three + 4 * four) / 10)
    assert result.details["groups"] == 4
    assert result.details["duplicated"] == pytest.approx(0.9)
    assert result.details["worst"] == (6, 7, 8, 9, 0, 1, 2)


def test_no_function_does_better():
    """Every table of answers on four inputs, three labels."""
    random = np.random.default_rng(0)
    x, y = random.integers(4, size=60), random.integers(3, size=60)
    best = min(
        np.mean(np.array(table)[x] != y)
        for table in np.stack(np.meshgrid(*[range(3)] * 4), -1).reshape(-1, 4)
    )
    result = label_disagreement_floor(objective_of(torch.tensor(x).double()[:, None], torch.tensor(y)))
    assert float(result) == pytest.approx(best)


def test_many_coins_give_their_bayes_error():
    """Labels flipped with 0.2 at eight inputs: the floor tends to 0.2, the loss to the entropy."""
    source = torch.Generator().manual_seed(0)
    x = torch.randint(8, (20_000,), generator=source)
    y = (x % 2 + (torch.rand(20_000, generator=source) < 0.2).long()) % 2
    result = label_disagreement_floor(objective_of(x[:, None].double(), y))
    assert abs(float(result) - 0.2) <= 4 * math.sqrt(0.16 / 20_000)
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert result.details["floor_loss"] == pytest.approx(entropy, abs=0.01)


def test_distinct_inputs_cannot_disagree():
    result = label_disagreement_floor(objective_of(normal(50, 2), torch.randint(2, (50,))))
    assert float(result) == 0
    assert result.details["duplicated"] == 0


def test_numbers():
    x = torch.tensor([0.0, 0.0, 1.0, 1.0]).double()[:, None]
    y = torch.tensor([0.0, 2.0, 5.0, 5.0]).double()[:, None]
    result = label_disagreement_floor(objective_of(x, y))
    assert float(result) == pytest.approx(2 / float(((y - y.mean()) ** 2).sum()))
    assert result.details["floor_loss"] == pytest.approx(0.5)
    scaled = label_disagreement_floor(objective_of(x, 7 * y + 3))
    assert float(scaled) == pytest.approx(float(result))


def test_prefixes():
    """a b c | a b d | b b c: after "ab" both c and d follow; after "a" always b."""
    text = torch.tensor([[0, 1, 2, 2], [0, 1, 3, 3], [1, 1, 2, 2]])
    objective = Objective(Next(), sequence_loss, (text[:, :-1], text[:, 1:]))
    result = label_disagreement_floor(objective)
    assert float(result) == pytest.approx(1 / 9)
    assert result.details["items"] == 9
    whole = label_disagreement_floor(objective, causal=False)
    assert float(whole) == 0  # the whole inputs differ


def test_padding_is_not_asked():
    inputs, targets = torch.ones(6, 5, dtype=torch.long), torch.full((6, 5), -100)
    targets[0, 0], targets[1, 0], targets[2, 0] = 2, 2, 3
    result = label_disagreement_floor(Objective(Next(), sequence_loss, (inputs, targets)))
    assert result.details["items"] == 3
    assert float(result) == pytest.approx(1 / 3)


def test_near_inputs_count_as_equal_when_asked():
    x = torch.cat([normal(30, 3), normal(30, 3) + 1e-4])
    y = torch.cat([torch.zeros(30), torch.ones(30)]).long()
    assert float(label_disagreement_floor(objective_of(x, y))) == 0
    assert float(label_disagreement_floor(objective_of(x, y), near=1e-2)) == pytest.approx(0.5)
    assert float(label_disagreement_floor(objective_of(100 * x, y), near=1e-2)) == pytest.approx(0.5)


def test_order_names_copies_and_subject_do_not_matter():
    random = torch.Generator().manual_seed(3)
    x, y = torch.randint(5, (40, 1), generator=random).double(), torch.randint(3, (40,), generator=random)
    value = float(label_disagreement_floor(objective_of(x, y)))
    assert value > 0
    assert float(label_disagreement_floor(objective_of(x.flip(0), y.flip(0)))) == value
    assert float(label_disagreement_floor(objective_of(-x, torch.tensor([2, 0, 1])[y]))) == value
    assert float(label_disagreement_floor(objective_of(x.repeat(2, 1), y.repeat(2)))) == value
    assert float(label_disagreement_floor(run_of((x, y)))) == value


def test_cost_not_applicable_refusals():
    x = normal(20, 2)
    result = label_disagreement_floor(objective_of(x, x), budget=0)
    assert result.status.state is State.EXACT
    assert result.cost.forwards == label_disagreement_floor.spec.price(None).forwards == 0
    ones = torch.ones(20, 1).double()
    assert "do not vary" in label_disagreement_floor(objective_of(x, ones * 0.3)).status.sentence
    hidden = Objective(torch.nn.Linear(2, 1).double(), batch_loss=lambda m, b: m(b).mean(), data=x)
    assert "no targets" in label_disagreement_floor(hidden).status.sentence
    with pytest.raises(InputError, match="near is -1; it must be 0"):
        label_disagreement_floor(objective_of(x, x), near=-1)
