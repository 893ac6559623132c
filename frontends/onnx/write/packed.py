"""Codes of a few bits as `com.microsoft::MatMulNBits` takes them: several in a byte, the first one lowest."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ullage.graph.constants import Box, ConstantRef


@dataclass(frozen=True, slots=True)
class Blocks:
    """Codes (uint8 [n, k]) of `bits` in blocks of `group`: bytes [n, k / group, group · bits / 8]."""

    base: ConstantRef
    bits: int
    group: int

    def read(self, box: Box) -> torch.Tensor:
        """The box; reads its rows whole."""
        codes = self.base.read((box[0], slice(0, self.base.shape[1])))
        parts = codes.reshape(codes.shape[0], -1, self.group * self.bits // 8, 8 // self.bits)
        shifts = torch.arange(0, 8, self.bits, dtype=torch.int32)
        packed = (parts.to(torch.int32) << shifts).sum(-1).to(torch.uint8)
        return packed[(slice(None), *box[1:])].contiguous()

    @property
    def key(self) -> str:
        """Base and form."""
        return f"blocks[{self.bits},{self.group}]({self.base.source.key})"


def in_blocks(codes: ConstantRef, bits: int, group: int) -> ConstantRef:
    """The constant that holds codes in blocks, made when it is read."""
    n, k = codes.shape
    shape = (n, k // group, group * bits // 8)
    return ConstantRef(f"{codes.name}_blocks", torch.uint8, shape, Blocks(codes, bits, group))
