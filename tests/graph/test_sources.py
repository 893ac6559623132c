"""Sources deliver any box of a tensor, and recipes push boxes through to what they are made of."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ullage.errors import CaptureError
from ullage.graph import recipes, sources
from ullage.graph.constants import Box, ConstantRef
from ullage.graph.sources import FileSlice, FileStamp, InMemory

Draw = Callable[[st.SearchStrategy[int]], int]


def constant(tensor: torch.Tensor, name: str = "weight") -> ConstantRef:
    return ConstantRef(name, tensor.dtype, tuple(tensor.shape), InMemory(tensor))


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def draw_box(data: st.DataObject, shape: tuple[int, ...]) -> Box:
    ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    return tuple(slice(start, stop) for start, stop in ends)


class Spy:
    """A source that remembers how many elements were asked of it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.inner = InMemory(tensor)
        self.key = self.inner.key
        self.elements = 0

    def read(self, box: Box) -> torch.Tensor:
        result = self.inner.read(box)
        self.elements += result.numel()
        return result


def in_file(path: Path, tensor: torch.Tensor, offset: int = 3) -> FileSlice:
    path.write_bytes(b"\0" * offset + bytes(tensor.flatten().contiguous().view(torch.uint8).tolist()) + b"\0" * 5)
    return FileSlice(path, offset, tensor.dtype, tuple(tensor.shape), FileStamp.of(path))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from([4 << 20, 96, 8]))
def test_a_file_slice_delivers_any_box(tmp_path: Path, data: st.DataObject, span: int) -> None:
    tensor = numbered(5, 4, 3, 2)
    source = in_file(tmp_path / "weights", tensor)
    box = draw_box(data, tuple(tensor.shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "SPAN_BYTES", span)
        read = source.read(box)
    assert read.is_contiguous()
    assert torch.equal(read, tensor[box])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8])
def test_a_file_slice_knows_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = (numbered(3, 4) % 2).to(dtype)
    assert torch.equal(in_file(tmp_path / "weights", tensor).read((slice(1, 3), slice(0, 4))), tensor[1:3])


def test_a_scalar_and_an_empty_tensor_are_read(tmp_path: Path) -> None:
    assert in_file(tmp_path / "scalar", torch.tensor(7.0)).read(()).item() == 7.0
    assert in_file(tmp_path / "empty", torch.empty(0, 3)).read((slice(0, 0), slice(0, 3))).shape == (0, 3)


def test_a_replaced_file_and_a_missing_one_are_noticed(tmp_path: Path) -> None:
    source = in_file(tmp_path / "weights", numbered(4))
    os.utime(source.path, ns=(1, 1))
    with pytest.raises(CaptureError, match="changed after"):
        source.read((slice(0, 4),))
    source.path.unlink()
    with pytest.raises(CaptureError, match="cannot be read"):
        source.read((slice(0, 4),))


def test_a_file_that_is_too_short_is_noticed(tmp_path: Path) -> None:
    source = in_file(tmp_path / "weights", numbered(4))
    longer = FileSlice(source.path, source.offset, source.dtype, (8,), source.stamp)
    with pytest.raises(CaptureError, match="ends at byte"):
        longer.read((slice(0, 8),))


def test_keys_are_equal_for_the_same_bytes_only(tmp_path: Path) -> None:
    tensor = numbered(4)
    assert InMemory(tensor).key == InMemory(tensor.view(4)).key
    assert InMemory(tensor).key != InMemory(tensor.clone()).key
    assert InMemory(tensor).key != InMemory(tensor.view(2, 2)).key
    ref = constant(tensor)
    assert recipes.reshape(ref, (2, 2)).source.key == recipes.reshape(ref, (2, 2)).source.key
    assert recipes.reshape(ref, (2, 2)).source.key != recipes.reshape(ref, (4, 1)).source.key


def test_what_is_read_is_the_reader_s_own() -> None:
    tensor = numbered(4)
    constant(tensor).read().zero_()
    assert tensor[3] == 3


