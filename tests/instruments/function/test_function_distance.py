"""Function distance: known divergences, known lengths, symmetry, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom
from tests.instruments.function.echoes import answered, covered
from tests.made import linear, normal, objective_of

from geartrain.errors import InputError
from geartrain.instruments import function_distance
from geartrain.instruments.function._said import Said
from geartrain.instruments.function.function_distance import divergences, of_distributions, of_outputs

LEAST = binom.ppf(0.001, 200, 0.95)


def test_divergences_of_known_distributions():
    a, b = 2 * normal(20, 5), 2 * normal(20, 5, seed=1)
    p, q = a.softmax(1).numpy(), b.softmax(1).numpy()
    found = divergences(a, b)
    np.testing.assert_allclose(found["js"], jensenshannon(p, q, axis=1) ** 2, rtol=1e-9)
    np.testing.assert_allclose(found["kl"], (p * np.log(p / q)).sum(1), rtol=1e-9)
    np.testing.assert_allclose(found["total_variation"], abs(p - q).sum(1) / 2, rtol=1e-9)
    far = divergences(torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]]))
    assert far["js"][0] == pytest.approx(math.log(2))


def test_it_is_symmetric_where_it_says_so():
    x, y = normal(40, 3), torch.arange(40) % 3
    first, second = linear(*normal(3, 3).tolist()), linear(*normal(3, 3, seed=1).tolist())
    ahead, back = objective_of(x, y, first), objective_of(x, y, second)
    one, other = function_distance(ahead, second), function_distance(back, first)
    assert one.details["kind"] == "js"
    assert one.value == pytest.approx(other.value, rel=1e-12)
    assert one.details["kl"] == pytest.approx(other.details["kl_reverse"], rel=1e-12)
    assert function_distance(ahead, second, kind="kl").value == one.details["kl"]
    assert 0 < one.value < math.log(2)
    l2 = [function_distance(o, m, kind="l2").value for o, m in ((ahead, second), (back, first))]
    assert l2[0] == pytest.approx(l2[1], rel=1e-12)
    assert one.cost.forwards == function_distance.spec.price(ahead).forwards == 2


def test_shifting_all_logits_changes_no_distribution():
    x, y = normal(40, 3), torch.arange(40) % 3
    model = linear(*normal(3, 3).tolist(), bias=[0.0, 0.0, 0.0])
    shifted = linear(*model.weight.tolist(), bias=[5.0, 5.0, 5.0])
    assert function_distance(objective_of(x, y, model), shifted).value < 1e-12
    assert function_distance(objective_of(x, y, model), shifted, kind="l2").value > 0.5


@pytest.mark.parametrize(("turn", "truth"), [(0.0, 0.0), (math.pi / 2, math.sqrt(2)), (math.pi, 2.0)])
def test_rotated_outputs(turn, truth):
    c, s = math.cos(turn), math.sin(turn)
    x = normal(30, 2)
    objective = objective_of(x, x, linear([1.0, 0.0], [0.0, 1.0]))
    assert function_distance(objective, linear([c, -s], [s, c])).value == pytest.approx(truth, abs=1e-9)


def test_coverage_of_lengths():
    # f = a·x, g = b·x with x of unit covariance: |a - b| / √(½|a|² + ½|b|²).
    a, b = [1.0, 2.0, 0.0], [1.0, 0.0, 1.0]
    truth = math.sqrt(5 / (0.5 * 5 + 0.5 * 2))
    model, other = linear(a), linear(b)
    results = []
    for seed in range(200):
        x = normal(100, 3, seed=seed)
        rows = np.arange(100), np.zeros(100, dtype=int)
        results.append(
            of_outputs(*(Said("unjudged", m(x).detach(), None, None, *rows) for m in (model, other)))
        )
    assert covered(results, truth) >= LEAST


def test_coverage_of_divergences():
    x = normal(50_000, 2, seed=999)
    model, other = linear([1.0, 0.0], [0.0, 1.0]), linear([0.0, 1.0], [1.0, 0.5])
    truth = divergences(model(x).detach(), other(x).detach())["js"].mean()
    results = []
    for seed in range(200):
        x = normal(80, 2, seed=seed)
        pair = [answered(m(x).detach(), (x[:, 0] > 0).long()) for m in (model, other)]
        results.append(of_distributions(*pair, "js"))
    assert covered(results, truth) >= LEAST


def test_refusals():
    objective = objective_of(normal(20, 2), normal(20, 1))
    with pytest.raises(InputError, match="kind is 'l1'; allowed"):
        function_distance(objective, objective.parameters(), kind="l1")
    assert "use kind='l2'" in function_distance(objective, objective.parameters(), kind="js").status.sentence
    assert function_distance(objective, objective.parameters()).exact
    nothing = linear([0.0, 0.0])
    zero = objective_of(normal(20, 2), normal(20, 1), nothing)
    assert "zero everywhere" in function_distance(zero, nothing).status.sentence
