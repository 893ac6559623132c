"""From a clean captured graph to a schedule: groups, layouts, storages, kernels and steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from ullage.codegen.emit import emit_kernel
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import DTYPE_BYTES, Const, Expr, LoopKernel, Stage
from ullage.codegen.loops.sizes import to_size
from ullage.codegen.lower import load_table
from ullage.codegen.lower.builder import Builder, Resolver
from ullage.codegen.lower.index import ONE, IndexMath
from ullage.codegen.lower.region import inplace_pairs, lower_loops
from ullage.codegen.lower.shapes import contiguous_strides, dtype_name, numel, ordered_strides, shape_of
from ullage.codegen.lower.table import TABLE, fake, int_of
from ullage.codegen.lower.templates import (
    ATTENTION,
    BMM,
    CONVOLUTION,
    LINEAR,
    MM,
    Geometry,
    Packed,
    channels_contiguous,
    either_contiguous,
    inner_contiguous,
    lower_attention,
    lower_bmm,
    lower_convolution,
    lower_linear,
)
from ullage.codegen.lower.values import View
from ullage.codegen.lower.views import Expand, Reshape, Slice, lower_view, root, view_op, view_source
from ullage.codegen.schedule.constants import ConstantPool
from ullage.codegen.schedule.cost import step_cost
from ullage.codegen.schedule.groups import Group, Grouping
from ullage.codegen.schedule.layout import Layouts
from ullage.codegen.schedule.packing import Packer
from ullage.codegen.templates import Attention, Conv2d, Gemm
from ullage.errors import UnsupportedOperator
from ullage.graph.captured import CapturedModel
from ullage.plan.plan import TensorInfo
from ullage.plan.sizes import Size
from ullage.plan.steps import Dimension, Gather, Operand, Schedule, Step, Storage
from ullage.target import Target

Spec = LoopKernel | Gemm | Conv2d | Attention


@dataclass(frozen=True)
class Scheduled:
    """A schedule with all that it names: kernels by symbol, packers by constant, inputs, outputs and fusion groups."""

    schedule: Schedule
    kernels: dict[str, Kernel]
    packers: dict[str, Packer]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    groups: tuple[Group, ...]


def build_schedule(captured: CapturedModel, target: Target) -> Scheduled:
    """Fuse, lay out and lower a captured model; raises UnsupportedOperator naming all operators without a lowering."""
    load_table()
    _refuse_unknown(captured)
    return _Build(captured, target).run()


def _refuse_unknown(captured: CapturedModel) -> None:
    unknown: dict[str, list[str]] = {}
    for node in captured.module.graph.nodes:
        if node.op != "call_function" or not isinstance(node.meta["val"], torch.Tensor | tuple | list):
            continue
        split = isinstance(node.meta["val"], tuple | list) and all(view_source(u) is not None for u in node.users)
        if not split and TABLE.kind(node) is None and node.target not in (LINEAR, BMM, MM, CONVOLUTION, ATTENTION):
            unknown.setdefault(str(node.target), []).append(_origin(node))
    if unknown:
        raise UnsupportedOperator(unknown, "Rewrite the model without them, or capture the part that can be compiled.")


def _origin(node: Node) -> str:
    stack = node.meta.get("nn_module_stack")
    path = list(stack.values())[-1][0] if stack else ""
    return f"{path}.{node.name}" if path else node.name


@dataclass
class _Build:
    captured: CapturedModel
    target: Target
    storages: list[Storage] = field(default_factory=list)
    steps: list[Step | Gather] = field(default_factory=list)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    views: dict[Node, View] = field(default_factory=dict)
    concat_parts: dict[Node, tuple[Node, Expr, int]] = field(default_factory=dict)

    def run(self) -> Scheduled:
        graph = self.captured.module.graph
        self.dim_max = {d.symbol: d.maximum for d in self.captured.dims}
        self.math = IndexMath({}, self.dim_max)
        self.placeholders = {key: n for n in graph.nodes if n.op == "placeholder" for key in (n.name, str(n.target))}
        self.pool = ConstantPool(self.captured.constants, self.target)
        self._declare_inputs()
        groups = Grouping(graph, self._try, self._is_constant).run()
        self.layouts = Layouts(graph)
        self.homes = self._output_homes()
        self._plan_concats(groups)
        for group in groups:
            self._emit_group(group)
        self._finish_outputs()
        schedule = Schedule(tuple(self.steps), self._ordered_storages(), self.pool.constants(), tuple(self._dimensions()))
        return Scheduled(schedule, self.kernels, self.pool.packers(), self._infos_in(), self._infos_out(), groups)

    # Inputs, outputs, dimensions.

    def _ordered_storages(self) -> tuple[Storage, ...]:
        """Outputs come last, in the model's own order."""
        order = {spec.name: i for i, spec in enumerate(self.captured.outputs, 1)}
        return tuple(sorted(self.storages, key=lambda s: order[s.name] if s.kind == "output" else 0))

    def _is_constant(self, node: Node) -> bool:
        return node.op == "placeholder" and node.target in self.captured.constants

    def _declare_inputs(self) -> None:
        for name, spec in zip(self.captured.input_nodes, self.captured.inputs, strict=True):
            node = self.placeholders[name]
            shape = shape_of(fake(node))
            dtype = dtype_name(spec.dtype)
            self.storages.append(Storage(spec.name, self._bytes(shape, dtype), "input"))
            self.views[node] = View(spec.name, dtype, shape, contiguous_strides(shape))

    def _bytes(self, shape: tuple[Expr, ...], dtype: str) -> Size:
        return to_size(numel(shape)) * DTYPE_BYTES[dtype]

    def _infos_in(self) -> tuple[TensorInfo, ...]:
        nodes = [self.placeholders[n] for n in self.captured.input_nodes]
        return tuple(_info(s.name, n) for s, n in zip(self.captured.inputs, nodes, strict=True))

    def _infos_out(self) -> tuple[TensorInfo, ...]:
        return tuple(_info(s.name, n) for s, n in zip(self.captured.outputs, self._leaves(), strict=True))

    def _leaves(self) -> tuple[Node, ...]:
        (output,) = [n for n in self.captured.module.graph.nodes if n.op == "output"]
        return tuple(output.args[0])

    def _dimensions(self) -> list[Dimension]:
        found = []
        for dim in self.captured.dims:
            name, axis, scale = self._dimension_source(dim.symbol)
            found.append(Dimension(dim.symbol, dim.minimum, dim.maximum, name, axis, scale))
        return found

    def _dimension_source(self, symbol: str) -> tuple[str, int, int]:
        for name, spec in zip(self.captured.input_nodes, self.captured.inputs, strict=True):
            for axis, size in enumerate(fake(self.placeholders[name]).shape):
                if not isinstance(size, torch.SymInt):
                    continue
                expr = size.node.expr
                scale = expr.as_coeff_Mul()
                if len(expr.free_symbols) == 1 and str(scale[1]) == symbol and scale[0].is_Integer:
                    return spec.name, axis, int(scale[0])
        raise UnsupportedOperator({f"dimension {symbol}": ["no input axis is a multiple of it"]})

    def _output_homes(self) -> dict[Node, str]:
        """Nodes whose storage is an output: leaves reached through reshapes alone, first come first served."""
        homes: dict[Node, str] = {}
        for spec, leaf in zip(self.captured.outputs, self._leaves(), strict=True):
            node = leaf
            while view_source(node) is not None and isinstance(view_op(node), Reshape):
                node = view_source(node)
            if node.op == "call_function" and view_source(node) is None and node not in homes:
                homes[node] = spec.name
        return homes

    def _finish_outputs(self) -> None:
        for spec, leaf in zip(self.captured.outputs, self._leaves(), strict=True):
            view = self.resolve(leaf)
            if view is not None and view.storage == spec.name:
                continue
            shape = shape_of(fake(leaf))
            target = View(spec.name, dtype_name(fake(leaf).dtype), shape, contiguous_strides(shape))
            self.storages.append(Storage(spec.name, self._bytes(shape, target.dtype), "output"))
            self._copy(leaf, target, f"{spec.name}.copy")

    # Memory of nodes.

    def resolve(self, node: Node) -> View | None:
        """The memory of a node: realised, or a strided view of something realised; None if elements must move."""
        if node in self.views:
            return self.views[node]
        if self._is_constant(node):
            self.views[node] = self.pool.raw(str(node.target), shape_of(fake(node)))
            return self.views[node]
        source = view_source(node)
        if source is None:
            raise AssertionError(f"{node} is read before it is computed")
        base = self.resolve(source)
        view = view_op(node).view(base) if base is not None else None
        if view is not None:
            self.views[node] = view
        return view

    def operand(self, node: Node, requirement: object, order: Sequence[int] | None = None) -> View:
        """The memory of a template's operand; copied (with dimensions in `order`) if it does not meet the need."""
        view = self.resolve(node)
        if view is not None and requirement(view):
            return view
        shape, dtype = shape_of(fake(node)), dtype_name(fake(node).dtype)
        strides = ordered_strides(shape, order or range(len(shape)))
        copy = self._allocate(f"{node.name}.copy{len(self.storages)}", dtype, shape, strides)
        self._copy(node, copy, copy.storage)
        if view is None:
            self.views[node] = copy
        return copy

    def _copy(self, node: Node, target: View, name: str) -> None:
        builder = self._builder(())
        kernel = lower_loops(builder, (), [(node, target)])
        self._step(name, kernel, builder)

    def _allocate(self, name: str, dtype: str, shape: tuple[Expr, ...], strides: tuple[Expr, ...]) -> View:
        self.storages.append(Storage(name, self._bytes(shape, dtype), "temp"))
        return View(name, dtype, shape, strides)

    def _realise(self, node: Node) -> View:
        """Allocate the storage of a node that leaves its group (or its part of a concatenation)."""
        shape, dtype = shape_of(fake(node)), dtype_name(fake(node).dtype)
        if node in self.homes:
            name = self.homes[node]
            self.storages.append(Storage(name, self._bytes(shape, dtype), "output"))
            self.views[node] = View(name, dtype, shape, contiguous_strides(shape))
        elif node in self.concat_parts:
            whole, start, dim = self.concat_parts[node]
            self.views[node] = Slice(dim, start, 1, shape).view(self._concat_view(whole))
        else:
            strides = ordered_strides(shape, self.layouts.order(node, self.views))
            self.views[node] = self._allocate(node.name, dtype, shape, strides)
        return self.views[node]

    # Concatenation in place.

    def _plan_concats(self, groups: Sequence[Group]) -> None:
        computed = {n for g in groups if g.kind in ("template", "loops") for n in g.outputs}
        for group in groups:
            if group.kind != "concat":
                continue
            node = group.nodes[0]
            for part, start, dim in _concat_slices(node, self.math):
                if part in computed and part not in self.homes and part not in self.concat_parts:
                    self.concat_parts[part] = (node, start, dim)

    def _concat_view(self, node: Node) -> View:
        if node not in self.views:
            self._realise(node)
        return self.views[node]

    def _emit_concat(self, node: Node) -> None:
        whole = self._concat_view(node)
        for number, (part, start, dim) in enumerate(_concat_slices(node, self.math)):
            shape = shape_of(fake(part))
            target = Slice(dim, start, 1, shape).view(whole)
            if self.concat_parts.get(part) is not None and self.concat_parts[part] == (node, start, dim):
                continue
            assert target is not None
            self._copy(part, target, f"{node.name}.part{number}")

    # Groups to steps.

    def _emit_group(self, group: Group) -> None:
        if group.kind == "gather":
            self._emit_gather(group.nodes[0])
        elif group.kind == "concat":
            self._emit_concat(group.nodes[0])
        else:
            operands = self._operands(group.anchor) if group.kind == "template" else ()
            outputs = [(node, self._realise(node)) for node in group.outputs]
            spec, builder = self._lower(group.nodes, outputs, group.kind, operands)
            self._step("+".join(n.name for n in group.outputs), spec, builder)

    def _emit_gather(self, node: Node) -> None:
        table, ids = node.args[0], node.args[1]
        assert isinstance(table, Node) and isinstance(ids, Node)
        source = self.operand(ids, lambda v: v.contiguous)
        name = self.pool.table(str(table.target))
        out = self._realise(node)
        if not out.contiguous:
            raise AssertionError("a gathered table is always written contiguously")
        ids_bytes = to_size(source.offset) * DTYPE_BYTES[source.dtype]
        self.steps.append(Gather(
            node.name, name, Operand(source.storage, "r", ids_bytes), source.dtype,
            Operand(out.storage, "w", to_size(out.offset) * DTYPE_BYTES[out.dtype]), to_size(numel(source.shape)),
        ))  # fmt: skip

    def _builder(self, nodes: Sequence[Node], resolve: Resolver | None = None) -> Builder:
        members = frozenset(nodes)

        def outside(node: Node) -> View | None:
            return None if root(node) in members else self.resolve(node)

        return Builder(nodes, resolve or outside, _lowering, self.dim_max)

    def _operands(self, anchor: Node) -> tuple[View | Packed | None, ...]:
        args = [a if isinstance(a, Node) else None for a in anchor.args]
        if anchor.target is LINEAR:
            x = self.operand(args[0], inner_contiguous)
            return x, self._weight(args[1], 0, anchor)
        if anchor.target in (BMM, MM):
            return self.operand(args[0], inner_contiguous), self.operand(args[1], either_contiguous)
        if anchor.target is CONVOLUTION:
            rank = fake(args[0]).dim()
            x = self.operand(args[0], channels_contiguous, (0, *range(2, rank), 1))
            return x, self._conv_weight(anchor)
        mask = args[3] if len(args) > 3 else anchor.kwargs.get("attn_mask")
        found = [self.operand(a, inner_contiguous) for a in args[:3]]
        return *found, self._mask(anchor, mask)

    def _mask(self, anchor: Node, mask: object) -> View | None:
        if not isinstance(mask, Node):
            return None
        view = self.operand(mask, lambda v: True)
        q, k = fake(anchor.args[0]), fake(anchor.args[1])
        lead = shape_of(fake(anchor))[:-2] if q.dim() == 4 else (shape_of(q)[0], ONE)
        shape = (*lead, shape_of(q)[-2], shape_of(k)[-2])
        if q.dim() == 3 and len(view.shape) == 3:
            view = view.with_shape(
                (view.shape[0], ONE, *view.shape[1:]), (view.strides[0], Const(0), *view.strides[1:])
            )
        return Expand(view.shape, shape).view(view)

    def _weight(self, node: Node, outputs: int, anchor: Node) -> Packed | View:
        if self._is_constant(node):
            return self.pool.panels(str(node.target), outputs)
        return self.operand(node, either_contiguous)

    def _conv_weight(self, anchor: Node) -> Packed:
        weight = anchor.args[1]
        assert isinstance(weight, Node)
        if not self._is_constant(weight):
            raise UnsupportedOperator({"aten.convolution with a computed weight": [_origin(anchor)]})
        geometry = Geometry.of(anchor)
        if geometry.depthwise:
            return self.pool.depthwise(str(weight.target))
        return self.pool.panels(str(weight.target), 1 if geometry.transposed else 0, geometry.groups)

    def _lower(
        self, nodes: Sequence[Node], outputs: Sequence[tuple[Node, View]], kind: str,
        operands: Sequence[View | Packed | None], resolve: Resolver | None = None,
    ) -> tuple[Spec, Builder]:  # fmt: skip
        builder = self._builder(nodes, resolve)
        if kind != "template":
            return lower_loops(builder, nodes, outputs), builder
        (anchor,) = [n for n in nodes if n.target in (LINEAR, BMM, MM, CONVOLUTION, ATTENTION)]
        given: list[object] = list(operands)
        if anchor.target is LINEAR:
            return lower_linear(builder, anchor, outputs, *given), builder
        if anchor.target in (BMM, MM):
            return lower_bmm(builder, anchor, outputs, *given), builder
        if anchor.target is CONVOLUTION:
            return lower_convolution(builder, anchor, outputs, *given), builder
        (out,) = [view for _, view in outputs]
        return lower_attention(builder, anchor, out, *given), builder

    def _step(self, name: str, spec: Spec, builder: Builder) -> None:
        kernel = emit_kernel(spec, self.target)
        self.kernels.setdefault(kernel.symbol, kernel)
        bound = {b.name: o for b, o in zip(builder.buffers, builder.operands, strict=True)}
        access = {b.name: b.access for b in builder.buffers}
        operands = tuple(
            Operand(
                bound[n].storage, access[n], to_size(bound[n].offset) * DTYPE_BYTES[bound[n].dtype],
                tiled=kernel.tiled and n == "w",
            )
            for n in kernel.buffers
        )  # fmt: skip
        flops, moved = step_cost(spec, self.dim_max)
        self.steps.append(Step(
            name, kernel.symbol, operands, tuple(Size.of(d) for d in kernel.dims), kernel.tasks, kernel.shared_bytes,
            kernel.thread_bytes, self._inplace(spec, kernel, operands), flops, moved,
        ))  # fmt: skip

    def _inplace(self, spec: Spec, kernel: Kernel, operands: tuple[Operand, ...]) -> tuple[tuple[int, int], ...]:
        temps = {s.name for s in self.storages if s.kind == "temp"}
        pairs = inplace_pairs(spec) if isinstance(spec, LoopKernel) else epilogue_inplace(spec)
        positions = [(kernel.buffers.index(r), kernel.buffers.index(w)) for r, w in pairs]
        zero = Size((0,))
        return tuple(
            (r, w) for r, w in positions
            if operands[r].target in temps and operands[r].offset == zero and operands[w].offset == zero
        )  # fmt: skip

    # Trial lowering for fusion: every outside value is taken as contiguous.

    def _try(self, nodes: Sequence[Node], outputs: Sequence[Node], kind: str) -> None:
        anchors = [n for n in nodes if n.target in (LINEAR, BMM, MM, CONVOLUTION, ATTENTION)]
        operands: tuple[View | Packed | None, ...] = ()
        if kind == "template":
            operands = self._trial_operands(anchors[0])
        self._lower(nodes, [(n, _plain(n)) for n in outputs], kind, operands, _plain_or_view)

    def _trial_operands(self, anchor: Node) -> tuple[View | Packed | None, ...]:
        x, weight = anchor.args[0], anchor.args[1]
        assert isinstance(x, Node) and isinstance(weight, Node)
        if anchor.target is LINEAR:
            return _plain(x), (self.pool.panels(str(weight.target), 0) if self._is_constant(weight) else _plain(weight))
        if anchor.target is CONVOLUTION:
            return _plain(x), self._conv_weight(anchor)
        return _plain(x), _plain(weight)


