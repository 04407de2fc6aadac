"""Volume of the basin around a point: how much of parameter space is as good, seen from here in straight lines.

A random initialisation or a random walk ends in a large basin more easily than in a small one; the volume is what
connects flatness with probability. Misleads through its size: in n dimensions the volume is a mean of radii to the n-th
power, a few directions out of all decide it, and a sample that missed them says far too little. The effective number
of samples tells. References: Huang et al. (2020), arXiv:1906.03291; Scherlis and Belrose (2025), arXiv:2501.18812;
Chiang et al. (2023), ICLR. Ledger: 1.9, 1.10, 1.25.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.instruments import _curvature
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.instruments.landscape._probe import Spending
from geartrain.linalg import top_eigenpairs
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, format_number
from geartrain.run import Run

Preconditioner = Literal["none", "hessian"]
_SAMPLES, _RANK, _DENSE, _PRODUCTS = 64, 20, 60, 60
_NAME = "basin_volume"
_FEW = 10.0


def _price(
    objective: Any, *, samples: int = _SAMPLES, preconditioner: Any = "hessian", **options: Any
) -> Cost:
    products = 0
    if isinstance(preconditioner, str) and preconditioner == "hessian":
        products = objective.num_params if objective.num_params <= _DENSE else 45
    vectors = _PRODUCTS + _RANK
    return Cost(
        forwards=5 * samples,
        gradients=1 if products else 0,
        products=products,
        peak_bytes=_curvature.bytes_of(objective, vectors if products else 4),
    )


@instrument(needs="objective", unit="1", price=_price)
def basin_volume(
    objective: Objective | Run,
    *,
    cutoff: float | None = None,
    samples: int = _SAMPLES,
    preconditioner: Preconditioner | Tensor = "hessian",
    max_radius: float | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the logarithm of the volume of {θ + x: L < cutoff all the way from θ to θ + x}.

    The part of the sublevel set that is seen from θ in straight lines. With directions z uniform on the sphere, any
    invertible P, and ρ(z) the distance at which L first reaches the cutoff along Pz,

    log V = log B_n + log|det P| + log E[ρ(z)ⁿ],  B_n = π^(n/2) / Γ(n/2 + 1),

    for every P: P decides the variance only. P ≈ |H|^(-1/2) makes an ellipsoid a ball, and one sample enough.

    **Cost** about 5 forward passes per sample; up to 60 products for the preconditioner.

    **Assumes** that along a ray the loss does not exceed the cutoff and come back within one doubling of the distance.

    **Misleads** when few samples carry the mean: log E[ρⁿ] is then underestimated, by tens or hundreds of nats
    in large networks. The state says so, ``mean_log`` is a valid lower bound in expectation (Jensen), and
    ``gaussian`` extrapolates as if log ρⁿ were normal. Directions without an end are cut at ``max_radius``; where many
    are, the volume is that of the cut. Volumes compare only at the same cutoff and parametrisation: rescaling a ReLU
    unit changes them, not the function.

    Args:
        objective: What to measure; an `Objective`, or a `Run` whose training loss is meant.
        cutoff: Loss at the rim, unit ℓ; by default a tenth of the loss above the loss (0.01 above a loss of 0).
        samples: Directions.
        preconditioner: ``"hessian"`` (all eigenpairs up to 60 parameters, else the 20 of largest |curvature| and one
            scale for the rest), ``"none"``, or positive scales of shape (params,), the diagonal of P.
        max_radius: Where rays end, unit θ; the norm of the parameters if omitted (1 if that is 0).
        generator: Source of the directions; a fixed seed if ``None``.
        budget: Limit: products (six forward passes count as one), ``"5s"`` or a `Budget`. Fewer samples are taken.

    Returns:
        log V, a pure number (V in θⁿ). The standard error is that of the logarithm of the mean, √(1/ESS - 1/m), or
        what it would be if log ρⁿ were normal with the variance seen, whichever is larger; where the effective sample
        size is below 10 the state is "not converged": dominated by few samples. ``details``: ``effective_samples``,
        ``largest_share`` (of the mean that one sample carries), ``mean_log`` and ``mean_log_error`` (the bound),
        ``gaussian``, ``effective_radius`` (of the ball of this volume, unit θ), ``radii`` (unit θ), ``capped`` (share
        of rays that met no rim), ``loss``, ``cutoff``, ``max_radius``, ``samples``, ``evaluations``.

    Raises:
        InputError: A setting is out of range, or the cutoff is not above the loss.

    References:
        Scherlis, Belrose (2025), arXiv:2501.18812, §3; Huang et al. (2020), arXiv:1906.03291, §5.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> with torch.no_grad(): _ = model.weight.zero_()
    >>> data = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double()
    >>> bowl = gt.Objective(model, lambda out, y: ((out - y) ** 2).sum(), data)  # 4x² + y² < 1: half-axes ½, 1
    >>> found = basin_volume(bowl, cutoff=1.0, max_radius=10.0)
    >>> round(math.exp(float(found)) / math.pi, 4)
    0.5
    """
    if samples < 2:
        raise InputError(f"{_NAME}: samples is {samples}; allowed: 2 or more.")
    if max_radius is not None and not max_radius > 0:
        raise InputError(f"{_NAME}: max_radius is {max_radius}; allowed: positive lengths.")
    objective = objective.objective() if isinstance(objective, Run) else objective
    spending = Spending(objective, Budget.of(budget).start())
    if spending.exhausted():
        return no_answer(_NAME, "The budget allows no sample.", state=State.OUT_OF_BUDGET)
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    try:
        loss = float(objective.value())
        rim = _rim(loss, cutoff)
        size = float(objective.parameters().double().norm())
        reach = max_radius if max_radius is not None else size or 1.0
        shape = _shape_of(objective, preconditioner, rim - loss, reach, source, spending)
    except NonFiniteError as error:
        return no_answer(_NAME, str(error), state=State.NON_FINITE)
    rays = _Rays(objective, loss, rim, reach, shape)
    logs = []
    for _ in range(samples):
        if spending.exhausted() and len(logs) >= 2:
            break
        logs.append(rays.log_radius(source))
    return _measurement(rays, np.array(logs), samples)


