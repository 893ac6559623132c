"""Sums of a register tile whose weights are codes in groups: decoded in registers, one vector of outputs at a time.

A code becomes a float by a table in a register (or by arithmetic), times its group's scale; both are exact, so the sums
are those of the weights that the codes stand for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ullage.codegen.templates import Codes

_WORD_BITS = 32


class Shape(Protocol):
    """What is asked of a tile's shape."""

    @property
    def rows(self) -> int:
        """Rows of activations, at `a0`, `a1`, … in C++."""
        ...

    @property
    def vectors(self) -> int:
        """Vectors of outputs."""
        ...

    @property
    def lanes(self) -> int:
        """float32 lanes of a vector."""
        ...

    @property
    def width(self) -> int:
        """Outputs of a panel."""
        ...


def sums_of_codes(shape: Shape, codes: Codes) -> Iterator[str]:
    """Lines that add the products of `length` steps, which are whole groups, to the sums `c{row}_{vector}`.

    `p` points to the codes of the first one, the second of the pointers `b` to its scales.
    """
    lanes, rows, vectors = shape.lanes, range(shape.rows), range(shape.vectors)
    steps, words = period(codes.bits)
    yield "const ull_u8 *scales = b[1];"
    yield f"for (ull_i64 k = 0; k < length; k += {codes.group}) {{"
    for v in vectors:
        scales = f"ull_load<ull_u16, {lanes}>((const ull_u16 *)scales + {v * lanes})"
        yield f"  const ull_f32<{lanes}> s{v} = ull_from_f16<{lanes}>({scales});"
    yield f"  scales += {2 * shape.width};"
    yield f"  for (ull_i64 j = k; j < k + {codes.group}; j += {steps}, p += {4 * words * shape.width}) {{"
    for step in range(steps):
        yield "    {"
        for v in vectors:
            yield f"      const ull_f32<{lanes}> w{v} = {_decoded(shape, codes.bits, step, v)} * s{v};"
        for r in rows:
            sums = " ".join(f"c{r}_{v} = ull_fma<{lanes}>(x, w{v}, c{r}_{v});" for v in vectors)
            yield f"      {{ const ull_f32<{lanes}> x = ull_splat<{lanes}>(a{r}[j + {step}]); {sums} }}"
        yield "    }"
    yield "  }"
    yield "}"


def period(bits: int) -> tuple[int, int]:
    """The fewest codes that fill whole words, and how many words that is."""
    words = next(w for w in range(1, bits + 1) if w * _WORD_BITS % bits == 0)
    return words * _WORD_BITS // bits, words


def _decoded(shape: Shape, bits: int, step: int, vector: int) -> str:
    """C++ text of a vector of codes, less the one that stands for 0, as float32."""
    word, offset = divmod(step * bits, _WORD_BITS)

    def at(number: int) -> str:
        place = number * shape.width + vector * shape.lanes
        return f"ull_load<int, {shape.lanes}>((const int *)p + {place})"

    if offset + bits <= _WORD_BITS:
        return f"ull_decode<{bits}, {offset}>({at(word)})"
    return f"ull_decode_across<{bits}, {offset}>({at(word)}, {at(word + 1)})"
