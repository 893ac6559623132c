"""Convolutions and their transposes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def window_pads(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after each dimension, from `pads` or `auto_pad`."""
    rank = len(kernel)
    mode = call.attribute("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = call.attribute("pads", [0] * (2 * rank))
        return list(pads[:rank]), list(pads[rank:])
    before, after = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = 0 if mode == "VALID" else max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        less, more = total // 2, total - total // 2
        before.append(more if mode == "SAME_LOWER" else less)
        after.append(less if mode == "SAME_LOWER" else more)
    return before, after


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """A value around the last dimensions."""
    flat = [n for pair in zip(list(before)[::-1], list(after)[::-1], strict=True) for n in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def check_kernel(call: Call, w: Tensor) -> None:
    """Raise CaptureError if `kernel_shape` says something else than the weight does."""
    kernel = call.attribute("kernel_shape")
    if kernel is not None and tuple(kernel) != tuple(w.shape[2:]):
        raise call.error(f"kernel_shape is {kernel}, but the weight has {list(w.shape[2:])}")


def convolved(call: Call, x: Tensor, w: Tensor, b: Tensor | None, border: float = 0.0) -> Tensor:
    """The convolution that a call's attributes describe."""
    rank = w.dim() - 2
    if rank not in _CONVOLUTIONS:
        raise call.error(f"convolutions over {rank} dimensions are not supported")
    check_kernel(call, w)
    strides, dilations = call.attribute("strides", [1] * rank), call.attribute("dilations", [1] * rank)
    before, after = window_pads(call, x.shape[2:], w.shape[2:], strides, dilations)
    pads: Sequence[int] = before
    if before != after or border:
        x, pads = padded(x, before, after, border), [0] * rank
    return _CONVOLUTIONS[rank](x, w, b, strides, pads, dilations, call.attribute("group", 1))


@operator("Conv")
def _conv(call: Call) -> Tensor:
    return convolved(call, call.tensor(0), call.tensor(1), call.optional(2))


@operator("ConvTranspose")
def _conv_transpose(call: Call) -> Tensor:
    """The whole result, then cut or widened to size; lines beyond what any input reaches hold the bias alone."""
    x, w, bias = call.tensor(0), call.tensor(1), call.optional(2)
    rank = w.dim() - 2
    check_kernel(call, w)
    strides, dilations = call.attribute("strides", [1] * rank), call.attribute("dilations", [1] * rank)
    extra = call.attribute("output_padding", [0] * rank)
    taps = zip(x.shape[2:], strides, w.shape[2:], dilations, strict=True)
    whole = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in taps]
    before, after = _cut_off(call, x, whole, strides, extra)
    more = [e - n for e, n in zip(extra, after, strict=True)]
    widened = any(isinstance(n, int) and n > 0 for n in more)
    groups = call.attribute("group", 1)
    y = _TRANSPOSED[rank](x, w, None if widened else bias, strides, 0, 0, groups, dilations)
    y = padded(y, [-n for n in before], more)
    return y + bias.reshape(1, -1, *[1] * rank) if widened and bias is not None else y


def _cut_off(
    call: Call, x: Tensor, whole: Sequence[int], strides: Sequence[int], extra: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What is cut off before and after each dimension of the whole result."""
    rank = len(whole)
    mode, asked = call.attribute("auto_pad", "NOTSET"), call.attribute("output_shape")
    if asked is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        asked = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if asked is None:
        pads = call.attribute("pads", [0] * (2 * rank))
        return list(pads[:rank]), list(pads[rank:])
    before, after = [], []
    for size, more, wanted in zip(whole, extra, asked[-rank:], strict=True):
        total = size + more - wanted
        half = total // 2
        low = half if mode == "SAME_UPPER" else total - half
        before.append(low)
        after.append(total - low)
    return before, after
