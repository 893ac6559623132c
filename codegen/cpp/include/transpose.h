/* Tiles of strided accesses: element (row, lane) at p[lane * step + row] becomes contiguous over lanes. */
#ifndef ULLAGE_TRANSPOSE_H
#define ULLAGE_TRANSPOSE_H

/* One step of a transposing network: two rows exchange the columns that differ from their place in one bit. */
template <int N, int BIT, class V> ULL_FN V ull_mix_low(V a, V b) {
    if constexpr (N == 16) {
        if constexpr (BIT == 1)
            return __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
        else if constexpr (BIT == 2)
            return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
        else if constexpr (BIT == 4)
            return __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
        else return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    } else {
        if constexpr (BIT == 1) return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
        else if constexpr (BIT == 2) return __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
        else return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    }
}
template <int N, int BIT, class V> ULL_FN V ull_mix_high(V a, V b) {
    if constexpr (N == 16) {
        if constexpr (BIT == 1)
            return __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
        else if constexpr (BIT == 2)
            return __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
        else if constexpr (BIT == 4)
            return __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
        else return __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    } else {
        if constexpr (BIT == 1) return __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
        else if constexpr (BIT == 2) return __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
        else return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
template <int N, int BIT, class V> ULL_FN void ull_mix(V (&r)[N]) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
        if (!(i & BIT)) {
            const V a = r[i], b = r[i + BIT];
            r[i] = ull_mix_low<N, BIT>(a, b);
            r[i + BIT] = ull_mix_high<N, BIT>(a, b);
        }
}
/* N rows of N elements. */
template <class T, int N> ULL_FN void ull_square(const T *p, ull_i64 step, T *out) {
    ull_v<T, N> r[N];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) r[i] = ull_load<T, N>(p + i * step);
    ull_mix<N, 1>(r);
    ull_mix<N, 2>(r);
    ull_mix<N, 4>(r);
    if constexpr (N == 16) ull_mix<N, 8>(r);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) ull_store<T, N>(out + i * N, r[i]);
}
/* out[row * N + lane] = p[lane * step + row] for rows (up to 16) and lanes (up to N). */
template <class T, int N> ULL_FN void ull_tile(const T *p, ull_i64 step, T *out, ull_i64 rows, ull_i64 lanes) {
    if constexpr (sizeof(T) == 4 && N == ULL_LANES && N >= 8)
        if (rows == 16 && lanes == N) {
            for (int i = 0; i < 16; i += N) ull_square<T, N>(p + i, step, out + i * N);
            return;
        }
    for (ull_i64 l = 0; l < lanes; ++l)
        for (ull_i64 i = 0; i < rows; ++i) out[i * N + l] = p[l * step + i];
}

#endif
