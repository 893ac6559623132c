"""Operators of our own: products with integers, linear recurrences, and single results of sorts and running extremes.

Each has a slow, obviously right implementation (the truth for tests, and what errors are measured with) and one for
fake tensors. Graphs may hold products of integers after the passes that quantize, recurrences after those that fuse;
sorts and running extremes are what capturing makes of ATen's operators with two results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LIBRARY = "ullage"
PLANES_OFFSET = 1 << 15
"""What planes of a high and a low byte stand for when they stand for 0."""


@torch.library.custom_op(f"{LIBRARY}::linear_int8", mutates_args=())
def _linear_int8(x: Tensor, weight: Tensor) -> Tensor:
    """Σ_k x[..., k] · weight[n, k] as float32 [..., n]; x uint8, weight int8 [n, k]; exact up to one rounding."""
    return F.linear(x.double(), weight.double()).float()


@_linear_int8.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    _check(x, weight)
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.float32)


@torch.library.custom_op(f"{LIBRARY}::convolution_int8", mutates_args=())
def _convolution_int8(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    border: int,
) -> Tensor:
    """Sums of x · weight as float32, exact up to one rounding; arguments as aten.convolution's.

    x uint8 [b, c, (h,) w], weight int8 [n, c / groups, (kh,) kw]. Outside the image x is `border` (0 to 255, the value
    that stands for zero). There is no bias and no transposed form.
    """
    sides = [side for pad in reversed(padding) for side in (pad, pad)]
    around = F.pad(x.double(), sides, value=border)
    run = F.conv1d if weight.dim() == 3 else F.conv2d
    return run(around, weight.double(), None, tuple(stride), 0, tuple(dilation), groups).float()


@_convolution_int8.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    _check(x, weight)
    transposed, border = geometry[3], geometry[6]
    if bias is not None or transposed or not 0 <= border <= 255:
        raise ValueError("a convolution of integers has no bias, is not transposed, and its border is a uint8")
    operands = (x.to(torch.float32), weight.to(torch.float32))
    return torch.empty_like(torch.ops.aten.convolution.default(*operands, None, *geometry[:6]))


@torch.library.custom_op(f"{LIBRARY}::depthwise_codes", mutates_args=())
def _depthwise_codes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    zero: int,
) -> Tensor:
    """The convolution of (x − zero) with float32 weights, each channel alone; arguments as aten.convolution's.

    x uint8 [b, c, (h,) w], weight [c, 1, (kh,) kw], `groups` is c, `zero` 0 to 255. No bias, not transposed.
    """
    run = F.conv1d if weight.dim() == 3 else F.conv2d
    return run(x.float() - zero, weight, None, tuple(stride), tuple(padding), tuple(dilation), groups)


@_depthwise_codes.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    transposed, groups, zero = geometry[3], geometry[5], geometry[6]
    if (x.dtype, weight.dtype) != (torch.uint8, torch.float32) or weight.shape[1] != 1:
        raise ValueError(f"codes of images are uint8, convolved with float32, not {x.dtype} with {weight.dtype}")
    if bias is not None or transposed or groups != x.shape[1] or not 0 <= zero <= 255:
        raise ValueError("a convolution of codes has no bias, is depthwise, not transposed, and its zero is a uint8")
    return torch.empty_like(torch.ops.aten.convolution.default(x.to(torch.float32), weight, None, *geometry[:6]))


@torch.library.custom_op(f"{LIBRARY}::linear_codes", mutates_args=())
def _linear_codes(x: Tensor, codes: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Σ_k (256 · high[..., k] + low[..., k] − 32768) · (codes[n, k] − 2^(bits − 1)) · scales[n, k / group], float32.

    x uint8 [..., 2 k]: the high bytes, then the low ones; codes uint8 [n, k], scales float16 [n, k / group].
    """
    high, low = x.double().chunk(2, -1)
    return F.linear(256 * high + low - PLANES_OFFSET, decoded(codes, scales, bits).double()).float()


@_linear_codes.register_fake
def _(x: Tensor, codes: Tensor, scales: Tensor, bits: int) -> Tensor:
    found = (x.dtype, codes.dtype, scales.dtype)
    if found != (torch.uint8, torch.uint8, torch.float16) or codes.shape[1] % scales.shape[1]:
        raise ValueError(f"codes are uint8 with scales of float16, times planes of uint8, not {found}")
    return x.new_empty((*x.shape[:-1], codes.shape[0]), dtype=torch.float32)


