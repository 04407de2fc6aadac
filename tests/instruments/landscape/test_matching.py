"""Exchangeable units: what the trace finds, and assignments against brute force."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from tests.instruments.landscape.systems import network, planted, units_of
from tests.made import normal, same, state_of
from torch import nn

from geartrain.errors import UnsupportedError
from geartrain.instruments._matching import assign, units
from geartrain.instruments._matching.assign import Exchange


def tensors_of(model):
    return {
        n: t.detach() for n, t in [*model.named_parameters(), *model.named_buffers()] if t.is_floating_point()
    }


FOUND = {
    "mlp": ([16, 16], (), {"0.weight"}, {"2.weight"}),
    "cnn": ([8, 6, 7], (), {"4.weight", "7.weight"}, set()),
    "residual": ([6, 6, 12], (), set(), set()),
    "dense": ([6, 5], (), {"first.weight"}, {"second.weight"}),
    "attention": ([12, 20], ("chunk",), set(), set()),
}


@pytest.mark.parametrize("kind", FOUND)
def test_what_is_found(kind):
    model, inputs = network(kind)
    found = units_of(model, inputs)
    sizes, unknown, positive, signed = FOUND[kind]
    assert list(found.sizes.values()) == sizes
    assert found.unknown == unknown

    def makers(groups):
        return {next(u.tensor for u in found.uses[g] if u.made) for g in groups}

    assert makers(found.positive) == positive
    assert makers(found.signed) == signed


@pytest.mark.parametrize("kind", FOUND)
@pytest.mark.parametrize("scales", [False, True])
def test_an_exchange_changes_no_output_but_every_weight(kind, scales):
    model, inputs = network(kind)
    twin, exchanges = planted(model, inputs, scales=scales)
    with torch.no_grad():
        assert float((twin(inputs) - model(inputs)).abs().max()) < 1e-12 * float(model(inputs).abs().max())
    assert sum(e.moved for e in exchanges.values()) > 0.5 * sum(len(e.order) for e in exchanges.values())


@pytest.mark.parametrize("kind", FOUND)
def test_planted_exchanges_are_undone_by_weights(kind):
    model, inputs = network(kind)
    twin, _ = planted(model, inputs)
    groups = units_of(model, inputs)
    found, similarity = assign.match_weights(groups, tensors_of(model), tensors_of(twin))
    assert similarity == pytest.approx(1.0, abs=1e-12)
    back = assign.exchanged(groups, tensors_of(twin), found)
    assert all(torch.equal(back[n], t) for n, t in tensors_of(model).items())


def test_noise_below_half_the_gap_between_units_hides_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 2, bias=False)).double()
    inputs = normal(5, 6)
    rows = torch.cat([model[0].weight, model[2].weight.T], 1).detach()
    gap = float(torch.cdist(rows, rows).add(torch.eye(8) * 9).min())
    # Entries of noise such that a unit moves by less than a quarter of the gap: it stays nearest to itself.
    twin, planted_exchanges = planted(model, inputs, noise=gap / 4 / 8**0.5 / 3)
    found, _ = assign.match_weights(units_of(model, inputs), tensors_of(model), tensors_of(twin))
    for group, exchange in found.items():
        np.testing.assert_array_equal(planted_exchanges[group].order[exchange.order], np.arange(8))


def test_one_layer_is_matched_as_well_as_by_trying_everything():
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double() for _ in range(2))
    groups = units_of(first, normal(4, 3))
    (group,) = groups.sizes
    a, b = tensors_of(first), tensors_of(second)
    _, similarity = assign.match_weights(groups, a, b)

    def cosine(order):
        moved = assign.exchanged(groups, b, {group: Exchange(np.array(order), np.ones(5))})
        names = [n for n in a if groups.of_tensor(n)]
        norms = [sum(float((t[n] ** 2).sum()) for n in names) ** 0.5 for t in (a, b)]
        return sum(float((a[n] * moved[n]).sum()) for n in names) / norms[0] / norms[1]

    best = max(cosine(order) for order in itertools.permutations(range(5)))
    assert similarity == pytest.approx(best, abs=1e-12)


def test_balancing_is_the_point_of_least_norm_and_undoes_scales():
    model, inputs = network("cnn")
    groups = units_of(model, inputs)
    balanced = assign.exchanged(groups, tensors_of(model), assign.balancing(groups, tensors_of(model)))
    for group in groups.positive:
        size = groups.sizes[group]
        square = {True: np.zeros(size), False: np.zeros(size)}
        for use in groups.uses[group]:
            square[use.made] += (assign._rows(balanced[use.tensor], use, size) ** 2).sum(1)
        np.testing.assert_allclose(square[True], square[False], rtol=1e-10)
    source = np.random.default_rng(0)
    scales = {
        g: Exchange(np.arange(groups.sizes[g]), source.lognormal(size=groups.sizes[g]))
        for g in groups.positive
    }
    scaled = assign.exchanged(groups, tensors_of(model), scales)
    again = assign.exchanged(groups, scaled, assign.balancing(groups, scaled))
    for name, tensor in balanced.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-9, atol=1e-12)


def test_the_trace_leaves_the_model_alone():
    model, inputs = network("residual")
    before = state_of(model)
    units_of(model, inputs)
    assert same(before, state_of(model))


def test_frozen_parameters_hold_their_units():
    model, inputs = network("mlp")
    free = frozenset(n for n, _ in model.named_parameters() if n != "0.bias")
    found = units.trace(model, units.call_of(model, (inputs,), {}), free)
    assert [next(u.tensor for u in found.uses[g] if u.made) for g in found.sizes] == ["2.weight"]


class Fed(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.one, self.two, self.body = nn.Linear(4, 6), nn.Linear(6, 2), body

    def forward(self, x, scale=None, flag=True):
        return self.two(self.body(self.one(x)))


HANDLED = {
    "transpose": lambda h: h.transpose(0, 1).relu().permute(1, 0),
    "mean over places": lambda h: h.unsqueeze(1).mean(1),
    "slice of places": lambda h: h.unsqueeze(1)[:, -1],
    "view and back": lambda h: h.view(-1, 1, 6).sigmoid().reshape(-1, 6),
    "number": lambda h: 2.0 * h + 1.0,
    "softmax": lambda h: h.softmax(dim=-1),
}
HELD = {
    "flip": lambda h: h.flip(-1),
    "slice of units": lambda h: torch.cat([h[:, 3:], h[:, :3]], 1),
    "a vector of its own": lambda h: h * torch.arange(6.0).double(),
    "matmul": lambda h: h @ torch.ones(6, 6).double(),
    "cumsum": lambda h: h.cumsum(-1),
}


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, h):
        return self.function(h)


@pytest.mark.parametrize("name", HANDLED)
def test_reshaped_units_are_followed(name):
    torch.manual_seed(0)
    model, inputs = Fed(Lambda(HANDLED[name])).double(), normal(7, 4)
    assert list(units_of(model, inputs).sizes.values()) == [6]
    twin, _ = planted(model, inputs, seed=3)
    torch.testing.assert_close(twin(inputs), model(inputs), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", HELD)
def test_what_treats_units_differently_holds_them(name):
    torch.manual_seed(0)
    found = units_of(Fed(Lambda(HELD[name])).double(), normal(7, 4))
    assert not found.sizes


def test_a_layer_used_twice_is_one_layer():
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again, self.last = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x):
            h = torch.relu(self.first(x))
            return self.last(torch.relu(self.again(torch.relu(self.again(h)))))

    model, inputs = Twice().double(), normal(6, 3)
    found = units_of(model, inputs)
    assert list(found.sizes.values()) == [5]
    assert found.positive  # D W D⁻¹ takes scaled units to scaled units
    twin, _ = planted(model, inputs, scales=True)
    torch.testing.assert_close(twin(inputs), model(inputs), rtol=1e-12, atol=1e-13)


def test_what_cannot_be_traced_says_so():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else x

    with pytest.raises(UnsupportedError, match="TraceError: symbolically traced variables"):
        units_of(Branches(), torch.ones(2, 3))

    class Many(nn.Module):
        def forward(self, *x):
            return x[0]

    with pytest.raises(UnsupportedError, match="variable number of arguments"):
        units.call_of(Many(), (torch.ones(2),), {})

    class Listed(nn.Module):
        def forward(self, x):
            return x[0]

    with pytest.raises(UnsupportedError, match="structures of tensors"):
        units.call_of(Listed(), ([torch.ones(2)],), {})


def test_constants_among_the_arguments():
    torch.manual_seed(0)
    model = Fed(nn.Tanh()).double()
    call = units.call_of(model, (normal(7, 4),), {"flag": False})
    assert call.constants == {"scale": None, "flag": False}
    found = units.trace(model, call, frozenset(n for n, _ in model.named_parameters()))
    assert list(found.sizes.values()) == [6]


def test_activations_match_signs_and_constant_units():
    groups = units_of(*_tanh())
    (group,) = groups.sizes
    first = normal(4, 50)
    order, sign = np.array([2, 0, 3, 1]), np.array([1.0, -1.0, 1.0, -1.0])
    second = first[torch.tensor(order)] * torch.tensor(sign)[:, None]
    found = assign.match_activations(groups, {group: [first]}, {group: [second]}, signs=True)[group]
    np.testing.assert_array_equal(order[found.order], np.arange(4))
    np.testing.assert_array_equal(found.factor, sign[found.order])
    flat = assign.match_activations(groups, {group: [first * 0]}, {group: [second]})[group]
    assert sorted(flat.order) == [0, 1, 2, 3]


def _tanh():
    torch.manual_seed(0)
    return copy.deepcopy(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))).double(), normal(5, 3)
