"""`python -m tests.opinfo.table > docs/operators.md`: how each core operator is lowered in each dtype."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

import torch

import ullage.codegen.lower
from tests.opinfo.catalogue import DTYPES, admitted, core_operators
from ullage.codegen.lower.table import TABLE
from ullage.codegen.lower.templates import TEMPLATES
from ullage.frontends import canonical
from ullage.frontends.complex_pairs import RULES
from ullage.frontends.decompositions import KEPT, OWN, decomposition_table
from ullage.frontends.fourier import FOURIER
from ullage.passes.split.plain_attention import KERNEL_DTYPES

for _module in iter_modules(ullage.codegen.lower.__path__, "ullage.codegen.lower."):
    import_module(_module.name)

REASONS: Mapping[str, str] = {
    "_local_scalar_dense": "a number read out of a tensor would steer Python; refused with its place",
    "rand": "random numbers are inputs of a model; draw them outside",
    "randn": "as `rand`",
    "randperm": "as `rand`",
    "resize_": "it changes an argument, which models may not; `reshape` and `narrow` say the same with values",
    "nonzero": "the size of the result depends on values, and a plan needs sizes; refused with its place",
}
"""Core operators that are not lowered, and why."""
PARTLY: Mapping[str, str] = {
    "native_dropout": "in training it is refused as `rand` is; in evaluation it is nothing",
    "_native_batch_norm_legit": "with running statistics it changes them, which models may not",
    "as_strided": "of a tensor that is all of its memory; views of a part of another are refused",
}
"""Core operators that are lowered in some forms only, and which."""
_WHILE_CAPTURING = frozenset({"sym_size", "sym_numel", "sym_stride", "sym_storage_offset"})
_HEAD = """# Core operators

Which operators that PyTorch {version} tags as core (`torch.Tag.core`) are lowered, in which dtypes, and how. Made by
`python -m tests.opinfo.table > docs/operators.md`; a test holds this page against the tables of the code. What the
marks say is tried by `python -m tests.opinfo`: samples of PyTorch's own operator tests, in each dtype that PyTorch
computes an operator in on CPUs, compiled and judged against float64.

| mark | the operator becomes |
| --- | --- |
| T | a kernel template (matrix product, convolution, attention) |
| L | a loop kernel of its own, which fuses with what is around it |
| V | no kernel: another way to look at memory |
| S | a sum of products in one loop kernel, where no template takes the dtype |
| C | another spelling, or operators that mean the same, as the graph is captured |
| D | other operators, by a decomposition of ours or of PyTorch |
| · | PyTorch does not compute it in this dtype |
| – | not lowered (reason below, if there is one) |

"""


def how(operator: torch._ops.OpOverload, dtype: torch.dtype) -> str:
    """The mark of an operator in one dtype."""
    if operator._schema.name.split("::")[1] in _WHILE_CAPTURING:
        return "C"
    if operator in OWN and operator not in KEPT and not _stays_whole(operator):
        return "D"
    if operator in TEMPLATES:
        return "T" if dtype in KERNEL_DTYPES else "S"
    if operator in _CAPTURED:
        return "C"
    if TABLE.kinds.get(operator) is not None:
        return "V" if TABLE.kinds[operator] == "view" else "L"
    return "D" if operator in _DECOMPOSED else "–"


_CAPTURED = {*canonical._DROPPED, *canonical._ASSERTIONS, *canonical._RENAMED, *canonical._FORMS, *RULES, *FOURIER}
_DECOMPOSED = {*decomposition_table(), *torch._decomp.decomposition_table}


def _stays_whole(operator: torch._ops.OpOverload) -> bool:
    """Whether a decomposition of ours declines most calls, for which there is a lowering."""
    return operator in TABLE.kinds


def rows() -> list[str]:
    """One line per overload."""
    lines = []
    for name, overloads in core_operators().items():
        dtypes = admitted(name) or DTYPES
        for operator in overloads:
            marks = [how(operator, dtype) if dtype in dtypes else "·" for dtype in DTYPES]
            if name in REASONS:
                marks = ["–" if mark != "·" else mark for mark in marks]
            lines.append(f"| `{str(operator)[5:]}` | {' | '.join(marks)} |")
    return lines


def page() -> str:
    """The whole page."""
    version = ".".join(torch.__version__.split(".")[:2])
    head = f"| operator | {' | '.join(str(dtype)[6:] for dtype in DTYPES)} |"
    rule = f"| --- |{' --- |' * len(DTYPES)}"
    reasons = [f"- `{name}`: {reason}." for name, reason in (*REASONS.items(), *PARTLY.items())]
    return "\n".join([_HEAD.format(version=version) + head, rule, *rows(), "", "## Why not", "", *reasons, ""])


if __name__ == "__main__":
    sys.stdout.write(page())
