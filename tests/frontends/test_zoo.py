"""Whole models: the captured graph is legal, says what eager says, and holds no form that capture replaces."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from tests.frontends.zoo import MODELS
from ullage.frontends.export import capture
from ullage.graph.reference import run_captured
from ullage.graph.show import show_op
from ullage.graph.verify import verify

REPLACED = {
    "view", "_unsafe_view", "clone", "detach", "alias", "addmm", "native_layer_norm", "split_with_sizes", "unbind.int",
    "native_group_norm", "_native_batch_norm_legit_no_training", "max_pool2d_with_indices", "t", "roll",
    "transpose.int", "matmul", "conv2d", "dropout", "softmax.int", "scalar_tensor", "as_strided", "copy", "contiguous",
    "slice_scatter",
}  # fmt: skip

WHOLE_ATTENTION = ("bert", "distilbert", "roberta", "vit", "clip_vision", "whisper_encoder", "gpt2", "llama")


def tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", MODELS)
def test_a_captured_model_says_what_eager_says(name: str) -> None:
    torch.manual_seed(0)
    module, args, kwargs = MODELS[name]()
    captured = capture(module, args, kwargs)
    verify(captured)
    ops = {show_op(node.target) for node in captured.module.graph.nodes if node.op == "call_function"}
    assert not ops & REPLACED
    attention = torch.ops.aten.scaled_dot_product_attention.default
    found = captured.module.graph.find_nodes(op="call_function", target=attention)
    assert len(found) == 1 or name not in WHOLE_ATTENTION
    with torch.no_grad():
        wanted = tensors(module.eval()(*args, **kwargs))
    results = run_captured(captured, tensors((args, kwargs)))
    assert len(results) == len(wanted) == len(captured.outputs)
    for mine, theirs in zip(results, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_oracle_in_float64_is_closer_to_the_truth() -> None:
    module, args, kwargs = MODELS["vit"]()
    captured = capture(module, args, kwargs)
    truth = run_captured(captured, tensors((args, kwargs)), torch.float64)[0]
    with torch.no_grad():
        wanted = module.double()(args[0].double()).last_hidden_state
    torch.testing.assert_close(truth, wanted, rtol=1e-9, atol=1e-10)
