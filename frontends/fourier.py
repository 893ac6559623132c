"""Fourier transforms of pairs of real tensors, as products with constant matrices.

Short dimensions, and prime ones, are one product with the matrix of all roots of unity. Longer ones are split in two
factors (Cooley & Tukey, "An algorithm for the machine calculation of complex Fourier series", 1965): transforms of the
columns, a turn of each element, transforms of the rows. Roots are computed in float64 from exact integers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from ullage.errors import UnsupportedOperator
from ullage.frontends.complex_pairs import Pair, Part, Rewriter, Rule

aten: Any = torch.ops.aten
_DIRECT = 128
"""The longest dimension that is one product: up to here the matrix is at most 64 KiB for each part."""


def _size(node: Any) -> list[int]:
    sizes = list(node.meta["val"].shape)
    if not all(isinstance(n, int) for n in sizes):
        raise UnsupportedOperator({"a Fourier transform": [node.name]}, "Its dimensions must be static.")
    return sizes


def _roots(on: Rewriter, rows: int, columns: int, length: int, sign: float, dtype: torch.dtype) -> Pair:
    """exp(sign · 2πi · row · column / length) as [rows, columns]."""
    steps = [on.call(aten.arange.start_step, 0, n, 1, dtype=torch.int64, device="cpu") for n in (rows, columns)]
    product = on.call(aten.mul.Tensor, on.call(aten.unsqueeze.default, steps[0], 1), steps[1])
    turns = on.call(aten._to_copy.default, on.call(aten.remainder.Scalar, product, length), dtype=torch.float64)
    angle = on.call(aten.mul.Tensor, turns, 2 * math.pi / length)
    re, im = (on.call(op, angle) for op in (aten.cos.default, aten.sin.default))
    parts = (re, on.call(aten.mul.Tensor, im, sign))
    return Pair(*parts if dtype is torch.float64 else (on.call(aten._to_copy.default, p, dtype=dtype) for p in parts))


def _multiplied(on: Rewriter, x: Pair, matrix: Pair) -> Pair:
    """x · matrixᵀ along the last dimension."""

    def product(part: Part, weight: Part) -> Part:
        return on.call(aten.linear.default, part, weight) if isinstance(part, Node) else 0.0

    re = on.add(product(x.re, matrix.re), product(x.im, matrix.im), -1.0)
    return Pair(re, on.add(product(x.re, matrix.im), product(x.im, matrix.re)))


def _factor(length: int) -> int:
    """The factor nearest to the square root, 1 of a prime."""
    return next(n for n in range(math.isqrt(length), 0, -1) if length % n == 0)


def _mapped(on: Rewriter, x: Pair, op: Any, *args: Any) -> Pair:
    re, im = (on.call(op, part, *args) if isinstance(part, Node) else part for part in (x.re, x.im))
    return Pair(re, im)


def _along_last(on: Rewriter, x: Pair, sign: float) -> Pair:
    """The transform of the last dimension."""
    assert isinstance(x.re, Node)
    *lead, length = _size(x.re)
    dtype, first = x.re.meta["val"].dtype, _factor(length)
    if length <= _DIRECT or first == 1:
        return _multiplied(on, x, _roots(on, length, length, length, sign, dtype))
    second = length // first
    columns = _mapped(on, _mapped(on, x, aten.reshape.default, [*lead, first, second]), aten.transpose.int, -1, -2)
    turned = on.times(_along_last(on, columns, sign), _roots(on, second, first, length, sign, dtype))
    rows = _along_last(on, _mapped(on, turned, aten.transpose.int, -1, -2), sign)
    return _mapped(on, _mapped(on, rows, aten.transpose.int, -1, -2), aten.reshape.default, [*lead, length])


def _along(on: Rewriter, x: Pair, dim: int, sign: float) -> Pair:
    assert isinstance(x.re, Node)
    last = len(_size(x.re)) - 1
    if dim % (last + 1) == last:
        return _along_last(on, x, sign)
    moved = _along_last(on, _mapped(on, x, aten.transpose.int, dim, -1), sign)
    return _mapped(on, moved, aten.transpose.int, dim, -1)


def _normalised(on: Rewriter, x: Pair, lengths: Sequence[int], mode: int) -> Pair:
    """Mode 0 leaves sums, 1 divides by the root of their number, 2 by their number."""
    count = math.prod(lengths)
    factor = (1.0, 1.0 / math.sqrt(count), 1.0 / count)[mode]
    return x if factor == 1.0 else Pair(on.mul(x.re, factor), on.mul(x.im, factor))


def _arguments(node: Node) -> tuple[Any, ...]:
    """The positional arguments, untyped: their types follow from the operator's schema."""
    return node.args


