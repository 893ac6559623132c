/* Storage types of header-written kernels: rows of float32, bfloat16 or float16 (and bool masks) as float vectors. */
#ifndef ULLAGE_STORAGE_H
#define ULLAGE_STORAGE_H
#include "simd.h"

typedef ull_f32<ULL_LANES> ull_vec32;

/* Lanes l < n of a row; the others are zero and their memory is not touched. */
struct ull_float32 {
    typedef float memory;
    ULL_FN ull_vec32 load(const memory *p) { return ull_load<float, ULL_LANES>(p); }
    ULL_FN ull_vec32 load(const memory *p, ull_i64 n) { return ull_load_n<float, ULL_LANES>(p, n); }
    ULL_FN void store(memory *p, ull_vec32 x) { ull_store<float, ULL_LANES>(p, x); }
    ULL_FN void store(memory *p, ull_vec32 x, ull_i64 n) { ull_store_n<float, ULL_LANES>(p, x, n); }
};

struct ull_bfloat16 {
    typedef ull_u16 memory;
    ULL_FN ull_vec32 load(const memory *p) { return ull_from_bf16<ULL_LANES>(ull_load<ull_u16, ULL_LANES>(p)); }
    ULL_FN ull_vec32 load(const memory *p, ull_i64 n) {
        return ull_from_bf16<ULL_LANES>(ull_load_n<ull_u16, ULL_LANES>(p, n));
    }
    ULL_FN void store(memory *p, ull_vec32 x) { ull_store<ull_u16, ULL_LANES>(p, ull_bf16_bits<ULL_LANES>(x)); }
    ULL_FN void store(memory *p, ull_vec32 x, ull_i64 n) {
        ull_store_n<ull_u16, ULL_LANES>(p, ull_bf16_bits<ULL_LANES>(x), n);
    }
};

struct ull_float16 {
    typedef ull_u16 memory;
    ULL_FN ull_vec32 load(const memory *p) { return ull_from_f16<ULL_LANES>(ull_load<ull_u16, ULL_LANES>(p)); }
    ULL_FN ull_vec32 load(const memory *p, ull_i64 n) {
        return ull_from_f16<ULL_LANES>(ull_load_n<ull_u16, ULL_LANES>(p, n));
    }
    ULL_FN void store(memory *p, ull_vec32 x) { ull_store<ull_u16, ULL_LANES>(p, ull_f16_bits<ULL_LANES>(x)); }
    ULL_FN void store(memory *p, ull_vec32 x, ull_i64 n) {
        ull_store_n<ull_u16, ULL_LANES>(p, ull_f16_bits<ULL_LANES>(x), n);
    }
};

/* Codes of values: what is above the code that stands for zero. */
template <int ZERO> struct ull_codes {
    typedef ull_u8 memory;
    ULL_FN ull_vec32 value(ull_v<ull_u8, ULL_LANES> codes) {
        const ull_vec32 above = ull_convert<float, ULL_LANES>(ull_widen<ULL_LANES>(codes));
        if constexpr (ZERO == 0) return above;
        return above - ull_splat<ULL_LANES>(float(ZERO));
    }
    ULL_FN ull_vec32 load(const memory *p) { return value(ull_load<ull_u8, ULL_LANES>(p)); }
    ULL_FN ull_vec32 load(const memory *p, ull_i64 n) { return value(ull_load_n<ull_u8, ULL_LANES>(p, n)); }
};

/* A mask that keeps where true, read as what is added to scores: 0 or minus infinity. */
struct ull_keep_mask {
    typedef ull_u8 memory;
    ULL_FN ull_vec32 bias(ull_v<ull_u8, ULL_LANES> kept) {
        const ull_vec32 never = ull_splat<ULL_LANES>(-__builtin_inff());
        return ull_select<ULL_LANES>(ull_from_bool<ULL_LANES>(kept), ull_vec32{}, never);
    }
    ULL_FN ull_vec32 load(const memory *p) { return bias(ull_load<ull_u8, ULL_LANES>(p)); }
    ULL_FN ull_vec32 load(const memory *p, ull_i64 n) { return bias(ull_load_n<ull_u8, ULL_LANES>(p, n)); }
};

