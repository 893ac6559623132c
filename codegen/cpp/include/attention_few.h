/* Attention for few rows (at most ATT_FEW): keys are read once, in whole vectors, and every sum keeps the order of
   attention_many.h. Here scores, queries and outputs are row-major: [row][ATT_KEYS],
   [row][ATT_FEW_STRIDE], [row][DV]. */
#ifndef ULLAGE_ATTENTION_FEW_H
#define ULLAGE_ATTENTION_FEW_H
#include "attention_task.h"

template <class C> constexpr int ATT_FEW_STRIDE = (C::D + ATT_LANES - 1) / ATT_LANES * ATT_LANES;

/* Asks for LANES rows one after the other: hardware does not foresee the transposing loads, which jump between rows. */
template <int N, class T> ULL_FN void att_few_prefetch(const T *rows, ull_i64 stride) {
    for (int i = 0; i < ATT_LANES; ++i)
        for (int x = 0; x < N; x += 64 / (int)sizeof(T)) __builtin_prefetch(rows + i * stride + x, 0, 2);
}

/* LANES keys, head elements x..x+LANES, as [head element][key] in registers; missing keys repeat the last one. */
template <class C>
ULL_FN void att_few_keys(const AttTask<C> &t, const typename C::K::memory *k, ull_i64 keys, int x, ull_vec32 *r) {
    ATT_UNROLL
    for (int i = 0; i < ATT_LANES; ++i)
        r[i] = att_load_piece<typename C::K, C::D>(k + (i < keys ? i : keys - 1) * t.p.k.position, x);
    ull_transpose(r);
}

/* Products of all rows with n <= LANES keys of the block, from its key `first` on. */
template <class C>
static void att_few_products(const AttTask<C> &t, const typename C::K::memory *k, ull_i64 first, ull_i64 n) {
    for (int x = 0; x < C::D; x += ATT_LANES) {
        ull_vec32 r[ATT_LANES];
        att_few_keys(t, k, n, x, r);
        for (ull_i64 row = 0; row < t.rows; ++row) {
            const float *q = t.q + row * ATT_FEW_STRIDE<C> + x;
            float *at = t.scores + row * ATT_KEYS + first;
            ull_vec32 sum = x == 0 ? ull_vec32{} : ull_float32::load(at);
            ATT_UNROLL
            for (int i = 0; i < ATT_LANES; ++i) sum = ull_fma<ATT_LANES>(r[i], ull_splat<ATT_LANES>(q[i]), sum);
            ull_float32::store(at, sum);
        }
    }
}

/* Masks of the same scores; what lies beyond the keys is minus infinity. */
template <class C> static void att_few_mask(const AttTask<C> &t, ull_i64 base, ull_i64 first, ull_i64 n) {
    const ull_vec32 never = ull_splat<ATT_LANES>(-__builtin_inff());
    for (ull_i64 row = 0; row < t.rows; ++row) {
        float *at = t.scores + row * ATT_KEYS + first;
        ull_vec32 score = ull_float32::load(at);
        if constexpr (C::MASK != ATT_NO_MASK)
            score += att_bias<typename C::M>(att_mask_row(t, row, base + first), t.p.mask_key, n);
        const ull_i64 visible = C::CAUSAL ? t.query[row] - (base + first) + 1 : n;
        const ull_i64 kept = visible < 0 ? 0 : visible < n ? visible : n;
        ull_float32::store(at, ull_select<ATT_LANES>(ull_lanes_below<ATT_LANES>(kept), score, never));
    }
}

template <class C> static void att_few_softmax(const AttTask<C> &t, ull_i64 row, ull_i64 keys) {
    float *scores = t.scores + row * ATT_KEYS;
    const ull_vec32 before = ull_splat<ATT_LANES>(t.maximum[row]);
    ull_vec32 top = before;
    for (ull_i64 x = 0; x < keys; x += ATT_LANES) top = ull_larger(ull_float32::load(scores + x), top);
    t.maximum[row] = ull_fold<ATT_LANES>(top, [](auto a, auto b) { return a > b ? a : b; });
    const ull_vec32 peak = att_finite_peak(ull_splat<ATT_LANES>(t.maximum[row]));
    t.factor[row] = att_weight<C>(before, peak)[0];
    for (ull_i64 x = 0; x < keys; x += ATT_LANES)
        ull_float32::store(scores + x, att_weight<C>(ull_float32::load(scores + x), peak));
    float sum = ull_keep(t.sum[row] * t.factor[row]);
    for (ull_i64 x = 0; x < keys; ++x) sum += scores[x];
    t.sum[row] = sum;
}

