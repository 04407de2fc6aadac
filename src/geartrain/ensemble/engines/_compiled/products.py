"""Small matrix products at the speed of the vector units: a block of the result stays in registers.

Plain loops leave half of it on the table, since the compiler must assume that the arrays overlap and reloads the
result in every turn. The block is therefore written as LLVM vectors; columns that fill no vector go by plain loops.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from geartrain.ensemble.engines._compiled.numbers import compiled

WIDE = bool(llvm.get_host_cpu_features().get("avx512f"))
VECTOR_BYTES = 64 if WIDE else 32
ROWS = 4
VECTORS = 4 if WIDE else 2
"""Vectors beside one another in a block: with `ROWS` rows of them, half of the registers there are."""


def _block(rows: int, vectors: int) -> Any:
    """An operation on ``rows`` rows of ``vectors`` vectors of c: ``c[r, :] += sum_k a[r, k] b[k, :]``.

    Arguments are arrays and, for each, where its block starts and how far apart its rows (and, for a, its columns) are,
    all in numbers; then the number of terms.
    """

    @intrinsic
    def block(typing: Any, c: Any, c0: Any, cr: Any, a: Any, a0: Any, ar: Any, ak: Any, b: Any, b0: Any, bk: Any, terms: Any) -> Any:  # noqa: E501  # fmt: skip
        integer = types.intp
        signature = types.void(
            c, integer, integer, a, integer, integer, integer, b, integer, integer, integer
        )

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            number = context.get_value_type(c.dtype)
            lanes = VECTOR_BYTES // (4 if c.dtype == types.float32 else 8)
            vector, zeros = ir.VectorType(number, lanes), ir.VectorType(ir.IntType(32), lanes)
            pc, pa, pb = (
                context.make_array(t)(context, builder, args[i]).data for i, t in ((0, c), (3, a), (7, b))
            )
            _, first, c_row, _, a_first, a_row, a_term, _, b_first, b_term, count = args
            size = 4 if c.dtype == types.float32 else 8

            def place(pointer: Any, start: Any, extra: int) -> Any:
                at = builder.add(start, ir.Constant(start.type, extra * lanes))
                return builder.bitcast(builder.gep(pointer, [at]), vector.as_pointer())

            starts = [builder.add(first, builder.mul(c_row, ir.Constant(c_row.type, r))) for r in range(rows)]
            places = [[place(pc, s, v) for v in range(vectors)] for s in starts]
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(rows)]
            for r in range(rows):
                for v in range(vectors):
                    builder.store(builder.load(places[r][v], align=size), sums[r][v])
            with cgutils.for_range(builder, count) as loop:
                b_start = builder.add(b_first, builder.mul(loop.index, b_term))
                parts = [builder.load(place(pb, b_start, v), align=size) for v in range(vectors)]
                a_start = builder.add(a_first, builder.mul(loop.index, a_term))
                for r in range(rows):
                    at = builder.add(a_start, builder.mul(a_row, ir.Constant(a_row.type, r)))
                    one = builder.insert_element(
                        ir.Constant(vector, ir.Undefined),
                        builder.load(builder.gep(pa, [at])),
                        ir.IntType(32)(0),
                    )
                    everywhere = builder.shuffle_vector(one, one, ir.Constant(zeros, [0] * lanes))
                    for v in range(vectors):
                        product = builder.fmul(everywhere, parts[v], flags=("contract",))
                        total = builder.fadd(builder.load(sums[r][v]), product, flags=("contract",))
                        builder.store(total, sums[r][v])
            for r in range(rows):
                for v in range(vectors):
                    builder.store(builder.load(sums[r][v]), places[r][v], align=size)
            return context.get_dummy_value()

        return signature, generate

    return block


_full = _block(ROWS, VECTORS)
_slim = _block(ROWS, 1)
_row = _block(1, VECTORS)
_crumb = _block(1, 1)


@compiled
def _add_product(c: Any, a: Any, ar: int, ak: int, b: Any, terms: int) -> None:
    """``c[p, :] += sum_k a[p * ar + k * ak] b[k, :]`` with a flat."""
    rows, width = c.shape
    lanes = VECTOR_BYTES // c.itemsize
    p = 0
    while p < rows:
        several = p + ROWS <= rows
        j = 0
        while j + lanes <= width:
            start = p * width + j
            if j + VECTORS * lanes <= width:
                if several:
                    _full(c, start, width, a, p * ar, ar, ak, b, j, width, terms)
                else:
                    _row(c, start, width, a, p * ar, ar, ak, b, j, width, terms)
                j += VECTORS * lanes
            else:
                if several:
                    _slim(c, start, width, a, p * ar, ar, ak, b, j, width, terms)
                else:
                    _crumb(c, start, width, a, p * ar, ar, ak, b, j, width, terms)
                j += lanes
        if j < width:
            for q in range(p, p + ROWS if several else p + 1):
                for k in range(terms):
                    x = a[q * ar + k * ak]
                    for i in range(j, width):
                        c[q, i] += x * b[k, i]
        p += ROWS if several else 1


@compiled
def multiply(c: Any, a: Any, b: Any, bt: Any) -> None:
    """``c += a @ b``, with ``bt`` the transpose of b; rows of b are added up, or dotted where c is narrow."""
    rows, inner = a.shape
    width = c.shape[1]
    if width >= 8:
        _add_product(c, a.reshape(-1), inner, 1, b, inner)
        return
    for p in range(rows):
        for j in range(width):
            total = a[p, 0] * bt[j, 0]
            for k in range(1, inner):
                total += a[p, k] * bt[j, k]
            c[p, j] += total


@compiled
def multiply_first_transposed(c: Any, a: Any, b: Any) -> None:
    """``c += a^T @ b``."""
    _add_product(c, a.reshape(-1), 1, a.shape[1], b, a.shape[0])
