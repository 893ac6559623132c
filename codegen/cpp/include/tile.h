/* What GEMM and convolution kernels do around the register tile: widening rows to float, packing a right operand.
 * Comes after simd.h. */
#ifndef ULLAGE_TILE_H
#define ULLAGE_TILE_H
#include "pairs.h"

struct ull_bf16 { ull_u16 bits; };
struct ull_f16 { ull_u16 bits; };

ULL_FN ull_f32<ULL_LANES> ull_widen_at(const float *p) { return ull_load<float, ULL_LANES>(p); }
ULL_FN ull_f32<ULL_LANES> ull_widen_at(const ull_bf16 *p) {
    return ull_from_bf16<ULL_LANES>(ull_load<ull_u16, ULL_LANES>(&p->bits));
}
ULL_FN ull_f32<ULL_LANES> ull_widen_at(const ull_f16 *p) {
    return ull_from_f16<ULL_LANES>(ull_load<ull_u16, ULL_LANES>(&p->bits));
}
ULL_FN float ull_widen_one(const float *p) { return *p; }
ULL_FN float ull_widen_one(const ull_bf16 *p) { return ull_from_bf16<1>(p->bits); }
ULL_FN float ull_widen_one(const ull_f16 *p) { return ull_from_f16<1>(p->bits); }

/* c += the dot products of the four uint8 in each lane of a and the four int8 of b, exactly. */
typedef ull_i32<ULL_LANES> ull_ints;
#if defined(ULL_DOT_INT8)
template <class I, class V> ULL_FN void ull_dot_fours(I &c, V a, V b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
}
#else
typedef short ull_shorts __attribute__((vector_size(4 * ULL_LANES)));
/* Sums of the products of the two int16 in each lane. */
ULL_FN ull_ints ull_dot_shorts(ull_shorts a, ull_shorts b) {
#if defined(__AVX512BW__) && defined(__clang__)
    return (ull_ints)__builtin_ia32_pmaddwd512(a, b);
#elif defined(__AVX512BW__)
    return (ull_ints)__builtin_ia32_pmaddwd512_mask(a, b, ull_ints{}, -1);
#elif defined(__AVX2__)
    return (ull_ints)__builtin_ia32_pmaddwd256(a, b);
#else
    const ull_ints x = (ull_ints)a, w = (ull_ints)b;
    return ((x << 16) >> 16) * ((w << 16) >> 16) + (x >> 16) * (w >> 16);
#endif
}
ULL_FN void ull_dot_fours(ull_ints &c, ull_f32<ULL_LANES> a, ull_f32<ULL_LANES> b) {
    const ull_shorts x = (ull_shorts)a, w = (ull_shorts)b;
    c += ull_dot_shorts(x & 255, (w << 8) >> 8);
    c += ull_dot_shorts((x >> 8) & 255, w >> 8);
}
#endif

/* Each byte of words shifted left by `SHIFT` and masked. */
template <int SHIFT, int MASK> ULL_FN ull_ints ull_field(ull_ints words) {
    return (words << SHIFT) & int(0x01010101u * unsigned(MASK));
}

/* to[0..n) = from[0..n) as float. */
template <class T> static void ull_widen_row(float *to, const T *from, ull_i64 n) {
    ull_i64 i = 0;
    for (; i + ULL_LANES <= n; i += ULL_LANES) ull_store<float, ULL_LANES>(to + i, ull_widen_at(from + i));
    for (; i < n; ++i) to[i] = ull_widen_one(from + i);
}
static void ull_fill(float *to, ull_i64 n, float value) {
    for (ull_i64 i = 0; i < n; ++i) to[i] = value;
}
static void ull_zero(float *to, ull_i64 n) { ull_fill(to, n, 0); }

