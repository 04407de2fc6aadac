"""Posteriors whose learning coefficient, moments or evidence are known exactly: what samplers are checked against.

A learning coefficient estimate at a finite number of examples has a value of its own, n beta E[K], which differs from
the limit lambda by the localisation, by (m - 1)/log(n beta), and by what the step size and the minibatches do. Here
that value is given wherever an integral or a closed form gives it, beside lambda and the multiplicity m.

K(w) = L(w) - L(w*) is the excess loss, ``n_beta`` the number that multiplies the loss in the exponent, and
``localisation`` the factor gamma of -gamma/2 |w - w0|^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor

from geartrain.errors import InputError


class Coefficient(NamedTuple):
    """Leading terms of the free energy, lambda log n - (m - 1) log log n.

    Attributes:
        value: The learning coefficient lambda.
        multiplicity: Its multiplicity m.
    """

    value: float
    multiplicity: int


# ------------------------------------------------------------------ normal crossings


def normal_crossing(powers: Sequence[int], prior_powers: Sequence[int] | None = None) -> Coefficient:
    """Learning coefficient of K = prod |w_i|^p_i under a prior that goes as prod |w_i|^h_i: min (h_i + 1)/p_i.

    Args:
        powers: p_i, even numbers for a smooth K; 0 for a direction that does not matter.
        prior_powers: h_i, zeros if omitted.

    Returns:
        The coefficient; its multiplicity is the number of directions that attain the minimum.

    Raises:
        InputError: No power is positive, or the lists differ in length.

    Example:
        >>> normal_crossing([2, 2]), normal_crossing([4, 6]).value == 1 / 6
        (Coefficient(value=0.5, multiplicity=2), True)
    """
    pairs = _crossing(powers, prior_powers)
    ratios = [Fraction(h + 1, p) for p, h in pairs]
    return Coefficient(float(min(ratios)), ratios.count(min(ratios)))


def normal_crossing_estimate(
    powers: Sequence[int],
    n_beta: float,
    localisation: float,
    prior_powers: Sequence[int] | None = None,
) -> float:
    """Exact n_beta E[K] for K = prod |w_i|^p_i with Gaussian localisation at the origin.

    The law of log K is a convolution of the laws of p_i log|w_i|; the trapezoidal rule on a logarithmic grid is
    accurate to about 1e-10 here.

    Args:
        powers: p_i; 0 for a direction that does not matter.
        n_beta: Factor of the loss.
        localisation: Strength of the localisation, above 0.
        prior_powers: h_i, zeros if omitted.

    Returns:
        What an unbiased learning coefficient estimate averages to.

    Raises:
        InputError: No power is positive, the lists differ in length, or there is no localisation.

    Example:
        >>> round(normal_crossing_estimate([2, 2], 100, 1), 4)
        0.3542
    """
    pairs = _crossing(powers, prior_powers)
    if localisation <= 0 or n_beta <= 0:
        raise InputError(
            f"n_beta is {n_beta} and localisation {localisation}; both must be above 0: without localisation the "
            "posterior of a crossing cannot be normalised."
        )
    step = 0.1
    slowest = float(min(Fraction(h + 1, p) for p, h in pairs))
    # The density of s = p log|w| is exp(s (h + 1)/p - gamma/2 exp(2 s/p)) up to a constant: it falls off slowly to
    # the left, hence the length of the grid, and doubly exponentially to the right.
    left, right = -60 / slowest - math.log(max(n_beta, 1.0)), 60.0
    total, origin = np.ones(1), 0.0
    for power, prior in pairs:
        s = np.arange(left, right, step)
        with np.errstate(over="ignore"):
            log = s * (prior + 1) / power - 0.5 * localisation * np.exp(2 * s / power)
        total = np.convolve(total, np.exp(log - log.max()))
        total, origin = total / total.max(), origin + left
    s = origin + step * np.arange(len(total))
    with np.errstate(over="ignore"):
        scaled = n_beta * np.exp(s)
        weight = total * np.exp(-scaled)
    return float((weight * np.where(weight > 0, scaled, 0)).sum() / weight.sum())


def _crossing(powers: Sequence[int], prior_powers: Sequence[int] | None) -> list[tuple[int, int]]:
    prior = [0] * len(powers) if prior_powers is None else list(prior_powers)
    if len(prior) != len(powers) or not any(p > 0 for p in powers) or min(powers) < 0 or min(prior) < 0:
        raise InputError(
            f"powers is {list(powers)} and prior_powers {prior}; allowed: lists of the same length, numbers from 0, "
            "at least one power above 0."
        )
    return [(p, h) for p, h in zip(powers, prior, strict=True) if p > 0]


# ------------------------------------------------------------------ quadratics


def langevin_variance(precision: Tensor, step_size: float, gradient_noise: Tensor | float = 0.0) -> Tensor:
    """Stationary variance of unadjusted Langevin steps x' = x - step/2 (precision x + noise) + sqrt(step) xi.

    (step + step^2 S/4) / (1 - (1 - step precision/2)^2) with S the variance of the gradient noise; without noise
    1/(precision (1 - step precision/4)). The exact posterior has 1/precision.

    Args:
        precision: Second derivatives of the potential, any shape.
        step_size: Step size of the drift-eps/2 convention.
        gradient_noise: Variance of the gradient of the potential from minibatches, same shape.

    Returns:
        Same shape; infinite where step x precision reaches 4.
    """
    precision = torch.as_tensor(precision, dtype=torch.float64)
    shrink = 1 - step_size * precision / 2
    noise = torch.as_tensor(gradient_noise, dtype=torch.float64)
    variance = (step_size + step_size**2 * noise / 4) / (1 - shrink**2)
    return torch.where(shrink.abs() < 1, variance, math.inf)


def quadratic_estimate(
    curvatures: Tensor | Sequence[float],
    n_beta: float,
    localisation: float = 0.0,
    *,
    step_size: float = 0.0,
    gradient_noise: Tensor | float = 0.0,
    displacement: Tensor | Sequence[float] | float = 0.0,
) -> float:
    """Exact learning coefficient estimate for K = sum h_i w_i^2/2, sampled exactly or by Langevin steps.

    sum over i of n_beta h_i/2 (v_i + ((gamma/Lambda_i)^2 - 1) d_i^2), Lambda_i = n_beta h_i + gamma, with v_i the
    variance that the sampler has: 1/Lambda_i if exact, else `langevin_variance`.

    Args:
        curvatures: h_i, the eigenvalues of the Hessian.
        n_beta: Factor of the loss.
        localisation: Strength gamma.
        step_size: 0 for the posterior itself.
        gradient_noise: Variance of the minibatch gradient of n_beta L along each direction.
        displacement: Centre of the localisation (which is also the baseline) minus the minimiser, per direction.

    Returns:
        n_beta (E[L] - L(centre)).

    Example:
        >>> quadratic_estimate([1.0, 2.0], n_beta=100.0)
        1.0
        >>> round(quadratic_estimate([1.0] * 10, 147.7, 1.0, step_size=1e-3), 3)
        5.158
    """
    h = torch.as_tensor(curvatures, dtype=torch.float64)
    d = torch.as_tensor(displacement, dtype=torch.float64)
    precision = n_beta * h + localisation
    exact = torch.where(precision > 0, 1 / precision, 0.0)
    variance = langevin_variance(precision, step_size, gradient_noise) if step_size else exact
    moved = torch.where(precision > 0, (localisation / precision) ** 2 - 1, 0.0) * d**2
    return float((n_beta * h / 2 * (variance + moved)).sum())


def least_squares_noise(
    curvatures: Tensor, n_beta: float, residual_variance: float, batch_size: int
) -> Tensor:
    """Variance of the minibatch gradient of n_beta L for L = mean (y - x w)^2/2 near its minimum, per direction.

    n_beta^2 h sigma^2 / batch size, for batches drawn with replacement.
    """
    return n_beta**2 * torch.as_tensor(curvatures, dtype=torch.float64) * residual_variance / batch_size


def mala_acceptance(stiffness: float) -> float:
    """Mean acceptance of MALA along one Gaussian direction in equilibrium, for step size x precision.

    By symmetry it is 2 P(|y| < |x|) for the proposal y from x, and x - y, x + y are jointly Gaussian:
    (2/pi) arccos(c/sqrt((h + c)(4 - h + c))), c = h^2/4.

    Example:
        >>> [round(mala_acceptance(h), 4) for h in (0.1, 0.5, 1.0, 2.0)]
        [0.9975, 0.9719, 0.9208, 0.7837]
    """
    c = stiffness**2 / 4
    return 2 / math.pi * math.acos(c / math.sqrt((stiffness + c) * (4 - stiffness + c)))


def quadratic_covariance(
    covariance: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
) -> float:
    """Covariance of two quadratics w'Aw/2 + g'w under N(0, S): g'Sh + tr(A S B S)/2.

    The truth for susceptibilities and Bayesian influence functions.

    Args:
        covariance: S, shape (params, params).
        first: (A, g).
        second: (B, h).

    Returns:
        The covariance.
    """
    (a, g), (b, h) = first, second
    return float(g @ covariance @ h + torch.trace(a @ covariance @ b @ covariance) / 2)


# ------------------------------------------------------------------ linear networks


def reduced_rank_regression(inputs: int, hidden: int, outputs: int, rank: int) -> Coefficient:
    """Learning coefficient of y = B A x over *all* its minima: hidden units H, true map of the given rank.

    This is the smallest over the set of solutions. A trained network sits at a stratum of its own, where the
    coefficient may be far larger: `reduced_rank_regression_local`.

    Args:
        inputs: M.
        hidden: H.
        outputs: N.
        rank: Rank r of the true map.

    Returns:
        The coefficient.

    Raises:
        InputError: The rank does not fit the widths.

    References:
        Aoyagi & Watanabe (2005), Neural Networks 18(7), theorem 1.

    Example:
        >>> reduced_rank_regression(5, 3, 5, 0)
        Coefficient(value=6.5, multiplicity=2)
    """
    m, h, n, r = inputs, hidden, outputs, rank
    _check_rank([m, h, n], r)
    if m + h < n + r:
        return Coefficient((h * m - h * r + n * r) / 2, 1)
    if n + h < m + r:
        return Coefficient((h * n - h * r + m * r) / 2, 1)
    if m + n < h + r:
        return Coefficient(m * n / 2, 1)
    base = -((h + r) ** 2) - m**2 - n**2 + 2 * (h + r) * (m + n) + 2 * m * n
    odd = (m + h + n + r) % 2
    return Coefficient((base + odd) / 8, 1 + odd)


def reduced_rank_regression_local(
    inputs: int, hidden: int, outputs: int, rank_first: int, rank_second: int, rank: int
) -> Coefficient:
    """Learning coefficient of y = B A x *at the point* (A, B), by the ranks there.

    (N a + M b - a b)/2 for the directions in which the map changes at first order, plus the coefficient of a smaller
    network at zero for the rest: lambda(M - a, H - a - b + r, N - b; 0).

    Args:
        inputs: M.
        hidden: H.
        outputs: N.
        rank_first: Rank a of A, which is H x M.
        rank_second: Rank b of B, which is N x H.
        rank: Rank r of B A, the true map.

    Returns:
        The coefficient.

    Raises:
        InputError: No such pair of matrices exists.

    Example:
        A trained network whose hidden layer is used up, and the origin:

        >>> reduced_rank_regression_local(5, 3, 5, 3, 3, 3).value
        10.5
        >>> reduced_rank_regression_local(5, 3, 5, 0, 0, 0).value
        6.5
    """
    m, h, n, a, b, r = inputs, hidden, outputs, rank_first, rank_second, rank
    if not (0 <= a <= min(h, m) and 0 <= b <= min(h, n) and max(0, a + b - h) <= r <= min(a, b)):
        raise InputError(
            f"There are no matrices A ({h} x {m}) of rank {a} and B ({n} x {h}) of rank {b} with a product of rank {r}."
        )
    smooth = (n * a + m * b - a * b) / 2
    rest = (m - a, h - a - b + r, n - b)
    if min(rest) <= 0:
        return Coefficient(smooth, 1)
    value, multiplicity = reduced_rank_regression(*rest, 0)
    return Coefficient(smooth + value, multiplicity)


def reduced_rank_regression_estimate(inputs: int, hidden: int, outputs: int, n_beta: float) -> float:
    """Exact n_beta E[K] for K = |BA|^2 (true map zero) under a standard normal prior of all entries.

    Integrating B out leaves E_A det(1 + 2 n_beta AA')^(-N/2), an integral over one or two eigenvalues of a
    Wishart matrix.

    Args:
        inputs: M.
        hidden: H.
        outputs: N.
        n_beta: Factor of the loss.

    Returns:
        What an unbiased learning coefficient estimate averages to.

    Raises:
        InputError: More than two eigenvalues would be needed.

    Example:
        >>> round(reduced_rank_regression_estimate(3, 2, 3, 1000.0), 4)
        2.4375
    """
    small, large = sorted((inputs, hidden))
    if small not in {1, 2}:
        raise InputError(
            f"inputs is {inputs} and hidden {hidden}; the smaller must be 1 or 2 (one integral per eigenvalue). "
            "Exchange inputs and outputs: the posterior of BA does not change."
        )
    exponent = (large - small + 1) / 2  # of the eigenvalue, with the Jacobian of the logarithm
    u = np.arange(-90.0, 12.0, 0.05)
    top = np.exp(u)
    if small == 1:
        eigenvalues, log = top[None], exponent * u - top / 2
    else:
        # The kink of |l1 - l2| lies at the edge when the smaller one is a share of the larger.
        v = np.arange(-90.0, 40.0, 0.1)[:, None]
        share = special.expit(v)
        eigenvalues = np.stack(np.broadcast_arrays(top, share * top))
        log = (
            (2 * exponent + 1) * u
            + exponent * special.log_expit(v)
            + 2 * special.log_expit(-v)
            - (1 + share) * top / 2
        )
    log = log - outputs / 2 * np.log1p(2 * n_beta * eigenvalues).sum(0)
    weight = np.exp(log - log.max())
    value = n_beta * outputs * (eigenvalues / (1 + 2 * n_beta * eigenvalues)).sum(0)
    return float((weight * value).sum() / weight.sum())


def deep_linear_network(widths: Sequence[int], rank: int) -> Coefficient:
    """Learning coefficient of a deep linear network over all its minima.

    Args:
        widths: From input to output, at least three.
        rank: Rank of the true map.

    Returns:
        The coefficient.

    Raises:
        InputError: Fewer than two widths, or a rank above the smallest.

    References:
        Aoyagi (2024), Neural Networks 172; restated in arXiv:2501.12747.

    Example:
        >>> deep_linear_network([10] * 5, 5)
        Coefficient(value=45.5, multiplicity=4)
    """
    _check_rank(widths, rank)
    excess = sorted(w - rank for w in widths)
    num_layers = next(
        k
        for k in range(1, len(excess))
        if sum(excess[: k + 1]) >= k * excess[k]
        and (k + 1 == len(excess) or (excess[k] < excess[k + 1] and sum(excess[: k + 1]) < k * excess[k + 1]))
    )
    chosen, k = excess[: num_layers + 1], num_layers
    total = sum(chosen)
    a = total - (-(-total // k) - 1) * k
    products = (total**2 - sum(c * c for c in chosen)) // 2
    value = Fraction(rank * (widths[0] + widths[-1]) - rank**2, 2) + Fraction(products, 2)
    value += Fraction(a * (k - a), 4 * k) - Fraction((k - 1) * total**2, 4 * k)
    return Coefficient(float(value), a * (k - a) + 1)


def _check_rank(widths: Sequence[int], rank: int) -> None:
    if len(widths) < 2 or not 0 <= rank <= min(widths):
        raise InputError(
            f"widths is {list(widths)} and rank {rank}; allowed: two widths or more and a rank from 0 to the smallest."
        )


# ------------------------------------------------------------------ posteriors


@dataclass(frozen=True)
class ConjugateRegression:
    """Bayesian linear regression y = X w + noise with a normal prior: everything in closed form.

    Attributes:
        inputs: X, shape (n, d).
        targets: y, shape (n,).
        noise_variance: s^2.
        prior_variance: tau^2 of every weight.
    """

    inputs: Tensor
    targets: Tensor
    noise_variance: float
    prior_variance: float

    def posterior(self, beta: float = 1.0) -> tuple[Tensor, Tensor]:
        """Mean (d,) and covariance (d, d) of the density likelihood^beta x prior."""
        x, y = self.inputs.double(), self.targets.double()
        eye = torch.eye(x.shape[1], dtype=torch.float64)
        covariance = torch.linalg.inv(beta * x.T @ x / self.noise_variance + eye / self.prior_variance)
        return beta * covariance @ x.T @ y / self.noise_variance, covariance

    def log_evidence(self, beta: float = 1.0) -> float:
        """Log of the integral of likelihood^beta x prior; at beta = 1 the log evidence."""
        x, y, n = self.inputs.double(), self.targets.double(), len(self.targets)
        mean, covariance = self.posterior(beta)
        determinant = float(torch.logdet(covariance)) - x.shape[1] * math.log(self.prior_variance)
        fit = beta * float(y @ y) / self.noise_variance - float(mean @ torch.linalg.solve(covariance, mean))
        return -0.5 * (beta * n * math.log(2 * math.pi * self.noise_variance) - determinant + fit)

    def expected_energy(self, beta: float = 1.0) -> float:
        """Mean of -log likelihood (the sum over examples) at inverse temperature beta: -d log_evidence/d beta."""
        x, y, n = self.inputs.double(), self.targets.double(), len(self.targets)
        mean, covariance = self.posterior(beta)
        squares = float((y - x @ mean).square().sum() + torch.trace(x @ covariance @ x.T))
        return 0.5 * (n * math.log(2 * math.pi * self.noise_variance) + squares / self.noise_variance)


@dataclass(frozen=True)
class GaussianBasins:
    """Several round basins with known shares: density sum_k share_k N(w; centre_k, scale_k^2).

    Attributes:
        centres: Shape (basins, params).
        scales: Shape (basins,).
        shares: Shape (basins,), adding up to one.
    """

    centres: Tensor
    scales: Tensor
    shares: Tensor

    def energy(self, positions: Tensor) -> Tensor:
        """Minus the log density, (..., params) -> (...); differentiable."""
        return -torch.logsumexp(self._log_parts(positions), -1)

    def basin(self, positions: Tensor) -> Tensor:
        """The basin to which each position most probably belongs, (..., params) -> (...)."""
        return self._log_parts(positions).argmax(-1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent draws, shape (count, params)."""
        which = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.centres.shape[1], generator=generator, dtype=self.centres.dtype)
        return self.centres[which] + self.scales[which, None] * noise

    def _log_parts(self, positions: Tensor) -> Tensor:
        params = self.centres.shape[1]
        squares = (positions.unsqueeze(-2) - self.centres).square().sum(-1)
        norm = params * (self.scales.log() + 0.5 * math.log(2 * math.pi))
        return self.shares.log() - norm - squares / (2 * self.scales**2)


