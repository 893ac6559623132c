"""Random legal graphs for hypothesis: small captured models over ATen in float64, with constants and a few spellings.

`exact_graphs` uses only operators whose result does not depend on how a tensor is laid out or cut into vectors
(correctly rounded arithmetic, comparisons, views; no maximum, which may pick either zero), so that a rewrite can be
held to equal bits. `graphs` adds products, reductions, transcendental functions, convolutions with batch norm, and
attention in several spellings.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from ullage.graph.captured import CapturedModel, ConstantOutput, TensorSpec
from ullage.graph.constants import ConstantRef
from ullage.graph.sources import InMemory
from ullage.passes.edit import Editor, shape_of, value_of

aten = torch.ops.aten
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -4.0, 3.0, 0.3])
Draw = Callable[[st.SearchStrategy[Any]], Any]
Step = Callable[["Maker"], Node | None]


class Maker:
    """Grows one graph node by node; every choice is drawn."""

    def __init__(self, draw: Draw, shapes: list[tuple[int, ...]]) -> None:
        self.draw = draw
        self.model = empty_model(shapes)
        output = self.model.module.graph.output_node()
        self.edit = Editor.of(self.model).at(output)
        self.nodes = [n for n in self.model.module.graph.nodes if n.op == "placeholder"]
        self._seed = 0

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """Append a call; its result can be drawn from now on."""
        node = self.edit.call(target, *args, **kwargs)
        if isinstance(value_of(node), torch.Tensor) and value_of(node).dtype == torch.float64:
            self.nodes.append(node)
        return node

    def constant(self, *shape: int, positive: bool = False) -> Node:
        """A new constant with values that no other has."""
        self._seed += 1
        values = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(self._seed))
        tensor = values.abs() + 0.5 if positive else values
        return self.edit.add_constant(ConstantRef(f"c{self._seed}", tensor.dtype, shape, InMemory(tensor)))

    def pick(self, rank: int | None = None) -> Node:
        """Any float tensor so far (of a rank, made by a reshape if there is none)."""
        found = [n for n in self.nodes if rank is None or len(shape_of(n)) == rank]
        if found:
            return self.draw(st.sampled_from(found))
        return self.call(aten.reshape.default, self.nodes[0], self.factors(self.count(self.nodes[0]), rank or 1))

    def pick_like(self, node: Node) -> Node:
        """A tensor that broadcasts with `node` without making it larger, `node` itself included."""
        return self.draw(st.sampled_from([n for n in self.nodes if _broadcasts(shape_of(n), shape_of(node))]))

    def count(self, node: Node) -> int:
        """Elements of a node."""
        return math.prod(int(n) for n in shape_of(node))

    def factors(self, count: int, rank: int) -> list[int]:
        """A random shape with `count` elements."""
        shape = []
        for _ in range(rank - 1):
            divisors = [d for d in range(1, count + 1) if count % d == 0]
            shape.append(self.draw(st.sampled_from(divisors)))
            count //= shape[-1]
        return [*shape, count]

    def dim(self, node: Node) -> int:
        """A dimension, sometimes counted from the end."""
        rank = len(shape_of(node))
        return self.draw(st.integers(-rank, rank - 1))

    def finish(self) -> CapturedModel:
        """The model that returns the last node and one other."""
        results = (self.nodes[-1], self.pick())
        graph = self.model.module.graph
        graph.output_node().args = (results,)
        graph.lint()
        return with_outputs(self.model, results)


def empty_model(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float64) -> CapturedModel:
    """A model with inputs `x0`, `x1`, … that returns nothing yet."""
    graph, mode = Graph(), FakeTensorMode()
    specs = []
    for i, shape in enumerate(shapes):
        node = graph.placeholder(f"x{i}")
        with mode:
            node.meta["val"] = torch.empty(shape, dtype=dtype)
        specs.append(TensorSpec(f"x{i}", dtype, shape))
    graph.output(())
    spec = pytree.tree_structure((tuple(range(len(shapes))), {}))
    names = tuple(s.name for s in specs)
    leaves = (None,) * len(shapes)
    module = GraphModule(torch.nn.Module(), graph)
    return CapturedModel(module, {}, tuple(specs), names, (), (), spec, leaves, pytree.tree_structure(()), ())


def with_outputs(model: CapturedModel, results: tuple[Node, ...]) -> CapturedModel:
    """The model returning these nodes."""
    model.module.graph.output_node().args = (results,)
    model.outputs = tuple(TensorSpec(f"y{i}", value_of(n).dtype, shape_of(n)) for i, n in enumerate(results))
    model.output_leaves = tuple(ConstantOutput(None, i) for i in range(len(results)))
    model.out_spec = pytree.tree_structure(tuple(range(len(results))))
    model.module.recompile()
    return model


def build(shapes: list[tuple[int, ...]], make: Callable[..., Any], dtype: torch.dtype = torch.float64) -> CapturedModel:
    """A model by hand: `make(edit, *inputs)` appends calls and returns the result (or a tuple of them)."""
    model = empty_model(shapes, dtype)
    inputs = [n for n in model.module.graph.nodes if n.op == "placeholder"]
    results = make(Editor.of(model).at(model.module.graph.output_node()), *inputs)
    return with_outputs(model, results if isinstance(results, tuple) else (results,))


def constant(edit: Editor, tensor: torch.Tensor, name: str = "c") -> Node:
    """A constant with the values of a tensor."""
    return edit.add_constant(ConstantRef(name, tensor.dtype, tuple(tensor.shape), InMemory(tensor)))


def random_inputs(model: CapturedModel, seed: int = 0) -> list[torch.Tensor]:
    """Normal values for every (float) input, with a few zeros of both signs among them."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for spec in model.inputs:
        values = torch.randn([int(n) for n in spec.shape], dtype=spec.dtype, generator=generator)
        flat = values.reshape(-1)
        flat[::5], flat[2::7] = 0.0, -0.0
        inputs.append(values)
    return inputs


