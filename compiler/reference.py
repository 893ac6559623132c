"""A model as the framework itself runs it: what `check` and `bench` compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ullage.flow import open_model
from ullage.graph.captured import CapturedModel, TensorSpec
from ullage.graph.reference import run_captured
from ullage.options import CompileOptions

Tensors = dict[str, torch.Tensor]
_SEED = 0


@dataclass(frozen=True)
class Reference:
    """A captured model with its own example inputs, where its source has any."""

    captured: CapturedModel
    examples: Tensors | None

    def run(self, inputs: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None) -> Tensors:
        """Outputs by name, op by op in eager PyTorch; with `dtype` all floating arithmetic is done in it."""
        ordered = [inputs[spec.name] for spec in self.captured.inputs]
        results = run_captured(self.captured, ordered, dtype)
        return dict(zip((spec.name for spec in self.captured.outputs), results, strict=True))

    def inputs(self) -> Tensors:
        """The source's own example inputs, or random ones of a fixed seed."""
        return self.examples or random_inputs(self.captured)


def open_reference(text: str, options: CompileOptions) -> Reference:
    """Capture MODEL; factories bring their own example inputs."""
    captured, source = open_model(text, options)
    return Reference(captured, source.convention.bind(source.args, source.kwargs) if source.has_examples else None)


def random_inputs(captured: CapturedModel) -> Tensors:
    """One tensor per input from a fixed seed: normal floats, and integers 0 or 1, which every table can look up."""
    generator = torch.Generator().manual_seed(_SEED)
    return {spec.name: _random(spec, generator) for spec in captured.inputs}


def _random(spec: TensorSpec, generator: torch.Generator) -> torch.Tensor:
    shape = [int(size) if isinstance(size, int) else size.node.hint for size in spec.shape]
    if spec.fixed is not None:
        return torch.frombuffer(bytearray(spec.fixed), dtype=spec.dtype).reshape(shape)
    if spec.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(spec.dtype)
    return torch.randint(0, 2, shape, generator=generator).to(spec.dtype)


def relative_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    """‖value − truth‖₂ / ‖truth‖₂ in float64; 0 where both are equal, infinite where the truth is zero and ours not."""
    difference = (value.double() - truth.double()).norm().item()
    size = truth.double().norm().item()
    if difference == 0.0:
        return 0.0
    return difference / size if size > 0.0 else float("inf")


def as_tensor(value: Any, dtype: torch.dtype) -> torch.Tensor:
    """An array of the runtime as a tensor of the captured dtype (bfloat16 travels as its bits)."""
    tensor = torch.from_numpy(value) if not isinstance(value, torch.Tensor) else value
    return tensor if tensor.dtype == dtype else tensor.view(dtype)
