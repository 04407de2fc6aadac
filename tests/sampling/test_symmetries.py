"""Symmetries found in modules, verified, and divided out."""

import itertools
import math

import pytest
import torch
from torch import nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.sampling.diagnostics import rhat
from geartrain.sampling.symmetries import find_symmetries


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.up, self.down, self.last = (
            nn.Linear(3, 4),
            nn.Linear(4, 6),
            nn.Linear(6, 4),
            nn.Linear(4, 2),
        )

    def forward(self, x):
        h = self.first(x)
        return self.last(torch.tanh(h + self.down(torch.relu(self.up(h)))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 4, 3), nn.Linear(4 * 3, 2)

    def forward(self, x):
        x = nn.functional.max_pool1d(torch.nn.functional.leaky_relu(self.conv(x)), 2)
        return self.head(x.view(x.size(0), -1))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(self.a(x)) if x.sum() > 0 else self.b(-self.a(x))


def objective_of(model, *shape, outputs=2, seed=0):
    torch.manual_seed(seed)
    model = model.double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    x = torch.randn(6, *shape, dtype=torch.float64)
    return Objective(model, nn.functional.mse_loss, (x, torch.zeros(6, outputs, dtype=torch.float64)))


def mlp(activation, *widths):
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


def cnn(*middle):
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        *middle,
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 2),
    )


