/* Runs the commands of a plan: the C interface that Python calls once per run. */
#include <string.h>

#include "crc.h"
#include "disk.h"
#include "gather.h"
#include "pool.h"
#include "system.h"

namespace {


void run_tasks(void *what, i64 begin, i64 end, u32 thread) {
    const LaunchCommand *launch = static_cast<const LaunchCommand *>(what);
    UllageArgs args = {launch->pointers, launch->integers, launch->shared, launch->thread + i64(thread) * launch->thread_stride};
    launch->kernel(&args, begin, end);
}

struct VerifyJob {
    Context *context;
    Block *block;
    const Constant *constant;
};

u32 expected_checksum(const Constant *constant, const char *tile, i64 index) {
    u32 stored;
    if (constant->checksums) return constant->checksums[index];
    memcpy(&stored, tile + constant->tile_bytes, sizeof stored);
    return stored;
}

void verify_tiles(void *what, i64 begin, i64 end, u32) {
    const VerifyJob *job = static_cast<const VerifyJob *>(what);
    const Constant *constant = job->constant;
    for (i64 i = begin; i < end; i++) {
        const char *tile = job->block->region + job->block->lead + i * constant->tile_stride;
        i64 index = job->block->first_tile + i;
        if (crc32c(tile, constant->tile_bytes) == expected_checksum(constant, tile, index)) continue;
        return fail(job->context, {BAD_CHECKSUM, job->block->constant, index, 0, 0, 0, 0});
    }
}

bool wait_for(Context *c, Block *block) {
    if (!await_block(c, block)) return false;
    if (!block->resident) c->statistics.bytes_read += u64(block->length);
    if (!block->checks_due) return true;
    VerifyJob job = {c, block, &c->constants[block->constant]};
    parallel(c, verify_tiles, &job, block->tiles, c->threads);
    if (failed(c)) return false;
    block->checks_due--;
    return true;
}

bool is_loaded(const Block *block) { return block->resident && state_of(block) == READY && !block->checks_due; }

void request(Context *c, i64 index) {
    Block *block = &c->blocks[index];
    if (is_loaded(block)) return;
    request_block(c, index);
}

bool run_command(Context *c, Command *command) {
    switch (command->kind) {
        case LAUNCH:
            if (command->launch.shared_bytes) memset(command->launch.shared, 0, command->launch.shared_bytes);
            parallel(c, run_tasks, &command->launch, command->launch.tasks, c->threads);
            return true;
        case GATHER:
            return run_gather(c, &command->gather);
        case READ:
            request(c, command->block.block);
            return true;
        default:
            return wait_for(c, &c->blocks[command->block.block]);
    }
}

bool run_commands(Context *c, Command *first, i64 count) {
    for (i64 i = 0; i < count; i++) {
        u64 start = c->timings ? now_ns() : 0;
        if (!run_command(c, first + i)) {
            c->failure.step = first[i].step;
            return false;
        }
        if (c->timings) c->timings[first + i - c->commands] = now_ns() - start;
    }
    return true;
}

bool load_resident(Context *c) {
    for (i64 i = 0; i < c->block_count; i++)
        if (c->blocks[i].resident && state_of(&c->blocks[i]) == IDLE) request_block(c, i);
    for (i64 i = 0; i < c->block_count; i++)
        if (c->blocks[i].resident && !is_loaded(&c->blocks[i]) && !wait_for(c, &c->blocks[i])) return false;
    return true;
}

void forget_streamed(Context *c) {
    c->streams = 0;
    for (i64 i = 0; i < c->block_count; i++) {
        Block *block = &c->blocks[i];
        if (!is_loaded(block)) __atomic_store_n(&block->state, u32(IDLE), __ATOMIC_RELAXED);
        if (!block->resident) c->streams = 1;
    }
}

/* Blocks are verified when they are first read, and after the file has been written to: what is there already, and
   what is read next. */
void notice_changes(Context *c) {
    i64 changed = file_changed_ns(c);
    if (changed == c->file_changed_ns) return;
    c->file_changed_ns = changed;
    for (i64 i = 0; i < c->block_count; i++)
        if (!c->blocks[i].resident) c->blocks[i].checks_due = 2;
}

/* Brings the blocks into the state in which the commands expect them; also after a run that failed half-way. */
bool prepare(Context *c) {
    drain_disk(c);
    forget_streamed(c);
    memset(&c->failure, 0, sizeof c->failure);
    c->dirty = 1;
    if (!run_commands(c, c->commands, c->prologue_count) || !load_resident(c)) return false;
    drop_cached(c);
    c->dirty = 0;
    return true;
}

void patch_boundary(Context *c) {
    for (i64 i = 0; i < c->patch_count; i++) {
        const Patch *patch = &c->patches[i];
        *patch->slot = static_cast<char *>(c->boundary[patch->index]) + patch->offset;
    }
}

u32 status_of(Context *c) {
    u32 status;
    while (!(status = __atomic_load_n(&c->failure.status, __ATOMIC_ACQUIRE))) pause_cpu();
    return status;
}

bool run_all(Context *c) {
    if (c->streams) notice_changes(c);
    if (c->dirty && !prepare(c)) return false;
    prepare_pool(c);
    patch_boundary(c);
    return run_commands(c, c->commands + c->prologue_count, c->command_count);
}

}  // namespace

/* The version of the tables that this executor reads. */
ULL_EXPORT u32 ull_abi() { return ULL_ABI; }

/* Starts the threads of a filled context; on failure nothing is left running. */
ULL_EXPORT u32 ull_start(Context *c) {
    u32 status = start_disk(c);
    if (status == OK) status = start_pool(c);
    if (status == OK) return OK;
    stop_disk(c);
    stop_pool(c);
    return status;
}

/* Joins the threads and unmaps their stacks; the tables and the arena belong to the caller. */
ULL_EXPORT void ull_stop(Context *c) {
    stop_disk(c);
    stop_pool(c);
}

/* Joins the threads and unmaps their stacks until the next start, so that another executor may use the arena below the
   resident blocks; what was streamed into it is read again. */
ULL_EXPORT void ull_rest(Context *c) {
    ull_stop(c);
    c->stop = 0;
    c->queue_tail = c->queue_head = 0;
    c->sleepers = 0;
    if (c->streams) c->dirty = 1;
}

/* Runs the prologue and reads all resident blocks. */
ULL_EXPORT u32 ull_prepare(Context *c) {
    memset(&c->statistics, 0, sizeof c->statistics);
    u64 start = now_ns();
    bool done = prepare(c);
    c->statistics.wall_ns = now_ns() - start;
    return done ? u32(OK) : status_of(c);
}

/* One run: boundary pointers and size-dependent words are in place; returns OK or what failed (`failure`). */
ULL_EXPORT u32 ull_run(Context *c) {
    memset(&c->statistics, 0, sizeof c->statistics);
    u64 start = now_ns();
    bool done = run_all(c);
    c->statistics.wall_ns = now_ns() - start;
    if (done) return OK;
    c->dirty = 1;
    return status_of(c);
}
