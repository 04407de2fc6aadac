"""The parameters that an optimizer moves: their names, their layers, their norms, and flat copies of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geartrain.errors import UnsupportedError

# The kernels over lists of tensors that PyTorch's own optimizers use; it does not export them by name.
_fused: Any = torch


class Parameters:
    """What is watched: every parameter that the optimizer holds, in the order of ``model.parameters()``.

    Args:
        model: Where they get their names from.
        optimizer: Who moves them.
        limit: Entries that the flat copies hold at most; of larger models every k-th entry is taken.

    Attributes:
        names: As in ``model.named_parameters()`` (``"group 0.3"`` for those of nobody).
        tensors: The parameters.
        layers: Names of the modules that own them.
        stride: k: of each parameter every k-th entry is copied; 1 = all.
        home: Where small results are gathered.

    Raises:
        UnsupportedError: The parameters are sharded.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, limit: int) -> None:
        named = named_parameters(model)
        known = {id(p): name for name, p in named}
        order = {id(p): i for i, (_, p) in enumerate(named)}
        held = [
            (known.get(id(p), f"group {g}.{i}"), p)
            for g, group in enumerate(optimizer.param_groups)
            for i, p in enumerate(group["params"])
        ]
        held.sort(key=lambda pair: order.get(id(pair[1]), len(order)))
        if any(hasattr(p, "to_local") for _, p in held):
            raise UnsupportedError(
                "The parameters are sharded over processes (DTensor); gt.watch sees whole parameters only: one "
                "process, or DistributedDataParallel."
            )
        self.names = tuple(name for name, _ in held)
        self.tensors = [p for _, p in held]
        owners = [name.rpartition(".")[0] or "(model)" for name in self.names]
        self.layers = tuple(dict.fromkeys(owners))
        self.home = self.tensors[0].device
        self._owner = torch.tensor([self.layers.index(o) for o in owners], device=self.home)
        total = sum(p.numel() for p in self.tensors)
        self.stride = -(-total // limit)
        self.fingerprint = fingerprint(optimizer)

    # ------------------------------------------------------------------ norms

    def norms(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Norm of each tensor (0 where there is none), shape (parameters,), at least single precision."""
        groups: dict[Any, tuple[list[int], list[Tensor]]] = {}
        for i, t in enumerate(tensors):
            if t is not None:
                t = _entries(t.detach())
                places, members = groups.setdefault((t.device, t.dtype), ([], []))
                places.append(i)
                members.append(t)
        if len(groups) == 1 and len(next(iter(groups.values()))[0]) == len(tensors):
            return torch.stack(_norms(next(iter(groups.values()))[1]))
        dtype = torch.float64 if any(d == torch.float64 for _, d in groups) else torch.float32
        found = torch.zeros(len(tensors), dtype=dtype, device=self.home)
        for places, members in groups.values():
            found[places] = torch.stack(_norms(members)).to(self.home, dtype)
        return found

    def gradients(self) -> list[Tensor | None]:
        """What lies in ``.grad``."""
        return [p.grad for p in self.tensors]

    def by_layer(self, norms: Tensor) -> Tensor:
        """Norms per layer from norms per parameter, shape (layers,)."""
        squares = torch.zeros(len(self.layers), dtype=norms.dtype, device=norms.device)
        return squares.index_add_(0, self._owner, norms.square()).sqrt_()

    # ------------------------------------------------------------------ flat copies

    def buffer(self) -> Copy:
        """Room for a copy of everything."""
        return Copy(self)

    @property
    def entries(self) -> int:
        """Numbers in a flat copy."""
        return sum(-(-_real(p).numel() // self.stride) for p in self.tensors)


class Copy:
    """One number for every watched entry: flat on each device, and seen in the shapes of the parameters."""

    def __init__(self, parameters: Parameters) -> None:
        self.stride = parameters.stride
        self.flats: list[Tensor] = []
        self.views: list[Tensor] = [torch.empty(0)] * len(parameters.tensors)
        wide = torch.float64 if any(p.dtype == torch.float64 for p in parameters.tensors) else torch.float32
        for device in dict.fromkeys(p.device for p in parameters.tensors):
            members = [(i, self._part(p)) for i, p in enumerate(parameters.tensors) if p.device == device]
            flat = torch.empty(sum(t.numel() for _, t in members), dtype=wide, device=device)
            for (i, t), piece in zip(members, flat.split([t.numel() for _, t in members]), strict=True):
                self.views[i] = piece.view(t.shape)
            self.flats.append(flat)

    def _part(self, tensor: Tensor) -> Tensor:
        real = _real(tensor.detach())
        return real if self.stride == 1 else real.reshape(-1)[:: self.stride]

    def take(self, tensors: Sequence[Tensor | None]) -> None:
        """Copy tensors (zeros where there is none)."""
        parts = [self._part(t.to_dense() if t.is_sparse else t) for t in tensors if t is not None]
        views = [v for v, t in zip(self.views, tensors, strict=True) if t is not None]
        _fused._foreach_copy_(views, parts)
        missing = [v for v, t in zip(self.views, tensors, strict=True) if t is None]
        if missing:
            _fused._foreach_zero_(missing)

    def subtract(self, tensors: Sequence[Tensor]) -> None:
        """Take the tensors away, in place: what remains of a copy is the *negative* of the change since."""
        parts = [self._part(t) for t in tensors]
        if all(p.dtype == v.dtype for p, v in zip(parts, self.views, strict=True)):
            _fused._foreach_sub_(self.views, parts)
        else:
            _fused._foreach_sub_(self.views, [p.to(v.dtype) for p, v in zip(parts, self.views, strict=True)])

    def dot(self, other: Copy, home: torch.device) -> Tensor:
        """Inner product, shape ()."""
        return _total([torch.dot(a, b) for a, b in zip(self.flats, other.flats, strict=True)], home)

    def products(self, first: Copy, second: Copy, home: torch.device) -> tuple[Tensor, Tensor]:
        """Σ u v and Σ|u v| of the entries of two others, shapes (); what was in here is lost.

        New memory for the products would take longer than they do.
        """
        parts = list(zip(self.flats, first.flats, second.flats, strict=True))
        signed = _total([torch.mul(u, v, out=here).sum() for here, u, v in parts], home)
        return signed, _total([here.abs_().sum() for here, _, _ in parts], home)


def _total(parts: list[Tensor], home: torch.device) -> Tensor:
    total = parts[0].to(home)
    for part in parts[1:]:
        total = total + part.to(home)
    return total


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    narrow = tensors[0].dtype in (torch.float16, torch.bfloat16)
    return list(_fused._foreach_norm(tensors, 2, dtype=torch.float32 if narrow else None))


def _entries(tensor: Tensor) -> Tensor:
    """A tensor with the same norm that every kernel knows: entries of sparse ones, complex ones as pairs."""
    if tensor.is_sparse:
        tensor = tensor.coalesce()._values()
    return _real(tensor)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def fingerprint(optimizer: torch.optim.Optimizer) -> tuple[int, ...]:
    """Changes when parameters are handed to the optimizer or taken away."""
    return tuple(len(group["params"]) for group in optimizer.param_groups)


def plain_model(model: nn.Module) -> nn.Module:
    """The module that the user wrote, inside `torch.compile`, DistributedDataParallel and DataParallel."""
    while True:
        wrapped = (nn.parallel.DistributedDataParallel, nn.DataParallel)
        inner = model.module if isinstance(model, wrapped) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def named_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters of the module that the user wrote."""
    return list(plain_model(model).named_parameters())
