/* Attention for blocks of rows: register tiles of keys × rows over a transposed score block. */
#ifndef ULLAGE_ATTENTION_MANY_H
#define ULLAGE_ATTENTION_MANY_H
#include "attention_words.h"

enum { ATT_TILE = ATT_LANES == 16 ? 8 : 4 };

template <class C> static void att_load_bias(const AttTask<C> &t, ull_i64 first, ull_i64 keys) {
    for (ull_i64 x = 0; x < keys; x += ATT_LANES) {
        const ull_i64 n = keys - x < ATT_LANES ? keys - x : ATT_LANES;
        if constexpr (C::MASK == ATT_KEY_MASK) {
            ull_float32::store(t.bias + x, att_bias<typename C::M>(att_mask_row(t, 0, first + x), t.p.mask_key, n));
            continue;
        }
        for (ull_i64 row = 0; row < t.rows; row += ATT_LANES) {
            ull_vec32 r[ATT_LANES];
            ATT_UNROLL
            for (int i = 0; i < ATT_LANES; ++i)
                r[i] = att_bias<typename C::M>(att_mask_row(t, row + i, first + x), t.p.mask_key, n);
            ull_transpose(r);
            ATT_UNROLL
            for (int i = 0; i < ATT_LANES; ++i) ull_float32::store(t.bias + (x + i) * ATT_ROWS + row, r[i]);
        }
    }
}

/* ---- scores ------------------------------------------------------------------------------------------------ */
/* Adds the products of word x of V vectors of rows and KEYS keys. */
template <class C, bool HALF, int KEYS, int V>
ULL_FN void att_score_word(const typename C::Key *k, ull_i64 stride, const float *q, int x, ull_vec32 (&sum)[KEYS][V]) {
    ull_vec32 row[V];
    ATT_UNROLL
    for (int j = 0; j < V; ++j) row[j] = ull_float32::load(q + x * ATT_ROWS + j * ATT_LANES);
    ATT_UNROLL
    for (int i = 0; i < KEYS; ++i) {
        const ull_vec32 key = att_key_word<C, HALF>(k + i * stride, x);
        ATT_UNROLL
        for (int j = 0; j < V; ++j) sum[i][j] = att_add<C>(sum[i][j], key, row[j]);
    }
}

/* KEYS keys against V vectors of rows; raises `peak`. */
template <class C, int KEYS, int V>
static __attribute__((noinline)) void att_score_tile(const typename C::Key *k, ull_i64 stride, const float *q,
                                                     ull_vec32 scale, const float *bias, float *scores, float *peak) {
    ull_vec32 sum[KEYS][V] = {};
    for (int x = 0; x < C::D / C::WORD; ++x) att_score_word<C, false>(k, stride, q, x, sum);
    if constexpr (C::D % C::WORD > 0) att_score_word<C, true>(k, stride, q, C::D / C::WORD, sum);
    ATT_UNROLL
    for (int j = 0; j < V; ++j) {
        ull_vec32 top = ull_float32::load(peak + j * ATT_LANES);
        ATT_UNROLL
        for (int i = 0; i < KEYS; ++i) {
            sum[i][j] = att_score<C>(sum[i][j], scale);
            if constexpr (C::MASK == ATT_KEY_MASK) sum[i][j] += ull_splat<ATT_LANES>(bias[i]);
            if constexpr (C::MASK == ATT_FULL_MASK) sum[i][j] += ull_float32::load(bias + i * ATT_ROWS + j * ATT_LANES);
            ull_float32::store(scores + i * ATT_ROWS + j * ATT_LANES, sum[i][j]);
            top = ull_larger(sum[i][j], top);
        }
        ull_float32::store(peak + j * ATT_LANES, top);
    }
}

/* All keys of a block by tiles of KEYS, then of half as many, down to one. */
template <class C, int KEYS, int V>
static void att_scores(const AttTask<C> &t, const typename C::Key *k, ull_i64 stride, ull_i64 first, ull_i64 keys) {
    const ull_i64 wide = C::MASK == ATT_KEY_MASK ? 1 : ATT_ROWS;
    for (; first + KEYS <= keys; first += KEYS)
        att_score_tile<C, KEYS, V>(k + first * stride, stride, t.q, att_scale(t), t.bias + first * wide,
                                   t.scores + first * ATT_ROWS, t.peak);
    if constexpr (KEYS > 1)
        if (first < keys) att_scores<C, KEYS / 2, V>(t, k, stride, first, keys);
}

/* Scores of later keys become minus infinity, and the peak is found anew. */
template <class C, int V> static void att_mask_future(const AttTask<C> &t, ull_i64 first, ull_i64 keys) {
    const ull_vec32 never = ull_splat<ATT_LANES>(-__builtin_inff());
    for (int j = 0; j < V; ++j) {
        ull_i32<ATT_LANES> query;
        for (int l = 0; l < ATT_LANES; ++l) query[l] = (int)t.query[j * ATT_LANES + l];
        ull_vec32 top = ull_float32::load(t.maximum + j * ATT_LANES);
        for (ull_i64 x = 0; x < keys; ++x) {
            float *at = t.scores + x * ATT_ROWS + j * ATT_LANES;
            const ull_i32<ATT_LANES> future = query < ull_splat<ATT_LANES>((int)(first + x));
            const ull_vec32 score = ull_select<ATT_LANES>(future, never, ull_float32::load(at));
            ull_float32::store(at, score);
            top = ull_larger(score, top);
        }
        ull_float32::store(t.peak + j * ATT_LANES, top);
    }
}

