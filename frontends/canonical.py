"""One spelling per operation: rewrites a decomposed graph so that passes and lowerings meet few, value-like forms.

A graph has values and no strides: layout-only operators disappear, and `meta["val"]` strides carry no meaning.
    removed        detach, alias, clone, contiguous, lift_fresh*, dropout in eval, assertions, casts to the same dtype
    renamed        view, _unsafe_view -> reshape; _unsafe_index -> index; _unsafe_index_put -> index_put;
                   x.Scalar arithmetic -> x.Tensor
    single result  native_layer_norm, native_group_norm -> layer_norm, group_norm, and for the statistics, where they
                   are used, reductions; _native_batch_norm_legit_no_training, _fused_rms_norm -> batch_norm, rms_norm
                   where only the first result is used
    with indices   max_pool2d_with_indices, max_pool3d_with_indices -> max_pool2d or 3d, ullage::max_pool_positions
    extremes       max.dim, min.dim -> amax and argmax, amin and argmin
    order          sort, topk -> ullage::argsort, and for the values a gather by it
    creation       scalar_tensor, full_like -> full; arange* -> arange.start_step; a dtype always, never a device
    reductions     over all dimensions: the form that lists them (mean.dim, sum.dim_IntList, amax, amin, any.dims)
    empty          tensors without elements -> full (`empty.py`)
    sizes          -1 in reshape and expand is filled in where the shape is static
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from ullage.errors import UnsupportedOperator
from ullage.frontends.empty import fill_empty
from ullage.graph.operators import ARGSORT, MAX_POOL_POSITIONS

aten = torch.ops.aten
prims = torch.ops.prims

Rewrite = Callable[[Graph, Node], None]

_DROPPED = frozenset({
    aten.detach.default, aten.alias.default, aten.clone.default, aten.contiguous.default, aten.lift_fresh.default,
    aten.lift_fresh_copy.default, aten.detach_.default, aten.detach_copy.default, aten.alias_copy.default,
})  # fmt: skip

_ASSERTIONS = frozenset({
    aten._assert_tensor_metadata.default, aten._assert_scalar.default, aten._assert_async.msg,
    aten._assert_async.default, aten.sym_constrain_range.default, aten.sym_constrain_range_for_size.default,
})  # fmt: skip

_RENAMED: dict[Any, Any] = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten._unsafe_index.Tensor: aten.index.Tensor,
    aten._unsafe_index_put.default: aten.index_put.default,
    aten.add.Scalar: aten.add.Tensor,
    aten.sub.Scalar: aten.sub.Tensor,
    aten.mul.Scalar: aten.mul.Tensor,
    aten.div.Scalar: aten.div.Tensor,
}

_LAYOUT_KEYS = ("device", "layout", "pin_memory", "memory_format", "non_blocking")


def canonicalise(module: GraphModule) -> None:
    """Rewrite `module.graph` in place; every node must carry `meta["val"]`, and new nodes do."""
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            _rewrite(module.graph, node)
    fill_empty(module.graph)
    module.graph.eliminate_dead_code(is_impure_node=_is_boundary)
    module.graph.lint()
    module.recompile()


def _is_boundary(node: Node) -> bool:
    return node.op in ("placeholder", "output")


def _rewrite(graph: Graph, node: Node) -> None:
    if node.target in _ASSERTIONS:
        graph.erase_node(node)
        return
    if _is_identity(node):
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        graph.erase_node(node)
        return
    node.target = _RENAMED.get(node.target, node.target)
    if node.target in _FORMS:
        _FORMS[node.target](graph, node)
    node.kwargs = {key: value for key, value in node.kwargs.items() if key not in _LAYOUT_KEYS}


def _is_identity(node: Node) -> bool:
    if node.target in _DROPPED:
        return True
    if node.target is aten.dropout.default:
        return not node.args[2]
    if node.target in (aten._to_copy.default, prims.convert_element_type.default):
        (source,) = node.all_input_nodes
        return bool(source.meta["val"].dtype == node.meta["val"].dtype)
    return False


def _static_shape(value: torch.Tensor) -> list[int] | None:
    return [int(n) for n in value.shape] if all(isinstance(n, int) for n in value.shape) else None


def _fill_sizes(graph: Graph, node: Node) -> None:
    shape = _static_shape(node.meta["val"])
    if shape is not None:
        node.args = (node.args[0], shape)


def _whole_norm(
    op: Callable[..., Any], arguments: Callable[[Node], tuple[Any, ...]], rows: Rows | None = None
) -> Rewrite:
    """The operator for the first result; for the others, where they are used, the mean and 1 / √(variance + eps)."""

    def rewrite(graph: Graph, node: Node) -> None:
        uses = list(node.users)
        if rows is None and any(use.args[1] != 0 for use in uses):
            return
        for use in uses:
            with graph.inserting_before(use):
                if use.args[1] == 0:
                    single = graph.call_function(op, arguments(node))
                else:
                    assert rows is not None
                    single = _statistic(graph, rows(node), bool(use.args[1] == 2), node.args[-1])
            single.meta = dict(use.meta)
            use.replace_all_uses_with(single)
            graph.erase_node(use)

    return rewrite


Rows = Callable[[Node], tuple[Node, list[int], int, list[int]]]
"""How a norm sees its input: the node, its shape, how many last dimensions are normalised, the statistics' shape."""


