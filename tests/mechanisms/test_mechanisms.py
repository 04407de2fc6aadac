"""Every mechanism of the vocabulary is there, and says what it has to say."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from geartrain import instruments, mechanisms
from geartrain.diagnosis import derived
from geartrain.errors import UnsupportedError
from geartrain.mechanisms import Mechanism, _interventions
from geartrain.mechanisms._widen import widen
from geartrain.run import Run

VOCABULARY = """
lr_too_high lr_too_low vanishing_gradients exploding_gradients dead_relu wrong_output_activation wrong_loss
unnormalised_inputs ill_conditioned unscaled_targets label_noise overfitting under_capacity missing_nonlinearity
too_few_steps batch_too_small batch_too_large too_much_regularisation frozen_layer bad_init missing_zero_grad
local_minimum class_imbalance train_eval_mode train_val_mismatch target_leakage unshuffled_data
output_target_shape missing_bias
""".split()

ALL = mechanisms.all_mechanisms()


def test_the_vocabulary_is_complete() -> None:
    assert sorted(VOCABULARY) == mechanisms.names()


@pytest.mark.parametrize("mechanism", ALL, ids=lambda m: m.name)
class TestEach:
    def test_is_named_like_its_file_and_speaks(self, mechanism: Mechanism) -> None:
        assert mechanisms.get(mechanism.name) is mechanism
        assert mechanism.title
        assert mechanism.statement.endswith(".")
        assert mechanism.remedy.endswith(".")

    def test_every_prediction_has_a_theory_and_signed_weights(self, mechanism: Mechanism) -> None:
        for prediction in mechanism.predictions:
            assert len(prediction.theory) > 20
            assert prediction.weight >= 0
            assert prediction.counter >= 0

    def test_predictions_name_things_that_exist(self, mechanism: Mechanism) -> None:
        tried = {i.name for m in ALL for i in m.interventions}
        for prediction in mechanism.predictions:
            for part in re.split(r" - | \| ", prediction.observable):
                if part.startswith("fork:"):
                    assert part[5:].partition(".")[0] in tried
                elif part.startswith("run:"):
                    assert part[4:] in derived._ALL
                else:
                    assert part.partition("@")[0].partition(".")[0] in instruments.names()

    def test_own_forks_are_its_interventions(self, mechanism: Mechanism) -> None:
        own = {i.name for i in mechanism.interventions}
        assert set(mechanism.remedy_forks) <= own

    def test_consequences_are_mechanisms(self, mechanism: Mechanism) -> None:
        assert set(mechanism.upstream_of) <= set(VOCABULARY) - {mechanism.name}

    def test_can_be_found_and_can_be_ruled_out(self, mechanism: Mechanism) -> None:
        best = mechanism.prior + sum(p.weight for p in mechanism.predictions)
        assert best > 0, "even if every prediction is kept it would never be found"
        assert mechanism.prior < 0, "it would be found before anything is measured"

    def test_commits_to_something_inside(self, mechanism: Mechanism) -> None:
        assert not mechanism.knob_only


def test_interventions_of_one_name_are_one() -> None:
    by_name: dict[str, object] = {}
    for mechanism in ALL:
        for intervention in mechanism.interventions:
            assert by_name.setdefault(intervention.name, intervention) is intervention


def test_an_unknown_mechanism_gets_the_nearest_name() -> None:
    with pytest.raises(KeyError, match="lr_too_high"):
        mechanisms.get("lr_to_high")


def test_widening_changes_the_width_alone() -> None:
    """Settings of the normalisation stay: with others, what a wider net wins would not be the width's."""
    model = nn.Sequential(
        nn.Linear(4, 3),
        nn.BatchNorm1d(3, eps=1e-3, momentum=0.01, affine=False),
        nn.ReLU(),
        nn.Linear(3, 3),
        nn.LayerNorm(3, eps=1e-4, bias=False),
        nn.Linear(3, 2),
    )
    widen(model, [(n, m) for n, m in model.named_modules() if n], 4)
    batch_norm, layer_norm = model[1], model[4]
    assert isinstance(batch_norm, nn.BatchNorm1d)
    assert isinstance(layer_norm, nn.LayerNorm)
    assert (batch_norm.num_features, batch_norm.eps, batch_norm.momentum) == (12, 1e-3, 0.01)
    assert batch_norm.weight is None
    assert (layer_norm.normalized_shape, layer_norm.eps, layer_norm.bias) == ((12,), 1e-4, None)
    assert model(torch.randn(5, 4)).shape == (5, 2)


@pytest.mark.parametrize(
    ("loss", "distance"),
    [
        (functional.mse_loss, True),
        (functional.l1_loss, True),
        (functional.huber_loss, True),
        (functional.binary_cross_entropy_with_logits, False),
        (functional.cross_entropy, False),
    ],
)
def test_targets_are_standardised_for_distances_only(loss: Any, distance: bool) -> None:
    """A cross-entropy falls without end on targets that are no probabilities: a fork would win anything on them."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    data = (torch.randn(64, 3), (torch.rand(64, 4) < 0.3).float())
    run = Run(model, loss, torch.optim.SGD(model.parameters(), 0.1), train=data)
    if distance:
        _interventions.STANDARDISE_TARGETS.make(run)
        return
    with pytest.raises(UnsupportedError, match="no distance"):
        _interventions.STANDARDISE_TARGETS.make(run)
