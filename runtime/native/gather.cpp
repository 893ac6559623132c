#include "gather.h"

#include <string.h>

#include "crc.h"
#include "disk.h"
#include "pool.h"
#include "system.h"

namespace {

enum : i64 { SERIAL_BYTES = 64 << 10, CRC_BYTES = 4 };

struct Job {
    Context *context;
    const GatherCommand *gather;
    const Constant *table;
    i64 slices;      /* one task each: an equal share of the rows, so that neighbours are read at once */
    i64 slice_bytes; /* of the staging memory, per thread */
};

/* Rows [first, last) of the job lie in the file's aligned range [low, high). */
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

i64 low_of(const Constant *t, i64 id) { return (t->file_offset + id * t->tile_stride) & -PAGE_BYTES; }

i64 high_of(const Constant *t, i64 id) {
    i64 end = t->file_offset + id * t->tile_stride + t->tile_bytes + CRC_BYTES;
    return (end + PAGE_BYTES - 1) & -PAGE_BYTES;
}

/* The longest run from `first` whose rows follow each other in the file without a gap and fit the staging slice. */
bool find_run(const Job *job, i64 first, i64 end, Run *run) {
    i64 previous = row_id(job->gather, first);
    if (!legal(job, previous)) return false;
    *run = {first, first + 1, low_of(job->table, previous), high_of(job->table, previous)};
    for (; run->last < end; run->last++) {
        i64 id = row_id(job->gather, run->last);
        if (!legal(job, id)) return false;
        i64 high = high_of(job->table, id);
        if (id < previous || low_of(job->table, id) > run->high || high - run->low > job->slice_bytes) break;
        run->high = high;
        previous = id;
    }
    return true;
}

bool copy_row(const Job *job, const char *staging, const Run *run, i64 i) {
    const Constant *t = job->table;
    i64 id = row_id(job->gather, i);
    const char *row = staging + (t->file_offset + id * t->tile_stride - run->low);
    u32 expected;
    memcpy(&expected, row + t->tile_bytes, CRC_BYTES);
    if (crc32c(row, t->tile_bytes) != expected) {
        fail(job->context, {BAD_CHECKSUM, job->gather->constant, id, 0, 0, 0, 0});
        return false;
    }
    memcpy(out_row(job, i), row, size_t(t->tile_bytes));
    return true;
}

void copy_from_disk(void *what, i64 first_slice, i64 last_slice, u32 thread) {
    const Job *job = static_cast<const Job *>(what);
    i64 begin = job->gather->count * first_slice / job->slices, end = job->gather->count * last_slice / job->slices;
    char *staging = job->gather->staging + thread * job->slice_bytes;
    for (Run run; begin < end; begin = run.last) {
        if (failed(job->context) || !find_run(job, begin, end, &run)) return;
        i64 length = run.high - run.low, tile = row_id(job->gather, begin);
        if (!read_range(job->context, staging, run.low, length, job->gather->constant, tile)) return;
        __atomic_fetch_add(&job->context->statistics.gather_bytes, u64(length), __ATOMIC_RELAXED);
        for (i64 i = run.first; i < run.last; i++)
            if (!copy_row(job, staging, &run, i)) return;
    }
}

/* Pages that any single row may touch. */
i64 row_span(const Constant *t) { return ((t->tile_bytes + CRC_BYTES + PAGE_BYTES - 2) / PAGE_BYTES + 1) * PAGE_BYTES; }

}  // namespace

bool run_gather(Context *c, const GatherCommand *g) {
    Job job = {c, g, &c->constants[g->constant], 0, 0};
    if (g->table) {
        bool serial = g->count * job.table->tile_bytes < SERIAL_BYTES;
        parallel(c, copy_resident, &job, g->count, serial ? 1 : c->threads);
        return !failed(c);
    }
    job.slices = g->staging_bytes / row_span(job.table);
    if (job.slices > i64(c->threads)) job.slices = i64(c->threads);
    job.slice_bytes = (g->staging_bytes / job.slices) & -PAGE_BYTES;
    u64 start = now_ns();
    parallel(c, copy_from_disk, &job, job.slices, u32(job.slices));
    c->statistics.stall_ns += now_ns() - start;
    return !failed(c);
}
