/* Memory: each device's own addresses, pools, pinned host memory, and who may reach what. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "standin.h"

#define ALIGN 512u
#define GAP 65536u
#define SPACE 8u

static piece *pieces;
static uint64_t made;
static struct {
    uint64_t begin, bytes;
} arenas[DEVICES_MAX]; /* kept from one plugging to the next: a late reader finds zeros */

piece *pieces_first(void) { return pieces; }

piece *piece_at(uint64_t address) {
    for (piece *each = pieces; each; each = each->next)
        if (address >= each->begin && address < each->begin + each->bytes) return each;
    return 0;
}

/* Return the piece that has all of a range. */
piece *piece_over(uint64_t address, size_t bytes) {
    piece *of = piece_at(address);
    return of && bytes <= of->begin + of->bytes - address ? of : 0;
}

/* Whether a range touches what is a device's, or pinned: it then has to lie within one piece. */
int is_claimed(uint64_t address, size_t bytes) {
    for (int i = 0; i < set.device_count; ++i) {
        const device *of = &devices[i];
        if (address < of->arena + of->arena_bytes && address + bytes > of->arena) return 1;
    }
    for (piece *each = pieces; each; each = each->next)
        if (address < each->begin + each->bytes && address + bytes > each->begin) return 1;
    return 0;
}

piece *piece_add(enum piece_kind kind, uint64_t begin, size_t bytes, context *owner) {
    piece *of = calloc(1, sizeof *of);
    *of = (piece){.kind = kind, .begin = begin, .bytes = bytes, .context = owner,
                  .ordinal = owner->ordinal, .number = ++made, .next = pieces};
    pieces = of;
    return of;
}

void piece_remove(piece *of) {
    for (piece **at = &pieces; *at; at = &(*at)->next)
        if (*at == of) {
            *at = of->next;
            break;
        }
    if (of->kind == PIECE_DEVICE || of->kind == PIECE_POOL) {
        devices[of->ordinal].used_bytes -= of->bytes;
        if (of->pool) of->pool->used_bytes -= of->bytes;
    }
    if (of->kind != PIECE_GLOBAL && of->kind != PIECE_REGISTERED) {
        uint64_t first = (of->begin + 4095) & ~4095ull, last = (of->begin + of->bytes) & ~4095ull;
        if (last > first) madvise((void *)first, last - first, MADV_DONTNEED);
    }
    free(of);
}

/* Whether a device's kernels may touch a piece. */
int reachable(int ordinal, const piece *of) {
    switch (of->kind) {
    case PIECE_HOST:
    case PIECE_REGISTERED: return 1;
    case PIECE_POOL: return of->ordinal == ordinal || of->pool->access[ordinal] == ACCESS_READWRITE;
    case PIECE_DEVICE:
        return of->ordinal == ordinal || devices[ordinal].primary.peers[of->ordinal];
    default: return of->ordinal == ordinal;
    }
}

/* Tell running kernels of what they may touch from now on. */
void memory_changed(void) {
    for (int i = 0; i < set.device_count; ++i)
        if (devices[i].primary.live) {
            unlock_all();
            python.changed(i);
            lock_all();
        }
}

