"""Bytes of the executor's own tables and stacks, so that the plan can count them before the executor exists."""

from __future__ import annotations

from ullage.plan.plan import DIRECT_IO_BYTES, Gather, Launch, Plan

WORKER_STACK_BYTES = 256 * 1024
DISK_STACK_BYTES = 64 * 1024
_CONTEXT_BYTES = 8192
_COMMAND_BYTES = 128
_BLOCK_BYTES = 64
_CONSTANT_BYTES = 64
_WORD_BYTES = 8


def stack_bytes(threads: int) -> int:
    """Stacks of the worker threads (the caller's own thread is one of `threads`) and of the disk thread."""
    return (threads - 1) * WORKER_STACK_BYTES + DISK_STACK_BYTES


def table_bytes(plan: Plan) -> int:
    """Bytes of the one mapping that holds the executor's context: commands, pointers, integers, blocks, checksums."""
    commands = (*plan.prologue, *plan.commands)
    pointers = sum(len(c.pointers) for c in commands if isinstance(c, Launch))
    integers = sum(len(c.integers) for c in commands if isinstance(c, Launch))
    gathers = sum(isinstance(c, Gather) for c in commands)
    checksums = sum(c.tiles for c in plan.constants if not c.gathered)
    total = (
        _CONTEXT_BYTES
        + _COMMAND_BYTES * (len(commands) + gathers)
        + _WORD_BYTES * (pointers + integers)
        + _BLOCK_BYTES * len(plan.blocks)
        + _CONSTANT_BYTES * len(plan.constants)
        + _WORD_BYTES * checksums
    )
    return -(-total // DIRECT_IO_BYTES) * DIRECT_IO_BYTES
