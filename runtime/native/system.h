/* Thin wrappers: futex, clock, pause, and the failure slot of a context. */
#pragma once
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "layout.h"

static inline void futex_wait(u32 *word, u32 expected) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

static inline void futex_wake(u32 *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

static inline u64 now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return u64(t.tv_sec) * 1000000000u + u64(t.tv_nsec);
}

static inline void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline u32 state_of(const Block *block) { return __atomic_load_n(&block->state, __ATOMIC_ACQUIRE); }

/* Keeps the first failure of a run; later ones are consequences. */
static inline void fail(Context *c, const Failure &failure) {
    Failure *slot = &c->failure;
    if (__atomic_exchange_n(&slot->claimed, 1u, __ATOMIC_ACQ_REL)) return;
    slot->constant = failure.constant;
    slot->tile = failure.tile;
    slot->value = failure.value;
    slot->error = failure.error;
    __atomic_store_n(&slot->status, failure.status, __ATOMIC_RELEASE);
}

static inline bool failed(Context *c) { return __atomic_load_n(&c->failure.claimed, __ATOMIC_ACQUIRE); }
