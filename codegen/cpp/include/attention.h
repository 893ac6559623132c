/* Attention with an online softmax over fixed key blocks (Milakov & Gimelshein 2018; Dao et al. 2022).

   A row is one (query, head) pair. The score block is kept transposed, [key][row], with a row in one vector lane: every
   sum runs over keys or head elements in ascending order inside a lane, the softmax needs no horizontal step, and keys
   and values are read in place as broadcasts. Few rows (decoding) take the path of attention_few.h, which transposes
   keys in registers and adds in the same order, so that both give the same bits. */
#ifndef ULLAGE_ATTENTION_H
#define ULLAGE_ATTENTION_H
#include "attention_few.h"
#include "attention_many.h"

template <class C> ULL_FN AttTask<C> att_task(const AttProblem<C> &p, void *memory) {
    AttTask<C> t{p, 0, 0, 0, 0};
    t.query = (ull_i64 *)memory, t.head = t.query + ATT_ROWS;
    t.maximum = (float *)(t.head + ATT_ROWS), t.sum = t.maximum + ATT_ROWS;
    t.factor = t.sum + ATT_ROWS, t.peak = t.factor + ATT_ROWS;
    t.scores = t.peak + ATT_ROWS, t.q = t.scores + ATT_KEYS * ATT_ROWS, t.out = t.q + ATT_FEW_STRIDE<C> * ATT_ROWS;
    t.k = t.out + C::DV * ATT_ROWS;
    t.v = t.k + (__is_same(typename C::K::memory, typename C::Key) ? 0 : ATT_KEYS * C::D);
    t.bias = t.v + (__is_same(typename C::V, ull_float32) ? 0 : ATT_KEYS / C::WORD * C::DV);
    return t;
}

/* Whether a block of `from` to `to` rows can occur: only blocks that can are compiled. */
template <class C> constexpr bool att_occurs(ull_i64 from, ull_i64 to) {
    const ull_i64 last = C::ROWS % ATT_ROWS;
    return C::ROWS == 0 || (last >= from && last <= to) || (to == ATT_ROWS && C::ROWS >= ATT_ROWS);
}
template <class C> ULL_FN void att_run(const AttTask<C> &t) {
    if constexpr (att_occurs<C>(1, ATT_FEW))
        if (t.rows <= ATT_FEW) return att_few(t);
    if constexpr (att_occurs<C>(ATT_FEW + 1, ATT_LANES))
        if (t.rows <= ATT_LANES) return att_many<C, 1>(t);
    if constexpr (att_occurs<C>(ATT_LANES + 1, 2 * ATT_LANES))
        if (t.rows <= 2 * ATT_LANES) return att_many<C, 2>(t);
    if constexpr (att_occurs<C>(2 * ATT_LANES + 1, ATT_ROWS)) att_many<C, 3>(t);
}

/* Query and head of each row; missing rows repeat the last one. */
template <class C> ULL_FN void att_number_rows(const AttTask<C> &t, ull_i64 first, ull_i64 group) {
    ull_i64 query = first / group, head = first % group;
    for (ull_i64 i = 0; i < ATT_ROWS; ++i) {
        t.query[i] = query, t.head[i] = t.kv_head * group + head;
        if (i + 1 < t.rows && ++head == group) head = 0, ++query;
    }
}

/* Tasks begin..end of batch × key-value heads × blocks of rows. */
template <class C> static void att_tasks(const AttProblem<C> &p, void *memory, ull_i64 begin, ull_i64 end) {
    AttTask<C> t = att_task(p, memory);
    const ull_i64 group = p.heads / p.kv_heads, rows = p.queries * group, blocks = (rows + ATT_ROWS - 1) / ATT_ROWS;
    for (ull_i64 task = begin; task < end; ++task) {
        const ull_i64 first = task % blocks * ATT_ROWS;
        t.batch = task / blocks / p.kv_heads, t.kv_head = task / blocks % p.kv_heads;
        t.rows = rows - first < ATT_ROWS ? rows - first : ATT_ROWS;
        t.last_query = (first + t.rows - 1) / group;
        att_number_rows(t, first, group);
        att_run(t);
    }
}
#endif
