"""Every mechanism of the vocabulary is there, and says what it has to say."""

from __future__ import annotations

import re

import pytest

from geartrain import instruments, mechanisms
from geartrain.diagnosis import derived
from geartrain.mechanisms import Mechanism

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
