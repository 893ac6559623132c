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
    """`rows` of activations times `vectors` vectors of outputs, out of panels [k][width] of words `weight`."""

    rows: int
    vectors: int
    lanes: int
    width: int
    weight: str
    codes: Codes | None = None

    @property
    def name(self) -> str:
        """The C++ name of the function; equal shapes share one function per translation unit."""
        kind = self.weight if self.codes is None else f"codes{self.codes.bits}_by_{self.codes.group}"
        return f"tile_{self.rows}x{self.vectors}_of_{self.width}_{kind}"

    @property
    def sums(self) -> str:
        """The C++ type of a vector of sums."""
        return f"ull_{'i32' if self.weight == FOURS else 'f32'}<{self.lanes}>"


@dataclass(frozen=True, slots=True)
class TileSet:
    """The tiles that one kernel needs: row counts (ascending; a call is rounded up to the next) × vector counts."""

    rows: tuple[int, ...]
    vectors: tuple[int, ...]
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

    def shapes(self) -> Iterator[TileShape]:
        """All shapes of the set."""
        for vectors in self.vectors:
            for rows in self.rows:
                yield TileShape(rows, vectors, self.lanes, self.width, self.weight, self.codes)

    def functions(self) -> str:
        """The C++ functions, each guarded so that kernels in one file share them."""
        return "\n".join(tile_function(shape) for shape in self.shapes())

    def choose_vectors(self, outputs: str) -> list[str]:
        """Lines that set the C++ variable `vectors` for a number of outputs, where there is a choice."""
        if len(self.vectors) == 1:
            return []
        return [f"const ull_i64 vectors = ({outputs} + {self.lanes - 1}) / {self.lanes};"]

    def call(self, arguments: str, prefix: str = "") -> list[str]:
        """Lines that run the tile for the C++ variables `rows` and `vectors` on `arguments`."""
        lines: list[str] = []
        for shape in self.shapes():
            tests = [f"rows <= {shape.rows}"] if shape.rows != self.rows[-1] else []
            tests += [f"vectors == {shape.vectors}"] if shape.vectors != self.vectors[-1] else []
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


def row_variants(full: int, m: int | None) -> tuple[int, ...]:
    """Row counts of the tiles for `m` rows: exact where m is known, else a ladder up to the full tile."""
    if m is None:
        return (*(r for r in (1, 2, 3, 4, 6) if r < full), full)
    return tuple(sorted({min(full, m), m % full} - {0}))


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
    rows, vectors = range(shape.rows), range(shape.vectors)
    yield (
        f"static __attribute__((noinline)) void {name}(const float *const *a, const {element} *const *b, "
        f"ull_i64 segments, ull_i64 length, {parameters}) {{"
    )
    for r in rows:
        yield f"  {shape.sums} {', '.join(f'c{r}_{v} = {{}}' for v in vectors)};"
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
    lanes, rows, vectors = shape.lanes, range(shape.rows), range(shape.vectors)
    yield f"for (ull_i64 k = 0; k < length; ++k, p += {shape.width}) {{"
    for v in vectors:
        yield f"  const ull_f32<{lanes}> b{v} = {load_vector(shape.weight, lanes, f'p + {v * lanes}')};"
    for r in rows:
        sums = " ".join(_multiply_add(shape, f"c{r}_{v}", f"b{v}") for v in vectors)
        yield f"  {{ const ull_f32<{lanes}> x = ull_splat<{lanes}>(a{r}[k]); {sums} }}"
    yield "}"


def _multiply_add(shape: TileShape, c: str, b: str) -> str:
    if shape.weight in WORDS:
        return f"ull_dot_{shape.weight}({c}, x, {b});"
    return f"{c} = ull_fma<{shape.lanes}>(x, {b}, {c});"


def load_vector(dtype: str, lanes: int, at: str) -> str:
    """C++ text of `lanes` elements of storage type `dtype` at pointer text `at`, as float32."""
    return _LOAD[dtype].format(lanes=lanes, at=at)


def _places(shape: TileShape) -> list[tuple[str, str]]:
    cells = [(r, v) for r in range(shape.rows) for v in range(shape.vectors)]
    return [(f"c{r}_{v}", f"c + {r * shape.width + v * shape.lanes}") for r, v in cells]


def _add(shape: TileShape) -> list[str]:
    sums = [
        f"  {name} += {_cast(shape.sums, shape, f'ull_load<float, {shape.lanes}>({at})')};"
        for name, at in _places(shape)
    ]
    return ["if (more) {", *sums, "}"]


def _store(shape: TileShape) -> list[str]:
    floats = f"ull_f32<{shape.lanes}>"
    return [f"ull_store<float, {shape.lanes}>({at}, {_cast(floats, shape, name)});" for name, at in _places(shape)]


def _cast(to: str, shape: TileShape, text: str) -> str:
    """Sums of integers lie in memory that is counted in floats."""
    return f"ull_bits<{to}>({text})" if shape.weight == FOURS else text
