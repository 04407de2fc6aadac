"""R-hat in three spaces: y = a b x, networks, objectives of every kind."""

import pytest
import torch
from torch import nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.sampling import FunctionPotential, sample
from geartrain.sampling.function_space import outputs, three_spaces
from geartrain.sampling.symmetries import find_symmetries
from geartrain.sampling.truths import ProductPosterior


def product_objective():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    x = torch.ones(4, 1, dtype=torch.float64)
    return Objective(model, nn.functional.mse_loss, (x, x.clone()))


def test_product_of_two_weights_is_mixed_as_a_function_only():
    # y = a b x with chains in both sign modes: R-hat of a and b about 2, of a b 1, of the canonical a 1.
    truth = ProductPosterior(precision=25.0)
    starts = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    potential = FunctionPotential(truth.energy, 2)
    draws = sample(
        potential, "hmc", chains=4, draws=600, burn_in=100, step_size=0.1, steps=10, start=starts, generator=0
    )
    three = three_spaces(product_objective(), draws)
    raw, canonical, functions = three.worst_rhat
    assert raw > 1.7
    assert canonical < 1.03
    assert functions < 1.03
    assert three.functions.rhat.shape == (4, 1)
    mean, variance = truth.product_moments()
    product = draws.positions.prod(2)
    error = float(three.functions.mcse_mean[0, 0])
    assert abs(float(product.mean()) - mean) < 4 * error
    assert float(product.var()) == pytest.approx(variance, rel=0.2)
    assert "Worst R-hat: " in three.sentence


def mlp_objective(loss=nn.functional.mse_loss, classes=2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, classes)).double()
    x = torch.randn(20, 3, dtype=torch.float64)
    y = (
        torch.randint(classes, (20,))
        if loss is nn.functional.cross_entropy
        else torch.zeros(20, classes).double()
    )
    return Objective(model, loss, (x, y))


def test_verdicts():
    objective = mlp_objective()
    symmetries = find_symmetries(objective)
    g = torch.Generator().manual_seed(0)
    p = objective.num_params
    centre = torch.randn(p, generator=g).double()
    good = centre + 0.01 * torch.randn(4, 1000, p, generator=g).double()
    assert three_spaces(objective, good).sentence.endswith("Mixed in every space.")
    copies = symmetries.scramble(good, g)
    copies[:2] = good[:2] * 1.0
    (group,) = symmetries.groups
    copies[2:] = good[2:]
    copies[2:, :, group.incoming[0]] *= -1
    copies[2:, :, group.outgoing[0]] *= -1
    assert "mixed as functions, and up to symmetry" in three_spaces(objective, copies).sentence
    apart = good.clone()
    apart[0] += 0.1
    assert "Not mixed as functions" in three_spaces(objective, apart).sentence
    assert "outputs on 20 examples" in str(three_spaces(objective, apart))


def test_outputs_are_those_of_the_model():
    objective = mlp_objective()
    positions = torch.randn(2, 3, objective.num_params, generator=torch.Generator().manual_seed(0)).double()
    found = outputs(objective, positions)
    assert found.shape == (2, 3, 20, 2)
    torch.testing.assert_close(found[1, 2], objective.outputs(positions[1, 2]))
    few = outputs(objective, positions, max_examples=5)
    assert few.shape == (2, 3, 5, 2)
    assert bool((few[0, 0][:, None] == found[0, 0]).all(-1).any(1).all())
    new = torch.ones(7, 3).double()
    assert outputs(objective, positions, new).shape == (2, 3, 7, 2)
    halved = outputs(objective, positions, transform=lambda t: t / 2)
    torch.testing.assert_close(halved, found / 2)


def test_classes_are_log_probabilities():
    objective = mlp_objective(nn.functional.cross_entropy, 3)
    positions = torch.randn(2, 3, objective.num_params, generator=torch.Generator().manual_seed(0)).double()
    found = outputs(objective, positions)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 3, 20, dtype=torch.float64))
    torch.testing.assert_close(found[0, 0], objective.outputs(positions[0, 0]).log_softmax(1))
    assert (
        "log-probabilities" in three_spaces(objective, torch.randn(2, 8, objective.num_params).double()).note
    )


def test_objectives_without_outputs_compare_losses_of_examples():
    model = nn.Linear(2, 1).double()
    objective = Objective(
        model,
        batch_loss=lambda m, batch: m(batch["x"]).square().mean(),
        data={"x": torch.randn(6, 2).double()},
    )
    positions = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    found = outputs(objective, positions)
    assert found.shape == (2, 5, 6)
    wanted = (objective.batches[0]["x"] @ positions[0, 0, :2] + positions[0, 0, 2]) ** 2
    torch.testing.assert_close(found[0, 0], wanted)
    assert "losses of single examples on 6" in three_spaces(objective, positions).note


def test_function_alone():
    objective = product_objective()
    symmetries = find_symmetries(objective)
    draws = torch.randn(4, 50, 2).double()
    three = three_spaces(None, draws, function=lambda w: w.prod(1), symmetries=symmetries)
    assert three.functions.rhat.shape == ()


def test_messages():
    with pytest.raises(InputError, match="both function= and symmetries= must be given"):
        three_spaces(None, torch.zeros(4, 10, 2))
    with pytest.raises(InputError, match=r"shape \(4, 10, 3\); they must be \(chains, draws, 2\)"):
        outputs(product_objective(), torch.zeros(4, 10, 3))

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x):
            return self.layer(x), x

    objective = Objective(
        Pair(), lambda out, y: (out[0] - y).square().mean(), (torch.ones(3, 2), torch.ones(3, 1))
    )
    with pytest.raises(InputError, match="returns a tuple, not one tensor"):
        outputs(objective, torch.zeros(1, 4, 3))
