import numpy as np
import pytest
import torch
from tests.training_toys import classifier, half_square, sgd_bowl
from torch import nn

from geartrain import instruments
from geartrain.run import Run


def linear_run(train_shift, validation_shift, count=160):
    """Targets ± shift around the outputs: the losses are half their squares."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(2, 1)
    data = []
    for shift in (train_shift, validation_shift):
        inputs = torch.randn(count, 2, generator=generator)
        signs = torch.randint(0, 2, (count, 1), generator=generator) * 2.0 - 1
        data.append((inputs, model(inputs).detach() + shift * signs))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Run(model, half_square, optimizer, train=data[0], validation=data[1], batch_size=16)


def test_it_is_the_difference_of_the_losses():
    result = instruments.train_validation_gap(linear_run(1.0, 2.0))
    assert float(result) == pytest.approx(0.5 * (4 - 1), rel=1e-5)
    assert result.details["ratio"] == pytest.approx(4.0, rel=1e-5)
    assert result.details["relative"] == pytest.approx(0.75, rel=1e-5)


def test_equal_data_have_no_gap():
    run = linear_run(1.0, 2.0)
    run.validation_data = run.train_data
    result = instruments.train_validation_gap(run)
    assert float(result) == 0.0


def test_the_error_covers_two_samples_of_one_distribution():
    hits = 0
    for seed in range(60):
        run = classifier(seed)
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 3, (192,), generator=generator)
        inputs = torch.randn(192, 5, generator=generator)
        run.train_data, run.validation_data = (inputs[:96], labels[:96]), (inputs[96:], labels[96:])
        result = instruments.train_validation_gap(run)
        hits += abs(float(result)) <= 2 * float(result.standard_error)
    assert hits >= 50  # 95 % of 60, minus three binomial deviations


def test_it_has_the_unit_of_the_loss():
    run = linear_run(1.0, 2.0)
    value = float(instruments.train_validation_gap(run))
    run.set_loss(lambda outputs, targets: 10 * half_square(outputs, targets))
    assert float(instruments.train_validation_gap(run)) == pytest.approx(10 * value, rel=1e-5)
    assert instruments.train_validation_gap(run).unit == "ℓ"


def test_without_validation_data_there_is_no_gap():
    result = instruments.train_validation_gap(sgd_bowl([1.0, 2.0], lr=0.1))
    assert "no validation data" in result.status.sentence
    assert np.isnan(float(result))
