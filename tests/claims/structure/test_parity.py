"""Networks on the cube: one trained by hand with torch, Fourier coefficients of networks built by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from geartrain.claims.structure import _parity
from geartrain.claims.structure._parity import DIVERGED, NEVER, Nets
from geartrain.zoo.landscapes.parity_composition import TARGETS, ParityComposition

_AB = (((0, 1, 2, 3), 1.0),)
_PAIR = (((0, 1), 1.0),)


def _alone(
    seed: int, sizes: tuple[int, ...], rates: tuple[float, ...], steps: int, batch: int
) -> nn.Sequential:
    """The network of a seed, trained by torch in a plain loop on the same points."""
    start = Nets.fresh(sizes, [seed], bias=0.3)
    modules: list[nn.Module] = []
    for weight, bias in start.layers:
        linear = nn.Linear(weight.shape[2], weight.shape[1])
        linear.weight.data, linear.bias.data = weight[0].clone(), bias[0, 0].clone()
        modules += [linear, nn.ReLU()]
    model = nn.Sequential(*modules[:-1])
    groups = [{"params": m.parameters(), "lr": r} for m, r in zip(modules[::2], rates, strict=True)]
    optimizer = torch.optim.SGD(groups)  # type: ignore[arg-type]
    stream, d, chunk = np.random.default_rng([seed, 0, sizes[0]]), sizes[0], 32
    points = torch.empty(0)
    for step in range(steps):
        if step % chunk == 0:
            bits = np.unpackbits(
                np.frombuffer(stream.bytes(math.ceil(chunk * batch * d / 8)), dtype=np.uint8)
            )
            points = torch.from_numpy(bits[: chunk * batch * d].reshape(chunk, batch, d) * 2.0 - 1).float()
        x = points[step % chunk]
        optimizer.zero_grad()
        (0.5 * (model(x)[:, 0] - x[:, :4].prod(1)) ** 2).mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(("sizes", "rates"), [((6, 10, 1), (0.3, 0.02)), ((6, 8, 5, 1), (0.1, 0.2, 0.05))])
def test_training_is_sgd(sizes: tuple[int, ...], rates: tuple[float, ...]) -> None:
    """Seeds trained side by side have the weights of a plain loop with torch.optim."""
    together = _parity.train(
        Nets.fresh(sizes, [3, 7], bias=0.3), _AB, [3, 7], 6, rates=rates, budget=50, batch=16
    )
    for row, seed in enumerate((3, 7)):
        model = _alone(seed, sizes, rates, 50, 16)
        for (weight, bias), linear in zip(
            together.nets.layers, [m for m in model if isinstance(m, nn.Linear)], strict=True
        ):
            np.testing.assert_allclose(weight[row].numpy(), linear.weight.detach().numpy(), atol=2e-6)
            np.testing.assert_allclose(bias[row, 0].numpy(), linear.bias.detach().numpy(), atol=2e-6)


@pytest.mark.parametrize("target", ["A+B+AB", "C+AB"])
def test_coefficients_of_a_network_built_by_hand(target: str) -> None:
    """It computes the parities exactly: every coefficient is 1 within the sampling of the points."""
    built = ParityComposition(target=target, d=8).net
    row = [torch.from_numpy(a[None]).float() for a in (built.weight, built.bias[None], built.out[None])]
    nets = Nets([(row[0], row[1]), (row[2], torch.full((1, 1, 1), built.shift))])
    terms = tuple((s, 1.0) for s in TARGETS[target])
    found = _parity.train(nets, terms, [0], 8, rates=(0.0, 0.0), budget=3)
    np.testing.assert_array_equal(found.times, 0)
    np.testing.assert_allclose(found.coefficients, 1.0, atol=5 / math.sqrt(2048))


def test_a_seed_does_not_depend_on_its_company() -> None:
    """Alone or beside others, which leave the batch one after another, it learns at the same step."""
    rates = _parity.mean_field(32)
    together = _parity.train(Nets.fresh((8, 32, 1), range(4)), _PAIR, range(4), 8, rates=rates, budget=400)
    alone = _parity.train(Nets.fresh((8, 32, 1), [2]), _PAIR, [2], 8, rates=rates, budget=400)
    assert (together.times > 0).all()
    assert together.times[2, 0] == alone.times[0, 0]
    np.testing.assert_allclose(
        together.nets.layers[0][0][2].numpy(), alone.nets.layers[0][0][0].numpy(), atol=1e-5
    )


def test_frozen_layers_stay_and_are_seen() -> None:
    """Upper layers on frozen parity circuits: the first layer is not touched, and its features are rectified."""
    below = Nets([(torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]]), torch.zeros(1, 1, 2))])
    weight = below.layers[0][0].clone()
    above = Nets([(torch.tensor([[[1.0, 1.0]]]), torch.full((1, 1, 1), -1.0))])  # |u + v| - 1 = uv
    found = _parity.train(above, _PAIR, [0], 2, rates=(0.1,), budget=20, below=below, share=0.999)
    assert found.times.tolist() == [[0]]
    assert torch.equal(below.layers[0][0], weight)


def test_never_and_diverged_are_told_apart() -> None:
    """A budget that is too small gives -1, a step that is too large -2."""
    nets = Nets.fresh((8, 16, 1), [0])
    assert _parity.train(nets, _AB, [0], 8, rates=(1e-4, 1e-4), budget=30).last.tolist() == [NEVER]
    assert _parity.train(nets, _AB, [0], 8, rates=(50.0, 50.0), budget=400).last.tolist() == [DIVERGED]


def test_what_blows_up_has_learnt_nothing() -> None:
    """A hundred times the right function has a coefficient of a hundred, and a loss far above that of 0."""
    built = ParityComposition(target="AB", d=8).net
    out = torch.from_numpy(100 * built.out[None, None]).float()
    first = torch.from_numpy(built.weight[None]).float(), torch.from_numpy(built.bias[None, None]).float()
    nets = Nets([first, (out, torch.full((1, 1, 1), 100 * built.shift))])
    found = _parity.train(nets, _AB, [0], 8, rates=(0.0, 0.0), budget=3)
    assert found.coefficients[0, 0] > 50
    assert found.times.tolist() == [[NEVER]]