@torch.library.custom_op(f"{LIBRARY}::linear_scan", mutates_args=())
def _linear_scan(factor: Tensor, term: Tensor, initial: Tensor | None, dim: int) -> Tensor:
    """y with y[t] = factor[t] · y[t − 1] + term[t] along `dim`, y[−1] = `initial` or 0 (Gu and Dao 2023, equation 2a).

    `factor` and `term` have equal dtypes and ranks and broadcast to the shape of y, `initial` to that without `dim`.
    """
    factors, terms = torch.broadcast_tensors(factor, term)  # type: ignore[no-untyped-call]
    state = torch.zeros_like(terms.select(dim, 0)) if initial is None else initial
    states = []
    for step in range(terms.shape[dim]):
        state = factors.select(dim, step) * state + terms.select(dim, step)
        states.append(state)
    return torch.stack(states, dim)


@_linear_scan.register_fake
def _(factor: Tensor, term: Tensor, initial: Tensor | None, dim: int) -> Tensor:
    others = [term] if initial is None else [term, initial]
    if any(other.dtype != factor.dtype for other in others) or factor.dim() != term.dim():
        found = [f"{other.dtype} {tuple(other.shape)}" for other in (factor, *others)]
        raise ValueError(f"a linear scan is over one dtype, of factors and terms of one rank, not {', '.join(found)}")
    return term.new_empty(torch.broadcast_shapes(factor.shape, term.shape))  # type: ignore[no-untyped-call]


@torch.library.custom_op(f"{LIBRARY}::last", mutates_args=())
def _last(x: Tensor, dim: int) -> Tensor:
    """The last element along `dim`, not as a view: what walks along `dim` can keep it when it is done."""
    return x.select(dim, -1).clone()


@_last.register_fake
def _(x: Tensor, dim: int) -> Tensor:
    return x.new_empty(x.select(dim, -1).shape)


@torch.library.custom_op(f"{LIBRARY}::argsort", mutates_args=())
def _argsort(x: Tensor, dim: int, descending: bool, count: int | None = None) -> Tensor:
    """The positions int64 along `dim` that put it in order, the first `count` of them (all by default).

    Equal values keep their order, NaN counts as the greatest.
    """
    order = torch.sort(x, dim=dim, descending=descending, stable=True).indices
    return order.clone() if count is None else order.narrow(dim, 0, count).clone()


@_argsort.register_fake
def _(x: Tensor, dim: int, descending: bool, count: int | None = None) -> Tensor:
    shape = list(x.shape)
    shape[dim] = shape[dim] if count is None else count
    return x.new_empty(shape, dtype=torch.int64)


@torch.library.custom_op(f"{LIBRARY}::cummax", mutates_args=())
def _cummax(x: Tensor, dim: int) -> Tensor:
    """The greatest value so far along `dim`; NaN from the first NaN on."""
    return torch.cummax(x, dim).values.clone()


@torch.library.custom_op(f"{LIBRARY}::cummin", mutates_args=())
def _cummin(x: Tensor, dim: int) -> Tensor:
    """The least value so far along `dim`; NaN from the first NaN on."""
    return torch.cummin(x, dim).values.clone()


@_cummax.register_fake
@_cummin.register_fake
def _(x: Tensor, dim: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op(f"{LIBRARY}::max_pool_positions", mutates_args=())
def _max_pool_positions(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """Where in its image (row-major, int64) each maximum of a max_pool2d or 3d lies; all sizes per dimension."""
    _, places = _pool_with_indices(len(kernel))(x, kernel, stride, padding, dilation, ceil_mode)
    return torch.as_tensor(places)


@_max_pool_positions.register_fake
def _(x: Tensor, kernel: Sequence[int], *options: Any) -> Tensor:
    return torch.empty_like(_pool_with_indices(len(kernel))(x, kernel, *options)[1])


def _pool_with_indices(rank: int) -> Any:
    aten = torch.ops.aten
    return aten.max_pool2d_with_indices.default if rank == 2 else aten.max_pool3d_with_indices.default


def decoded(codes: Tensor, scales: Tensor, bits: int) -> Tensor:
    """The weight [n, k] in float32 that codes stand for; exact."""
    group = codes.shape[1] // scales.shape[1]
    return (codes.float() - (1 << (bits - 1))) * scales.float().repeat_interleave(group, 1)


def _check(x: Tensor, weight: Tensor) -> None:
    if x.dtype != torch.uint8 or weight.dtype != torch.int8:
        raise ValueError(f"products of integers are of uint8 and int8, not of {x.dtype} and {weight.dtype}")


LINEAR_INT8 = torch.ops.ullage.linear_int8.default
CONVOLUTION_INT8 = torch.ops.ullage.convolution_int8.default
DEPTHWISE_CODES = torch.ops.ullage.depthwise_codes.default
LINEAR_CODES = torch.ops.ullage.linear_codes.default
LINEAR_SCAN = torch.ops.ullage.linear_scan.default
LAST = torch.ops.ullage.last.default
ARGSORT = torch.ops.ullage.argsort.default
CUMMAX = torch.ops.ullage.cummax.default
CUMMIN = torch.ops.ullage.cummin.default
MAX_POOL_POSITIONS = torch.ops.ullage.max_pool_positions.default
