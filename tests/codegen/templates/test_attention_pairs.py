"""Attention of bfloat16: products of pairs where the machine has them, float32 sums, bits that no split changes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.codegen.templates.template_runner import host_targets
from tests.codegen.templates.test_attention import LOWEST, Case, case, run, spec_of, truth
from ullage.codegen.cpp.templates.attention import emit_attention
from ullage.target import BF16_DOT, Target

TARGET = host_targets()[-1]
BF16, F32 = torch.bfloat16, torch.float32


def assert_rounded_once(c: Case, target: Target = TARGET) -> torch.Tensor:
    """Each output is off by no more than rounding every weight to bfloat16, and the result, can make it."""
    out = run(c, target)
    magnitude = truth(replace(c, v=c.v.abs()))
    roundings = 2**-8 * (1 if out.dtype == F32 else 2) + 2**-12
    assert out.isfinite().all()
    assert ((out.double() - truth(c)).abs() <= roundings * magnitude + 1e-6).all()
    return out


@pytest.mark.parametrize("out", [BF16, F32], ids=str)
@pytest.mark.parametrize(("head", "value"), [(1, 1), (32, 32), (33, 17), (20, 40), (80, 7)])
def test_any_head_and_value_dimension(head: int, value: int, out: torch.dtype) -> None:
    for queries, keys in ((2, 67), (30, 130), (53, 64)):
        assert_rounded_once(case(queries, keys, head=head, value=value, dtype=BF16, out=out))


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_causal_and_grouped_heads(kv_heads: int) -> None:
    for queries, keys in ((1, 80), (37, 37), (100, 65), (20, 151)):
        assert_rounded_once(case(queries, keys, heads=6, kv_heads=kv_heads, causal=True, dtype=BF16))


@pytest.mark.parametrize("kind", ["keys", "full", "keep"])
def test_masks_keep_their_type(kind: str) -> None:
    """A float32 mask is added to float32 scores: its lowest value is no infinity, as it would be in bfloat16."""
    for queries in (3, 50):
        shape = (2, 1, 1, 77) if kind == "keys" else (2, 2, queries, 77)
        drawn = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        mask = drawn > 0.4 if kind == "keep" else torch.where(drawn < 0.4, LOWEST, drawn)
        mask = mask.expand(2, 2, queries, 77)
        assert_rounded_once(case(queries, 77, mask=mask, dtype=BF16))
    uniform = case(3, 70, mask=torch.full((2, 2, 3, 70), LOWEST), dtype=BF16, out=F32)
    expected = uniform.v.double().mean(1, keepdim=True).expand(2, 3, 2, 32)
    torch.testing.assert_close(run(uniform, TARGET).double(), expected, rtol=0, atol=1e-6)


def test_what_is_excluded_gives_nothing() -> None:
    """Rows without a key are 0; values of excluded keys play no part as long as they are numbers."""
    for queries in (3, 30):
        mask = torch.rand(2, 2, queries, 71) < 0.5
        mask[:, :, 1] = False
        mask[..., 70] = False
        c = case(queries, 71, mask=mask, dtype=BF16)
        out = assert_rounded_once(c)
        assert (out[:, 1] == 0).all()
        c.v[:, 70] = 1e30
        assert torch.equal(run(c, TARGET), out)


def test_one_key_gives_its_value() -> None:
    for queries in (2, 40):
        c = case(queries, 1, dtype=BF16)
        assert torch.equal(run(c, TARGET), c.v.expand(2, queries, 2, 32))


def test_large_and_negative_scales() -> None:
    """The scale is applied to float32 sums, so that it costs no precision, and may be anything."""
    for scale in (300.0, -2.0, 0.0):
        for queries in (2, 20):
            assert_rounded_once(case(queries, 130, scale=scale, dtype=BF16, head=16))


def test_nan_reaches_its_rows_only() -> None:
    for queries in (3, 30):
        c = case(queries, 70, dtype=BF16)
        c.q[0, 1] = math.nan
        out = run(c, TARGET)
        assert out[0, 1].isnan().all() and not out[0, 0].isnan().any() and not out[1].isnan().any()


@pytest.mark.parametrize("kind", ["none", "keys", "full"])
def test_bits_do_not_depend_on_how_queries_are_split(kind: str) -> None:
    shape = {"keys": (2, 1, 1, 151), "full": (2, 2, 60, 151)}.get(kind)
    mask = None if shape is None else torch.randn(shape).expand(2, 2, 60, 151)
    c = case(60, 151, head=19, value=37, mask=mask, dtype=BF16, out=F32)
    whole = run(c, TARGET)
    for first, last in ((0, 1), (1, 4), (7, 20), (20, 60)):
        part = replace(c, q=c.q[:, first:last], mask=None if mask is None else mask[:, :, first:last])
        assert torch.equal(run(part, TARGET), whole[:, first:last])


def test_bits_do_not_depend_on_tasks() -> None:
    c = case(150, 101, causal=True, dtype=BF16, out=F32)
    whole = run(c, TARGET)
    assert torch.equal(run(c, TARGET, cuts=(1, 3, 7)), whole)
    assert torch.equal(run(replace(c, dynamic=False), TARGET, cuts=tuple(range(1, 99))), whole)


@pytest.mark.parametrize(("isa", "dtypes", "pairs"), [
    ("avx512_bf16", (BF16, BF16, BF16), True), ("avx512_bf16", (BF16, BF16, F32), False),
    ("avx512_bf16", (F32, F32, F32), False), ("avx512_vnni", (BF16, BF16, BF16), False),
], ids=str)  # fmt: skip
def test_only_bfloat16_throughout_needs_the_instruction(isa: str, dtypes: tuple[torch.dtype, ...], pairs: bool) -> None:
    c = case(8, 8)
    c = replace(c, q=c.q.to(dtypes[0]), k=c.k.to(dtypes[1]), v=c.v.to(dtypes[2]))
    kernel = emit_attention(spec_of(c, torch.zeros(2, 8, 2, 32))[0], Target("cpu", isa, 2))
    assert kernel.features == ({BF16_DOT} if pairs else frozenset())


def test_mixed_types_are_widened() -> None:
    for queries in (3, 30):
        c = case(queries, 70, dtype=BF16, out=F32)
        mixed = replace(c, v=c.v.float())
        out = run(mixed, TARGET)
        assert (out.double() - truth(c)).abs().max() < 1e-5
