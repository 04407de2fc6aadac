"""Each example has one real fault left in; its diagnosis names it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import geartrain as gt

EXAMPLES = Path(__file__).parents[2] / "examples"
FAULTS = {
    "char_transformer_no_mask": {"target_leakage"},
    "diabetes_unscaled": {"unnormalised_inputs", "unscaled_targets"},
    "mnist_cnn_step_too_large": {"lr_too_high"},
    "text_gru_exploding": {"exploding_gradients"},
    "xor_two_hidden": {"local_minimum"},
}
WATCHED = {"watch_a_loop"}  # no run and no fault: tested with the monitor


def load(name: str) -> gt.Run:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_run()


def test_every_example_has_a_diagnosis_here() -> None:
    assert {p.stem for p in EXAMPLES.glob("*.py")} == set(FAULTS) | WATCHED


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_is_named(name: str) -> None:
    diagnosis = gt.diagnose(load(name), "60s" if name == "text_gru_exploding" else "20s")
    assert diagnosis.findings[0].mechanism in FAULTS[name], diagnosis.sentence
    assert diagnosis.findings[0].probability > 0.5
