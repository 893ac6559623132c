"""Runs Triton kernels in Triton's interpreter: pickled cases on stdin, pickled results on stdout."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

from ullage.codegen.loops.ir import LoopKernel
from ullage.codegen.triton.blocks import Blocks
from ullage.codegen.triton.build import load_function
from ullage.codegen.triton.emit import emit_triton

_TORCH = {
    "float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16,
    "int64": torch.int64, "int32": torch.int32, "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8,
    "bool": torch.bool,
}  # fmt: skip
_NUMPY: Mapping[str, Callable[..., Any]] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log1p": np.log1p,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "floor": np.floor, "ceil": np.ceil, "rint": np.rint,
    "trunc": np.trunc, "pow": np.power, "fmod": np.fmod, "atan2": np.arctan2, "sqrt": np.sqrt,
    "erf": lambda x: torch.erf(torch.from_numpy(np.ascontiguousarray(x))).numpy(),
}  # fmt: skip


_truncating = interpreter._convert_float


def _rounding(data: Any, source: Any, target: Any, mode: Any) -> Any:
    """The interpreter cuts float32 off to bfloat16 where compiled code rounds to nearest even."""
    if source != tl.float32 or target != tl.bfloat16:
        return _truncating(data, source, target, mode)
    return torch.from_numpy(data.astype(np.float32)).to(torch.bfloat16).view(torch.uint16).numpy()


_patching = interpreter._patch_lang_tensor


def _patch(*args: Any) -> None:
    """Older interpreters ask numpy for the integer in an array of one element, which it refuses by now."""
    _patching(*args)
    tl.tensor.__index__ = lambda self: int(self.handle.data.item())


class Libdevice:
    """Stands in for CUDA's device library, which the interpreter lacks."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            arrays = np.broadcast_arrays(*(a.handle.data for a in args))
            data = np.asarray(_NUMPY[name](*arrays), dtype=arrays[0].dtype)
            shape = max((a.type for a in args), key=lambda t: len(t.shape) if t.is_block() else 0)
            return tl.tensor(TensorHandle(data, args[0].type.scalar), shape)

        return call


def run(
    kernel: LoopKernel, buffers: Mapping[str, torch.Tensor], dims: Mapping[str, int], blocks: Blocks | None
) -> dict[str, torch.Tensor]:
    """Run one kernel on copies of its buffers."""
    emitted = emit_triton(kernel, blocks)
    tensors = {name: t.clone() for name, t in buffers.items()}
    scratch = [torch.zeros(s.elements.evaluate(dims), dtype=_TORCH[s.dtype]) for s in emitted.scratch]
    function = load_function(emitted)
    function.fn.__globals__["libdevice"] = Libdevice()
    arguments = [*(tensors[name] for name in emitted.buffers), *scratch, *(dims[name] for name in emitted.dims)]
    with np.errstate(all="ignore"):
        function[(emitted.programs.evaluate(dims),)](*arguments, **emitted.constexprs)
    return tensors


def attempt(case: tuple[Any, ...]) -> dict[str, torch.Tensor] | str:
    """The results of a case, or the text of its error."""
    try:
        return run(*case)
    except Exception:
        return traceback.format_exc()


if __name__ == "__main__":
    interpreter._convert_float = _rounding
    interpreter._patch_lang_tensor = _patch
    cases = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(pickle.dumps({name: attempt(case) for name, case in cases.items()}))
