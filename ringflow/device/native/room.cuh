// Where threads of the process sleep: the host device's workers at one bell, pumps at another, event
// loops at their listeners.
//
// - Who sleeps says so first, then looks once more, then sleeps: whoever rings looks for sleepers
//   after its store, so one of the two sees the other (both have a full fence in between).
// - Nobody rings while nobody sleeps.
#pragma once

// Given by the host translator: the C library's syscall(), sched_yield() and clock_gettime().
extern "C" __device__ long long syscall(long long number, const void* word, long long operation,
                                        long long value, const void* timeout);
extern "C" __device__ int sched_yield();
extern "C" __device__ int clock_gettime(int clock, void* time);

namespace ringflow {

// <generated: python -m ringflow.device.native.build>
struct alignas(64) listener {
    unsigned int event;  // file descriptor
    unsigned int armed;  // 1: write to it at the next ring
    unsigned char reserved_8[56];
};
static_assert(sizeof(listener) == 64, "listener");
static_assert(__builtin_offsetof(listener, event) == 0, "event");
static_assert(__builtin_offsetof(listener, armed) == 4, "armed");

struct alignas(128) room {
    unsigned int worker_bell;  // futex of the host device's workers
    unsigned int worker_sleepers;  // workers asleep or about to sleep
    unsigned char reserved_8[120];
    unsigned int host_bell;  // futex of pumps and of those who wait for a kernel
    unsigned int host_sleepers;  // of these asleep or about to sleep
    unsigned char reserved_136[56];
    unsigned int futex_call;  // number of the futex system call
    unsigned int write_call;  // number of the write system call
    unsigned long long awake_until_ns;  // monotonic; workers and pumps yield instead of sleeping
    unsigned long long listeners;  // array of listeners
    unsigned int listener_count;  // how many of them were ever used
    unsigned char reserved_220[36];
};
static_assert(sizeof(room) == 256, "room");
static_assert(__builtin_offsetof(room, worker_bell) == 0, "worker_bell");
static_assert(__builtin_offsetof(room, worker_sleepers) == 4, "worker_sleepers");
static_assert(__builtin_offsetof(room, host_bell) == 128, "host_bell");
static_assert(__builtin_offsetof(room, host_sleepers) == 132, "host_sleepers");
static_assert(__builtin_offsetof(room, futex_call) == 192, "futex_call");
static_assert(__builtin_offsetof(room, write_call) == 196, "write_call");
static_assert(__builtin_offsetof(room, awake_until_ns) == 200, "awake_until_ns");
static_assert(__builtin_offsetof(room, listeners) == 208, "listeners");
static_assert(__builtin_offsetof(room, listener_count) == 216, "listener_count");
// </generated>

namespace native {

using u64 = unsigned long long;

struct timespec {
    long long seconds, nanoseconds;
};

constexpr long long FUTEX_WAIT_PRIVATE = 128;
constexpr long long FUTEX_WAKE_PRIVATE = 129;
constexpr long long EVERYBODY = 0x7fffffff;

__device__ __forceinline__ unsigned load(const unsigned* word) {
    unsigned value;
    asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}

__device__ __forceinline__ u64 load(const u64* word) {
    u64 value;
    asm volatile("ld.acquire.sys.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
}

__device__ __forceinline__ void store(unsigned* word, unsigned value) {
    asm volatile("st.release.sys.u32 [%0], %1;" : : "l"(word), "r"(value) : "memory");
}

__device__ __forceinline__ void store(u64* word, u64 value) {
    asm volatile("st.release.sys.u64 [%0], %1;" : : "l"(word), "l"(value) : "memory");
}

__device__ __forceinline__ unsigned add(unsigned* word, unsigned value) {
    unsigned before;
    asm volatile("atom.acq_rel.sys.add.u32 %0, [%1], %2;"
                 : "=r"(before) : "l"(word), "r"(value) : "memory");
    return before;
}

__device__ __forceinline__ unsigned swap(unsigned* word, unsigned expected, unsigned desired) {
    unsigned before;
    asm volatile("atom.acq_rel.sys.cas.b32 %0, [%1], %2, %3;"
                 : "=r"(before) : "l"(word), "r"(expected), "r"(desired) : "memory");
    return before;
}

__device__ __forceinline__ u64 swap(u64* word, u64 expected, u64 desired) {
    u64 before;
    asm volatile("atom.acq_rel.sys.cas.b64 %0, [%1], %2, %3;"
                 : "=l"(before) : "l"(word), "l"(expected), "l"(desired) : "memory");
    return before;
}

__device__ __forceinline__ void full_fence() { asm volatile("fence.sc.sys;" : : : "memory"); }

__device__ __forceinline__ u64 now_ns() {
    timespec time;
    clock_gettime(1, &time);  // CLOCK_MONOTONIC
    return (u64)time.seconds * 1000000000ull + (u64)time.nanoseconds;
}

__device__ __forceinline__ void ring(room* where, unsigned* bell, unsigned* sleepers) {
    full_fence();
    if (load(sleepers) == 0) return;
    add(bell, 1);
    syscall(where->futex_call, bell, FUTEX_WAKE_PRIVATE, EVERYBODY, nullptr);
}

__device__ __forceinline__ void ring_workers(room* where) {
    ring(where, &where->worker_bell, &where->worker_sleepers);
}

__device__ __forceinline__ void ring_host(room* where) {
    ring(where, &where->host_bell, &where->host_sleepers);
    unsigned count = load(&where->listener_count);
    listener* listeners = reinterpret_cast<listener*>(where->listeners);
#pragma unroll 1
    for (unsigned i = 0; i < count; ++i) {
        if (!load(&listeners[i].armed) || swap(&listeners[i].armed, 1, 0) != 1) continue;
        u64 one = 1;
        syscall(where->write_call, reinterpret_cast<const void*>((u64)listeners[i].event),
                (long long)&one, sizeof(one), nullptr);
    }
}

__device__ __forceinline__ bool stays_awake(room* where, u64 now) {
    return now < load(&where->awake_until_ns);
}

// Wake workers and pumps for work that comes soon, and keep them awake for a while.
__device__ __forceinline__ void rouse(room* where, u64 longest_ns) {
    u64 until_ns = now_ns() + longest_ns;
    if (until_ns > load(&where->awake_until_ns)) store(&where->awake_until_ns, until_ns);
    ring_workers(where);
    ring_host(where);
}

// Sleep until the bell is no longer ``heard``, or for at most ``longest_ns``.
__device__ __forceinline__ void sleep(room* where, unsigned* bell, unsigned heard, u64 longest_ns) {
    timespec time{(long long)(longest_ns / 1000000000ull), (long long)(longest_ns % 1000000000ull)};
    syscall(where->futex_call, bell, FUTEX_WAIT_PRIVATE, heard, &time);
}

}  // namespace native
}  // namespace ringflow
