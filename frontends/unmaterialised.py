"""Modules whose parameters are only shapes: built without memory for weights, traced with fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.overrides import TorchFunctionMode

from ullage.errors import CaptureError
from ullage.graph.fake import fake_tensor

_PARAMETER_FACTORIES = frozenset({
    torch.empty, torch.empty_like, torch.rand, torch.randn, torch.rand_like, torch.randn_like, torch.normal,
})  # fmt: skip
_INITIALISERS = frozenset({
    "normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_",
})  # fmt: skip
"""Names of what draws random values in place (of torch and of libraries that wrap it); on meta it only takes time."""


class EmptyOnMeta(TorchFunctionMode):
    """Inside, tensors without definite values are made on the meta device; computed ones (tables) stay real."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Redirect the factories of parameters, and leave out their initialisers."""
        keywords = dict(kwargs or {})
        if getattr(func, "__name__", "") in _INITIALISERS:
            target = args[0] if args else keywords["tensor"]
            if target.is_meta:
                return target
        if func in _PARAMETER_FACTORIES:
            keywords["device"] = "meta"
        return func(*args, **keywords)


def fake_state(module: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Replace the parameters and buffers that `dtypes` names by fake CPU tensors of those dtypes, tied ones by one.

    Raises CaptureError for buffers that are neither named nor computed when the module is built.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv(tracked_fakes=[]), allow_non_fake_inputs=True, export=True)
    made: dict[int, torch.Tensor] = {}
    for prefix, child in module.named_modules(remove_duplicate=False):
        _fake_own(child, prefix + "." if prefix else "", dtypes, mode, made)


def _fake_own(
    module: nn.Module,
    prefix: str,
    dtypes: Mapping[str, torch.dtype],
    mode: FakeTensorMode,
    made: dict[int, torch.Tensor],
) -> None:
    for table in _tables(module):
        for key, old in list(table.items()):
            if old is None or isinstance(old, FakeTensor) or isinstance(old.data, FakeTensor):
                continue
            if prefix + key in dtypes:
                table[key] = made.setdefault(id(old), _fake(old, dtypes[prefix + key], mode))
            elif old.is_meta:
                raise CaptureError(f"buffer {prefix + key!r} has no values: it is neither saved nor computed.")


def _tables(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The module's own parameters and buffers; a fake tensor may stand where a `Parameter` stood."""
    return module._parameters, module._buffers


def _fake(old: torch.Tensor, dtype: torch.dtype, mode: FakeTensorMode) -> torch.Tensor:
    """A fake tensor in the place of another one; a `Parameter` is told by a mark, since making one is slow here."""
    fake: Any = fake_tensor(mode, old.shape, dtype if old.is_floating_point() else old.dtype)
    fake._is_param = isinstance(old, nn.Parameter)
    return fake  # type: ignore[no-any-return]