def _broadcasts(small: tuple[Any, ...], large: tuple[Any, ...]) -> bool:
    padded = (1,) * (len(large) - len(small)) + tuple(small)
    return len(small) <= len(large) and all(a in (1, b) for a, b in zip(padded, large, strict=True))


# ------------------------------------------------------------------------------------------------ exact operators


def _unary(make: Maker) -> Node:
    ops = (aten.neg.default, aten.abs.default, aten.square.default,
           aten.reciprocal.default, aten.floor.default)  # fmt: skip
    return make.call(make.draw(st.sampled_from(ops)), make.pick())


def _with_number(make: Maker) -> Node:
    ops = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.rsub.Scalar, aten.mul.Scalar)
    return make.call(make.draw(st.sampled_from(ops)), make.pick(), make.draw(NUMBERS))


def _power(make: Maker) -> Node:
    base = make.call(aten.abs.default, make.pick())
    return make.call(aten.pow.Tensor_Scalar, base, make.draw(st.sampled_from([1, 2, 3, 0.5, -1])))


def _binary(make: Maker) -> Node:
    left = make.pick()
    pair = [left, make.pick_like(left)]
    op = make.draw(st.sampled_from((aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor)))
    if make.draw(st.booleans()):
        pair.reverse()
    kwargs = {"alpha": make.draw(st.sampled_from([1, -1]))} if op in (aten.add.Tensor, aten.sub.Tensor) else {}
    return make.call(op, *pair, **kwargs)


def _uniform(make: Maker) -> Node:
    left = make.pick()
    shape = make.draw(st.sampled_from([[], [1], list(shape_of(left))]))
    full = make.edit.call(aten.full.default, shape, make.draw(NUMBERS), dtype=torch.float64)
    op = make.draw(st.sampled_from((aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.maximum.default)))
    return make.call(op, *([left, full] if make.draw(st.booleans()) else [full, left]))


def _constant(make: Maker) -> Node:
    x = make.pick()
    shape = [int(n) if make.draw(st.booleans()) else 1 for n in shape_of(x)]
    weight = make.constant(*shape)
    view = make.edit.call(aten.permute.default, make.edit.call(aten.neg.default, weight), _swap(len(shape)))
    back = make.edit.call(aten.permute.default, view, _swap(len(shape)))
    return make.call(aten.mul.Tensor, x, back)


def _swap(rank: int) -> list[int]:
    return [*range(rank - 2), *((rank - 1, rank - 2) if rank >= 2 else range(rank))]


def _reshape(make: Maker) -> Node:
    x = make.pick()
    rank = make.draw(st.integers(1, 4))
    return make.call(aten.reshape.default, x, make.factors(make.count(x), rank))


