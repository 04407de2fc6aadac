"""Posteriors whose answer is known exactly, each with the way it is sampled.

The truth of every case is that of the very temperature, localisation, step size and batch size that are sampled, not a
limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

import geartrain as gt
from geartrain.sampling import FunctionPotential, diagnostics, log_evidence, sample, temper, truths, wbic
from geartrain.sampling.superposition import polygon, superposition_energy


@dataclass(frozen=True)
class Row:
    """What one seed gave: a value with its stated error and 95 % interval, and whatever it warned of."""

    value: float
    error: float
    low: float
    high: float
    bias: float = 0.0
    warned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One posterior with its truth.

    Attributes:
        what: In words.
        truth: Of the number that is estimated.
        once: One estimate, from a seed.
        ratio: Whether stated error and spread over seeds must agree within 25 % as well.
    """

    what: str
    truth: float
    once: Callable[[int], Row]
    ratio: bool = False


def estimated(what: str, subject: Any, truth: float, *, ratio: bool = False, **options: Any) -> Case:
    """A learning coefficient by `gt.llc`."""

    def once(seed: int) -> Row:
        found = gt.llc(subject, generator=seed, **options)
        names = tuple(w.name for w in found.warnings)
        return Row(
            float(found.value), float(found.standard_error), *found.interval, found.predicted_bias, names
        )

    return Case(what, truth, once, ratio)


def with_freedom(value: float, error: float, freedom: float = math.inf) -> Row:
    """A value whose interval is Student's."""
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Row(value, error, value - half, value + half)


# ------------------------------------------------------------------ learning coefficients


def crossing(*powers: int, n_beta: float = 100.0, localisation: float = 1.0, draws: int = 400) -> Case:
    """A normal crossing, by HMC."""

    def loss(w: Tensor) -> Tensor:
        return torch.stack([w[:, i] ** p for i, p in enumerate(powers)]).prod(0)

    truth = truths.normal_crossing_estimate(powers, n_beta, localisation)
    named = " ".join(f"{x}^{p}" for x, p in zip("xyz", powers, strict=False))
    limit = truths.normal_crossing(powers)
    return estimated(
        f"K = {named}, n·beta {n_beta:g}, localisation {localisation:g} (limit {limit.value:.4g}); HMC",
        FunctionPotential(loss, len(powers), n_beta, localisation),
        truth,
        draws=draws,
        kernel_options={"steps": 16},
    )


def quadratic(batch_size: int | None, step_size: float | None) -> Case:
    """Ten directions; the minibatch noise of the gradient is exactly constant."""
    n, d, n_beta, localisation = 1024, 10, 1024 / math.log(1024), 1.0
    g = torch.Generator().manual_seed(0)
    tilt = torch.randn(n, d, generator=g, dtype=torch.float64)
    tilt = tilt - tilt.mean(0)
    tilt = tilt @ torch.linalg.inv(torch.linalg.cholesky(tilt.T @ tilt / n)).T
    h = torch.linspace(0.3, 2.0, d).double()

    def losses(w: Tensor, rows: Tensor) -> Tensor:
        chosen = tilt[rows]
        linear = w @ chosen.T if rows.ndim == 1 else torch.einsum("cbd,cd->cb", chosen, w)
        return 0.5 * (h * w**2).sum(1, keepdim=True) + linear

    noise = 0.0 if batch_size is None else n_beta**2 / batch_size
    truth = truths.quadratic_estimate(
        h, n_beta, localisation, step_size=step_size or 0.0, gradient_noise=noise
    )
    how = "HMC" if step_size is None else f"SGLD, step {step_size:g}, batches of {batch_size}"
    what = f"quadratic, 10 curvatures from 0.3 to 2; {how}"
    if step_size is None:
        full = FunctionPotential(lambda w: 0.5 * (h * w**2).sum(1), d, n_beta, localisation)
        return estimated(what, full, truth)
    by_rows = FunctionPotential(losses, d, n_beta, localisation, batch_size=batch_size, num_examples=n)
    return estimated(what, by_rows, truth, step_size=step_size, kernel="sgld")


