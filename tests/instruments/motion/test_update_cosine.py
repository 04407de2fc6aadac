import pytest
import torch
from tests.training_toys import bowl_run, classifier, sgd_bowl

from geartrain import instruments


@pytest.mark.parametrize(("lr", "cosine"), [(0.5, 1.0), (0.99, 1.0), (1.01, -1.0), (1.9, -1.0)])
def test_one_mode_turns_back_exactly_above_a_step_of_one_over_the_curvature(lr, cosine):
    result = instruments.update_cosine(sgd_bowl([1.0], lr=lr))
    assert float(result) == pytest.approx(cosine, abs=1e-9)
    assert result.details["lag_2"] == pytest.approx(1.0)


def test_noise_that_has_nothing_in_common_gives_zero():
    torch.manual_seed(0)
    run = bowl_run([1e-12] * 400, lambda p: torch.optim.SGD(p, lr=1.0))
    plain = run.batch_loss

    run.batch_loss = lambda model, batch: (
        plain(model, batch) + (model.weight * torch.randn(400).double()).sum()
    )
    result = instruments.update_cosine(run, steps=40)
    # Each cosine has variance 1/400, successive ones are uncorrelated.
    assert abs(float(result)) < 4 / (400 * 39) ** 0.5


def test_momentum_makes_successive_updates_alike():
    plain, heavy = (
        instruments.update_cosine(classifier(batch_size=2, lr=1e-4, optimizer=None)),
        None,
    )
    run = classifier(batch_size=2)
    run.replace_optimizer(torch.optim.SGD(run.model.parameters(), lr=1e-4, momentum=0.9))
    run.advance(10)
    heavy = instruments.update_cosine(run)
    assert float(heavy) > float(plain) + 0.2