void memory_open(int ordinal) {
    device *of = &devices[ordinal];
    uint64_t bytes = of->set.memory_bytes * SPACE;
    if (arenas[ordinal].bytes < bytes) {
        void *at = mmap(0, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        arenas[ordinal].begin = at == MAP_FAILED ? 0 : (uint64_t)at;
        arenas[ordinal].bytes = at == MAP_FAILED ? 0 : bytes;
    }
    of->arena = of->next_address = arenas[ordinal].begin;
    of->arena_bytes = arenas[ordinal].bytes < bytes ? 0 : bytes;
    of->default_pool = of->current_pool = pool_new(ordinal, 1);
}

void memory_close(void) {
    while (pieces) {
        piece *of = pieces;
        pieces = of->next;
        if (of->kind == PIECE_HOST) madvise((void *)of->begin, of->bytes, MADV_DONTNEED);
        free(of);
    }
    for (int i = 0; i < DEVICES_MAX; ++i)
        if (arenas[i].bytes) madvise((void *)arenas[i].begin, arenas[i].bytes, MADV_DONTNEED);
}

static int is_free(const device *of, uint64_t begin, size_t bytes) {
    if (begin + bytes > of->arena + of->arena_bytes) return 0;
    for (piece *each = pieces; each; each = each->next)
        if (begin < each->begin + each->bytes + GAP && each->begin < begin + bytes + GAP) return 0;
    return 1;
}

/* New addresses each time, as long as there are any: a stale pointer then meets nothing. */
static uint64_t place(device *of, size_t bytes) {
    uint64_t begin = of->next_address;
    if (!is_free(of, begin, bytes)) {
        begin = is_free(of, of->arena, bytes) ? of->arena : 0;
        for (piece *each = pieces; each && !begin; each = each->next) {
            uint64_t after = (each->begin + each->bytes + GAP + ALIGN - 1) / ALIGN * ALIGN;
            if (after >= of->arena && is_free(of, after, bytes)) begin = after;
        }
    }
    if (begin) of->next_address = (begin + bytes + GAP + ALIGN - 1) / ALIGN * ALIGN;
    return begin;
}

static CUresult allocate(call *here, CUdeviceptr *into, size_t bytes, pool *from, context *owner) {
    device *of = &devices[owner->ordinal];
    (void)here;
    if (!bytes || !into) return INVALID_VALUE;
    if (bytes > of->set.memory_bytes - of->used_bytes) return OUT_OF_MEMORY;
    uint64_t begin = place(of, bytes);
    if (!begin) return OUT_OF_MEMORY;
    piece *made_piece = piece_add(from ? PIECE_POOL : PIECE_DEVICE, begin, bytes, owner);
    made_piece->pool = from;
    of->used_bytes += bytes;
    if (from) {
        from->used_bytes += bytes;
        if (from->used_bytes > from->used_high_bytes) from->used_high_bytes = from->used_bytes;
    }
    if (set.fill)
        memset((void *)begin, GARBAGE, bytes < GARBAGE_BYTES_MAX ? bytes : GARBAGE_BYTES_MAX);
    *into = begin;
    memory_changed();
    return SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr *into, size_t bytes) {
    ENTER("cuMemAlloc", IN_CONTEXT);
    CUresult result = wait_for_kernels(&here, here.context, HAZARD_ALLOCATE);
    if (!result) result = allocate(&here, into, bytes, 0, here.context);
    LEAVE(result);
}

CUresult cuMemFree(CUdeviceptr address) {
    ENTER("cuMemFree", IN_CONTEXT);
    if (!address) LEAVE(SUCCESS);
    piece *of = piece_at(address);
    REQUIRE(of && of->begin == address, INVALID_VALUE);
    REQUIRE(of->kind == PIECE_DEVICE || of->kind == PIECE_POOL, INVALID_VALUE);
    CUresult result = wait_for_kernels(&here, of->context, HAZARD_FREE);
    if (result) LEAVE(result);
    piece_remove(of);
    memory_changed();
    LEAVE(SUCCESS);
}

CUresult cuMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    ENTER("cuMemGetInfo", IN_CONTEXT);
    device *of = &devices[here.context->ordinal];
    if (free_bytes) *free_bytes = of->set.memory_bytes - of->used_bytes;
    if (total_bytes) *total_bytes = of->set.memory_bytes;
    LEAVE(SUCCESS);
}

CUresult cuMemGetAddressRange(CUdeviceptr *start, size_t *bytes, CUdeviceptr address) {
    ENTER("cuMemGetAddressRange", IN_CONTEXT);
    piece *of = piece_at(address);
    REQUIRE(of, NOT_FOUND);
    if (start) *start = of->begin;
    if (bytes) *bytes = of->bytes;
    LEAVE(SUCCESS);
}

CUresult cuMemAllocAsync(CUdeviceptr *into, size_t bytes, handle on) {
    ENTER("cuMemAllocAsync", IN_CONTEXT);
    stream *of = stream_get(&here, on);
    REQUIRE(of, INVALID_HANDLE);
    context *owner = of->base.owner;
    pool *from = devices[owner->ordinal].current_pool;
    CUresult result = allocate(&here, into, bytes, from, owner);
    LEAVE(result);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *into, size_t bytes, handle from, handle on) {
    ENTER("cuMemAllocFromPoolAsync", IN_CONTEXT);
    pool *of = object_get(from, POOL);
    REQUIRE(of && stream_get(&here, on), INVALID_HANDLE);
    CUresult result = allocate(&here, into, bytes, of, &devices[of->ordinal].primary);
    LEAVE(result);
}

CUresult cuMemFreeAsync(CUdeviceptr address, handle on) {
    ENTER("cuMemFreeAsync", IN_CONTEXT);
    piece *of = piece_at(address);
    stream *at = stream_get(&here, on);
    REQUIRE(at, INVALID_HANDLE);
    REQUIRE(of && of->begin == address && of->kind == PIECE_POOL, INVALID_VALUE);
    op *work = op_new(&here, OP_FREE, at);
    work->to = address;
    op_issue(work);
    LEAVE(SUCCESS);
}

/* Write what a device's kernels may touch: begin, bytes and code (0 if no variable) of each. */
EXPORT uint64_t standin_ranges(int ordinal, uint64_t (*into)[3], uint64_t count) {
    lock_all();
    uint64_t found = 0;
    for (piece *each = pieces; each && found < count; each = each->next)
        if (reachable(ordinal, each)) {
            into[found][0] = each->begin;
            into[found][1] = each->bytes;
            into[found++][2] = each->module ? each->module->code : 0;
        }
    unlock_all();
    return found;
}
