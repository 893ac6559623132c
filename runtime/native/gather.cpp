#include "gather.h"

#include <string.h>

#include "crc.h"
#include "disk.h"
#include "pool.h"
#include "system.h"

namespace {

enum : i64 {
    SERIAL_BYTES = 64 << 10,
    CRC_BYTES = 4,
    GAP_BYTES = 64 << 10, /* reading on costs less than another request */
    FEW_KEYS = 32,
    KEY_BYTES = 8,
};

/* `keys` hold a row's id in the high and its place in the output in the low half, in ascending order. */
struct Job {
    Context *context;
    const GatherCommand *gather;
    const Constant *table;
    u64 *keys;
    i64 count;
    i64 slices; /* of the staging memory, one per thread */
    i64 slice_bytes;
};

/* Keys [first, last) lie in the file's aligned range [low, high). */
struct Run {
    i64 first, last, low, high;
};

i64 row_id(const GatherCommand *g, i64 i) {
    return g->wide_ids ? static_cast<const i64 *>(g->pointers[0])[i] : static_cast<const int *>(g->pointers[0])[i];
}

bool legal(const Job *job, i64 id) {
    if (id >= 0 && id < job->table->tiles) return true;
    fail(job->context, {BAD_INDEX, job->gather->constant, 0, id, 0, 0, 0});
    return false;
}

char *out_row(const Job *job, i64 i) {
    return static_cast<char *>(job->gather->pointers[1]) + i * job->table->tile_bytes;
}

void copy_resident(void *what, i64 begin, i64 end, u32) {
    const Job *job = static_cast<const Job *>(what);
    for (i64 i = begin; i < end; i++) {
        i64 id = row_id(job->gather, i);
        if (!legal(job, id)) return;
        memcpy(out_row(job, i), job->gather->table + id * job->table->tile_stride, size_t(job->table->tile_bytes));
    }
}

void sift_down(u64 *keys, i64 root, i64 count) {
    for (i64 child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && keys[child] < keys[child + 1]) child++;
        if (keys[root] >= keys[child]) return;
        u64 key = keys[root];
        keys[root] = keys[child];
        keys[child] = key;
    }
}

/* Heapsort: in place, without recursion. */
void sort(u64 *keys, i64 count) {
    for (i64 i = count / 2 - 1; i >= 0; i--) sift_down(keys, i, count);
    for (i64 i = count - 1; i > 0; i--) {
        u64 key = keys[0];
        keys[0] = keys[i];
        keys[i] = key;
        sift_down(keys, 0, i);
    }
}

/* Keys of the rows from `first` on; false if an id is out of range. */
bool fill_keys(Job *job, i64 first) {
    bool ascending = true;
    for (i64 i = 0; i < job->count; i++) {
        i64 id = row_id(job->gather, first + i);
        if (!legal(job, id)) return false;
        job->keys[i] = u64(id) << 32 | u64(first + i);
        ascending = ascending && (i == 0 || job->keys[i - 1] < job->keys[i]);
    }
    if (!ascending) sort(job->keys, job->count);
    return true;
}

i64 id_of(u64 key) { return i64(key >> 32); }
i64 place_of(u64 key) { return i64(key & 0xffffffffu); }
i64 offset_of(const Constant *t, i64 id) { return t->file_offset + id * t->tile_stride; }
i64 low_of(const Constant *t, i64 id) { return offset_of(t, id) & -PAGE_BYTES; }

i64 high_of(const Constant *t, i64 id) {
    return (offset_of(t, id) + t->tile_bytes + CRC_BYTES + PAGE_BYTES - 1) & -PAGE_BYTES;
}

/* The longest run from `first` with no gap worth another request that fits a slice of the staging memory. */
Run find_run(const Job *job, i64 first, i64 end) {
    const Constant *t = job->table;
    i64 id = id_of(job->keys[first]);
    Run run = {first, first + 1, low_of(t, id), high_of(t, id)};
    for (; run.last < end; run.last++) {
        id = id_of(job->keys[run.last]);
        if (low_of(t, id) > run.high + GAP_BYTES || high_of(t, id) - run.low > job->slice_bytes) break;
        run.high = high_of(t, id);
    }
    return run;
}

