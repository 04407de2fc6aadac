"""The gradient noise scale of the steps that are taken, without a further pass.

Wherever the gradient of a step is a sum of parts that saw different examples, their spread is its noise:

- **micro-batches**, where gradients are accumulated, and **processes**, where they are averaged: the norm of each
  part is read as it arrives;
- else **examples**: inner products of per-example gradients from the inputs and output gradients of the layers
  (`_gram`), for linear, convolutional, embedding and layer-normalisation layers; at most 64 examples of the batch.

With n parts h_j (Σ h_j = g, the gradient of the step) the x_j = n h_j are unbiased gradients, hence
s² = (n² Σ|h_j|² - n|g|²) / (n - 1) is the trace of their covariance and |g|² - s²/n is unbiased for |G|².

``noise_over_batch`` = noise scale / batch size = s² / (n |G|²): far below 1 the batch is larger than need be, far above
1 the step is mostly noise. Single readings are noisy, and negative where the batch shows no mean gradient: the columns
hold the two parts, and `Monitor.noise_scale` divides their means. Price class: every tenth step at most.

**Misleads** for layers that are not covered: ``noise_covered`` says which share of the parameters was.

References: McCandlish, Kaplan, Amodei et al. (2018), arXiv:1812.06162, App. A; the tests: Bollapragada, Byrd, Nocedal
(2018), arXiv:1710.11258; Mahsereci, Hennig; Schneider, Dangel, Hennig (2021), arXiv:2102.06604, App. B.

Ledger: 4.5
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from geartrain.monitor._gram import Gram, gram_of
from geartrain.monitor.groups import Group, Scene

EXAMPLES = 64
"""Examples of a batch whose gradients are compared at most."""

POSITIONS = 256
"""Positions in all of them together: more, and cheaper, readings are worth more than dearer ones."""

LEAST_EXAMPLES = 4


class Noise(Group):
    """Mean gradient and its covariance, from the parts of each step's own gradient.

    Args:
        coupled: Whether the examples of a batch are coupled (batch normalisation): then they have no gradients.
        total: Adds numbers over all processes (the identity for one).

    Attributes:
        why_not: Why there was no reading at the last due step, or ``None``.
    """

    name: ClassVar[str] = "noise"
    least: ClassVar[int] = 10
    inside: ClassVar[bool] = True

    def __init__(
        self, coupled: Callable[[], bool] = lambda: False, total: Callable[[Tensor], Tensor] = lambda t: t
    ) -> None:
        self.coupled = coupled
        self.total = total
        self.parts_expected = 1
        self.why_not: str | None = None
        self._handles: list[Any] = []
        self._squares: list[list[Tensor]] = []
        self._grams: dict[nn.Module, tuple[Gram, Tensor] | None] = {}
        self._found: dict[nn.Module, Tensor] = {}
        self._wrong: set[nn.Module] = set()

    # ------------------------------------------------------------------ parts that arrive one by one

    def begin(self, scene: Scene) -> None:
        """Listen to the gradients as they arrive, if there will be several parts."""
        self.forget()
        if self.parts_expected * scene.ranks > 1:
            self._squares = [[] for _ in scene.parameters.tensors]
            for squares, parameter in zip(self._squares, scene.parameters.tensors, strict=True):
                if parameter.requires_grad:
                    hook = scene.listener(self.name, lambda gradient, s=squares: s.append(_square(gradient)))
                    self._handles.append(parameter.register_hook(hook))

    def _from_parts(self, scene: Scene) -> None:
        if scene.left is None or not any(self._squares):
            self.why_not = "no backward pass was seen"
            return
        counts = {len(s) for s in self._squares if s}
        count = max(counts)
        if not scene.cleared:
            self.why_not = "the gradients of earlier steps had not been cleared"
            return
        if count != scene.backwards:
            self.why_not = "gradients were taken that were not accumulated"
            return
        home = scene.parameters.home
        own = torch.stack([s.to(home, torch.float64) for squares in self._squares for s in squares]).sum()
        # Every process holds its own parts of the averaged gradient: h = g_rank / ranks.
        both = self.total(torch.stack([own, torch.ones_like(own)]))
        parts = count * scene.ranks
        squares = both[0] / scene.ranks**2
        step = scene.left.double().square().sum()
        self._note(scene, squares, step, parts)
        scene.number("noise_covered", 1.0)

    # ------------------------------------------------------------------ examples

    @torch.no_grad()
    def called(
        self, name: str, module: nn.Module, inputs: Tensor | None, output: Tensor, scene: Scene
    ) -> None:
        """Prepare to compare the examples' gradients at a layer with parameters of its own."""
        if self._squares or not any(p.requires_grad for p in module.parameters(recurse=False)):
            return
        if module in self._grams:  # a second call: its gradient is the sum of both
            self._grams[module] = None
            return
        self._grams[module] = None
        gram, size = gram_of(module), scene.batches[-1] if scene.batches else 0
        fits = inputs is not None and inputs.ndim >= 2 and inputs.shape[0] == output.shape[0] == size
        if (
            gram is None
            or not fits
            or not output.requires_grad
            or module in self._wrong
            or size < LEAST_EXAMPLES
        ):
            return
        assert inputs is not None
        positions = (
            1 if output.ndim == 2 else output[0].numel() // output.shape[1 if _channels(module) else -1]
        )
        step = -(-size // min(EXAMPLES, max(POSITIONS // positions, LEAST_EXAMPLES)))
        self._grams[module] = (gram, inputs.detach()[::step])
        found, kept = self._found, self._grams

        def tap(gradient: Tensor) -> None:
            entry = kept.get(module)
            if entry is not None and found is self._found:
                try:
                    found[module] = entry[0](_wide(entry[1]), _wide(gradient[::step])).double()
                except (NotImplementedError, RuntimeError):
                    self._wrong.add(module)
                kept[module] = None if module in self._wrong else (entry[0], entry[1][:0])

        output.register_hook(scene.listener(self.name, tap))

    def _from_examples(self, scene: Scene) -> None:
        if self.coupled():
            self.why_not = "batch normalisation in training mode couples the examples"
            return
        found = {m: k for m, k in self._found.items() if self._grams.get(m) is not None}
        size = scene.batches[-1] if scene.batches else 0
        if not found or scene.left is None or scene.backwards != 1 or len(scene.batches) != 1:
            self.why_not = (
                "no layer was seen whose per-example gradients are known" if not found else "unusual passes"
            )
            return
        places = {id(p): i for i, p in enumerate(scene.parameters.tensors)}
        left = scene.left.double().square()
        spread, covered, entries = left.new_zeros(()), left.new_zeros(()), 0
        whole: list[Tensor] | None = []
        for module, gram in found.items():
            own = [p for p in module.parameters(recurse=False) if p.requires_grad]
            if any(id(p) not in places for p in own):
                continue
            square = left[[places[id(p)] for p in own]].sum()
            if not self._agrees(module, gram, square, size):
                continue
            spread = spread + _spread(gram, size).to(left.device)
            covered = covered + square
            entries += sum(p.numel() for p in own)
            whole = [*whole, gram.to(left.device)] if whole is not None and len(gram) == size else None
        if not entries:
            self.why_not = "the gradients of the layers are not those of this batch alone"
            return
        self._write(scene, spread, covered - spread / size, size)
        if whole:
            self._tests(scene, torch.stack(whole).sum(0), covered)
        scene.number("noise_covered", entries / sum(p.numel() for p in scene.parameters.tensors))

    def _agrees(self, module: nn.Module, gram: Tensor, square: Tensor, size: int) -> bool:
        """Whether the parts of a layer add up to its gradient: tied weights and leftovers would go unnoticed else."""
        if len(gram) != size or gram.device.type != "cpu":
            return True
        found, wanted = float(gram.sum()), float(square)
        if abs(found - wanted) <= 1e-2 * max(found, wanted):
            return True
        if found == found and wanted == wanted:  # not in a step that overflowed
            self._wrong.add(module)
        return False

    def _tests(self, scene: Scene, gram: Tensor, square: Tensor) -> None:
        """The norm, inner-product and orthogonality tests of whether a batch is large enough (below 1: it is)."""
        n = len(gram)
        # x_j = n h_j, so that |x_j|² / |g|² and (x_j·g)² / |g|⁴ are:
        norms = n**2 * gram.diagonal().sum() / square
        along = n**2 * (gram.sum(1) ** 2).sum() / square**2
        denominator = n * (n - 1)
        scene.number("norm_test", ((norms - n) / denominator).clamp(min=0).sqrt())
        scene.number("inner_test", ((along - n) / denominator).clamp(min=0).sqrt())
        scene.number("ortho_test", ((norms - along) / denominator).clamp(min=0).sqrt())

    # ------------------------------------------------------------------ both

    def _note(self, scene: Scene, squares: Tensor, square: Tensor, count: int) -> None:
        spread = (count**2 * squares - count * square) / (count - 1)
        self._write(scene, spread, square - spread / count, count)

    def _write(self, scene: Scene, spread: Tensor, mean: Tensor, count: int) -> None:
        """The two parts for the batch as it was: trΣ/B and |G|², in the unit of the loss itself."""
        unit = 1.0 / scene.loss_scale**2
        self.why_not = None
        scene.number("gradient_noise", spread / count * unit)
        scene.number("gradient_signal", mean * unit)
        scene.number("noise_over_batch", spread / count / mean)

    def gradients(self, scene: Scene) -> None:
        """Put the parts together."""
        if self._squares:
            self._from_parts(scene)
        else:
            self._from_examples(scene)
        self.forget()

    def forget(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._squares = [], []
        self._grams, self._found = {}, {}


def _spread(gram: Tensor, size: int) -> Tensor:
    """Trace of the covariance of the single gradients, from the products of some of ``size`` parts of their mean."""
    count = len(gram)
    return size**2 * (gram.diagonal().sum() - gram.sum() / count) / (count - 1)


def _channels(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv1d, nn.Conv2d))


def _square(gradient: Tensor) -> Tensor:
    values = gradient.coalesce()._values() if gradient.is_sparse else gradient
    return torch.linalg.vector_norm(_wide(values)).square()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
