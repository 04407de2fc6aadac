"""Clusterability: whether the neurons fall into groups that are strongly wired within and weakly between.

The neuron graph of a modular network can be cut cheaply. Sparse graphs cut well whoever made them, so the cut is
compared with those of the same network after its weights were shuffled within each layer.

Ledger: 3.28
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._limits import out_of_budget, stopped
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

NAME = "clusterability"
MOST_UNITS = 6000
DENSE = 400
MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _price(objective: Any, **options: Any) -> Cost:
    units = sum(sum(w.shape) for w in chain_of(objective))
    return Cost(peak_bytes=16 * min(units, MOST_UNITS) ** 2)


@instrument(needs="objective", unit="1", price=_price)
def clusterability(
    objective: Objective,
    *,
    clusters: int = 4,
    shuffles: int = 50,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure how many standard deviations the normalised cut of the neuron graph lies from those of shuffled weights.

    Neurons (inputs included; a convolution's channels) are vertices, |weights| edges, of the longest chain of linear
    and convolutional layers whose sizes fit. ncut = Σ_k cut(A_k, rest) / vol(A_k), minimised by spectral clustering
    (normalised Laplacian, then k-means). z = (ncut - mean) / sd over networks with each layer's weights shuffled.

    **Cost** no pass over the data; 1 + ``shuffles`` eigenproblems of the graph, cubic in its neurons up to 400.

    **Assumes** that activations of neurons have like scales, so that weights are comparable.

    **Misleads** across different ``clusters``, and as a statement about function: wiring is not use. Residual paths
    and attention lie outside the chain. Rescaling ReLU layers changes it.

    Args:
        objective: Whose model.
        clusters: Number of groups, at least 2.
        shuffles: Shuffled networks, at least 8.
        generator: Draws shuffles and starts of k-means; a fixed seed if omitted.
        budget: Limit in time; fewer shuffles are made in it.

    Returns:
        z: below -2 more clusterable than chance, 0 = as shuffled. The error is that of a mean and standard
        deviation from so many shuffles. ``details``: ``ncut``, ``null_mean``, ``null_sd``, ``labels`` (group of each
        neuron), ``units`` (by layer), ``shuffles``, ``p_value`` (rank among shuffles). Not applicable without such
        layers, or with more than 6,000 neurons.

    Raises:
        InputError: A setting is out of range.

    References:
        Filan et al. (2021), arXiv:2103.03386; Shi and Malik (2000), IEEE PAMI 22; von Luxburg (2007), arXiv:0711.0189.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(8, 8, bias=False)
    >>> _ = model.weight.data.copy_(torch.block_diag(*[torch.ones(2, 2)] * 4))
    >>> result = clusterability(gt.Objective(model, torch.nn.functional.mse_loss, (torch.eye(8), torch.eye(8))))
    >>> abs(round(result.details["ncut"], 6)), float(result) < -2
    (0.0, True)
    """
    if clusters < 2 or shuffles < 8:
        raise InputError(
            f"clusters is {clusters} and shuffles {shuffles}; allowed: clusters >= 2 and shuffles >= 8."
        )
    clock = Budget.of(budget).start()
    weights = chain_of(objective)
    units = _units(weights)
    if not weights or sum(units) < 2 * clusters:
        return not_applicable(
            NAME, f"There is no chain of linear or convolutional layers with at least {2 * clusters} neurons."
        )
    if sum(units) > MOST_UNITS:
        return not_applicable(
            NAME,
            f"The graph has {sum(units)} neurons, more than {MOST_UNITS}; measure objective.restrict(...).",
        )
    if all(np.ptp(w) == 0 for w in weights):
        return not_applicable(NAME, "All weights of a layer are alike, so shuffling changes nothing.")
    timed = Budget(deadline=clock.deadline).start()  # no products are spent, so a number of them is no limit
    if (answer := stopped(NAME, objective, timed)) is not None:
        return answer
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    seeds = np.random.default_rng(int(torch.randint(2**31, (1,), generator=source, device=source.device)))
    cut, labels = best_cut(_graph(weights), clusters, seeds)
    null = []
    for _ in range(shuffles):
        if timed.exhausted():
            break
        shuffled = [seeds.permutation(w.ravel()).reshape(w.shape) for w in weights]
        null.append(best_cut(_graph(shuffled), clusters, seeds)[0])
    if len(null) < 8:
        return out_of_budget(NAME)
    return _answer(cut, labels, np.array(null), units, len(null) == shuffles)


def _answer(
    cut: float, labels: np.ndarray, null: np.ndarray, units: list[int], complete: bool
) -> Measurement:
    count, spread = len(null), float(null.std(ddof=1))
    details = {
        "ncut": cut,
        "null_mean": float(null.mean()),
        "null_sd": spread,
        "p_value": float((1 + np.sum(null <= cut)) / (1 + count)),
        "labels": labels,
        "units": tuple(units),
        "shuffles": count,
    }
    if spread <= 1e-9 * max(abs(null.mean()), 1e-9):
        return not_applicable(
            NAME, "All shuffled networks have the same cut, so there is no scale.", **details
        )
    z = (cut - float(null.mean())) / spread
    error = math.sqrt(1 / count + z**2 / (2 * (count - 1)))
    sentence = f"The normalised cut is {cut:.3g}, that of {count} shuffles {null.mean():.3g} ± {spread:.2g}"
    state = State.ESTIMATE if complete else State.OUT_OF_BUDGET
    status = Status(
        state, f"{sentence}." if complete else f"{sentence}; the budget allowed no more shuffles."
    )
    return Measurement(NAME, z, "1", status, error, details=details)


