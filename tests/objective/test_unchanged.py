"""After any measurement the user's program is as it was before, bit for bit."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from geartrain import instruments
from geartrain.errors import GeartrainError
from geartrain.measuring import reference_for
from geartrain.objective import Objective
from geartrain.run import Run

LAYERS = {
    "linear": lambda: nn.Linear(4, 4),
    "dropout": lambda: nn.Dropout(0.4),
    "batch norm": lambda: nn.BatchNorm1d(4),
    "layer norm": lambda: nn.LayerNorm(4),
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "spectral": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
}


@st.composite
def programs(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4))
    seed = draw(st.integers(0, 1000))
    frozen = draw(st.booleans())
    evaluated = draw(st.sets(st.integers(0, len(kinds)), max_size=2))
    own = draw(st.booleans())
    return kinds, seed, frozen, evaluated, own


class Program:
    """A user's program in the middle of training."""

    def __init__(self, kinds, seed, frozen, evaluated, own_generator):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        self.model = nn.Sequential(*(LAYERS[kind]() for kind in kinds), nn.Linear(4, 3))
        for i in evaluated:
            self.model[i].eval()
        if frozen and len(kinds) > 1:
            self.model[0].requires_grad_(False)
        self.optimizer = torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], lr=0.01)
        self.data = TensorDataset(torch.randn(12, 4), torch.randint(3, (12,)))
        generator = torch.Generator().manual_seed(seed) if own_generator else None
        self.loader = DataLoader(self.data, batch_size=5, shuffle=True, generator=generator)
        for inputs, targets in self.loader:
            self.optimizer.zero_grad()
            functional.cross_entropy(self.model(inputs), targets).backward()
            self.optimizer.step()

    def picture(self):
        """Everything, as bytes and plain values."""
        named = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        tensors = {n: (t.detach().numpy().tobytes(), t.requires_grad, t._version) for n, t in named.items()}
        grads = {n: None if t.grad is None else t.grad.numpy().tobytes() for n, t in named.items()}
        modes = {n: m.training for n, m in self.model.named_modules()}
        state = [
            (k, v.numpy().tobytes() if isinstance(v, torch.Tensor) else v)
            for entry in self.optimizer.state.values()
            for k, v in entry.items()
        ]
        numbers = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().numpy().tobytes())  # noqa: NPY002
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in self.model.modules()]
        hooks.append(
            (len(self.optimizer._optimizer_step_pre_hooks), len(self.optimizer._optimizer_step_post_hooks))
        )
        generator = self.loader.generator
        order = None if generator is None else generator.get_state().numpy().tobytes()
        data = [t.numpy().tobytes() for t in self.data.tensors]
        return tensors, grads, modes, state, numbers, hooks, order, data

    def next_batch(self):
        return next(iter(self.loader))[0].numpy().tobytes()


PARTS = ("tensors", "grads", "modes", "optimizer", "numbers", "hooks", "order", "data")


def use(objective):
    v = torch.randn(objective.num_params, generator=torch.Generator().manual_seed(0))
    for call in (
        objective.value,
        objective.gradient,
        lambda: objective.hvp(v),
        lambda: objective.ggnvp(v),
        lambda: objective.covariance_vp(v),
        objective.per_example_gradients,
        objective.per_example_losses,
        objective.outputs,
        lambda: objective.value(objective.parameters() + 1),
        lambda: objective.hvp(torch.ones(3)),
    ):
        try:
            call()
        except GeartrainError:
            pass  # a refusal must leave no trace either


@settings(derandomize=True, max_examples=40, deadline=None)
@given(programs(), st.sampled_from([None, True, False]))
def test_measuring_leaves_no_trace(program, training):
    mine = Program(*program)
    before = mine.picture()
    use(Objective(mine.model, functional.cross_entropy, mine.loader, training=training))
    after = mine.picture()
    for name, was, now in zip(PARTS, before, after, strict=True):
        assert was == now, name
    following = mine.next_batch()
    assert Program(*program).next_batch() == following  # building one seeds everything anew


@pytest.mark.parametrize("name", instruments.names())
def test_instruments_leave_no_trace(name):
    mine = Program(["linear", "batch norm", "dropout", "relu"], 3, False, set(), True)
    run = Run(mine.model, functional.cross_entropy, mine.optimizer, mine.loader, mine.data.tensors, epochs=3)
    run.advance(4)
    needs = instruments.get(name).spec.needs
    subject = {"run": run, "history": run.history}.get(needs) or run.objective()
    run.unwatch()
    others = (reference_for(run, name),) if needs == "pair" else ()
    before, history = mine.picture(), copy.deepcopy(run.history)
    try:
        instruments.get(name)(subject, *others, generator=torch.Generator().manual_seed(0))
    except GeartrainError:
        pass
    after = mine.picture()
    if needs == "run":  # it may train and come back: written to, but with the same values
        before, after = ([_no_versions(p[0]), *p[1:]] for p in (before, after))
    for part, was, now in zip(PARTS, before, after, strict=True):
        assert was == now, part
    assert run.history == history


def _no_versions(tensors):
    return {name: entry[:2] for name, entry in tensors.items()}