def linear_network(*layers: Tensor, n_beta: float, localisation: float) -> FunctionPotential:
    """K = |product - T|² around layers with that product T; the first layer is the one next to the input."""
    shapes = [t.shape for t in layers]
    sizes = [t.numel() for t in layers]

    def product(parts: list[Tensor]) -> Tensor:
        whole = parts[0]
        for part in parts[1:]:
            whole = part @ whole
        return whole

    target = product(list(layers))

    def loss(w: Tensor) -> Tensor:
        parts = [t.unflatten(1, s) for t, s in zip(w.split(sizes, 1), shapes, strict=True)]
        return (product(parts) - target).square().sum((1, 2))

    centre = torch.cat([t.flatten() for t in layers])
    return FunctionPotential(loss, len(centre), n_beta, localisation, centre=centre)


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A matrix whose columns (rows, if it is wide) are orthonormal."""
    if rows < columns:
        return orthonormal(columns, rows, generator).T
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


def reduced_rank() -> Case:
    """Two hidden units, three inputs and outputs, true map zero."""
    zero = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    truth = truths.reduced_rank_regression_estimate(3, 2, 3, 1000.0)
    return estimated(
        "reduced-rank regression 3-2-3 at zero, n·beta 1,000, prior N(0, 1) (limit 2.5); HMC",
        linear_network(*zero, n_beta=1000.0, localisation=1.0),
        truth,
        draws=400,
        kernel_options={"steps": 16},
    )


def stratum() -> Case:
    """5-3-5 at a generic point of rank three: 10.5, where the global coefficient of rank zero would be 6.5."""
    g = torch.Generator().manual_seed(1)
    a, b = orthonormal(3, 5, g), orthonormal(5, 3, g)
    exact = truths.reduced_rank_regression_local(5, 3, 5, 3, 3, 3).value
    n_beta, localisation = 1e4, 10.0
    # B A changes by B dA + dB A: 9 directions are seen by both, 12 by one.
    truth = truths.quadratic_estimate(torch.tensor([4.0] * 9 + [2.0] * 12), n_beta, localisation)
    what = f"linear network 5-3-5 at rank 3, n·beta {n_beta:g}, localisation {localisation:g} (limit {exact:g}); HMC"
    subject = linear_network(a, b, n_beta=n_beta, localisation=localisation)
    return estimated(what, subject, truth, kernel_options={"steps": 16})


def stratum_of_zero() -> Case:
    """5-3-5 with B = 0 and A of full rank: 7.5 there, where the map is as zero as at the origin with its 6.5."""
    g = torch.Generator().manual_seed(2)
    a, n_beta, localisation = orthonormal(3, 5, g), 1e4, 100.0
    exact = truths.reduced_rank_regression_local(5, 3, 5, 3, 0, 0).value
    # B integrated out: a mean of 15/2 shares 2 nβ s/(2 nβ s + γ) over A, weighed by det(γ + 2 nβ AA')^(-5/2).
    around = a + torch.randn(200_000, 3, 5, generator=g, dtype=torch.float64) / math.sqrt(localisation)
    s = 2 * n_beta * torch.linalg.eigvalsh(around @ around.mT)
    weight = torch.softmax(-2.5 * (localisation + s).log().sum(1), 0)
    truth = float((weight * 2.5 * (s / (localisation + s)).sum(1)).sum())
    what = f"linear network 5-3-5, map zero, first layer of rank 3, localisation 100 (limit {exact:g}); HMC"
    subject = linear_network(a, torch.zeros(5, 3).double(), n_beta=n_beta, localisation=localisation)
    return estimated(what, subject, truth, draws=100)


def deep_stratum() -> Case:
    """Four layers at a generic point of rank two: half the rank of the Jacobian of the product."""
    g = torch.Generator().manual_seed(3)
    layers = [orthonormal(o, i, g) for i, o in ((4, 3), (3, 2), (2, 3), (3, 4))]
    n_beta, localisation = 1e5, 10.0
    subject = linear_network(*layers, n_beta=n_beta, localisation=localisation)
    hessian = torch.autograd.functional.hessian(lambda w: subject.function(w[None])[0], subject.centre)
    curvatures = torch.linalg.eigvalsh(hessian)
    truth = truths.quadratic_estimate(curvatures.where(curvatures > 1e-9, 0.0), n_beta, localisation)
    exact = int((curvatures > 1e-9).sum()) / 2
    what = (
        f"deep linear network 4-3-2-3-4 at rank 2, n·beta {n_beta:g}, localisation 10 (limit {exact:g}); HMC"
    )
    return estimated(what, subject, truth, draws=100)


def superposed(features: int, corners: int, unused: Any = "negative") -> Case:
    """A polygon of the toy model of superposition."""
    point, n_beta, localisation = polygon(features, corners, unused), 1e5, 1.0
    centre = torch.cat([point.weight.flatten(), point.bias])

    def energy(w: Tensor) -> Tensor:
        return superposition_energy(w, features)

    h = torch.linalg.eigvalsh(torch.autograd.functional.hessian(energy, centre))
    truth = truths.quadratic_estimate(h.where(h > 1e-9, 0.0), n_beta, localisation)
    idle = "" if corners == features else f", unused bias {unused}"
    what = (
        f"superposition, {corners}-gon of {features} features{idle}, n·beta {n_beta:g} (limit "
        f"{point.coefficient.value:g}); HMC"
    )
    subject = FunctionPotential(energy, len(centre), n_beta, localisation, centre=centre)
    return estimated(what, subject, truth, draws=100)


def symmetric() -> Case:
    """The model y = a b x under a normal prior: two mirror-image ridges."""
    law = truths.ProductPosterior(target=1.0, precision=25.0, prior_variance=1.0)
    mean, variance = law.product_moments()
    subject = FunctionPotential(
        lambda w: 0.5 * (w[:, 0] * w[:, 1] - 1) ** 2,
        2,
        25.0,
        prior_precision=1.0,
        centre=torch.ones(2).double(),
    )
    truth = 12.5 * (variance + (mean - 1) ** 2)
    what = "y = a b x, n·beta 25, prior N(0, 1), no localisation; HMC"
    return estimated(what, subject, truth)


def regression() -> Case:
    """Least squares in ten dimensions with batches of 32: error against spread."""
    g = torch.Generator().manual_seed(0)
    n, d, batch, step, localisation = 1024, 10, 32, 1e-3, 1.0
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = x @ torch.ones(d, 1).double() + torch.randn(n, 1, generator=g, dtype=torch.float64)
    model = nn.Linear(d, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
        residual = (y - model(x)).flatten()
    truth = least_squares_langevin(x, residual, n / math.log(n), localisation, step, batch)
    objective = gt.Objective(model, lambda out, t: 0.5 * (out - t).square().mean(), (x, y))
    options = {"lr": step, "batch_size": batch, "num_draws": 600, "num_burnin_steps": 200}
    what = f"least squares, d {d}, n {n:,}; SGLD, step {step}, batches of {batch}, paired baseline"
    return estimated(what, objective, truth, ratio=True, **options)


def least_squares_langevin(
    x: Tensor, residual: Tensor, n_beta: float, localisation: float, step: float, batch: int
) -> float:
    """n_beta E[K] of stationary SGLD on least squares, the noise growing with the distance: exact.

    The second moment M of w - w* obeys M = E[T M T'] + step² n_beta²/4 cov(g) + step, T = 1 - step/2 (n_beta H_b +
    localisation) with H_b the mean of xx' over a batch drawn with replacement: linear in M.
    """
    n, d = x.shape
    h, eye = x.T @ x / n, torch.eye(d, dtype=torch.float64)
    t = eye - step / 2 * (n_beta * h + localisation * eye)
    fourth = torch.einsum("ni,nj,nk,nl->ijkl", x, x, x, x).reshape(d * d, d * d) / n
    spread = (step * n_beta / 2) ** 2 / batch * (fourth - torch.kron(h, h))
    noise = (x * residual[:, None] ** 2).T @ x / n
    source = (step * n_beta / 2) ** 2 / batch * noise + step * eye
    # vec of the rank-four term: E[xx' M xx'] has entries sum_kl E[x_i x_k x_l x_j] M_kl, the same tensor.
    moment = torch.linalg.solve(torch.eye(d * d).double() - torch.kron(t, t) - spread, source.reshape(-1))
    return n_beta / 2 * float((h * moment.reshape(d, d)).sum())


# ------------------------------------------------------------------ evidence and basins


def conjugate() -> tuple[truths.ConjugateRegression, FunctionPotential]:
    """Forty examples, three weights, everything in closed form."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=g, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -0.5, 0.2]).double() + 0.5 * torch.randn(40, generator=g, dtype=torch.float64)
    law = truths.ConjugateRegression(x, y, 0.25, 1.0)

    def losses(w: Tensor, rows: Tensor) -> Tensor:
        return 2 * (y[rows] - w @ x[rows].T) ** 2 + 0.5 * math.log(2 * math.pi * 0.25)

    return law, FunctionPotential(losses, 3, num_examples=40)


