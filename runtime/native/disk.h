/* The disk thread: blocks are queued by the caller and read one after the other, with direct I/O where possible. */
#pragma once
#include "layout.h"

ULL_INTERNAL u32 start_disk(Context *c);
ULL_INTERNAL void stop_disk(Context *c);
/* Queues a block unless it is on its way already. */
ULL_INTERNAL void request_block(Context *c, i64 block);
/* Sleeps until the block has arrived; false if reading it failed. Adds the time slept to the statistics. */
ULL_INTERNAL bool await_block(Context *c, Block *block);
/* Drops what short unaligned reads have left in the page cache. */
ULL_INTERNAL void drop_cached(Context *c);
/* When the file was last written, in nanoseconds. */
ULL_INTERNAL i64 file_changed_ns(Context *c);
/* Sleeps until nothing is queued or being read. */
ULL_INTERNAL void drain_disk(Context *c);
/* Reads an aligned range of the file; on failure the context's failure names the constant and tile given. */
ULL_INTERNAL bool read_range(Context *c, char *to, i64 offset, i64 length, u32 constant, i64 tile);
