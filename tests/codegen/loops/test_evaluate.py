"""The interpreter against numpy written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ullage.codegen.loops.evaluate import evaluate, from_bfloat16, to_bfloat16
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
    Store,
    Var,
)


def op(name: str, *args: Expr) -> Expr:
    return Apply(name, args, args[-1].dtype)


def test_softmax_over_rows_with_a_local_row() -> None:
    index = op("add", op("mul", Var("r"), Dim("n")), Var("c"))
    x = Load("x", index, "float32")
    loop = (Loop("c", Dim("n")),)
    exps = Store("t", Var("c"), op("exp", op("sub", x, Ref("top", "float32"))))
    kernel = LoopKernel(
        (Buffer("x", "float32", "r"), Buffer("y", "float32", "w"), Buffer("t", "float32", "local", Dim("n"))),
        ("m", "n"),
        (Loop("r", Dim("m")),),
        (
            Stage(loop, (Reduce("top", "max", x),)),
            Stage(loop, (exps,)),
            Stage(loop, (Reduce("sum", "sum", Load("t", Var("c"), "float32")),)),
            Stage(loop, (Store("y", index, op("div", Load("t", Var("c"), "float32"), Ref("sum", "float32"))),)),
        ),
    )
    values = np.random.default_rng(0).standard_normal((4, 9))
    buffers = {"x": values.reshape(-1).copy(), "y": np.zeros(36)}
    evaluate(kernel, buffers, {"m": 4, "n": 9}, precise=True)
    exponentials = np.exp(values - values.max(1, keepdims=True))
    wanted = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(buffers["y"].reshape(4, 9), wanted, rtol=1e-15)


def test_a_scan_runs_along_the_last_loop() -> None:
    index = op("add", op("mul", Var("a"), Const(5)), Var("b"))
    stage = Stage(
        (Loop("a", Const(2)), Loop("b", Const(5))),
        (Scan("s", "sum", Load("x", index, "int64")), Store("y", index, Ref("s", "int64"))),
    )
    kernel = LoopKernel((Buffer("x", "int64", "r"), Buffer("y", "int64", "w")), (), (), (stage,))
    buffers = {"x": np.arange(10), "y": np.zeros(10, np.int64)}
    evaluate(kernel, buffers, {})
    assert buffers["y"].reshape(2, 5).tolist() == np.arange(10).reshape(2, 5).cumsum(1).tolist()


def test_a_linear_scan_starts_from_its_initial_value() -> None:
    index = op("add", op("mul", Var("a"), Const(5)), Var("b"))
    x, f = Load("x", index, "float32"), Load("f", index, "float32")
    for initial in (None, Load("h", Var("a"), "float32")):
        body = (Scan("s", "linear", x, f, initial), Store("y", index, Ref("s", "float32")))
        buffers = [Buffer(name, "float32", "r") for name in "xfh"] + [Buffer("y", "float32", "w")]
        loops = (Loop("a", Const(2)), Loop("b", Const(5)))
        kernel = LoopKernel(tuple(buffers), (), (), (Stage(loops, body),))
        rng = np.random.default_rng(1)
        memory = {name: rng.standard_normal(10 if name in "xf" else 2).astype(np.float32) for name in "xfh"}
        memory["y"] = np.zeros(10, np.float32)
        evaluate(kernel, memory, {})
        x_of, f_of = memory["x"].reshape(2, 5), memory["f"].reshape(2, 5)
        state = np.zeros(2, np.float32) if initial is None else memory["h"]
        for t in range(5):
            state = f_of[:, t] * state + x_of[:, t]
            assert memory["y"].reshape(2, 5)[:, t].tolist() == state.tolist()


def test_loads_outside_a_buffer_are_caught_unless_masked() -> None:
    i = Var("i")
    for mask in (None, Apply("lt", (i, Const(3)), "bool")):
        store = Store("y", i, Load("x", i, "float32", mask, 7.0))
        declared = (Buffer("x", "float32", "r"), Buffer("y", "float32", "w"))
        kernel = LoopKernel(declared, (), (Loop("i", Const(5)),), (Stage((), (store,)),))
        buffers = {"x": np.ones(3, np.float32), "y": np.zeros(5, np.float32)}
        if mask is None:
            with pytest.raises(AssertionError, match="load outside x"):
                evaluate(kernel, buffers, {})
        else:
            evaluate(kernel, buffers, {})
            assert buffers["y"].tolist() == [1, 1, 1, 7, 7]


def test_bfloat16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, np.inf, -0.0], np.float32)
    assert from_bfloat16(to_bfloat16(values)).tolist() == [1.0, 1.0, 1.015625, np.inf, -0.0]
    kernel = LoopKernel(
        (Buffer("x", "float32", "r"), Buffer("y", "bfloat16", "w")), (), (Loop("i", Const(5)),),
        (Stage((), (Store("y", Var("i"), Cast(Load("x", Var("i"), "float32"), "bfloat16")),)),),
    )  # fmt: skip
    buffers = {"x": values, "y": np.zeros(5, np.uint16)}
    evaluate(kernel, buffers, {})
    assert buffers["y"].tolist() == to_bfloat16(values).tolist()
