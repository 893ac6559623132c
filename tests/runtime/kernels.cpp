/* Kernels that the runtime's tests plan by hand. */
#include "abi.h"

namespace {
enum : ull_i64 { CHUNK = 256 };
}

/* out[i] = 2 x[i] + 1; n: elements; tasks of 256 elements. */
extern "C" void twice_plus_one(const UllageArgs *a, ull_i64 begin, ull_i64 end) {
    const float *x = static_cast<const float *>(a->p[0]);
    float *out = static_cast<float *>(a->p[1]);
    ull_i64 stop = end * CHUNK < a->n[0] ? end * CHUNK : a->n[0];
    for (ull_i64 i = begin * CHUNK; i < stop; i++) out[i] = 2.0f * x[i] + 1.0f;
}

/* out[tile] = sum over k of w[tile][k] x[k]; n: k, first tile, tiles; one task per tile. */
extern "C" void tile_dot(const UllageArgs *a, ull_i64 begin, ull_i64 end) {
    const float *w = static_cast<const float *>(a->p[0]);
    const float *x = static_cast<const float *>(a->p[1]);
    float *out = static_cast<float *>(a->p[2]) + a->n[1];
    for (ull_i64 t = begin; t < end; t++) {
        float sum = 0;
        for (ull_i64 i = 0; i < a->n[0]; i++) sum += w[t * a->n[0] + i] * x[i];
        out[t] = sum;
    }
}

/* Counts each task in out[task], spends n[0] rounds on it, and leaves its own thread's mark in thread workspace. */
extern "C" void count_tasks(const UllageArgs *a, ull_i64 begin, ull_i64 end) {
    int *out = static_cast<int *>(a->p[0]);
    volatile int *mine = static_cast<int *>(a->thread);
    for (ull_i64 t = begin; t < end; t++) {
        for (ull_i64 i = 0; i < a->n[0]; i++) *mine = *mine + 1;
        __atomic_fetch_add(&out[t], 1, __ATOMIC_RELAXED);
    }
}

/* out[i] += 1 for n elements: shows what was left from an earlier run. */
extern "C" void increment(const UllageArgs *a, ull_i64 begin, ull_i64 end) {
    float *x = static_cast<float *>(a->p[0]);
    for (ull_i64 i = begin; i < end; i++) x[i] += 1.0f;
}

extern "C" const UllageKernel ullage_kernels[] = {twice_plus_one, tile_dot, count_tasks, increment};
extern "C" const long ullage_kernel_count = 4;
