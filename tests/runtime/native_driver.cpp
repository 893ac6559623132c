/* Drives the executor without Python, for the sanitizers: streaming, gathering, failing, recovering, stopping. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "layout.h"

ULL_EXPORT u32 ull_crc32c(const void *data, i64 length);
ULL_EXPORT u32 ull_crc32c_table(const void *data, i64 length);
ULL_EXPORT u32 ull_start(Context *c);
ULL_EXPORT void ull_stop(Context *c);
ULL_EXPORT void ull_rest(Context *c);
ULL_EXPORT u32 ull_prepare(Context *c);
ULL_EXPORT u32 ull_run(Context *c);

namespace {

enum : i64 { THREADS = 3, TILES = 24, TILE_BYTES = 3000, ROWS = 50, ROW_BYTES = 100, STRIDE = 112, SLOTS = 2, PER_BLOCK = 4 };
enum : i64 { BLOCKS = TILES / PER_BLOCK, SLOT_BYTES = 5 * PAGE_BYTES, STAGING_BYTES = 6 * PAGE_BYTES, IDS = 40 };
enum : i64 { TABLE_OFFSET = 80 * 1024, FILE_BYTES = 96 * 1024, RUNS = 300 };
#if defined(__SANITIZE_THREAD__) /* whose interceptors need more */
enum : i64 { WORKER_STACK_BYTES = 1 << 20, DISK_STACK_BYTES = 1 << 20 };
#else /* as in plans */
enum : i64 { WORKER_STACK_BYTES = 1 << 18, DISK_STACK_BYTES = 1 << 16 };
#endif

