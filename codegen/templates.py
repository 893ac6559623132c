"""Template kernels: what a hand-designed loop nest needs to know, independent of the target.

Every template computes `acc` (float32) at output coordinates and hands it to its `epilogue`: stores whose index and
value expressions use the coordinate variables named below and `Ref("acc", "float32")`. Sums of products of integers are
formed exactly, in int32, and rounded once. Along `n` an epilogue's loads
and stores have stride 1 or 0 in the fast path; any other stride is right but slow. All operand expressions may use
`Dim`s. Activations are row-major with the innermost dimension contiguous. The order of accumulation over `k` is fixed.

`rows` is an epilogue that needs whole rows, such as a layer norm: a loop kernel in normal form with as many outer
points as there are coordinates `m`, in the same order. Point m runs once all outputs of row m are stored, and of those
it reads no other row's. `windows` is one that needs windows of a convolution's pixels, such as a max-pool. Buffers of
equal names are the same memory; `buffers` and `dims` hold those of `rows` and `windows` too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ullage.codegen.loops.ir import DTYPE_BYTES, Buffer, Expr, LoopKernel, Store
from ullage.codegen.tiling import TEMPLATES_OWN, AnyTiling, Tiling


@dataclass(frozen=True, slots=True)
class Gemm:
    """`acc[b, m, n] = Σ_k a[a_row(b, m) + k] · w[n, k]`; coordinates `b`, `m`, `n`.

    With `weight` the right operand is a packed constant (`PackedPanels`, tiled over n, buffer named `w`, `batch` is 1);
    otherwise it is the buffer `b_buffer` at `b_base(b) + k·b_stride_k + n·b_stride_n`, one of both strides being 1.
    `bias`, scales and residuals are part of the epilogue.
    """

    buffers: tuple[Buffer, ...]
    dims: tuple[str, ...]
    batch: Expr
    m: Expr
    n: Expr
    k: Expr
    a_buffer: str
    a_row: Expr
    epilogue: tuple[Store, ...]
    weight: PackedPanels | None = None
    b_buffer: str | None = None
    b_base: Expr | None = None
    b_stride_k: Expr | None = None
    b_stride_n: Expr | None = None
    rows: LoopKernel | None = None
    tiling: Tiling = TEMPLATES_OWN

    @property
    def later(self) -> tuple[LoopKernel, ...]:
        """Loop kernels that run on what has been stored."""
        return () if self.rows is None else (self.rows,)

    def alone(self) -> Gemm:
        """The product without them."""
        return replace(self, rows=None)


@dataclass(frozen=True, slots=True)
class Conv2d:
    """Convolution over NHWC activations; coordinates `m` = (image · out_h + row) · out_w + column, and `n` = channel.

    `x_base(b)`, `x_stride_h`, `x_stride_w` are element strides, channels are contiguous. `groups` divides both channel
    counts. Weights are `PackedPanels` per group (buffer `w`), or `PackedDepthwise` when in_c == out_c == groups.
    `padding` counts the zeros before the first row and column; how many follow the last is what `out_h` and `out_w`
    need. `transposed`: the gradient-like convolution (stride is the up-sampling factor). `border` is what an input of
    uint8 has outside the image instead of zeros: the value that stands for zero, which a depthwise convolution with
    float weights subtracts from all values.
    """

    buffers: tuple[Buffer, ...]
    dims: tuple[str, ...]
    batch: Expr
    in_h: Expr
    in_w: Expr
    in_c: int
    out_h: Expr
    out_w: Expr
    out_c: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    transposed: bool
    x_buffer: str
    x_stride_b: Expr
    x_stride_h: Expr
    x_stride_w: Expr
    weight: PackedPanels | PackedDepthwise
    epilogue: tuple[Store, ...]
    rows: LoopKernel | None = None
    windows: Windows | None = None
    border: int = 0
    tiling: AnyTiling = TEMPLATES_OWN

    @property
    def later(self) -> tuple[LoopKernel, ...]:
        """Loop kernels that run on what has been stored."""
        windows = () if self.windows is None else (self.windows.kernel,)
        return windows if self.rows is None else (self.rows, *windows)

    def alone(self) -> Conv2d:
        """The convolution without them."""
        return replace(self, rows=None, windows=None)


@dataclass(frozen=True, slots=True)
class Windows:
    """An epilogue over windows of a convolution's output: a loop kernel in normal form.

    Its last outer loop is the channel, of which a point reads its own alone; the others count pooled pixels, line by
    line and image by image. Pooled line p of the `lines` of an image reads of that image's lines of the convolution
    those from p · stride − padding on, `reach` of them, where they lie in the image. What the convolution stores for it
    alone is a local buffer, of which the lines exist for as long as windows need them.
    """

    kernel: LoopKernel
    lines: int
    stride: int
    padding: int
    reach: int

    @property
    def overlap(self) -> int:
        """Lines that a window shares with the next one."""
        return max(0, self.reach - self.stride)


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(scale · q·kᵀ + mask) · v per batch and head, online over fixed key blocks; no score matrix in memory.

    Strides are in elements, head and value dimensions are contiguous; `causal` masks key > query (top-left aligned as
    in torch). A float mask is added, a bool mask keeps where true; mask strides may be 0. Rows with no key give 0.
    """

    buffers: tuple[Buffer, ...]
    dims: tuple[str, ...]
    batch: Expr
    heads: Expr
    kv_heads: Expr
    queries: Expr
    keys: Expr
    head_dim: int
    value_dim: int
    scale: float
    causal: bool
    q: Strided
    k: Strided
    v: Strided
    out: Strided
    mask: Strided | None
    mask_kind: Literal["none", "add", "keep"]


