"""One spelling for arithmetic: no alpha, numbers as numbers, exact strength reductions, one cast, one where."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.rules import Match, Rule, RuleTable, use
from ullage.passes.clean.sizes import dims_of
from ullage.passes.edit import Editor, Target, args_of, argument, is_call, is_tensor, shape_of, target_of, value_of

aten = torch.ops.aten
Number = int | float | bool


def is_number(value: object) -> bool:
    """Whether an argument is a plain number."""
    return isinstance(value, int | float)


def alpha(edit: Editor, node: Node) -> Match | None:
    """`a ± alpha·b` without alpha; the product is rounded on its own unless alpha is ±1."""
    left, right = args_of(node)[:2]
    factor = argument(node, "alpha", 1)
    if "alpha" not in node.kwargs or isinstance(factor, Node):
        return None

    def build() -> Node:
        if factor in (1, -1):
            flipped = {aten.add.Tensor: aten.sub.Tensor, aten.sub.Tensor: aten.add.Tensor}
            return edit.call(target_of(node) if factor == 1 else flipped[target_of(node)], left, right)
        scaled = right * factor if is_number(right) else edit.call(aten.mul.Tensor, right, factor)
        return edit.call(target_of(node), left, scaled)

    return Match("spell alpha as a product", build)


def subtract_number(edit: Editor, node: Node) -> Match | None:
    """`x - c` is `x + (-c)`, exactly, for floats."""
    left, right = args_of(node)[:2]
    if node.kwargs or not is_number(right) or not value_of(node).dtype.is_floating_point:
        return None
    return Match("spell x - c as x + (-c)", lambda: edit.call(aten.add.Tensor, left, -float(right)))


def reverse_subtract(edit: Editor, node: Node) -> Match | None:
    """`rsub(a, b)` is `b - a`; with a number it is `-a + b`."""
    left, right = args_of(node)[:2]
    if argument(node, "alpha", 1) != 1:
        return None
    if is_tensor(right):
        return Match("spell rsub as sub", lambda: edit.call(aten.sub.Tensor, right, left))
    return _number_minus(edit, node, right, left)


def _number_minus(edit: Editor, node: Node, number: Any, tensor: Any) -> Match | None:
    if not is_number(number) or not value_of(tensor).dtype.is_floating_point:
        return None
    minus = aten.neg.default
    return Match("spell c - x as -x + c", lambda: edit.call(aten.add.Tensor, edit.call(minus, tensor), number))


def divide(edit: Editor, node: Node) -> Match | None:
    """Division by a power of two is multiplication by its reciprocal, exactly; 1 / x is the reciprocal."""
    left, right = args_of(node)[:2]
    if node.kwargs or not is_number(right) or not _has_exact_reciprocal(float(right)):
        return None
    return Match("divide by a power of two as product", lambda: edit.call(aten.mul.Tensor, left, 1.0 / right))


def _has_exact_reciprocal(value: float) -> bool:
    return math.isfinite(value) and value != 0 and abs(math.frexp(value)[0]) == 0.5 and 2**-14 <= abs(value) <= 2**14


def power(edit: Editor, node: Node) -> Match | None:
    """Small constant powers as the products and roots that PyTorch itself computes them by."""
    base, exponent = args_of(node)[:2]
    is_float = value_of(base).dtype.is_floating_point
    if exponent == 1 and value_of(node).dtype == value_of(base).dtype:
        return use("remove x ** 1", base)
    mul = aten.mul.Tensor
    if exponent == 2 and value_of(node).dtype == value_of(base).dtype:
        return Match("spell x ** 2 as product", lambda: edit.call(mul, base, base))
    if exponent == 3 and value_of(node).dtype == value_of(base).dtype:
        return Match("spell x ** 3 as products", lambda: edit.call(mul, edit.call(mul, base, base), base))
    target = _ROOTS.get(exponent) if is_float and is_number(exponent) else None
    return Match("spell a power as a root", lambda: edit.call(target, base)) if target is not None else None


_ROOTS: dict[Any, Target] = {0.5: aten.sqrt.default, -0.5: aten.rsqrt.default, -1: aten.reciprocal.default}


def square(edit: Editor, node: Node) -> Match:
    """`square` is a product."""
    x = args_of(node)[0]
    return Match("spell square as product", lambda: edit.call(aten.mul.Tensor, x, x))


def number_operand(edit: Editor, node: Node) -> Match | None:
    """An operand that holds one value everywhere (`full`) becomes a number where the operator takes one."""
    if len(args_of(node)) != 2 or node.kwargs:
        return None
    left, right = args_of(node)
    if is_call(right, aten.full.default):
        return _with_number(edit, node, _NUMBER_RIGHT.get(target_of(node)), left, right)
    if is_call(left, aten.full.default):
        return _with_number(edit, node, _NUMBER_LEFT.get(target_of(node)), right, left)
    return None


def _with_number(edit: Editor, node: Node, target: Target | None, tensor: Any, full: Any) -> Match | None:
    number = full.args[1]
    if target is None or not is_tensor(tensor) or not is_number(number):
        return None
    if target in _BOUNDS and number == 0:  # which zero the larger of 0.0 and -0.0 is differs between both operators
        return None
    result = edit.infer(target, (tensor, number), {})
    if result.dtype != value_of(node).dtype or tuple(result.shape) != shape_of(node):
        return None
    return Match("use a number for a uniform operand", lambda: edit.call(target, tensor, number))


_NUMBER_RIGHT: dict[Any, Target] = {
    **{op: op for op in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)},
    aten.pow.Tensor_Tensor: aten.pow.Tensor_Scalar,
    aten.eq.Tensor: aten.eq.Scalar, aten.ne.Tensor: aten.ne.Scalar, aten.lt.Tensor: aten.lt.Scalar,
    aten.le.Tensor: aten.le.Scalar, aten.gt.Tensor: aten.gt.Scalar, aten.ge.Tensor: aten.ge.Scalar,
    aten.maximum.default: aten.clamp_min.default, aten.minimum.default: aten.clamp_max.default,
}  # fmt: skip
_NUMBER_LEFT: dict[Any, Target] = {
    **{op: op for op in (aten.add.Tensor, aten.mul.Tensor)},
    aten.sub.Tensor: aten.rsub.Scalar,
    aten.eq.Tensor: aten.eq.Scalar, aten.ne.Tensor: aten.ne.Scalar, aten.lt.Tensor: aten.gt.Scalar,
    aten.le.Tensor: aten.ge.Scalar, aten.gt.Tensor: aten.lt.Scalar, aten.ge.Tensor: aten.le.Scalar,
    aten.maximum.default: aten.clamp_min.default, aten.minimum.default: aten.clamp_max.default,
}  # fmt: skip


def scalar_overload(target: Target) -> Rule:
    """`op.Scalar` of arithmetic as `op.Tensor` with a number."""

    def rule(edit: Editor, node: Node) -> Match:
        return Match("spell op.Scalar as op.Tensor", lambda: edit.call(target, *args_of(node), **node.kwargs))

    return rule


def cast(edit: Editor, node: Node) -> Match | None:
    """One cast, `_to_copy(x, dtype=…)`; none where the dtype stays."""
    source, dtype = args_of(node)[0], value_of(node).dtype
    if value_of(source).dtype == dtype:
        return use("remove a cast to the same dtype", source)
    if target_of(node) is aten._to_copy.default and dict(node.kwargs) == {"dtype": dtype}:
        return None
    return Match("spell a cast as _to_copy", lambda: edit.call(aten._to_copy.default, source, dtype=dtype))


def masked_fill(edit: Editor, node: Node) -> Match | None:
    """`masked_fill(x, mask, v)` is `where(mask, v, x)`."""
    x, mask, value = args_of(node)
    dtype = value_of(node).dtype
    if isinstance(value, Node) and value_of(value).dtype != dtype:
        return None

    def build() -> Node:
        fill = value if isinstance(value, Node) else edit.call(aten.full.default, [], value, dtype=dtype)
        return edit.call(aten.where.self, mask, fill, x)

    return Match("spell masked_fill as where", build)


def where_numbers(edit: Editor, node: Node) -> Match:
    """`where` with numbers as `where.self` with 0-d tensors of the result's dtype."""
    condition, *choices = args_of(node)
    dtype = value_of(node).dtype

    def build() -> Node:
        tensors = [c if is_tensor(c) else edit.call(aten.full.default, [], c, dtype=dtype) for c in choices]
        return edit.call(aten.where.self, condition, *tensors)

    return Match("spell where with tensors", build)


