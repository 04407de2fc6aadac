"""Spectrum, noise scale, signal flow and kernel on real architectures, against plain autograd, nothing changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.real.models import MODELS, made
from torch import Tensor, nn
from torch.nn import functional

from geartrain import instruments
from geartrain.objective import Objective
from geartrain.records import State
from geartrain.testing import fingerprint


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_products_agree_with_differences_of_gradients(name: str) -> None:
    objective = made(name, double=True).objective()
    assert objective.dtype is torch.float64
    v = torch.randn(objective.num_params, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v /= v.norm()
    theta = objective.parameters()
    # GPT-2 casts its scores to float32 before the loss: rounding 1e-7 over a step of 1e-3.
    step = 1e-3 if name == "gpt2" else 1e-5
    above, below = (objective.gradient(theta + s * step * v) for s in (1, -1))
    product, difference = objective.hvp(v), (above - below) / (2 * step)
    error = float((product - difference).norm() / product.norm())
    assert error < (2e-4 if name == "gpt2" else 1e-6)


def test_spectrum_has_small_true_residuals(name: str) -> None:
    run = made(name, double=True)
    before = fingerprint(run)
    objective = run.objective()
    result = instruments.hessian_spectrum(objective, k=3, eigenvectors=True, budget=300)
    assert fingerprint(run) == before
    assert result.status.state in {State.CONVERGED, State.EXACT}, result.status
    vectors = torch.as_tensor(result.details["eigenvectors"])
    assert vectors.shape == (3, objective.num_params)
    for value, v in zip(np.asarray(result.value), vectors, strict=True):
        residual = float((objective.hvp(v) - value * v).norm())
        # The stopping rule bounds the residual by a thousandth of the largest eigenvalue.
        assert residual < 2e-3 * float(np.abs(result.value).max())


def test_noise_scale_agrees_with_gradients_one_by_one(name: str) -> None:
    run = made(name, double=True)
    before = fingerprint(run)
    # Batch statistics tie examples together only in training mode; the probe is measured in evaluation mode.
    objective = run.objective(probe=12)
    result = instruments.gradient_noise_scale(objective, groups=objective.num_examples)
    assert fingerprint(run) == before
    batch = objective.batches[0]
    rows = []
    for i in range(objective.num_examples):
        one = objective.on([torch.utils._pytree.tree_map(lambda t, i=i: t[i : i + 1], batch)])
        rows.append(one.gradient())
    g = torch.stack(rows)
    noise = float((g - g.mean(0)).square().sum() / (len(g) - 1))
    signal = float(g.mean(0).square().sum()) - noise / len(g)
    assert result.details["covariance_trace"] == pytest.approx(noise, rel=1e-8)
    assert result.details["grad_sq_norm"] == pytest.approx(signal, rel=1e-6, abs=1e-9 * noise)


@pytest.mark.parametrize("instrument", ["activation_flow", "gradient_flow"])
def test_flow_names_the_layers_and_leaves_no_trace(name: str, instrument: str) -> None:
    run = made(name)
    before = fingerprint(run)
    result = instruments.get(instrument)(run.objective())
    assert fingerprint(run) == before
    assert result.status.usable
    assert len(result.coords["layer"]) == len(np.asarray(result.value)) > 2
    known = dict(run.model.named_modules())
    # A layer that is called twice appears as layer#2.
    assert {layer.partition("#")[0] for layer in result.coords["layer"]} <= set(known)
    assert np.all(np.asarray(result.value) >= 0)
    assert np.any(np.asarray(result.value) > 0)


class Scores(nn.Module):
    """The part of a Hugging Face model that a kernel is about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.model(**inputs).logits


def with_outputs(name: str) -> Objective:
    """The model with its outputs in the open, as the instrument asks for."""
    run = made(name, double=True)
    few = run.objective(probe=3)
    if name in {"resnet", "lstm"}:
        return few
    batch = few.batches[0]
    if name == "pinn":
        return Objective(run.model, functional.mse_loss, (batch, batch[:, :1]))
    inputs = batch[0] if name == "bert" else {"input_ids": batch["input_ids"][:, :3]}
    scores = Scores(run.model)
    targets = torch.zeros_like(Objective(scores, summed, (inputs, torch.zeros(3))).outputs())
    return Objective(scores, functional.mse_loss, (inputs, targets), training=False)


def summed(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def test_kernel_trace_is_the_squared_length_of_all_output_gradients(name: str) -> None:
    objective = with_outputs(name)
    before = [p.clone() for p in objective.model.parameters()]
    result = instruments.ntk(objective, kind="full", max_outputs=None)
    assert result.status.state is State.EXACT, result.status
    outputs = objective.outputs()
    total = 0.0
    theta = objective.parameters()
    for i in range(outputs.shape[0]):
        size = outputs[i].numel()
        for a in range(0, size, max(size // 5, 1)):  # a fifth of the outputs, compared one by one
            pick = torch.zeros_like(outputs)
            pick[i].view(-1)[a] = outputs.shape[0]
            one = Objective(
                objective.model, lambda out, y, pick=pick: (out * pick[: len(out)]).mean() * pick.numel() / len(out),
                objective.batches[0], training=False,
            )  # fmt: skip
            gradient = one.gradient(theta) * len(outputs) / outputs.shape[0]
            expected = float(gradient @ gradient)
            found = diagonal(result.value, i, a)
            assert found == pytest.approx(expected, rel=1e-5 if name == "gpt2" else 1e-8)
            total += found
    assert 0 < total <= result.details["trace"] * (1 + 1e-9)
    assert all(torch.equal(a, b) for a, b in zip(before, objective.model.parameters(), strict=True))


def diagonal(kernel: np.ndarray, example: int, output: int) -> float:
    return float(kernel[example, output, example, output])
