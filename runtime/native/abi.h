/* The contract between generated kernels and the executor. */
#pragma once
typedef long ull_i64;

struct UllageArgs {
    void *const *p;      /* buffers, in the kernel's order */
    const ull_i64 *n;    /* run-time integers, in the kernel's order */
    void *shared;        /* workspace of the launch, 64-byte aligned */
    void *thread;        /* workspace of this thread, 64-byte aligned */
};

typedef void (*UllageKernel)(const struct UllageArgs *args, ull_i64 begin, ull_i64 end);