def _statistic(graph: Graph, seen: tuple[Node, list[int], int, list[int]], inverse: bool, eps: Any) -> Node:
    """A mean, or 1 / √(variance + eps), in at least single precision until the end."""
    x, shape, count, result = seen
    dtype = x.meta["val"].dtype
    value = _added(graph, aten.reshape.default, x, shape)
    if dtype.itemsize < 4:
        value = _added(graph, aten._to_copy.default, value, dtype=torch.float32)
    dims = list(range(len(shape) - count, len(shape)))
    if inverse:
        value = _added(graph, aten.var.correction, value, dims, correction=0)
        value = _added(graph, aten.rsqrt.default, _added(graph, aten.add.Tensor, value, eps))
    else:
        value = _added(graph, aten.mean.dim, value, dims)
    value = _added(graph, aten.reshape.default, value, result)
    return value if dtype.itemsize >= 4 else _added(graph, aten._to_copy.default, value, dtype=dtype)


def _added(graph: Graph, op: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
    node = graph.call_function(op, args, kwargs)
    values = map_arg(args, lambda n: n.meta["val"])
    with torch.no_grad():
        node.meta["val"] = op(*values, **kwargs)
    return node


def _layer_norm_rows(node: Node) -> tuple[Node, list[int], int, list[int]]:
    args: tuple[Any, ...] = node.args
    return args[0], list(args[0].meta["val"].shape), len(args[1]), list(node.meta["val"][1].shape)


def _group_norm_rows(node: Node) -> tuple[Node, list[int], int, list[int]]:
    args: tuple[Any, ...] = node.args
    batch, channels, size, groups = args[3:7]
    return args[0], [batch, groups, channels // groups * size], 1, list(node.meta["val"][1].shape)


def _attention(graph: Graph, node: Node) -> None:
    """Dropout inside attention is refused: leaving it out would be another model."""
    dropout = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
    if dropout:
        hint = "Random numbers are inputs of a model; set dropout_p to 0."
        raise UnsupportedOperator({"aten.scaled_dot_product_attention with dropout": [node.name]}, hint)


def _extreme_along(value: Callable[..., Any], position: Callable[..., Any]) -> Rewrite:
    """max.dim and min.dim, which give values and positions: one operator for each result that is used."""

    def rewrite(graph: Graph, node: Node) -> None:
        source, dim, *keep = node.args
        for use in list(node.users):
            first = use.args[1] == 0
            with graph.inserting_before(use):
                single = graph.call_function(value if first else position, (source, [dim] if first else dim, *keep))
            single.meta = dict(use.meta)
            use.replace_all_uses_with(single)
            graph.erase_node(use)

    return rewrite


def _sort(graph: Graph, node: Node) -> None:
    """sort: (x, dim, descending), with `stable` after x in one overload."""
    names = ("x", "stable", "dim", "descending") if node.target is aten.sort.stable else ("x", "dim", "descending")
    given = {"dim": -1, "descending": False, **dict(zip(names, node.args, strict=False)), **node.kwargs}
    _in_order(graph, node, given["dim"], given["descending"], ())


def _topk(graph: Graph, node: Node) -> None:
    """topk: (x, k, dim, largest, sorted); what need not be sorted is sorted as well."""
    given = {
        "dim": -1,
        "largest": True,
        **dict(zip(("x", "k", "dim", "largest"), node.args, strict=False)),
        **node.kwargs,
    }
    _in_order(graph, node, given["dim"], given["largest"], (given["k"],))


def _in_order(graph: Graph, node: Node, dim: Any, descending: Any, count: tuple[Any, ...]) -> None:
    """Positions in order, and values gathered by them where they are used."""
    source, uses = node.args[0], {int(use.args[1] == 1): use for use in node.users}
    assert isinstance(source, Node)
    if source.meta["val"].dim() == 0:
        _nothing_to_sort(graph, uses, source)
        return
    with graph.inserting_before(node):
        order = graph.call_function(ARGSORT, (source, dim, descending, *count))
        order.meta = {**node.meta, "val": node.meta["val"][1]}
        results = {1: order}
        if 0 in uses:
            results[0] = graph.call_function(aten.gather.default, (source, dim, order))
            results[0].meta = dict(uses[0].meta)
    for number, use in uses.items():
        use.replace_all_uses_with(results[number])
        graph.erase_node(use)


def _nothing_to_sort(graph: Graph, uses: dict[int, Node], source: Node) -> None:
    """A single value is in order as it is, at position 0."""
    for number, use in uses.items():
        result = source
        if number == 1:
            with graph.inserting_before(use):
                result = graph.call_function(aten.full.default, ([], 0), {"dtype": torch.int64})
            result.meta = dict(use.meta)
        use.replace_all_uses_with(result)
        graph.erase_node(use)


def _pool_with_indices(pool: Callable[..., Any], rank: int) -> Rewrite:
    """A max pool, and a second operator for the positions where those are used."""

    def rewrite(graph: Graph, node: Node) -> None:
        given = [*node.args[2:], None, None, None, None][:4]
        kernel, stride, padding, dilation = (_each(value, rank) for value in (node.args[1], *given[:3]))
        whole = (node.args[0], kernel, stride or kernel, padding or [0] * rank, dilation or [1] * rank, bool(given[3]))
        for use in list(node.users):
            values = use.args[1] == 0
            with graph.inserting_before(use):
                single = graph.call_function(pool if values else MAX_POOL_POSITIONS, node.args if values else whole)
            single.meta = dict(use.meta)
            use.replace_all_uses_with(single)
            graph.erase_node(use)

    return rewrite


def _each(value: Any, rank: int) -> list[Any]:
    given = [] if value is None else [value] if isinstance(value, int) else list(value)
    return given * rank if len(given) == 1 else given


def _layer_norm_arguments(node: Node) -> tuple[Any, ...]:
    x, shape, weight, bias, eps = node.args
    return (x, shape, weight, bias, eps)


def _group_norm_arguments(node: Node) -> tuple[Any, ...]:
    x, weight, bias, _n, _c, _hw, groups, eps = node.args
    return (x, groups, weight, bias, eps)


def _batch_norm_arguments(node: Node) -> tuple[Any, ...]:
    x, weight, bias, mean, var, momentum, eps = node.args
    return (x, weight, bias, mean, var, False, momentum, eps, False)


def _rms_norm_arguments(node: Node) -> tuple[Any, ...]:
    x, shape, weight, eps = node.args
    return (x, shape, weight, eps)


def _to_full(graph: Graph, node: Node) -> None:
    """`full_like(x, v)` and `scalar_tensor(v)` as `full(shape, v)`; a dynamic shape keeps `full_like`."""
    value, shape = node.meta["val"], _static_shape(node.meta["val"])
    if shape is None:
        node.kwargs = {**node.kwargs, "dtype": value.dtype}
        return
    fill = node.args[0] if node.target is aten.scalar_tensor.default else node.args[1]
    node.target, node.args, node.kwargs = aten.full.default, (shape, fill), {"dtype": value.dtype}


def _full(graph: Graph, node: Node) -> None:
    node.kwargs = {"dtype": node.meta["val"].dtype}


def _arange(graph: Graph, node: Node) -> None:
    bounds = (0, *node.args) if node.target is aten.arange.default else node.args
    node.target, node.args = aten.arange.start_step, (*bounds, 1)[:3]
    node.kwargs = {"dtype": node.meta["val"].dtype}


def _cast(graph: Graph, node: Node) -> None:
    node.target, node.args = aten._to_copy.default, (node.args[0],)
    node.kwargs = {"dtype": node.meta["val"].dtype}


def _running(graph: Graph, node: Node) -> None:
    """A single value is the sum or product of all so far."""
    if node.meta["val"].dim() == 0:
        _cast(graph, node)


def _reduce_all(op: Callable[..., Any]) -> Rewrite:
    """The form with a list of dimensions, where the node names none."""

    def rewrite(graph: Graph, node: Node) -> None:
        source, *rest = node.args
        if rest and rest[0]:
            return
        assert isinstance(source, Node)
        node.target, node.args = op, (source, list(range(source.meta["val"].dim())), *rest[1:])

    return rewrite


_FORMS: dict[Any, Rewrite] = {
    aten.reshape.default: _fill_sizes,
    aten.expand.default: _fill_sizes,
    aten.native_layer_norm.default: _whole_norm(aten.layer_norm.default, _layer_norm_arguments, _layer_norm_rows),
    aten.native_group_norm.default: _whole_norm(aten.group_norm.default, _group_norm_arguments, _group_norm_rows),
    aten._native_batch_norm_legit_no_training.default: _whole_norm(aten.batch_norm.default, _batch_norm_arguments),
    aten._fused_rms_norm.default: _whole_norm(aten.rms_norm.default, _rms_norm_arguments),
    aten.max_pool2d_with_indices.default: _pool_with_indices(aten.max_pool2d.default, 2),
    aten.max_pool3d_with_indices.default: _pool_with_indices(aten.max_pool3d.default, 3),
    aten.sum.dim_IntList: _reduce_all(aten.sum.dim_IntList),
    aten.mean.dim: _reduce_all(aten.mean.dim),
    aten.mean.default: _reduce_all(aten.mean.dim),
    aten.amax.default: _reduce_all(aten.amax.default),
    aten.amin.default: _reduce_all(aten.amin.default),
    aten.max.default: _reduce_all(aten.amax.default),
    aten.min.default: _reduce_all(aten.amin.default),
    aten.max.dim: _extreme_along(aten.amax.default, aten.argmax.default),
    aten.min.dim: _extreme_along(aten.amin.default, aten.argmin.default),
    aten.cumsum.default: _running,
    aten.cumprod.default: _running,
    aten.sort.default: _sort,
    aten.sort.stable: _sort,
    aten.topk.default: _topk,
    aten.any.default: _reduce_all(aten.any.dims),
    aten.any.dims: _reduce_all(aten.any.dims),
    aten.scaled_dot_product_attention.default: _attention,
    aten.scalar_tensor.default: _to_full,
    aten.full_like.default: _to_full,
    aten.full.default: _full,
    aten.arange.default: _arange,
    aten.arange.start: _arange,
    aten.arange.start_step: _arange,
    aten._to_copy.default: _cast,
    prims.convert_element_type.default: _cast,
}
