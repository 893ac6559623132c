"""Decompositions and canonical forms: exact operators that remain, and the same values as eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ullage.frontends.export import capture
from ullage.graph.reference import run_captured
from ullage.graph.show import show_op
from ullage.graph.verify import verify

X = torch.linspace(-2, 2, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()
A = torch.linspace(-2, 2, 24).reshape(4, 6).cos()
GRU = nn.GRU(6, 5, num_layers=2, bidirectional=True)
LSTM = nn.LSTM(6, 5, proj_size=3, bias=False, batch_first=True)

CASES: dict[str, tuple[Callable[..., Any], Tensor, set[str]]] = {
    "addmm with a vector": (lambda a: torch.addmm(a[0, :4], a, a.T), A, {
        "linear", "permute", "select.int", "slice.Tensor",
    }),
    "addmm with factors": (lambda a: torch.addmm(a[:, :4], a, a.T, beta=2), A, {
        "slice.Tensor", "permute", "mm", "mul.Tensor", "add.Tensor",
    }),
    "matmul in three dimensions": (lambda x: x @ x.transpose(-1, -2), X, {"permute", "expand", "reshape", "bmm"}),
    "split, chunk, unbind": (lambda a: (*a.split([1, 3]), *a.chunk(4), a.unbind(1)[5]), A, {
        "slice.Tensor", "select.int",
    }),
    "unfold": (lambda x: (x.unfold(2, 4, 4), x.unfold(-1, 3, 2)), X, {
        "slice.Tensor", "reshape", "permute", "arange.start_step", "unsqueeze", "mul.Tensor", "add.Tensor",
        "index_select",
    }),
    "roll": (lambda x: x.roll((3, -1), (2, 3)), X, {"slice.Tensor", "cat"}),
    "roll by nothing": (lambda x: x.roll(0, 1), X, {"slice.Tensor"}),
    "instance norm": (lambda x: F.instance_norm(x), X, {"group_norm"}),
    "norms": (lambda x: (F.layer_norm(x, (8,)), F.rms_norm(x, (8,)), F.group_norm(x, 3)), X, {
        "layer_norm", "rms_norm", "group_norm",
    }),
    "pooling": (lambda x: (F.max_pool2d(x, 2), F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, 4)), X, {
        "max_pool2d", "mean.dim", "avg_pool2d",
    }),
    "uneven adaptive pooling": (lambda x: F.adaptive_avg_pool2d(x, 3), X, {"_adaptive_avg_pool2d"}),
    "max pooling with indices": (lambda x: F.max_pool2d(x, 2, return_indices=True), X, {
        "max_pool2d", "ullage.max_pool_positions",
    }),
    "bicubic upsampling": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), X, set()),
    "upsampling": (
        lambda x: (
            F.interpolate(x, scale_factor=1.5),
            F.interpolate(x, (5, 7), mode="nearest-exact"),
            F.interpolate(x, (5, 7), mode="bilinear", align_corners=True),
        ),
        X,
        {"upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d"},
    ),
    "convolutions": (
        lambda x: (
            F.conv2d(x, torch.ones(4, 3, 3, 3), padding="same"),
            F.conv1d(x[0], torch.ones(2, 8, 3)),
            F.conv_transpose2d(x, torch.ones(3, 2, 2, 2), stride=2),
        ),
        X,
        {"convolution", "select.int", "unsqueeze", "squeeze.dims", "full"},
    ),
    "softmax with a dtype": (lambda a: a.half().softmax(-1, dtype=torch.float32), A, {"_to_copy", "_softmax"}),
    "reductions of everything": (lambda a: (a.sum(), a.mean(), a.max(), a.min(), (a > 0).any()), A, {
        "sum.dim_IntList", "mean.dim", "amax", "amin", "gt.Scalar", "any.dims",
    }),
    "vector norms": (
        lambda a: (a.norm(dim=1), *(torch.linalg.vector_norm(a, p, 0) for p in (1, 3, 0, float("inf"), -float("inf")))),
        A,
        {"mul.Tensor", "sum.dim_IntList", "sqrt", "abs", "pow.Tensor_Scalar", "ne.Scalar", "_to_copy", "amax", "amin"},
    ),
    "activations": (
        lambda a: (F.gelu(a), F.silu(a), F.hardswish(a), F.hardsigmoid(a), F.softplus(a), F.mish(a), F.relu6(a)),
        A,
        {"gelu", "silu", "hardswish", "hardsigmoid", "softplus", "mish", "hardtanh"},
    ),
    "creation": (
        lambda a: (torch.zeros_like(a), torch.tensor(2.0), a.new_ones(2), torch.arange(1, 7, 2), torch.arange(3)),
        A,
        {"full", "arange.start_step"},
    ),
    "layout": (lambda a: a.T.contiguous().clone().view(3, 8).detach().to(torch.float32), A, {"permute", "reshape"}),
    "gru": (lambda a: GRU(a[None])[0], A, set()),
    "lstm with projections": (lambda a: LSTM(a[None]), A, set()),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), X, {
        "scaled_dot_product_attention",
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operators_are_canonical_and_keep_their_values(name: str) -> None:
    function, example, operators = CASES[name]
    captured = capture(function, (example,))
    verify(captured)
    found = {show_op(node.target) for node in captured.module.graph.nodes if node.op == "call_function"}
    assert not operators or found <= operators
    with torch.no_grad():
        wanted = pytree.tree_leaves(function(example))
    for mine, theirs in zip(run_captured(captured, [example]), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
