r"""More training data can make the test loss worse: sample-wise double descent.

**Question** Is there a range in which adding examples to the training set raises the test loss of the same model
trained in the same way? And does it still, if the model is regularised well or stopped early?

**Protocol** Three models of fixed size, training sets that grow by adding examples to the ones already there.
(a) Least squares of least norm with p = 100 Gaussian features (toy `ridgeless-regression`, noise variance 1/4), n = 25
to 400, 64 draws; excess risk. (b) The same on N = 100 random relu features of 30 inputs (toy `random-features`, noise
0.3). Where theory says that the risk is lowest below the threshold (n₁ = 50 in both), and at the largest n of the grid
that lies ten below the threshold (n₂ = 90), medians over draws are compared; the threshold itself, n = 100, where the
mean is infinite, decides nothing. (c) A network 64-32-10 on digits with 20 % wrong labels, squared error, 4,000 steps
of Adam on all examples, n = 32 to 1,024, 8 seeds, each with its own sample and noise. There is no theory for it: the
pair n₁ < n₂ with the largest rise is chosen on half of the seeds and judged on the other half, both ways round.

**Control** The best ridge for every n (known in closed form, or from the theory of random features), and every
training stopped at its best moment (an oracle that sees the test loss). For these the *largest* rise over all pairs
is judged, chosen as in (c): more data must not hurt anywhere.

**Pitfalls** Near n = p the mean is carried by rare draws, hence medians. The largest of many differences is positive
by chance, hence the halves. The budget of (c) is fixed, not training to the end: networks with much data are stopped
short of zero loss, and a longer budget raises the losses beyond the threshold. Rising test *loss* need not be rising
test *error*: (e) looks at that. The control of (a) is known to be quiet from the literature; it checks the experiment.

**Literature** Nakkiran 2019, arXiv 1912.07242: more data can hurt linear regression, with the closed form used here;
Nakkiran et al. 2019, arXiv 1912.02292: in networks the region moves with model size and label noise; Nakkiran,
Venkat, Kakade, Ma 2020, arXiv 2003.01897: optimal ridge is monotone in n for isotropic inputs; Mei, Montanari 2019,
arXiv 1908.05355: the curve of random features; Loog et al. 2020, arXiv 2004.04328: the history of the peak.

**What would change our mind** A median risk at n₂ that is not above that at n₁; or a rise of the same size under the
best ridge or the best stopping time, for then interpolation would not be its cause.

Ledger: 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from geartrain import claims
from geartrain.claims import intervals
from geartrain.claims.generalisation import _noisy_digits as net
from geartrain.claims.generalisation import _random_relu as relu
from geartrain.claims.generalisation._curves import crossed_rise
from geartrain.claims.generalisation._spectral_fits import Decomposition
from geartrain.zoo.risk.random_features import RandomFeatures
from geartrain.zoo.risk.ridgeless_regression import RidgelessRegression

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = 100
"""Features of both linear models."""
COUNTS = (25, 35, 50, 65, 80, 90, 100, 110, 130, 170, 250, 400)
LOW, HIGH = COUNTS.index(50), COUNTS.index(90)
"""Where theory has the minimum, and ten below the threshold."""
TIMES = np.geomspace(0.03, 1e4, 45)
FRESH = 500
"""Test inputs of random features."""
DIGITS = (32, 64, 96, 128, 160, 200, 240, 320, 480, 640, 820, 1024)
NETS = {
    "full": {"width": 32, "steps": 4000, "counts": DIGITS},
    "quick": {"width": 32, "steps": 1500, "counts": (32, 64, 128, 200, 320, 640)},
    "test": {"width": 16, "steps": 60, "counts": (32, 128)},
}
DRAWS = {"full": 8, "quick": 8, "test": 2}
CHECKS = 25
"""Moments at which a training may be stopped."""
TRIVIAL = math.log(1.2)


class DoubleDescentSample(claims.Claim):
    """Three models of fixed size, and more and more data."""

    title: ClassVar = "More data can hurt"
    statement: ClassVar = (
        "There is a range in which more training data makes the test loss of an unregularised model worse."
    )
    source: ClassVar = claims.Source(
        "003_16f2f60ef2514791.txt", ("The last occurs as more training data is added.",)
    )
    ledger: ClassVar = ("3.4",)
    changed: ClassVar = (
        "The controls may fall as far as they like and must only not rise: optimally tuned ridge is monotone, so that "
        "the band ± ln 1.2 first written down would have called a falling risk a failure. Random features and the "
        "network have parts of their own; test error was added as a side question. A pilot (seeds 1000 to 1003, "
        "widths 16 and 32) fixed step size, 4,000 steps and the range of n."
    )
    seeds: ClassVar = 8
    minutes: ClassVar = 2.0
    scope: ClassVar = (
        "Least squares of least norm, 100 isotropic Gaussian features or 100 random relu features of 30 inputs, linear "
        "teacher with noise, 25 to 400 examples; a network 64-32-10 with relu, squared error, digits with 20 % wrong "
        "labels, 32 to 1,024 examples, 4,000 full-batch steps of Adam at 0.003."
    )
    parts: ClassVar = {
        "a": claims.Part(
            "Least norm, Gaussian features: ln(median excess risk at n = 90 / at n = 50)",
            claims.above(math.log(1.5), control=(-math.inf, TRIVIAL)), axis="ln risk ratio",
        ),
        "b": claims.Part(
            "Least norm, random features: ln(median excess risk at n = 90 / at n = 50)",
            claims.above(math.log(1.5), control=(-math.inf, TRIVIAL)), axis="ln risk ratio",
        ),
        "c": claims.Part(
            "Digits network: ln of the largest rise of the test loss with n, chosen on other seeds",
            claims.above(math.log(1.5), control=(-math.inf, TRIVIAL)), axis="ln loss ratio",
        ),
        "d": claims.Part(
            "Largest distance, over the eleven n off the threshold, of the mean excess risk from the closed form, in "
            "standard errors", claims.below(3.0), bears=False, axis="standard errors",
        ),
        "e": claims.Part(
            "Digits network: ln of the largest rise of the test error with n, chosen on other seeds",
            claims.above(0.0, control=None), bears=False, axis="ln error ratio",
        ),
    }  # fmt: skip

    def cells(self, scale: str) -> list[dict[str, Any]]:
        """Both linear models, and a network for each number of examples."""
        size = NETS.get(scale, NETS["full"])
        draws = DRAWS.get(scale, 8)
        linear = [{"model": m, "draws": draws} for m in ("Gaussian features", "random features")]
        return linear + [
            {"model": "digits network", "samples": n, "width": size["width"], "steps": size["steps"]}
            for n in size["counts"]
        ]

    def compute(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """Risks of a few draws a seed over all n; or networks at one n."""
        if config["model"] == "digits network":
            return train(config["samples"], config["width"], config["steps"], seeds)
        one = gaussian_draw if config["model"] == "Gaussian features" else random_draw
        found = [[one(_generator(seed, draw)) for draw in range(config["draws"])] for seed in seeds]
        values = np.array(found, dtype=np.float32)  # seed, draw, kind, n
        kinds = ("least norm", "best ridge", "best time")
        return {kind: (("seed", "draw", "n"), values[:, :, k]) for k, kind in enumerate(kinds)}

    def analyse(self, results: claims.Results) -> dict[str, claims.Finding]:
        """Rises of medians between fixed places, and rises chosen on other seeds."""
        findings = {}
        for part, model in (("a", "Gaussian features"), ("b", "random features")):
            cell = results.one(model=model)
            risk, ridge, stopped = (_pooled(cell[k]) for k in ("least norm", "best ridge", "best time"))
            control = {"best ridge": _rise(ridge), "best stopping time": _rise(stopped)}
            numbers = {
                "at the threshold, n = 100 over n = 50": intervals.log_ratio(
                    risk[:, COUNTS.index(100)], risk[:, LOW]
                ),
                "draws whose own risk rises": intervals.proportion(risk[:, HIGH] > risk[:, LOW]),
                "theory": claims.Effect.exact(math.log(theory(model)[HIGH] / theory(model)[LOW])),
            }
            findings[part] = claims.Finding(
                intervals.log_ratio(risk[:, HIGH], risk[:, LOW]), control, numbers
            )
        nets = results.where(model="digits network")
        final, best, error = (np.stack([c[k] for c in nets], 1) for k in ("loss", "best", "error"))
        findings["c"] = claims.Finding(
            _rise(final),
            {"best stopping time": _rise(best)},
            {"test loss with most over fewest": _ends(final)},
        )
        findings["d"] = claims.Finding(claims.Effect.exact(farthest(results)))
        findings["e"] = claims.Finding(_rise(error))
        return findings

    def draw(self, results: claims.Results, figure: Figure) -> None:
        """Risk over n for the three models: every draw, medians, theory, controls."""
        panels = figure.subplots(1, 3)
        for axes, model in zip(panels, ("Gaussian features", "random features"), strict=False):
            cell, n = results.one(model=model), np.array(COUNTS)
            risk = _pooled(cell["least norm"])
            axes.plot(n, risk.T, ".", color="0.8", ms=2.5, zorder=1)
            axes.plot([], [], ".", color="0.7", label="one draw")
            axes.plot(n, np.median(risk, 0), "-o", color="C0", ms=4, label="median, least norm")
            ridge = np.median(_pooled(cell["best ridge"]), 0)
            axes.plot(n, ridge, "--s", color="C2", ms=3.5, label="median, best ridge")
            for side in (n < SIZE, n > SIZE):
                axes.plot(n[side], np.array(theory(model))[side], ":", color="k", lw=1.5)
            told = "limit of theory" if model == "random features" else "exact mean"
            axes.plot([], [], ":", color="k", label=told)
            axes.set(
                xscale="log", yscale="log", xlabel="examples n", ylabel="excess risk (ℓ)",
                title=f"100 {model}", ylim=(0.03, 1e6),
            )  # fmt: skip
            axes.set_yticks([0.1, 1, 10, 100, 1000], ["0.1", "1", "10", "100", "1000"])
            _draw_ticks(axes, (25, 50, 100, 200, 400))
            axes.legend(loc="upper left", handlelength=1.6, borderaxespad=0.2)
        cells = results.where(model="digits network")
        axes, n = panels[2], [c["samples"] for c in cells]
        for kind, color, style, label in (
            ("loss", "C0", "-o", "median, after all steps"), ("best", "C2", "--s", "median, best moment"),
        ):  # fmt: skip
            values = np.stack([c[kind] for c in cells], 1)
            axes.plot(n, values.T, color=color, lw=0.5, alpha=0.45)
            axes.plot(n, np.median(values, 0), style, color=color, ms=4, label=label)
        axes.plot([], [], color="0.6", lw=0.5, label="one seed")
        title = f"digits network 64-{cells[0]['width']}-10"
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="examples n",
            ylabel="test loss (ℓ)",
            title=title,
            ylim=(0.02, 1),
        )
        axes.set_yticks([0.03, 0.1, 0.3], ["0.03", "0.1", "0.3"])
        _draw_ticks(axes, (32, 100, 300, 1000))
        axes.legend(loc="upper right")


def gaussian_draw(generator: torch.Generator) -> np.ndarray:
    """Excess risks (least norm, best ridge, best time) over all n of one growing data set, shape (3, n)."""
    toy = RidgelessRegression(features=SIZE)
    beta = toy.reference[0]
    x = _normal(generator, max(COUNTS), SIZE)
    y = x @ beta + math.sqrt(toy.noise) * _normal(generator, max(COUNTS))
    found = []
    for n in COUNTS:
        fit = Decomposition.of(x[:n])
        paths = fit.flow(y[:n], TIMES) - beta[:, None]
        ridge = fit.ridge(y[:n], toy.noise * SIZE / toy.signal / n) - beta
        least = fit.least_norm(y[:n]) - beta
        found.append((least @ least, ridge @ ridge, (paths**2).sum(0).min()))
    return np.array(found).T


def random_draw(generator: torch.Generator) -> np.ndarray:
    """The same on random features, as theory has them: rows of W of norm 1, the mean feature taken off."""
    toy = RandomFeatures(features=SIZE, samples=max(COUNTS))
    x, y = toy.problem(generator)
    rows, fresh = relu.unit_rows(toy, generator, SIZE), toy.inputs(generator, FRESH)
    phi, asked, truth = relu.lifted(toy, x, rows), relu.lifted(toy, fresh, rows), fresh @ toy.teacher
    found = []
    for n in COUNTS:
        fit = Decomposition.of(phi[:n])
        fits = np.column_stack(
            [
                fit.least_norm(y[:n]),
                fit.ridge(y[:n], relu.best_ridge(n, SIZE, toy.noise)),
                fit.flow(y[:n], TIMES * 100),
            ]
        )
        risks = ((asked @ fits - truth[:, None]) ** 2).mean(0)
        found.append((risks[0], risks[1], risks[2:].min()))
    return np.array(found).T


def train(samples: int, width: int, steps: int, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Test loss and error at the end, the lowest test loss on the way, and the training loss."""
    data = net.NoisyDigits.draw(seeds, samples, 0.2, "squared error")
    nets = data.train(seeds, width, "squared error", optimizer="adam", lr=0.003)
    losses, errors = data.follow(nets, steps, CHECKS)
    return {
        "loss": losses[:, -1],
        "best": losses.min(1),
        "error": errors[:, -1],
        "fitted": data.fitted(nets)[0],
    }