/* Lanes a0 b0 a1 b1 … of the lower, or of the upper, halves of two vectors. */
typedef ull_f32<ULL_LANES> ull_lanes;
ULL_FN ull_lanes ull_zip_low(ull_lanes a, ull_lanes b) {
#if ULL_LANES == 16
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif ULL_LANES == 8
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}
ULL_FN ull_lanes ull_zip_high(ull_lanes a, ull_lanes b) {
#if ULL_LANES == 16
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif ULL_LANES == 8
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}
/* One of the log2(lanes) rounds of zips that transpose a square of vectors. */
ULL_FN void ull_zip_square(ull_lanes *to, const ull_lanes *from) {
#pragma GCC unroll 8
    for (int i = 0; i < ULL_LANES / 2; ++i) {
        to[2 * i] = ull_zip_low(from[i], from[i + ULL_LANES / 2]);
        to[2 * i + 1] = ull_zip_high(from[i], from[i + ULL_LANES / 2]);
    }
}
/* panel[k * width + n] = b[n * stride_n + k] for a square of n and k. */
template <class T> static void ull_pack_square(float *panel, const T *b, ull_i64 stride_n, ull_i64 width) {
    ull_lanes rows[ULL_LANES], other[ULL_LANES];
#pragma GCC unroll 16
    for (int n = 0; n < ULL_LANES; ++n) rows[n] = ull_widen_at(b + n * stride_n);
    ull_zip_square(other, rows);
    ull_zip_square(rows, other);
#if ULL_LANES >= 8
    ull_zip_square(other, rows);
#if ULL_LANES == 16
    ull_zip_square(rows, other);
#else
    for (int k = 0; k < ULL_LANES; ++k) rows[k] = other[k];
#endif
#endif
#pragma GCC unroll 16
    for (int k = 0; k < ULL_LANES; ++k) ull_store<float, ULL_LANES>(panel + k * width, rows[k]);
}

/* panel[k][width] = b[k * stride_k + n * stride_n] for `columns` columns, zero in the rest of the last vector. */
template <class T>
static void ull_pack_panel(float *panel, const T *b, ull_i64 stride_k, ull_i64 stride_n, ull_i64 steps,
                           ull_i64 columns, ull_i64 width) {
    const ull_i64 used = (columns + ULL_LANES - 1) / ULL_LANES * ULL_LANES;
    if (used > columns)
        for (ull_i64 k = 0; k < steps; ++k) ull_zero(panel + k * width + columns, used - columns);
    if (stride_n == 1) {
        for (ull_i64 k = 0; k < steps; ++k) ull_widen_row(panel + k * width, b + k * stride_k, columns);
        return;
    }
    const ull_i64 squares_n = stride_k == 1 ? columns / ULL_LANES * ULL_LANES : 0;
    const ull_i64 squares_k = steps / ULL_LANES * ULL_LANES;
    for (ull_i64 n = 0; n < squares_n; n += ULL_LANES)
        for (ull_i64 k = 0; k < squares_k; k += ULL_LANES)
            ull_pack_square(panel + k * width + n, b + n * stride_n + k, stride_n, width);
    for (ull_i64 n = 0; n < columns; ++n)
        for (ull_i64 k = n < squares_n ? squares_k : 0; k < steps; ++k)
            panel[k * width + n] = ull_widen_one(b + k * stride_k + n * stride_n);
}

/* `steps` floats of `span` neighbouring pixels of `channels` each, the first at column w of an image `width` wide: in
   place if they all lie inside and are floats already, else in `copy` with `border` for the pixels outside. */
template <class T>
static const float *ull_segment(const T *from, ull_i64 w, ull_i64 span, ull_i64 width, ull_i64 channels, ull_i64 steps,
                                float *copy, const float *zeros, float border) {
    const ull_i64 first = w < 0 ? -w : 0, last = w + span > width ? width - w : span;
    if (first >= last) return zeros;
    if (first == 0 && last == span) {
        if constexpr (__is_same(T, float)) return from;
        ull_widen_row(copy, from, steps);
        return copy;
    }
    ull_fill(copy, first * channels, border);
    ull_widen_row(copy + first * channels, from + first * channels, (last - first) * channels);
    ull_fill(copy + last * channels, (span - last) * channels, border);
    return copy;
}

#endif
