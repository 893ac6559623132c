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

/* What one run of outputs reads: `x` at the first kernel row inside the image, at input column `column` (which may lie
   outside), `w` at that kernel row, and the strides of a step down the kernel. */
template <class C> struct DwRun {
    const typename C::X::memory *x;
    const typename C::W::memory *w;
    ull_i64 row_stride, column_stride, rows, column, columns, channels;
};

/* COLS outputs: sums over kernel rows, then kernel columns, both ascending. With EDGE, columns outside the image are
   left out; with TAIL, only `channels` lanes are read. */
template <class C, int COLS, bool EDGE, bool TAIL>
static __attribute__((noinline)) void dw_run(const DwRun<C> &run, ull_vec32 *sums) {
    constexpr int N = ULL_LANES, SPAN = (COLS - 1) * C::STRIDE + (C::KW - 1) * C::DILATION + 1;
    ull_vec32 sum[COLS] = {};
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
    DW_UNROLL
    for (int j = 0; j < COLS; ++j) sums[j] = sum[j];
}

/* COLS outputs, anywhere: the quickest form that reads nothing outside the image. */
template <class C, int COLS> ULL_FN void dw_columns(const DwRun<C> &run, ull_vec32 *sums) {
    constexpr int SPAN = (COLS - 1) * C::STRIDE + (C::KW - 1) * C::DILATION + 1;
    const bool inside = run.column >= 0 && run.column + SPAN <= run.columns;
    if (run.channels < ULL_LANES) dw_run<C, COLS, true, true>(run, sums);
    else if (inside) dw_run<C, COLS, false, false>(run, sums);
    else dw_run<C, COLS, true, false>(run, sums);
}
#endif
