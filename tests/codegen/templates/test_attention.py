"""Attention kernels against float64, their edge cases, and the independence of their bits from tasks and splits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

from tests.codegen.templates.template_runner import host_targets, run_kernel
from ullage.codegen.cpp.templates.attention import emit_attention
from ullage.codegen.loops.ir import Buffer, Const, Dim, Expr
from ullage.codegen.templates import Attention, Strided
from ullage.errors import InputError
from ullage.target import Target

TARGETS = host_targets()
ON_ALL = pytest.mark.parametrize("target", TARGETS, ids=str)
ON_ENDS = pytest.mark.parametrize("target", {TARGETS[0]: 0, TARGETS[-1]: 0}, ids=str)
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.bool: "bool"}
LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Case:
    """One attention over [batch, position, head, element] tensors."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor | None = None
    causal: bool = False
    scale: float = 0.3
    dynamic: bool = True
    out: torch.dtype | None = None

    @property
    def kind(self) -> str:
        if self.mask is None:
            return "none"
        return "keep" if self.mask.dtype == torch.bool else "add"


def case(
    queries: int,
    keys: int,
    *,
    head: int = 32,
    value: int | None = None,
    batch: int = 2,
    heads: int = 2,
    kv_heads: int | None = None,
    dtype: torch.dtype = torch.float32,
    **options: object,
) -> Case:
    torch.manual_seed(queries * 1000 + keys)
    kv = kv_heads or heads
    shapes = [(batch, queries, heads, head), (batch, keys, kv, head), (batch, keys, kv, value or head)]
    return Case(*[torch.randn(s).to(dtype) for s in shapes], **options)  # type: ignore[arg-type]


def _strided(name: str, tensor: torch.Tensor, order: tuple[int, ...], sizes: dict[str, int], dynamic: bool) -> Strided:
    """Strides as constants, or as dimensions (but the last and what is broadcast over queries), so that shapes share
    one compiled kernel."""
    known = {3} if name != "mask" else {1, 2} if tensor.stride(1) == tensor.stride(2) == 0 else set()
    strides: list[Expr] = []
    for axis in order:
        stride = tensor.stride(axis)
        sizes[f"{name}{axis}"] = stride
        strides.append(Dim(f"{name}{axis}") if dynamic and axis not in known else Const(stride))
    return Strided(name, NAMES[tensor.dtype], tuple(strides), Const(0))  # type: ignore[arg-type]


def spec_of(c: Case, out: torch.Tensor) -> tuple[Attention, dict[str, int]]:
    sizes = {"B": c.q.shape[0], "S": c.q.shape[1], "T": c.k.shape[1]}
    tensors = {"q": c.q, "k": c.k, "v": c.v, "out": out} | ({} if c.mask is None else {"mask": c.mask})
    buffers = [Buffer(n, NAMES[t.dtype], "w" if n == "out" else "r") for n, t in tensors.items()]
    batch, queries, keys = (Dim(n) if c.dynamic else Const(size) for n, size in list(sizes.items()))
    operands = {n: _strided(n, tensors[n], (0, 2, 1, 3), sizes, c.dynamic) for n in ("q", "k", "v", "out")}
    mask = None if c.mask is None else _strided("mask", c.mask, (0, 1, 2, 3), sizes, c.dynamic)
    spec = Attention(
        buffers=tuple(buffers),
        dims=tuple(sizes),
        batch=batch,
        heads=Const(c.q.shape[2]),
        kv_heads=Const(c.k.shape[2]),
        queries=queries,
        keys=keys,
        head_dim=c.q.shape[3],
        value_dim=c.v.shape[3],
        scale=c.scale,
        causal=c.causal,
        mask=mask,
        mask_kind=c.kind,  # type: ignore[arg-type]
        **operands,
    )
    return spec, sizes


def run(c: Case, target: Target, cuts: tuple[int, ...] = ()) -> torch.Tensor:
    out = torch.full((*c.q.shape[:3], c.v.shape[3]), math.nan, dtype=c.out or c.q.dtype)
    spec, sizes = spec_of(c, out)
    tensors = {"q": c.q, "k": c.k, "v": c.v, "out": out} | ({} if c.mask is None else {"mask": c.mask})
    run_kernel(emit_attention(spec, target), target, tensors, sizes, cuts)
    return out


