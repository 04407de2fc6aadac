"""Attention: scores, softmax and mixture as batched products over members, examples and heads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geartrain.ensemble.engines._stack._layer import Declined, Layer, Space, Weights, aligned
from geartrain.ensemble.engines._stack.linear import Linear

_aten = torch.ops.aten


class Attention(Layer):
    """``softmax(q k^T scale + mask) v`` on values (members, ..., places, width)."""

    def __init__(self, scale: float | None = None, causal: bool = False) -> None:
        super().__init__()
        self.scale, self.causal = scale, causal

    def forward(
        self,
        weights: Weights,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Shape of q, with the width of v."""
        self.shapes = q.shape, k.shape, v.shape
        self.factor = 1 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale
        self.q, self.k, self.v = (_flat(t, name, self.space) for t, name in ((q, "q"), (k, "k"), (v, "v")))
        size = (len(self.q), q.shape[-2], k.shape[-2])
        scores = torch.bmm(self.q, self.k.mT, out=self.space.get("scores", size, q)).mul_(self.factor)
        if self.causal:
            later = torch.ones(size[1:], dtype=torch.bool, device=q.device).triu(1)
            scores.masked_fill_(later, -torch.inf)
        if attn_mask is not None:
            _mask(scores.view(*q.shape[:-1], size[-1]), attn_mask)
        self.p = _aten._softmax.out(scores, -1, False, out=scores)
        y = torch.bmm(self.p, self.v, out=self.space.get("y", (*size[:2], v.shape[-1]), q))
        return y.view(*q.shape[:-1], v.shape[-1])

    def backward(
        self, weights: Weights, gradient: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Products with the transposes, around the softmax."""
        g = gradient.reshape(len(self.q), gradient.shape[-2], gradient.shape[-1])
        ds = torch.bmm(g, self.v.mT, out=self.space.get("ds", tuple(self.p.shape), g))
        dv = torch.bmm(self.p.mT, g, out=self.space.get("dv", tuple(self.v.shape), g))
        ds = _aten._softmax_backward_data.out(ds, self.p, -1, ds.dtype, grad_input=ds).mul_(self.factor)
        dq = torch.bmm(ds, self.k, out=self.space.get("dq", tuple(self.q.shape), g))
        dk = torch.bmm(ds.mT, self.q, out=self.space.get("dk", tuple(self.k.shape), g))
        return tuple(t.view(s) for t, s in zip((dq, dk, dv), self.shapes, strict=True))


def _flat(t: Tensor, name: str, space: Space) -> Tensor:
    if not t.is_contiguous():
        t = space.get(name, tuple(t.shape), t).copy_(t)
    return t.reshape(-1, t.shape[-2], t.shape[-1])


def _mask(scores: Tensor, mask: Tensor) -> None:
    """What must not be attended to gets minus infinity (False in a boolean mask), or what the mask says is added."""
    mask = aligned([scores, mask])[1]
    if mask.dtype == torch.bool:
        scores.masked_fill_(~mask, -torch.inf)
    else:
        scores.add_(mask)


class MultiheadSelfAttention(Layer):
    """`nn.MultiheadAttention` of a value with itself."""

    takes_options = True

    def __init__(self, module: nn.MultiheadAttention, names: dict[str, str]) -> None:
        super().__init__()
        self.heads = module.num_heads
        self.into = Linear(names["in_proj_weight"], names.get("in_proj_bias"))
        self.out = Linear(names["out_proj.weight"], names.get("out_proj.bias"))
        self.inner = Attention()
        self.weight_names = (*self.into.weight_names, *self.out.weight_names)

    def forward(
        self,
        weights: Weights,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Shape kept; the weights of attention are not given."""
        if key is not query or value is not query or key_padding_mask is not None or query.ndim != 4:
            raise Declined("its nn.MultiheadAttention is not plain self-attention over a batch")
        members, batch, places, width = query.shape
        parts = self.into.forward(weights, query).view(
            members, batch, places, 3, self.heads, width // self.heads
        )
        q, k, v = parts.permute(3, 0, 1, 4, 2, 5)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = ~attn_mask  # here True means: do not attend
        mixed = self.inner.forward(weights, q, k, v, attn_mask)
        joined = self.space.get("joined", (members, batch, places, width), query)
        joined.view(members, batch, places, self.heads, -1).copy_(mixed.transpose(2, 3))
        return self.out.forward(weights, joined), None

    def backward(
        self, weights: Weights, gradient: Any, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Backward through the three; all of it goes to the first of the three equal arguments."""
        (g,) = self.out.backward(weights, gradient[0], (True,))
        assert g is not None
        members, batch, places, width = g.shape
        split = g.view(members, batch, places, self.heads, width // self.heads).transpose(2, 3)
        parts = self.inner.backward(weights, split, (True,) * 3)
        whole = self.space.get("whole", (members, batch, places, 3, self.heads, width // self.heads), g)
        for i, part in enumerate(parts):
            assert part is not None
            whole[:, :, :, i].copy_(part.transpose(2, 3))
        (dx,) = self.into.backward(weights, whole.view(members, batch, places, 3 * width), (wanted[0],))
        return (dx, None, None)


def _of_module(module: nn.MultiheadAttention, names: dict[str, str]) -> Layer:
    if module.dropout > 0:
        raise Declined(f"it draws random numbers (attention with dropout={module.dropout:g})")
    if (
        not module.batch_first
        or module.bias_k is not None
        or module.add_zero_attn
        or module.in_proj_weight is None
    ):
        raise Declined("its nn.MultiheadAttention is not plain self-attention with batch_first=True")
    return MultiheadSelfAttention(module, names)


def _of_call(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Layer:  # fmt: skip
    if dropout_p or enable_gqa:
        raise Declined("its attention drops out or groups queries")
    return Attention(scale, is_causal)


MODULES = {nn.MultiheadAttention: _of_module}
FUNCTIONS = {functional.scaled_dot_product_attention: _of_call}