def clamp(edit: Editor, node: Node) -> Match:
    """`hardtanh`, `relu6`, `clamp_min` and `clamp_max` are `clamp`."""
    names = _BOUNDS[target_of(node)]
    x = args_of(node)[0]
    low, high = (_in_dtype(x, argument(node, name) if isinstance(name, str) else name) for name in names)
    return Match("spell as clamp", lambda: edit.call(aten.clamp.default, x, low, high))


def _in_dtype(x: Any, bound: Any) -> Any:
    """A bound as `hardtanh` takes it: cut to an integer for integers, which `clamp` would turn to floats."""
    return int(bound) if isinstance(bound, float) and not value_of(x).dtype.is_floating_point else bound


_BOUNDS: dict[Any, tuple[str | int | None, str | int | None]] = {
    aten.hardtanh.default: ("min_val", "max_val"),
    aten.relu6.default: (0, 6),
    aten.clamp_min.default: ("min", None),
    aten.clamp_max.default: (None, "max"),
}


def reduction(edit: Editor, node: Node) -> Match | None:
    """Reduced dimensions listed in order and counted from the front."""
    x, given = args_of(node)[0], argument(node, "dim")
    dims = sorted(dims_of(given, len(shape_of(x))))
    if not shape_of(x) or (isinstance(given, list | tuple) and dims == list(given)):
        return None
    keep = argument(node, "keepdim", False)
    kwargs = {key: value for key, value in node.kwargs.items() if key == "dtype"}
    return Match("spell the dimensions of a reduction", lambda: edit.call(target_of(node), x, dims, keep, **kwargs))