RECIPES: dict[str, tuple[Callable[[ConstantRef], ConstantRef], Callable[[torch.Tensor], torch.Tensor]]] = {
    "permute": (lambda ref: recipes.permute(ref, (2, 0, -2)), lambda t: t.permute(2, 0, 1)),
    "slice": (
        lambda ref: recipes.slice_box(ref, (slice(1, 4), slice(0, 3), slice(2, 4))),
        lambda t: t[1:4, :3, 2:4],
    ),
    "convert": (lambda ref: recipes.convert(ref, torch.bfloat16), lambda t: t.bfloat16()),
    "merge": (lambda ref: recipes.reshape(ref, (20, 6)), lambda t: t.reshape(20, 6)),
    "split": (lambda ref: recipes.reshape(ref, (5, 2, 2, 1, 3, 2)), lambda t: t.reshape(5, 2, 2, 1, 3, 2)),
    "regroup": (lambda ref: recipes.reshape(ref, (6, 20)), lambda t: t.reshape(6, 20)),
    "concatenate": (lambda ref: recipes.concatenate((ref, ref), 1), lambda t: torch.cat((t, t), 1)),
    "scale": (
        lambda ref: recipes.scale(ref, constant(numbered(4), "factors"), 1),
        lambda t: t * numbered(4)[:, None],
    ),
    "compute": (
        lambda ref: recipes.compute("sum", "sum of 0", lambda t: t.sum(0), (ref,), torch.float32, (4, 6)),
        lambda t: t.sum(0),
    ),
    "chain": (
        lambda ref: recipes.reshape(recipes.permute(recipes.concatenate((ref, ref), 0), (1, 0, 2)), (8, 30)),
        lambda t: torch.cat((t, t)).permute(1, 0, 2).reshape(8, 30),
    ),
}


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_recipe_delivers_any_box(name: str, data: st.DataObject) -> None:
    tensor = numbered(5, 4, 6)
    make, eager = RECIPES[name]
    made, wanted = make(constant(tensor)), eager(tensor)
    assert (made.shape, made.dtype) == (tuple(wanted.shape), wanted.dtype)
    box = draw_box(data, made.shape)
    read = made.read(box)
    assert read.is_contiguous()
    assert torch.equal(read, wanted[box])


@st.composite
def shape_pairs(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3]), max_size=6))  # type: ignore[arg-type]
    shapes = []
    for _ in range(2):
        shape = [1] * draw(st.integers(1, 4))
        for factor in factors:  # type: ignore[attr-defined]
            shape[draw(st.integers(0, len(shape) - 1))] *= factor
        shapes.append(tuple(shape))
    return shapes[0], shapes[1]


@settings(max_examples=200, deadline=None)
@given(shape_pairs(), st.data())
def test_any_reshape_delivers_any_box(shapes: tuple[tuple[int, ...], tuple[int, ...]], data: st.DataObject) -> None:
    old, new = shapes
    tensor = numbered(*old)
    box = draw_box(data, new)
    assert torch.equal(recipes.reshape(constant(tensor), new).read(box), tensor.reshape(new)[box])


def test_a_reshape_to_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        recipes.reshape(constant(numbered(4)), (5,))


@pytest.mark.parametrize(
    ("make", "box", "elements"),
    [
        (lambda ref: recipes.permute(ref, (1, 0)), (slice(0, 2), slice(3, 4)), 2),
        (lambda ref: recipes.reshape(ref, (2, 4, 8)), (slice(1, 2), slice(0, 4), slice(0, 8)), 32),
        (lambda ref: recipes.reshape(ref, (64,)), (slice(10, 12),), 8),
        (lambda ref: recipes.concatenate((ref, ref), 0), (slice(7, 9), slice(0, 8)), 16),
        (lambda ref: recipes.slice_box(ref, (slice(2, 4), slice(0, 8))), (slice(1, 2), slice(0, 8)), 8),
    ],
)
def test_a_recipe_reads_little_more_than_the_box(
    make: Callable[[ConstantRef], ConstantRef], box: Box, elements: int
) -> None:
    spy = Spy(numbered(8, 8))
    make(ConstantRef("weight", torch.float32, (8, 8), spy)).read(box)
    assert spy.elements <= elements


def test_scaling_half_weights_rounds_once() -> None:
    weight = torch.tensor([[1.0009765625, 3.0]]).half()
    factors = torch.tensor([1.0009765625])
    scaled = recipes.scale(constant(weight), constant(factors), 0).read()
    assert torch.equal(scaled, (weight.double() * 1.0009765625).half())
