"""Models in int8 for the systems that Ullage is measured against, by ONNX Runtime's own quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ullage.bench_export import needs_external_data


def for_onnxruntime(path: Path, arrays: Mapping[str, Any]) -> Path:
    """As ONNX Runtime advises: ranges at run time for models of matrix products, measured ones with convolutions."""
    import onnx

    operators = {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}
    if "Conv" in operators:
        return with_static_ranges(path, arrays)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_suffix(".int8.onnx")
    quantize_dynamic(
        _prepared(path),
        target,
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=needs_external_data(path),
    )
    return target


def with_static_ranges(path: Path, arrays: Mapping[str, Any]) -> Path:
    """The model with quantized and dequantized operands around its products, by ranges measured on one sample."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    samples = [dict(arrays)]

    class Once(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        """Calibration data of one sample."""

        def get_next(self) -> Any:
            """The sample, then None."""
            return samples.pop() if samples else None

    target = path.with_suffix(".qdq.onnx")
    quantize_static(
        _prepared(path),
        target,
        Once(),
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
    apart = needs_external_data(path)
    quant_pre_process(
        str(path), str(target), skip_symbolic_shape=True, skip_optimization=apart, save_as_external_data=apart
    )
    return target
