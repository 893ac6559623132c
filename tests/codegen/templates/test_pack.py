"""Packed panels hold exactly the weight, tile by tile, and reading one tile touches only its rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch

from ullage.codegen.cpp.templates.pack import CodePacker, PanelPacker
from ullage.codegen.templates import Codes, PackedPanels
from ullage.errors import InputError


@dataclass
class Recorder:
    """A weight in memory that records the boxes read from it."""

    values: torch.Tensor
    boxes: list[tuple[slice, ...]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def read(self, box: tuple[slice, ...]) -> torch.Tensor:
        self.boxes.append(box)
        return self.values[box].contiguous()


def unpacked(packer: PanelPacker) -> torch.Tensor:
    """All tiles as [groups, n, k], checking that everything beyond n is zero."""
    layout = packer.layout
    dtype = getattr(torch, layout.dtype)
    groups = []
    for group in range(layout.groups):
        tiles = [packer.tile(group * layout.tiles_per_group + t) for t in range(layout.tiles_per_group)]
        assert all(len(tile) == layout.tile_bytes for tile in tiles)
        flat = [torch.frombuffer(bytearray(tile), dtype=dtype) for tile in tiles]
        assert not any(tile[layout.k * layout.nr :].any() for tile in flat)
        wide = torch.cat([tile[: layout.k * layout.nr].view(layout.k, layout.nr) for tile in flat], dim=1)
        assert not wide[:, layout.n :].any()
        groups.append(wide[:, : layout.n].T)
    return torch.stack(groups)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("n", "k", "nr"), [(1, 1, 48), (48, 3, 48), (50, 7, 16), (100, 5, 8)])
def test_linear_weights_in_both_orientations(n: int, k: int, nr: int, dtype: str) -> None:
    weight = torch.randn(n, k).to(getattr(torch, dtype))
    layout = PackedPanels(n=n, k=k, nr=nr, groups=1, dtype=dtype)
    assert torch.equal(unpacked(PanelPacker(Recorder(weight), layout))[0], weight)
    assert torch.equal(unpacked(PanelPacker(Recorder(weight.T.contiguous()), layout, outputs=1))[0], weight)


def test_pairs_of_k_lie_side_by_side() -> None:
    """A word holds the weights of two neighbouring values of k for one output."""
    weight = torch.randn(50, 6).bfloat16()
    plain = PackedPanels(n=50, k=6, nr=16, groups=1, dtype="bfloat16")
    for outputs, stored in ((0, weight), (1, weight.T.contiguous())):
        packer = PanelPacker(Recorder(stored), replace(plain, word=2), outputs=outputs)
        tiles = [torch.frombuffer(bytearray(packer.tile(t)), dtype=torch.bfloat16) for t in range(plain.tiles)]
        words = torch.stack([tile[: 6 * 16].view(3, 16, 2) for tile in tiles])
        assert torch.equal(words.permute(0, 2, 1, 3).reshape(-1, 6)[:50], weight)


@pytest.mark.parametrize(("groups", "kernel"), [(1, (3, 3)), (2, (1, 5)), (3, (4,))])
def test_convolution_weights_run_over_kernel_then_channels(groups: int, kernel: tuple[int, ...]) -> None:
    n, channels = 10, 6
    weight = torch.randn(groups * n, channels, *kernel)
    layout = PackedPanels(n=n, k=channels * kernel[0] * (*kernel, 1)[1], nr=16, groups=groups, dtype="float32")
    expected = weight.movedim(1, -1).reshape(groups, n, -1)
    assert torch.equal(unpacked(PanelPacker(Recorder(weight), layout)), expected)


def test_transposed_convolution_weights() -> None:
    groups, channels, n = 2, 5, 7
    weight = torch.randn(groups * channels, n, 3, 2)
    layout = PackedPanels(n=n, k=channels * 6, nr=16, groups=groups, dtype="float32")
    expected = weight.view(groups, channels, n, 3, 2).permute(0, 2, 3, 4, 1).reshape(groups, n, -1)
    assert torch.equal(unpacked(PanelPacker(Recorder(weight), layout, outputs=1)), expected)


def test_a_tile_reads_only_its_rows() -> None:
    reader = Recorder(torch.randn(100, 7))
    PanelPacker(reader, PackedPanels(n=50, k=7, nr=16, groups=2, dtype="float32")).tile(7)
    assert reader.boxes == [(slice(98, 100), slice(0, 7))]


def test_half_weights_widen_exactly_to_float32() -> None:
    weight = torch.randn(20, 4).to(torch.bfloat16)
    packer = PanelPacker(Recorder(weight), PackedPanels(n=20, k=4, nr=16, groups=1, dtype="float32"))
    assert torch.equal(unpacked(packer)[0], weight.float())


def test_a_shape_that_disagrees_is_refused() -> None:
    with pytest.raises(InputError, match="does not hold 1 group"):
        PanelPacker(Recorder(torch.randn(20, 4)), PackedPanels(n=20, k=5, nr=16, groups=1, dtype="float32"))


def places(bits: int) -> list[list[tuple[int, int]]]:
    """Of each word of codes, the lowest first, its bits as (stored word, bit of a byte)."""
    if bits != 3:
        return [[(0, 8 - bits * (i + 1) + bit) for bit in range(bits)] for i in range(8 // bits)]
    whole = [[(stored, first + bit) for bit in range(3)] for stored, first in [(0, 3), (0, 0), (1, 3), (1, 0), (2, 5)]]
    return [*whole, [(2, 2), (2, 3), (2, 4)], [(2, 0), (0, 6), (0, 7)], [(2, 1), (1, 6), (1, 7)]]


@pytest.mark.parametrize("group", [32, 64, 256])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_are_twos_complement_in_the_documented_bits(bits: int, group: int) -> None:
    n, k, nr = 21, 512, 16
    form = Codes(bits, group)
    layout = PackedPanels(n=n, k=k, nr=nr, groups=1, dtype="uint8", word=4, codes=form)
    codes = torch.randint(0, 1 << bits, (n, k), dtype=torch.uint8)
    packer = CodePacker(Recorder(codes), Recorder(torch.randn(n, k // group).half()), layout)
    where, found = places(bits), []
    stored = max(word for place in where for word, _ in place) + 1
    for tile in (packer.tile(0), packer.tile(1)):
        assert len(tile) == layout.tile_bytes
        packed = torch.frombuffer(bytearray(tile), dtype=torch.uint8)[form.head_bytes(nr, k) :]
        block = packed.int().view(-1, stored, nr, 4)
        lines = [sum((block[:, word] >> bit & 1) << i for i, (word, bit) in enumerate(place)) for place in where]
        found.append(torch.stack([torch.as_tensor(line) for line in lines], 1).permute(2, 0, 1, 3).reshape(nr, k))
    signed = codes.int() - form.zero
    assert torch.equal(torch.cat(found)[:n], signed & ((1 << bits) - 1))
