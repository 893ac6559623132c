/* What attention multiplies: floats or, if queries, keys and values are bfloat16 and the machine has an instruction for
   it, words that hold pairs of them (C::PAIRS): of neighbouring head elements in scores, of neighbouring keys in
   outputs, for which weights are rounded to bfloat16. All sums, and the softmax, are float32. */
#ifndef ULLAGE_ATTENTION_WORDS_H
#define ULLAGE_ATTENTION_WORDS_H
#include "attention_task.h"

/* sum + a * b, of floats or of pairs. */
template <class C> ULL_FN ull_vec32 att_add(ull_vec32 sum, ull_vec32 a, ull_vec32 b) {
    if constexpr (C::PAIRS) ull_dot_pairs(sum, a, b);
    else sum = ull_fma<ATT_LANES>(a, b, sum);
    return sum;
}

/* ---- queries and keys -------------------------------------------------------------------------------------- */
/* Word x of a key in all lanes; its first HALF alone if the key ends there. */
template <class C, bool HALF> ULL_FN ull_vec32 att_key_word(const typename C::Key *key, int x) {
    if constexpr (!C::PAIRS) return ull_splat<ATT_LANES>(key[x]);
    else {
        int word = 0;
        __builtin_memcpy(&word, key + 2 * x, HALF ? 2 : 4);
        return ull_bits<ull_vec32>(ull_splat<ATT_LANES>(word));
    }
}

/* Words from x on of a row of D elements of S, behind which all is zero. */
template <class C, class S> ULL_FN ull_vec32 att_load_words(const typename S::memory *row, int x) {
    if constexpr (!C::PAIRS) return att_load_piece<S, C::D>(row, x);
    else {
        enum { N = 2 * ATT_LANES };
        const int n = C::D - 2 * x;
        return ull_bits<ull_vec32>(n < N ? ull_load_n<ull_u16, N>(row + 2 * x, n) : ull_load<ull_u16, N>(row + 2 * x));
    }
}

/* Queries are scaled if they are floats; those of pairs are not rounded again: their scores are scaled. */
template <class C> ULL_FN ull_vec32 att_query_words(const AttTask<C> &t, ull_i64 row, int x) {
    const ull_vec32 words = att_load_words<C, typename C::Q>(att_query(t, row), x);
    return C::PAIRS ? words : words * att_scale(t);
}
template <class C> ULL_FN ull_vec32 att_score(ull_vec32 sum, ull_vec32 scale) {
    return C::PAIRS ? ull_mul<ATT_LANES>(sum, scale) : sum;
}

/* Weights of two keys as pairs, or of one. */
template <class C> ULL_FN ull_vec32 att_weight_words(ull_vec32 first, ull_vec32 second) {
    if constexpr (C::PAIRS) return ull_pair(first, second);
    else return first;
}

/* ---- outputs ----------------------------------------------------------------------------------------------- */
/* Stores elements of a row from x on: lanes of one vector, or as pairs of two. */
template <class C> ULL_FN void att_store_words(typename C::O::memory *row, int x, ull_vec32 words) {
    if constexpr (C::OUT_WORD == 1) att_store_piece<typename C::O, C::DV>(row, x, words);
    else {
        enum { N = 2 * ATT_LANES };
        const auto halves = ull_bits<ull_v<ull_u16, N>>(words);
        const int n = C::DV - x;
        n < N ? ull_store_n<ull_u16, N>(row + x, halves, n) : ull_store<ull_u16, N>(row + x, halves);
    }
}

/* ---- values ------------------------------------------------------------------------------------------------ */
/* N value elements, or all lanes of them, of two keys (or one) as pairs. */
template <int N> ULL_FN ull_vec32 att_load_values(const ull_u16 *low, const ull_u16 *high, bool both) {
    typedef ull_v<ull_u16, ATT_LANES> halves;
    const auto load = [](const ull_u16 *p) {
        return N < ATT_LANES ? ull_load_n<ull_u16, ATT_LANES>(p, N) : ull_load<ull_u16, ATT_LANES>(p);
    };
    const halves a = load(low), b = both ? load(high) : halves{};
    return ull_bits<ull_vec32>(ull_widen<ATT_LANES>(a) | ull_widen<ATT_LANES>(b) << 16);
}

/* The values of a block of keys as words [pair of keys][DV]; an odd last key is paired with zeros. */
template <class C> static void att_pair_values(const AttTask<C> &t, const ull_u16 *v, ull_i64 keys) {
    enum { TAIL = C::DV % ATT_LANES };
    float *to = t.v;
    for (ull_i64 key = 0; key < keys; key += 2, to += C::DV) {
        const ull_u16 *low = v + key * t.p.v.position, *high = low + t.p.v.position;
        const bool both = key + 1 < keys;
        int x = 0;
        for (; x + ATT_LANES <= C::DV; x += ATT_LANES)
            ull_float32::store(to + x, att_load_values<ATT_LANES>(low + x, high + x, both));
        if constexpr (TAIL > 0) ull_float32::store(to + x, att_load_values<TAIL>(low + x, high + x, both), TAIL);
    }
}
#endif
