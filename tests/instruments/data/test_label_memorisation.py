"""Label memorisation: a lookup table knows only what it saw, a rule knows all; the estimator over seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.made import normal
from tests.training_toys import classifier, fingerprint
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from geartrain.errors import InputError
from geartrain.instruments import label_memorisation
from geartrain.instruments.data.label_memorisation import memorisation_of
from geartrain.records import State
from geartrain.run import Run


class Lookup(nn.Module):
    """A row of scores for each example: what it was not trained on it answers with class 0."""

    def __init__(self, examples: int, classes: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(examples, classes))

    def forward(self, x):
        return self.table[x[:, 0]]


def lookup_run(labels: torch.Tensor, **options) -> Run:
    n, k = len(labels), int(labels.max()) + 1
    model = Lookup(n, k)
    x = torch.arange(n)[:, None]
    return Run(
        model,
        functional.cross_entropy,
        torch.optim.SGD(model.parameters(), 50.0),
        (x, labels),
        batch_size=20,
        **options,
    )


def test_a_lookup_table_memorises_all_but_its_default():
    labels = torch.arange(120) % 4
    result = label_memorisation(lookup_run(labels), forks=8)
    assert result.details["trained"] == 1
    # Left-out examples are right when their class is 0: a quarter, hypergeometric around it.
    assert abs(float(result) - 0.75) <= 4 * result.standard_error
    example = result.details["per_example"]
    assert set(example[labels == 0][np.isfinite(example[labels == 0])]) == {0.0}
    assert set(example[labels > 0][np.isfinite(example[labels > 0])]) == {1.0}
    assert all(labels[i] > 0 for i in result.details["most"])


def test_a_rule_memorises_nothing():
    x = normal(200, 2, dtype=torch.float32)
    x = x + 3 * torch.sign(x[:, :1]) * torch.tensor([1.0, 0.0])  # a wide gap
    y = (x[:, 0] > 0).long()
    model = nn.Linear(2, 2)
    run = Run(
        model, functional.cross_entropy, torch.optim.SGD(model.parameters(), 0.5), (x, y), batch_size=20
    )
    result = label_memorisation(run, forks=4)
    assert float(result) == pytest.approx(0)
    assert result.details["trained"] == 1


def test_random_labels_are_memorised_more_than_true_ones():
    values = []
    for noisy in (False, True):
        x = normal(60, 8, dtype=torch.float32)
        x = x + 2 * torch.sign(x[:, :1]) * torch.eye(8)[:1]  # a wide gap between the true classes
        y = (
            (x[:, 0] > 0).long()
            if not noisy
            else torch.randint(2, (60,), generator=torch.Generator().manual_seed(0))
        )
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 2))
        run = Run(
            model, functional.cross_entropy, torch.optim.Adam(model.parameters(), 0.02), (x, y), batch_size=20
        )
        values.append(label_memorisation(run, steps=80, forks=3))
    assert float(values[1]) > float(values[0]) + 0.15


def test_the_estimator_is_unbiased_and_its_error_covers():
    """Right with 0.9 when trained on, with 0.4 when left out; 8 forks of 50 examples, 200 times."""
    random = np.random.default_rng(0)
    means, covered = [], 0
    for _ in range(200):
        included = np.stack([random.permutation(50) < 35 for _ in range(8)])
        correct = random.random((8, 50)) < np.where(included, 0.9, 0.4)
        fork = memorisation_of(correct, included)[1]
        means.append(fork.mean())
        covered += abs(fork.mean() - 0.5) <= 2.36 * fork.std(ddof=1) / math.sqrt(8)  # t with 7 degrees
    assert abs(np.mean(means) - 0.5) <= 4 * np.std(means, ddof=1) / math.sqrt(200)
    assert covered >= binom.ppf(0.001, 200, 0.95)


def test_datasets_and_small_subsets():
    labels = torch.arange(40) % 2
    model = Lookup(40, 2)
    data = TensorDataset(torch.arange(40)[:, None], labels)
    run = Run(model, functional.cross_entropy, torch.optim.SGD(model.parameters(), 50.0), data, batch_size=40)
    result = label_memorisation(run, forks=4)  # full batches shrink to the subset
    assert result.details["trained"] == 1


def test_the_run_is_put_back_and_the_answer_repeats():
    run = classifier()
    run.advance(5)
    before = fingerprint(run)
    first, second = label_memorisation(run, steps=10), label_memorisation(run, steps=10)
    assert fingerprint(run) == before
    assert float(first) == float(second)
    run.advance(3)  # data and batch size are the old ones
    assert run.stream.num_examples == 96


def test_cost_budget_not_applicable_refusals():
    run = classifier()
    run.advance(2)
    result, price = label_memorisation(run), label_memorisation.spec.price(run)
    assert result.cost.gradients == price.gradients == 6 * 32
    assert result.cost.forwards == pytest.approx(price.forwards)
    assert label_memorisation(run, budget=0).status.state is State.OUT_OF_BUDGET
    cut = label_memorisation(run, budget=40)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert cut.details["forks"] == 2
    x = normal(20, 2, dtype=torch.float32)
    model = nn.Linear(2, 1)
    loader = DataLoader(TensorDataset(x, x[:, :1]), batch_size=5)
    stream = Run(model, functional.mse_loss, torch.optim.SGD(model.parameters(), 0.1), loader)
    assert "cannot be indexed" in label_memorisation(stream).status.sentence
    numbers = Run(
        model, functional.mse_loss, torch.optim.SGD(model.parameters(), 0.1), (x, x[:, :1]), batch_size=5
    )
    assert "right or wrong" in label_memorisation(numbers).status.sentence
    with pytest.raises(InputError, match=r"forks is 1, share 0\.7"):
        label_memorisation(run, forks=1)
