"""Index polynomials: a normal form in which equal indices are equal."""

from __future__ import annotations

from ullage.codegen.loops.ir import Apply, Const, Dim, Expr, Load, Var
from ullage.codegen.loops.poly import Poly, affine, linear_in, to_expr, to_poly, unique


def add(a: Expr, b: Expr) -> Expr:
    return Apply("add", (a, b), "int64")


def mul(a: Expr, b: Expr) -> Expr:
    return Apply("mul", (a, b), "int64")


A, B, D = Var("i"), Var("j"), Dim("D")


def test_equal_indices_have_equal_polynomials() -> None:
    left = mul(add(mul(A, D), B), Const(4))
    right = add(mul(B, Const(4)), mul(D, mul(Const(4), A)))
    assert to_poly(left) == to_poly(right)
    assert to_expr(to_poly(left)) == to_expr(to_poly(right))


def test_terms_that_cancel_vanish() -> None:
    difference = Apply("sub", (add(A, B), add(B, A)), "int64")
    assert to_poly(difference).value == 0


def test_linear_split_gives_stride_and_base() -> None:
    split = linear_in(to_poly(add(add(mul(A, D), mul(B, Const(3))), Const(7))), "i")
    assert split is not None
    assert split[0] == Poly.atom(D)
    assert split[1] == to_poly(add(mul(B, Const(3)), Const(7)))


def test_a_variable_inside_a_load_is_not_linear() -> None:
    assert linear_in(to_poly(add(Load("ids", A, "int64"), B)), "i") is None
    assert linear_in(to_poly(mul(A, A)), "i") is None


def test_affine_refuses_products_of_variables() -> None:
    assert affine(to_poly(mul(A, B)), ["i", "j"]) is None
    found = affine(to_poly(add(mul(A, Const(8)), B)), ["i", "j"])
    assert found is not None
    assert {name: step.value for name, step in found[0].items()} == {"i": 8, "j": 1}


def test_unique_visits_shared_parts_once() -> None:
    e: Expr = A
    for _ in range(40):
        e = add(e, e)
    assert len(unique(e)) == 41
