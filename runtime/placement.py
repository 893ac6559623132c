"""Where the memory of a plan lies: in an arena of its own, or in one that several plans use in turns."""

from __future__ import annotations

from dataclasses import dataclass

from ullage.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class Placement:
    """Addresses for one plan; whoever makes it keeps the memory mapped for as long as the plan can run."""

    arena: int
    """What offsets of activations, workspaces and streamed blocks count from."""
    space_bytes: int
    """Bytes there that the plan may use."""
    blocks: tuple[int, ...]
    """Where the region of each block begins."""
    present: frozenset[int] = frozenset()
    """Resident blocks whose bytes are there already, verified."""


def in_one_arena(plan: Plan, address: int) -> Placement:
    """Everything as the plan has it, in an arena at an address."""
    return Placement(address, plan.arena_bytes, tuple(address + block.offset for block in plan.blocks))
