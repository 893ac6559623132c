"""Gradients of convolutions as convolutions, and columns put back together as an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ullage.frontends.decomposed.pools import window_places

aten: Any = torch.ops.aten


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    if not all(isinstance(n, int) for t in (gradient, x, weight) for n in t.shape):
        return NotImplemented
    rank = x.dim() - 2
    stride, padding, dilation = (list(v) * rank if len(v) == 1 else list(v) for v in (stride, padding, dilation))
    of_x = of_weight = of_bias = None
    if wanted[0]:
        extra = [0] * rank if transposed else _missing(x, gradient, weight, stride, padding, dilation)
        of_x = aten.convolution.default(
            gradient, weight, None, stride, padding, dilation, not transposed, extra, groups
        )
    if wanted[1]:
        image, kernel = (gradient, x) if transposed else (x, gradient)
        of_weight = _of_weight(image, kernel, weight.shape, stride, padding, dilation, groups)
    if wanted[2]:
        of_bias = gradient.sum([0, *range(2, gradient.dim())])
    return of_x, of_weight, of_bias


def _missing(
    x: Tensor, out: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """The elements at the end of each dimension of `x` that no window reached."""
    options = zip(x.shape[2:], out.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    return [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, p, d in options]


def _of_weight(
    image: Tensor, kernel: Tensor, shape: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """Images convolved with the gradient as a kernel, batch and channels exchanged, steps and spacing, too."""
    batch, channels, *sizes = image.shape
    apart = image.reshape(batch, groups, channels // groups, *sizes).movedim(2, 0).movedim(1, 2)
    turned = kernel.transpose(0, 1)
    flat = apart.reshape(channels // groups, groups * batch, *sizes)
    rest = [0] * len(sizes)
    result: Tensor = aten.convolution.default(flat, turned, None, dilation, padding, stride, False, rest, groups)
    for d, size in enumerate(shape[2:], 2):
        result = result.narrow(d, 0, size)
    return result.transpose(0, 1)


def _col2im(
    x: Tensor, size: Sequence[int], kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int],
    stride: Sequence[int],
) -> Any:  # fmt: skip
    """Each element asks the windows that hold it for their part, so that nothing is scattered."""
    if not all(isinstance(n, int) for n in (*x.shape, *size)):
        return NotImplemented
    options = list(zip(size, kernel, stride, padding, dilation, strict=True))
    outs = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in options]
    lead = x.shape[:-2]
    apart = x.reshape(*lead, x.shape[-2] // (kernel[0] * kernel[1]), *kernel, *outs)
    (rows, in_rows), (columns, in_columns) = (
        window_places(n, m, k, s, p, d, x) for (n, k, s, p, d), m in zip(options, outs, strict=True)
    )
    taps = [torch.arange(k, device=x.device) for k in kernel]
    found = aten.index.Tensor(
        apart,
        [None] * (len(lead) + 1) + [taps[0].reshape(1, 1, -1, 1), taps[1], rows[:, None, :, None], columns[:, None]],
    )
    present = in_rows[:, None, :, None] & in_columns[:, None]
    wide = found.float() if x.dtype in (torch.float16, torch.bfloat16) else found
    return torch.where(present, wide, 0).sum([-2, -1]).to(x.dtype)


def _native_dropout(x: Tensor, p: float, train: bool | None) -> Any:
    """Nothing is dropped in evaluation."""
    return NotImplemented if train is not False else (x.clone(), torch.ones_like(x, dtype=torch.bool))


CONVOLUTIONS: Mapping[Any, Callable[..., Any]] = {
    aten.convolution_backward.default: _convolution_backward,
    aten.col2im.default: _col2im,
    aten.native_dropout.default: _native_dropout,
}