def _permute(make: Maker) -> Node:
    x = make.pick()
    order = make.draw(st.permutations(range(len(shape_of(x)))))
    return make.call(aten.permute.default, x, list(order))


def _transpose_around(make: Maker) -> Node | None:
    x = make.pick()
    if len(shape_of(x)) < 2:
        return None
    inner = make.call(aten.abs.default, make.call(aten.transpose.int, x, 0, -1))
    return make.call(aten.transpose.int, inner, -1, 0)


def _unsqueeze(make: Maker) -> Node | None:
    x = make.pick()
    if len(shape_of(x)) > 3:
        return None
    return make.call(aten.unsqueeze.default, x, make.draw(st.integers(-1, len(shape_of(x)))))


def _squeeze(make: Maker) -> Node | None:
    x = make.pick()
    return make.call(aten.squeeze.dim, x, make.dim(x)) if shape_of(x) else None


def _expand(make: Maker) -> Node:
    x = make.pick()
    sizes = [2 if n == 1 and make.draw(st.booleans()) else -1 for n in shape_of(x)]
    return make.call(aten.expand.default, x, sizes if len(sizes) > 3 else [2, *sizes])


def _slice(make: Maker) -> Node | None:
    x = make.pick()
    if not shape_of(x) or 0 in shape_of(x):
        return None
    dim = make.dim(x)
    size = int(shape_of(x)[dim])
    start = make.draw(st.integers(-size, size - 1))
    stop = make.draw(st.integers(start % size + 1, size + 2))
    return make.call(aten.slice.Tensor, x, dim, start, stop, make.draw(st.integers(1, 2)))


def _select(make: Maker) -> Node | None:
    x = make.pick()
    if len(shape_of(x)) < 2:
        return None
    dim = make.dim(x)
    return make.call(aten.select.int, x, dim, make.draw(st.integers(-1, int(shape_of(x)[dim]) - 1)))


def _cat(make: Maker) -> Node | None:
    x = make.pick()
    if not shape_of(x):
        return None
    same = [n for n in make.nodes if shape_of(n) == shape_of(x)]
    return make.call(aten.cat.default, [x, make.draw(st.sampled_from(same))], make.dim(x))


def _stack_and_split(make: Maker) -> Node | None:
    x = make.pick()
    if len(shape_of(x)) > 3:
        return None
    whole = make.call(aten.stack.default, [x, make.call(aten.neg.default, x)], 0)
    parts = make.edit.call(aten.split.Tensor, whole, 1, 0)
    return make.call(operator.getitem, parts, make.draw(st.integers(0, 1)))


def _mask(make: Maker) -> Node:
    x = make.pick()
    condition = make.edit.call(aten.gt.Scalar, x, 0.0)
    if make.draw(st.booleans()):
        return make.call(aten.masked_fill.Scalar, x, condition, make.draw(NUMBERS))
    uniform = make.edit.call(aten.full.default, [], make.draw(st.booleans()), dtype=torch.bool)
    both = make.edit.call(aten.bitwise_and.Tensor, condition, uniform)
    return make.call(aten.where.self, both, x, make.call(aten.abs.default, x))


def _cast(make: Maker) -> Node:
    wide = make.edit.call(aten._to_copy.default, make.pick(), dtype=torch.float32)
    return make.call(aten._to_copy.default, wide, dtype=torch.float64)


EXACT: tuple[Step, ...] = (
    _unary, _with_number, _power, _binary, _uniform, _constant, _reshape, _permute, _transpose_around, _unsqueeze,
    _squeeze, _expand, _slice, _select, _cat, _stack_and_split, _mask, _cast,
)  # fmt: skip

# ----------------------------------------------------------------------------------------- operators that accumulate


def _smooth(make: Maker) -> Node:
    ops = (aten.relu.default, aten.sigmoid.default, aten.tanh.default, aten.gelu.default, aten.silu.default)
    return make.call(make.draw(st.sampled_from(ops)), make.pick())


def _linear(make: Maker) -> Node:
    x = make.pick()
    rows = make.call(aten.reshape.default, x, make.factors(make.count(x), 2))
    inner = int(shape_of(rows)[1])
    kind = make.draw(st.integers(0, 2))
    if kind == 0:
        return make.call(aten.linear.default, rows, make.constant(3, inner), make.constant(3))
    if kind == 1:
        return make.call(aten.addmm.default, make.constant(3), rows, make.constant(inner, 3))
    product = make.call(aten.mm.default, rows, make.constant(inner, 3))
    return make.call(aten.add.Tensor, product, make.constant(3))