SUBJECTS = {
    "tanh": (lambda: mlp(nn.Tanh, 3, 5, 2), (3,), [(5, True, True, False)]),
    "relu": (lambda: mlp(nn.ReLU, 3, 5, 4, 2), (3,), [(5, True, False, True), (4, True, False, True)]),
    "gelu": (lambda: mlp(nn.GELU, 3, 5, 2), (3,), [(5, True, False, False)]),
    "cnn": (lambda: cnn(nn.ReLU()), (1, 8, 8), [(3, True, False, True), (4, True, False, True)]),
    "odd cnn": (lambda: cnn(nn.Tanh()), (1, 8, 8), [(3, True, False, False), (4, True, False, True)]),
    "residual": (Residual, (3,), [(6, True, False, True)]),
    "view": (Flat, (1, 8), [(4, True, False, True)]),
    "product": (
        lambda: nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)),
        (1,),
        [(1, False, True, True)],
    ),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_groups_are_found_and_hold(name):
    make, shape, wanted = SUBJECTS[name]
    objective = objective_of(make(), *shape)
    before = objective.parameters()
    found = find_symmetries(objective)
    assert [(g.size, g.permutation, g.sign, g.scale) for g in found.groups] == wanted
    assert torch.equal(objective.parameters(), before)
    positions = torch.randn(3, 2, objective.num_params, generator=torch.Generator().manual_seed(1)).double()
    other = found.scramble(positions, torch.Generator().manual_seed(2))
    assert (other - positions).abs().max() > 0.1
    for a, b in zip(positions.flatten(0, 1), other.flatten(0, 1), strict=True):
        # Scalings by up to exp(2) and sums over at most 16 terms: a few hundred units in the last place.
        torch.testing.assert_close(objective.outputs(a), objective.outputs(b), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_copy_has_the_same_canonical_form_and_the_same_function(name):
    make, shape, _ = SUBJECTS[name]
    objective = objective_of(make(), *shape)
    found = find_symmetries(objective)
    g = torch.Generator().manual_seed(3)
    positions = torch.randn(4, 5, objective.num_params, generator=g).double()
    copies = found.scramble(positions, g)
    reference = torch.randn(objective.num_params, generator=g).double()
    first, second = found.canonical(positions, reference), found.canonical(copies, reference)
    torch.testing.assert_close(first, second, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.canonical(first, reference), first, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.invariants(positions), found.invariants(copies), rtol=1e-7, atol=1e-9)
    for a, b in zip(positions[0], first[0], strict=True):
        torch.testing.assert_close(objective.outputs(a), objective.outputs(b), rtol=1e-10, atol=1e-10)


def test_canonical_form_is_the_closest_copy():
    # Brute force over all 3! x 2^3 copies of a network with three tanh units.
    objective = objective_of(mlp(nn.Tanh, 2, 3, 2), 2)
    found = find_symmetries(objective)
    group = found.groups[0]
    g = torch.Generator().manual_seed(0)
    position, reference = torch.randn(2, objective.num_params, generator=g).double()
    copies = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product([1.0, -1.0], repeat=3):
            copy = position.clone()
            s = torch.tensor(signs, dtype=torch.float64)[:, None]
            copy[group.incoming] = position[group.incoming][list(order)] * s
            copy[group.outgoing] = position[group.outgoing][list(order)] * s
            copies.append(copy)
    distances = (torch.stack(copies) - reference).norm(dim=1)
    best = copies[int(distances.argmin())]
    torch.testing.assert_close(found.canonical(position, reference), best)
    assert math.exp(found.log_copies) == pytest.approx(len(copies))


def test_balancing_minimises_the_norm():
    objective = objective_of(mlp(nn.ReLU, 3, 5, 4, 2), 3)
    found = find_symmetries(objective)
    position = objective.parameters()
    canonical = found.canonical(position)
    assert canonical.norm() <= position.norm()
    for g in found.groups:
        torch.testing.assert_close(canonical[g.incoming].norm(dim=1), canonical[g.outgoing].norm(dim=1))


def test_chains_in_copies_of_one_network_are_mixed_after_division():
    objective = objective_of(mlp(nn.Tanh, 2, 4, 1), 2, outputs=1)
    found = find_symmetries(objective)
    g = torch.Generator().manual_seed(0)
    centre = torch.randn(objective.num_params, generator=g).double()
    draws = centre + 0.05 * torch.randn(4, 200, objective.num_params, generator=g).double()
    copies = torch.stack([found.scramble(centre, g) - centre for _ in range(4)])  # one copy per chain
    scrambled = torch.stack([_same(found, centre, c + centre, d) for c, d in zip(copies, draws, strict=True)])
    assert rhat(scrambled).max() > 1.5
    assert rhat(found.canonical(scrambled)).max() < 1.03


def _same(found, centre, copy, draws):
    """The symmetry that takes ``centre`` to ``copy``, applied to draws."""
    (group,) = found.groups
    unit = centre[group.incoming]
    agree = copy[group.incoming] @ unit.T / unit.norm(dim=1) ** 2
    order = (agree.abs() - 1).abs().argmin(1)
    sign = agree.gather(1, order[:, None]).sign()
    out = draws.clone()
    out[:, group.incoming] = draws[:, group.incoming][:, order] * sign
    out[:, group.outgoing] = draws[:, group.outgoing][:, order] * sign
    return out


def test_what_is_left_alone_is_said():
    norm = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    found = find_symmetries(objective_of(norm.eval(), 3))
    assert not found.groups
    assert "The units of 0 are followed by 1 (BatchNorm1d)" in found.sentence
    found = find_symmetries(objective_of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), 3))
    assert "Between 0 and 1 there is no activation" in str(found)
    found = find_symmetries(objective_of(Tied(), 3))
    assert not found.groups
    assert "is shared with another layer" in found.sentence
    found = find_symmetries(objective_of(Branching(), 3))
    assert "cannot be traced" in found.sentence
    model = mlp(nn.Tanh, 3, 4, 2)
    model[0].weight.requires_grad_(False)
    found = find_symmetries(objective_of(model, 3))
    assert "0.weight is not among the variables" in found.sentence
    grouped = nn.Sequential(nn.Conv1d(2, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    assert "grouped convolution" in find_symmetries(objective_of(grouped, 2, 4)).sentence
    assert find_symmetries(objective_of(nn.Linear(3, 2), 3)).sentence.startswith("No symmetries")


def test_what_the_loss_does_not_share_is_dropped():
    # A penalty inside the loss tells the units apart, although the structure says they are alike.
    model = mlp(nn.Tanh, 3, 4, 2).double()
    weights = torch.arange(4, dtype=torch.float64)

    def loss(m, batch):
        return m(batch).square().mean() + (weights * m[0].bias).sum()

    objective = Objective(model, batch_loss=loss, data=[torch.randn(5, 3, dtype=torch.float64)])
    found = find_symmetries(objective)
    assert not found.groups
    assert "told the units of 0 apart" in found.sentence
    assert find_symmetries(objective, verify=False).groups


def test_rows_that_are_not_finite_stay():
    objective = objective_of(mlp(nn.Tanh, 2, 3, 1), 2, outputs=1)
    found = find_symmetries(objective)
    positions = torch.randn(2, 3, objective.num_params).double()
    positions[1, 2] = math.nan
    result = found.canonical(positions)
    assert result[1, 2].isnan().all()
    assert result[0].isfinite().all()
    assert found.invariants(positions).shape == (2, 3, 3)


def test_messages():
    found = find_symmetries(objective_of(mlp(nn.Tanh, 2, 3, 2), 2))
    with pytest.raises(InputError, match=r"shape \(4, 5\); the last axis must be the 17 parameters"):
        found.canonical(torch.zeros(4, 5))
    with pytest.raises(InputError, match=r"reference has shape \(3,\); it must be \(17,\)"):
        found.canonical(torch.zeros(4, 17), torch.zeros(3))