/* ---- softmax ----------------------------------------------------------------------------------------------- */
/* Scores of key x become weights; with PAIRS those of KEYS keys from x on become words, over scores that were read. */
template <class C, int KEYS, int V>
ULL_FN void att_weigh(float *scores, ull_i64 x, const ull_vec32 (&peak)[V], ull_vec32 (&sum)[V]) {
    ATT_UNROLL
    for (int j = 0; j < V; ++j) {
        float *at = scores + j * ATT_LANES;
        ull_vec32 weight[2] = {};
        ATT_UNROLL
        for (int i = 0; i < KEYS; ++i) {
            weight[i] = att_weight<C>(ull_float32::load(at + (x + i) * ATT_ROWS), peak[j]);
            sum[j] += weight[i];
        }
        ull_float32::store(at + x / C::WORD * ATT_ROWS, att_weight_words<C>(weight[0], weight[1]));
    }
}

template <class C, int V> static void att_softmax(const AttTask<C> &t, ull_i64 keys) {
    ull_vec32 peak[V], sum[V];
    ATT_UNROLL
    for (int j = 0; j < V; ++j) {
        const ull_vec32 top = ull_float32::load(t.peak + j * ATT_LANES);
        peak[j] = att_finite_peak(top);
        const ull_vec32 factor = att_weight<C>(ull_float32::load(t.maximum + j * ATT_LANES), peak[j]);
        ull_float32::store(t.factor + j * ATT_LANES, factor);
        ull_float32::store(t.maximum + j * ATT_LANES, top);
        sum[j] = ull_keep(ull_float32::load(t.sum + j * ATT_LANES) * factor);
    }
    ull_i64 x = 0;
    for (; x + C::WORD <= keys; x += C::WORD) att_weigh<C, C::WORD>(t.scores, x, peak, sum);
    if (x < keys) att_weigh<C, 1>(t.scores, x, peak, sum);
    ATT_UNROLL
    for (int j = 0; j < V; ++j) ull_float32::store(t.sum + j * ATT_LANES, sum[j]);
}

/* ---- values ------------------------------------------------------------------------------------------------ */
/* W value elements of V vectors of rows: rescale what is there (nothing at first), then add the block's keys. */
template <class C, int W, int V>
static __attribute__((noinline)) void att_value_tile(const float *v, ull_i64 stride, const float *weights,
                                                     ull_i64 words, const float *factor, bool first, float *out) {
    ull_vec32 sum[W][V] = {};
    if (!first)
        ATT_UNROLL
        for (int i = 0; i < W; ++i)
            ATT_UNROLL
            for (int j = 0; j < V; ++j)
                sum[i][j] = ull_keep(ull_float32::load(out + i * ATT_ROWS + j * ATT_LANES) *
                                     ull_float32::load(factor + j * ATT_LANES));
    for (ull_i64 x = 0; x < words; ++x) {
        ull_vec32 weight[V];
        ATT_UNROLL
        for (int j = 0; j < V; ++j) weight[j] = ull_float32::load(weights + x * ATT_ROWS + j * ATT_LANES);
        ATT_UNROLL
        for (int i = 0; i < W; ++i) {
            const ull_vec32 value = ull_splat<ATT_LANES>(v[x * stride + i]);
            ATT_UNROLL
            for (int j = 0; j < V; ++j) sum[i][j] = att_add<C>(sum[i][j], value, weight[j]);
        }
    }
    ATT_UNROLL
    for (int i = 0; i < W; ++i)
        ATT_UNROLL
        for (int j = 0; j < V; ++j) ull_float32::store(out + i * ATT_ROWS + j * ATT_LANES, sum[i][j]);
}

template <class C, int V>
static void att_values(const AttTask<C> &t, const float *v, ull_i64 stride, ull_i64 words, bool first) {
    enum { TAIL = C::DV % ATT_TILE };
    for (int x = 0; x + ATT_TILE <= C::DV; x += ATT_TILE)
        att_value_tile<C, ATT_TILE, V>(v + x, stride, t.scores, words, t.factor, first, t.out + x * ATT_ROWS);
    if constexpr (TAIL > 0)
        att_value_tile<C, TAIL, V>(v + C::DV - TAIL, stride, t.scores, words, t.factor, first,
                                   t.out + (C::DV - TAIL) * ATT_ROWS);
}

