/* Sorting one row: items of a key and a position, in the order of keys, equal keys in the order of positions.
 *
 * Keys are unsigned integers in the order of the values: signs flipped, negative floats inverted, every NaN the greatest
 * key, -0 the key of 0. Short rows are sorted by insertion, longer ones by their bytes, the lowest first (LSD radix sort:
 * Knuth, The Art of Computer Programming 3, 5.2.5), skipping bytes that all keys share. Where few of many are wanted,
 * only so many are held as make sorting them now and then cheap.
 */
#ifndef ULLAGE_SORT_H
#define ULLAGE_SORT_H

#include "simd.h"

typedef unsigned ull_key32;
typedef unsigned long ull_key64;

ULL_FN ull_key32 ull_key_i32(int x) { return (ull_key32)x ^ 0x80000000u; }
ULL_FN ull_key64 ull_key_i64(ull_i64 x) { return (ull_key64)x ^ 0x8000000000000000ul; }
ULL_FN ull_key32 ull_key_bool(bool x) { return x; }
ULL_FN ull_key32 ull_key_f32(float x) {
    const ull_key32 bits = ull_bits<ull_key32>(x == 0 ? 0.0f : x);
    return x != x ? ~0u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
ULL_FN ull_key64 ull_key_f64(double x) {
    const ull_key64 bits = ull_bits<ull_key64>(x == 0 ? 0.0 : x), sign = 0x8000000000000000ul;
    return x != x ? ~0ul : bits & sign ? ~bits : bits | sign;
}

/* A key of 32 bits over a position, as one word. */
struct ull_item32 {
    static constexpr int bytes = 4;
    unsigned long word;
    static ULL_INLINE ull_item32 of(ull_key32 key, ull_i64 at) {
        ull_item32 item;
        item.word = (unsigned long)key << 32 | (unsigned)at;
        return item;
    }
    ULL_INLINE unsigned long key() const { return word >> 32; }
    ULL_INLINE ull_i64 at() const { return (unsigned)word; }
};

struct ull_item64 {
    static constexpr int bytes = 8;
    unsigned long whole;
    ull_i64 place;
    static ULL_INLINE ull_item64 of(ull_key64 key, ull_i64 at) {
        ull_item64 item;
        item.whole = key, item.place = at;
        return item;
    }
    ULL_INLINE unsigned long key() const { return whole; }
    ULL_INLINE ull_i64 at() const { return place; }
};

template <class Item> ULL_FN int ull_digit(Item item, int byte) { return item.key() >> (8 * byte) & 255; }

template <class Item> static void ull_insertion_sort(Item *items, ull_i64 n) {
    for (ull_i64 i = 1; i < n; ++i) {
        const Item item = items[i];
        ull_i64 j = i;
        for (; j > 0 && items[j - 1].key() > item.key(); --j) items[j] = items[j - 1];
        items[j] = item;
    }
}

/* Sorts n items with the help of `other`, as long; the result is at either of them. */
template <class Item> static __attribute__((noinline)) Item *ull_radix_sort(Item *items, Item *other, ull_i64 n) {
    unsigned counts[Item::bytes][256];
    __builtin_memset(counts, 0, sizeof counts);
    for (ull_i64 i = 0; i < n; ++i)
        for (int byte = 0; byte < Item::bytes; ++byte) ++counts[byte][ull_digit(items[i], byte)];
    for (int byte = 0; byte < Item::bytes; ++byte) {
        unsigned *const starts = counts[byte];
        if (starts[ull_digit(items[0], byte)] == n) continue;
        unsigned total = 0;
        for (int digit = 0; digit < 256; ++digit) {
            const unsigned count = starts[digit];
            starts[digit] = total;
            total += count;
        }
        for (ull_i64 i = 0; i < n; ++i) other[starts[ull_digit(items[i], byte)]++] = items[i];
        Item *const sorted = other;
        other = items;
        items = sorted;
    }
    return items;
}

/* The sorted items, at either place. */
template <class Item> static Item *ull_sorted(Item *items, Item *other, ull_i64 n) {
    if (n > 32) return ull_radix_sort(items, other, n);
    ull_insertion_sort(items, n);
    return items;
}

/* Takes the items of a row in the order of their positions and keeps the `count` least: all of them at first, and
 * whenever there is no more room only the least, after which greater ones do not come in. `items` has room for twice
 * `room` of them, which is less than the row only if it is more than `count`. */
template <class Item> struct ull_least {
    Item *items;
    ull_i64 room, count, held;
    unsigned long bound;
    bool open;
    ULL_INLINE ull_least(void *memory, ull_i64 room, ull_i64 count)
        : items((Item *)memory), room(room), count(count), held(0), bound(0), open(true) {}
    ULL_INLINE void take(Item item) {
        if (open | (item.key() < bound)) {
            if (__builtin_expect(held == room, 0)) shrink();
            items[held++] = item;
        }
    }
    __attribute__((noinline)) void shrink() {
        const Item *sorted = ull_sorted(items, items + room, held);
        if (sorted != items)
            for (ull_i64 i = 0; i < count; ++i) items[i] = sorted[i];
        held = count, bound = items[count - 1].key(), open = false;
    }
    /* Stores the positions in order to the same memory. */
    ULL_INLINE void finish(ull_i64 *order) {
        const Item *sorted = ull_sorted(items, items + room, held);
        for (ull_i64 i = 0; i < count; ++i) order[i] = sorted[i].at();
    }
};

#endif