def chain_of(objective: Objective) -> list[np.ndarray]:
    """Absolute weights (outputs, inputs) along the longest run of layers, in order, whose sizes fit one another."""
    chosen = set(objective.layout.names)
    matrices = [
        _matrix(m.weight)
        for name, m in objective.model.named_modules()
        if isinstance(m, MATRICES) and (f"{name}.weight" if name else "weight") in chosen
    ]
    best: list[np.ndarray] = []
    run: list[np.ndarray] = []
    for matrix in matrices:
        matrix = _fitted(run[-1], matrix) if run else matrix
        if run and matrix.shape[1] != run[-1].shape[0]:
            run = []
        run.append(matrix)
        if sum(m.size for m in run) > sum(m.size for m in best):
            best = list(run)
    return best


def _matrix(weight: Tensor) -> np.ndarray:
    absolute = weight.detach().double().abs()
    return (absolute.flatten(2).sum(2) if weight.ndim > 2 else absolute).cpu().numpy()


def _fitted(before: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A linear layer after a flattened convolution sees every channel at many places: their weights are added."""
    channels, inputs = before.shape[0], matrix.shape[1]
    if inputs == channels or inputs % channels or inputs < channels:
        return matrix
    return matrix.reshape(matrix.shape[0], channels, -1).sum(2)


def _units(weights: list[np.ndarray]) -> list[int]:
    return [weights[0].shape[1], *[w.shape[0] for w in weights]] if weights else []


def _graph(weights: list[np.ndarray]) -> np.ndarray:
    """Symmetric adjacency matrix of the chain."""
    ends = np.cumsum([0, *_units(weights)])
    graph = np.zeros((ends[-1], ends[-1]))
    for i, matrix in enumerate(weights):
        rows, columns = slice(ends[i + 1], ends[i + 2]), slice(ends[i], ends[i + 1])
        graph[rows, columns] = matrix
        graph[columns, rows] = matrix.T
    return graph


def best_cut(graph: np.ndarray, clusters: int, seeds: np.random.Generator) -> tuple[float, np.ndarray]:
    """Normalised cut that spectral clustering finds, and the group of each vertex (-1: no edges at all)."""
    degrees = graph.sum(1)
    kept = degrees > 0
    labels = np.full(len(graph), -1)
    if kept.sum() <= clusters:
        return 0.0, labels
    inner, root = graph[np.ix_(kept, kept)], 1 / np.sqrt(degrees[kept])
    vectors = _top_vectors(root[:, None] * inner * root[None, :], clusters, seeds)
    # Rows scaled back by the degrees are the relaxed indicators of the normalised cut (Shi and Malik).
    groups = _k_means(vectors * root[:, None], degrees[kept], clusters, seeds)
    labels[kept] = groups
    return normalised_cut(inner, groups), labels


def normalised_cut(graph: np.ndarray, groups: np.ndarray) -> float:
    """Σ_k cut(A_k, rest) / vol(A_k).

    >>> normalised_cut(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0.0]]), np.array([0, 0, 1]))  # 1/3 + 1/1
    1.3333333333333333
    """
    total = 0.0
    for group in np.unique(groups):
        inside = groups == group
        volume = graph[inside].sum()
        total += float((volume - graph[np.ix_(inside, inside)].sum()) / volume)
    return total


def _top_vectors(matrix: np.ndarray, count: int, seeds: np.random.Generator) -> np.ndarray:
    size = len(matrix)
    if size <= DENSE or count >= size - 1:
        return scipy.linalg.eigh(matrix, subset_by_index=[size - count, size - 1])[1]
    start = seeds.standard_normal(size)  # else it is drawn from the program's own generator
    return scipy.sparse.linalg.eigsh(matrix, k=count, which="LA", v0=start)[1]


def _k_means(
    points: np.ndarray, mass: np.ndarray, clusters: int, seeds: np.random.Generator, starts: int = 8
) -> np.ndarray:
    """Weighted k-means; starts as in k-means++, the best of several."""
    best, least = np.zeros(len(points), dtype=int), math.inf
    for _ in range(starts):
        centres = _spread_out(points, mass, clusters, seeds)
        groups = np.zeros(len(points), dtype=int)
        for sweep in range(50):
            distances = ((points[:, None] - centres[None]) ** 2).sum(2)
            new = distances.argmin(1)
            if sweep and np.array_equal(new, groups):
                break
            groups = new
            for k in np.unique(groups):
                inside = groups == k
                centres[k] = np.average(points[inside], axis=0, weights=mass[inside])
        spread = float(mass @ ((points - centres[groups]) ** 2).sum(1))
        if spread < least:
            best, least = groups, spread
    return best


def _spread_out(
    points: np.ndarray, mass: np.ndarray, clusters: int, seeds: np.random.Generator
) -> np.ndarray:
    chosen = [int(seeds.choice(len(points), p=mass / mass.sum()))]
    for _ in range(clusters - 1):
        gaps = ((points[:, None] - points[chosen][None]) ** 2).sum(2).min(1) * mass
        total = gaps.sum()
        chances = gaps / total if total > 0 else mass / mass.sum()
        chosen.append(int(seeds.choice(len(points), p=chances)))
    return points[chosen].copy()