/* ---- rows in, rows out ------------------------------------------------------------------------------------- */
/* Queries as [word][row]; missing rows repeat the last one. */
template <class C> static void att_pack_queries(const AttTask<C> &t, int vectors) {
    for (ull_i64 row = 0; row < vectors * ATT_LANES; row += ATT_LANES)
        for (int x = 0; x < C::WORDS; x += ATT_LANES) {
            ull_vec32 r[ATT_LANES];
            ATT_UNROLL
            for (int i = 0; i < ATT_LANES; ++i) r[i] = att_query_words(t, row + i, x);
            ull_transpose(r);
            ATT_UNROLL
            for (int i = 0; i < ATT_LANES; ++i)
                if (x + i < C::WORDS) ull_float32::store(t.q + (x + i) * ATT_ROWS + row, r[i]);
        }
}

/* Output element x of a vector of rows, or a pair of them. */
template <class C> ULL_FN ull_vec32 att_output_words(const AttTask<C> &t, int x, ull_i64 row, ull_vec32 inverse) {
    const auto element = [&](int at) {
        return at < C::DV ? ull_float32::load(t.out + at * ATT_ROWS + row) * inverse : ull_vec32{};
    };
    if constexpr (C::OUT_WORD == 1) return element(x);
    else return ull_pair(element(x), element(x + 1));
}

template <class C> static void att_write_rows(const AttTask<C> &t, int vectors) {
    enum { WORD = C::OUT_WORD };
    for (ull_i64 row = 0; row < vectors * ATT_LANES; row += ATT_LANES) {
        const ull_vec32 inverse = att_inverse(ull_float32::load(t.sum + row));
        for (int x = 0; x < C::DV; x += ATT_LANES * WORD) {
            ull_vec32 r[ATT_LANES] = {};
            ATT_UNROLL
            for (int i = 0; i < ATT_LANES; ++i)
                if (x + i * WORD < C::DV) r[i] = att_output_words(t, x + i * WORD, row, inverse);
            ull_transpose(r);
            ATT_UNROLL
            for (int i = 0; i < ATT_LANES; ++i)
                if (row + i < t.rows) att_store_words<C>(att_output(t, row + i), x, r[i]);
        }
    }
}

/* Rows of a block as contiguous float32; float32 rows, and pairs of bfloat16, are read in place. */
template <class S, int N>
static void att_widen(const typename S::memory *from, ull_i64 stride, ull_i64 rows, float *to) {
    for (ull_i64 i = 0; i < rows; ++i)
        for (int x = 0; x < N; x += ATT_LANES)
            att_store_piece<ull_float32, N>(to + i * N, x, att_load_piece<S, N>(from + i * stride, x));
}
template <class T> struct AttRows {
    const T *data;
    ull_i64 stride;
};
template <class S, class T, int N>
ULL_FN AttRows<T> att_rows(const AttOperand<S> &o, ull_i64 b, ull_i64 h, ull_i64 first, ull_i64 rows, float *scratch) {
    if constexpr (__is_same(typename S::memory, T)) return {o.at(b, h, first), o.position};
    else {
        att_widen<S, N>(o.at(b, h, first), o.position, rows, scratch);
        return {scratch, N};
    }
}
template <class C> ULL_FN AttRows<float> att_value_words(const AttTask<C> &t, ull_i64 first, ull_i64 keys) {
    if constexpr (!C::PAIRS)
        return att_rows<typename C::V, float, C::DV>(t.p.v, t.batch, t.kv_head, first, keys, t.v);
    else {
        att_pair_values(t, t.p.v.at(t.batch, t.kv_head, first), keys);
        return {t.v, C::DV};
    }
}

/* ---- one block of rows ------------------------------------------------------------------------------------- */
template <class C, int V> static void att_key_block(const AttTask<C> &t, ull_i64 first, ull_i64 keys) {
    const auto k = att_rows<typename C::K, typename C::Key, C::D>(t.p.k, t.batch, t.kv_head, first, keys, t.k);
    const auto v = att_value_words(t, first, keys);
    if constexpr (C::MASK != ATT_NO_MASK) att_load_bias(t, first, keys);
    ATT_UNROLL
    for (int j = 0; j < V; ++j)
        ull_float32::store(t.peak + j * ATT_LANES, ull_float32::load(t.maximum + j * ATT_LANES));
    att_scores<C, ATT_TILE, V>(t, k.data, k.stride, 0, keys);
    if (C::CAUSAL && first + keys - 1 > t.query[0]) att_mask_future<C, V>(t, first, keys);
    att_softmax<C, V>(t, keys);
    att_values<C, V>(t, v.data, v.stride, (keys + C::WORD - 1) / C::WORD, first == 0);
}

template <class C, int V> static __attribute__((noinline)) void att_many(const AttTask<C> &t) {
    att_start(t, V * ATT_LANES);
    att_pack_queries(t, V);
    const ull_i64 end = att_key_end(t);
    for (ull_i64 first = 0; first < end; first += ATT_KEYS)
        att_key_block<C, V>(t, first, end - first < ATT_KEYS ? end - first : ATT_KEYS);
    att_write_rows(t, V);
}
#endif
