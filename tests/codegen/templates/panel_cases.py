"""Specifications of GEMMs and convolutions for tests, their packed weights, and runs over tiles and tasks."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ullage.codegen.cpp.templates.pack import CodePacker, PanelPacker
from ullage.codegen.cpp.toolchain import compile_objects, link_shared
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import Apply, Buffer, Cast, Const, Expr, Load, Ref, Store, Var
from ullage.codegen.templates import PackedPanels
from ullage.target import Target

_WORKSPACE_GUARD = 0x5A
_MARGIN = 64
B, M, N = Var("b"), Var("m"), Var("n")


@dataclass(frozen=True)
class Weight:
    """A tensor that is read by boxes."""

    values: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def read(self, box: tuple[slice, ...]) -> torch.Tensor:
        return self.values[box].clone()


def add(*terms: Expr) -> Expr:
    """The sum."""
    total = terms[0]
    for term in terms[1:]:
        total = Apply("add", (total, term), total.dtype)
    return total


def mul(left: Expr, right: Expr | int) -> Expr:
    """The product; a number is an index."""
    return Apply("mul", (left, Const(right) if isinstance(right, int) else right), left.dtype)


def epilogue(
    kind: str, row: Expr, out: str = "float32", at: Expr | None = None, residual_at: Expr | None = None
) -> tuple[Store, ...]:
    """Stores to `y[at]` of the sums: as they are, with bias and ReLU, or through tanh and with `residual[residual_at]`;
    both places are `row + n` unless others are given."""
    place = add(row, N)
    value: Expr = Ref("acc", "float32")
    if kind != "plain":
        value = add(value, Load("bias", N, "float32"))
    if kind == "relu":
        value = Apply("max", (value, Const(0.0, "float32")), "float32")
    if kind == "heavy":
        value = add(Apply("tanh", (value,), "float32"), Load("residual", residual_at or place, "float32"))
    return (Store("y", at or place, value if out == "float32" else Cast(value, out)),)


def expected(kind: str, sums: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """What the epilogue makes of exact sums [..., n]."""
    if kind == "plain":
        return sums
    sums = sums + bias.double()
    return sums.relu() if kind == "relu" else sums.tanh() + residual.double()


def buffers(x: str, weight: str, out: str = "float32") -> tuple[Buffer, ...]:
    """The buffers of all cases."""
    return (
        Buffer("x", x, "r"),
        Buffer("w", weight, "r"),
        Buffer("bias", "float32", "r"),
        Buffer("residual", "float32", "r"),
        Buffer("y", out, "w"),
    )


def pack(weight: torch.Tensor, layout: PackedPanels, outputs: int = 0) -> torch.Tensor:
    """All tiles, one after another, as bytes."""
    return pack_tiles(PanelPacker(Weight(weight), layout, 1 if outputs else 0), layout)


def pack_tiles(packer: PanelPacker | CodePacker, layout: PackedPanels) -> torch.Tensor:
    """All tiles of a packer, one after another, as bytes."""
    return torch.frombuffer(bytearray(b"".join(packer.tile(i) for i in range(layout.tiles))), dtype=torch.uint8)


def fenced(values: torch.Tensor) -> torch.Tensor:
    """A copy between stretches of NaN (113 for integers), so that a sum that reads outside becomes NaN (wrong)."""
    odd = float("nan") if values.dtype.is_floating_point else 113
    memory = torch.full((values.numel() + 2 * _MARGIN,), odd, dtype=values.dtype)
    inner = memory[_MARGIN : _MARGIN + values.numel()].view(values.shape)
    return inner.copy_(values)


class _Args(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("p", "n", "shared", "thread")]


class Library:
    """Compiled kernels of one target; those that were not foreseen are compiled when they are first run."""

    def __init__(self, target: Target, foreseen: Sequence[Kernel]) -> None:
        self.target = target
        self._functions: dict[str, Callable[..., None]] = {}
        self._compile(list({kernel.symbol: kernel for kernel in foreseen}.values()))

    def _compile(self, kernels: Sequence[Kernel]) -> None:
        symbols = [kernel.symbol for kernel in kernels]
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(link_shared(compile_objects(kernels, self.target), symbols, self.target))
            file.flush()
            table = (ctypes.c_void_p * len(symbols)).in_dll(ctypes.CDLL(file.name), "ullage_kernels")
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_long, ctypes.c_long)
        self._functions.update({s: prototype(address) for s, address in zip(symbols, table, strict=True)})

    def function(self, kernel: Kernel) -> Callable[..., None]:
        """The callable kernel."""
        if kernel.symbol not in self._functions:
            self._compile([kernel])
        return self._functions[kernel.symbol]


def run(
    kernel: Kernel,
    library: Library,
    tensors: Mapping[str, torch.Tensor],
    layout: PackedPanels | None = None,
    dims: Mapping[str, int] | None = None,
    launches: Sequence[int] = (),
    cuts: Sequence[int] = (),
) -> None:
    """Run a kernel: tiles cut into launches before `launches`, each launch's tasks into calls at `cuts`, last first.

    Fails if the thread's workspace is overrun.
    """
    dims = dims or {}
    tiles = layout.tiles if layout else 1
    starts = [0, *(t for t in launches if 0 < t < tiles), tiles]
    for first, last in pairwise(starts):
        placed = dict(tensors)
        if layout:
            placed["w"] = tensors["w"][first * layout.tile_bytes :]
        integers = [*(dims[name] for name in kernel.dims), *((first, last - first) if kernel.tiled else ())]
        tasks = kernel.tasks.evaluate(dims) * (last - first if kernel.tiled else 1)
        edges = [0, *(c for c in cuts if 0 < c < tasks), tasks]
        for begin, end in reversed(list(pairwise(edges))):
            _call(library.function(kernel), kernel, placed, integers, kernel.thread_bytes.evaluate(dims), begin, end)


def _call(
    function: Callable[..., None],
    kernel: Kernel,
    tensors: Mapping[str, torch.Tensor],
    integers: Sequence[int],
    workspace_bytes: int,
    begin: int,
    end: int,
) -> None:
    memory = torch.full((workspace_bytes + 192,), _WORKSPACE_GUARD, dtype=torch.uint8)
    start = (memory.data_ptr() + 127) // 64 * 64 - memory.data_ptr()
    memory[start : start + workspace_bytes] = 0xFF
    pointers = (ctypes.c_void_p * len(kernel.buffers))(*[tensors[name].data_ptr() for name in kernel.buffers])
    numbers = (ctypes.c_long * max(1, len(integers)))(*integers)
    args = _Args(ctypes.addressof(pointers), ctypes.addressof(numbers), 0, memory.data_ptr() + start)
    function(ctypes.addressof(args), begin, end)
    outside = torch.cat([memory[:start], memory[start + workspace_bytes :]])
    assert bool((outside == _WORKSPACE_GUARD).all()), "the kernel wrote outside its workspace"


def assert_close(
    found: torch.Tensor, wanted: torch.Tensor, magnitude: torch.Tensor, k: int, eps: float = 2**-23
) -> None:
    """|found − wanted| is within what k roundings of sums of the given magnitude (Σ|a·b|) make likely."""
    allowed = eps * (2 + k**0.5) * magnitude + 4 * eps * wanted.abs() + 1e-6
    excess = ((found.double() - wanted).abs() - allowed).max().item()
    assert excess <= 0, f"off by {excess} more than allowed"


def random_values(shape: Sequence[int], dtype: str, generator: torch.Generator) -> torch.Tensor:
    """Normal values of a floating type, or evenly spread ones of an integer type."""
    kind = getattr(torch, dtype)
    if kind.is_floating_point:
        return torch.randn(tuple(shape), generator=generator).to(kind)
    limits = torch.iinfo(kind)
    return torch.randint(limits.min, limits.max + 1, tuple(shape), generator=generator, dtype=kind)
