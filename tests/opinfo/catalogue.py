"""PyTorch's core operators, and the samples that PyTorch's own tests run them on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils import _pytree as pytree

from tests.opinfo.own import OWN

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip
"""What a tensor of ours may hold."""

_SPELLINGS: dict[str, tuple[str, ...]] = {
    "_adaptive_avg_pool2d": ("nn.functional.adaptive_avg_pool2d",),
    "_cdist_forward": ("cdist",),
    "_fft_c2r": ("fft.irfft", "fft.irfft2"),
    "_fft_r2c": ("fft.rfft", "fft.rfft2"),
    "_native_batch_norm_legit": ("nn.functional.batch_norm",),
    "_native_batch_norm_legit_no_training": ("nn.functional.batch_norm",),
    "_pdist_forward": ("nn.functional.pdist",),
    "_softmax": ("softmax",),
    "_log_softmax": ("log_softmax",),
    "_to_copy": ("to", "double", "int"),
    "alias": ("view",),
    "convolution": tuple(f"nn.functional.conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)),
    "copy": ("select_scatter",),
    "embedding": ("nn.functional.embedding",),
    "index": ("__getitem__",),
    "max_pool2d_with_indices": ("nn.functional.max_pool2d",),
    "max_pool3d_with_indices": ("nn.functional.max_pool3d",),
    "reflection_pad1d": ("nn.functional.pad_reflect",),
    "reflection_pad2d": ("nn.functional.pad_reflect",),
    "reflection_pad3d": ("nn.functional.pad_reflect",),
    "replication_pad2d": ("nn.functional.pad_replicate",),
    "replication_pad3d": ("nn.functional.pad_replicate",),
    "sym_numel": ("ones_like",),
    "sym_size": ("ones_like",),
    "sym_stride": ("ones_like",),
    "upsample_bilinear2d": ("nn.functional.upsample_bilinear",),
    "upsample_nearest2d": ("nn.functional.upsample_nearest",),
}
"""Core operators that PyTorch's samples reach under another name."""


@dataclass(frozen=True)
class Case:
    """One call of an operator: what is a tensor comes in, all else is as the sample has it."""

    operator: str
    spelling: str
    dtype: torch.dtype
    function: Any
    spec: Any
    leaves: tuple[Any, ...]

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """The tensors of the call."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, torch.Tensor))

    def __call__(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The tensors among the results, complex ones as pairs."""
        rest = iter(tensors)
        leaves = [next(rest) if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        result = pytree.tree_leaves(self.function(*args, **kwargs))
        found = [leaf for leaf in result if isinstance(leaf, torch.Tensor)]
        return tuple(torch.view_as_real(leaf) if leaf.is_complex() else leaf for leaf in found)

    def __str__(self) -> str:
        shapes = ", ".join(str(list(t.shape)) for t in self.inputs)
        rest = [leaf for leaf in self.leaves if not isinstance(leaf, torch.Tensor | None)]
        return f"{self.operator} as {self.spelling} {str(self.dtype)[6:]} ({shapes}) {rest}"


def core_operators() -> dict[str, list[torch._ops.OpOverload]]:
    """The overloads that PyTorch tags as core, by operator."""
    found: dict[str, list[torch._ops.OpOverload]] = {}
    registered = (name.removeprefix("aten::") for name in _every_name() if name.startswith("aten::"))
    for name in sorted({name.split(".")[0] for name in registered}):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            operator = getattr(packet, overload)
            if torch.Tag.core in operator.tags:
                found.setdefault(name, []).append(operator)
    return found


def _every_name() -> list[str]:
    """All operators that PyTorch has; `dir(torch.ops.aten)` lists those that somebody has asked for."""
    return torch._C._dispatch_get_all_op_names()


@cache
def _infos() -> dict[str, list[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    found: dict[str, list[Any]] = {}
    for info in op_db:
        for name in dict.fromkeys((info.name, info.name.split(".")[-1], info.aten_name, _full(info))):
            found.setdefault(name, []).append(info)
    return found


def _full(info: Any) -> str:
    return f"{info.name}_{info.variant_test_name}" if info.variant_test_name else info.name


def infos(operator: str) -> list[Any]:
    """PyTorch's descriptions of an operator (one for each way that its tests call it)."""
    spelled = _SPELLINGS.get(operator, (operator, operator.lstrip("_")))
    found = {id(info): info for name in spelled for info in _infos().get(name, ())}
    return [info for info in found.values() if not info.name.startswith(("sparse.", "masked."))]


def admitted(operator: str) -> tuple[torch.dtype, ...]:
    """The dtypes (of ours) that PyTorch computes an operator in on CPUs."""
    if operator in OWN:
        return OWN[operator][0]
    all_of_them = {dtype for info in infos(operator) for dtype in info.dtypes}
    return tuple(dtype for dtype in DTYPES if dtype in all_of_them)


def cases(operator: str, dtype: torch.dtype, count: int, most_elements: int = 20_000) -> Iterator[Case]:
    """The first `count` small samples of each way to call an operator, with fixed values."""
    if operator in OWN:
        yield from _own_cases(operator, dtype)
        return
    for info in infos(operator):
        if dtype in info.dtypes:
            yield from _cases_of(operator, info, dtype, count, most_elements)


def _own_cases(operator: str, dtype: torch.dtype) -> Iterator[Case]:
    torch.manual_seed(7)
    for function, arguments in OWN[operator][1](dtype):
        leaves, spec = pytree.tree_flatten((arguments, {}))
        yield Case(operator, "own sample", dtype, function, spec, tuple(leaves))


def _cases_of(operator: str, info: Any, dtype: torch.dtype, count: int, most: int) -> Iterator[Case]:
    torch.manual_seed(7)
    for sample in info.sample_inputs("cpu", dtype, requires_grad=False):
        leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))
        case = Case(operator, _full(info), dtype, info.op, spec, tuple(leaves))
        if count and _suits(case.inputs, most) and _runs(case):
            count -= 1
            yield case


def _suits(tensors: Sequence[torch.Tensor], most: int) -> bool:
    return bool(tensors) and all(0 < t.numel() <= most and t.dtype in DTYPES for t in tensors)


def _runs(case: Case) -> bool:
    """Whether the call can be made on copies and changes none: some samples are views of more memory than their own."""
    copies = [t.clone() for t in case.inputs]
    try:
        results = case(*copies)
    except RuntimeError:
        return False
    return all(t.dtype in DTYPES and t.numel() for t in results) and all(map(_same, case.inputs, copies))


def _same(old: torch.Tensor, new: torch.Tensor) -> bool:
    return torch.equal(old.nan_to_num(), new.nan_to_num()) if old.is_floating_point() else torch.equal(old, new)
