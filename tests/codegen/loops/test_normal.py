"""Normal form: fewer loops, the same meaning."""

from __future__ import annotations

from ullage.codegen.loops.ir import (
    Apply,
    Buffer,
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
from ullage.codegen.loops.normal import normalise
from ullage.codegen.loops.show import show

X, Y = Buffer("x", "float32", "r"), Buffer("y", "float32", "w")


def op(name: str, *args: Expr) -> Expr:
    return Apply(name, args, args[-1].dtype)


def row_major(*terms: tuple[str, Expr]) -> Expr:
    index: Expr = Const(0)
    for name, stride in terms:
        index = op("add", index, op("mul", Var(name), stride))
    return index


def copy(outer: tuple[Loop, ...], loops: tuple[Loop, ...], source: Expr, to: Expr) -> LoopKernel:
    stage = Stage(loops, (Store("y", to, Load("x", source, "float32")),))
    return LoopKernel((X, Y), ("D",), outer, (stage,))


def body(kernel: LoopKernel) -> str:
    return "\n".join(line.strip() for line in show(normalise(kernel)).splitlines()[3:])


def test_contiguous_loops_become_one() -> None:
    index = row_major(("a", op("mul", Const(5), Dim("D"))), ("b", Const(5)), ("c", Const(1)))
    made = copy((Loop("a", Const(3)), Loop("b", Dim("D"))), (Loop("c", Const(5)),), index, index)
    assert body(made) == "for s0 < (D * 15)\ndo:\ny[s0] = x[s0]"


def test_a_broadcast_keeps_its_loop() -> None:
    to = row_major(("a", Const(5)), ("b", Const(1)))
    assert "for o0 < 3, o1 < 5" in body(copy((Loop("a", Const(3)), Loop("b", Const(5))), (), Var("b"), to))


def test_quotient_and_remainder_split_a_loop() -> None:
    v = Var("v")
    transposed = op("add", op("mul", op("mod", v, Const(4)), Const(6)), op("floordiv", v, Const(4)))
    assert body(copy((Loop("v", Const(24)),), (), transposed, v)) == (
        "for o0h < 6, o0l < 4\ndo:\ny[((o0h * 4) + o0l)] = x[(o0h + (o0l * 6))]"
    )


def test_loops_of_one_iteration_go() -> None:
    index = row_major(("a", Const(7)), ("b", Const(1)))
    assert "for o1 < 7" in body(copy((Loop("a", Const(1)), Loop("b", Const(7))), (), index, index))


def test_a_scan_keeps_its_last_loop() -> None:
    index = row_major(("a", Const(7)), ("b", Const(1)))
    stage = Stage(
        (Loop("a", Const(3)), Loop("b", Const(7))),
        (Scan("s", "sum", Load("x", index, "float32")), Store("y", index, Ref("s", "float32"))),
    )
    made = normalise(LoopKernel((X, Y), (), (), (stage,)))
    assert [str(x.extent.value) for x in made.stages[0].loops] == ["3", "7"]  # type: ignore[union-attr]


def test_a_stage_that_reads_what_it_stores_stays_sequential() -> None:
    z = Buffer("z", "float32", "rw")
    shifted = op("add", Var("j"), Const(1))
    stage = Stage((Loop("j", Const(9)),), (Store("z", shifted, Load("z", Var("j"), "float32")),))
    made = normalise(LoopKernel((z,), (), (), (stage,)))
    assert not made.outer and len(made.stages[0].loops) == 1


def test_reduction_loops_merge() -> None:
    index = row_major(("r", Const(12)), ("a", Const(4)), ("b", Const(1)))
    stages = (
        Stage((Loop("a", Const(3)), Loop("b", Const(4))), (Reduce("s", "sum", Load("x", index, "float32")),)),
        Stage((), (Store("y", Var("r"), Ref("s", "float32")),)),
    )
    made = normalise(LoopKernel((X, Y), (), (Loop("r", Const(2)),), stages))
    assert [x.extent for x in made.stages[0].loops] == [Const(12)]
