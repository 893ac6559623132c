"""Lowered kernels before they are emitted: their specifications, the memory of their buffers, and their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ullage.codegen.emit import Spec
from ullage.codegen.lower.builder import Builder, Operand
from ullage.plan.steps import Gather


@dataclass(frozen=True, slots=True)
class Lowered:
    """One launch to be: `operands` by the name of the buffer (locals have none)."""

    name: str
    spec: Spec
    operands: Mapping[str, Operand]

    @staticmethod
    def of(name: str, spec: Spec, builder: Builder) -> Lowered:
        """The launch of a specification over what its builder bound the buffers to."""
        bound = zip(builder.buffers, builder.operands, strict=True)
        return Lowered(name, spec, {b.name: operand for b, operand in bound if b.access != "local"})

    def reads(self) -> frozenset[str]:
        """Storages and constants that are read."""
        return self._storages("r", "rw")

    def writes(self) -> frozenset[str]:
        """Storages that are written."""
        return self._storages("w", "rw")

    def _storages(self, *accesses: str) -> frozenset[str]:
        return frozenset(self.operands[b.name].storage for b in self.spec.buffers if b.access in accesses)


Pending = Lowered | Gather
"""A launch to be, or a gather, which is a step already."""


def reads(pending: Pending) -> frozenset[str]:
    """Storages and constants that are read."""
    return pending.reads() if isinstance(pending, Lowered) else frozenset({pending.ids.target, pending.table})


def writes(pending: Pending) -> frozenset[str]:
    """Storages that are written."""
    return pending.writes() if isinstance(pending, Lowered) else frozenset({pending.out.target})


def depends(later: Pending, earlier: Pending) -> bool:
    """Whether two steps must stay in their order."""
    after, before = writes(later), writes(earlier)
    return not (before.isdisjoint(reads(later) | after) and after.isdisjoint(reads(earlier)))
