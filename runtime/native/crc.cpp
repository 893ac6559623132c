#include "crc.h"

namespace {

struct Table {
    u32 entry[256];
};

constexpr Table make_table() {
    Table table{};
    for (u32 i = 0; i < 256; i++) {
        u32 value = i;
        for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ (0x82F63B78u & (0u - (value & 1u)));
        table.entry[i] = value;
    }
    return table;
}

constexpr Table TABLE = make_table();

u32 crc_table(u32 crc, const unsigned char *data, i64 length) {
    for (i64 i = 0; i < length; i++) crc = TABLE.entry[(crc ^ data[i]) & 255] ^ (crc >> 8);
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) u32 crc_instruction(u32 seed, const unsigned char *data, i64 length) {
    u64 crc = seed;
    for (; length >= 8; length -= 8, data += 8) {
        u64 word;
        __builtin_memcpy(&word, data, 8);
        crc = __builtin_ia32_crc32di(crc, word);
    }
    u32 rest = u32(crc);
    for (; length > 0; length--, data++) rest = __builtin_ia32_crc32qi(rest, *data);
    return rest;
}
#endif

}  // namespace

u32 crc32c(const void *data, i64 length) {
    const unsigned char *bytes = static_cast<const unsigned char *>(data);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return ~crc_instruction(~0u, bytes, length);
#endif
    return ~crc_table(~0u, bytes, length);
}

ULL_EXPORT u32 ull_crc32c(const void *data, i64 length) { return crc32c(data, length); }
ULL_EXPORT u32 ull_crc32c_table(const void *data, i64 length) {
    return ~crc_table(~0u, static_cast<const unsigned char *>(data), length);
}
