#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "system.h"
#include "threads.h"

namespace {

enum : i64 { CHUNK_BYTES = 4 << 20 };

ssize_t pread_retrying(int file, char *to, i64 length, i64 offset) {
    ssize_t got;
    do got = pread(file, to, size_t(length), offset);
    while (got < 0 && errno == EINTR);
    return got;
}

/* Bytes read into `to`, at most a chunk; 0 at the end of the file, negative on an error (errno). */
i64 read_some(Context *c, char *to, i64 length, i64 offset) {
    if (length > CHUNK_BYTES) length = CHUNK_BYTES;
    int direct = __atomic_load_n(&c->direct_file, __ATOMIC_RELAXED);
    bool aligned = !((offset | length | i64(to)) & (PAGE_BYTES - 1));
    if (direct >= 0 && aligned) {
        ssize_t got = pread_retrying(direct, to, length, offset);
        if (got >= 0 || (errno != EINVAL && errno != EOPNOTSUPP)) return got;
        __atomic_store_n(&c->direct_file, -1, __ATOMIC_RELAXED);
    }
    ssize_t got = pread_retrying(c->buffered_file, to, length, offset);
    if (got > 0 && direct < 0) posix_fadvise(c->buffered_file, offset, got, POSIX_FADV_DONTNEED);
    return got;
}

void set_state(Block *block, u32 state) {
    __atomic_store_n(&block->state, state, __ATOMIC_RELEASE);
    futex_wake(&block->state, 1);
}

void read_block(Context *c, Block *block) {
    bool whole = read_range(c, block->region, block->file_offset, block->length, block->constant, block->first_tile);
    set_state(block, whole ? READY : FAILED);
}

void *disk_main(void *argument) {
    Context *c = static_cast<Context *>(argument);
    for (u32 head = 0;; head++) {
        u32 tail;
        while ((tail = __atomic_load_n(&c->queue_tail, __ATOMIC_ACQUIRE)) == head) {
            if (__atomic_load_n(&c->stop, __ATOMIC_ACQUIRE)) return nullptr;
            futex_wait(&c->queue_tail, tail);
        }
        if (__atomic_load_n(&c->stop, __ATOMIC_ACQUIRE)) return nullptr;
        read_block(c, &c->blocks[c->queue[head % u32(c->block_count)]]);
        __atomic_store_n(&c->queue_head, head + 1, __ATOMIC_RELEASE);
        futex_wake(&c->queue_head, 1);
    }
}

}  // namespace

bool read_range(Context *c, char *to, i64 offset, i64 length, u32 constant, i64 tile) {
    for (i64 done = 0; done < length;) {
        if (__atomic_load_n(&c->stop, __ATOMIC_RELAXED)) {
            fail(c, {IO_ERROR, constant, tile, 0, ECANCELED, 0, 0});
            return false;
        }
        i64 got = read_some(c, to + done, length - done, offset + done);
        if (got <= 0) {
            fail(c, {got ? IO_ERROR : TRUNCATED, constant, tile, 0, got ? errno : 0, 0, 0});
            return false;
        }
        done += got;
    }
    return true;
}

u32 start_disk(Context *c) {
    u32 status = start_thread(&c->disk_handle, &c->disk_stack, c->disk_stack_bytes, disk_main, c);
    c->disk_started = status == OK;
    return status;
}

void stop_disk(Context *c) {
    if (!c->disk_started) return;
    __atomic_store_n(&c->stop, 1u, __ATOMIC_RELEASE);
    __atomic_fetch_add(&c->queue_tail, 1u, __ATOMIC_RELEASE);
    futex_wake(&c->queue_tail, 1);
    join_thread(c->disk_handle, c->disk_stack, c->disk_stack_bytes);
    c->disk_started = 0;
}

void request_block(Context *c, i64 index) {
    Block *block = &c->blocks[index];
    if (state_of(block) == QUEUED) return;
    __atomic_store_n(&block->state, u32(QUEUED), __ATOMIC_RELAXED);
    u32 tail = c->queue_tail;
    c->queue[tail % u32(c->block_count)] = u32(index);
    __atomic_store_n(&c->queue_tail, tail + 1, __ATOMIC_SEQ_CST);
    futex_wake(&c->queue_tail, 1);
}

bool await_block(Context *c, Block *block) {
    u32 state = state_of(block);
    if (state == QUEUED) {
        u64 start = now_ns();
        for (; state == QUEUED; state = state_of(block))
            futex_wait(&block->state, QUEUED);
        c->statistics.stall_ns += now_ns() - start;
    }
    if (state == IDLE) fail(c, {NOT_REQUESTED, block->constant, block->first_tile, 0, 0, 0, 0});
    return state == READY;
}

void drop_cached(Context *c) { posix_fadvise(c->buffered_file, 0, 0, POSIX_FADV_DONTNEED); }

i64 file_changed_ns(Context *c) {
    struct stat status;
    if (fstat(c->buffered_file, &status)) return -1;
    return i64(status.st_mtim.tv_sec) * 1000000000 + status.st_mtim.tv_nsec;
}

void drain_disk(Context *c) {
    u32 tail = c->queue_tail, head;
    while ((head = __atomic_load_n(&c->queue_head, __ATOMIC_ACQUIRE)) != tail) futex_wait(&c->queue_head, head);
}
