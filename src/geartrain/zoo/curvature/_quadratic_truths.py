"""What is known of a quadratic, in formulas over eigenvalues λ and the start's coordinates c along the eigenvectors."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.zoo._base import Truth, trial_result

if TYPE_CHECKING:
    from geartrain.zoo.curvature.quadratic import Quadratic

_WINDOW = 16
"""Steps that instruments of the next steps look at."""
_BETA = 1000.0
"""nβ of the sampled posterior."""
_DENSE = 500
"""Largest dimension in which eigenvectors are written out."""


def truths(toy: Quadratic) -> dict[str, Truth]:
    """All of them; those that need eigenvectors entry by entry only in few dimensions."""
    found = {**_spectrum(toy), **_gradient(toy), **_descent(toy), **_thresholds(toy)}
    if toy.noise:
        found |= _noise(toy)
    if toy.eigenvalues[-1] > 0:
        found |= _bowl(toy)
    if toy.eigenvalues[-1] >= 0 and toy.dimension <= _DENSE:
        found |= _regression(toy)
    return found | (_by_entry(toy) if toy.dimension <= _DENSE else {})


def top_cluster(toy: Quadratic) -> int:
    """How many leading eigenvalues stand together before a gap."""
    return toy.dimension // 4 if toy.spectrum == "clustered" else 3


def _spectrum(toy: Quadratic) -> dict[str, Truth]:
    values, d = toy.eigenvalues, toy.dimension
    few, negative = min(5, d // 2), values[values < 0]
    found = {
        "hessian_trace": Truth(values.sum(), 1e-9, source="Σ λᵢ."),
        "hessian_density.negative_mass": Truth(
            len(negative) / d, 1e-6, source="Share of λᵢ < 0.", reading="negative_mass"
        ),
        "gradient_negative_overlap": Truth(
            _share(toy, toy.eigenvalues < -1e-3 * toy.largest), 1e-6, source="Σ_{λᵢ<0} λᵢ²cᵢ² / Σ λᵢ²cᵢ²."
        ),
    }
    if toy.spectrum != "clustered":  # A Krylov space holds one copy only of an eigenvalue.
        found["hessian_spectrum"] = Truth(
            values[:few], 1e-6, source="By construction.", options={"k": few, "tol": 1e-7}
        )
        found["negative_curvature"] = Truth(
            np.sort(values)[:3],
            1e-4,
            source="The smallest λᵢ.",
            options={"tol": 1e-6, "max_products": 2 * d + 50},
        )
    found["effective_condition_number"] = _condition(toy)
    return found


def _condition(toy: Quadratic) -> Truth:
    """κ over the curvature above the most negative one, which counts as the scale where the loss is no valley."""
    values = toy.eigenvalues
    counted = values[values > max(-values.min(), 1e-9 * toy.largest)]
    return Truth(
        toy.largest / counted.min(),
        0.02 if toy.condition <= 1e3 else 0.2,
        assumptions="Every mode takes part in the gradient; with negative curvature -c, only curvature above c counts.",
        source="λmax/λmin.",
        options={"fraction": 0.0},
    )


def _share(toy: Quadratic, mask: np.ndarray) -> float:
    squares = (toy.eigenvalues * toy.displacement) ** 2
    return float(squares[mask].sum() / squares.sum())


def _moment(toy: Quadratic, power: int) -> float:
    """Σ λᵢ^power cᵢ²."""
    return float((toy.eigenvalues**power * toy.displacement**2).sum())


def _gradient(toy: Quadratic) -> dict[str, Truth]:
    top = top_cluster(toy)
    along = _moment(toy, 3) / _moment(toy, 2)
    deepest = int(toy.eigenvalues.argmin())
    over, sharpest = torch.zeros(2, toy.dimension, dtype=torch.float64)
    over[deepest], sharpest[0] = -2 * toy.displacement[deepest], 1.0
    return {
        "curvature_along_gradient": Truth(along, 1e-9, source="Σ λᵢ³cᵢ² / Σ λᵢ²cᵢ²."),
        "gradient_in_top_subspace": Truth(
            _share(toy, np.arange(toy.dimension) < top),
            1e-3,
            source="Σ_{i≤k} λᵢ²cᵢ² / Σ λᵢ²cᵢ².",
            options={"k": top},
        ),
        "linear_connectivity": Truth(
            max(0.0, -0.5 * toy.eigenvalues[deepest]),
            1e-9,
            assumptions="From the start to its mirror image along the eigenvector of least curvature, 2|c| away.",
            source="Excess over the chord: -½ t(1-t) ΔᵀHΔ, largest at t = ½.",
            other=lambda toy: toy.objective.parameters() + toy.turned(over),
        ),
        "loss_slice": Truth(
            _slice(toy),
            1e-9,
            strict=True,
            source="½ Σ λᵢ (cᵢ + t eᵢ)² with e the sharpest axis.",
            options={"direction": toy.turned(sharpest), "points": 11},
        ),
        "distance_from_init": Truth(
            math.sqrt(toy.dimension),
            1e-9,
            source="√Σcᵢ².",
            other=lambda toy: toy.minimum,
            assumptions="From x*.",
        ),
        "example_losses": Truth(
            0.5 * _moment(toy, 1),
            1e-9,
            strict=True,
            reading="mean",
            source="½ Σ λᵢ cᵢ²: the noise has mean 0.",
        ),
    }


def _slice(toy: Quadratic) -> np.ndarray:
    t = np.linspace(-1, 1, 11)
    return 0.5 * _moment(toy, 1) + toy.eigenvalues[0] * (t * toy.displacement[0] + 0.5 * t**2)


def _by_entry(toy: Quadratic) -> dict[str, Truth]:
    """What depends on how the eigenvectors lie to the coordinates."""
    turn = toy.turned(torch.eye(toy.dimension, dtype=torch.float64)).numpy().T  # eigenvectors in columns
    hessian = turn * toy.eigenvalues @ turn.T
    gradient, half = turn @ (toy.eigenvalues * toy.displacement), (toy.dimension + 1) // 2
    start = toy.minimum.numpy() + turn @ toy.displacement
    halves = [slice(None, half), slice(half, None)]
    found = {
        "hessian_diagonal": Truth(np.diag(hessian), 1e-9, source="Hⱼⱼ = Σᵢ λᵢ Qⱼᵢ²."),
        "weight_norm": Truth(
            np.array([np.linalg.norm(start[h]) for h in halves]), 1e-9, source="Norms of both halves of x."
        ),
        "layer_curvature": Truth(
            np.array([np.linalg.eigvalsh(hessian[h, h])[-1] for h in halves]),
            1e-2,
            source="λmax of the diagonal blocks of H.",
        ),
        "layer_curvature.trace": Truth(
            np.array([np.trace(hessian[h, h]) for h in halves]),
            1e-9,
            reading="trace",
            source="Σ Hⱼⱼ over the block.",
        ),
    }
    if toy.noise:
        n = toy.examples
        noise = np.diag(turn * toy.noise_variances @ turn.T) * n / (n - 1)
        traces = np.array([noise[h].sum() for h in halves])
        squares = np.array([(gradient[h] ** 2).sum() for h in halves]) - traces / n
        if traces.min() > 0:
            found["signal_to_noise"] = Truth(
                squares / traces,
                1e-9,
                strict=True,
                source="(|Gₗ|² - trΣₗ/n)/trΣₗ, Σ unbiased: n/(n-1) of the sample's.",
            )
        rows = gradient + toy.noise_rows.numpy()
        cosines = rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2)
        found["gradient_confusion"] = Truth(
            (cosines.sum() - n) / (n * (n - 1)), 1e-6, source="Mean cosine of the rows G + ξᵢ, all pairs."
        )
    return found


def _noise(toy: Quadratic) -> dict[str, Truth]:
    values, variances, n = toy.eigenvalues, toy.noise_variances, toy.examples
    trace = variances.sum() * n / (n - 1)
    square, bent = _moment(toy, 2), _moment(toy, 3)
    found = {
        "gradient_noise_scale": Truth(
            trace / (square - trace / n),
            1e-9,
            strict=True,
            source="trΣ/|G|² with unbiased Σ = n/(n-1) of the sample's.",
        ),
        "gradient_noise_scale.covariance_trace": Truth(
            trace, 1e-9, strict=True, reading="covariance_trace", source="Σ νᵢ n/(n-1)."
        ),
        "per_example_gradients.rms": Truth(
            math.sqrt(square + variances.sum()), 1e-9, reading="rms", source="√(|G|² + trΣ)."
        ),
        "commutator_norm": Truth(0.0, 1e-6, source="Σ and H have their eigenvectors in common."),
    }
    if bent > 0 and (values * variances).sum() > 0:
        weighted = (values * variances).sum() / bent
        found["hessian_noise_scale"] = Truth(weighted, 0.02, source="tr(HΣ)/GᵀHG = Σ λᵢνᵢ / Σ λᵢ³cᵢ².")
        found["critical_batch_size"] = Truth(
            weighted, 0.02, source="Half of the best gain at B = tr(HΣ)/GᵀHG."
        )
        found["hessian_noise_scale.max_step"] = Truth(
            square / bent, 0.1, reading="max_step", source="|G|²/GᵀHG, the best step without noise."
        )
    if toy.covariance == "curvature" and toy.spectrum in ("log-uniform", "power-law", "zeros"):
        found["eigenbasis_overlap"] = Truth(
            1.0, 1e-3, options={"k": 3}, source="Both have the same eigenvectors."
        )
    return found


# ------------------------------------------------------------------ gradient descent


def _descent(toy: Quadratic) -> dict[str, Truth]:
    """A window of steps: the update at step t is -ηλᵢ(1-ηλᵢ)ᵗcᵢ along eigenvector i."""
    rate = toy.step / toy.largest
    factors = (1 - rate * toy.eigenvalues) ** np.arange(_WINDOW + 1)[:, None]
    places = factors * toy.displacement
    updates, slopes = np.diff(places, axis=0), places * toy.eigenvalues
    norms = np.linalg.norm(updates, axis=1)
    losses = 0.5 * (places**2 * toy.eigenvalues).sum(1)
    before, after = (slopes[:-1] * updates).sum(1), (slopes[1:] * updates).sum(1)
    inner = [(updates[k:] * updates[: len(updates) - k]).sum(1) for k in range(3)]
    correlations = [
        inner[k].sum() / math.sqrt((norms[k:] ** 2).sum() * (norms[: len(norms) - k] ** 2).sum())
        for k in (1, 2)
    ]
    every = {"strict": True, "assumptions": "Full-batch gradient descent; 16 steps."}
    found = {
        "update_norm": Truth(norms.mean(), 1e-8, source="Mean of √Σ(ηλᵢ(1-ηλᵢ)ᵗcᵢ)².", **every),
        "path_length": Truth(norms.sum(), 1e-8, source="Σ of the same.", **every),
        "path_length.distance": Truth(
            float(np.linalg.norm(places[-1] - places[0])),
            1e-8,
            reading="distance",
            source="√Σ((1-ηλᵢ)¹⁶-1)²cᵢ².",
            **every,
        ),
        "update_cosine": Truth(
            (inner[1] / (norms[1:] * norms[:-1])).mean(),
            1e-8,
            source="Mean cosine of successive updates.",
            **every,
        ),
        "update_autocorrelation": Truth(np.array(correlations), 1e-8, source="Lags 1 and 2.", **every),
        "predicted_decrease": Truth(
            (losses[0] - losses[-1]) / -before.sum(),
            1e-8,
            source="(L₀-L₁₆)/Σ η|gₜ|²; 1-ηλ/2 for one mode.",
            **every,
        ),
        "step_length_gauge": Truth(
            -after.sum() / before.sum(), 1e-8, source="ηλ-1, weighted by ηλᵢ²cᵢ(t)².", **every
        ),
        "curvature_along_update": Truth(
            (updates**2 * toy.eigenvalues).sum() / (norms**2).sum(), 1e-6, source="Σ uᵀHu / Σ|u|².", **every
        ),
        "edge_of_stability": Truth(toy.step / 2, 0.03, source="ηλmax/2."),
        "preconditioned_sharpness": Truth(toy.largest, 0.03, source="λmax; the threshold is 2/η."),
        "gradient_fidelity": Truth(
            1.0, 1e-9, strict=True, source="The optimizer uses the gradient as it is."
        ),
        "decay_pull": Truth(0.0, 1e-9, source="No weight decay."),
        "frozen_parameters": Truth(
            0.0, 1e-9, source="Every parameter moves.", assumptions="H has no axis in its kernel."
        ),
    }
    if abs(toy.step - 1) > 0.05 and toy.spectrum != "clustered":
        found["back_and_forth"] = Truth(
            float(toy.step > 1), 1e-9, strict=True, source="Sign of 1-ηλmax.", options={"tol": 1e-6}
        )
    if toy.step > 2 or (toy.eigenvalues < 0).any():
        # Where it diverges, rounding of the early steps grows with the rest.
        found = {k: dataclasses.replace(t, tolerance=max(t.tolerance, 1e-6)) for k, t in found.items()}
    return found


def _thresholds(toy: Quadratic) -> dict[str, Truth]:
    """Edges of stability, found by trying: the greatest step size at which 400 steps still shrink the sharpest mode."""
    top, bottom = toy.largest, toy.eigenvalues[toy.eigenvalues > 1e-12].min()
    kappa = top / bottom
    edge = "Characteristic polynomial z² - (1+β-ηλ)z + β at z = -1."
    return {
        "largest_stable_step": Truth(
            2 / top, 5e-3, source="|1-ηλmax| = 1.", trial=lambda g: _edge(top, 0.0, 1.0)
        ),
        "largest_stable_step.heavy_ball": Truth(
            (2 + 2 * 0.9) / top,
            5e-3,
            source=edge,
            trial=lambda g: _edge(top, 0.9, 1.0),
            assumptions="β = 0.9.",
        ),
        "largest_stable_step.averaged_momentum": Truth(
            38 / top,
            5e-3,
            source="Cohen et al. (2022), arXiv:2207.14484: (2+2β)/((1-β)λ).",
            trial=lambda g: _edge(top, 0.9, 0.1),
            assumptions="β₁ = 0.9.",
        ),
        "best_contraction": Truth(
            (kappa - 1) / (kappa + 1),
            1e-6,
            source="Step 2/(λmin+λmax).",
            trial=lambda g: _contraction(toy, 2 / (top + bottom)),
            assumptions="Over the positive eigenvalues.",
        ),
    }


def _edge(curvature: float, momentum: float, share: float) -> Measurement:
    """Bisection on x ← x - ηm, m ← βm + share·λx: does the last tenth of 4,000 steps shrink?"""

    def shrinks(rate: float) -> bool:
        x, m, sizes = 1.0, 0.0, []
        for _ in range(4000):
            m = momentum * m + share * curvature * x
            x -= rate * m
            sizes.append(abs(x))
            if abs(x) > 1e6:
                return False
        return max(sizes[-400:]) < max(sizes[:400])

    low, high = 0.0, 100 / curvature
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if shrinks(middle) else (low, middle)
    return trial_result("largest_stable_step", (low + high) / 2, unit="θ²/ℓ")


def _contraction(toy: Quadratic, rate: float) -> Measurement:
    """Shrinkage in one step of descent along both ends of the positive spectrum, the worse of the two."""
    ends = toy.eigenvalues[toy.eigenvalues > 1e-12][[0, -1]]
    shrunk = []
    for end in ends:
        x = toy.turned(torch.as_tensor(toy.eigenvalues == end).double())
        shrunk.append(float((x - rate * toy.curved(x)).norm() / x.norm()))
    return trial_result("best_contraction", max(shrunk))


# ------------------------------------------------------------------ a bowl, and a regression with the same Hessian


def _at_minimum(toy: Quadratic) -> Objective:
    from geartrain.zoo.curvature.quadratic import Halves

    return toy.objective.of(Halves(toy.minimum))


def _bowl(toy: Quadratic) -> dict[str, Truth]:
    """Positive definite: the set L < c is an ellipsoid of half-axes √(2c/λᵢ)."""
    d, rim = toy.dimension, 0.1
    ball = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1)
    volume = ball + 0.5 * float(np.log(2 * rim / toy.eigenvalues).sum())
    damped = toy.eigenvalues + 1e-4 * toy.largest
    gain = ((toy.eigenvalues * toy.displacement) ** 2 / damped).sum() / _moment(toy, 1)
    found = {
        "endpoint_certificate": Truth(
            float(gain),
            1e-3,
            source="½gᵀ(H+δ)⁻¹g / L, δ = 1e-4 λmax; 1 without damping.",
            assumptions="The least loss is 0.",
            options={"tol": 1e-4, "max_products": 20 * d + 100},
        )
    }
    if d <= 60:
        sharp = _BETA * toy.eigenvalues
        found["learning_coefficient"] = Truth(
            float((sharp / (sharp + 1)).sum() / 2),
            1e-3,
            assumptions=f"nβ = {_BETA:g}, localisation 1.",
            source="½ Σ nβλᵢ/(nβλᵢ + γ).",
            subject=_at_minimum,
            options={"n_beta": _BETA, "localisation": 1.0, "kernel": "hmc", "chains": 16, "draws": 200},
        )
        found["basin_volume"] = Truth(
            volume,
            1e-3,
            source="log of the ellipsoid's volume.",
            subject=_at_minimum,
            options={"cutoff": rim, "max_radius": 10 * math.sqrt(2 * rim * toy.condition / toy.largest)},
        )
    return found


def _regression(toy: Quadratic) -> dict[str, Truth]:
    """Linear least squares with the design √m Z √Λ Qᵀ, Z orthonormal and centred: the same Hessian, with outputs."""
    values, d = toy.eigenvalues, toy.dimension
    turn = toy.turned(torch.eye(d, dtype=torch.float64)).numpy().T
    teacher, start = toy.minimum.numpy(), toy.minimum.numpy() + turn @ toy.displacement
    along = turn.T @ teacher
    signal = float((values * along**2).sum())
    diagonal = np.diag(turn * values @ turn.T)
    moved = values * toy.displacement**2
    both = 0.5 * (values * (along + toy.displacement) ** 2).sum() + 0.5 * signal
    few = min(5, d // 2)
    live = int((values > 0).sum())
    place: dict[str, Any] = {"subject": regression, "assumptions": "Least squares with the same Hessian."}
    pair: dict[str, Any] = place | {"other": lambda toy: toy.minimum}
    whole = {"options": {"num_examples": _rows(toy)}}
    found = {
        "ntk_spectrum": Truth(
            values[:few],
            1e-6,
            source="AAᵀ/m and AᵀA/m share their eigenvalues.",
            extract=lambda v: v[:few],
            **whole,
            **place,
        ),
        "ntk.trace": Truth(
            values.sum() * _rows(toy), 1e-9, reading="trace", source="tr AAᵀ = m Σλᵢ.", **whole, **place
        ),
        "ntk_alignment": Truth(
            float((values**2 * along**2).sum() / (np.linalg.norm(values) * signal)),
            1e-6,
            source="yᵀKy/(|K||y|²) = Σλᵢ²wᵢ² / (√Σλᵢ² Σλᵢwᵢ²).",
            **whole,
            **place,
        ),
        "jacobian_rank": Truth(float(live), 1e-9, source="Number of positive λᵢ.", **whole, **place),
        "ntk_drift": Truth(0.0, 1e-9, source="The kernel of a linear model stands still.", **whole, **pair),
        "linearised_error": Truth(0.0, 1e-9, source="Linear in its parameters.", **pair),
        "lazy_index": Truth(
            0.0,
            1e-9,
            source="The kernel of a linear model stands still.",
            **whole,
            **place,
            other=lambda toy: 2 * toy.minimum + 1,
        ),
        "function_distance": Truth(
            math.sqrt(moved.sum() / both), 1e-6, strict=True, source="√(δᵀHδ / (½wᵀHw + ½w*ᵀHw*)).", **pair
        ),
        "input_affinity": Truth(0.0, 1e-6, source="Linear in its inputs.", **place),
        "jacobian_singular_values": Truth(
            np.array([np.linalg.norm(start)]), 1e-9, source="∂f/∂a = w for every example.", **place
        ),
        "constant_loss": Truth(
            0.5 * signal, 1e-6, strict=True, source="½ variance of the targets, ½w*ᵀHw*.", **place
        ),
        "target_scale": Truth(
            math.sqrt(signal), 1e-6, strict=True, source="√w*ᵀHw*; the mean is 0.", **place
        ),
        "weight_rank": Truth(np.array([1.0]), 1e-9, source="One row.", **place),
        "missing_biases": Truth(1.0, 1e-9, source="No layer has one.", **place),
    }
    if diagonal.min() > 1e-9 * diagonal.max():
        found["feature_scales"] = Truth(
            math.sqrt(diagonal.max() / diagonal.min()),
            1e-6,
            strict=True,
            source="Column j has the variance Hⱼⱼ.",
            **place,
        )
    return found


def _rows(toy: Quadratic) -> int:
    return 2 * toy.dimension + 8


def regression(toy: Quadratic) -> Objective:
    """½ mean (aᵢ·w - aᵢ·x*)² at the same start, with Hessian H."""
    rows, d = _rows(toy), toy.dimension
    source = toy.generator().manual_seed(toy.seed + 4)
    drawn = torch.randn(rows, d, generator=source, dtype=torch.float64)
    columns = torch.linalg.qr(drawn - drawn.mean(0))[0] * math.sqrt(rows)
    design = toy.turned(columns * torch.as_tensor(toy.eigenvalues).clamp(min=0).sqrt())
    model = nn.Linear(d, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_((toy.minimum + toy.turned(torch.as_tensor(toy.displacement)))[None])
    targets = (design @ toy.minimum)[:, None]
    return Objective(model, lambda out, y: 0.5 * ((out - y) ** 2).mean(), (design, targets))
