"""Whether the parameters and buffers that a model was compiled with are still the ones that it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ullage.errors import InputError


@dataclass(frozen=True, slots=True)
class _Seen:
    """A tensor as it was: where it hangs, which object it is, where its bytes are and how often it was written to."""

    name: str
    owner: Mapping[str, object]
    key: str
    tensor: torch.Tensor
    address: int
    version: int

    @property
    def is_same(self) -> bool:
        same = self.owner.get(self.key) is self.tensor and version_of(self.tensor) == self.version
        return same and self.tensor.data_ptr() == self.address


class StateWatch:
    """Remembers the state of modules; `check` refuses when it has changed.

    Seen are assignments of other tensors, writes that count in a tensor's version (`copy_`, optimisers,
    `load_state_dict`), and memory exchanged through `.data`; not seen are writes through `.data` or from other
    libraries into the same memory.
    """

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._seen = [seen for module in modules for seen in _state_of(module)]

    def check(self, what: str) -> None:
        """Raise InputError naming the first tensor that is not as it was."""
        for seen in self._seen:
            if not seen.is_same:
                raise InputError(changed_message(seen.name, what, ".reset() lets the next call compile it again"))


def changed_message(name: str, what: str, remedy: str) -> str:
    """What is said of state that was changed after compilation."""
    return f"{name} was changed after {what} was compiled, which keeps the values that it had then; {remedy}."


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor was written to; inference tensors do not count."""
    return -1 if tensor.is_inference() else tensor._version


def _state_of(module: torch.nn.Module) -> Iterable[_Seen]:
    for prefix, child in module.named_modules():
        for owner in (child._parameters, child._buffers):
            for key, tensor in owner.items():
                if tensor is not None and not tensor.is_meta:
                    name = f"{prefix}.{key}" if prefix else key
                    yield _Seen(name, owner, key, tensor, tensor.data_ptr(), version_of(tensor))
