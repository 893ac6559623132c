"""Models in int8 for the systems that Ullage is measured against, by ONNX Runtime's own quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class _Once:
    """Calibration data of one sample."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._left = [dict(arrays)]

    def get_next(self) -> dict[str, Any] | None:
        """The sample, then None."""
        return self._left.pop() if self._left else None


def for_onnxruntime(path: Path, arrays: Mapping[str, Any]) -> Path:
    """As ONNX Runtime advises: ranges at run time for models of matrix products, measured ones with convolutions."""
    import onnx

    operators = {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}
    if "Conv" in operators:
        return with_static_ranges(path, arrays)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_suffix(".int8.onnx")
    quantize_dynamic(_prepared(path), target, per_channel=True, weight_type=QuantType.QInt8)
    return target


def with_static_ranges(path: Path, arrays: Mapping[str, Any]) -> Path:
    """The model with quantized and dequantized operands around its products, by ranges measured on one sample."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    target = path.with_suffix(".qdq.onnx")
    quantize_static(
        _prepared(path),
        target,
        _Once(arrays),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return target


def _prepared(path: Path) -> Path:
    """With shapes inferred and batch norms folded, which the quantizer asks for."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(path), str(target), skip_symbolic_shape=True)
    return target
