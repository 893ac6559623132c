"""Every spelling of attention becomes one call with the right scale and mask; look-alikes are left, with a reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.fx import Node

from tests.graphs import build, constant, random_inputs
from tests.passes.in_float64 import run_in_float64
from ullage.graph.captured import CapturedModel
from ullage.graph.reference import run_captured
from ullage.graph.show import show
from ullage.passes.edit import Editor, args_of, calls, is_call, value_of
from ullage.passes.fuse.attention import Attention, explain
from ullage.passes.instruments import Verify
from ullage.passes.manager import PassManager

aten = torch.ops.aten
SDPA = aten.scaled_dot_product_attention.default
B, H, T, D = 2, 3, 4, 8
FOUR = [(B, H, T, D)] * 3
Make = Callable[..., Any]
LEAST = torch.finfo(torch.float64).min


def swapped(edit: Editor, x: Node) -> Node:
    return edit.call(aten.transpose.int, x, -2, -1)


def scores(edit: Editor, q: Node, k: Node) -> Node:
    return edit.call(aten.matmul.default, q, swapped(edit, k))


def weighted(edit: Editor, x: Node, v: Node) -> Node:
    return edit.call(aten.matmul.default, edit.call(aten.softmax.int, x, -1), v)


def values(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def keep(*shape: int) -> torch.Tensor:
    """A mask with something kept in every row, neither everything nor causal."""
    mask = values(*shape) > -0.5
    mask[..., 0] = True
    mask[..., 1, 2] = False
    mask[..., 0, -1] = True
    return mask


def unscaled(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    return weighted(edit, scores(edit, q, k), v)


def scaled_scores(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    return weighted(edit, edit.call(aten.mul.Tensor, scores(edit, q, k), 0.3), v)


def divided_scores(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    return weighted(edit, edit.call(aten.div.Tensor, scores(edit, q, k), math.sqrt(D)), v)


def divided_by_constant(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    root = constant(edit, torch.tensor(math.sqrt(D), dtype=torch.float64))
    return weighted(edit, edit.call(aten.div.Tensor, scores(edit, q, k), root), v)


def scaled_query_and_key(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    return unscaled(edit, edit.call(aten.mul.Tensor, q, 0.5), edit.call(aten.div.Tensor, k, 1.7), v)


def scaled_under_views(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    rows = edit.call(aten.reshape.default, edit.call(aten.mul.Tensor, q, 0.4), [B, H * T, D])
    return unscaled(edit, edit.call(aten.reshape.default, rows, [B, H, T, D]), k, v)


def as_batched_products(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    flat = [edit.call(aten.reshape.default, x, [B * H, T, D]) for x in (q, k, v)]
    product = edit.call(aten.bmm.default, flat[0], swapped(edit, flat[1]))
    x = edit.call(aten.mul.Tensor, edit.call(aten.reshape.default, product, [B, H, T, T]), 0.3)
    weights = edit.call(aten.reshape.default, edit.call(aten._softmax.default, x, 3, False), [B * H, T, T])
    return edit.call(aten.reshape.default, edit.call(aten.bmm.default, weights, flat[2]), [B, H, T, D])


def softmax_in_three(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    bias = constant(edit, values(B, 1, T, T))
    four = edit.call(aten.add.Tensor, scores(edit, q, k), bias)
    three = edit.call(aten._softmax.default, edit.call(aten.reshape.default, four, [B * H, T, T]), 2, False)
    out = edit.call(aten.bmm.default, three, edit.call(aten.reshape.default, v, [B * H, T, D]))
    return edit.call(aten.reshape.default, out, [B, H, T, D])


def added_mask(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    x = edit.call(aten.mul.Tensor, scores(edit, q, k), 0.3)
    return weighted(edit, edit.call(aten.add.Tensor, constant(edit, values(B, 1, 1, T)), x), v)


def scale_after_mask(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    x = edit.call(aten.add.Tensor, scores(edit, q, k), constant(edit, values(1, H, T, T)))
    return weighted(edit, edit.call(aten.mul.Tensor, x, 0.3), v)


def position_bias_and_padding(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    x = edit.call(aten.add.Tensor, scores(edit, q, k), constant(edit, values(1, H, T, T)))
    least = edit.call(aten.full.default, [], LEAST, dtype=torch.float64)
    padding = constant(edit, keep(B, 1, T, T))
    return weighted(edit, edit.call(aten.where.self, padding, x, least), v)


def where_minus_infinity(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    excluded = constant(edit, ~keep(T, T))
    return weighted(edit, edit.call(aten.masked_fill.Scalar, scores(edit, q, k), excluded, -math.inf), v)


def two_exclusions(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    x = edit.call(aten.masked_fill.Scalar, scores(edit, q, k), constant(edit, ~keep(T, T)), -math.inf)
    later = torch.zeros(B, 1, 1, T, dtype=torch.bool)
    later[1, ..., -1] = True
    return weighted(edit, edit.call(aten.masked_fill.Scalar, x, constant(edit, later), -math.inf), v)


def runtime_mask(edit: Editor, q: Node, k: Node, v: Node, m: Node) -> Node:
    kept = edit.call(aten.gt.Scalar, m, -5)
    least = edit.call(aten.full.default, [], LEAST, dtype=torch.float64)
    return weighted(edit, edit.call(aten.where.self, kept, scores(edit, q, k), least), v)


def no_heads(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    x = edit.call(aten.baddbmm.default, constant(edit, values(B, 1, T)), q, swapped(edit, k), alpha=0.5)
    return edit.call(aten.bmm.default, edit.call(aten._softmax.default, x, -1, False), v)


def matrices(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    return edit.call(aten.mm.default, edit.call(aten._softmax.default, scores(edit, q, k), -1, False), v)


def windows(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    """Swin: relative bias per head, then a shift mask per window on scores that were regrouped for it."""
    x = edit.call(aten.add.Tensor, scores(edit, q, k), constant(edit, values(1, H, T, T)))
    apart = edit.call(aten.reshape.default, x, [2, 3, H, T, T])
    shifted = edit.call(aten.add.Tensor, apart, constant(edit, values(1, 3, 1, T, T, seed=6)))
    return weighted(edit, edit.call(aten.reshape.default, shifted, [6, H, T, T]), v)


def five_dimensions(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    return weighted(edit, edit.call(aten.add.Tensor, scores(edit, q, k), constant(edit, values(3, 1, T, T))), v)


def half_with_float_softmax(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    wide = edit.call(
        aten._softmax.default, edit.call(aten._to_copy.default, scores(edit, q, k), dtype=torch.float64), -1, False
    )
    return edit.call(aten.matmul.default, edit.call(aten._to_copy.default, wide, dtype=torch.float32), v)


def one_shared_head(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    return weighted(edit, edit.call(aten.mul.Tensor, scores(edit, q, k), 0.3), v)


def repeated_heads(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    def repeat(x: Node) -> Node:
        wide = edit.call(aten.expand.default, edit.call(aten.unsqueeze.default, x, 2), [B, 2, 3, T, D])
        return edit.call(aten.reshape.default, wide, [B, 6, T, D])

    return weighted(edit, scores(edit, q, repeat(k)), repeat(v))


def seen_through(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    """Projections as models write them: [batch, rows, heads, dims] transposed."""
    q, k, v = (edit.call(aten.transpose.int, edit.call(aten.reshape.default, x, [B, T, H, D]), 1, 2) for x in (q, k, v))
    out = weighted(edit, edit.call(aten.div.Tensor, scores(edit, q, k), 2.0), v)
    return edit.call(aten.reshape.default, edit.call(aten.transpose.int, out, 1, 2), [B, T, H * D])


SPELLINGS: dict[str, tuple[Make, list[tuple[int, ...]], float]] = {
    "unscaled": (unscaled, FOUR, 1.0),
    "scaled_scores": (scaled_scores, FOUR, 0.3),
    "divided_scores": (divided_scores, FOUR, 1 / math.sqrt(D)),
    "divided_by_constant": (divided_by_constant, FOUR, 1 / math.sqrt(D)),
    "scaled_query_and_key": (scaled_query_and_key, FOUR, 0.5 / 1.7),
    "scaled_under_views": (scaled_under_views, FOUR, 0.4),
    "as_batched_products": (as_batched_products, FOUR, 0.3),
    "softmax_in_three": (softmax_in_three, FOUR, 1.0),
    "added_mask": (added_mask, FOUR, 0.3),
    "scale_after_mask": (scale_after_mask, FOUR, 0.3),
    "position_bias_and_padding": (position_bias_and_padding, FOUR, 1.0),
    "where_minus_infinity": (where_minus_infinity, FOUR, 1.0),
    "two_exclusions": (two_exclusions, FOUR, 1.0),
    "runtime_mask": (runtime_mask, [*FOUR, (B, 1, 1, T)], 1.0),
    "no_heads": (no_heads, [(B, T, D)] * 3, 0.5),
    "matrices": (matrices, [(T, D)] * 3, 1.0),
    "windows": (windows, [(6, H, T, D)] * 3, 1.0),
    "five_dimensions": (five_dimensions, [(2, 3, H, T, D)] * 3, 1.0),
    "one_shared_head": (one_shared_head, [(B, H, T, D), (B, 1, T, D), (B, 1, T, D)], 0.3),
    "repeated_heads": (repeated_heads, [(B, 6, T, D), (B, 2, T, D), (B, 2, T, D)], 1.0),
    "seen_through": (seen_through, [(B, T, H * D)] * 3, 0.5),
}


def cleaned(
    make: Make, shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float64
) -> tuple[CapturedModel, Node]:
    """The model after the whole pipeline, its attention call, and the values compared with those before."""
    model = build(shapes, make, dtype)
    after, _ = run_in_float64(model, Verify())
    found = [node for node in calls(after.module.graph) if is_call(node, SDPA)]
    assert len(found) == 1, show(after)
    inputs = random_inputs(model)
    for old, new in zip(run_captured(model, inputs), run_captured(after, inputs), strict=True):
        tolerance = 1e-9 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(new, old, rtol=tolerance, atol=tolerance)
    return after, found[0]


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_become_one_call(name: str) -> None:
    make, shapes, scale = SPELLINGS[name]
    after, call = cleaned(make, shapes)
    assert call.kwargs["scale"] == pytest.approx(scale, rel=1e-12)
    assert not any(
        is_call(n, aten._softmax.default, aten.bmm.default, aten.mm.default) for n in calls(after.module.graph)
    )
    assert explain(after) == {}


def test_softmax_in_a_wider_type_is_part_of_attention() -> None:
    after, call = cleaned(half_with_float_softmax, FOUR, torch.float32)
    assert list(calls(after.module.graph)) == [call]
    assert call.meta["val"].dtype == torch.float32


@pytest.mark.parametrize("name", ["where_minus_infinity", "two_exclusions"])
def test_exclusions_alone_stay_boolean(name: str) -> None:
    _, call = cleaned(*SPELLINGS[name][:2])
    assert args_of(call)[3].meta["val"].dtype == torch.bool


@pytest.mark.parametrize(("name", "heads"), [("one_shared_head", 1), ("repeated_heads", 2)])
def test_shared_heads_are_not_copied(name: str, heads: int) -> None:
    after, call = cleaned(*SPELLINGS[name][:2])
    assert call.kwargs["enable_gqa"] is True
    assert [args_of(call)[i].meta["val"].shape[1] for i in (1, 2)] == [heads, heads]
    assert not any(is_call(n, aten.expand.default) for n in calls(after.module.graph))


def masked(mask: torch.Tensor) -> Make:
    def make(edit: Editor, q: Node, k: Node, v: Node) -> Node:
        return edit.call(SDPA, q, k, v, constant(edit, mask))

    return make


CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()


@pytest.mark.parametrize(
    ("mask", "has_mask", "is_causal"),
    [
        (torch.ones(T, T, dtype=torch.bool), False, False),
        (torch.zeros(1, 1, T, T, dtype=torch.float64), False, False),
        (CAUSAL, False, True),
        (torch.where(CAUSAL, 0.0, LEAST * torch.ones(1, dtype=torch.float64))[None, None], False, True),
        (torch.where(CAUSAL, 0.0, -math.inf).double().expand(B, 1, T, T), False, True),
        (keep(T, T), True, False),
        (values(T, T), True, False),
        (CAUSAL.T.contiguous() | torch.eye(T, dtype=torch.bool), True, False),
    ],
)
def test_masks_that_say_little_disappear(mask: torch.Tensor, has_mask: bool, is_causal: bool) -> None:
    _, call = cleaned(masked(mask), FOUR)
    assert (args_of(call)[3] is not None, args_of(call)[5]) == (has_mask, is_causal)


@pytest.mark.parametrize(("diagonal", "is_causal"), [(0, True), (2, False)])
def test_causal_masks_are_aligned_at_the_first_key(diagonal: int, is_causal: bool) -> None:
    mask = torch.ones(T, T + 2, dtype=torch.bool).tril(diagonal)
    _, call = cleaned(masked(mask), [(B, H, T, D), (B, H, T + 2, D), (B, H, T + 2, D)])
    assert (args_of(call)[3] is None, args_of(call)[5]) == (is_causal, is_causal)


def test_excluding_masks_are_kept_as_booleans() -> None:
    added = torch.where(keep(T, T), 0.0, LEAST * torch.ones(1, dtype=torch.float64))
    _, call = cleaned(masked(added), FOUR)
    assert args_of(call)[3].meta["val"].dtype == torch.bool


def test_rows_without_any_key_keep_their_added_mask() -> None:
    added = torch.full((T, T), LEAST, dtype=torch.float64)
    added[1:] = 0
    _, call = cleaned(masked(added), FOUR)
    assert args_of(call)[3].meta["val"].dtype == torch.float64


def test_mask_is_not_repeated() -> None:
    def make(edit: Editor, q: Node, k: Node, v: Node, m: Node) -> Node:
        return edit.call(SDPA, q, k, v, edit.call(aten.expand.default, m, [B, H, T, T]))

    after, call = cleaned(make, [*FOUR, (B, 1, 1, T)])
    assert (
        args_of(call)[3].op == "placeholder"
        and args_of(call)[:3] == tuple(after.module.graph.find_nodes(op="placeholder"))[:3]
    )


def test_calls_are_spelled_in_full() -> None:
    _, call = cleaned(lambda edit, q, k, v: edit.call(SDPA, q, k, v, is_causal=True), FOUR)
    assert args_of(call)[3:] == (None, 0.0, True) and call.kwargs == {"scale": 1 / math.sqrt(D)}


def test_three_dimensional_calls_get_a_head() -> None:
    after, call = cleaned(masked(values(B, T, T)), [(B, T, D)] * 3)
    assert [value_of(call).shape, *(value_of(a).shape for a in args_of(call)[:3])] == [(B, 1, T, D)] * 4
    assert [spec.shape for spec in after.outputs] == [(B, T, D)]


def used_elsewhere(edit: Editor, q: Node, k: Node, v: Node) -> tuple[Node, Node]:
    weights = edit.call(aten._softmax.default, scores(edit, q, k), -1, False)
    return edit.call(aten.matmul.default, weights, v), weights


def capped(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    return weighted(edit, edit.call(aten.tanh.default, scores(edit, q, k)), v)


def over_rows(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    return edit.call(aten.matmul.default, edit.call(aten.softmax.int, scores(edit, q, k), -2), v)


def mild_fill(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    return weighted(edit, edit.call(aten.masked_fill.Scalar, scores(edit, q, k), constant(edit, keep(T, T)), -3.0), v)


def scaled_weights(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    weights = edit.call(aten.softmax.int, scores(edit, q, k), -1)
    return edit.call(aten.matmul.default, edit.call(aten.mul.Tensor, weights, 2.0), v)


def no_product(edit: Editor, q: Node, k: Node, v: Node) -> Node:
    x = edit.call(aten.slice.Tensor, edit.call(aten.add.Tensor, q, k), 3, 0, T, 1)
    return weighted(edit, x, v)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (used_elsewhere, "the probabilities are used elsewhere"),
        (capped, "aten.tanh.default stands between the product and the softmax"),
        (over_rows, "the softmax is not over the last of at least two dimensions"),
        (mild_fill, "a where in the scores does not fill with a very negative number"),
        (scaled_weights, "aten.mul.Tensor stands between the softmax and the product with the values"),
        (no_product, "aten.slice.Tensor stands between the product and the softmax"),
    ],
)
def test_look_alikes_are_left_with_a_reason(make: Make, reason: str) -> None:
    after, _ = run_in_float64(build(FOUR, make), Verify())
    assert not any(is_call(node, SDPA) for node in calls(after.module.graph))
    assert list(explain(after).values()) == [reason]


def test_attention_needs_canonical_spellings_only_once() -> None:
    once, _ = run_in_float64(build(FOUR, added_mask))
    _, rewrites = PassManager((Attention(),)).run(once)
    assert rewrites == []