#define REQUIRE(condition) \
    if (!(condition)) { fprintf(stderr, "line %d: %s\n", __LINE__, #condition); exit(1); }

struct Setup {
    Context context;
    Command commands[4 * BLOCKS + 8];
    Patch patches[4];
    void *boundary[3];
    Block blocks[BLOCKS];
    u32 queue[BLOCKS];
    Constant constants[2];
    u32 checksums[TILES];
    Worker workers[THREADS];
    void *pointers[2 * BLOCKS + 2];
    i64 integers[BLOCKS];
};

unsigned char file_image[FILE_BYTES];
char results[TILES];
char rows[IDS * ROW_BYTES];
i64 ids[IDS];

/* out[first + t] = the xor of the bytes of tile t. */
void xor_tiles(const UllageArgs *args, ull_i64 begin, ull_i64 end) {
    const unsigned char *tiles = static_cast<const unsigned char *>(args->p[0]);
    char *out = static_cast<char *>(args->p[1]) + args->n[0];
    for (ull_i64 t = begin; t < end; t++) {
        unsigned char value = 0;
        for (i64 i = 0; i < TILE_BYTES; i++) value ^= tiles[t * TILE_BYTES + i];
        out[t] = char(value);
    }
}

void fill_file(int file) {
    unsigned seed = 1;
    for (i64 i = 0; i < FILE_BYTES; i++) file_image[i] = (unsigned char)((seed = seed * 1664525u + 1013904223u) >> 24);
    for (i64 r = 0; r < ROWS; r++) {
        u32 crc = ull_crc32c(file_image + TABLE_OFFSET + r * STRIDE, ROW_BYTES);
        memcpy(file_image + TABLE_OFFSET + r * STRIDE + ROW_BYTES, &crc, 4);
    }
    REQUIRE(pwrite(file, file_image, FILE_BYTES, 0) == FILE_BYTES);
}

Command block_command(u32 kind, i64 block) {
    Command command = {};
    command.kind = kind;
    command.block.block = block;
    return command;
}

void fill_blocks(Setup *s, char *arena) {
    for (i64 b = 0; b < BLOCKS; b++) {
        i64 start = b * PER_BLOCK * TILE_BYTES, lead = start % PAGE_BYTES;
        i64 length = (lead + PER_BLOCK * TILE_BYTES + PAGE_BYTES - 1) & -PAGE_BYTES;
        bool resident = b == BLOCKS - 1;
        char *region = arena + (resident ? SLOTS : b % SLOTS) * SLOT_BYTES;
        s->blocks[b] = {region, start - lead, length, lead, b * PER_BLOCK, PER_BLOCK, 0, resident, IDLE, 1};
        s->pointers[2 * b] = region + lead;
        s->pointers[2 * b + 1] = results;
        s->integers[b] = b * PER_BLOCK;
    }
    for (i64 t = 0; t < TILES; t++) s->checksums[t] = ull_crc32c(file_image + t * TILE_BYTES, TILE_BYTES);
    s->constants[0] = {TILES, TILE_BYTES, TILE_BYTES, 0, s->checksums, {}};
    s->constants[1] = {ROWS, ROW_BYTES, STRIDE, TABLE_OFFSET, nullptr, {}};
}

/* The streamed block that takes the place of block b: the next one in its slot, or the slot's first one. */
i64 following(i64 b) { return b + SLOTS < BLOCKS - 1 ? b + SLOTS : b % SLOTS; }

void fill_commands(Setup *s, char *staging) {
    Command *next = s->commands;
    for (i64 b = 0; b < SLOTS; b++) *next++ = block_command(READ, b);
    *next++ = block_command(READ, BLOCKS - 1);
    for (i64 b = 0; b < BLOCKS; b++) {
        if (b < BLOCKS - 1) *next++ = block_command(WAIT, b);
        Command launch = {};
        launch.launch = {xor_tiles, s->pointers + 2 * b, s->integers + b, PER_BLOCK, nullptr, staging, 0, 0};
        *next++ = launch;
        if (b < BLOCKS - 1) *next++ = block_command(READ, following(b));
    }
    Command gather = {};
    gather.kind = GATHER;
    gather.gather = {s->pointers + 2 * BLOCKS, IDS, nullptr, staging, STAGING_BYTES, 1, 1};
    *next++ = gather;
    s->patches[0] = {s->pointers + 2 * BLOCKS, 0, 0};
    s->patches[1] = {s->pointers + 2 * BLOCKS + 1, 0, 1};
    s->boundary[0] = ids;
    s->boundary[1] = rows;
    s->context.prologue_count = SLOTS + 1;
    s->context.command_count = next - s->commands - (SLOTS + 1);
}

void fill_context(Setup *s, int file, int direct) {
    Context *c = &s->context;
    c->abi = ULL_ABI;
    c->threads = THREADS;
    c->patch_count = 2;
    c->block_count = BLOCKS;
    c->commands = s->commands;
    c->patches = s->patches;
    c->boundary = s->boundary;
    c->blocks = s->blocks;
    c->queue = s->queue;
    c->constants = s->constants;
    c->workers = s->workers;
    c->worker_stack_bytes = WORKER_STACK_BYTES;
    c->disk_stack_bytes = DISK_STACK_BYTES;
    c->direct_file = direct;
    c->buffered_file = file;
    c->dirty = 1;
}

void check_run(Context *c, int run) {
    memset(results, 0, sizeof results);
    memset(rows, 0, sizeof rows);
    for (i64 i = 0; i < IDS; i++) ids[i] = (i * 7 + run) % ROWS;
    REQUIRE(ull_run(c) == OK);
    for (i64 t = 0; t < TILES; t++) {
        unsigned char value = 0;
        for (i64 i = 0; i < TILE_BYTES; i++) value ^= file_image[t * TILE_BYTES + i];
        REQUIRE((unsigned char)results[t] == value);
    }
    for (i64 i = 0; i < IDS; i++)
        REQUIRE(!memcmp(rows + i * ROW_BYTES, file_image + TABLE_OFFSET + ids[i] * STRIDE, ROW_BYTES));
}

void check_failures(Context *c, int file) {
    ids[3] = ROWS;
    REQUIRE(ull_run(c) == BAD_INDEX && c->failure.value == ROWS);
    check_run(c, 1);
    REQUIRE(!ftruncate(file, 16 * 1024));
    REQUIRE(ull_run(c) == TRUNCATED || ull_run(c) == TRUNCATED);
    REQUIRE(pwrite(file, file_image, FILE_BYTES, 0) == FILE_BYTES);
    check_run(c, 2);
}

/* Others write into the slots of streamed blocks while the executor is at rest. */
void check_rests(Context *c, char *arena) {
    for (int run = 0; run < 5; run++) {
        ull_rest(c);
        memset(arena, 0xA5, SLOTS * SLOT_BYTES);
        REQUIRE(ull_start(c) == OK);
        check_run(c, run);
    }
}

void drive(const char *path, bool direct) {
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    REQUIRE(file >= 0);
    fill_file(file);
    int direct_file = direct ? open(path, O_RDONLY | O_DIRECT) : -1;
    i64 arena_bytes = (SLOTS + 1) * SLOT_BYTES + STAGING_BYTES;
    void *arena = mmap(nullptr, size_t(arena_bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(arena != MAP_FAILED);
    Setup *s = static_cast<Setup *>(aligned_alloc(128, (sizeof(Setup) + 127) & ~size_t(127)));
    memset(static_cast<void *>(s), 0, sizeof *s);
    fill_blocks(s, static_cast<char *>(arena));
    fill_commands(s, static_cast<char *>(arena) + (SLOTS + 1) * SLOT_BYTES);
    fill_context(s, file, direct_file);
    REQUIRE(ull_start(&s->context) == OK);
    REQUIRE(ull_prepare(&s->context) == OK);
    for (int run = 0; run < RUNS; run++) check_run(&s->context, run);
    check_rests(&s->context, static_cast<char *>(arena));
    check_failures(&s->context, file);
    ull_stop(&s->context);
    free(s);
    munmap(arena, size_t(arena_bytes));
    close(file);
    if (direct_file >= 0) close(direct_file);
    unlink(path);
}

}  // namespace

/* A published vector, and the table against the instruction that a machine may have. */
void check_checksums() {
    REQUIRE(ull_crc32c("123456789", 9) == 0xE3069283u);
    for (i64 length = 0; length < 40; length++)
        REQUIRE(ull_crc32c(file_image + 1, length) == ull_crc32c_table(file_image + 1, length));
}

int main(int count, char **arguments) {
    REQUIRE(count == 2);
    drive(arguments[1], true);
    drive(arguments[1], false);
    check_checksums();
    return 0;
}