def truth(c: Case, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Softmax attention by its definition; rows without a key are 0."""
    group = c.q.shape[2] // c.k.shape[2]
    q = c.q.to(dtype).transpose(1, 2)
    k, v = (t.to(dtype).transpose(1, 2).repeat_interleave(group, 1) for t in (c.k, c.v))
    scores = q @ k.transpose(2, 3) * c.scale
    if c.kind == "add":
        scores = scores + c.mask.to(dtype)  # type: ignore[union-attr]
    if c.kind == "keep":
        scores = scores.masked_fill(~c.mask, -math.inf)  # type: ignore[operator]
    if c.causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    return (torch.softmax(scores, -1).nan_to_num(0.0) @ v).transpose(1, 2)


def assert_close(c: Case, out: torch.Tensor) -> None:
    """At least as close to the truth as 4 times the float32 formula's own error, plus the storage's rounding."""
    exact = truth(c)
    own = (truth(c, torch.float32).double() - exact).abs().max().item()
    size = exact.abs().max().item()
    limit = 4 * own + 2 * torch.finfo(torch.float32).eps * size
    if c.q.dtype != torch.float32:
        limit += torch.finfo(c.q.dtype).eps * size
    assert (out.double() - exact).abs().max().item() <= limit


@ON_ALL
@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (1, 200), (3, 65), (9, 130), (17, 64), (40, 129), (48, 70), (101, 77)]
)
def test_shapes_are_close_to_float64(target: Target, queries: int, keys: int) -> None:
    c = case(queries, keys)
    assert_close(c, run(c, target))


@ON_ENDS
@pytest.mark.parametrize(("queries", "keys"), [(1, 70), (101, 77)])
def test_constant_sizes_give_the_same_bits(target: Target, queries: int, keys: int) -> None:
    c = case(queries, keys)
    assert torch.equal(run(replace(c, dynamic=False), target), run(c, target))


@ON_ENDS
@pytest.mark.parametrize(("head", "value"), [(1, 1), (33, 17), (80, 7)])
def test_any_head_and_value_dimension(target: Target, head: int, value: int) -> None:
    for queries in (2, 30):
        c = case(queries, 70, head=head, value=value)
        assert_close(c, run(c, target))


@ON_ENDS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_storage(target: Target, dtype: torch.dtype) -> None:
    for queries, keys in ((2, 90), (50, 90)):
        c = case(queries, keys, head=20, value=24, dtype=dtype)
        assert_close(c, run(c, target))


@ON_ENDS
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_query_heads(target: Target, kv_heads: int) -> None:
    for queries in (1, 2, 37):
        c = case(queries, 80, heads=6, kv_heads=kv_heads, causal=True)
        assert_close(c, run(c, target))


@ON_ALL
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (130, 130), (70, 20), (20, 150)])
def test_causal(target: Target, queries: int, keys: int) -> None:
    c = case(queries, keys, causal=True)
    assert_close(c, run(c, target))


def _additive(shape: tuple[int, ...], low: float) -> torch.Tensor:
    torch.manual_seed(sum(shape))
    return torch.where(torch.rand(shape) < 0.4, low, torch.randn(shape))


MASKS = {
    "full": (2, 2, None, None),
    "by_head": (1, 2, None, None),
    "one": (1, 1, None, None),
    "keys_only": (2, 1, 1, None),
}


@ON_ENDS
@pytest.mark.parametrize("shape", MASKS)
@pytest.mark.parametrize("kind", ["keep", "inf", "lowest", "transposed"])
def test_masks_broadcast(target: Target, shape: str, kind: str) -> None:
    for queries, keys in ((3, 70), (50, 77)):
        full = tuple(n or m for n, m in zip(MASKS[shape], (0, 0, queries, keys), strict=True))
        mask = _additive(full, {"inf": -math.inf, "lowest": LOWEST}.get(kind, -1.0))
        mask = mask > 0 if kind == "keep" else mask
        mask = mask.mT.contiguous().mT if kind == "transposed" else mask
        c = case(queries, keys, mask=mask.expand(2, 2, queries, keys), causal=kind in ("inf", "keep"))
        assert_close(c, run(c, target))


@ON_ALL
def test_rows_without_a_key_are_zero(target: Target) -> None:
    for queries in (3, 30):
        mask = torch.rand(2, 2, queries, 70) < 0.5
        mask[:, :, 1] = False
        c = case(queries, 70, mask=mask)
        out = run(c, target)
        assert_close(c, out)
        assert torch.equal(out[:, 1], torch.zeros_like(out[:, 1]))
        added = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
        assert torch.equal(run(replace(c, mask=added), target), out)


@ON_ALL
def test_rows_of_lowest_values_are_uniform(target: Target) -> None:
    for queries in (3, 30):
        mask = torch.full((2, 2, queries, 70), LOWEST)
        c = case(queries, 70, mask=mask)
        expected = c.v.mean(1, keepdim=True).expand(2, queries, 2, 32)
        torch.testing.assert_close(run(c, target), expected, rtol=1e-5, atol=1e-6)


@ON_ALL
def test_late_keys_after_lowest_values(target: Target) -> None:
    mask = torch.full((1, 1, 1, 200), LOWEST)
    mask[..., 150:] = 0
    for queries in (3, 30):
        c = case(queries, 200, mask=mask.expand(2, 2, queries, 200))
        assert_close(c, run(c, target))


@ON_ALL
def test_large_scores_do_not_overflow(target: Target) -> None:
    for queries in (2, 20):
        c = case(queries, 130, scale=500.0)
        out = run(c, target)
        assert bool(out.isfinite().all())
        torch.testing.assert_close(out.double(), truth(c), rtol=1e-3, atol=1e-2)


@ON_ALL
def test_nan_reaches_its_rows_only(target: Target) -> None:
    for queries in (3, 30):
        c = case(queries, 70)
        c.q[0, 1] = math.nan
        out = run(c, target)
        assert bool(out[0, 1].isnan().all())
        assert not bool(out[0, 0].isnan().any()) and not bool(out[1].isnan().any())


@ON_ALL
def test_bits_do_not_depend_on_tasks(target: Target) -> None:
    c = case(150, 100, causal=True)
    whole = run(c, target)
    assert torch.equal(run(c, target, cuts=(1, 3, 7)), whole)
    assert torch.equal(run(c, target, cuts=tuple(range(1, 99))), whole)


@ON_ALL
@pytest.mark.parametrize("kind", ["none", "keys", "full", "bfloat16"])
def test_bits_do_not_depend_on_how_queries_are_split(target: Target, kind: str) -> None:
    mask = {"keys": _additive((2, 1, 1, 150), LOWEST), "full": _additive((2, 2, 60, 150), -math.inf)}.get(kind)
    mask = None if mask is None else mask.expand(2, 2, 60, 150)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    c = case(60, 150, heads=2, head=19, value=37, mask=mask, dtype=dtype)
    whole = run(c, target)
    for first, last in ((0, 1), (1, 4), (7, 20), (20, 60)):
        part = replace(c, q=c.q[:, first:last], mask=None if mask is None else mask[:, :, first:last])
        assert torch.equal(run(part, target), whole[:, first:last])


@ON_ALL
def test_strides_of_heads_first_and_fused_projections(target: Target) -> None:
    c = case(33, 40)
    heads_first = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (c.q, c.k, c.v)]
    fused = torch.cat([c.k, c.v], 3)
    whole = run(c, target)
    assert torch.equal(run(replace(c, q=heads_first[0], k=heads_first[1], v=heads_first[2]), target), whole)
    out = torch.full_like(c.q, math.nan)
    spec, sizes = spec_of(replace(c, k=fused[..., :32], v=fused[..., 32:]), out)
    buffers = tuple(b for b in spec.buffers if b.name != "v")
    spec = replace(spec, v=replace(spec.v, buffer="k", offset=Const(32)), buffers=buffers)
    run_kernel(emit_attention(spec, target), target, {"q": c.q, "k": fused, "out": out}, sizes)
    assert torch.equal(out, whole)


def test_tasks_are_blocks_of_rows_per_batch_and_head() -> None:
    target = TARGETS[-1]
    spec, _ = spec_of(case(33, 40, heads=6, kv_heads=3), torch.zeros(2, 33, 6, 32))
    tasks = emit_attention(spec, target).tasks
    assert tasks.names() == {"B", "S"}
    assert tasks.evaluate({"B": 5, "S": 33}) == 5 * 3 * math.ceil(33 * 2 / (3 * target.lanes))


def test_equal_kernels_share_a_symbol_and_others_do_not() -> None:
    c = case(8, 8)
    spec, _ = spec_of(c, c.q)
    target = TARGETS[0]
    assert emit_attention(spec, target) == emit_attention(spec, target)
    assert emit_attention(spec, target).symbol != emit_attention(replace(spec, scale=0.5), target).symbol


def test_unsuitable_operands_are_named_together() -> None:
    spec, _ = spec_of(case(8, 8), torch.empty(0, 0, 0, 0))
    bad = replace(spec, q=replace(spec.q, dtype="int8"), k=replace(spec.k, strides=(*spec.k.strides[:3], Const(2))))
    with pytest.raises(InputError, match=r"q is int8.*k has last stride.*"):
        emit_attention(bad, TARGETS[0])
