// What kernels translated for memcheck call: is an access allowed, are collectives used rightly?
//
// - The first violation of a CTA is noted in its header; the thread then stops with a trap.
// - A site of the code keeps the range that it hit last, so that this is called rarely.

#include "cta.cuh"

enum : u32 { LOAD = 1, STORE, ATOMIC };
enum : u32 { GENERIC, SHARED, LOCAL };
enum : u32 { READ_ONLY = 1 };
enum : u32 { TRAP_MEMORY = 4, TRAP_LEFT, TRAP_DIVERGED, TRAP_STUCK };

struct Range {
    u64 begin, end, flags;
};
struct Bounds {
    u64 count;
    Range range[1];  // ascending, none overlaps another
};
struct Site {
    u64 bounds, begin, length, reserved;  // an access at begin <= address < begin + length is good
};

static DEVICE __attribute__((noinline)) const Range* find(const Bounds* bounds, u64 address) {
    u64 low = 0, high = bounds->count;
#pragma unroll 1
    while (low < high) {
        u64 middle = (low + high) / 2;
        if (bounds->range[middle].end <= address) low = middle + 1;
        else high = middle;
    }
    if (low == bounds->count || bounds->range[low].begin > address) return nullptr;
    return &bounds->range[low];
}

INLINE bool within(u64 address, u64 size, u64 begin, u64 bytes) {
    return address - begin < bytes && size <= bytes - (address - begin);
}

// Whether `thread` may access `access >> 8 & 0xFF` bytes; keeps the range at the site.
EXPORT int ringflow_memcheck(
    Header* cta, u32 thread, u64 address, u32 access, u32 line, Site* site) {
    u32 kind = access & 0xFF, size = access >> 8 & 0xFF, space = access >> 16;
    if (space == GENERIC && !(address & (size - 1))) {
        const Bounds* bounds = *(const Bounds* volatile*)cta->bounds;
        const Range* range = find(bounds, address);
        if (range && size <= range->end - address && (kind == LOAD || !(range->flags & READ_ONLY))) {
            if (site) {
                site->bounds = (u64)bounds;
                site->begin = range->begin;
                site->length = range->end - range->begin - size + 1;
            }
            return 1;
        }
        u64 shared = cta->shared + cta->reserved_bytes;
        if (within(address, size, shared, cta->shared_bytes - cta->reserved_bytes)) return 1;
        u64 calls_end = *(const u64*)cta->shared;  // local variables of native calls lie below
        if (!site && within(address, size, cta->shared, calls_end)) return 1;
        u64 local = cta->local + (u64)thread * cta->local_bytes;
        if (within(address, size, local, cta->local_bytes)) return 1;
    }
    if (!cta->fault_access) {
        cta->fault_access = access;
        cta->fault_thread = thread;
        cta->fault_line = line;
        cta->fault_address = address;
    }
    return 0;
}

static DEVICE __attribute__((noinline)) int report(
    Header* cta, u32 kind, u32 thread, u32 other) {
    const u32* state = unit(cta, 0);
    cta->trap_kind = kind;
    cta->trap_thread = thread;
    cta->trap_line = state[thread] & REGION;
    cta->fault_thread = other;
    cta->fault_line = state[other] == EXITED ? UNKNOWN : state[other] & REGION;
    return 1;
}

INLINE bool at_collective(u32 word) { return word >= WARP && word < EXITED; }

// Barriers that all threads must reach: none may have left, none may wait at another one.
static DEVICE __attribute__((noinline)) int misused_barrier(Header* cta, const Table* table) {
    const u32* state = unit(cta, 0);
    const u32* count = unit(cta, 2);
    u32 gone = UNKNOWN, first[16];
#pragma unroll 1
    for (u32 id = 0; id < 16; ++id) first[id] = UNKNOWN;
#pragma unroll 1
    for (u32 t = 0; t < cta->threads && gone == UNKNOWN; ++t)
        if (state[t] == EXITED) gone = t;
#pragma unroll 1
    for (u32 t = 0; t < cta->threads; ++t) {
        if (!at_barrier(state[t]) || count[t]) continue;
        if (gone != UNKNOWN) return report(cta, TRAP_LEFT, t, gone);
        u32 id = barrier_of(cta, table, t, state[t]) & 15;
        if (first[id] == UNKNOWN) first[id] = t;
        else if (state[first[id]] != state[t]) return report(cta, TRAP_DIVERGED, first[id], t);
    }
    return 0;
}

// Collectives of one warp: those named in the mask must come, and to the same instruction.
static DEVICE __attribute__((noinline)) int misused_collective(
    Header* cta, const Table* table, u32 first) {
    const u32* state = unit(cta, 0) + first;
    const u32* member = unit(cta, 4) + first;
    const u32* count = unit(cta, 2) + first;
    u32 lanes = cta->threads - first < 32 ? cta->threads - first : 32;
#pragma unroll 1
    for (u32 lane = 0; lane < lanes; ++lane) {
        if (!at_collective(state[lane])) continue;
        u32 code = table->fact[state[lane] & REGION].code;
        if (code == ACTIVE_MASK) continue;
        if (!(member[lane] >> lane & 1)) return report(cta, TRAP_DIVERGED, first + lane, first + lane);
#pragma unroll 1
        for (u32 other = 0; other < lanes; ++other) {
            if (!(member[lane] >> other & 1) || state[other] == state[lane]) continue;
            u32 word = state[other];
            if (word == EXITED) return report(cta, TRAP_LEFT, first + lane, first + other);
            bool apart = at_barrier(word) && !count[other];
            if (at_collective(word)) {
                u32 its = table->fact[word & REGION].code;
                bool meet = code == WARP_SYNC && its == WARP_SYNC;
                apart = !meet && its != ACTIVE_MASK && member[other] >> lane & 1;
            }
            if (apart) return report(cta, TRAP_DIVERGED, first + lane, first + other);
        }
    }
    return 0;
}

EXPORT int ringflow_misuse(Header* cta, const Table* table, bool stuck) {
    const u32* state = unit(cta, 0);
    if (misused_barrier(cta, table)) return 1;
#pragma unroll 1
    for (u32 first = 0; first < cta->threads; first += 32)
        if (misused_collective(cta, table, first)) return 1;
    if (!stuck) return 0;
    u32 waits = UNKNOWN, other = UNKNOWN;
#pragma unroll 1
    for (u32 t = 0; t < cta->threads; ++t) {
        if (state[t] >= EXITED) continue;
        if (waits == UNKNOWN) waits = t;
        else if (state[t] != state[waits]) other = t;
    }
    return report(cta, TRAP_STUCK, waits, other == UNKNOWN ? waits : other);
}
