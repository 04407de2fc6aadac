import numpy as np
import pytest
import torch
from tests.training_toys import classifier, sgd_bowl
from torch import nn

from geartrain import instruments


def test_on_one_mode_it_is_the_step_size_times_the_curvature():
    result = instruments.update_ratio(sgd_bowl([3.0], lr=0.1))
    assert result.dims == ("layer",)
    np.testing.assert_allclose(result.value, [0.3], rtol=1e-10)
    np.testing.assert_allclose(result.standard_error, [0.0], atol=1e-12)


def test_every_module_with_parameters_has_its_own():
    run = classifier()
    result = instruments.update_ratio(run)
    assert result.coords["layer"] == ["0", "2"]
    assert result.details["largest_layer"] in {"0", "2"}
    assert result.details["smallest"] <= result.details["median"] <= result.details["largest"]


def test_a_layer_that_stands_still_stands_out():
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}]
    run = classifier(model=model, optimizer=torch.optim.SGD(groups, lr=0.1))
    result = instruments.update_ratio(run)
    assert result.value[0] == 0.0
    assert result.details["smallest_layer"] == "0"
    assert result.details["spread"] == float("inf")


def test_weights_of_zero_have_no_ratio():
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    result = instruments.update_ratio(classifier(model=model, optimizer=optimizer))
    assert np.isnan(result.value[0])
    assert result.details["median"] == pytest.approx(result.value[1])
