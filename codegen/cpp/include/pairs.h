/* Words that hold a pair of bfloat16, the lower half first; vectors of words have the type of vectors of floats. All
   are instructions of AVX512_BF16, named where a kernel says that it needs them. */
#ifndef ULLAGE_PAIRS_H
#define ULLAGE_PAIRS_H
#include "simd.h"

/* c += the dot products of the pairs in each lane of a and b. */
template <class V> ULL_FN void ull_dot_pairs(V &c, V a, V b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
}
/* Lanes of `low` and then of `high` rounded: pairs of neighbours. */
template <class V> ULL_FN V ull_pair_neighbours(V low, V high) {
    V r;
    __asm__("vcvtne2ps2bf16 %1, %2, %0" : "=v"(r) : "v"(low), "v"(high));
    return r;
}
/* Lanes of `first` and `second` rounded: one pair of each lane. */
template <class V> ULL_FN V ull_pair(V first, V second) {
    const auto r = ull_bits<ull_v<ull_u16, 32>>(ull_pair_neighbours(first, second));
    return ull_bits<V>(__builtin_shufflevector(r, r, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25,
                                               10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
}

/* 2^x for x <= 0, error below 2^-13: a fortieth of how bfloat16 rounds; minus infinity gives 0, NaN stays NaN. */
template <class V> ULL_FN V ull_exp2_of_pairs(V x) {
    enum { N = ULL_LANES };
    V r, power;
    __asm__("vreduceps $9, %1, %0" : "=v"(r) : "v"(x)); /* x - floor(x) */
    V value = ull_fma<N>(ull_splat<N>(7.7067042e-2f), r, ull_splat<N>(2.2764499e-1f));
    value = ull_fma<N>(value, r, ull_splat<N>(6.9511679e-1f));
    value = ull_fma<N>(value, r, ull_splat<N>(1.0f));
    __asm__("vscalefps %2, %1, %0" : "=v"(power) : "v"(value), "v"(x)); /* value * 2^floor(x) */
    return power;
}
#endif
