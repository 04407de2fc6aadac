"""The Objective: model + loss + data, seen as a function of the parameters.

It answers value, gradient, products with the Hessian, the Gauss-Newton matrix and the gradient covariance, and
per-example gradients, always as flat vectors in the order of ``model.parameters()``. Whatever it computes, the
program around it (parameters, ``.grad``, buffers, modes, random states, loader order) is afterwards as before.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from geartrain._torch import batches as _batches
from geartrain._torch import flat, kernels, layer_pairs, per_example, rng
from geartrain._torch.finite import finite, first_nonfinite_module
from geartrain._torch.linearization import GaussNewton, Linearization, Point
from geartrain._torch.loss import Loss, LossModule, SupervisedLoss, check_scalar, loss_of
from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.records import Cost


class Objective:
    """A training loss as a function of the parameters.

    Args:
        model: Any module. Its parameters that need gradients are the variables.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, the *mean* over the examples.
        data: ``(inputs, targets)`` tensors, a dataset, a loader, a list of batches, or a dict of tensors. Inputs that
            are dicts are passed as keywords, tuples as positional arguments.
        batch_loss: Instead of ``loss_fn``: ``batch_loss(model, batch) -> scalar``, for anything else (language
            models, losses with input derivatives, dict batches). For dict data without any loss,
            ``model(**batch).loss`` is used.
        parameters: Restrict the variables: a glob pattern over names, several, or a predicate of (name, parameter).
        probe: Use a fixed random subset of that many examples instead of everything.
        micro_batch: Split the data into pieces of that many examples, to bound memory. Not possible where batch
            normalisation in training mode couples the examples.
        training: Measure in training (True) or evaluation (False) mode; ``None`` keeps the modes as they are.
        seed: Fixes what dropout and the like draw (the same at every evaluation, so that the loss is a
            function), and which examples the probe takes.
        transform: Applied to every batch once, beforehand.

    Attributes:
        num_params: Number of variables.
        work: Running total of what has been computed, as a `Cost`.

    Raises:
        InputError: No parameter needs a gradient, the data are empty, hold NaN, or do not fit the loss.

    Example:
        The loss ½(w·1 - 3)² has curvature 1:

        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> loss = lambda outputs, targets: 0.5 * ((outputs - targets) ** 2).mean()
        >>> one, three = torch.ones(1, 1).double(), 3 * torch.ones(1, 1).double()
        >>> Objective(model, loss, (one, three)).hvp(torch.ones(1).double())
        tensor([1.], dtype=torch.float64)
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss | None = None,
        data: Any = None,
        *,
        batch_loss: _batches.BatchLoss | None = None,
        parameters: flat.ParameterFilter | None = None,
        probe: int | None = None,
        micro_batch: int | None = None,
        training: bool | None = None,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"model is a {type(model).__name__}; it must be a torch.nn.Module.")
        self.model = model
        self.loss_fn = loss_fn
        self.batch_loss = loss_of(model, loss_fn, batch_loss, data)
        self.training = training
        self.seed = seed
        self._parameters = flat.select(model, parameters)
        self.layout = flat.layout_of(self._parameters)
        self.device = next(iter(self._parameters.values())).device
        if data is None:
            raise InputError(
                "No data were given; pass (inputs, targets), a dataset, a loader or a list of batches."
            )
        data = _batches.materialise(data, probe=probe, seed=seed, what="data of the objective")
        data = [_batches.to_device(batch, self.device) for batch in data]
        self._batches = [transform(batch) for batch in data] if transform else data
        if micro_batch is not None:
            self._split(micro_batch)
        self.num_examples = sum(map(_batches.size_of, self._batches))
        self._meter, self._share = _Meter(), 1.0
        self._caller = LossModule(model, self.batch_loss)
        self._linearization: Linearization | None = None
        self._gauss_newton: GaussNewton | None = None
        self.uses_attention = self._probe_once()

    # ------------------------------------------------------------------ properties

    @property
    def num_params(self) -> int:
        """Number of variables, the length of every flat vector."""
        return self.layout.num_params

    @property
    def dtype(self) -> torch.dtype:
        """Type of the flat vectors (at least float32, also for bfloat16 models)."""
        return self.layout.dtype

    @property
    def notes(self) -> tuple[str, ...]:
        """Things to know about every number of this objective, as sentences."""
        notes = []
        if self.uses_attention:
            notes.append("Attention ran on the math kernel: the fused ones have no second derivative.")
        with kernels.mode(self.model, self.training):
            if kernels.draws_random_numbers(self.model):
                notes.append(f"Dropout was on; its masks are fixed by seed {self.seed}.")
            if kernels.mixes_examples(self.model):
                notes.append(
                    "Batch normalisation was in training mode: the loss is that of these very batches."
                )
        return tuple(notes)

    @property
    def work(self) -> Cost:
        """What has been computed so far, in passes over the data; restrictions and twins count on the same meter."""
        return self._meter.spent

    def parameters(self) -> Tensor:
        """The present parameters as one vector, shape (params,), a copy."""
        return self.layout.flatten(p.detach() for p in self._parameters.values())

    def layers(self) -> dict[str, list[str]]:
        """Names of the parameters by the module that owns them."""
        groups: dict[str, list[str]] = {}
        for name in self.layout.names:
            groups.setdefault(name.rpartition(".")[0], []).append(name)
        return groups

    def restrict(self, parameters: flat.ParameterFilter) -> Objective:
        """The same loss as a function of some of the parameters only (the rest held at their values).

        Raises:
            InputError: The filter selects nothing.
        """
        chosen = flat.select(self.model, parameters)
        chosen = {n: p for n, p in chosen.items() if n in self._parameters}
        return self._copy(_parameters=chosen, layout=flat.layout_of(chosen))

    def on(self, data: Any) -> Objective:
        """The same loss on other data, already in batches or whole."""
        parts = _batches.materialise(data, probe=None, seed=self.seed, what="data of the objective")
        parts = [_batches.to_device(batch, self.device) for batch in parts]
        count = sum(map(_batches.size_of, parts))
        share = self._share * count / self.num_examples
        return self._copy(_batches=parts, num_examples=count, _share=share)

    def of(self, model: nn.Module) -> Objective:
        """The same loss and data as a function of another model's parameters (all of them), in the same mode."""
        loss = self.batch_loss.loss_fn if isinstance(self.batch_loss, SupervisedLoss) else None
        twin = Objective(
            model,
            loss,
            list(self._batches),
            batch_loss=None if loss is not None else self.batch_loss,
            training=self.training,
            seed=self.seed,
        )
        twin._meter, twin._share = self._meter, self._share
        return twin

    def _copy(self, **changes: Any) -> Objective:
        twin = object.__new__(Objective)
        twin.__dict__.update(self.__dict__)
        twin.__dict__.update(changes, _linearization=None, _gauss_newton=None)
        return twin

    @property
    def batches(self) -> tuple[Any, ...]:
        """The batches that the loss is averaged over, weighted by their numbers of examples."""
        return tuple(self._batches)

    # ------------------------------------------------------------------ value and derivatives

    def value(self, params: Tensor | None = None) -> Tensor:
        """The loss, a scalar tensor. **Cost**: one forward pass.

        Args:
            params: Where; shape (params,). The present parameters if omitted.

        Returns:
            The loss in its own unit ℓ.

        Raises:
            NonFiniteError: The loss is NaN or infinite; the message names the first module responsible.
        """
        total = torch.zeros((), dtype=self.dtype, device=self.device)
        with self._quiet():
            leaves = self._leaves(params)
            for weight, batch in self._weighted():
                total += weight * self._forward_loss(leaves, batch)
        self.charge(forwards=1)
        return self._finite(total, "loss", params)

    def gradient(self, params: Tensor | None = None) -> Tensor:
        """Gradient of the loss, shape (params,), unit ℓ/θ. **Cost**: one gradient.

        Raises:
            NonFiniteError: It is NaN or infinite.
        """
        total = torch.zeros(self.num_params, dtype=self.dtype, device=self.device)
        with self._quiet():
            leaves = self._leaves(params)
            for weight, batch in self._weighted():
                loss = self._loss(leaves, batch)
                parts = torch.autograd.grad(
                    loss, list(leaves.values()), allow_unused=True, materialize_grads=True
                )
                total += weight * self.layout.flatten(parts)
        self.charge(gradients=1)
        return self._finite(total, "gradient", params)

    def hvp(self, v: Tensor, params: Tensor | None = None) -> Tensor:
        """Product of the Hessian with a vector, unit ℓ/θ² times that of ``v``.

        Double backward through one retained graph: the first product at a point builds it (one gradient), every
        product is then one backward pass through it. **Cost**: about 1.4 to 2.5 gradients per product.

        Args:
            v: Shape (params,), or (params, k) for k products.
            params: Where; shape (params,). The present parameters if omitted.

        Returns:
            Same shape as ``v``.

        Raises:
            InputError: Wrong shape.
            NonFiniteError: The loss or the product is not finite.
            UnsupportedError: A layer has no second derivative in PyTorch.
        """
        return self._columns(v, lambda column: self._linearized(params).product(column), params)

    def ggnvp(self, v: Tensor, params: Tensor | None = None) -> Tensor:
        """Product of the generalised Gauss-Newton matrix Jᵀ (∂²ℓ/∂f²) J with a vector.

        Positive semidefinite wherever the loss is convex in the outputs. **Cost**: about 2 to 3 gradients.

        Args:
            v: Shape (params,), or (params, k).
            params: Where; the present parameters if omitted.

        Returns:
            Same shape as ``v``.

        Raises:
            UnsupportedError: The objective was made from ``batch_loss``, which hides the outputs.
        """
        return self._columns(v, lambda column: self._gauss_newton_at(params).product(column), params)

    def covariance_vp(self, v: Tensor, params: Tensor | None = None) -> Tensor:
        """Product of the per-example gradient covariance (1/n)Σ gᵢgᵢᵀ - ggᵀ with a vector, unit ℓ²/θ² times its own.

        **Cost**: one pass of per-example gradients for all columns of ``v`` together.

        Args:
            v: Shape (params,), or (params, k).
            params: Where; the present parameters if omitted.

        Returns:
            Same shape as ``v``.
        """
        self._check_vector(v)
        vectors = v if v.ndim == 2 else v[:, None]
        total = torch.zeros_like(vectors, dtype=self.dtype)
        mean = torch.zeros(self.num_params, dtype=self.dtype, device=self.device)
        for rows in self.per_example_gradient_chunks(params):
            total += rows.T @ (rows @ vectors.to(self.dtype)) / self.num_examples
            mean += rows.sum(0) / self.num_examples
        product = total - torch.outer(mean, mean @ vectors.to(self.dtype))
        return product if v.ndim == 2 else product[:, 0]

    # ------------------------------------------------------------------ per example

    def per_example_gradients(self, params: Tensor | None = None) -> Tensor:
        """Gradient of each example's own loss, shape (examples, params), unit ℓ/θ.

        **Cost**: about one to a few gradients where the model can be vectorised, else one small gradient per
        example; memory examples x params. **Assumes** that the loss is a mean over the examples; checked.

        Raises:
            UnsupportedError: Batch normalisation in training mode couples the examples, or the loss is no mean.
        """
        return torch.cat(list(self.per_example_gradient_chunks(params)))

    def per_example_gradient_norms(self, params: Tensor | None = None) -> Tensor:
        """Euclidean norms of the per-example gradients, shape (examples,), unit ℓ/θ; memory stays bounded."""
        return self.per_example_gradient_squares(params).sum(1).sqrt()

    def per_example_gradient_squares(self, params: Tensor | None = None) -> Tensor:
        """Squared norms of the per-example gradients by parameter tensor, shape (examples, tensors), unit ℓ²/θ².

        **Cost**: about two gradients where layers allow norms without gradients (linear, convolutional, embedding and
        normalising ones; checked on a few examples), else as `per_example_gradients`. Columns as ``layout.names``.

        Raises:
            UnsupportedError: As for `per_example_gradients`.
        """
        return layer_pairs.gradient_squares(self, params)

    def per_example_losses(self, params: Tensor | None = None) -> Tensor:
        """Loss of each example by itself, shape (examples,), unit ℓ. **Cost**: one small forward pass per example.

        Raises:
            UnsupportedError: Batch normalisation in training mode couples the examples.
        """
        self._refuse_coupled_examples()
        with self._quiet():
            leaves = self._leaves(params)
            losses = [per_example.losses(self, leaves, batch) for batch in self._batches]
        self.charge(forwards=1)
        return torch.cat(losses)

    def per_example_gradient_chunks(
        self, params: Tensor | None = None, *, chunk: int | None = None
    ) -> Iterator[Tensor]:
        """The rows of `per_example_gradients` in pieces of bounded size, each of shape (chunk, params).

        Args:
            params: Where; the present parameters if omitted.
            chunk: Examples at a time; chosen to keep a piece under 256 MB if omitted.

        Yields:
            Pieces, in the order of the data.

        Raises:
            UnsupportedError: As for `per_example_gradients`.
        """
        self._refuse_coupled_examples()
        chunk = chunk or max(1, min(512, 2**28 // (4 * self.num_params)))
        self.charge(gradients=1)
        for batch in self._batches:
            for start in range(0, _batches.size_of(batch), chunk):
                part = _batches.take(batch, slice(start, start + chunk))
                with self._quiet():
                    rows, mean_loss = per_example.gradients(self, self._leaves(params), part)
                    together = self._loss(self._leaves(params), part).detach()
                per_example.check_mean(mean_loss, together, kernels_random=self._random())
                yield self._finite(rows, "per-example gradient", params)

    def outputs(self, params: Tensor | None = None) -> Any:
        """The model's outputs on all the data, concatenated along the examples. **Cost**: one forward pass.

        Raises:
            UnsupportedError: The objective was made from ``batch_loss``.
        """
        self._need_outputs("The outputs")
        with self._quiet():
            leaves = self._leaves(params)
            parts = [kernels.without_gradients(lambda b=b: self._outputs(leaves, b)) for b in self._batches]
        self.charge(forwards=1)
        return _batches.join(parts)

    # ------------------------------------------------------------------ how it is done

    def release(self) -> None:
        """Free the graphs that were retained for products."""
        self._linearization = None
        self._gauss_newton = None

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Everything is evaluated in here: nothing of the user's program is changed by what happens inside."""
        with rng.fixed(self.seed), kernels.mode(self.model, self.training), kernels.twice_differentiable():
            yield

    def _leaves(self, params: Tensor | None) -> dict[str, Tensor]:
        """Fresh variables without the history of the user's parameters (at the present point they share memory)."""
        if params is None:
            values = [p.detach() for p in self._parameters.values()]
        else:
            values = self.layout.unflatten(params.detach())
        return {n: v.requires_grad_() for n, v in zip(self.layout.names, values, strict=True)}

    def _state(self, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Variables, and copies of the buffers: batch normalisation writes to them."""
        state = {f"model.{n}": b.clone() for n, b in self.model.named_buffers()}
        return state | {f"model.{n}": v for n, v in leaves.items()}

    def _loss(self, leaves: Mapping[str, Tensor], batch: Any) -> Tensor:
        loss = functional_call(self._caller, self._state(leaves), (_batches.detached(batch),))
        return check_scalar(loss)

    def _forward_loss(self, leaves: Mapping[str, Tensor], batch: Any) -> Tensor:
        """The loss without a graph, as wide as the flat vectors."""
        return kernels.without_gradients(lambda: self._loss(leaves, batch)).detach().to(self.dtype)

    def _outputs(self, leaves: Mapping[str, Tensor], batch: Any) -> Any:
        return functional_call(
            self._caller, self._state(leaves), (_batches.detached(batch),), {"only_outputs": True}
        )

    def _weighted(self) -> list[tuple[float, Any]]:
        return [(_batches.size_of(b) / self.num_examples, b) for b in self._batches]

    def _linearized(self, params: Tensor | None) -> Linearization:
        point = self._point(params)
        if self._linearization is None or not point.same(self._linearization.point):
            self._linearization = None  # free the old graph before building the new one
            self._linearization = Linearization(self, params, point)
            self.charge(gradients=1)
            self._finite(self._linearization.gradient(), "gradient", params)
        return self._linearization

    def _gauss_newton_at(self, params: Tensor | None) -> GaussNewton:
        self._need_outputs("The Gauss-Newton matrix")
        point = self._point(params)
        if self._gauss_newton is None or not point.same(self._gauss_newton.point):
            self._gauss_newton = None
            self._gauss_newton = GaussNewton(self, params, point)
            self.charge(gradients=1)
        return self._gauss_newton

    def _point(self, params: Tensor | None) -> Point:
        data = [t for t in tree_leaves(self._batches) if isinstance(t, Tensor)]
        mine = [*self.model.parameters(), *self.model.buffers()]
        modes = tuple(m.training for m in self.model.modules())
        return Point.of(mine, data, None if params is None else params.detach(), modes)

    def _check_vector(self, v: Tensor) -> None:
        if v.ndim not in (1, 2) or v.shape[0] != self.num_params:
            raise InputError(
                f"The vector has shape {tuple(v.shape)}; this objective has {self.num_params} parameters, so the "
                f"shape must be ({self.num_params},) or ({self.num_params}, k), in the order of model.parameters()."
            )
        if not finite(v):
            raise NonFiniteError(
                "The vector to be multiplied holds NaN or infinite numbers; only finite ones can be."
            )

    def _columns(self, v: Tensor, product: Callable[[Tensor], Tensor], params: Tensor | None) -> Tensor:
        self._check_vector(v)
        columns = v[:, None] if v.ndim == 1 else v
        results = []
        for column in columns.to(self.dtype).T:
            try:
                results.append(self._finite(product(column), "product", params))
            except NotImplementedError as error:
                if isinstance(error, UnsupportedError):
                    raise
                raise UnsupportedError(
                    f"PyTorch cannot differentiate this model twice: {error} Replace the layer that it belongs to "
                    "(nn.EmbeddingBag by nn.Embedding and a mean, say), or measure what needs gradients only."
                ) from error
            self.charge(products=1)
        return torch.stack(results, dim=1) if v.ndim == 2 else results[0]

    def charge(self, *, forwards: float = 0.0, gradients: float = 0.0, products: float = 0.0) -> None:
        """Put on the meter what was computed without the methods above, in passes over all the data of this one."""
        share = self._share
        self._meter.spent += Cost(forwards * share, gradients * share, products * share)

    def _random(self) -> bool:
        with kernels.mode(self.model, self.training):
            return kernels.draws_random_numbers(self.model)

    def _need_outputs(self, what: str) -> None:
        if self._caller.only_loss:
            raise UnsupportedError(
                f"{what} cannot be had: batch_loss(model, batch) hides the model's outputs. "
                "Build the objective as Objective(model, loss_fn, data) with loss_fn(outputs, targets)."
            )

    def _refuse_coupled_examples(self) -> None:
        with kernels.mode(self.model, self.training):
            if kernels.mixes_examples(self.model):
                raise UnsupportedError(
                    "Per-example gradients are undefined while batch normalisation is in training mode: every "
                    "example's loss depends on the others. Measure with Objective(..., training=False)."
                )

    def _finite(self, thing: Tensor, what: str, params: Tensor | None) -> Tensor:
        if finite(thing):
            return thing
        culprit = self._first_nonfinite(params)
        maker = "the loss function" if what == "loss" else "its derivative"
        origin = (
            f"first in {culprit}" if culprit else f"although every module's output is finite: {maker} made it"
        )
        raise NonFiniteError(f"The {what} is NaN or infinite, {origin}.", module=culprit)

    def _first_nonfinite(self, params: Tensor | None) -> str | None:
        if params is not None and not bool(torch.isfinite(params).all()):
            return "the parameters that were passed"
        with self._quiet():
            leaves = self._leaves(params)
            for batch in self._batches:
                culprit = first_nonfinite_module(self.model, lambda b=batch: self._loss(leaves, b))
                if culprit:
                    return culprit
        return None

    def _split(self, size: int) -> None:
        with kernels.mode(self.model, self.training):
            if kernels.mixes_examples(self.model):
                raise UnsupportedError(
                    "micro_batch would change the loss: batch normalisation in training mode couples the examples of "
                    "a batch. Leave it out, or measure with training=False."
                )
        if size < 1:
            raise InputError(f"micro_batch is {size}; it must be at least 1.")
        parts = []
        for batch in self._batches:
            parts += [
                _batches.take(batch, slice(i, i + size)) for i in range(0, _batches.size_of(batch), size)
            ]
        self._batches = parts

    def _probe_once(self) -> bool:
        """One forward pass on the first batch: is attention used, and is the loss a scalar?"""
        with self._quiet(), kernels.AttentionSpy() as spy:
            self._forward_loss(self._leaves(None), self._batches[0])
        return spy.seen

    def __repr__(self) -> str:
        model = type(self.model).__name__
        return f"<Objective: {model}, {self.num_params} parameters, {self.num_examples} examples>"


@dataclasses.dataclass
class _Meter:
    spent: Cost = dataclasses.field(default_factory=Cost)
