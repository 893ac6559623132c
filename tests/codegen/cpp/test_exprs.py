"""Epilogues: row setup and body of one vector of accumulators."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.cpp.loop_runner import ISAS, Bare, launch, target
from tests.codegen.cpp.random_kernels import op
from ullage.codegen.cpp.exprs import emit_epilogue
from ullage.codegen.cpp.toolchain import build_library
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.evaluate import from_bfloat16, to_bfloat16
from ullage.codegen.loops.ir import Cast, Const, Dim, Expr, Load, Ref, Store, Var
from ullage.plan.sizes import Size

M, N, D = Var("m"), Var("n"), Dim("D")
ACC = Ref("acc", "float32")


def index(row_stride: Expr) -> Expr:
    return op("add", op("mul", M, row_stride), N)


def stores() -> tuple[Store, ...]:
    value: Expr = op("add", ACC, Load("bias", N, "float32"))
    value = op("mul", value, Load("scale", M, "float32"))
    value = op("add", value, Cast(Load("residual", index(D), "bfloat16"), "float32"))
    value = op(
        "where",
        op("le", N, M),
        op("max", value, Const(0.0, "float32")),
        Load("wide", op("mul", N, Const(3)), "float32"),
    )
    transposed = op("add", op("mul", N, Const(5)), M)
    return (Store("y", index(D), value), Store("z", transposed, Cast(value, "bfloat16")))


NAMES = ("acc", "bias", "scale", "residual", "wide", "y", "z")


def kernel(isa: str) -> Kernel:
    lanes = target(isa).lanes
    pieces = []
    for valid, prefix in ((None, "e"), ("valid", "f")):
        pieces.append(
            emit_epilogue(
                stores(),
                target(isa),
                coords={"m": "m", "D": "D"},
                lane_var="n",
                lane_base="n",
                acc=f"acc{prefix}",
                lanes_valid=valid,
                buffers={name: f"args->p[{i}]" for i, name in enumerate(NAMES)},
                prefix=prefix,
            )
        )
    (row, body), (tail_row, tail) = pieces
    text = f"""extern "C" void epilogue(const UllageArgs *args, ull_i64, ull_i64) {{
    const ull_i64 D = args->n[0];
    const float *source = (const float *)args->p[0];
    for (ull_i64 m = 0; m < 5; ++m) {{
{row}{tail_row}
        ull_i64 n = 0;
        for (; n + {lanes} <= D; n += {lanes}) {{
            const ull_f32<{lanes}> acce = ull_load<float, {lanes}>(source + m * D + n);
{body}        }}
        if (n < D) {{
            const ull_i64 valid = D - n;
            const ull_f32<{lanes}> accf = ull_load_n<float, {lanes}>(source + m * D + n, valid);
{tail}        }}
    }}
}}
"""
    return Kernel("epilogue", text, ("simd.h", "math.h"), NAMES, ("D",), Size((1,)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [3, 16, 53])
def test_an_epilogue_is_its_expressions(isa: str, d: int) -> None:
    rng = np.random.default_rng(d)
    arrays = {
        "acc": rng.standard_normal(5 * d).astype(np.float32), "bias": rng.standard_normal(d).astype(np.float32),
        "scale": rng.standard_normal(5).astype(np.float32), "residual": to_bfloat16(rng.standard_normal(5 * d)),
        "wide": rng.standard_normal(3 * d).astype(np.float32), "y": np.zeros(5 * d, np.float32),
        "z": np.zeros(5 * d, np.uint16),
    }  # fmt: skip
    made = kernel(isa)
    launch(Bare(build_library([made], target(isa))).kernels[0], made, arrays, {"D": d}, one_by_one=False)
    rows, columns = np.mgrid[:5, :d]
    sums = (arrays["acc"].reshape(5, d) + arrays["bias"]) * arrays["scale"][:, None]
    sums = sums + from_bfloat16(arrays["residual"]).reshape(5, d)
    wanted = np.where(columns <= rows, np.maximum(sums, 0), arrays["wide"][::3][None, :])
    assert (arrays["y"].reshape(5, d) == wanted).all()
    assert (to_bfloat16(wanted) == arrays["z"].reshape(d, 5).T).all()


def test_what_depends_on_the_row_alone_is_set_up_once() -> None:
    coords = {"m": "m", "D": "D"}
    buffers = {name: f"p[{i}]" for i, name in enumerate(NAMES)}
    row, body = emit_epilogue(
        stores(),
        target("avx2"),
        coords=coords,
        lane_var="n",
        lane_base="n0",
        acc="a",
        lanes_valid=None,
        buffers=buffers,
    )
    assert "ull_splat<8>" in row and "* m" in row
    assert "n0" not in row and "D * m" not in body