@dataclass(frozen=True)
class ProductPosterior:
    """Posterior of y = a b x: two mirror-image ridges in weights, one peak in functions.

    Energy: precision/2 (a b - target)^2 + (a^2 + b^2)/(2 prior_variance).

    Attributes:
        target: Where the likelihood wants a b.
        precision: How sharply.
        prior_variance: Of a and of b.
    """

    target: float = 1.0
    precision: float = 25.0
    prior_variance: float = 1.0

    def energy(self, positions: Tensor) -> Tensor:
        """Minus the log density up to a constant, (..., 2) -> (...); differentiable."""
        a, b = positions[..., 0], positions[..., 1]
        fit = self.precision / 2 * (a * b - self.target) ** 2
        return fit + (a**2 + b**2) / (2 * self.prior_variance)

    def product_moments(self) -> tuple[float, float]:
        """Mean and variance of a b; the prior density of a b is K0(|z|/tau^2)/(pi tau^2)."""
        # K0 has a logarithmic peak at zero, harmless on a grid that is logarithmic on both sides of it.
        u = np.linspace(-40, 6, 40001)
        z = np.exp(u)
        z = np.concatenate([-z[::-1], z])
        jacobian = np.abs(z)
        log = -0.5 * self.precision * (z - self.target) ** 2 - np.abs(z) / self.prior_variance
        weight = jacobian * special.k0e(np.abs(z) / self.prior_variance) * np.exp(log - log.max())
        mean = float((weight * z).sum() / weight.sum())
        return mean, float((weight * (z - mean) ** 2).sum() / weight.sum())


def perceptron_prior(inputs: int) -> np.ndarray:
    """Law of the number T of points of {0,1}^n that a perceptron without bias puts in class 1 (w.x > 0).

    Weights from any continuous law symmetric under sign flips of the coordinates: T is uniform on 0 ... 2^n - 1.

    Args:
        inputs: n.

    Returns:
        P(T = t), shape (2^n + 1,).

    References:
        Mingard et al. (2019), arXiv:1909.11522, theorem 4.1.
    """
    law = np.full(2**inputs + 1, 2.0**-inputs)
    law[-1] = 0.0
    return law
