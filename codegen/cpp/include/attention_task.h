/* One attention, one task of it, and what both ways of running a task share: masks, weights, rows in and out. */
#ifndef ULLAGE_ATTENTION_TASK_H
#define ULLAGE_ATTENTION_TASK_H
#include "pairs.h"
#include "storage.h"

#define ATT_UNROLL _Pragma("GCC unroll 16")
enum { ATT_LANES = ULL_LANES, ATT_ROWS = 3 * ATT_LANES, ATT_FEW = ATT_LANES / 2, ATT_KEYS = 64 };
enum AttMask { ATT_NO_MASK, ATT_KEY_MASK, ATT_FULL_MASK };
constexpr float ATT_LOG2_E = 1.44269504088896341f;

/* One operand: element strides of batch, head and position; the last dimension is contiguous. */
template <class S> struct AttOperand {
    typename S::memory *data;
    ull_i64 batch, head, position;
    typename S::memory *at(ull_i64 b, ull_i64 h, ull_i64 s) const { return data + b * batch + h * head + s * position; }
};

template <bool PAIRS> struct AttKey { typedef float type; };
template <> struct AttKey<true> { typedef ull_u16 type; };

/* The compile-time shape: head and value dimension, kind of mask, rows (0 if unknown), whether products are of pairs of
   bfloat16, and storage types. */
template <int D_, int DV_, AttMask MASK_, bool CAUSAL_, ull_i64 ROWS_, bool PAIRS_, class Q_, class K_, class V_,
          class O_, class M_>
struct AttShape {
    enum { D = D_, DV = DV_, WORD = PAIRS_ ? 2 : 1, WORDS = (D + WORD - 1) / WORD };
    static constexpr ull_i64 ROWS = ROWS_;
    static constexpr bool CAUSAL = CAUSAL_, PAIRS = PAIRS_;
    static constexpr AttMask MASK = MASK_;
    typedef Q_ Q;
    typedef K_ K;
    typedef V_ V;
    typedef O_ O;
    typedef M_ M;
    typedef typename AttKey<PAIRS_>::type Key; /* what scores are computed from */
    static constexpr int OUT_WORD = PAIRS && __is_same(O, ull_bfloat16) ? 2 : 1; /* elements that are stored at once */
};

template <class C> struct AttProblem {
    AttOperand<typename C::Q> q;
    AttOperand<typename C::K> k;
    AttOperand<typename C::V> v;
    AttOperand<typename C::O> out;
    AttOperand<typename C::M> mask;
    ull_i64 mask_key; /* element stride of the mask along keys */
    ull_i64 heads, kv_heads, queries, keys;
    float scale;
};

/* One task: a block of rows that share their keys, and its pieces of the thread's workspace. */
template <class C> struct AttTask {
    const AttProblem<C> &p;
    ull_i64 batch, kv_head, rows, last_query;
    ull_i64 *query, *head;                /* of each row */
    float *maximum, *sum, *factor, *peak; /* of each row: running maximum and sum, rescaling, maximum with this block */
    float *q, *scores, *out, *bias, *k, *v;
};

/* ---- masks ------------------------------------------------------------------------------------------------- */
/* What is added to the scores of n keys: contiguous or strided. */
template <class M> static ull_vec32 att_bias(const typename M::memory *p, ull_i64 stride, ull_i64 n) {
    if (stride == 1) return n == ATT_LANES ? M::load(p) : M::load(p, n);
    typename M::memory near[ATT_LANES] = {};
    for (ull_i64 i = 0; i < n; ++i) near[i] = p[i * stride];
    return M::load(near);
}

template <class C> ULL_FN const typename C::M::memory *att_mask_row(const AttTask<C> &t, ull_i64 row, ull_i64 key) {
    return t.p.mask.at(t.batch, t.head[row], t.query[row]) + key * t.p.mask_key;
}

/* ---- softmax ----------------------------------------------------------------------------------------------- */
/* exp(score - peak); a row that has seen only minus infinity gives 0. Without a mask scores are in units of ln 2. */
template <class C> ULL_FN ull_vec32 att_weight(ull_vec32 score, ull_vec32 peak) {
    ull_vec32 x = score - peak;
    if constexpr (C::MASK != ATT_NO_MASK) x *= ull_splat<ATT_LANES>(ATT_LOG2_E);
    if constexpr (C::PAIRS) return ull_exp2_of_pairs(x);
    else return ull_exp2_negative(x);
}
ULL_FN ull_vec32 att_finite_peak(ull_vec32 peak) {
    const ull_i32<ATT_LANES> unseen = peak == ull_splat<ATT_LANES>(-__builtin_inff());
    return ull_select<ATT_LANES>(unseen, ull_vec32{}, peak);
}

/* One over the sum of weights; 0 for a row without keys. */
ULL_FN ull_vec32 att_inverse(ull_vec32 sum) {
    return ull_select<ATT_LANES>(sum == ull_vec32{}, ull_vec32{}, ull_splat<ATT_LANES>(1.0f) / sum);
}

/* ---- rows -------------------------------------------------------------------------------------------------- */
template <class S, int N> ULL_FN ull_vec32 att_load_piece(const typename S::memory *p, int x) {
    return x + ATT_LANES <= N ? S::load(p + x) : S::load(p + x, N - x);
}
template <class S, int N> ULL_FN void att_store_piece(typename S::memory *p, int x, ull_vec32 value) {
    x + ATT_LANES <= N ? S::store(p + x, value) : S::store(p + x, value, N - x);
}
template <class C> ULL_FN ull_vec32 att_scale(const AttTask<C> &t) {
    return ull_splat<ATT_LANES>(C::MASK == ATT_NO_MASK ? t.p.scale * ATT_LOG2_E : t.p.scale);
}

template <class C> ULL_FN ull_i64 att_key_end(const AttTask<C> &t) {
    return C::CAUSAL && t.last_query + 1 < t.p.keys ? t.last_query + 1 : t.p.keys;
}
template <class C> static void att_start(const AttTask<C> &t, ull_i64 rows) {
    for (ull_i64 i = 0; i < rows; i += ATT_LANES) {
        ull_float32::store(t.maximum + i, ull_splat<ATT_LANES>(-__builtin_inff()));
        ull_float32::store(t.sum + i, ull_vec32{});
    }
}
template <class C> ULL_FN const typename C::Q::memory *att_query(const AttTask<C> &t, ull_i64 row) {
    return t.p.q.at(t.batch, t.head[row], t.query[row]);
}
template <class C> ULL_FN typename C::O::memory *att_output(const AttTask<C> &t, ull_i64 row) {
    return t.p.out.at(t.batch, t.head[row], t.query[row]);
}
#endif
