import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from geartrain.run import Run

EXAMPLES = Path(__file__).parents[2] / "examples"
WATCHED = {"watch_a_loop"}  # no fault: tested with the monitor
# script -> bounds on the final validation loss that show its fault (above, below)
ENDS = {
    "char_transformer_no_mask": (0.0, 0.2),
    "diabetes_unscaled": (4500, 7000),
    "mnist_cnn_step_too_large": (4, np.inf),
    "text_gru_exploding": (2.8, 3.4),
    "xor_two_hidden": (0.34, 0.36),
}


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trained(name, seed=0, change=None):
    run = load(name).make_run(seed)
    assert isinstance(run, Run)
    if change:
        change(run)
    run.train()
    return run, run.history.evaluations[-1]["validation_loss"]


def test_every_example_is_tested_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(ENDS) | WATCHED


@pytest.mark.parametrize("name", ENDS)
def test_the_fault_is_there(name):
    _, loss = trained(name)
    above, below = ENDS[name]
    assert above < loss < below


def test_a_smaller_step_cures_the_cnn():
    def change(run):
        run.optimizer.param_groups[0]["lr"] = 0.03

    run, loss = trained("mnist_cnn_step_too_large", change=change)
    assert loss < 0.25
    assert run.history.evaluations[-1]["metric"] > 0.93


def test_scaling_cures_the_regression(monkeypatch):
    module = load("diabetes_unscaled")
    train, validation = module.load_patients()
    scaled = [
        tuple((b - a.mean(0)) / a.std(0) for a, b in zip(train, part, strict=True))
        for part in (train, validation)
    ]
    monkeypatch.setattr(module, "load_patients", lambda: scaled)
    run = module.make_run(0)
    run.optimizer.param_groups[0]["lr"] = 1e-2
    run.train()
    assert run.history.evaluations[-1]["metric"] > 0.5


def test_the_gradients_explode_and_gentler_weights_cure_it():
    run, _ = trained("text_gru_exploding")
    assert np.median(run.history.column("grad_norm")) > 10

    cured, loss = trained("text_gru_exploding", change=lambda run: run.model.gru.reset_parameters())
    assert cured.history.column("grad_norm").max() < 10
    assert loss < 2.3


def test_the_transformer_reads_the_character_that_it_predicts():
    run, _ = trained("char_transformer_no_mask")
    inputs, _ = run.validation_data
    changed = inputs.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 61
    with torch.no_grad():
        moved = (run.model(inputs) - run.model(changed)).abs().amax(dim=(0, 2))
    assert moved[-2] > 1


def test_other_starts_solve_xor():
    losses = [trained("xor_two_hidden", seed)[1] for seed in range(1, 5)]
    assert max(losses) < 0.01
