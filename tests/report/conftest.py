"""Three made-up diagnoses: a healthy run, a step size that is too high, and everything that can go wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from geartrain.diagnosis.result import Diagnosis
from geartrain.records import (
    BudgetReport,
    Cost,
    Curve,
    Finding,
    ForkResult,
    Gear,
    Measurement,
    State,
    Status,
)

EVIL = "<script>alert('x')</script> & \"run\" \x1b[31m[bold]"
VERSIONS = {"geartrain": "0.1.0", "torch": "2.9.0", "Python": "3.11.9"}
OTHERS = {
    "vanishing_gradients": "Vanishing gradients",
    "exploding_gradients": "Exploding gradients",
    "dead_relu": "Dead ReLU units",
    "wrong_output_activation": "Wrong output activation",
    "wrong_loss": "Wrong loss",
    "unnormalised_inputs": "Inputs not normalised",
    "unscaled_targets": "Targets not scaled",
    "label_noise": "Label noise",
    "under_capacity": "Too little capacity",
    "missing_nonlinearity": "Missing nonlinearity",
    "too_few_steps": "Too few steps",
    "batch_too_small": "Batch too small",
    "too_much_regularisation": "Too much regularisation",
    "frozen_layer": "Frozen layer",
    "bad_init": "Bad initialisation",
    "missing_zero_grad": "Gradients never zeroed",
    "local_minimum": "Stuck in a local minimum",
    "class_imbalance": "Class imbalance",
    "train_eval_mode": "Wrong train or eval mode",
    "train_val_mismatch": "Training and validation data differ",
    "target_leakage": "Targets leak into the inputs",
    "unshuffled_data": "Data not shuffled",
    "output_target_shape": "Shapes of output and target broadcast",
    "missing_bias": "Missing bias",
}


def gear(title: str, verdict: str = "kept", weight: float = 1.0, **changes: Any) -> Gear:
    standard: dict[str, Any] = {
        "observable": title.lower().replace(" ", "_") + "@middle",
        "expected": "above 1",
        "theory": "A gradient step multiplies the error along an eigenvector by 1 − ηλ (Cohen et al. 2021).",
        "measured": 1.84,
        "standard_error": 0.07,
        "unit": "1",
        "degree": 0.9 if verdict == "kept" else -0.8,
        "internal": True,
        "intervention": False,
    }
    return Gear(title=title, verdict=verdict, weight=weight, **(standard | changes))  # type: ignore[arg-type]


def finding(
    mechanism: str, title: str, probability: float, gears: tuple[Gear, ...], **changes: Any
) -> Finding:
    standard: dict[str, Any] = {
        "statement": f"{title}: the mechanism in general, as theory has it.",
        "sentence": f"{title} in this run, with numbers.",
        "remedy": "Do the opposite.",
        "remedy_fork": None,
        "remedy_effect": None,
        "remedy_effect_error": None,
        "gearsiness": sum(g.internal for g in gears),
        "knob_only": False,
        "principled": "theorem",
        "incomplete": False,
    }
    return Finding(mechanism, title, probability=probability, predictions=gears, **(standard | changes))


def ruled_out(n: int = 24) -> tuple[Finding, ...]:
    broken = gear(
        "share of units that never fire",
        "broken",
        -2.1,
        expected="above 0.5",
        measured=0.031,
        standard_error=0.004,
    )
    kept = gear("loss falls at first", "kept", 0.2)
    return tuple(
        finding(name, title, 0.09 / (i + 1), (broken, kept))
        for i, (name, title) in enumerate([*OTHERS.items()][:n])
    )


def measurement(
    name: str, value: Any, error: Any = 0.0, unit: str = "1", state: State = State.ESTIMATE, **more: Any
) -> Measurement:
    sentence = more.pop("sentence", "16 probes on 512 examples.")
    return Measurement(name, value, unit, Status(state, sentence), error, cost=Cost(seconds=0.4), **more)


def fork(name: str, factor: float, gain: float, **changes: Any) -> ForkResult:
    steps = np.arange(400, 521, 4)
    t = (steps - 400) / 120
    reference = 1.45 + 0.12 * np.sin(9 * t) - 0.05 * t
    losses = reference * (1 - factor * (1 - np.exp(-4 * t)))
    standard: dict[str, Any] = {
        "description": f"The same state, continued with {name}.",
        "point": "middle",
        "start": 400,
        "steps": 120,
        "step_axis": steps,
        "losses": losses,
        "reference": reference,
        "gain_error": 0.014,
        "validation_gain": gain - 0.03,
        "validation_gain_error": 0.021,
        "diverged": False,
        "seconds": 1.7,
    }
    return ForkResult(name=name, gain=gain, **(standard | changes))


def spectrum() -> Measurement:
    grid = np.linspace(-12, 190, 400)
    bulk = 0.2 * np.exp(-np.abs(grid) / 2.5) + 0.002 * np.exp(-(((grid - 20) / 9) ** 2))
    tops = np.array([184.2, 96.1, 71.5, 44.0])
    density = bulk + sum(3e-4 * np.exp(-(((grid - top) / 1.5) ** 2)) for top in tops)
    details = {
        "eigenvalues": tops,
        "residuals": np.array([2e-6, 1e-5, 4e-5, 0.02]),
        "smallest": np.array([-9.1]),
        "negative_mass": 0.118,
    }
    return measurement(
        "hessian_density",
        density,
        density * 0.25 + 1e-6,
        "θ²/ℓ",
        dims=("eigenvalue",),
        coords={"eigenvalue": grid},
        details=details,
    )


def curves(high: bool) -> tuple[Curve, ...]:
    rng = np.random.default_rng(0)
    steps = np.arange(0, 1200)
    fall = 2.3 * np.exp(-steps / (90 if high else 160)) + (1.4 if high else 0.04)
    noise = rng.lognormal(0, 0.16 if high else 0.1, steps.size)
    at = np.arange(0, 1200, 60)
    validation = fall[at] * 1.06 + 0.02
    return (
        Curve("training loss", steps, fall * noise, "ℓ"),
        Curve("validation loss", at, validation, "ℓ"),
        Curve("validation accuracy", at, 1 - validation / 3, "1"),
        Curve("learning rate", at, np.where(at < 800, 0.1, 0.01), "θ²/ℓ"),
        Curve("gradient norm", at, 3 * fall[at] + rng.random(at.size), "ℓ/θ"),
    )


@pytest.fixture(scope="session")
def healthy() -> Diagnosis:
    suspicion = finding(
        "overfitting",
        "Overfitting",
        0.31,
        (
            gear("validation minus training loss", "unclear", 0.3, internal=False),
            gear("memorised examples", "broken", -0.8),
        ),
        remedy="Stop at step 700.",
    )
    low = finding(
        "lr_too_low",
        "Step size too low",
        0.12,
        (gear("gain of a doubled step", "broken", -1.1, intervention=True),),
    )
    return Diagnosis(
        name="digits, two-layer perceptron",
        sentence="This run is healthy: no mechanism of 26 is more likely than not.",
        healthy=True,
        findings=(suspicion, low),
        ruled_out=ruled_out(),
        surprises=(),
        curves=curves(high=False),
        forks=(fork("batch × 4", 0.02, 0.012), fork("lr / 2", -0.04, -0.03)),
        measurements={
            f"sharpness@{p}": measurement("sharpness", 12.0 + i, 0.4, "ℓ/θ²")
            for i, p in enumerate(("start", "middle", "end"))
        },
        spectrum=spectrum(),
        setting={"optimizer": "Adam", "step size": "0.001", "batch": "64", "parameters": "8,970"},
        budget=BudgetReport(
            60.0, 41.2, {"watch": 3.1, "examine": 20.4, "forks": 17.7}, "Three checkpoints, two forks."
        ),
        calibration="Calibrated on 2,400 generated runs; 0.9 held in 91% of held-out runs.",
        interrupted=False,
        reproduce="geartrain diagnose digits --seed 0",
        versions=VERSIONS,
        seed=0,
        created="2026-07-04T09:30:00+00:00",
    )


@pytest.fixture(scope="session")
def too_high() -> Diagnosis:
    gears = (
        gear("step size x sharpness / 2", "kept", 2.4, measured=1.84, expected="above 1"),
        gear(
            "loss gained when the step is divided by ten",
            "kept",
            1.9,
            internal=False,
            intervention=True,
            expected="above 0.05",
            measured=0.382,
            standard_error=0.014,
        ),
        gear(
            "cosine of successive updates",
            "kept",
            1.2,
            expected="below −0.3",
            measured=-0.61,
            standard_error=0.03,
        ),
        gear(
            "share of update along the top eigenvector",
            "broken",
            -0.7,
            expected="above 0.5",
            measured=0.22,
            standard_error=0.05,
        ),
        gear(
            "oscillation period in steps",
            "unclear",
            0.1,
            expected="2 to 3",
            measured=3.1,
            standard_error=0.6,
            unit="steps",
        ),
        gear(
            "sharpness falls when the step grows",
            "not measured",
            0.0,
            measured=None,
            standard_error=math.nan,
            intervention=True,
            note="The budget did not reach it.",
        ),
    )
    first = finding(
        "lr_too_high",
        "Step size too high",
        0.968,
        gears,
        statement="The step is longer than the sharpest direction of the loss allows, "
        "so updates jump back and forth across the valley instead of descending along it.",
        sentence="The step size 0.1 is 1.84 ± 0.07 times what the sharpness 36.8 ℓ/θ² allows; "
        "successive updates point against each other (cosine −0.61).",
        remedy="Divide the learning rate by ten, from 0.1 to 0.01.",
        remedy_fork="lr / 10",
        remedy_effect=0.382,
        remedy_effect_error=0.014,
        principled="theorem (stability of gradient descent on a quadratic)",
        incomplete=True,
    )
    noise = finding(
        "batch_too_small",
        "Batch too small",
        0.58,
        (
            gear(
                "gradient noise scale / batch size",
                "kept",
                1.1,
                measured=8.2,
                standard_error=2.9,
                expected="above 4",
            ),
        ),
        remedy="Use batches four times as large.",
        remedy_fork="batch × 4",
        remedy_effect=0.021,
        remedy_effect_error=0.014,
    )
    knob = finding(
        "too_few_steps",
        "Too few steps",
        0.22,
        (gear("slope of the loss at the end", "unclear", -0.2, internal=False),),
        knob_only=True,
        gearsiness=0,
        principled="convention",
    )
    ill = finding(
        "ill_conditioned",
        "Ill-conditioned",
        0.11,
        (gear("gain of conjugate gradients", "broken", -1.4, intervention=True),),
    )
    return Diagnosis(
        name="cifar-tiny/resnet, lr 0.1",
        sentence="The step size is too high: dividing it by ten from step 400 "
        "wins back 38% of the loss within 120 steps.",
        healthy=False,
        findings=(first, noise, knob, ill),
        ruled_out=ruled_out(23),
        surprises=(
            "The update lies less along the top eigenvector (0.22 ± 0.05) "
            "than “Step size too high” predicts (above 0.5).",
        ),
        curves=curves(high=True),
        forks=(
            fork("lr / 10", 0.6, 0.382),
            fork(
                "lr × 2",
                0,
                math.nan,
                losses=np.array([1.45 * 1.6**k for k in range(28)] + [np.inf, np.nan, np.nan]),
                diverged=True,
                gain_error=math.nan,
                validation_gain=math.nan,
            ),
            fork("batch × 4", 0.05, 0.021),
            fork("restart from the start with warm-up", 0.3, 0.19, point="start", start=0, complete=False),
        ),
        measurements={
            "sharpness@middle": measurement("sharpness", 36.8, 1.4, "ℓ/θ²"),
            "loss@end": measurement("loss", 1.402, 0.0, "ℓ", State.EXACT, sentence="All 512 examples."),
            "layer_gradient_norm@end": measurement(
                "layer_gradient_norm", np.geomspace(1e-3, 2.0, 12), 0.0, "ℓ/θ", dims=("layer",)
            ),
            "noise_scale@end": measurement(
                "noise_scale",
                math.nan,
                math.nan,
                "1",
                State.NOT_APPLICABLE,
                sentence="The step is the user's own.",
            ),
        },
        spectrum=spectrum(),
        setting={
            "optimizer": "SGD, momentum 0",
            "step size": "0.1",
            "batch": "32",
            "parameters": "78,042",
            "training examples": "2,000",
        },
        budget=BudgetReport(
            60.0,
            57.9,
            {"watch": 4.0, "examine": 30.2, "forks": 23.7},
            "Three checkpoints, four forks of 120 steps.",
            ("local learning coefficient", "fork: lr / 100"),
        ),
        calibration="Uncalibrated: the weights are the defaults that the mechanisms declare, "
        "so probabilities are only an order.",
        interrupted=False,
        reproduce='import geartrain as gt\n\ndiagnosis = gt.diagnose(run, budget="60s", seed=0)\n'
        'diagnosis.to_html("report.html")',
        versions=VERSIONS,
        seed=0,
        created="2026-07-04T09:30:00+00:00",
    )


@pytest.fixture(scope="session")
def ugly() -> Diagnosis:
    long = "a_very_long_name_without_any_place_to_break_" * 4
    nan = math.nan
    first = finding(
        "lr_too_high",
        EVIL,
        0.9999,
        (
            gear(
                EVIL,
                "kept",
                math.inf,
                measured=math.inf,
                standard_error=nan,
                expected=EVIL,
                unit=EVIL,
                theory=EVIL,
                note=EVIL,
            ),
            gear(long, "broken", nan, measured=nan, standard_error=nan),
            gear("nothing", "not measured", 0.0, measured=None, standard_error=nan),
        ),
        sentence=EVIL,
        remedy_fork="no such fork",
        remedy_effect=nan,
        remedy_effect_error=nan,
    )
    empty = finding("wrong_loss", long, nan, ())
    many = tuple(finding(f"m{i}", f"Mechanism {i} {long if i == 3 else ''}", 0.0, ()) for i in range(29))
    bad = np.full(30, nan)
    return Diagnosis(
        name=EVIL + long,
        sentence=EVIL,
        healthy=False,
        findings=(first, empty),
        ruled_out=many,
        surprises=(EVIL, long),
        curves=(
            Curve(
                "training loss",
                np.arange(3000),
                np.where(np.arange(3000) > 1500, nan, 10.0 ** np.linspace(0, 200, 3000)),
                "ℓ",
            ),
            Curve(EVIL, np.arange(5), np.array([1.0, nan, 3.0, math.inf, -math.inf]), EVIL),
            Curve("empty", np.array([]), np.array([]), "1"),
            Curve("one point", np.array([3]), np.array([0.0]), "1"),
            Curve("constant", np.arange(4), np.full(4, -2e-9), "1"),
            Curve("huge", np.arange(4), np.array([-1.7e308, 1.7e308, 0, 1]), "1"),
            Curve("tiny", np.arange(3), np.array([5e-324, 1e-310, 1e-300]), "1"),
            Curve("validation", np.arange(4), np.arange(4.0), "1"),
        ),
        forks=(
            fork(
                long,
                0.1,
                nan,
                losses=bad,
                reference=bad,
                step_axis=np.arange(30),
                gain_error=nan,
                validation_gain=nan,
                diverged=True,
                complete=False,
            ),
            fork(
                EVIL,
                0.1,
                -1e9,
                losses=np.array([]),
                reference=np.array([]),
                step_axis=np.array([]),
                gain_error=math.inf,
                description=EVIL,
            ),
        ),
        measurements={
            EVIL: measurement(EVIL, nan, nan, EVIL, State.NON_FINITE, sentence=EVIL),
            long: measurement(long, np.full((3, 4), nan), nan, "1", dims=("a", "b")),
            "flag": measurement("flag", np.array([True, False]), 0.0, "1", dims=("a",)),
            "inf": measurement("inf", math.inf, nan),
        },
        spectrum=measurement(
            "hessian_spectrum",
            np.full(9, nan),
            nan,
            "ℓ/θ²",
            dims=("eigenvalue",),
            details={"eigenvalues": np.array([nan])},
        ),
        setting={EVIL: EVIL, long: long},
        budget=BudgetReport(nan, 0.0, {"watch": 0.0}, EVIL, (EVIL, long)),
        calibration="Not calibrated.",
        interrupted=True,
        reproduce=EVIL,
        versions={},
        seed=0,
        created="not a date",
    )
