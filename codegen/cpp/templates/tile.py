"""The register tile that GEMM and convolution share: text of `rows × vectors` accumulators over lists of pointers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ullage.codegen.cpp.templates.tile_codes import codes_function
from ullage.codegen.templates import Codes, PackedPanels
from ullage.target import BF16_DOT, INT8_DOT, Target

ROW_POINTERS = 8
"""Pointers per segment in a tile's list of rows, of which a tile with fewer rows reads the first."""

PAIRS, FOURS = "pairs", "fours"
"""Storage of panels whose words are pairs of bfloat16, or fours of int8: they are moved like floats."""
CODES = "codes"
_HALVED_LANES = 16
WORDS = frozenset({PAIRS, FOURS, CODES})
ELEMENT = {
    "float32": "float", "float16": "ull_u16", "bfloat16": "ull_u16", PAIRS: "float", FOURS: "float", CODES: "ull_u8",
}  # fmt: skip


def storage(panels: PackedPanels) -> str:
    """How tiles read the words of packed panels: their dtype, `PAIRS`, `FOURS` or `CODES`."""
    if panels.codes is not None:
        return CODES
    return {1: panels.dtype, 2: PAIRS, 4: FOURS}[panels.word]


_LOAD = {
    "float32": "ull_load<float, {lanes}>({at})",
    PAIRS: "ull_load<float, {lanes}>({at})",
    FOURS: "ull_load<float, {lanes}>({at})",
    "float16": "ull_from_f16<{lanes}>(ull_load<ull_u16, {lanes}>({at}))",
    "bfloat16": "ull_from_bf16<{lanes}>(ull_load<ull_u16, {lanes}>({at}))",
}


