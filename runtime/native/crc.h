/* CRC-32C (Castagnoli polynomial, reflected), with the CPU's instruction where it exists. */
#pragma once
#include "layout.h"

ULL_INTERNAL u32 crc32c(const void *data, i64 length);
