"""Inputs that are mostly zeros, above all one-hot codes: products become sums of gathered rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from geartrain.ensemble.engines._stack._layer import Space

WIDTH = 48
"""Inputs narrower than this are cheaper as products."""

SHARE = 1 / 24
"""Largest share of entries other than zero; a gathered number costs about as much as a dozen multiplied ones."""


class SparseRows:
    """The entries other than zero of x, shape (members, rows, width), ready for products from both sides.

    Attributes:
        shape: (members, rows, width) of x.
    """

    def __init__(self, members: int, x: Tensor, shared: bool) -> None:
        sheets = 1 if shared else members
        self.shape = (members, x.shape[-2], x.shape[-1])
        sheet, row, column = x.reshape(sheets, *x.shape[-2:]).nonzero(as_tuple=True)
        values = x.reshape(sheets, *x.shape[-2:])[sheet, row, column]
        if shared:
            number = len(row)
            sheet = torch.arange(members, device=x.device).repeat_interleave(number)
            row, column, values = row.repeat(members), column.repeat(members), values.repeat(members)
        row, column = row + sheet * self.shape[1], column + sheet * self.shape[2]
        self.columns, self.row_starts = column, _starts(row, members * self.shape[1])
        order = column.argsort(stable=True)
        self.rows, self.column_starts = row[order], _starts(column, members * self.shape[2])
        ones = bool((values == 1).all())
        self.values = None if ones else values
        self.transposed_values = None if ones else values[order]

    def products(self, weight: Tensor, space: Space, *, out: Tensor) -> Tensor:
        """``x @ weight^T`` for weight (members, out, width)."""
        members, _, width = self.shape
        table = space.get("table", (members, width, weight.shape[1]), weight)
        table.copy_(weight.mT)
        out.view(-1, weight.shape[1]).copy_(
            _bags(table.flatten(0, 1), self.columns, self.row_starts, self.values)
        )
        return out

    def transposed_products(self, gradient: Tensor, space: Space) -> Tensor:
        """``x^T @ gradient`` for gradient (members, rows, out), shape (members, width, out)."""
        flat = gradient.reshape(-1, gradient.shape[-1])
        bags = _bags(flat, self.rows, self.column_starts, self.transposed_values)
        return bags.view(self.shape[0], self.shape[2], -1)


def _starts(sorted_or_not: Tensor, number: int) -> Tensor:
    counts = torch.bincount(sorted_or_not, minlength=number)
    return counts.cumsum(0) - counts


def _bags(table: Tensor, which: Tensor, starts: Tensor, values: Tensor | None) -> Tensor:
    return functional.embedding_bag(which, table, starts, mode="sum", per_sample_weights=values)


def sparse_rows(x: Tensor, owner: Any) -> SparseRows | None:
    """The sparse form of x, shape (members, rows, width), or ``None`` if it has too few zeros.

    Kept on the owner as long as the same tensor comes again, as it does with full batches; the tensor is held, so that
    no other can take its place in memory.
    """
    if x.shape[-1] < WIDTH or x.device.type != "cpu":
        return None
    key = (x.data_ptr(), x.shape, x.stride(), x._version)
    if owner._seen and owner._seen[0] == key:
        return owner._seen[2]
    few = x[0, :16]
    found = None
    if few.count_nonzero() <= SHARE * few.numel():
        shared = x.stride(0) == 0
        sheet = x[0] if shared else x
        if sheet.count_nonzero() <= SHARE * sheet.numel():
            found = SparseRows(len(x), sheet, shared)
    owner._seen = (key, x, found)
    return found
