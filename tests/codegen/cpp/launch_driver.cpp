/* Runs recorded launches of a library of kernels: `driver LIBRARY FILE`.
 *
 * The file is words of 64 bits, then the buffers, which are changed in place. Words: the number of launches, then for
 * each its kernel, the bytes of its shared and its thread workspace, the numbers of its pointers, integers and ranges,
 * the pointers as offsets into the file, the integers, and the ranges of tasks.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "abi.h"

namespace {

enum : ull_i64 { GUARD_BYTES = 64, ALIGNMENT = 64, GUARD = 0x5A, MOST = 64 };

#define REQUIRE(condition, ...) \
    if (!(condition)) { \
        fprintf(stderr, __VA_ARGS__); \
        fputc('\n', stderr); \
        exit(1); \
    }

/* Memory between two guard zones. */
struct Workspace {
    unsigned char *whole;
    ull_i64 bytes, all;

    explicit Workspace(ull_i64 size) : bytes(size) {
        all = (size + 2 * GUARD_BYTES + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        whole = static_cast<unsigned char *>(aligned_alloc(ALIGNMENT, size_t(all)));
        REQUIRE(whole, "no memory for a workspace");
        memset(whole, GUARD, size_t(all));
    }
    ~Workspace() { free(whole); }
    void *start() { return whole + GUARD_BYTES; }
    void fill(int value) { memset(start(), value, size_t(bytes)); }
    bool intact() const {
        for (ull_i64 i = 0; i < all; i++)
            if ((i < GUARD_BYTES || i >= GUARD_BYTES + bytes) && whole[i] != GUARD) return false;
        return true;
    }
};

/* Runs the launch that the words describe; returns what follows it. */
const ull_i64 *launch(const UllageKernel *kernels, char *file, const ull_i64 *words, ull_i64 number) {
    const UllageKernel kernel = kernels[words[0]];
    const ull_i64 pointers = words[3], integers = words[4], ranges = words[5], *offsets = words + 6;
    REQUIRE(pointers <= MOST, "launch %ld has more than %ld buffers", number, long(MOST));
    void *p[MOST];
    for (ull_i64 i = 0; i < pointers; i++) p[i] = file + offsets[i];
    const ull_i64 *n = offsets + pointers, *range = n + integers;
    Workspace shared(words[1]), thread(words[2]);
    shared.fill(0);
    for (ull_i64 i = 0; i < ranges; i++, range += 2) {
        thread.fill(0xFF);
        const UllageArgs args = {p, n, shared.start(), thread.start()};
        kernel(&args, range[0], range[1]);
    }
    REQUIRE(shared.intact() && thread.intact(), "launch %ld wrote outside its workspace", number);
    return range;
}

char *map_file(const char *path) {
    struct stat status;
    const int file = open(path, O_RDWR);
    REQUIRE(file >= 0 && !fstat(file, &status), "cannot open %s", path);
    void *map = mmap(nullptr, size_t(status.st_size), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    REQUIRE(map != MAP_FAILED, "cannot map %s", path);
    return static_cast<char *>(map);
}

}  // namespace

int main(int count, char **arguments) {
    REQUIRE(count == 3, "usage: driver LIBRARY FILE");
    void *library = dlopen(arguments[1], RTLD_NOW);
    REQUIRE(library, "%s", dlerror());
    const UllageKernel *kernels = static_cast<const UllageKernel *>(dlsym(library, "ullage_kernels"));
    REQUIRE(kernels, "%s", dlerror());
    char *file = map_file(arguments[2]);
    const ull_i64 *words = reinterpret_cast<const ull_i64 *>(file);
    const ull_i64 launches = *words++;
    for (ull_i64 i = 0; i < launches; i++) words = launch(kernels, file, words, i);
    return 0;
}
