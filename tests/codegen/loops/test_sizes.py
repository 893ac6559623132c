"""Extents as size programs."""

from __future__ import annotations

import pytest

from ullage.codegen.loops.ir import Apply, Const, Dim, Var
from ullage.codegen.loops.sizes import to_size
from ullage.errors import InputError


def test_every_index_operator_becomes_a_size() -> None:
    a, b = Dim("a"), Const(3)
    wanted = {"add": 13, "sub": 7, "mul": 30, "floordiv": 3, "truncdiv": 3, "mod": 1, "max": 10, "min": 3}
    for name, result in wanted.items():
        assert to_size(Apply(name, (a, b), "int64")).evaluate({"a": 10}) == result
    assert to_size(Apply("neg", (a,), "int64")).evaluate({"a": 10}) == -10


def test_a_loop_variable_is_no_size() -> None:
    with pytest.raises(InputError, match="constants, dimensions"):
        to_size(Apply("add", (Var("i"), Const(1)), "int64"))
