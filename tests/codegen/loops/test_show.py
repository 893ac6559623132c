"""The text form of kernels."""

from __future__ import annotations

from ullage.codegen.loops.ir import (
    Apply,
    Buffer,
    Cast,
    Const,
    Dim,
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
from ullage.codegen.loops.show import show

GOLDEN = """\
kernel dims n
  r x: bfloat16
  w y: float64
  local t: float32[(n * 2)]
  for i < n, j < 3
    for k < 5:
      $m = reduce max x[i if (j < 2) else -1.5]
      $s = scan sum k
      $h = scan 0.5 * $h + 2.0 from float64(1.0)
    do:
      y[j] = (float64($m) + where((i == j), float64(0.5), exp(float64(1.0))))
"""


def test_every_part_of_a_kernel_is_shown() -> None:
    i, j, k = Var("i"), Var("j"), Var("k")
    masked = Load("x", i, "bfloat16", Apply("lt", (j, Const(2)), "bool"), -1.5)
    chosen = Apply(
        "where",
        (
            Apply("eq", (i, j), "bool"),
            Const(0.5, "float64"),
            Apply("exp", (Const(1.0, "float64"),), "float64"),
        ),
        "float64",
    )
    linear = Scan("h", "linear", Const(2.0, "float32"), Const(0.5, "float32"), Const(1.0, "float64"))
    value = Apply("add", (Cast(Ref("m", "bfloat16"), "float64"), chosen), "float64")
    kernel = LoopKernel(
        (
            Buffer("x", "bfloat16", "r"),
            Buffer("y", "float64", "w"),
            Buffer("t", "float32", "local", Apply("mul", (Dim("n"), Const(2)), "int64")),
        ),
        ("n",),
        (Loop("i", Dim("n")), Loop("j", Const(3))),
        (
            Stage((Loop("k", Const(5)),), (Reduce("m", "max", masked), Scan("s", "sum", k), linear)),
            Stage((), (Store("y", j, value),)),
        ),
    )
    assert show(kernel) == GOLDEN
