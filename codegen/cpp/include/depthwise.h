/* Depthwise convolution over NHWC: one vector of channels, a run of output columns in registers, kernel row by row. */
#ifndef ULLAGE_DEPTHWISE_H
#define ULLAGE_DEPTHWISE_H
#include "storage.h"

#define DW_UNROLL _Pragma("GCC unroll 256")

/* The compile-time shape: kernel width, stride and dilation along columns, storage of activations and weights. */
template <int KW_, int STRIDE_, int DILATION_, class X_, class W_> struct DwShape {
    enum { KW = KW_, STRIDE = STRIDE_, DILATION = DILATION_ };
    typedef X_ X;
    typedef W_ W;
};

/* The kernel's height, and stride and dilation along rows, where two output rows are computed at once. */
template <int KH_, int STRIDE_, int DILATION_> struct DwRows {
    enum { KH = KH_, STRIDE = STRIDE_, DILATION = DILATION_ };
};

/* What one run of outputs reads: `x` at the first kernel row inside the image, at input column `column` (which may lie
   outside), `w` at that kernel row, and the strides of a step down the kernel. */
template <class C> struct DwRun {
    const typename C::X::memory *x;
    const typename C::W::memory *w;
    ull_i64 row_stride, column_stride, rows, column, columns, channels;
};

/* COLS outputs: sums over kernel rows, then kernel columns, both ascending. With EDGE, columns outside the image are
   left out; with TAIL, only `channels` lanes are read. */
template <class C, int COLS, bool EDGE, bool TAIL> ULL_FN void dw_sums(const DwRun<C> &run, ull_vec32 *sum) {
    constexpr int N = ULL_LANES, SPAN = (COLS - 1) * C::STRIDE + (C::KW - 1) * C::DILATION + 1;
    DW_UNROLL
    for (int j = 0; j < COLS; ++j) sum[j] = ull_vec32{};
    const typename C::X::memory *x = run.x;
    const typename C::W::memory *w = run.w;
    for (ull_i64 row = 0; row < run.rows; ++row, x += run.row_stride, w += C::KW * N) {
        ull_vec32 weight[C::KW];
        DW_UNROLL
        for (int t = 0; t < C::KW; ++t) weight[t] = C::W::load(w + t * N);
        DW_UNROLL
        for (int i = 0; i < SPAN; ++i) {
            if (EDGE && (unsigned long)(run.column + i) >= (unsigned long)run.columns) continue;
            const typename C::X::memory *at = x + i * run.column_stride;
            const ull_vec32 value = TAIL ? C::X::load(at, run.channels) : C::X::load(at);
            DW_UNROLL
            for (int j = 0; j < COLS; ++j) {
                const int t = i - j * C::STRIDE;
                if (t >= 0 && t % C::DILATION == 0 && t / C::DILATION < C::KW)
                    sum[j] = ull_fma<N>(value, weight[t / C::DILATION], sum[j]);
            }
        }
    }
}
template <class C, int COLS, bool EDGE, bool TAIL>
static __attribute__((noinline)) void dw_sums_apart(const DwRun<C> &run, ull_vec32 *sums) {
    ull_vec32 sum[COLS];
    dw_sums<C, COLS, EDGE, TAIL>(run, sum);
    DW_UNROLL
    for (int j = 0; j < COLS; ++j) sums[j] = sum[j];
}

/* Sums of a run handed to `finish(output, sum)`: out of registers if LIGHT, else from memory in a loop. */
template <class C, int COLS, bool EDGE, bool TAIL, bool LIGHT, class F>
ULL_FN void dw_run(const DwRun<C> &run, ull_i64 output, const F &finish) {
    ull_vec32 sum[COLS];
    if constexpr (LIGHT) {
        dw_sums<C, COLS, EDGE, TAIL>(run, sum);
        DW_UNROLL
        for (int j = 0; j < COLS; ++j) finish(output + j, sum[j]);
    } else {
        dw_sums_apart<C, COLS, EDGE, TAIL>(run, sum);
        for (int j = 0; j < COLS; ++j) finish(output + j, sum[j]);
    }
}

