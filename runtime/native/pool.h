/* Fork-join over the context's own threads: each walks its own contiguous part and then steals from far ends. */
#pragma once
#include "layout.h"

typedef void (*Body)(void *what, i64 begin, i64 end, u32 thread);

/* Runs body over tasks 0..tasks on at most `threads` threads; the caller works too and never waits for a sleeper. */
ULL_INTERNAL void parallel(Context *c, Body body, void *what, i64 tasks, u32 threads);
/* Called once per run: moves workers that keep meeting others on one CPU, then wakes them all. */
ULL_INTERNAL void prepare_pool(Context *c);
ULL_INTERNAL u32 start_pool(Context *c);
ULL_INTERNAL void stop_pool(Context *c);