def _product(make: Maker) -> Node:
    x = make.pick(4)
    flat = [int(shape_of(x)[0] * shape_of(x)[1]), *shape_of(x)[2:]]
    left = make.call(aten.reshape.default, x, flat)
    other = make.call(aten.permute.default, x, [0, 1, 3, 2])
    right = make.call(aten.reshape.default, other, [flat[0], flat[2], flat[1]])
    product = make.call(aten.bmm.default, left, right)
    return make.call(aten.reshape.default, product, [*shape_of(x)[:3], shape_of(x)[2]])


def _convolution(make: Maker) -> Node:
    x = make.pick(4)
    channels, out = int(shape_of(x)[1]), make.draw(st.integers(1, 3))
    weight, bias = make.constant(out, channels, 1, 1), make.constant(out) if make.draw(st.booleans()) else None
    y = make.call(aten.convolution.default, x, weight, bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    return _batch_norm_on(make, y)


def _batch_norm(make: Maker) -> Node:
    return _batch_norm_on(make, make.pick(4))


def _batch_norm_on(make: Maker, x: Node) -> Node:
    n = int(shape_of(x)[1])
    state = (make.constant(n), make.constant(n), make.constant(n), make.constant(n, positive=True))
    return make.call(aten.batch_norm.default, x, *state, False, 0.1, 1e-5, False)


def _softmax(make: Maker) -> Node | None:
    x = make.pick()
    return make.call(aten._softmax.default, x, make.dim(x), False) if shape_of(x) else None


def _mean(make: Maker) -> Node | None:
    x = make.pick()
    op = make.draw(st.sampled_from((aten.mean.dim, aten.sum.dim_IntList)))
    return make.call(op, x, [make.dim(x)], True) if shape_of(x) else None


def _layer_norm(make: Maker) -> Node | None:
    x = make.pick()
    if not shape_of(x):
        return None
    n = int(shape_of(x)[-1])
    return make.call(aten.layer_norm.default, x, [n], make.constant(n), make.constant(n), 1e-5, False)


def _attention(make: Maker) -> Node:
    x = make.call(aten.tanh.default, make.pick(4))
    k = make.call(aten.add.Tensor, make.call(aten.neg.default, x), 0.25)
    scores = make.call(aten.matmul.default, x, make.call(aten.transpose.int, k, -2, -1))
    scores = make.call(aten.div.Tensor, scores, 3.0)
    rows = int(shape_of(x)[2])
    if make.draw(st.booleans()):
        scores = make.call(aten.add.Tensor, scores, make.constant(1, 1, rows, rows))
    if make.draw(st.booleans()):
        ones = make.edit.call(aten.full.default, [rows, rows], True, dtype=torch.bool)
        keep = make.edit.call(aten.tril.default, ones)
        least = make.edit.call(aten.full.default, [], torch.finfo(torch.float64).min, dtype=torch.float64)
        scores = make.call(aten.where.self, keep, scores, least)
    weights = make.edit.call(aten._softmax.default, scores, -1, False)
    return make.call(aten.matmul.default, weights, k)


ALL: tuple[Step, ...] = (
    *EXACT, _smooth, _linear, _product, _convolution, _batch_norm, _softmax, _mean, _layer_norm, _attention,
)  # fmt: skip


@st.composite
def _graphs(draw: Draw, steps: tuple[Step, ...], most: int) -> CapturedModel:
    shapes = [
        tuple(s) for s in draw(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=2))
    ]
    make = Maker(draw, shapes)
    for _ in range(draw(st.integers(1, most))):
        draw(st.sampled_from(steps))(make)
        if make.count(make.nodes[-1]) > 4096:
            break
    return make.finish()


def exact_graphs(most: int = 8) -> st.SearchStrategy[CapturedModel]:
    """Graphs of up to `most` steps whose results do not depend on layout."""
    return _graphs(EXACT, most)


def graphs(most: int = 8) -> st.SearchStrategy[CapturedModel]:
    """Graphs of up to `most` steps of all kinds."""
    return _graphs(ALL, most)
