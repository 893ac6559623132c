"""Index simplification under known ranges."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from ullage.codegen.loops.ir import Apply, Cast, Const, Dim, Expr, Load, Var
from ullage.codegen.loops.poly import Poly, to_poly
from ullage.codegen.loops.show import show_expr
from ullage.codegen.loops.simplify import never_negative, simplify

A, B, K, D = Var("i"), Var("j"), Var("k"), Dim("D")
EXTENTS = {"i": Poly.constant(6), "j": Poly.constant(8), "k": Poly.atom(D)}


def op(name: str, *args: Expr) -> Expr:
    dtype = "bool" if name in ("lt", "le", "gt", "ge", "eq", "ne", "and", "or") else args[-1].dtype
    return Apply(name, args, dtype)


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        (op("floordiv", op("add", op("mul", A, Const(8)), B), Const(8)), "i"),
        (op("mod", op("add", op("mul", A, Const(8)), B), Const(8)), "j"),
        (op("floordiv", op("add", op("mul", A, Const(16)), B), Const(8)), "(i * 2)"),
        (op("floordiv", op("add", op("mul", A, D), K), D), "i"),
        (op("mod", op("add", op("mul", A, D), K), D), "k"),
        (op("floordiv", B, Const(3)), "(j // 3)"),
        (op("mod", op("add", op("mul", A, Const(12)), B), Const(4)), "(j % 4)"),
        (op("min", B, Const(7)), "j"),
        (op("max", B, Const(0)), "j"),
        (op("lt", B, Const(8)), "True"),
        (op("ge", B, Const(8)), "False"),
        (op("lt", K, D), "True"),
        (op("lt", B, Const(7)), "(j < 7)"),
        (op("and", op("lt", B, Const(8)), op("lt", A, Const(3))), "(i < 3)"),
        (Load("x", B, "float32", op("lt", B, Const(8))), "x[j]"),
        (Load("x", B, "float32", op("gt", A, Const(5)), 2.5), "2.5"),
        (Cast(A, "int64"), "i"),
    ],
)
def test_known_ranges_remove_what_they_decide(expr: Expr, wanted: str) -> None:
    assert show_expr(simplify(expr, EXTENTS)) == wanted


def test_bounds_over_dimensions() -> None:
    assert never_negative(to_poly(op("sub", op("mul", D, D), K)), EXTENTS)
    assert not never_negative(to_poly(op("sub", K, Const(1))), EXTENTS)


def value(expr: Expr, names: dict[str, int]) -> int:
    match expr:
        case Const(v):
            return int(v)
        case Var(name) | Dim(name):
            return names[name]
        case Apply(name, (a, b)):
            x, y = value(a, names), value(b, names)
            table = {"add": x + y, "sub": x - y, "mul": x * y, "min": min(x, y), "max": max(x, y)}
            return table[name] if name in table else x // y if name == "floordiv" else x % y
        case _:
            raise AssertionError(expr)


def random_index(random: Random, depth: int) -> Expr:
    if depth == 0:
        return random.choice([A, B, K, Const(random.randint(0, 9)), D])
    name = random.choice(["add", "add", "mul", "sub", "floordiv", "mod", "min", "max"])
    divides = name in ("floordiv", "mod")
    right = Const(random.choice([1, 2, 3, 4, 8, 12])) if divides else random_index(random, depth - 1)
    return op(name, random_index(random, depth - 1), right)


def test_random_indices_keep_their_value() -> None:
    random = Random(7)
    for _ in range(300):
        expr = random_index(random, 4)
        made = simplify(expr, EXTENTS)
        for i, j, d in itertools.product((0, 1, 5), (0, 3, 7), (1, 2, 5)):
            names = {"i": i, "j": j, "k": d - 1, "D": d}
            assert value(expr, names) == value(made, names), show_expr(expr)