def evidence() -> Case:
    """The log evidence of conjugate regression, by tempering."""
    law, subject = conjugate()

    def once(seed: int) -> Row:
        found = log_evidence(subject, 1.0, levels=8, draws=200, steps=6, generator=seed)
        return with_freedom(float(found.value), float(found.standard_error), 7)

    return Case("log evidence of conjugate regression, n 40, d 3, 8 temperatures", law.log_evidence(), once)


def criterion() -> Case:
    """WBIC of the same regression: n times the mean loss at 1/log n, in closed form."""
    law, subject = conjugate()

    def once(seed: int) -> Row:
        found = wbic(subject, 1.0, draws=300, steps=4, generator=seed)
        return with_freedom(float(found.value), float(found.standard_error))

    return Case("WBIC of the same regression", law.expected_energy(1 / math.log(40)), once)


def two_basins() -> Case:
    """Share of one of two round basins far apart, by parallel tempering."""
    law = truths.GaussianBasins(
        torch.tensor([[-2.0, 0.0], [2.0, 0.0]]).double(),
        torch.tensor([0.5, 0.5]).double(),
        torch.tensor([0.7, 0.3]).double(),
    )
    # Tempering leaves localisation alone, so the coldest level is the law with its weak pull; so is the truth.
    pull = 0.05
    exact = law.sample(400_000, torch.Generator().manual_seed(0))
    weight = (-0.5 * pull * exact.square().sum(1)).exp()
    truth = float((weight * (law.basin(exact) == 0)).sum() / weight.sum())
    subject = FunctionPotential(law.energy, 2)

    def once(seed: int) -> Row:
        found = temper(
            subject, [1, 0.5, 0.25, 0.1], chains=8, draws=300, localisation=pull, steps=4, generator=seed
        )
        inside = (law.basin(found.cold()) == 0).double()
        return with_freedom(float(inside.mean()), float(diagnostics.mcse(inside, "mean")))

    return Case("two basins with shares 0.7 and 0.3, parallel tempering over four levels", truth, once)