bool copy_row(const Job *job, const char *staging, const Run *run, u64 key) {
    const Constant *t = job->table;
    const char *row = staging + (offset_of(t, id_of(key)) - run->low);
    u32 expected;
    memcpy(&expected, row + t->tile_bytes, CRC_BYTES);
    if (crc32c(row, t->tile_bytes) != expected) {
        fail(job->context, {BAD_CHECKSUM, job->gather->constant, id_of(key), 0, 0, 0, 0});
        return false;
    }
    memcpy(out_row(job, place_of(key)), row, size_t(t->tile_bytes));
    return true;
}

bool copy_run(const Job *job, char *staging, const Run *run) {
    i64 length = run->high - run->low, id = id_of(job->keys[run->first]);
    if (!read_range(job->context, staging, run->low, length, job->gather->constant, id)) return false;
    __atomic_fetch_add(&job->context->statistics.gather_bytes, u64(length), __ATOMIC_RELAXED);
    for (i64 i = run->first; i < run->last; i++)
        if (!copy_row(job, staging, run, job->keys[i])) return false;
    return true;
}

void copy_from_disk(void *what, i64 first_slice, i64 last_slice, u32 thread) {
    const Job *job = static_cast<const Job *>(what);
    i64 begin = job->count * first_slice / job->slices, end = job->count * last_slice / job->slices;
    char *staging = job->gather->staging + thread * job->slice_bytes;
    while (begin < end && !failed(job->context)) {
        Run run = find_run(job, begin, end);
        if (!copy_run(job, staging, &run)) return;
        begin = run.last;
    }
}

/* Pages that any single row may touch. */
i64 row_span(const Constant *t) { return ((t->tile_bytes + CRC_BYTES + PAGE_BYTES - 2) / PAGE_BYTES + 1) * PAGE_BYTES; }

i64 least(i64 a, i64 b) { return a < b ? a : b; }

/* Places the keys at the end of the staging memory where they leave room for a row, else on the stack (`few`), and cuts
   the rest into slices; returns how many keys there is room for. */
i64 share_staging(Job *job, u64 *few) {
    const GatherCommand *g = job->gather;
    i64 span = row_span(job->table), spare = least(g->staging_bytes / 4, g->staging_bytes - span) & -PAGE_BYTES;
    i64 wanted = (g->count * KEY_BYTES + PAGE_BYTES - 1) & -PAGE_BYTES;
    i64 key_bytes = g->count > FEW_KEYS ? least(wanted, spare) : 0;
    i64 data_bytes = (g->staging_bytes & -PAGE_BYTES) - key_bytes;
    job->keys = key_bytes ? reinterpret_cast<u64 *>(g->staging + data_bytes) : few;
    job->slices = least(data_bytes / span, i64(job->context->threads));
    job->slice_bytes = (data_bytes / job->slices) & -PAGE_BYTES;
    return key_bytes ? key_bytes / KEY_BYTES : i64(FEW_KEYS);
}

void gather_from_disk(Job *job) {
    u64 few[FEW_KEYS];
    i64 room = share_staging(job, few);
    for (i64 first = 0; first < job->gather->count; first += room) {
        job->count = least(room, job->gather->count - first);
        if (!fill_keys(job, first)) return;
        parallel(job->context, copy_from_disk, job, job->slices, u32(job->slices));
        if (failed(job->context)) return;
    }
}

}  // namespace

bool run_gather(Context *c, const GatherCommand *g) {
    Job job = {c, g, &c->constants[g->constant], nullptr, 0, 0, 0};
    if (g->table) {
        bool serial = g->count * job.table->tile_bytes < SERIAL_BYTES;
        parallel(c, copy_resident, &job, g->count, serial ? 1 : c->threads);
        return !failed(c);
    }
    u64 start = now_ns();
    gather_from_disk(&job);
    c->statistics.stall_ns += now_ns() - start;
    return !failed(c);
}
