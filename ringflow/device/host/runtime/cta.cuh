// What a CTA's memory holds, for the runtime's sources: the words of cta.py.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE __attribute__((device))
#define EXPORT extern "C" __attribute__((device))
#define INLINE static __attribute__((device, always_inline)) inline

enum { DONE, IDLE, PROGRESS, TRAPPED, PREEMPTED };
enum : u32 {
    REGION = 0xFFFF,
    POLL = 0x10000,
    BARRIER = 0x20000,
    WARP = 0x40000,
    EXITED = 0x80000,
    TRAP = 0x90000,
    MIXED = 0xF0000,
    MASK = 0xFFFFF,
    EFFECT = 0x1000000,
    OUT_OF_FUEL = 0x2000000,
    UNKNOWN = 0xFFFFFFFF,
};
enum : u32 {
    BAR = 1, BAR_POPC, BAR_AND, BAR_OR, BAR_ARRIVE,
    WARP_SYNC = 8, SHFL_UP, SHFL_DOWN, SHFL_BFLY, SHFL_IDX,
    VOTE_ALL, VOTE_ANY, VOTE_UNI, VOTE_BALLOT,
    MATCH_32, MATCH_64, ACTIVE_MASK,
    ADD, AND, OR, XOR, MIN_U, MAX_U, MIN_S, MAX_S,
    MATCH_ALL_32, MATCH_ALL_64,
};
enum { FUEL = 1 << 18, POLLERS_MAX = 8, HEADER = 256, BARRIERS = 16 };

struct Header {
    u32 status;
    int fuel;
    u32 uniform, threads;
    u32 block[3], index[3], grid[3];
    u32 unit_stride;
    u64 parameters, shared, local;
    u32 local_bytes, shared_bytes, dynamic_shared;
    u32 trap_thread, trap_kind, trap_line;
    u32 exited, settled, pollers;
    u32 poller[POLLERS_MAX];
    u32 reserved;
    u64 context_bytes, launch;
    u64 bounds;      // address of the word that holds the table of memcheck's ranges, or 0
    u64 misuse;      // memcheck's function that looks for misused collectives, or 0
    u32 reserved_bytes;  // what memcheck keeps at the start of shared memory
    u32 fault_access, fault_thread, fault_line;
    u64 fault_address;
    u64 log;  // where prints go, or 0
    unsigned short arrived[BARRIERS];  // threads that came to a barrier and went on
    u64 stack;  // where the native stack of a call from a kernel begins
};

typedef u32 (*Run)(Header* cta, u32 low, u32 high);

struct Fact {
    u32 code, constant;
};
struct Table {
    const Run* run;
    const Fact* fact;
    const u32* trap;  // kind and line of each
    u32 regions, reserved;
};
// Looks for collectives that are misused; `stuck`: no thread of the CTA can ever go on.
typedef int (*Misuse)(Header* cta, const Table* table, bool stuck);

struct Record {
    u32 block[3], grid[3];
    u32 dynamic_shared, reserved;
    u64 parameters;
};

INLINE u32* unit(Header* cta, u32 which) {
    return (u32*)((char*)cta + HEADER + (u64)which * cta->unit_stride);
}

INLINE bool at_barrier(u32 word) { return word & BARRIER && word < WARP; }

// The number of the barrier that a thread waits at; BARRIERS and above name none.
INLINE u32 barrier_of(Header* cta, const Table* table, u32 thread, u32 word) {
    u32 id = table->fact[word & REGION].constant;
    return id < BARRIERS ? id : unit(cta, 3)[thread];
}
