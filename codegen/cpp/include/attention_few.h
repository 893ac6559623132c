/* Attention for few rows (at most ATT_FEW): keys are read once, in whole vectors, and every sum keeps the order of
   attention_many.h. Here scores (or words of weights), words of queries, and outputs are row-major: [row][ATT_KEYS],
   [row][ATT_FEW_STRIDE], [row][DV]. */
#ifndef ULLAGE_ATTENTION_FEW_H
#define ULLAGE_ATTENTION_FEW_H
#include "attention_words.h"

template <class C> constexpr int ATT_FEW_STRIDE = (C::WORDS + ATT_LANES - 1) / ATT_LANES * ATT_LANES;

/* Asks for LANES rows one after the other: hardware does not foresee the transposing loads, which jump between rows. */
template <int N, class T> ULL_FN void att_few_prefetch(const T *rows, ull_i64 stride) {
    for (int i = 0; i < ATT_LANES; ++i)
        for (int x = 0; x < N; x += 64 / (int)sizeof(T)) __builtin_prefetch(rows + i * stride + x, 0, 2);
}

/* LANES keys, words x..x+LANES, as [word][key] in registers; missing keys repeat the last one. */
template <class C>
ULL_FN void att_few_keys(const AttTask<C> &t, const typename C::K::memory *k, ull_i64 keys, int x, ull_vec32 *r) {
    ATT_UNROLL
    for (int i = 0; i < ATT_LANES; ++i)
        r[i] = att_load_words<C, typename C::K>(k + (i < keys ? i : keys - 1) * t.p.k.position, x);
    ull_transpose(r);
}

/* Products of all rows with n <= LANES keys of the block, from its key `first` on. */
template <class C>
static void att_few_products(const AttTask<C> &t, const typename C::K::memory *k, ull_i64 first, ull_i64 n) {
    for (int x = 0; x < C::WORDS; x += ATT_LANES) {
        ull_vec32 r[ATT_LANES];
        att_few_keys(t, k, n, x, r);
        for (ull_i64 row = 0; row < t.rows; ++row) {
            const float *q = t.q + row * ATT_FEW_STRIDE<C> + x;
            float *at = t.scores + row * ATT_KEYS + first;
            ull_vec32 sum = x == 0 ? ull_vec32{} : ull_float32::load(at);
            ATT_UNROLL
            for (int i = 0; i < ATT_LANES; ++i) sum = att_add<C>(sum, r[i], ull_splat<ATT_LANES>(q[i]));
            ull_float32::store(at, x + ATT_LANES < C::WORDS ? sum : att_score<C>(sum, att_scale(t)));
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

/* Weights of all keys of a block as words, over weights that were read. */
ULL_FN void att_few_pairs(float *weights) {
    for (int x = 0; x < ATT_KEYS; x += 2 * ATT_LANES) {
        const ull_vec32 low = ull_float32::load(weights + x), high = ull_float32::load(weights + x + ATT_LANES);
        ull_float32::store(weights + x / 2, ull_pair_neighbours(low, high));
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
    if constexpr (C::PAIRS) att_few_pairs(scores);
}

/* W vectors of value elements of one row, or with TAIL > 0 the last TAIL elements. */
template <class S, int TAIL> ULL_FN ull_vec32 att_few_load(const typename S::memory *p) {
    return TAIL ? S::load(p, TAIL) : S::load(p);
}
template <class C, class S, int W, int TAIL>
static void att_few_values(const AttTask<C> &t, const typename S::memory *v, ull_i64 stride, ull_i64 row, int x,
                           ull_i64 words, bool first) {
    ull_vec32 sum[W];
    float *out = t.out + row * C::DV + x;
    const ull_vec32 factor = ull_splat<ATT_LANES>(t.factor[row]);
    ATT_UNROLL
    for (int w = 0; w < W; ++w)
        sum[w] = first ? ull_vec32{} : ull_keep(att_few_load<ull_float32, TAIL>(out + w * ATT_LANES) * factor);
    for (ull_i64 key = 0; key < words; ++key) {
        const ull_vec32 weight = ull_splat<ATT_LANES>(t.scores[row * ATT_KEYS + key]);
        const typename S::memory *from = v + key * stride + x;
        ATT_UNROLL
        for (int w = 0; w < W; ++w) sum[w] = att_add<C>(sum[w], att_few_load<S, TAIL>(from + w * ATT_LANES), weight);
    }
    ATT_UNROLL
    for (int w = 0; w < W; ++w)
        TAIL ? ull_float32::store(out, sum[w], TAIL) : ull_float32::store(out + w * ATT_LANES, sum[w]);
}
template <class C, class S>
static void att_few_outputs(const AttTask<C> &t, const typename S::memory *v, ull_i64 stride, ull_i64 row,
                            ull_i64 words, bool first) {
    int x = 0;
    for (; x + 4 * ATT_LANES <= C::DV; x += 4 * ATT_LANES) att_few_values<C, S, 4, 0>(t, v, stride, row, x, words, first);
    for (; x + ATT_LANES <= C::DV; x += ATT_LANES) att_few_values<C, S, 1, 0>(t, v, stride, row, x, words, first);
    if constexpr (C::DV % ATT_LANES > 0)
        att_few_values<C, S, 1, C::DV % ATT_LANES>(t, v, stride, row, x, words, first);
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
    if constexpr (C::PAIRS) att_pair_values(t, v, keys);
    for (ull_i64 row = 0; row < t.rows; ++row) {
        att_few_softmax(t, row, keys);
        if constexpr (C::PAIRS) att_few_outputs<C, ull_float32>(t, t.v, C::DV, row, (keys + 1) / 2, base == 0);
        else att_few_outputs<C, typename C::V>(t, v, t.p.v.position, row, keys, base == 0);
    }
}

/* Words of queries, padded with zeros to whole vectors. */
template <class C> static void att_few_rows_in(const AttTask<C> &t) {
    for (ull_i64 row = 0; row < t.rows; ++row)
        for (int x = 0; x < C::WORDS; x += ATT_LANES)
            ull_float32::store(t.q + row * ATT_FEW_STRIDE<C> + x, att_query_words(t, row, x));
}

template <class C> static void att_few_rows_out(const AttTask<C> &t) {
    for (ull_i64 row = 0; row < t.rows; ++row) {
        const ull_vec32 inverse = att_inverse(ull_splat<ATT_LANES>(t.sum[row]));
        const auto piece = [&](int x) {
            return x < C::DV ? att_load_piece<ull_float32, C::DV>(t.out + row * C::DV, x) * inverse : ull_vec32{};
        };
        for (int x = 0; x < C::DV; x += C::OUT_WORD * ATT_LANES)
            if constexpr (C::OUT_WORD == 1) att_store_words<C>(att_output(t, row), x, piece(x));
            else att_store_words<C>(att_output(t, row), x, ull_pair_neighbours(piece(x), piece(x + ATT_LANES)));
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