def product_mean() -> Case:
    """The posterior mean of a b, the function of y = a b x, from chains of which each sits on a ridge of its own."""
    law = truths.ProductPosterior(target=1.0, precision=25.0, prior_variance=1.0)
    subject = FunctionPotential(law.energy, 2)

    def once(seed: int) -> Row:
        draws = sample(subject, "hmc", draws=200, steps=8, start=torch.ones(2), generator=seed)
        assert draws.positions is not None
        product = draws.positions.prod(-1)
        return with_freedom(float(product.mean()), float(diagnostics.mcse(product, "mean")))

    return Case("posterior mean of the function of y = a b x; HMC", law.product_moments()[0], once)


CASES: dict[str, Callable[[], Case]] = {
    "w2": lambda: crossing(2),
    "w4": lambda: crossing(4),
    "x2y2": lambda: crossing(2, 2),
    "x2y4": lambda: crossing(2, 4),
    "x2y2z2": lambda: crossing(2, 2, 2),
    "quadratic": lambda: quadratic(None, None),
    "quadratic_biased": lambda: quadratic(32, 5e-4),
    "reduced_rank": reduced_rank,
    "stratum": stratum,
    "stratum_of_zero": stratum_of_zero,
    "deep_stratum": deep_stratum,
    "pentagon": lambda: superposed(5, 5),
    "hexagon": lambda: superposed(6, 6),
    "pentagon_and_one": lambda: superposed(6, 5, "positive"),
    "symmetric": symmetric,
    "product_mean": product_mean,
    "two_basins": two_basins,
    "evidence": evidence,
    "wbic": criterion,
    "regression": regression,
}
