#include "crc.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

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
#define HAS_CRC_CODE
/* Asked of the processor itself: __builtin_cpu_supports needs a symbol of libgcc that Zig does not have. */
bool has_crc_instruction() {
    u32 a = 1, b, c = 0, d;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return (c >> 20) & 1;
}

/* Once, when the code is loaded: cpuid traps in virtual machines, and rows are checked one by one. */
const bool HAS_CRC_INSTRUCTION = has_crc_instruction();

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
#elif defined(__aarch64__)
#define HAS_CRC_CODE
enum : u64 { CRC_CAPABILITY = 1 << 7 }; /* HWCAP_CRC32 */
const bool HAS_CRC_INSTRUCTION = getauxval(AT_HWCAP) & CRC_CAPABILITY;

/* As text for the assembler: compilers spell the attribute and the built-in functions differently. */
u32 crc_instruction(u32 crc, const unsigned char *data, i64 length) {
    for (; length >= 8; length -= 8, data += 8) {
        u64 word;
        __builtin_memcpy(&word, data, 8);
        asm(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    }
    for (; length > 0; length--, data++)
        asm(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"(u32(*data)));
    return crc;
}
#endif

}  // namespace

u32 crc32c(const void *data, i64 length) {
    const unsigned char *bytes = static_cast<const unsigned char *>(data);
#if defined(HAS_CRC_CODE)
    if (HAS_CRC_INSTRUCTION) return ~crc_instruction(~0u, bytes, length);
#endif
    return ~crc_table(~0u, bytes, length);
}

ULL_EXPORT u32 ull_crc32c(const void *data, i64 length) { return crc32c(data, length); }
ULL_EXPORT u32 ull_crc32c_table(const void *data, i64 length) {
    return ~crc_table(~0u, static_cast<const unsigned char *>(data), length);
}
