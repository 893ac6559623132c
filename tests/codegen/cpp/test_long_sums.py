"""Rounding errors of long float sums: small whatever the layout, the loops and the instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.codegen.cpp.loop_runner import Case, check_cases
from tests.codegen.cpp.random_kernels import op
from ullage.codegen.loops.ir import Buffer, Const, Dim, Expr, Load, Loop, LoopKernel, Reduce, Ref, Stage, Store, Var

TOLERANCE = 3e-7
PIXELS = 65536


def _scaled(*terms: tuple[str, int]) -> Expr:
    index: Expr = Const(0)
    for name, step in terms:
        index = op("add", index, op("mul", Var(name), Const(step)))
    return index


def _sums(rows: int, loops: tuple[Loop, ...], index: Expr, value: Expr | None = None) -> LoopKernel:
    """y[r] = Σ x[index] (or of `value`)."""
    x = Load("x", index, "float32") if value is None else value
    stages = (Stage(loops, (Reduce("s", "sum", x),)), Stage((), (Store("y", Var("r"), Ref("s", "float32")),)))
    dims = tuple(loop.extent.name for loop in loops if isinstance(loop.extent, Dim))
    buffers = (Buffer("x", "float32", "r"), Buffer("y", "float32", "w"))
    return LoopKernel(buffers, dims, (Loop("r", Const(rows)),), stages)


def _pixels(known: bool) -> Loop:
    return Loop("p", Const(PIXELS) if known else Dim("n"))


def _layouts(known: bool, x: NDArray[np.float32]) -> list[Case]:
    """Sums over pixels, and over pixels and channels in every order of memory and of loops."""
    pixels, made = _pixels(known), list[Case]()

    def add(rows: int, loops: tuple[Loop, ...], index: Expr, elements: int) -> None:
        buffers = {"x": x[: elements * PIXELS], "y": np.zeros(rows, np.float32)}
        made.append(Case(_sums(rows, loops, index), buffers, {"n": PIXELS}))

    add(3, (pixels,), _scaled(("r", PIXELS), ("p", 1)), 3)
    add(37, (pixels,), _scaled(("p", 37), ("r", 1)), 37)
    add(2, (Loop("c", Const(4)), pixels), _scaled(("r", 4 * PIXELS), ("c", PIXELS), ("p", 1)), 8)
    inner = (Loop("q", Const(5)), Loop("c", Const(3)))
    add(2, (pixels, *inner), _scaled(("p", 30), ("q", 6), ("r", 3), ("c", 1)), 30)
    for channels in (3, 16, 24, 100):
        loops = (Loop("c", Const(channels)), pixels)
        for order in (loops, loops[::-1]):
            add(2, order, _scaled(("p", 2 * channels), ("r", channels), ("c", 1)), 2 * channels)
    return made


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("values", ["uniform", "normal", "equal"])
def test_sums_over_many_pixels(known: bool, values: str) -> None:
    rng, most = np.random.default_rng(0), 200 * PIXELS
    x = {
        "uniform": rng.uniform(0.5, 1.5, most),
        "normal": rng.normal(1.0, 1.0, most),
        "equal": np.full(most, 0.1),
    }[values].astype(np.float32)
    check_cases(_layouts(known, x), precise=True, tolerance=TOLERANCE)


@pytest.mark.parametrize("columns", [False, True])
def test_a_million_terms(columns: bool) -> None:
    count, length = 3, 10**6
    index = _scaled(("c", count), ("r", 1)) if columns else _scaled(("r", length), ("c", 1))
    values = np.random.default_rng(0).uniform(0.5, 1.5, count * length).astype(np.float32)
    made = Case(_sums(count, (Loop("c", Const(length)),), index), {"x": values, "y": np.zeros(count, np.float32)}, {})
    check_cases([made], precise=True, tolerance=TOLERANCE)


def test_heavy_terms_of_channels_last_data() -> None:
    """Terms long enough that the body is emitted once and its accumulators rotate."""
    x = Load("x", _scaled(("p", 48), ("r", 24), ("c", 1)), "float32")
    kernel = _sums(2, (_pixels(True), Loop("c", Const(24))), Const(0), op("exp", x))
    values = np.random.default_rng(1).uniform(-1, 1, 48 * PIXELS).astype(np.float32)
    check_cases([Case(kernel, {"x": values, "y": np.zeros(2, np.float32)}, {})], precise=True, tolerance=TOLERANCE)


def test_the_variance_of_a_group_of_channels_last_data() -> None:
    """Two passes, the second about the mean of the first, with a mean that is not zero."""
    loops = (Loop("c", Const(16)), _pixels(True))
    x = Load("x", _scaled(("p", 64), ("r", 16), ("c", 1)), "float32")
    mean = op("div", Ref("s", "float32"), Const(16.0 * PIXELS, "float32"))
    delta = op("sub", x, mean)
    stages = (
        Stage(loops, (Reduce("s", "sum", x),)),
        Stage(loops, (Reduce("v", "sum", op("mul", delta, delta)),)),
        Stage((), (Store("y", Var("r"), Ref("v", "float32")),)),
    )
    buffers = (Buffer("x", "float32", "r"), Buffer("y", "float32", "w"))
    kernel = LoopKernel(buffers, (), (Loop("r", Const(4)),), stages)
    values = np.random.default_rng(2).normal(1.0, 1.0, 64 * PIXELS).astype(np.float32)
    check_cases([Case(kernel, {"x": values, "y": np.zeros(4, np.float32)}, {})], precise=True, tolerance=TOLERANCE)