/* The larger of both; `b` where one is NaN. One instruction where the compiler's own pattern is not. */
ULL_FN ull_vec32 ull_larger(ull_vec32 a, ull_vec32 b) {
#if defined(__clang__) || !defined(__x86_64__)
    return a > b ? a : b;
#elif defined(__AVX512F__)
    return __builtin_ia32_maxps512_mask(a, b, a, -1, 4);
#elif defined(__AVX2__)
    return __builtin_ia32_maxps256(a, b);
#else
    return __builtin_ia32_maxps(a, b);
#endif
}

/* 2^x for x <= 0, error below 2 units in the last place; below -126 it fades to an exact 0, NaN stays NaN. */
ULL_FN ull_vec32 ull_exp2_negative(ull_vec32 x) {
    constexpr int N = ULL_LANES;
    constexpr float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    x = ull_larger(ull_splat<N>(-127.0f), x);
    const ull_vec32 rounded = x + ull_splat<N>(magic);
    const ull_vec32 r = x - (rounded - ull_splat<N>(magic)), square = r * r;
    ull_vec32 high = ull_fma<N>(ull_splat<N>(1.3333558e-3f), r, ull_splat<N>(9.6181291e-3f));
    const ull_vec32 middle = ull_fma<N>(ull_splat<N>(5.5504109e-2f), r, ull_splat<N>(2.4022651e-1f));
    const ull_vec32 low = ull_fma<N>(ull_splat<N>(6.9314718e-1f), r, ull_splat<N>(1.0f));
    high = ull_fma<N>(ull_splat<N>(1.5403530e-4f), square, high);
    const ull_vec32 value = ull_fma<N>(ull_fma<N>(high, square, middle), square, low);
    return ull_bits<ull_vec32>(ull_bits<ull_i32<N>>(value) + (ull_bits<ull_i32<N>>(rounded) << 23));
}

template <int... L> struct ull_lane_list {};
template <int N> struct ull_lanes_upto;
template <> struct ull_lanes_upto<4> { typedef ull_lane_list<0, 1, 2, 3> list; };
template <> struct ull_lanes_upto<8> { typedef ull_lane_list<0, 1, 2, 3, 4, 5, 6, 7> list; };
template <> struct ull_lanes_upto<16> {
    typedef ull_lane_list<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15> list;
};

/* Lanes without bit S come from the lower row of a pair, the others from the upper; HIGH takes the other halves. */
template <int S, bool HIGH, int... L> ULL_FN ull_vec32 ull_exchange(ull_vec32 a, ull_vec32 b, ull_lane_list<L...>) {
    constexpr int N = ULL_LANES;
    return __builtin_shufflevector(a, b, (L & S ? L + N - (HIGH ? 0 : S) : L + (HIGH ? S : 0))...);
}

template <int S> ULL_FN void ull_transpose_step(ull_vec32 *r) {
    const typename ull_lanes_upto<ULL_LANES>::list lanes;
#pragma GCC unroll 16
    for (int i = 0; i < ULL_LANES; ++i)
        if (!(i & S)) {
            const ull_vec32 a = r[i], b = r[i + S];
            r[i] = ull_exchange<S, false>(a, b, lanes);
            r[i + S] = ull_exchange<S, true>(a, b, lanes);
        }
}

/* r[i][j] becomes r[j][i]. */
ULL_FN void ull_transpose(ull_vec32 *r) {
#if ULL_LANES == 16
    ull_transpose_step<8>(r);
#endif
#if ULL_LANES >= 8
    ull_transpose_step<4>(r);
#endif
    ull_transpose_step<2>(r);
    ull_transpose_step<1>(r);
}
#endif