def _rim(loss: float, cutoff: float | None) -> float:
    if cutoff is None:
        return loss + (0.1 * abs(loss) or 0.01)
    if not cutoff > loss:
        raise InputError(
            f"{_NAME}: cutoff is {cutoff}, and the loss here is {loss:.6g}; allowed: cutoffs above it."
        )
    return cutoff


# ---------------------------------------------------------------------- preconditioners


@dataclass(frozen=True)
class _Shape:
    """The map P from the unit sphere to directions.

    Attributes:
        apply: ``z -> P z``.
        log_det: log|det P|.
        guess: Expected distance to the rim in units of Pz, or ``None``.
    """

    apply: Callable[[Tensor], Tensor]
    log_det: float
    guess: float | None = None


def _shape_of(
    objective: Objective,
    wanted: Any,
    rise: float,
    reach: float,
    source: torch.Generator,
    spending: Spending,
) -> _Shape:
    n = objective.num_params
    if isinstance(wanted, Tensor):
        if wanted.shape != (n,) or not bool(((wanted > 0) & torch.isfinite(wanted)).all()):
            raise InputError(
                f"{_NAME}: preconditioner is a tensor of shape {tuple(wanted.shape)}; allowed: ({n},) positive "
                "finite scales, one per parameter."
            )
        scales = wanted.to(objective.device, objective.dtype)
        return _Shape(lambda z: scales * z, float(scales.double().log().sum()))
    if wanted == "none":
        return _Shape(lambda z: z, 0.0)
    if wanted != "hessian":
        raise InputError(
            f"{_NAME}: preconditioner is {wanted!r}; allowed: 'hessian', 'none', or a vector of scales."
        )
    try:
        values, rows, rest = _curvatures(objective, source, spending)
    except UnsupportedError:
        return _Shape(lambda z: z, 0.0)
    # Curvature below this meets no rim within reach, so the reach is the scale there.
    floor = 2 * rise / reach**2
    scales = 1 / np.sqrt(np.maximum(np.abs(values), floor))
    other = 1 / math.sqrt(max(abs(rest), floor))
    stretch = torch.as_tensor(scales - other, dtype=objective.dtype, device=objective.device)
    log_det = float(np.log(scales).sum()) + (n - len(scales)) * math.log(other)
    return _Shape(lambda z: other * z + rows.T @ (stretch * (rows @ z)), log_det, guess=math.sqrt(2 * rise))


