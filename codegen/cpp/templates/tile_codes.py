"""The register tile of weights that are codes in groups: integer sums within a group, scaled and added in float32.

Activations are 16-bit fixed point in two planes of bytes, the high ones and, as far behind as they are long, the low
ones: x = 256 · high + low − 32768. Both are multiplied by decoded weights with the instruction for int8 products. What
the offset of 32768 adds is known beforehand and lies at the head of each tile: sums start with its negative.

Codes are two's complement, and a decoded byte has one in its highest bits: a shift and a mask, nothing to subtract. All
sums are those of the weights times 2^(8 − bits) until the end, which changes no bit of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ullage.codegen.templates import Codes

_WORD_VALUES = 4
_LINE_BYTES = 64
_AHEAD_BYTES = 4096
"""How far ahead codes are fetched: the processor itself stops at pages, and decoding leaves it few loads in flight."""


class Shape(Protocol):
    """What is asked of a tile's shape."""

    @property
    def name(self) -> str:
        """The C++ name of the function."""
        ...

    @property
    def rows(self) -> int:
        """Rows of activations."""
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


def codes_function(shape: Shape, codes: Codes) -> str:
    """C++ text of one tile: `c[r][v]` gets the sums over `length` words of k (all of it, in whole groups).

    `b` points to the codes, the scales and what sums start with.
    """
    guard = shape.name.upper()
    return "\n".join([f"#ifndef {guard}", f"#define {guard}", *_body(shape, codes), "#endif"])


def _body(shape: Shape, codes: Codes) -> Iterator[str]:
    lanes, width = shape.lanes, shape.width
    cells = [(r, v) for r in range(shape.rows) for v in range(shape.vectors)]
    words, step = codes.group // _WORD_VALUES, len(_decoded(shape, codes.bits, 0))
    scale = 2.0 ** (8 - codes.bits)
    yield (
        f"static __attribute__((noinline)) void {shape.name}(const float *const *a, const ull_u8 *const *b, "
        "ull_i64, ull_i64 length, float *c, bool) {"
    )
    yield "  const ull_u8 *p = b[0], *scales = b[1], *start = b[2];"
    for r in range(shape.rows):
        yield f"  const float *const high{r} = a[{r}], *const low{r} = high{r} + length;"
    for r, v in cells:
        first = f"ull_load<float, {lanes}>((const float *)start + {v * lanes})"
        yield f"  ull_f32<{lanes}> c{r}_{v} = {first} * {scale}f;"
    yield f"  for (ull_i64 g = 0; g < length; g += {words}, scales += {2 * width}) {{"
    for r, v in cells:
        yield f"    ull_ints h{r}_{v} = {{}}, l{r}_{v} = {{}};"
    yield f"    for (ull_i64 k = g; k < g + {words}; k += {step}, p += {codes.bits * step * width // 2}) {{"
    yield from (f"      {line}" for line in _fetches(codes.bits, codes.bits * step * width // 2))
    for word in range(step):
        yield from (f"      {line}" for line in _word(shape, codes.bits, word))
    yield "    }"
    for v in range(shape.vectors):
        load = f"ull_load<ull_u16, {lanes}>((const ull_u16 *)scales + {v * lanes})"
        yield f"    const ull_f32<{lanes}> s{v} = ull_from_f16<{lanes}>({load});"
    for r, v in cells:
        group = f"ull_to_f32<{lanes}>((h{r}_{v} << 8) + l{r}_{v})"
        yield f"    c{r}_{v} = ull_fma<{lanes}>({group}, s{v}, c{r}_{v});"
    yield "  }"
    for r, v in cells:
        at = f"c + {r * width + v * lanes}"
        yield f"  ull_store<float, {lanes}>({at}, c{r}_{v} * {1 / scale}f);"
    yield "}"


def _fetches(bits: int, step_bytes: int) -> Iterator[str]:
    """Lines that fetch what a later step reads; whole bytes are read without a pause and need none."""
    places = range(0, step_bytes, _LINE_BYTES) if bits < 8 else ()
    yield from (f"__builtin_prefetch(p + {_AHEAD_BYTES + place});" for place in places)


def _word(shape: Shape, bits: int, word: int) -> Iterator[str]:
    """Lines that multiply one word of k."""
    lanes, vectors = shape.lanes, range(shape.vectors)
    yield "{"
    for v in vectors:
        yield f"  const ull_f32<{lanes}> w{v} = ull_bits<ull_f32<{lanes}>>({_decoded(shape, bits, v)[word]});"
    for r in range(shape.rows):
        for plane in ("high", "low"):
            sums = " ".join(f"ull_dot_fours({plane[0]}{r}_{v}, x, w{v});" for v in vectors)
            yield f"  {{ const ull_f32<{lanes}> x = ull_splat<{lanes}>({plane}{r}[k + {word}]); {sums} }}"
    yield "}"


def _decoded(shape: Shape, bits: int, vector: int) -> list[str]:
    """C++ texts of the words of four int8 that follow each other in the least whole number of stored words."""

    def field(number: int, shift: int, wanted: int = 256 - (1 << (8 - bits))) -> str:
        place = 4 * (number * shape.width + vector * shape.lanes)
        return f"ull_field<{shift}, {wanted}>(ull_load<int, {shape.lanes}>((const int *)(p + {place})))"

    if bits != 3:
        return [field(0, shift) for shift in range(0, 8, bits)]
    whole = [field(number, shift) for number, shift in ((0, 2), (0, 5), (1, 2), (1, 5), (2, 0), (2, 3))]
    return whole + [f"{field(number, 0, 0xC0)} | {field(2, 5 - number, 0x20)}" for number in range(2)]
