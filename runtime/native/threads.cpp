#include "threads.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

namespace {

char *map_stack(i64 bytes) {
    void *map = mmap(nullptr, size_t(bytes + PAGE_BYTES), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return nullptr;
    char *stack = static_cast<char *>(map) + PAGE_BYTES;
    mprotect(map, PAGE_BYTES, PROT_NONE);
    for (i64 i = 0; i < bytes; i += PAGE_BYTES) static_cast<volatile char *>(stack)[i] = 0;
    return stack;
}

void unmap_stack(char *stack, i64 bytes) { munmap(stack - PAGE_BYTES, size_t(bytes + PAGE_BYTES)); }

int create_blocked(pthread_t *thread, char *stack, i64 stack_bytes, void *(*entry)(void *), void *argument) {
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, size_t(stack_bytes));
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, &attributes, entry, argument);
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
