import pytest
import torch
from tests.training_toys import bowl_run, classifier, sgd_bowl

from geartrain import instruments

CURVATURES = [5.0, 2.0, 0.5, 0.1]
RULES = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "little momentum": {"momentum": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "little nesterov": {"momentum": 0.4, "nesterov": True},
    "dampened": {"momentum": 0.8, "dampening": 0.5},
    "penalty": {"momentum": 0.5, "weight_decay": 1.0},
}


def test_without_momentum_it_is_half_of_step_times_sharpness():
    result = instruments.edge_of_stability(sgd_bowl(CURVATURES, lr=0.3), tol=1e-8)
    assert float(result) == pytest.approx(0.3 * 5.0 / 2, rel=1e-8)
    assert result.details["threshold"] == pytest.approx(2 / 0.3)
    assert result.details["sharpness"] == pytest.approx(5.0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("side", [0.97, 1.03])
def test_parabolas_diverge_if_and_only_if_it_exceeds_one(rule, side):
    lr = 0.1 / float(instruments.edge_of_stability(sgd_bowl(CURVATURES, lr=0.1, **RULES[rule]), tol=1e-8))
    run = sgd_bowl(CURVATURES, lr=lr * side, **RULES[rule])
    value = float(instruments.edge_of_stability(run, tol=1e-8))
    assert value == pytest.approx(side, rel=1e-6)
    run.advance(3000)
    grew = run.history.failure is not None or run.history.columns["param_norm"][-1] > 2.0
    assert grew == (value > 1)


def test_the_threshold_of_adam_is_38_over_the_step_size():
    run = bowl_run(CURVATURES, lambda p: torch.optim.Adam(p, lr=0.02))
    run.advance(2000)
    result = instruments.edge_of_stability(run, tol=1e-8)
    # (1 - 0.9^t) is 1 by then: the threshold is (2 + 2·0.9)/((1 - 0.9)·0.02) = 38/0.02.
    assert result.details["threshold"] == pytest.approx(38 / 0.02)
    state = run.optimizer.state[run.model.weight]
    root = (state["exp_avg_sq"][0] / (1 - 0.999**2000)).sqrt() + 1e-8
    sharpness = (torch.tensor(CURVATURES).double() / root).max()
    assert result.details["sharpness"] == pytest.approx(float(sharpness), rel=1e-6)


@pytest.mark.parametrize("side", [0.9, 1.1])
def test_adam_with_frozen_second_moments_diverges_if_and_only_if_it_exceeds_one(side):
    def run_of(lr):
        # beta2 = 1 would be refused; so close to 1 the second moments stand still for these steps.
        run = bowl_run([1.0, 0.3], lambda p: torch.optim.Adam(p, lr=1e-4, betas=(0.9, 1 - 1e-7)))
        run.advance(400)
        run.optimizer.param_groups[0]["lr"] = lr
        for state in run.optimizer.state.values():
            state["step"] = torch.tensor(1e9)
            state["exp_avg_sq"].fill_(1.0)
        return run

    lr = side * 38.0  # D = 1 and curvature 1
    run = run_of(lr)
    assert float(instruments.edge_of_stability(run, tol=1e-8)) == pytest.approx(side, rel=1e-3)
    start = float(run.model.weight.detach().norm())
    # Second moments grow with the iterate, so only the first steps tell.
    run.advance(60)
    assert (float(run.model.weight.detach().norm()) > 20 * start) == (side > 1)


def test_before_any_step_of_adam_there_is_nothing_to_say():
    run = bowl_run(CURVATURES, lambda p: torch.optim.Adam(p, lr=0.02))
    result = instruments.edge_of_stability(run)
    assert not result.status.usable
    assert "not taken a step" in result.status.sentence


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.AdamW])
def test_other_preconditioners_are_read_from_their_state(kind):
    run = bowl_run(CURVATURES, lambda p: kind(p, lr=0.01))
    run.advance(3)
    result = instruments.edge_of_stability(run)
    assert result.status.usable
    assert 0 < float(result) < 10


def test_groups_have_their_own_step_sizes():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.0}]
    run = classifier(model=model, optimizer=torch.optim.SGD(groups, lr=0.1))
    frozen = float(instruments.edge_of_stability(run, tol=1e-6))
    top = float(instruments.hessian_spectrum(run.objective(parameters="0.*"), k=1, tol=1e-6).value[0])
    assert frozen == pytest.approx(0.1 * top / 2, rel=1e-4)


def test_it_is_proportional_to_the_step_size_and_repeats_with_its_generator():
    run = classifier(lr=0.1)
    first = float(instruments.edge_of_stability(run, generator=torch.Generator().manual_seed(1)))
    again = float(instruments.edge_of_stability(run, generator=torch.Generator().manual_seed(1)))
    run.optimizer.param_groups[0]["lr"] = 0.3
    tripled = float(instruments.edge_of_stability(run, generator=torch.Generator().manual_seed(1)))
    assert first == again
    assert tripled == pytest.approx(3 * first, rel=1e-4)


def test_it_spends_no_more_products_than_allowed():
    run = classifier(width=32)
    assert instruments.edge_of_stability(run, budget=3).cost.products <= 3
    assert instruments.edge_of_stability(run, max_products=5).cost.products <= 5


def test_unknown_optimizers_are_refused_in_a_sentence():
    run = classifier()
    run.replace_optimizer(torch.optim.Rprop(run.model.parameters()))
    assert "Rprop is not known" in instruments.edge_of_stability(run).status.sentence