/* W vectors of value elements of one row, or with TAIL > 0 the last TAIL elements. */
template <class S, int TAIL> ULL_FN ull_vec32 att_few_load(const typename S::memory *p) {
    return TAIL ? S::load(p, TAIL) : S::load(p);
}
template <class C, int W, int TAIL>
static void att_few_values(const AttTask<C> &t, const typename C::V::memory *v, ull_i64 row, int x, ull_i64 keys,
                           bool first) {
    ull_vec32 sum[W];
    float *out = t.out + row * C::DV + x;
    const ull_vec32 factor = ull_splat<ATT_LANES>(t.factor[row]);
    ATT_UNROLL
    for (int w = 0; w < W; ++w)
        sum[w] = first ? ull_vec32{} : ull_keep(att_few_load<ull_float32, TAIL>(out + w * ATT_LANES) * factor);
    for (ull_i64 key = 0; key < keys; ++key) {
        const ull_vec32 weight = ull_splat<ATT_LANES>(t.scores[row * ATT_KEYS + key]);
        const typename C::V::memory *from = v + key * t.p.v.position + x;
        ATT_UNROLL
        for (int w = 0; w < W; ++w)
            sum[w] = ull_fma<ATT_LANES>(att_few_load<typename C::V, TAIL>(from + w * ATT_LANES), weight, sum[w]);
    }
    ATT_UNROLL
    for (int w = 0; w < W; ++w)
        TAIL ? ull_float32::store(out, sum[w], TAIL) : ull_float32::store(out + w * ATT_LANES, sum[w]);
}

template <class C> static void att_few_block(const AttTask<C> &t, ull_i64 base, ull_i64 keys) {
    const typename C::V::memory *v = t.p.v.at(t.batch, t.kv_head, base);
    for (ull_i64 first = 0; first < keys; first += ATT_LANES) {
        const ull_i64 n = keys - first < ATT_LANES ? keys - first : ATT_LANES;
        const typename C::K::memory *k = t.p.k.at(t.batch, t.kv_head, base + first);
        if (base + first + 2 * ATT_LANES <= t.p.keys)
            att_few_prefetch<C::D>(k + ATT_LANES * t.p.k.position, t.p.k.position);
        att_few_products(t, k, first, n);
        if (C::MASK != ATT_NO_MASK || C::CAUSAL || n < ATT_LANES) att_few_mask(t, base, first, n);
    }
    for (ull_i64 row = 0; row < t.rows; ++row) {
        att_few_softmax(t, row, keys);
        int x = 0;
        for (; x + 4 * ATT_LANES <= C::DV; x += 4 * ATT_LANES) att_few_values<C, 4, 0>(t, v, row, x, keys, base == 0);
        for (; x + ATT_LANES <= C::DV; x += ATT_LANES) att_few_values<C, 1, 0>(t, v, row, x, keys, base == 0);
        if constexpr (C::DV % ATT_LANES > 0) att_few_values<C, 1, C::DV % ATT_LANES>(t, v, row, x, keys, base == 0);
    }
}

/* Queries, scaled, padded with zeros to whole vectors. */
template <class C> static void att_few_rows_in(const AttTask<C> &t) {
    for (ull_i64 row = 0; row < t.rows; ++row)
        for (int x = 0; x < C::D; x += ATT_LANES)
            ull_float32::store(t.q + row * ATT_FEW_STRIDE<C> + x,
                               att_load_piece<typename C::Q, C::D>(att_query(t, row), x) * att_scale(t));
}

template <class C> static void att_few_rows_out(const AttTask<C> &t) {
    for (ull_i64 row = 0; row < t.rows; ++row)
        for (int x = 0; x < C::DV; x += ATT_LANES) {
            const ull_vec32 total = att_load_piece<ull_float32, C::DV>(t.out + row * C::DV, x);
            const ull_vec32 inverse = att_inverse(ull_splat<ATT_LANES>(t.sum[row]));
            att_store_piece<typename C::O, C::DV>(att_output(t, row), x, total * inverse);
        }
}

template <class C> static __attribute__((noinline)) void att_few(const AttTask<C> &t) {
    att_start(t, t.rows);
    att_few_rows_in(t);
    const ull_i64 end = att_key_end(t);
    for (ull_i64 first = 0; first < end; first += ATT_KEYS)
        att_few_block(t, first, end - first < ATT_KEYS ? end - first : ATT_KEYS);
    att_few_rows_out(t);
}
#endif