def full_mean(edit: Editor, node: Node) -> Match:
    """A mean of everything names every dimension."""
    x = args_of(node)[0]
    dims = list(range(len(shape_of(x))))
    return Match("spell mean", lambda: edit.call(aten.mean.dim, x, dims, False, **node.kwargs))


def softmax(edit: Editor, node: Node) -> Match | None:
    """Softmax as `_softmax` with its dimension counted from the front and a cast before it if it asks for one."""
    x, dim = args_of(node)[:2]
    rank, dtype = len(shape_of(x)), value_of(node).dtype
    front = dim % rank if rank else dim
    if target_of(node) in _SOFTMAX.values() and (front == dim or args_of(node)[2]):
        return None

    def build() -> Node:
        source = x if value_of(x).dtype == dtype else edit.call(aten._to_copy.default, x, dtype=dtype)
        return edit.call(_SOFTMAX.get(target_of(node), target_of(node)), source, front, False)

    return Match("spell softmax", build)


_SOFTMAX: dict[Any, Target] = {
    aten.softmax.int: aten._softmax.default,
    aten.log_softmax.int: aten._log_softmax.default,
}


def add_commutes(edit: Editor, node: Node) -> Match | None:
    """`x + (-y)` is `x - y`."""
    left, right = args_of(node)[:2]
    if node.kwargs or not (is_call(right, aten.neg.default) and is_tensor(left)):
        return None
    return Match("spell x + (-y) as x - y", lambda: edit.call(aten.sub.Tensor, left, args_of(right)[0]))


ARITHMETIC: RuleTable = {
    None: (number_operand,),
    aten.add.Tensor: (alpha, add_commutes),
    aten.sub.Tensor: (alpha, subtract_number),
    aten.rsub.Scalar: (reverse_subtract,),
    aten.rsub.Tensor: (reverse_subtract,),
    aten.div.Tensor: (divide,),
    aten.pow.Tensor_Scalar: (power,),
    aten.square.default: (square,),
    aten.add.Scalar: (scalar_overload(aten.add.Tensor),),
    aten.sub.Scalar: (scalar_overload(aten.sub.Tensor),),
    aten.mul.Scalar: (scalar_overload(aten.mul.Tensor),),
    aten.div.Scalar: (scalar_overload(aten.div.Tensor),),
    aten._to_copy.default: (cast,),
    torch.ops.prims.convert_element_type.default: (cast,),
    aten.masked_fill.Scalar: (masked_fill,),
    aten.masked_fill.Tensor: (masked_fill,),
    **{t: (where_numbers,) for t in (aten.where.Scalar, aten.where.ScalarSelf, aten.where.ScalarOther)},
    **{t: (clamp,) for t in _BOUNDS},
    **{t: (reduction,) for t in (aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.amin.default)},
    aten.mean.default: (full_mean,),
    **{t: (softmax,) for t in (*_SOFTMAX.keys(), *_SOFTMAX.values())},
}
