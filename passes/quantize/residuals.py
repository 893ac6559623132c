"""Residuals of images in bfloat16: what is stored narrow for a convolution is not stored in float32 beside.

Where convolutions read a value in a narrow form, and one more kernel reads the value itself (as a residual, or to pool
it), that one reads it in bfloat16, too. Runtimes that keep all activations in bfloat16 do so everywhere. Here only
images are, whose convolutions have few operations for a byte; the residual streams of transformers stay float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from ullage.graph.captured import CapturedModel
from ullage.passes.edit import Editor, calls, is_call, is_elementwise, is_tensor, value_of
from ullage.passes.manager import Pass, RewriteLog

aten = torch.ops.aten
_RANK = 4
"""Of images: batch, channels, height, width."""
_POOLS = (aten.max_pool2d.default, aten.avg_pool2d.default, aten.mean.dim)


@dataclass(frozen=True)
class NarrowResiduals(Pass):
    """Keeps float32 images that products read in narrow forms in bfloat16 for their other reader.

    It is the last pass: the conversions back to float32 are one for each reader, so that none is a kernel of its own.
    """

    name: ClassVar[str] = "narrow_residuals"

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """Rewrite in place."""
        edit = Editor.of(model)
        for node in list(calls(model.module.graph)):
            if _has_one_wide_reader(node) and log.allow("keep a residual in bfloat16", node.name):
                _narrow(edit, node)
        edit.remove_dead()


def _has_one_wide_reader(node: Node) -> bool:
    """Whether some readers make a narrow form of a computed value, and one that does not is pointwise or a pool."""
    if not is_tensor(node) or value_of(node).dtype != torch.float32 or value_of(node).dim() < _RANK:
        return False
    if not is_elementwise(node) or is_call(node, aten._to_copy.default):
        return False
    others = [user for user in node.users if not _ends_narrow(user)]
    if len(others) != 1 or len(node.users) == 1:
        return False
    return is_elementwise(others[0]) or is_call(others[0], *_POOLS)


def _ends_narrow(node: Node) -> bool:
    """Whether a chain of pointwise operators of one tensor, each read by the next alone, ends in a narrower type."""
    while is_elementwise(node) and is_tensor(node) and len(node.all_input_nodes) == 1:
        if value_of(node).dtype in (torch.bfloat16, torch.uint8):
            return True
        if len(node.users) != 1:
            return False
        (node,) = node.users
    return False


def _narrow(edit: Editor, node: Node) -> None:
    """Let all readers read the bfloat16 form: conversions of it directly, others through one back to float32 each.

    That one comes right before its reader, so that a product's kernel takes in what makes codes, and no copy.
    """
    readers = list(node.users)
    narrow = edit.at(node.next).call(aten._to_copy.default, node, dtype=torch.bfloat16)
    for user in readers:
        if is_call(user, aten._to_copy.default) and value_of(user).dtype == torch.bfloat16:
            user.replace_all_uses_with(narrow)
        else:
            wide = edit.at(user).call(aten._to_copy.default, narrow, dtype=torch.float32)
            user.replace_input_with(node, wide)