def theory(model: str) -> list[float]:
    """Mean excess risk over n without ridge: exact (infinite at the threshold), or the limit of large dimensions."""
    if model == "random features":
        return [relu.theory(n, SIZE, RandomFeatures.noise) for n in COUNTS]
    return [math.inf if n == SIZE else RidgelessRegression(features=SIZE, samples=n).risk for n in COUNTS]


def farthest(results: claims.Results) -> float:
    """Largest distance of mean risks from the closed form, in standard errors."""
    risk = _pooled(results.one(model="Gaussian features")["least norm"])
    off = np.array(COUNTS) != SIZE
    error = risk.std(0, ddof=1) / math.sqrt(len(risk))
    return float((np.abs(risk.mean(0) - theory("Gaussian features")) / error)[off].max())


def _pooled(values: np.ndarray) -> np.ndarray:
    """Draws of all seeds in one row, in double precision."""
    return values.reshape(-1, values.shape[-1]).astype(float)


def _rise(curves: np.ndarray) -> claims.Effect:
    return intervals.mean(crossed_rise(curves))


def _ends(curves: np.ndarray) -> claims.Effect:
    return intervals.mean(np.log(curves[:, -1] / curves[:, 0]))


def _generator(seed: int, draw: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * int(seed) + draw)


def _normal(generator: torch.Generator, *shape: int) -> np.ndarray:
    return torch.randn(*shape, generator=generator, dtype=torch.float64).numpy()


def _draw_ticks(axes: Any, places: Sequence[int]) -> None:
    axes.set_xticks(places, [str(p) for p in places])
    axes.minorticks_off()


CLAIM = DoubleDescentSample
