/* Tiles of strided accesses: element (row, lane) at p[lane * step + row] in memory, at tile[row * lanes + lane] beside it.
 * Comes after simd.h. */
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
/* Narrow elements travel through a transposing network in 32 bits. */
template <class T, int N> ULL_FN auto ull_to_square(ull_v<T, N> x) {
    if constexpr (sizeof(T) < 4) return ull_widen<N>(x);
    else return x;
}
template <class T, int N, class W> ULL_FN ull_v<T, N> ull_from_square(W x) {
    if constexpr (sizeof(T) < 4) return ull_narrow<T, N>(x);
    else return x;
}

/* to[j * to_step + i] = from[i * from_step + j] for i < rows and j < columns, both up to N; nothing else is touched. */
template <class T, int N>
ULL_FN void ull_square(const T *from, ull_i64 from_step, ull_i64 rows, T *to, ull_i64 to_step, ull_i64 columns) {
    using W = decltype(ull_to_square<T, N>(ull_v<T, N>{}));
    W r[N];
    if (rows == N && columns == N) {
#pragma GCC unroll 16
        for (int i = 0; i < N; ++i) r[i] = ull_to_square<T, N>(ull_load<T, N>(from + i * from_step));
    } else {
#pragma GCC unroll 16
        for (int i = 0; i < N; ++i)
            r[i] = i < rows ? ull_to_square<T, N>(ull_load_n<T, N>(from + i * from_step, columns)) : W{};
    }
    ull_mix<N, 1>(r);
    ull_mix<N, 2>(r);
    ull_mix<N, 4>(r);
    if constexpr (N == 16) ull_mix<N, 8>(r);
    if (rows == N && columns == N) {
#pragma GCC unroll 16
        for (int j = 0; j < N; ++j) ull_store<T, N>(to + j * to_step, ull_from_square<T, N>(r[j]));
    } else {
#pragma GCC unroll 16
        for (int j = 0; j < N; ++j)
            if (j < columns) ull_store_n<T, N>(to + j * to_step, ull_from_square<T, N>(r[j]), rows);
    }
}
/* tile[row * N + lane] = p[lane * step + row] for rows (up to 16) and lanes (up to N). */
template <class T, int N> ULL_FN void ull_tile(const T *p, ull_i64 step, T *tile, ull_i64 rows, ull_i64 lanes) {
    if constexpr (N >= 8) {
        for (ull_i64 i = 0; i < rows; i += N)
            ull_square<T, N>(p + i, step, lanes, tile + i * N, N, rows - i < N ? rows - i : N);
    } else {
        for (ull_i64 l = 0; l < lanes; ++l)
            for (ull_i64 i = 0; i < rows; ++i) tile[i * N + l] = p[l * step + i];
    }
}

/* Rows that are woven together: element j of vector V of R rows is lane (V * N + j) / R of row (V * N + j) % R. */
template <int... I> struct ull_indices {};
#if defined(__clang__)
template <class, int... I> using ull_indices_of = ull_indices<I...>;
template <int N> using ull_first = __make_integer_seq<ull_indices_of, int, N>;
#else
template <int N> using ull_first = ull_indices<__integer_pack(N)...>;
#endif
/* Where element `at` comes from once rows up to `row` are in: the new row, the first one, or where it was before. */
constexpr int ull_woven(int at, int row, int rows, int lanes) {
    if (at % rows == row) return lanes + at / rows;
    return row == 1 ? at / rows : at % lanes;
}
template <int N, int R, int V, int ROW, class X, int... J> ULL_FN X ull_weave(X before, X row, ull_indices<J...>) {
    return __builtin_shufflevector(before, row, ull_woven(V * N + J, ROW, R, N)...);
}
template <int N, int R, int V, int ROW, class X> ULL_FN X ull_woven_vector(const X *rows) {
    if constexpr (ROW == 0) return rows[0];
    else return ull_weave<N, R, V, ROW>(ull_woven_vector<N, R, V, ROW - 1>(rows), rows[ROW], ull_first<N>());
}
template <class T, int N, int R, int V = 0> ULL_FN void ull_interleave(T *p, const ull_v<T, N> *rows) {
    if constexpr (V < R) {
        ull_store<T, N>(p + V * N, ull_woven_vector<N, R, V, R - 1>(rows));
        ull_interleave<T, N, R, V + 1>(p, rows);
    }
}
template <class T, int N, int R> ULL_FN void ull_interleave_tile(T *p, const T *tile) {
    ull_v<T, N> rows[R];
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) rows[i] = ull_load<T, N>(tile + i * N);
    ull_interleave<T, N, R>(p, rows);
}
/* p[lane * step + row] = tile[row * N + lane] for rows (up to 16) and lanes (up to N). */
template <class T, int N> ULL_FN void ull_untile(T *p, ull_i64 step, const T *tile, ull_i64 rows, ull_i64 lanes) {
    if constexpr (N >= 8) {
        if (step == rows && lanes == N) {
            if (rows == 2) return ull_interleave_tile<T, N, 2>(p, tile);
            if (rows == 3) return ull_interleave_tile<T, N, 3>(p, tile);
            if (rows == 4) return ull_interleave_tile<T, N, 4>(p, tile);
        }
        for (ull_i64 i = 0; i < rows; i += N)
            ull_square<T, N>(tile + i * N, N, rows - i < N ? rows - i : N, p + i, step, lanes);
    } else {
        for (ull_i64 l = 0; l < lanes; ++l)
            for (ull_i64 i = 0; i < rows; ++i) p[l * step + i] = tile[i * N + l];
    }
}

#endif