@dataclass(frozen=True, slots=True)
class TileShape:
    """`rows` of activations times `outputs`, whole vectors but perhaps the last, which may be half a vector, out of
    panels [k][width] of words `weight`."""

    rows: int
    outputs: int
    lanes: int
    width: int
    weight: str
    codes: Codes | None = None

    @property
    def name(self) -> str:
        """The C++ name of the function; equal shapes share one function per translation unit."""
        kind = self.weight if self.codes is None else f"codes{self.codes.bits}_by_{self.codes.group}"
        return f"tile_{self.rows}x{self.outputs}_of_{self.width}_{kind}"

    @property
    def vectors(self) -> int:
        """Vectors of outputs, half of one included."""
        return -(-self.outputs // self.lanes)

    def lanes_of(self, vector: int) -> int:
        """Lanes that are computed of a vector of outputs."""
        return min(self.lanes, self.outputs - vector * self.lanes)

    def sums(self, lanes: int) -> str:
        """The C++ type of a vector of sums."""
        return f"ull_{'i32' if self.weight == FOURS else 'f32'}<{lanes}>"

    def whole(self, sums: str, vector: int) -> str:
        """C++ text of a whole vector of sums, zero beyond those that are computed."""
        lanes = self.lanes_of(vector)
        return sums if lanes == self.lanes else f"ull_join<{self.lanes}>({sums}, {self.sums(lanes)}{{}})"


@dataclass(frozen=True, slots=True)
class TileSet:
    """The tiles that one kernel needs: row counts × output counts (ascending; a call is rounded up)."""

    rows: tuple[int, ...]
    outputs: tuple[int, ...]
    lanes: int
    width: int
    weight: str
    target: Target
    codes: Codes | None = None

    @property
    def features(self) -> frozenset[str]:
        """CPU features that the tiles need beyond those of their target."""
        integers = {INT8_DOT} if self.target.dots_int8 else set[str]()
        needed = {PAIRS: {BF16_DOT}, FOURS: integers, CODES: integers}
        return frozenset(needed.get(self.weight, ()))

    @property
    def in_words(self) -> bool:
        """Whether activations are moved as words of several values."""
        return self.weight in WORDS

    def rounded(self, sums: str) -> str:
        """C++ text of a vector of finished sums as float32."""
        return f"ull_to_f32<{self.lanes}>({sums})" if self.weight == FOURS else sums

    def kept(self, at: str) -> str:
        """C++ text of a vector of finished sums that lies in memory, as float32."""
        loaded = f"ull_load<float, {self.lanes}>({at})"
        return self.rounded(f"ull_bits<ull_i32<{self.lanes}>>({loaded})") if self.weight == FOURS else loaded

    def outputs_for(self, outputs: int) -> int:
        """Outputs of the tile that computes so many."""
        return next(enough for enough in self.outputs if enough >= outputs)

    def shapes(self) -> Iterator[TileShape]:
        """All shapes of the set."""
        for outputs in self.outputs:
            for rows in self.rows:
                yield TileShape(rows, outputs, self.lanes, self.width, self.weight, self.codes)

    def functions(self) -> str:
        """The C++ functions, each guarded so that kernels in one file share them."""
        return "\n".join(tile_function(shape) for shape in self.shapes())

    def call(self, arguments: str, prefix: str = "") -> list[str]:
        """Lines that run the tile for the C++ variables `rows`, `n_begin` and `n_end` on `arguments`."""
        lines: list[str] = []
        for shape in self.shapes():
            tests = [f"rows <= {shape.rows}"] if shape.rows != self.rows[-1] else []
            tests += [f"n_end - n_begin <= {shape.outputs}"] if shape.outputs != self.outputs[-1] else []
            lead = "else " if lines else ""
            condition = f"if ({' && '.join(tests)}) " if tests else ""
            lines.append(f"{lead}{condition}{prefix}{shape.name}({arguments});")
        return lines


def full_rows(target: Target, vectors: int, most: int = ROW_POINTERS, codes: Codes | None = None) -> int:
    """Rows of the full tile: what the registers hold beside one broadcast and the weights, at most `most`.

    Codes have two sums for every output, and masks that decode them.
    """
    sums, taken = (vectors, vectors + 2) if codes is None else (2 * vectors, vectors + 4)
    return max(1, min(most, ROW_POINTERS, (target.registers - taken) // sums))


def output_variants(n: int | None, width: int, weight: str, target: Target) -> tuple[int, ...]:
    """Outputs of the tiles: any whole vectors where n is unknown, else those of full panels and of the last one.

    A last vector that needs at most half of its lanes is half a vector: vectors of 16 lanes may take two cycles.
    """
    lanes = target.lanes
    if n is None:
        return tuple(range(lanes, width + 1, lanes))
    halves = lanes == _HALVED_LANES and weight != CODES and (weight != FOURS or target.dots_int8)
    unit = lanes // 2 if halves else lanes
    last = -(-(n % width) // unit) * unit
    return tuple(sorted({width if n >= width else last, last} - {0}))


def row_variants(full: int, m: int | None) -> tuple[int, ...]:
    """Row counts of the tiles for `m` rows: exact where m is known, else a ladder up to the full tile."""
    if m is None:
        return (*(r for r in (1, 2, 3, 4, 6) if r < full), full)
    return tuple(sorted({min(full, m), m % full} - {0}))


def line_variants(full: int, width: int) -> tuple[int, ...]:
    """Row counts of the tiles for rows of any number of lines of `width` pixels."""
    return tuple(sorted({lines * width % full for lines in range(full)} - {0} | {full}))


def tile_function(shape: TileShape) -> str:
    """C++ text of one tile that leaves its sums in memory.

    `c[r][v] (+)= Σ_s Σ_k a[s][r][k] · b[s][k][v]` for `segments` segments of `length` steps; each sum starts at zero
    and is added to `c` last if `more`, so its bits depend on the segments alone and not on the number of rows.
    """
    if shape.codes is not None:
        return codes_function(shape, shape.codes)
    guard = shape.name.upper()
    body = tile_body(shape, shape.name, "float *c, bool more", [*_add(shape), *_store(shape)])
    return "\n".join([f"#ifndef {guard}", f"#define {guard}", *body, "#endif"])


def tile_body(shape: TileShape, name: str, parameters: str, finish: Iterable[str]) -> Iterator[str]:
    """Lines of a C++ function that forms the sums `c{row}_{vector}` of a tile and then runs the lines `finish`."""
    element = ELEMENT[shape.weight]
    rows = range(shape.rows)
    yield (
        f"static __attribute__((noinline)) void {name}(const float *const *a, const {element} *const *b, "
        f"ull_i64 segments, ull_i64 length, {parameters}) {{"
    )
    for r, v in _cells(shape):
        yield f"  {shape.sums(shape.lanes_of(v))} c{r}_{v} = {{}};"
    yield f"  for (ull_i64 s = 0; s < segments; ++s, a += {ROW_POINTERS}) {{"
    yield f"    const {element} *p = b[s];"
    yield f"    const float {', '.join(f'*a{r} = a[{r}]' for r in rows)};"
    yield from (f"    {line}" for line in _steps(shape))
    yield "  }"
    for line in finish:
        yield f"  {line}"
    yield "}"


def _steps(shape: TileShape) -> Iterator[str]:
    """Lines that add the products of one segment."""
    lanes, vectors = shape.lanes, range(shape.vectors)
    yield f"for (ull_i64 k = 0; k < length; ++k, p += {shape.width}) {{"
    for v in vectors:
        own = shape.lanes_of(v)
        yield f"  const ull_f32<{own}> b{v} = {load_vector(shape.weight, own, f'p + {v * lanes}')};"
    for r in range(shape.rows):
        sums = " ".join(_multiply_add(shape, r, v) for v in vectors)
        yield f"  {{ const ull_f32<{lanes}> x = ull_splat<{lanes}>(a{r}[k]); {sums} }}"
    yield "}"


def _multiply_add(shape: TileShape, row: int, vector: int) -> str:
    c, b, lanes = f"c{row}_{vector}", f"b{vector}", shape.lanes_of(vector)
    x = "x" if lanes == shape.lanes else f"ull_low_half<{shape.lanes}>(x)"
    if shape.weight in WORDS:
        return f"ull_dot_{shape.weight}({c}, {x}, {b});"
    return f"{c} = ull_fma<{lanes}>({x}, {b}, {c});"


def load_vector(dtype: str, lanes: int, at: str) -> str:
    """C++ text of `lanes` elements of storage type `dtype` at pointer text `at`, as float32."""
    return _LOAD[dtype].format(lanes=lanes, at=at)


def _cells(shape: TileShape) -> list[tuple[int, int]]:
    return [(r, v) for r in range(shape.rows) for v in range(shape.vectors)]


def _place(shape: TileShape, row: int, vector: int) -> str:
    return f"c + {row * shape.width + vector * shape.lanes}"


def _add(shape: TileShape) -> Iterator[str]:
    yield "if (more) {"
    for r, v in _cells(shape):
        lanes = shape.lanes_of(v)
        kept = f"ull_load<float, {lanes}>({_place(shape, r, v)})"
        yield f"  c{r}_{v} += {_cast(shape.sums(lanes), shape, kept)};"
    yield "}"


def _store(shape: TileShape) -> Iterator[str]:
    floats = f"ull_f32<{shape.lanes}>"
    for r, v in _cells(shape):
        sums = _cast(floats, shape, shape.whole(f"c{r}_{v}", v))
        yield f"ull_store<float, {shape.lanes}>({_place(shape, r, v)}, {sums});"


def _cast(to: str, shape: TileShape, text: str) -> str:
    """Sums of integers lie in memory that is counted in floats."""
    return f"ull_bits<{to}>({text})" if shape.weight == FOURS else text
