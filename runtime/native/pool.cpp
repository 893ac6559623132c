#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include "system.h"
#include "threads.h"

namespace {

enum : u32 { OPEN = 1u << 31, WAITING = 1u << 30, INSIDE = WAITING - 1 };
enum : u64 { SPIN_NS = 25000 };
enum : u32 { PAUSES_PER_CLOCK = 32, SHARES = 4, UNKNOWN_CPU = ~0u };

u64 pack(u64 first, u64 last) { return first | last << 32; }

/* Takes a quarter of what is left (at least one task), from the front for the owner and from the back for a thief. */
bool claim(u64 *range, bool own, i64 *begin, i64 *end) {
    u64 old = __atomic_load_n(range, __ATOMIC_RELAXED), next;
    do {
        u64 first = old & 0xffffffffu, last = old >> 32;
        if (first >= last) return false;
        u64 take = (last - first) / SHARES + ((last - first) < SHARES);
        *begin = i64(own ? first : last - take);
        *end = *begin + i64(take);
        next = own ? pack(first + take, last) : pack(first, last - take);
    } while (!__atomic_compare_exchange_n(range, &old, next, true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    return true;
}

void work(Context *c, u32 self) {
    u32 threads = c->region_threads;
    if (self >= threads) return;
    i64 begin, end;
    for (u32 i = 0; i < threads; i++) {
        u32 part = (self + i) % threads;
        while (claim(&c->workers[part].range, i == 0, &begin, &end)) c->body(c->what, begin, end, self);
    }
}

bool enter(Context *c) {
    u32 state = __atomic_load_n(&c->state, __ATOMIC_RELAXED);
    do {
        if (!(state & OPEN)) return false;
    } while (!__atomic_compare_exchange_n(&c->state, &state, state + 1, true, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
    return true;
}

void leave(Context *c) {
    u32 before = __atomic_fetch_sub(&c->state, 1u, __ATOMIC_ACQ_REL);
    if ((before & WAITING) && (before & INSIDE) == 1) futex_wake(&c->state, 1);
}

/* Spins until done() or the time is up; true if it is done. */
template <typename Done>
bool spin(Done done) {
    u64 deadline = 0;
    for (u32 i = 1;; i++) {
        if (done()) return true;
        pause_cpu();
        if (i % PAUSES_PER_CLOCK) continue;
        u64 now = now_ns();
        if (!deadline) deadline = now + SPIN_NS;
        if (now >= deadline) return false;
    }
}

void await_epoch(Context *c, u32 seen) {
    auto changed = [&] { return __atomic_load_n(&c->epoch, __ATOMIC_ACQUIRE) != seen; };
    if (spin(changed)) return;
    while (!changed()) {
        __atomic_fetch_add(&c->sleepers, 1u, __ATOMIC_SEQ_CST);
        futex_wait(&c->epoch, seen);
    }
}

void *worker_main(void *argument) {
    Worker *self = static_cast<Worker *>(argument);
    Context *c = static_cast<Context *>(self->context);
    u32 seen = 0;
    for (;;) {
        await_epoch(c, seen);
        seen = __atomic_load_n(&c->epoch, __ATOMIC_ACQUIRE);
        if (__atomic_load_n(&c->stop, __ATOMIC_ACQUIRE)) return nullptr;
        if (!enter(c)) continue;
        work(c, self->index);
        leave(c);
    }
}

void wake_workers(Context *c) {
    __atomic_fetch_add(&c->epoch, 1u, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&c->sleepers, __ATOMIC_SEQ_CST)) return;
    u32 asleep = __atomic_exchange_n(&c->sleepers, 0u, __ATOMIC_SEQ_CST);
    if (asleep) futex_wake(&c->epoch, 0x7fffffff);
}

void set_parts(Context *c, i64 tasks, u32 threads) {
    for (u32 i = 0; i < threads; i++) {
        u64 first = u64(tasks) * i / threads, last = u64(tasks) * (i + 1) / threads;
        __atomic_store_n(&c->workers[i].range, pack(first, last), __ATOMIC_RELAXED);
    }
}

/* Ends the region for workers that have not started, and waits for those inside. */
void close_region(Context *c) {
    u32 state = __atomic_and_fetch(&c->state, ~u32(OPEN), __ATOMIC_ACQ_REL);
    if (!(state & INSIDE)) return;
    auto empty = [&] { return !(__atomic_load_n(&c->state, __ATOMIC_ACQUIRE) & INSIDE); };
    if (spin(empty)) return;
    state = __atomic_or_fetch(&c->state, u32(WAITING), __ATOMIC_ACQ_REL);
    while (state & INSIDE) {
        futex_wait(&c->state, state);
        state = __atomic_load_n(&c->state, __ATOMIC_ACQUIRE);
    }
    __atomic_and_fetch(&c->state, ~u32(WAITING), __ATOMIC_RELAXED);
}

/* Keeps workers off the CPU of the caller, who does not wait for them to start: two busy threads that meet on one CPU
   are left there by the scheduler for many milliseconds while another CPU idles. Costs nothing while the caller stays. */
void spread(Context *c) {
    u32 caller_cpu = u32(sched_getcpu());
    if (caller_cpu == c->caller_cpu) return;
    cpu_set_t cpus;
    if (pthread_getaffinity_np(pthread_self(), sizeof cpus, &cpus)) return;
    CPU_CLR(caller_cpu, &cpus);
    if (!CPU_COUNT(&cpus)) return;
    for (u32 i = 1; i <= c->running_workers; i++)
        pthread_setaffinity_np(pthread_t(c->workers[i].handle), sizeof cpus, &cpus);
    c->caller_cpu = caller_cpu;
}

}  // namespace

void parallel(Context *c, Body body, void *what, i64 tasks, u32 threads) {
    if (tasks <= 0) return;
    if (tasks < i64(threads)) threads = u32(tasks);
    if (threads <= 1 || !c->running_workers) return body(what, 0, tasks, 0);
    c->body = body;
    c->what = what;
    c->region_threads = threads;
    set_parts(c, tasks, threads);
    __atomic_or_fetch(&c->state, u32(OPEN), __ATOMIC_RELEASE);
    wake_workers(c);
    work(c, 0);
    close_region(c);
}

void prepare_pool(Context *c) {
    if (!c->running_workers) return;
    spread(c);
    wake_workers(c);
}

u32 start_pool(Context *c) {
    c->caller_cpu = UNKNOWN_CPU;
    for (u32 i = 1; i < c->threads; i++) {
        Worker *worker = &c->workers[i];
        worker->index = i;
        worker->context = c;
        u32 status = start_thread(&worker->handle, &worker->stack, c->worker_stack_bytes, worker_main, worker);
        if (status != OK) return status;
        c->running_workers = i;
    }
    return OK;
}

void stop_pool(Context *c) {
    __atomic_store_n(&c->stop, 1u, __ATOMIC_RELEASE);
    wake_workers(c);
    for (u32 i = 1; i <= c->running_workers; i++)
        join_thread(c->workers[i].handle, c->workers[i].stack, c->worker_stack_bytes);
    c->running_workers = 0;
}