def _curvatures(
    objective: Objective, source: torch.Generator, spending: Spending
) -> tuple[np.ndarray, Tensor, float]:
    """Eigenvalues, eigenvectors in rows, and the mean curvature of everything else."""
    n, place = objective.num_params, _curvature.place_of(objective)
    if n <= _DENSE and not spending.exhausted():
        dense = objective.hvp(torch.eye(n, **place)).double()
        values, vectors = torch.linalg.eigh((dense + dense.T) / 2)
        return values.cpu().numpy(), vectors.T.to(objective.dtype), 0.0
    found = top_eigenpairs(
        objective.hvp,
        n,
        _RANK,
        which="magnitude",
        tol=0.03,
        max_products=_PRODUCTS,
        generator=source,
        should_stop=spending.exhausted,
        eigenvectors=True,
        **place,
    )
    rows = found.eigenvectors
    if rows is None or not len(rows):
        return np.zeros(0), torch.zeros(0, n, **place), 0.0
    test = _normal(n, source, objective)
    test = test - rows.T @ (rows @ test)
    rest = float(test @ objective.hvp(test)) / float(test @ test)
    return found.eigenvalues, rows, rest


def _normal(n: int, source: torch.Generator, objective: Objective) -> Tensor:
    drawn = torch.randn(n, generator=source, dtype=torch.float64, device=source.device)
    return drawn.to(objective.device, objective.dtype)


# ---------------------------------------------------------------------- rays


class _Rays:
    """Distances to the rim along directions Pz."""

    def __init__(self, objective: Objective, loss: float, rim: float, reach: float, shape: _Shape) -> None:
        self.objective, self.loss, self.rim, self.reach, self.shape = objective, loss, rim, reach, shape
        self.here, self.evaluations, self.capped = objective.parameters(), 1, 0
        self.radii: list[float] = []
        self.last = shape.guess
        n, eps = objective.num_params, torch.finfo(objective.dtype).eps
        # A thousandth of a nat of the volume, unless the loss is rounded more coarsely than that.
        self.tol = max(1e-3 / n, 4 * eps * max(abs(loss), abs(rim)) / (rim - loss))

    def log_radius(self, source: torch.Generator) -> float:
        """Log ρ for one direction, in units of Pz."""
        z = _normal(self.objective.num_params, source, self.objective)
        direction = self.shape.apply(z / z.norm())
        size = float(direction.double().norm())
        cap = self.reach / size
        found = self._crossing(direction, cap)
        self.capped += found >= cap
        self.last = found
        self.radii.append(found * size)
        return math.log(found)

    def height(self, direction: Tensor, distance: float) -> float:
        """Square root of the rise over that of the rim (negative downhill): nearly a straight line in the distance."""
        self.evaluations += 1
        try:
            rise = float(self.objective.value(self.here + distance * direction)) - self.loss
        except NonFiniteError:
            return math.inf
        return math.copysign(math.sqrt(abs(rise) / (self.rim - self.loss)), rise)

    def _crossing(self, direction: Tensor, cap: float) -> float:
        """The first distance at which the height is 1, or the cap."""
        low, low_height = 0.0, 0.0
        distance = min(self.last if self.last is not None else 0.1 * cap, cap)
        while (height := self.height(direction, distance)) < 1:
            if distance >= cap or (1 - height <= self.tol and _steep(low, low_height, distance)):
                return distance
            low, low_height = distance, height
            # Straight lines from 0 say 1/height; twice is as far as one may jump unseen.
            distance = min(distance * min(2.0, 1.01 / height if height > 0.5 else 2.0), cap)
        if (
            low == 0.0 and height - 1 <= self.tol
        ):  # hit at once; or this is a plateau, and the rim was long ago
            low = 0.9 * distance
            while (low_height := self.height(direction, low)) >= 1:
                distance, height, low = low, low_height, 0.5 * low
        return self._between(direction, low, low_height, distance, height)

    def _between(self, direction: Tensor, low: float, below: float, high: float, above: float) -> float:
        """Regula falsi (Illinois) between a height below 1 and one above; bisection where it stalls."""
        side = 0
        for turn in range(80):
            steep = _steep(low, below, high)
            if (above - 1 <= self.tol and steep) or high - low <= self.tol * high:
                return high
            share = (1 - below) / (above - below) if math.isfinite(above) and steep else 0.5
            middle = low + (high - low) * (0.5 if turn % 8 == 7 else min(max(share, 1e-6), 1 - 1e-6))
            height = self.height(direction, middle)
            if abs(height - 1) <= self.tol and _steep(low, below, middle):
                return middle
            if height < 1:
                low, below = middle, height
                above = 1 + (above - 1) / 2 if side < 0 and math.isfinite(above) else above
                side = -1
            else:
                high, above = middle, height
                below = 1 - (1 - below) / 2 if side > 0 else below
                side = 1
        return high


