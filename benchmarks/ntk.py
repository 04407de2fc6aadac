"""The tangent kernel by layers against the Jacobian and its product with itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from _bench import Bench, Table, one_thread
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

import geartrain as gt
from geartrain._torch import ntk

TITLE = "Empirical neural tangent kernel"


class Words(nn.Module):
    """A language model of one block, whose last place is the output."""

    def __init__(self, vocabulary: int = 65, width: int = 64, places: int = 32) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(places, width)
        self.norm, self.mix, self.out = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, words: Tensor) -> Tensor:  # noqa: D102
        hidden = self.token(words) + self.place(torch.arange(words.shape[1], device=words.device))
        query, key, value = self.mix(self.norm(hidden)).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.out(mixed)
        hidden = hidden + self.narrow(nn.functional.gelu(self.widen(hidden)))
        return self.head(hidden[:, -1])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
    )  # fmt: skip


def by_jacobian(model: nn.Module, inputs: Tensor, kind: str) -> Callable[[], Tensor]:
    """What people write with torch.func: all rows by vmap(jacrev), then the product."""
    params = {k: v.detach() for k, v in model.named_parameters()}

    def outputs(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, values, (x[None],))[0]

    def kernel() -> Tensor:
        parts = vmap(jacrev(outputs), (None, 0))(params, inputs).values()
        result: Tensor | None = None
        for part in parts:  # parameter by parameter, as the tutorial of torch.func does, to spare memory
            rows = part.flatten(2)
            if kind == "sum":
                term = rows.flatten(1) @ rows.flatten(1).T
            else:
                flat = rows.flatten(0, 1)
                term = (flat @ flat.T).view(*rows.shape[:2], *rows.shape[:2])
            result = term if result is None else result + term
        assert result is not None  # every model here has parameters
        return result

    return kernel


def run(bench: Bench) -> None:
    torch.manual_seed(0)
    cases = {
        "MLP 784-256-256-10, 100 samples": (mlp(), torch.randn(100, 784), 50.0),
        "CNN 2 x convolution, 200 samples": (cnn(), torch.randn(200, 1, 28, 28), 1.8),
        "transformer block, 50 sequences of 32": (Words(), torch.randint(65, (50, 32)), None),
    }
    table = bench.table(
        "Time of the Jacobian's route over geartrain's",
        [
            "network",
            "kernel",
            "ratio",
            "seconds, geartrain",
            "error (float64)",
            "memory said",
            "Jacobian",
            "goal",
        ],
    )
    table.note(
        "Error: relative to the Jacobian's product in float64 on the first twenty samples. Memory: what the price says "
        "beforehand, against the Jacobian alone."
    )
    table.note(
        "The transformer has few parameters and 32 places: there the product of the rows is most of the work, which "
        "both sides share, and its table of positions takes rows of the Jacobian on ours. The gain is memory."
    )
    with one_thread():
        for label, (model, inputs, goal) in cases.items():
            inputs = inputs[:10] if bench.quick else inputs
            for kind in ("full", "sum"):
                _measure(bench, table, label, model, inputs, kind, goal)


def _measure(
    bench: Bench, table: Table, label: str, model: nn.Module, inputs: Tensor, kind: str, goal: float | None
) -> None:
    labels = torch.arange(len(inputs)) % 10
    objective = gt.Objective(model, nn.functional.cross_entropy, (inputs, labels))
    sides = {
        "geartrain": lambda: ntk.kernel(objective, kind),  # type: ignore[arg-type]
        "jacobian": by_jacobian(model, inputs, kind),
    }
    timing = bench.paired(f"{label}, {kind}", sides, base="geartrain", repeats=5)
    size = 4 * len(inputs) * 10 * objective.num_params / 2**20
    met = None if goal is None or kind == "sum" else float(timing["jacobian"]) >= goal
    error = _error(model, inputs[:20], kind)
    said = timing.results["geartrain"].bytes / 2**20
    table.row(
        label, kind, timing["jacobian"], timing.median("geartrain"), error, f"{said:.0f} MB", f"{size:.0f} MB",
        "" if goal is None or kind == "sum" else f"{goal:g}: {bench.goal(met)}",
    )  # fmt: skip
    bench.keep(
        f"{label}, {kind}", {"error": error, "ratio": float(timing["jacobian"]), "bytes": said * 2**20}
    )


def _error(model: nn.Module, inputs: Tensor, kind: str) -> float:
    import copy

    wide = copy.deepcopy(model).double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    truth = by_jacobian(wide, inputs, kind)()
    objective = gt.Objective(wide, nn.functional.cross_entropy, (inputs, torch.arange(len(inputs)) % 10))
    found = ntk.kernel(objective, kind)  # type: ignore[arg-type]
    assert found is not None  # no budget was set
    return float((found.matrix - truth).norm() / truth.norm())
