"""Models in the forms that other systems read: ONNX files, and OpenVINO's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_MOST_BYTES_IN_ONE_FILE = 1 << 30
"""Protocol buffers end at 2 GiB; quantizers hold a model and its copy in one."""


def export_onnx(
    module: Any, args: tuple[Any, ...], path: Path, input_names: Sequence[str], output_names: Sequence[str]
) -> None:
    """Write an ONNX file; weights of more than 2 GiB lie in files of their own beside it."""
    with Spelled():
        torch.onnx.export(
            module, args, str(path), input_names=list(input_names), output_names=list(output_names), dynamo=False
        )


def to_openvino(module: Any, args: tuple[Any, ...]) -> Any:
    """OpenVINO's model for inputs of the sizes of `args`, which are tensors."""
    import openvino

    shapes = [openvino.PartialShape(list(arg.shape)) for arg in args]
    with Spelled():
        return openvino.convert_model(module, example_input=args, input=shapes)


def needs_external_data(path: Path) -> bool:
    """Whether the weights of an ONNX file, beside it or inside, are too large for one file."""
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file()) > _MOST_BYTES_IN_ONE_FILE


class Spelled(TorchFunctionMode):
    """While a model is traced, operators that exporters do not know or get wrong, in terms of ones that they know."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The same values, by other operators for those in the table."""
        return _SPELLINGS.get(func, func)(*args, **(kwargs or {}))


def _diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """`torch.diff`: neither exporter has it."""
    whole = torch.cat([part for part in (prepend, x, append) if part is not None], dim)
    for _ in range(n):
        size = whole.shape[dim]
        later, earlier = whole.narrow(dim, 1, size - 1), whole.narrow(dim, 0, size - 1)
        whole = later != earlier if whole.dtype == torch.bool else later - earlier
    return whole


def _cumsum(x: Any, *args: Any, **kwargs: Any) -> Any:
    """`torch.cumsum`: of booleans ONNX has none."""
    return torch.cumsum(x.long() if x.dtype == torch.bool else x, *args, **kwargs)


def _avg_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, *args: Any, **kwargs: Any) -> Any:
    """Average pooling: OpenVINO refuses windows that are larger than the image, of which only the image counts."""
    window = _pair(kernel_size)
    steps = window if stride is None or stride == [] else _pair(stride)
    if _pair(padding) == (0, 0):
        window = tuple(min(size, int(most)) for size, most in zip(window, x.shape[-2:], strict=True))
    return functional.avg_pool2d(x, window, steps, padding, *args, **kwargs)


def _pair(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))


_SPELLINGS: Mapping[Any, Callable[..., Any]] = {
    torch.diff: _diff,
    torch.Tensor.diff: _diff,
    torch.cumsum: _cumsum,
    torch.Tensor.cumsum: _cumsum,
    functional.avg_pool2d: _avg_pool2d,
}