@dataclass(frozen=True, slots=True)
class Strided:
    """A 4-d operand `buffer[offset + b·strides[0] + h·strides[1] + s·strides[2] + d·strides[3]]`."""

    buffer: str
    dtype: str
    strides: tuple[Expr, Expr, Expr, Expr]
    offset: Expr


@dataclass(frozen=True, slots=True)
class Codes:
    """Weights as integers of `bits` (2, 3, 4 or 8), with one float16 scale for `group` values of k (32 to 256).

    Code c stands for (c − 2^(bits − 1)) · scale. Activations are 16-bit fixed point in two planes of uint8: a row has
    the high bytes of all k, then the low bytes, and stands for 256 · high + low − `OFFSET`.
    """

    bits: int
    group: int

    OFFSET: ClassVar[int] = 1 << 15

    @property
    def zero(self) -> int:
        """The code that stands for 0."""
        return 1 << (self.bits - 1)

    def code_bytes(self, outputs: int) -> int:
        """Bytes of the codes of one group of k for so many outputs."""
        return outputs * self.bits * self.group // 8

    def start_bytes(self, outputs: int) -> int:
        """Bytes of what the sums of so many outputs start with."""
        return -(-4 * outputs // 64) * 64

    def head_bytes(self, outputs: int, k: int) -> int:
        """Bytes before the codes: what sums start with, and scales; padded so that codes are aligned."""
        return self.start_bytes(outputs) + -(-2 * outputs * (k // self.group) // 64) * 64


@dataclass(frozen=True, slots=True)
class PackedPanels:
    """A GEMM weight [groups · n, k] packed for streaming: tiles of `nr` outputs, each tile [k][nr] contiguous.

    Tile `t` of group `g` is number `g · ceil(n / nr) + t`; missing outputs are zero. For convolutions k runs over
    (kernel_h, kernel_w, in_c per group). A tile is padded to a multiple of 64 bytes. With `word` > 1, a divisor of the
    inner run of k, a tile is [k / word][nr][word], and words of activations are multiplied by words of weights at once:
    pairs of bfloat16 are summed in float32, fours of int8 times uint8 in int32.

    With `codes` (and words of 4) a tile is [nr] float32 that sums start with (−OFFSET · Σ weights), [k / group][nr]
    scales, and [k / group][bits · group / 32][nr] 32-bit words, each of these at a multiple of 64 bytes. Codes of four
    neighbouring k, less 2^(bits − 1) and in two's complement, make the bytes of a word: as many words as fit in one,
    the first in the highest bits. Eight words of 3 bits make three. Two lie in each, in the lowest six bits or, in the
    third, in the highest; the highest two bits of the first and of the second are those of the seventh and of the
    eighth, whose lowest are the last and the last but one of the third.
    """

    n: int
    k: int
    nr: int
    groups: int
    dtype: str
    word: int = 1
    codes: Codes | None = None

    @property
    def tiles_per_group(self) -> int:
        """Tiles of one group."""
        return -(-self.n // self.nr)

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return self.groups * self.tiles_per_group

    @property
    def tile_bytes(self) -> int:
        """Bytes of one tile."""
        if self.codes is not None:
            codes = self.k // self.codes.group * self.codes.code_bytes(self.nr)
            return self.codes.head_bytes(self.nr, self.k) + -(-codes // 64) * 64
        return -(-self.k * self.nr * DTYPE_BYTES[self.dtype] // 64) * 64


@dataclass(frozen=True, slots=True)
class PackedDepthwise:
    """A depthwise weight [channels, taps] packed as one tile [ceil(channels / lanes)][taps][lanes]."""

    channels: int
    taps: int
    lanes: int
    dtype: str

    @property
    def tiles(self) -> int:
        """Always one."""
        return 1

    @property
    def tile_bytes(self) -> int:
        """Bytes of the tile."""
        return -(-self.channels // self.lanes) * self.lanes * self.taps * (4 if self.dtype == "float32" else 2)
