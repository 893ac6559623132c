/* A thread on a stack that we mapped and touched ourselves, so that its bytes are known and no run faults them in. */
#pragma once
#include "layout.h"

/* Starts `entry(argument)` with all signals blocked; the stack has a guard page below. Returns OK or what failed. */
ULL_INTERNAL u32 start_thread(u64 *handle, char **stack, i64 stack_bytes, void *(*entry)(void *), void *argument);
ULL_INTERNAL void join_thread(u64 handle, char *stack, i64 stack_bytes);
