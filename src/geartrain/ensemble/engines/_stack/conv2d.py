"""Small convolutions: patches laid out as rows (channels last), then the products of a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geartrain.ensemble.engines._stack._layer import Declined, Layer, Weights


class Conv2d(Layer):
    """Plain two-dimensional convolution with stride and zero padding."""

    def __init__(self, module: nn.Conv2d, names: dict[str, str]) -> None:
        super().__init__()
        self.weight, self.bias = names["weight"], names.get("bias")
        self.weight_names = (self.weight, self.bias) if self.bias else (self.weight,)
        self.kernel: tuple[int, int] = (module.kernel_size[0], module.kernel_size[1])
        self.stride = (module.stride[0], module.stride[1])
        padding = module.padding
        if isinstance(padding, str):
            total = tuple(k - 1 if padding == "same" else 0 for k in self.kernel)
            if any(t % 2 for t in total):
                raise Declined("a convolution pads unevenly")
            self.padding = (total[0] // 2, total[1] // 2)
        else:
            self.padding = (padding[0], padding[1])

    def forward(self, weights: Weights, x: Tensor) -> Tensor:
        """Shape (members, examples, channels, height, width)."""
        if x.ndim != 5:
            raise Declined("a convolution gets something else than (examples, channels, height, width)")
        self.shape = members, examples, channels, height, width = x.shape
        (ph, pw), (kh, kw), (sh, sw) = self.padding, self.kernel, self.stride
        last = x.permute(0, 1, 3, 4, 2)
        if ph or pw:
            padded = self.space.get(
                "padded", (members, examples, height + 2 * ph, width + 2 * pw, channels), x
            )
            padded.zero_()
            padded[:, :, ph : ph + height, pw : pw + width].copy_(last)
            last = padded
        self.padded_shape = last.shape
        self.size = (last.shape[2] - kh) // sh + 1, (last.shape[3] - kw) // sw + 1
        patches = self.space.get("patches", (members, examples, *self.size, kh, kw, channels), x)
        for i in range(kh):
            for j in range(kw):
                patches[:, :, :, :, i, j].copy_(last[self._window(i, j)])
        self.rows = patches.view(members, -1, kh * kw * channels)
        w = weights.of(self.weight)
        self.flat = self.space.get("w", (members, w.shape[1], kh * kw * channels), w)
        self.flat.view(members, w.shape[1], kh, kw, channels).copy_(w.permute(0, 1, 3, 4, 2))
        y = self.space.get("y", (members, self.rows.shape[1], w.shape[1]), w)
        if self.bias:
            torch.baddbmm(weights.of(self.bias).unsqueeze(1), self.rows, self.flat.mT, out=y)
        else:
            torch.bmm(self.rows, self.flat.mT, out=y)
        return y.view(members, examples, *self.size, w.shape[1]).permute(0, 1, 4, 2, 3)

    def _window(self, i: int, j: int) -> tuple[slice, ...]:
        (sh, sw), (high, wide) = self.stride, self.size
        rows, columns = slice(i, i + sh * (high - 1) + 1, sh), slice(j, j + sw * (wide - 1) + 1, sw)
        return slice(None), slice(None), rows, columns

    def backward(
        self, weights: Weights, gradient: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """The products' backward, then the patches are added up where they came from."""
        (kh, kw), members, channels = self.kernel, self.shape[0], self.shape[2]
        g = gradient.permute(0, 1, 3, 4, 2).reshape(members, self.rows.shape[1], -1)
        if weights.trains(self.weight):
            dw = torch.bmm(g.mT, self.rows, out=self.space.get("dw", tuple(self.flat.shape), g))
            weights.put(self.weight, dw.view(members, -1, kh, kw, channels).permute(0, 1, 4, 2, 3))
        if self.bias and weights.trains(self.bias):
            weights.put(self.bias, g.sum(1))
        if not wanted[0]:
            return (None,)
        parts = torch.bmm(g, self.flat, out=self.space.get("parts", tuple(self.rows.shape), g))
        parts = parts.view(members, self.shape[1], *self.size, kh, kw, channels)
        whole = self.space.get("whole", tuple(self.padded_shape), g).zero_()
        for i in range(kh):
            for j in range(kw):
                whole[self._window(i, j)].add_(parts[:, :, :, :, i, j])
        (ph, pw), (height, width) = self.padding, self.shape[3:]
        return (whole[:, :, ph : ph + height, pw : pw + width].permute(0, 1, 4, 2, 3),)


def _of_module(module: nn.Conv2d, names: dict[str, str]) -> Layer:
    if module.groups != 1 or set(module.dilation) != {1} or module.padding_mode != "zeros":
        raise Declined("a convolution has groups, dilation or padding other than zeros")
    return Conv2d(module, names)


MODULES = {nn.Conv2d: _of_module}
