"""Each rule for legal kernels, broken once."""

from __future__ import annotations

import pytest

from ullage.codegen.loops.ir import (
    Apply,
    Buffer,
    Cast,
    Const,
    Dim,
    Expr,
    Load,
    Loop,
    LoopKernel,
    Reduce,
    Ref,
    Scan,
    Stage,
    Statement,
    Store,
    Var,
)
from ullage.codegen.loops.verify import problems, verify
from ullage.errors import InputError

X, Y = Buffer("x", "float32", "r"), Buffer("y", "float32", "w")
AT = Var("i")
LOAD = Load("x", AT, "float32")


def kernel(*body: Statement, buffers: tuple[Buffer, ...] = (X, Y), loops: tuple[Loop, ...] = ()) -> LoopKernel:
    return LoopKernel(buffers, ("n",), (Loop("i", Dim("n")),), (Stage(loops, body),))


def store(value: Expr) -> LoopKernel:
    return kernel(Store("y", AT, value))


def test_a_legal_kernel_passes() -> None:
    legal = store(Apply("exp", (LOAD,), "float32"))
    verify(legal)
    assert list(problems(legal)) == []


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (store(Cast(LOAD, "int32")), "int32 stored to y, which holds float32"),
        (kernel(Store("x", AT, LOAD)), "store to read-only buffer x"),
        (kernel(Store("z", AT, LOAD)), "store to undeclared buffer z"),
        (store(Load("z", AT, "float32")), "load from undeclared buffer z"),
        (store(Load("x", AT, "float64")), "load of float64 from x"),
        (store(Load("x", LOAD, "float32")), "index of a load from x is float32"),
        (store(Load("x", AT, "float32", AT)), "mask of a load from x is int64"),
        (store(Load("x", Var("k"), "float32")), "variable k has no loop"),
        (store(Load("x", Dim("m"), "float32")), "dimension m is not declared"),
        (store(Ref("r", "float32")), r"\$r is used before it is defined"),
        (store(Apply("frob", (LOAD,), "float32")), "unknown operator frob"),
        (store(Apply("add", (LOAD,), "float32")), "add takes 2 arguments"),
        (store(Apply("add", (Const(1), LOAD), "float32")), "arguments differ in dtype"),
        (store(Apply("lt", (LOAD, LOAD), "float32")), "lt gives bool, declared float32"),
        (store(Apply("where", (LOAD, LOAD, LOAD), "float32")), "condition is float32"),
        (store(Cast(Apply("exp", (AT,), "int64"), "float32")), "exp is not defined for int64"),
        (store(Apply("xor", (LOAD, LOAD), "float32")), "xor is not defined for float32"),
        (kernel(Reduce("r", "any", LOAD)), "any of float32 values"),
        (kernel(Reduce("r", "sum", Cast(LOAD, "float16"))), "needs a cast first"),
        (kernel(Scan("r", "sum", LOAD)), "a scan needs a loop"),
        (kernel(Scan("r", "linear", LOAD)), "a factor belongs to a linear scan"),
        (kernel(Scan("r", "sum", LOAD, LOAD)), "a factor belongs to a linear scan"),
        (kernel(Scan("r", "sum", LOAD, None, LOAD)), "an initial value to its factor"),
        (kernel(Scan("r", "linear", LOAD, Const(1))), r"parts of a scan differ in dtype \(float32, int64\)"),
        (
            kernel(Scan("r", "linear", LOAD, LOAD, Load("x", Var("j"), "float32")), loops=(Loop("j", Const(2)),)),
            "the initial value changes along the scan",
        ),
        (kernel(Reduce("r", "sum", LOAD), Reduce("r", "max", LOAD)), r"\$r is defined 2 times"),
        (kernel(Store("y", AT, LOAD), buffers=(X, X, Y)), "buffer x is declared 2 times"),
        (kernel(Store("y", AT, LOAD), buffers=(X, Y, Buffer("t", "float32", "local"))), "local buffer t needs"),
        (kernel(Store("y", AT, LOAD), loops=(Loop("i", Const(2)),)), "variable i has two loops"),
        (kernel(Store("y", AT, LOAD), loops=(Loop("j", AT),)), "extent of j may use"),
        (kernel(Store("y", AT, LOAD), loops=(Loop("j", Const(-1)),)), "extent of j may use"),
    ],
)
def test_each_broken_rule_is_named(broken: LoopKernel, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        verify(broken)


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(InputError, match=r"undeclared buffer b.*undeclared buffer a"):
        verify(store(Apply("add", (Load("a", AT, "float32"), Load("b", AT, "float32")), "float32")))
