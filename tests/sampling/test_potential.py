"""The potential against the objective itself, for every engine, kind of data and kind of loss."""

import copy

import pytest
import torch
from torch import nn

from geartrain.errors import InputError, UnsupportedError
from geartrain.objective import Objective
from geartrain.sampling.potential import FunctionPotential, Potential


def classifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    x = torch.randn(20, 3).double()
    return Objective(model, nn.CrossEntropyLoss(), (x, torch.arange(20) % 4))


def regression_of_images():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1)).double()
    return Objective(model, nn.MSELoss(), (torch.randn(12, 1, 4, 4).double(), torch.randn(12, 1).double()))


class Derivative(nn.Module):
    """A network whose loss needs a derivative with respect to its inputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.net = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)).double()

    def forward(self, x):
        return self.net(x)


def residual(model, batch):
    x = batch.requires_grad_()
    u = model(x)
    (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    return ((du + u) ** 2).mean()


def differential():
    return Objective(Derivative(), batch_loss=residual, data=torch.linspace(0, 1, 10).double()[:, None])


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.table, self.out = nn.Embedding(7, 4).double(), nn.Linear(4, 7).double()

    def forward(self, tokens):
        return self.out(self.table(tokens))


def next_word(model, batch):
    logits = model(batch["tokens"][:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["tokens"][:, 1:].flatten())


def language():
    tokens = torch.randint(0, 7, (9, 5), generator=torch.Generator().manual_seed(0))
    return Objective(Words(), batch_loss=next_word, data={"tokens": tokens})


def in_batches():
    objective = classifier()
    x, y = objective.batches[0]
    return Objective(objective.model, nn.CrossEntropyLoss(), [(x[:7], y[:7]), (x[7:], y[7:])])


def block():
    return classifier().restrict("2.*")


SUBJECTS = [classifier, regression_of_images, differential, language, in_batches, block]


def near(objective, chains=3):
    noise = torch.randn(chains, objective.num_params, generator=torch.Generator().manual_seed(9)).double()
    return objective.parameters() + 0.3 * noise


def part(objective, rows):
    """The objective on these examples only."""
    batches = objective.batches
    if isinstance(batches[0], dict):
        return objective.on({k: v[rows] for k, v in batches[0].items()})
    if isinstance(batches[0], torch.Tensor):
        return objective.on(batches[0][rows])
    return objective.on(tuple(torch.cat(parts)[rows] for parts in zip(*batches, strict=True)))


@pytest.mark.parametrize("make", SUBJECTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("engine", ["auto", "vmap", "loop"])
def test_equals_the_objective(make, engine):
    objective = make()
    potential = Potential(objective, engine=engine)
    positions = near(objective)
    if engine == "vmap" and make is differential:
        with pytest.raises(UnsupportedError, match='engine="vmap" cannot run this'):
            potential.loss_and_gradient(positions)
        return
    losses, gradient = potential.loss_and_gradient(positions)
    for i, w in enumerate(positions):
        assert torch.allclose(losses[i], objective.value(w), rtol=1e-10)
        assert torch.allclose(gradient[i], objective.gradient(w), rtol=1e-8, atol=1e-12)
    assert torch.allclose(potential.losses(positions), losses, rtol=1e-10)
    shared = torch.tensor([1, 4, 4, 0])
    own = torch.tensor([[0, 1], [5, 5], [2, 7]])
    at_shared, at_own = (
        potential.loss_and_gradient(positions, shared),
        potential.loss_and_gradient(positions, own),
    )
    for i, w in enumerate(positions):
        for (values, slopes), rows in ((at_shared, shared), (at_own, own[i])):
            on = part(objective, rows)
            assert torch.allclose(values[i], on.value(w), rtol=1e-10)
            assert torch.allclose(slopes[i], on.gradient(w), rtol=1e-8, atol=1e-12)
    assert torch.allclose(potential.losses(positions, own), at_own[0], rtol=1e-10)
    assert torch.allclose(potential.losses(positions, shared), at_shared[0], rtol=1e-10)
    each = potential.per_example_losses(positions)
    assert each.shape == (3, objective.num_examples)
    assert torch.allclose(each.mean(1), losses, rtol=1e-9)
    assert torch.allclose(potential.per_example_losses(positions, shared), each[:, shared], rtol=1e-9)
    if engine != "auto":
        assert potential.choice.engine == engine


def test_the_stack_is_used_where_the_structure_is_known():
    potential = Potential(classifier(), engine="stack")
    potential.losses(near(classifier()))
    assert potential.choice.engine == "stack"
    assert "by the engine stack" in potential.choice.sentence
    assert potential.choice.sentence in potential.notes


def test_many_chains_and_pieces_of_the_data(monkeypatch):
    objective = classifier()
    whole = Potential(objective, engine="vmap")
    positions = near(objective, 40)
    losses, gradient = whole.loss_and_gradient(positions)
    monkeypatch.setattr(Potential(objective)._evaluator.__class__, "_rows_at_once", lambda *_: 3)
    pieces = Potential(objective, engine="vmap")
    mine = pieces.loss_and_gradient(positions)
    assert pieces.choice.rows == 3
    assert torch.allclose(mine[0], losses, rtol=1e-12)
    assert torch.allclose(mine[1], gradient, rtol=1e-10, atol=1e-14)
    assert torch.allclose(pieces.losses(positions), losses, rtol=1e-12)
    rows = torch.randint(0, 20, (40, 8), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(pieces.losses(positions, rows), whole.losses(positions, rows))
    outputs = whole.outputs(positions)
    assert outputs.shape == (40, 20, 4)
    assert torch.allclose(pieces.outputs(positions), outputs)
    assert torch.allclose(outputs[7], objective.outputs(positions[7]))


def test_the_potential_is_the_sum_of_its_terms():
    objective = classifier()
    centre = torch.randn(objective.num_params).double()
    potential = Potential(objective, 7.0, 2.0, 0.5, centre)
    positions = near(objective)
    energy, slope, losses = potential.energy_and_gradient(positions)
    quadratic = lambda w: 1.0 * (w - centre).square().sum(1) + 0.25 * w.square().sum(1)  # noqa: E731
    assert torch.allclose(energy, 7 * losses + quadratic(positions))
    assert torch.allclose(potential.energy(positions), energy)
    step = 1e-5 * torch.randn(objective.num_params).double()
    change = potential.energy(positions + step) - potential.energy(positions - step)
    assert torch.allclose(change, 2 * slope @ step, rtol=1e-5)
    hot = potential.changed(n_beta=torch.tensor([0.0, 1.0, 7.0]), localisation=0.0, prior_precision=0.0)
    assert torch.allclose(hot.energy(positions), torch.tensor([0.0, 1.0, 7.0]).double() * losses)
    assert torch.allclose(hot.energy_and_gradient(positions)[1][2], 7 * objective.gradient(positions[2]))
    some = hot.for_chains(torch.tensor([2]))
    assert torch.allclose(some.energy(positions[2:]), 7 * losses[2:])
    assert (potential.n_beta, potential.localisation) == (7.0, 2.0)  # the first one stayed as it was


def test_defaults_are_the_posterior():
    objective = classifier()
    potential = Potential(objective)
    assert (potential.n_beta, potential.localisation, potential.prior_precision) == (20.0, 0.0, 0.0)
    assert torch.equal(potential.centre, objective.parameters())
    assert potential.draw_rows(3, torch.Generator()) is None
    assert Potential(objective, batch_size=20).batch_size is None


def test_rows_are_drawn_uniformly_with_replacement():
    potential = Potential(classifier(), batch_size=10)
    rows = potential.draw_rows(4000, torch.Generator().manual_seed(0))
    counts = rows.flatten().bincount(minlength=20)
    assert rows.shape == (4000, 10)
    assert ((counts - 2000).abs() / (40000 * 0.05 * 0.95) ** 0.5).max() < 4
    assert potential.draw_rows(5, torch.Generator(), shared=True).shape == (10,)


def test_nothing_of_the_users_changes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))
    model.train()
    x, y = torch.randn(16, 3), torch.arange(16) % 2
    objective = Objective(model, nn.CrossEntropyLoss(), (x, y))
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    potential = Potential(objective)
    positions = objective.parameters() + torch.zeros(4, 1)
    first = potential.loss_and_gradient(positions)
    again = potential.loss_and_gradient(positions)
    assert torch.equal(first[0], again[0])
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters())  # noqa: PT018
    still = Objective(model, nn.CrossEntropyLoss(), (x, y), training=False)
    assert torch.allclose(first[0][0], still.value())
    assert "evaluation mode" in potential.notes[0]


def test_what_is_computed_is_put_on_the_meter():
    objective = classifier()
    potential = Potential(objective, batch_size=5)
    before = objective.work
    potential.loss_and_gradient(near(objective), torch.zeros(3, 5, dtype=torch.long))
    potential.losses(near(objective))
    spent = objective.work - before
    assert (spent.gradients, spent.forwards) == (pytest.approx(0.75), pytest.approx(3.0))


def test_a_loss_that_is_no_mean_is_not_cut():
    torch.manual_seed(0)
    x = torch.randn(30, 2)
    objective = Objective(nn.Linear(2, 1), lambda o, t: ((o - t) ** 2).sum(), (x, torch.randn(30, 1)))
    potential = Potential(objective, batch_size=4)
    assert torch.allclose(potential.losses(objective.parameters()[None])[0], objective.value())
    assert "no mean" in " ".join(potential.notes)


def test_batches_of_different_shapes():
    data = [{"tokens": torch.randint(0, 7, (3, n))} for n in (4, 6)]
    objective = Objective(Words(), batch_loss=next_word, data=data)
    potential = Potential(objective)
    assert torch.allclose(potential.losses(near(objective))[1], objective.value(near(objective)[1]))
    with pytest.raises(InputError, match="examples cannot be picked one by one"):
        Potential(objective, batch_size=2)
    with pytest.raises(InputError, match="cannot be picked"):
        potential.losses(near(objective), torch.tensor([0]))
    with pytest.raises(UnsupportedError, match="batches differ in shape"):
        potential.outputs(near(objective))


def test_functions_of_positions():
    potential = FunctionPotential(lambda w: (w[:, 0] * w[:, 1] ** 2) ** 2, 2, n_beta=100.0, localisation=1.0)
    positions = torch.tensor([[1.0, 2.0], [0.5, -1.0]]).double()
    losses, gradient = potential.loss_and_gradient(positions)
    x, y = positions.T
    assert torch.allclose(losses, x**2 * y**4)
    assert torch.allclose(gradient, torch.stack([2 * x * y**4, 4 * x**2 * y**3], 1))
    assert torch.allclose(potential.energy(positions), 100 * losses + 0.5 * positions.square().sum(1))
    assert torch.equal(potential.per_example_losses(positions), losses[:, None])
    centres = torch.randn(6, 1).double()
    by_example = FunctionPotential(
        lambda w, rows: (w - centres[rows][..., 0]).square(), 1, num_examples=6, batch_size=2
    )
    w = torch.tensor([[0.3], [1.0]]).double()
    assert torch.allclose(by_example.losses(w), (w - centres.T).square().mean(1))
    assert by_example.per_example_losses(w, torch.tensor([1, 2])).shape == (2, 2)


def fails(potential=None):
    return Potential(classifier()) if potential is None else potential


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Potential(classifier(), engine="jax"),
            "engine is 'jax'; allowed: 'auto', 'stack', 'vmap', 'loop'",
        ),
        (lambda: Potential(classifier(), localisation=-1.0), "localisation is -1.0"),
        (lambda: Potential(classifier(), prior_precision=float("nan")), "prior_precision is nan"),
        (lambda: Potential(classifier(), n_beta=-1.0), "n_beta is -1.0"),
        (lambda: Potential(classifier(), batch_size=0), "batch_size is 0"),
        (lambda: Potential(classifier(), centre=torch.zeros(3)), "The centre has shape"),
        (lambda: fails().losses(torch.zeros(2, 3)), "The positions have shape"),
        (lambda: fails().positions(torch.zeros(2, 3)), "The start has shape"),
        (lambda: FunctionPotential(lambda w: w.sum(1), 1, batch_size=2), "batch_size needs num_examples"),
    ],
)
def test_messages(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_an_engine_that_cannot_is_refused():
    with pytest.raises(UnsupportedError, match='engine="stack" cannot run this'):
        Potential(language(), engine="stack").losses(near(language()))
    with pytest.raises(UnsupportedError, match="hides the model's outputs"):
        Potential(language()).outputs(near(language()))


def test_a_model_that_cannot_be_copied_is_refused():
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("no")

    objective = Objective(Stubborn(2, 1), nn.MSELoss(), (torch.ones(3, 2), torch.ones(3, 1)))
    with pytest.raises(UnsupportedError, match="cannot be copied"):
        Potential(objective)