/* COLS outputs from number `output` on, anywhere: the quickest form that reads nothing outside the image. */
template <class C, int COLS, bool TAIL, bool LIGHT, class F>
ULL_FN void dw_columns(const DwRun<C> &run, ull_i64 output, const F &finish) {
    constexpr int SPAN = (COLS - 1) * C::STRIDE + (C::KW - 1) * C::DILATION + 1;
    if (TAIL) return dw_run<C, COLS, true, TAIL, false>(run, output, finish);
    if (run.column >= 0 && run.column + SPAN <= run.columns) dw_run<C, COLS, false, TAIL, LIGHT>(run, output, finish);
    else dw_run<C, COLS, true, TAIL, LIGHT>(run, output, finish);
}

/* ---- two output rows at once ------------------------------------------------------------------------------- */
/* Sums of 2 × COLS outputs whose kernel rows are all inside the image: every input is loaded once, `run.x` is at the
   first kernel row, `run.row_stride` one input row; the order of each sum is that of `dw_sums`. */
template <class C, class R, int COLS, bool EDGE, bool TAIL>
ULL_FN void dw_pair_sums(const DwRun<C> &run, ull_vec32 *sum) {
    constexpr int N = ULL_LANES, SPAN = (COLS - 1) * C::STRIDE + (C::KW - 1) * C::DILATION + 1;
    ull_vec32 weight[R::KH * C::KW];
    DW_UNROLL
    for (int t = 0; t < R::KH * C::KW; ++t) weight[t] = C::W::load(run.w + t * N);
    DW_UNROLL
    for (int j = 0; j < 2 * COLS; ++j) sum[j] = ull_vec32{};
    DW_UNROLL
    for (int r = 0; r < R::STRIDE + (R::KH - 1) * R::DILATION + 1; ++r)
        DW_UNROLL
        for (int i = 0; i < SPAN; ++i) {
            if (EDGE && (unsigned long)(run.column + i) >= (unsigned long)run.columns) continue;
            const typename C::X::memory *at = run.x + r * run.row_stride + i * run.column_stride;
            const ull_vec32 value = TAIL ? C::X::load(at, run.channels) : C::X::load(at);
            DW_UNROLL
            for (int j = 0; j < 2 * COLS; ++j) {
                const int t = i - j % COLS * C::STRIDE, k = r - j / COLS * R::STRIDE;
                if (t < 0 || t % C::DILATION || t / C::DILATION >= C::KW) continue;
                if (k < 0 || k % R::DILATION || k / R::DILATION >= R::KH) continue;
                sum[j] = ull_fma<N>(value, weight[k / R::DILATION * C::KW + t / C::DILATION], sum[j]);
            }
        }
}
template <class C, class R, int COLS, bool EDGE, bool TAIL>
static __attribute__((noinline)) void dw_pair_sums_apart(const DwRun<C> &run, ull_vec32 *sums) {
    ull_vec32 sum[2 * COLS];
    dw_pair_sums<C, R, COLS, EDGE, TAIL>(run, sum);
    DW_UNROLL
    for (int j = 0; j < 2 * COLS; ++j) sums[j] = sum[j];
}
template <class C, class R, int COLS, bool EDGE, bool TAIL, bool LIGHT, class F>
ULL_FN void dw_pair_run(const DwRun<C> &run, ull_i64 output, ull_i64 width, const F &finish) {
    ull_vec32 sum[2 * COLS];
    if constexpr (LIGHT) {
        dw_pair_sums<C, R, COLS, EDGE, TAIL>(run, sum);
        DW_UNROLL
        for (int j = 0; j < 2 * COLS; ++j) finish(output + j / COLS * width + j % COLS, sum[j]);
    } else {
        dw_pair_sums_apart<C, R, COLS, EDGE, TAIL>(run, sum);
        for (int j = 0; j < 2 * COLS; ++j) finish(output + j / COLS * width + j % COLS, sum[j]);
    }
}

/* COLS outputs of two rows that are `width` outputs apart. */
template <class C, class R, int COLS, bool TAIL, bool LIGHT, class F>
ULL_FN void dw_pair(const DwRun<C> &run, ull_i64 output, ull_i64 width, const F &finish) {
    constexpr int SPAN = (COLS - 1) * C::STRIDE + (C::KW - 1) * C::DILATION + 1;
    const bool inside = run.column >= 0 && run.column + SPAN <= run.columns;
    if (!TAIL && inside) dw_pair_run<C, R, COLS, false, TAIL, LIGHT>(run, output, width, finish);
    else dw_pair_run<C, R, COLS, true, TAIL, LIGHT>(run, output, width, finish);
}
#endif
