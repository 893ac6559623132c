/* What GEMM and convolution kernels do around the register tile: widening rows to float, packing a right operand.
 * Comes after simd.h. */
#ifndef ULLAGE_TILE_H
#define ULLAGE_TILE_H

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

/* to[0..n) = from[0..n) as float. */
template <class T> static void ull_widen_row(float *to, const T *from, ull_i64 n) {
    ull_i64 i = 0;
    for (; i + ULL_LANES <= n; i += ULL_LANES) ull_store<float, ULL_LANES>(to + i, ull_widen_at(from + i));
    for (; i < n; ++i) to[i] = ull_widen_one(from + i);
}
static void ull_zero(float *to, ull_i64 n) {
    for (ull_i64 i = 0; i < n; ++i) to[i] = 0;
}

/* panel[k][width] = b[k * stride_k + n * stride_n] for `columns` columns, zero in the rest of the last vector. */
template <class T>
static void ull_pack_panel(float *panel, const T *b, ull_i64 stride_k, ull_i64 stride_n, ull_i64 steps,
                           ull_i64 columns, ull_i64 width) {
    const ull_i64 used = (columns + ULL_LANES - 1) / ULL_LANES * ULL_LANES;
    for (ull_i64 k = 0; k < steps; ++k, panel += width, b += stride_k) {
        if (stride_n == 1) ull_widen_row(panel, b, columns);
        else for (ull_i64 n = 0; n < columns; ++n) panel[n] = ull_widen_one(b + n * stride_n);
        ull_zero(panel + columns, used - columns);
    }
}

/* `steps` floats of `span` neighbouring pixels of `channels` each, the first at column w of an image `width` wide: in
   place if they all lie inside and are floats already, else in `copy` with zeros for the pixels outside. */
template <class T>
static const float *ull_segment(const T *from, ull_i64 w, ull_i64 span, ull_i64 width, ull_i64 channels, ull_i64 steps,
                                float *copy, const float *zeros) {
    const ull_i64 first = w < 0 ? -w : 0, last = w + span > width ? width - w : span;
    if (first >= last) return zeros;
    if (first == 0 && last == span) {
        if constexpr (__is_same(T, float)) return from;
        ull_widen_row(copy, from, steps);
        return copy;
    }
    ull_zero(copy, first * channels);
    ull_widen_row(copy + first * channels, from + first * channels, (last - first) * channels);
    ull_zero(copy + last * channels, (span - last) * channels);
    return copy;
}

#endif