def _lowering(node: Node) -> object:
    return lower_view if view_source(node) is not None else TABLE.find(node)


def _plain(node: Node) -> View:
    shape = shape_of(fake(node))
    return View(node.name, dtype_name(fake(node).dtype), shape, contiguous_strides(shape))


def _plain_or_view(node: Node) -> View | None:
    return None if view_source(node) is not None else _plain(node)


def _info(name: str, node: Node) -> TensorInfo:
    shape = tuple(to_size(n).tokens for n in shape_of(fake(node)))
    return TensorInfo(name, dtype_name(fake(node).dtype), shape)


def _concat_slices(node: Node, math: IndexMath) -> list[tuple[Node, Expr, int]]:
    tensors = [t for t in node.args[0] if fake(t).dim() == fake(node).dim()]
    dim = (int_of(node.args[1]) if len(node.args) > 1 else 0) % fake(node).dim()
    found: list[tuple[Node, Expr, int]] = []
    start: Expr = Const(0)
    for part in tensors:
        found.append((part, start, dim))
        start = math.add(start, shape_of(fake(part))[dim])
    return found


def epilogue_inplace(spec: Gemm | Conv2d | Attention) -> tuple[tuple[str, str], ...]:
    """A residual that an epilogue reads exactly where it writes may share memory with the output."""
    if isinstance(spec, Attention) or len(spec.epilogue) != 1:
        return ()
    body = LoopKernel(spec.buffers, (), (), (_stage(spec),))
    taken = {spec.a_buffer, spec.b_buffer, "w"} if isinstance(spec, Gemm) else {spec.x_buffer, "w"}
    return tuple((r, w) for r, w in inplace_pairs(body) if r not in taken)


def _stage(spec: Gemm | Conv2d) -> Stage:
    return Stage((), spec.epilogue)
