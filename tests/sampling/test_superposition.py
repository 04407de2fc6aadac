"""The toy model of superposition: closed-form loss, polygons, ranks."""

import pytest
import torch

from geartrain.errors import InputError
from geartrain.sampling.superposition import polygon, superposition_energy, superposition_loss

TABLE = [  # features, corners, unused, length, bias, loss, coefficient
    (5, 5, "negative", 1.17046, -0.28230, 0.0158256, 7),
    (6, 6, "negative", 1.32053, -0.61814, 0.0481924, 8.5),
    (6, 5, "negative", 1.17046, -0.28230, 0.0687436, 7),
    (6, 5, "positive", 1.17046, -0.28230, 0.0617991, 8.5),
    (7, 7, "negative", 1.44839, -0.96691, 0.0832712, 10),
    (7, 6, "negative", 1.32053, -0.61814, 0.0889268, 8.5),
    (7, 6, "positive", 1.32053, -0.61814, 0.0838248, 10),
    (8, 8, "negative", 1.55045, -1.29119, 0.1155459, 11.5),
    (4, 4, "negative", 1.0, 0.0, 0.0, 5.5),
    (5, 4, "negative", 1.0, 0.0, 1 / 15, 6.5),
    (6, 4, "negative", 1.0, 0.0, 1 / 9, 7.5),
]


def flat(point):
    return torch.cat([point.weight.flatten(), point.bias])


@pytest.mark.parametrize("row", TABLE, ids=lambda r: f"{r[0]}-{r[1]}-{r[2]}")
def test_polygons_of_the_table(row):
    features, corners, unused, length, bias, loss, coefficient = row
    point = polygon(features, corners, unused)
    assert point.length == pytest.approx(length, abs=6e-6)
    assert point.used_bias == pytest.approx(bias, abs=6e-6)
    assert point.loss == pytest.approx(loss, abs=6e-8)
    assert point.coefficient == (coefficient, 1)
    position = flat(point).requires_grad_()
    gradient = torch.autograd.grad(superposition_energy(position, features), position)[0]
    if corners > 4:  # at four corners the loss has a kink in its slope only through what is not at zero
        assert float(gradient.abs().max()) < 1e-10


@pytest.mark.parametrize("row", [r for r in TABLE if r[1] > 4], ids=lambda r: f"{r[0]}-{r[1]}-{r[2]}")
def test_coefficient_is_half_the_rank_of_the_hessian(row):
    features, corners, unused, *_, coefficient = row
    position = flat(polygon(features, corners, unused))
    hessian = torch.autograd.functional.hessian(lambda p: superposition_energy(p, features), position)
    eigenvalues = torch.linalg.eigvalsh(hessian)
    assert float(eigenvalues.min()) > -1e-9
    assert int((eigenvalues > 1e-6).sum()) == 2 * coefficient


@pytest.mark.parametrize("features", [4, 5, 6])
def test_four_corners_grow_as_squares_in_all_but_the_flat_directions(features):
    # The loss has no Hessian there, but K(w + t d)/t^2 has a limit for every d: then the coefficient is half the number
    # of directions in which that limit is positive, all but the rotation and the biases of unused columns.
    point = polygon(features, 4)
    start = flat(point)
    flats = torch.zeros(features - 3, start.numel(), dtype=torch.float64)
    flats[0, : 2 * features] = torch.stack([-point.weight[1], point.weight[0]]).flatten()
    flats[0] /= flats[0].norm()
    for k in range(4, features):
        flats[k - 3, 2 * features + k] = 1
    assert (start.numel() - len(flats)) / 2 == point.coefficient.value

    def growth(directions, t):
        directions = directions - directions @ flats.T @ flats
        directions = directions / directions.norm(dim=1, keepdim=True)
        return (superposition_energy(start + t * directions, features) - point.loss) / t**2

    directions = torch.randn(
        64, start.numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    torch.testing.assert_close(growth(directions, 1e-4), growth(directions, 1e-5), rtol=2e-2, atol=0)
    directions.requires_grad_()
    optimizer = torch.optim.Adam([directions], lr=0.02)
    for _ in range(150):  # looks for the flattest direction
        optimizer.zero_grad()
        value = growth(directions, 1e-4)
        value.sum().backward()
        optimizer.step()
    assert float(value.detach().min()) > 1e-3
    for idle in flats[1:]:
        assert float(superposition_energy(start + 1e-2 * idle, features)) == pytest.approx(
            point.loss, abs=1e-15
        )


def test_loss_is_the_expectation():
    g = torch.Generator().manual_seed(0)
    weight, bias = (
        torch.randn(3, 2, 5, generator=g, dtype=torch.float64),
        torch.randn(3, 5, generator=g).double(),
    )
    weight[2] = 0  # flat lines
    mu = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for w, b, loss in zip(weight, bias, superposition_loss(weight, bias), strict=True):
        total = 0.0
        for i in range(5):
            x = torch.zeros(20_000, 5, dtype=torch.float64)
            x[:, i] = mu
            total += float((x - torch.relu(x @ w.T @ w + b)).square().sum(1).mean()) / 5
        assert float(loss) == pytest.approx(total, rel=1e-7)  # midpoint rule: error of order 1/N^2


def test_derivatives_by_finite_differences():
    position = torch.randn(
        15, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda p: superposition_energy(p, 5), position)
    assert torch.autograd.gradgradcheck(lambda p: superposition_energy(p, 5), position)


def test_symmetry_under_rotation_and_relabelling():
    g = torch.Generator().manual_seed(2)
    weight, bias = torch.randn(2, 5, generator=g, dtype=torch.float64), torch.randn(5, generator=g).double()
    rotation = torch.linalg.qr(torch.randn(2, 2, generator=g, dtype=torch.float64))[0]
    order = torch.randperm(5, generator=g)
    loss = superposition_loss(weight, bias)
    torch.testing.assert_close(superposition_loss(rotation @ weight, bias), loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(superposition_loss(weight[:, order], bias[order]), loss, rtol=1e-12, atol=0)


def test_messages():
    with pytest.raises(InputError, match="4 to 5 corners"):
        polygon(5, 3)
    with pytest.raises(InputError, match="with 4 corners only unused columns with negative bias"):
        polygon(5, 4, "positive")
    with pytest.raises(InputError, match="unused is 'zero'; allowed: 'negative', 'positive'"):
        polygon(6, 5, "zero")