def _real_to_complex(on: Rewriter, node: Node) -> Pair:
    source, dims, mode, half = _arguments(node)
    sizes = _size(source)
    x = Pair(source, 0.0)
    *rest, last = dims
    x = _along(on, x, last, -1.0)
    if half:
        x = _mapped(on, x, aten.slice.Tensor, last, 0, sizes[last] // 2 + 1)
    for dim in rest:
        x = _along(on, x, dim, -1.0)
    return _whole(on, _normalised(on, x, [sizes[d] for d in dims], mode))


def _whole(on: Rewriter, x: Pair) -> Pair:
    return Pair(on.tensor(x.re, x.im), on.tensor(x.im, x.re))


def _complex_to_complex(on: Rewriter, node: Node) -> Pair:
    source, dims, mode, forward = _arguments(node)
    x = on.pair(source)
    sizes = _size(source)
    for dim in dims:
        x = _along(on, x, dim, -1.0 if forward else 1.0)
    return _whole(on, _normalised(on, x, [sizes[d] for d in dims], mode))


def _complex_to_real(on: Rewriter, node: Node) -> Node:
    source, dims, mode, length = _arguments(node)
    x = on.pair(source)
    *rest, last = dims
    for dim in rest:
        x = _along(on, x, dim, 1.0)
    x = _along(on, _mirrored(on, x, last, length), last, 1.0)
    sizes = [*(_size(source)[d] for d in rest), length]
    result = _normalised(on, Pair(x.re, 0.0), sizes, mode).re
    assert isinstance(result, Node)
    return result


def _mirrored(on: Rewriter, x: Pair, dim: int, length: int) -> Pair:
    """All frequencies of a real signal from the first half: those above are conjugates, the ends are real."""
    re, im = (on.tensor(part, x.re) for part in (x.re, x.im))
    above = (length - 1) // 2
    ends = [1.0 if 0 < k < (length + 1) // 2 else 0.0 for k in range(length // 2 + 1)]
    keep = _numbers(on, ends, im, dim)
    re, im = on.call(aten.slice.Tensor, re, dim, 0, len(ends)), on.call(aten.slice.Tensor, im, dim, 0, len(ends))
    im = on.call(aten.mul.Tensor, im, keep)
    if above == 0:
        return Pair(re, im)
    upper = _mapped(on, _mapped(on, Pair(re, im), aten.slice.Tensor, dim, 1, above + 1), aten.flip.default, [dim])
    whole = ([re, upper.re], [im, on.mul(upper.im, -1.0)])
    return Pair(*(on.call(aten.cat.default, parts, dim) for parts in whole))


def _numbers(on: Rewriter, values: Sequence[float], like: Node, dim: int) -> Node:
    """A row of ones with zeros at its ends, along a dimension."""
    rank, dtype = len(_size(like)), like.meta["val"].dtype
    inner = [k for k, value in enumerate(values) if value]
    first, count = (inner[0], len(inner)) if inner else (len(values), 0)
    ones = on.call(aten.full.default, [count], 1.0, dtype=dtype)
    row = on.call(aten.constant_pad_nd.default, ones, [first, len(values) - first - count], 0.0)
    if not inner:
        row = on.call(aten.full.default, [len(values)], 0.0, dtype=dtype)
    return on.call(aten.reshape.default, row, [len(values) if d == dim % rank else 1 for d in range(rank)])


FOURIER: Mapping[Any, Rule] = {
    aten._fft_r2c.default: _real_to_complex,
    aten._fft_c2c.default: _complex_to_complex,
    aten._fft_c2r.default: _complex_to_real,
}
