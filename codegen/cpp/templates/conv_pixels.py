"""Where the output pixels of a block of rows read the input: line, column and offset of each, tile by tile."""

from __future__ import annotations

from dataclasses import dataclass

from ullage.codegen.cpp.templates.conv_taps import Taps
from ullage.codegen.cpp.templates.tile_kernel import indent
from ullage.codegen.templates import Conv2d

_NEXT_LINE = [
    "if (column == GRID_W) {",
    "  column = 0;",
    "  if (++y == GRID_H) y = 0, ++image;",
    "}",
]


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels of at most `most_rows` rows in tiles of `tile_rows`, for the `channels` of a group."""

    spec: Conv2d
    taps: Taps
    tile_rows: int
    most_rows: int
    channels: int
    offsets: bool
    """Whether offsets are all that is needed of a tile whose taps are all inside the image."""

    def lines(self) -> list[str]:
        """Lines that fill `row_h`, `row_w`, `row_at` (and `row_m`, the output, of a transposed convolution), and
        `within`: for each tile whether all taps of all its rows are inside. Rows beyond the block lie off the image."""
        full, size = self.tile_rows, self.most_rows
        return [
            f"int row_h[{size}], row_w[{size}];",
            f"ull_i64 row_at[{size}]{f', row_m[{size}]' if self.spec.transposed else ''};",
            f"bool within[{size // full}];",
            "ull_i64 image = row_begin / (GRID_H * GRID_W), y = row_begin / GRID_W % GRID_H;",
            "ull_i64 column = row_begin % GRID_W;",
            f"for (ull_i64 first_row = 0; first_row < block_rows; first_row += {full}) {{",
            f"  bool &all_inside = within[first_row / {full}];",
            *(indent(self._neighbours()) if self.offsets else []),
            f"  for (ull_i64 i = first_row; i < first_row + {full}; ++i) {{",
            *indent(self._pixel(), 4),
            "  }",
            "}",
        ]

    def _neighbours(self) -> list[str]:
        """Rows of a tile that are neighbours in a line of the output, with all taps inside the image."""
        full, step = self.tile_rows, self.spec.stride[1]
        return [
            *self._position(),
            f"all_inside = first_row + {full} <= block_rows && column + {full} <= GRID_W && "
            f"{self._all_taps_inside((full - 1) * step)};",
            "if (all_inside) {",
            f"  for (ull_i64 i = 0; i < {full}; ++i) row_at[first_row + i] = at + i * ({step} * STRIDE_W);",
            f"  column += {full};",
            *indent(_NEXT_LINE),
            "  continue;",
            "}",
        ]

    def _position(self) -> list[str]:
        """Where the first tap of an output pixel lies."""
        spec = self.spec
        (down_h, down_w), (pad_h, pad_w) = ((1, 1), (0, 0)) if spec.transposed else (spec.stride, spec.padding)
        return [
            f"const ull_i64 h = y * {down_h} - {pad_h}, w = column * {down_w} - {pad_w};",
            f"const ull_i64 at = image * STRIDE_B + h * STRIDE_H + w * STRIDE_W + group * {self.channels};",
        ]

    def _pixel(self) -> list[str]:
        """One row of a tile."""
        transposed = self.spec.transposed
        up_h, up_w = self.spec.stride if transposed else (1, 1)
        return [
            *self._position(),
            f"const ull_i64 out_y = y * {up_h} + phase[2], out_x = column * {up_w} + phase[3];",
            "const bool inside = i < block_rows && out_y < OUT_H && out_x < OUT_W;",
            f"all_inside = inside && {self._all_taps_inside(0)} && (i == first_row || all_inside);",
            "row_h[i] = inside ? (int)h : -(1 << 30);",
            "row_w[i] = (int)w;",
            "row_at[i] = at;",
            *(["row_m[i] = inside ? (image * OUT_H + out_y) * OUT_W + out_x : -1;"] if transposed else []),
            "++column;",
            *_NEXT_LINE,
        ]

    def _all_taps_inside(self, more: int) -> str:
        """C++ condition that pixel (h, w), one `more` columns to the right, and all their taps lie in the image."""
        segments = [segment for phase in self.taps.phases for segment in phase.segments]
        top, bottom = min(s.down for s in segments), max(s.down for s in segments)
        left, right = min(s.right for s in segments), max(s.right for s in segments) + self.taps.span - 1 + more
        return f"h + {top} >= 0 && h + {bottom} < IN_H && w + {left} >= 0 && w + {right} < IN_W"
