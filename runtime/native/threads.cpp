#include "threads.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

/* A page of this machine, which may be larger than ours. */
i64 guard_bytes() { return sysconf(_SC_PAGESIZE); }

/* Room below a stack of fewer bytes than the C library takes (128 KiB on aarch64); nothing ever touches it. */
i64 slack_bytes(i64 bytes) {
    i64 least = sysconf(_SC_THREAD_STACK_MIN);
    return bytes < least ? least - bytes : 0;
}

char *map_stack(i64 bytes) {
    i64 below = guard_bytes() + slack_bytes(bytes);
    void *map = mmap(nullptr, size_t(below + bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return nullptr;
    mprotect(map, size_t(guard_bytes()), PROT_NONE);
    char *stack = static_cast<char *>(map) + below;
    for (i64 i = 0; i < bytes; i += PAGE_BYTES) static_cast<volatile char *>(stack)[i] = 0;
    return stack;
}

void unmap_stack(char *stack, i64 bytes) {
    i64 below = guard_bytes() + slack_bytes(bytes);
    munmap(stack - below, size_t(below + bytes));
}

int create_blocked(pthread_t *thread, char *stack, i64 stack_bytes, void *(*entry)(void *), void *argument) {
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    i64 slack = slack_bytes(stack_bytes);
    int error = pthread_attr_setstack(&attributes, stack - slack, size_t(slack + stack_bytes));
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!error) error = pthread_create(thread, &attributes, entry, argument);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    return error;
}

}  // namespace

u32 start_thread(u64 *handle, char **stack, i64 stack_bytes, void *(*entry)(void *), void *argument) {
    *stack = map_stack(stack_bytes);
    if (!*stack) return NO_MEMORY;
    pthread_t thread;
    if (create_blocked(&thread, *stack, stack_bytes, entry, argument)) {
        unmap_stack(*stack, stack_bytes);
        *stack = nullptr;
        return NO_THREAD;
    }
    *handle = u64(thread);
    return OK;
}

void join_thread(u64 handle, char *stack, i64 stack_bytes) {
    pthread_join(pthread_t(handle), nullptr);
    unmap_stack(stack, stack_bytes);
}
