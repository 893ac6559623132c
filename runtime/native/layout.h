/* The executor's tables: one mapping that Python fills before the start (mirrored by runtime/tables.py). */
#pragma once
#include "abi.h"

#define ULL_INTERNAL __attribute__((visibility("hidden")))
#define ULL_EXPORT extern "C" __attribute__((visibility("default")))

typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;

enum : u32 { ULL_ABI = 2 };
enum : i64 { PAGE_BYTES = 4096 };
enum CommandKind : u32 { LAUNCH = 0, GATHER = 1, READ = 2, WAIT = 3 };
enum BlockState : u32 { IDLE = 0, QUEUED = 1, READY = 2, FAILED = 3 };
enum Status : u32 {
    OK = 0, TRUNCATED = 1, IO_ERROR = 2, BAD_CHECKSUM = 3, BAD_INDEX = 4, NO_MEMORY = 5, NO_THREAD = 6, NOT_REQUESTED = 7
};

struct LaunchCommand {
    UllageKernel kernel;
    void *const *pointers;
    const i64 *integers;
    i64 tasks;
    char *shared; /* zeroed before each launch */
    char *thread;
    u32 thread_stride;
    u32 shared_bytes;
};

struct GatherCommand {
    void *const *pointers; /* ids, out */
    i64 count;
    const char *table; /* first row when resident, else null */
    char *staging;
    i64 staging_bytes;
    u32 constant;
    u32 wide_ids; /* 1: int64, 0: int32 */
};

struct BlockCommand {
    i64 block;
};

struct Command {
    u32 kind;
    u32 step;
    union {
        LaunchCommand launch;
        GatherCommand gather;
        BlockCommand block;
    };
};

/* *slot = boundary[index] + offset, once per run: pointers into inputs and outputs. */
struct Patch {
    void **slot;
    i64 offset;
    i64 index;
};

struct Block {
    char *region;
    i64 file_offset; /* absolute, of the range to read: whole pages, or exactly the data of a packed block */
    i64 length;
    i64 lead;        /* the first tile starts at region + lead */
    i64 first_tile;
    i64 tiles;
    u32 constant;
    u32 resident;
    u32 state;
    u32 checks_due; /* how many of the next arrivals are to be verified */
};

struct Constant {
    i64 tiles;
    i64 tile_bytes;
    i64 tile_stride;
    i64 file_offset; /* absolute */
    const u32 *checksums; /* null for gathered tables: the checksum follows each row */
    i64 reserved[3];
};

/* The tasks that a thread prefers, `first` in the low and `last` in the high half; others steal from the far end. */
struct alignas(128) Worker {
    u64 range;
    void *context;
    u64 handle;
    char *stack;
    u32 index;
};

struct Failure {
    u32 status;
    u32 constant;
    i64 tile;
    i64 value;  /* the index that was out of range */
    i64 error;  /* errno */
    u32 step;
    u32 claimed; /* set by the one thread that writes the rest; `status` is written last */
};

struct Statistics {
    u64 wall_ns;
    u64 stall_ns;
    u64 bytes_read;
    u64 gather_bytes;
};

struct Context {
    u32 abi;
    u32 threads;
    i64 prologue_count;
    i64 command_count;
    i64 patch_count;
    i64 block_count;
    Command *commands; /* prologue first */
    Patch *patches;
    void **boundary; /* inputs, then outputs */
    Block *blocks;
    u32 *queue; /* a ring of block_count entries */
    Constant *constants;
    Worker *workers; /* entry 0 is the caller */
    i64 worker_stack_bytes;
    i64 disk_stack_bytes;
    int direct_file;   /* opened with O_DIRECT, or -1 */
    int buffered_file;
    /* Python writes up to here. */
    u32 dirty; /* an earlier run failed half-way: blocks must be brought back to the state after the prologue */
    u32 running_workers;
    char *disk_stack;
    u64 disk_handle;
    u32 disk_started;
    Failure failure;
    Statistics statistics;
    u64 *timings; /* nanoseconds of each command, or null */
    u32 streams;  /* whether blocks are read during runs */
    u32 caller_cpu; /* workers are kept off it */
    i64 file_changed_ns;

    alignas(64) u32 queue_tail; /* written by the caller */
    alignas(64) u32 queue_head; /* written by the disk thread */
    u32 stop;

    alignas(64) u32 epoch; /* counts regions; workers sleep on it */
    u32 sleepers;
    alignas(64) u32 state; /* open flag, waiting flag, number of workers inside */
    alignas(64) void (*body)(void *what, i64 begin, i64 end, u32 thread);
    void *what;
    u32 region_threads;
};

static_assert(sizeof(Command) == 64, "mirrored by compiler/plan/tables.py");
static_assert(sizeof(Patch) == 24, "mirrored by compiler/plan/tables.py");
static_assert(sizeof(Block) == 64, "mirrored by compiler/plan/tables.py");
static_assert(sizeof(Constant) == 64, "mirrored by compiler/plan/tables.py");
static_assert(sizeof(Worker) == 128, "mirrored by compiler/plan/tables.py");
static_assert(sizeof(Context) <= 1024, "mirrored by compiler/plan/tables.py");
static_assert(__builtin_offsetof(Context, dirty) == 120, "mirrored by runtime/tables.py");
static_assert(__builtin_offsetof(Context, failure) == 152, "mirrored by runtime/tables.py");
static_assert(__builtin_offsetof(Context, statistics) == 192, "mirrored by runtime/tables.py");
static_assert(__builtin_offsetof(Context, timings) == 224, "mirrored by runtime/tables.py");
static_assert(__builtin_offsetof(Context, disk_stack) == 128, "mirrored by runtime/tables.py");
static_assert(__builtin_offsetof(Worker, stack) == 24, "mirrored by runtime/tables.py");