def _steep(low: float, below: float, distance: float) -> bool:
    """Whether the height rises to 1 at a distance about as a straight line from 0 would, not onto a plateau of 1."""
    return (1 - below) * distance >= 0.3 * (distance - low)


def _measurement(rays: _Rays, logs: np.ndarray, wanted: int) -> Measurement:
    n, count = rays.objective.num_params, len(logs)
    ball = 0.5 * n * math.log(math.pi) - math.lgamma(0.5 * n + 1)
    base, powers = ball + rays.shape.log_det, n * logs
    weights = np.exp(powers - powers.max())
    value = base + float(powers.max()) + math.log(float(weights.mean()))
    gaussian = base + float(powers.mean() + 0.5 * powers.var(ddof=1))
    effective, error = _trust(powers, gaussian - value)
    few = effective < min(_FEW, 0.5 * count)
    details = {
        "effective_samples": effective,
        "largest_share": float(weights.max() / weights.sum()),
        "mean_log": base + float(powers.mean()),
        "mean_log_error": float(powers.std(ddof=1)) / math.sqrt(count),
        "gaussian": gaussian,
        "effective_radius": math.exp((value - ball) / n),
        "radii": np.array(rays.radii),
        "capped": rays.capped / count,
        "loss": rays.loss,
        "cutoff": rays.rim,
        "max_radius": rays.reach,
        "samples": count,
        "evaluations": rays.evaluations,
    }
    sentence = f"{count} rays, worth {format_number(effective)}."
    if few:
        sentence = (
            f"Dominated by few samples: {count} rays are worth {format_number(effective)}, so the volume is "
            "probably underestimated; mean_log is a lower bound."
        )
    if rays.capped:
        sentence += f" {rays.capped} rays ended at max_radius before they met the rim."
    state = State.NOT_CONVERGED if few else State.ESTIMATE
    if count < wanted:
        state, sentence = State.OUT_OF_BUDGET, f"The budget allowed {count} of {wanted} rays. {sentence}"
    error = math.hypot(error, n * rays.tol)
    return answer(_NAME, value, sentence, error=error, state=state, details=details)


def _trust(powers: np.ndarray, gap: float) -> tuple[float, float]:
    """Effective number of samples, and the standard error of the logarithm of the mean of exp(powers).

    The weights that were drawn know nothing of larger ones that were not, so each number is also computed as if the
    powers were normal with the variance seen, and the worse one is taken. Where that error exceeds 1 the linear theory
    is meaningless; the distance to the normal extrapolation takes its place, or the spread where that is larger.
    """
    count, variance = len(powers), float(powers.var(ddof=1))
    weights = np.exp(powers - powers.max())
    seen = float(weights.sum() ** 2 / (weights**2).sum())
    spread = math.sqrt(max(1 / seen - 1 / count, 0.0) * count / (count - 1))
    if_normal = math.sqrt(math.expm1(min(variance, 500.0)) / count)
    error = max(spread, min(if_normal, max(abs(gap), math.sqrt(variance)) + spread))
    return max(min(seen, count * math.exp(-min(variance, 500.0))), 1.0), error
