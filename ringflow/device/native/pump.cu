// The pump: posts messages and commands to persistent kernels and takes their outputs.
//
// - Only these functions touch the indices of rings, with acquire and release.
// - A done mark is read before the outputs are drained and reported after: what is done has
//   nothing left in the ring, so credits can be given again.
// - Arrays stay where the kernel wrote them until the host has copied them: the credits of their
//   messages are given by ringflow_release.
// - Plain functions that run on the host's own threads, without Python's lock.
#include <ringflow.cuh>
#include <ringflow_room.cuh>

namespace ringflow {

// <generated: python -m ringflow.device.native.build>
constexpr unsigned AWAIT_REACHED = 0x0u;
constexpr unsigned AWAIT_ENDED = 0x1u;
constexpr unsigned AWAIT_TIMEOUT = 0x2u;

struct alignas(64) entry {
    unsigned long long control;  // control block, host address
    unsigned long long messages;  // message ring, host address
    unsigned long long replies;  // reply ring, host address
    unsigned long long status;  // the launch's status word, host address; 0 if there is none
    unsigned long long room;  // waiting room
    unsigned int key;  // the pump's name for the kernel
    unsigned int message_slots;  // a power of two
    unsigned int reply_slots;  // a power of two
    unsigned int slot_bytes;  // a power of two
    unsigned int credits;  // most messages that may be unfinished
    unsigned int holding;  // 1: outputs with arrays were reported, the host still copies them
    unsigned long long posted;  // messages posted since the launch
    unsigned long long credited;  // messages done whose outputs have all been taken
    unsigned long long withheld;  // what credited becomes once the arrays are copied
    unsigned int polled;  // 1: nobody rings for its news
    unsigned char reserved_92[36];
    unsigned long long seen_done;  // done_sequence last reported
    unsigned long long seen_state;  // state last reported
    unsigned int seen_status;  // status last reported
    unsigned int seen_fault;  // fault last reported
    unsigned char reserved_152[40];
};
static_assert(sizeof(entry) == 192, "entry");
static_assert(__builtin_offsetof(entry, control) == 0, "control");
static_assert(__builtin_offsetof(entry, messages) == 8, "messages");
static_assert(__builtin_offsetof(entry, replies) == 16, "replies");
static_assert(__builtin_offsetof(entry, status) == 24, "status");
static_assert(__builtin_offsetof(entry, room) == 32, "room");
static_assert(__builtin_offsetof(entry, key) == 40, "key");
static_assert(__builtin_offsetof(entry, message_slots) == 44, "message_slots");
static_assert(__builtin_offsetof(entry, reply_slots) == 48, "reply_slots");
static_assert(__builtin_offsetof(entry, slot_bytes) == 52, "slot_bytes");
static_assert(__builtin_offsetof(entry, credits) == 56, "credits");
static_assert(__builtin_offsetof(entry, holding) == 60, "holding");
static_assert(__builtin_offsetof(entry, posted) == 64, "posted");
static_assert(__builtin_offsetof(entry, credited) == 72, "credited");
static_assert(__builtin_offsetof(entry, withheld) == 80, "withheld");
static_assert(__builtin_offsetof(entry, polled) == 88, "polled");
static_assert(__builtin_offsetof(entry, seen_done) == 128, "seen_done");
static_assert(__builtin_offsetof(entry, seen_state) == 136, "seen_state");
static_assert(__builtin_offsetof(entry, seen_status) == 144, "seen_status");
static_assert(__builtin_offsetof(entry, seen_fault) == 148, "seen_fault");

struct alignas(8) report {
    unsigned int key;  // which kernel
    unsigned int outputs;  // slots that follow
    unsigned int slot_bytes;  // bytes of each
    unsigned int status;  // of the launch; 0 where it has no status word
    unsigned long long done_sequence;  // last finished message; its outputs have all been reported
    unsigned long long taken_sequence;  // message in progress, or the last one
    unsigned long long state;  // generation << 8 | KernelState
    unsigned long long steps;  // step() boundaries since the launch
    unsigned int fault;  // KernelFault
    unsigned int more;  // 1: the buffer was too small, more outputs wait
    unsigned long long busy_ns;  // by the device's clock, spent in finished messages
};
static_assert(sizeof(report) == 64, "report");
static_assert(__builtin_offsetof(report, key) == 0, "key");
static_assert(__builtin_offsetof(report, outputs) == 4, "outputs");
static_assert(__builtin_offsetof(report, slot_bytes) == 8, "slot_bytes");
static_assert(__builtin_offsetof(report, status) == 12, "status");
static_assert(__builtin_offsetof(report, done_sequence) == 16, "done_sequence");
static_assert(__builtin_offsetof(report, taken_sequence) == 24, "taken_sequence");
static_assert(__builtin_offsetof(report, state) == 32, "state");
static_assert(__builtin_offsetof(report, steps) == 40, "steps");
static_assert(__builtin_offsetof(report, fault) == 48, "fault");
static_assert(__builtin_offsetof(report, more) == 52, "more");
static_assert(__builtin_offsetof(report, busy_ns) == 56, "busy_ns");

struct alignas(64) pump {
    unsigned long long entries;  // array of addresses of entries
    unsigned long long room;  // waiting room
    unsigned int capacity;  // length of the array
    unsigned int count;  // entries in use
    unsigned int lock;  // held while the array is read or changed
    unsigned int woken;  // 1: wait() is to return
    unsigned int cursor;  // entry at which the next scan starts
    unsigned char reserved_36[4];
    unsigned int sleeps;  // times that wait() slept
    unsigned int scans;  // scans made
    unsigned char reserved_48[80];
};
static_assert(sizeof(pump) == 128, "pump");
static_assert(__builtin_offsetof(pump, entries) == 0, "entries");
static_assert(__builtin_offsetof(pump, room) == 8, "room");
static_assert(__builtin_offsetof(pump, capacity) == 16, "capacity");
static_assert(__builtin_offsetof(pump, count) == 20, "count");
static_assert(__builtin_offsetof(pump, lock) == 24, "lock");
static_assert(__builtin_offsetof(pump, woken) == 28, "woken");
static_assert(__builtin_offsetof(pump, cursor) == 32, "cursor");
static_assert(__builtin_offsetof(pump, sleeps) == 40, "sleeps");
static_assert(__builtin_offsetof(pump, scans) == 44, "scans");
// </generated>

namespace native {

constexpr u64 SPIN_NS = 5000;    // longer, and a worker on the same core would wait for it
constexpr u64 YIELD_NS = 60000;
constexpr u64 UNRUNG_SLEEP_NS = 100000;  // nobody rings for kernels outside the host device

__device__ __forceinline__ control* control_of(const entry* kernel) {
    return reinterpret_cast<control*>(kernel->control);
}

__device__ __forceinline__ room* room_of(const entry* kernel) {
    return reinterpret_cast<room*>(kernel->room);
}

__device__ __forceinline__ unsigned status_of(const entry* kernel) {
    return kernel->status ? load(reinterpret_cast<const unsigned*>(kernel->status)) : 0;
}

__device__ __forceinline__ void copy_slot(u64* to, const u64* from, unsigned slot_bytes) {
#pragma unroll 1
    for (unsigned i = 0; i < slot_bytes / 8; ++i) to[i] = from[i];
}

// Take outputs into ``out``; return their number and say in ``all`` whether none is left.
__device__ __forceinline__ unsigned drain(entry* kernel, unsigned char* out, u64 size_bytes,
                                          bool* all) {
    control* host = control_of(kernel);
    u64 head = load(&host->reply_head), tail = host->reply_tail;
    unsigned count = 0;
    const unsigned char* ring = reinterpret_cast<const unsigned char*>(kernel->replies);
#pragma unroll 1
    while (tail != head && (u64)(count + 1) * kernel->slot_bytes <= size_bytes) {
        u64 offset = (tail & (kernel->reply_slots - 1)) * kernel->slot_bytes;
        if (reinterpret_cast<const reply_slot*>(ring + offset)->handle) kernel->holding = 1;
        copy_slot(reinterpret_cast<u64*>(out + (u64)count * kernel->slot_bytes),
                  reinterpret_cast<const u64*>(ring + offset), kernel->slot_bytes);
        ++tail;
        ++count;
    }
    if (count) store(&host->reply_tail, tail);
    *all = tail == head;
    return count;
}

// Write a report if there is news; return its bytes, 0 if there is none or no room.
__device__ __forceinline__ u64 scan(entry* kernel, unsigned char* out, u64 size_bytes) {
    if (size_bytes < sizeof(report)) return 0;
    control* host = control_of(kernel);
    unsigned status = status_of(kernel);
    u64 state = load(&host->state);
    unsigned fault = load(&host->fault);
    u64 done_sequence = load(&host->done_sequence), done_count = load(&host->done_count);
    bool all;
    unsigned count =
        drain(kernel, out + sizeof(report), size_bytes - sizeof(report), &all);
    if (all && kernel->holding) {
        kernel->withheld = done_count;
    } else if (all) {
        store(&kernel->credited, done_count);
    } else {
        done_sequence = kernel->seen_done;
        state = kernel->seen_state;
        status = kernel->seen_status;
    }
    if (!count && all && done_sequence == kernel->seen_done && state == kernel->seen_state &&
        status == kernel->seen_status && fault == kernel->seen_fault)
        return 0;
    kernel->seen_done = done_sequence;
    kernel->seen_state = state;
    kernel->seen_status = status;
    kernel->seen_fault = fault;
    report* news = reinterpret_cast<report*>(out);
    news->key = kernel->key;
    news->outputs = count;
    news->slot_bytes = kernel->slot_bytes;
    news->status = status;
    news->done_sequence = done_sequence;
    news->taken_sequence = load(&host->taken_sequence);
    news->state = state;
    news->steps = load(&host->steps);
    news->fault = fault;
    news->more = all ? 0 : 1;
    news->busy_ns = load(&host->busy_ns);
    return sizeof(report) + (u64)count * kernel->slot_bytes;
}

__device__ __forceinline__ void lock(pump* pump) {
#pragma unroll 1
    while (swap(&pump->lock, 0, 1) != 0) sched_yield();
}

__device__ __forceinline__ void unlock(pump* pump) { store(&pump->lock, 0); }

// Scan all entries, each call from another one on, so that a full buffer starves none.
__device__ __noinline__ u64 scan_all(pump* pump, unsigned char* out, u64 size_bytes) {
    u64 written = 0;
    lock(pump);
    entry* const* entries = reinterpret_cast<entry* const*>(pump->entries);
    unsigned count = pump->count;
#pragma unroll 1
    for (unsigned i = 0; i < count; ++i) {
        unsigned which = pump->cursor + i;
        if (which >= count) which -= count;
        written += scan(entries[which], out + written, size_bytes - written);
    }
    pump->cursor = pump->cursor + 1 < count ? pump->cursor + 1 : 0;
    pump->scans += 1;
    unlock(pump);
    return written;
}

// Wait until something is so of the kernel's words, it has ended, or the time is up.
template <typename Reached>
__device__ __forceinline__ unsigned await(entry* kernel, u64 timeout_ns, Reached reached) {
    room* where = room_of(kernel);
    control* host = control_of(kernel);
    u64 start_ns = now_ns();
#pragma unroll 1
    for (;;) {
        unsigned heard = load(&where->host_bell);
        u64 passed_ns = now_ns() - start_ns;
        bool sleeping = passed_ns >= YIELD_NS;
        if (sleeping) {
            add(&where->host_sleepers, 1);
            full_fence();
        }
        unsigned result = AWAIT_TIMEOUT;
        unsigned status = status_of(kernel);
        if (reached(host)) result = AWAIT_REACHED;
        else if (status != 0) result = AWAIT_ENDED;
        bool over = result != AWAIT_TIMEOUT || passed_ns >= timeout_ns;
        if (sleeping) {
            u64 longest_ns = timeout_ns - passed_ns;
            if (kernel->polled && longest_ns > UNRUNG_SLEEP_NS) longest_ns = UNRUNG_SLEEP_NS;
            if (!over) sleep(where, &where->host_bell, heard, longest_ns);
            add(&where->host_sleepers, ~0u);
        }
        if (over) return result;
        if (passed_ns >= SPIN_NS) sched_yield();
    }
}

__device__ __forceinline__ u64 longest_sleep_ns(pump* pump, u64 wanted_ns) {
    lock(pump);
    entry* const* entries = reinterpret_cast<entry* const*>(pump->entries);
#pragma unroll 1
    for (unsigned i = 0; i < pump->count; ++i)
        if (entries[i]->polled && wanted_ns > UNRUNG_SLEEP_NS) wanted_ns = UNRUNG_SLEEP_NS;
    unlock(pump);
    return wanted_ns;
}

}  // namespace native
}  // namespace ringflow

using namespace ringflow;
using native::u64;

extern "C" __device__ u64 ringflow_load(const u64* word) { return native::load(word); }

extern "C" __device__ unsigned ringflow_load_u32(const unsigned* word) {
    return native::load(word);
}

extern "C" __device__ void ringflow_store_u32(unsigned* word, unsigned value) {
    native::store(word, value);
}

extern "C" __device__ void ringflow_ring_workers(room* where) { native::ring_workers(where); }

extern "C" __device__ void ringflow_ring_host(room* where) { native::ring_host(where); }

// Return how many messages the kernel has room for.
extern "C" __device__ unsigned ringflow_room(const entry* kernel) {
    u64 open = kernel->posted - native::load(&kernel->credited);
    return open < kernel->credits ? kernel->credits - (unsigned)open : 0;
}

// Messages for the kernel are expected within ``longest_ns``: be awake by then.
extern "C" __device__ void ringflow_rouse(entry* kernel, u64 longest_ns) {
    native::rouse(native::room_of(kernel), longest_ns);
}

// Copy encoded slots into the ring and ring the doorbell; return how many there was room for.
extern "C" __device__ unsigned ringflow_post(entry* kernel, const unsigned char* slots,
                                             unsigned count) {
    unsigned room = ringflow_room(kernel);
    if (count > room) count = room;
    if (count == 0) return 0;
    unsigned char* ring = reinterpret_cast<unsigned char*>(kernel->messages);
#pragma unroll 1
    for (unsigned i = 0; i < count; ++i) {
        u64 index = (kernel->posted + i) & (kernel->message_slots - 1);
        native::copy_slot(reinterpret_cast<u64*>(ring + index * kernel->slot_bytes),
                          reinterpret_cast<const u64*>(slots + (u64)i * kernel->slot_bytes),
                          kernel->slot_bytes);
    }
    kernel->posted += count;
    u64* bell = &native::control_of(kernel)->doorbell;
    u64 seen = native::load(bell);
#pragma unroll 1
    for (;;) {
        u64 desired = (seen & ~0xFFFFFFFFull) | (unsigned)((unsigned)seen + count);
        u64 before = native::swap(bell, seen, desired);
        if (before == seen) break;
        seen = before;
    }
    native::ring_workers(native::room_of(kernel));
    return count;
}

// Give a command under a new generation; return the generation.
extern "C" __device__ unsigned ringflow_command(entry* kernel, unsigned command) {
    u64* bell = &native::control_of(kernel)->doorbell;
    u64 seen = native::load(bell);
    unsigned generation;
#pragma unroll 1
    for (;;) {
        generation = ((unsigned)(seen >> 32) + 1) & GENERATION_MASK;
        if (generation == 0) generation = 1;
        u64 desired = (seen & 0xFFFFFFFFull) | (u64)generation << 32 | (u64)command << 56;
        u64 before = native::swap(bell, seen, desired);
        if (before == seen) break;
        seen = before;
    }
    native::ring_workers(native::room_of(kernel));
    return generation;
}

// Ask for an echo; it comes while the kernel waits for messages.
extern "C" __device__ void ringflow_ping(entry* kernel, u64 value) {
    native::store(&native::control_of(kernel)->ping, value);
    native::ring_workers(native::room_of(kernel));
}

// Take one kernel's news, for code without a pump; return the report's bytes.
extern "C" __device__ u64 ringflow_collect(entry* kernel, unsigned char* out, u64 size_bytes) {
    return native::scan(kernel, out, size_bytes);
}

// Give the credits of messages whose outputs' arrays have been copied.
extern "C" __device__ void ringflow_release(entry* kernel) {
    kernel->holding = 0;
    if (kernel->withheld > kernel->credited) native::store(&kernel->credited, kernel->withheld);
}

extern "C" __device__ unsigned ringflow_register(pump* pump, entry* kernel) {
    native::lock(pump);
    unsigned added = pump->count < pump->capacity;
    if (added) {
        reinterpret_cast<entry**>(pump->entries)[pump->count] = kernel;
        pump->count += 1;
    }
    native::unlock(pump);
    native::ring_host(reinterpret_cast<room*>(pump->room));  // it may have news already
    return added;
}

extern "C" __device__ unsigned ringflow_unregister(pump* pump, entry* kernel) {
    native::lock(pump);
    entry** entries = reinterpret_cast<entry**>(pump->entries);
    unsigned removed = 0;
#pragma unroll 1
    for (unsigned i = 0; i < pump->count; ++i) {
        if (entries[i] != kernel) continue;
        entries[i] = entries[pump->count - 1];
        pump->count -= 1;
        removed = 1;
        break;
    }
    pump->cursor = 0;
    native::unlock(pump);
    return removed;
}

// Wait for news of any kernel; return the bytes of the reports, 0 after the time or a wake.
extern "C" __device__ u64 ringflow_wait(pump* pump, unsigned char* out, u64 size_bytes,
                                        u64 timeout_ns) {
    room* where = reinterpret_cast<room*>(pump->room);
    u64 start_ns = native::now_ns();
#pragma unroll 1
    for (;;) {
        u64 written = native::scan_all(pump, out, size_bytes);
        if (written) return written;
        if (native::swap(&pump->woken, 1, 0) == 1) return 0;
        u64 passed_ns = native::now_ns() - start_ns;
        if (passed_ns >= timeout_ns) return 0;
        if (passed_ns < native::SPIN_NS) continue;
        if (passed_ns < native::YIELD_NS || native::stays_awake(where, start_ns + passed_ns)) {
            sched_yield();
            continue;
        }
        unsigned heard = native::load(&where->host_bell);
        native::add(&where->host_sleepers, 1);
        native::full_fence();
        written = native::scan_all(pump, out, size_bytes);
        if (!written && !native::load(&pump->woken)) {
            pump->sleeps += 1;
            native::sleep(where, &where->host_bell, heard,
                          native::longest_sleep_ns(pump, timeout_ns - passed_ns));
        }
        native::add(&where->host_sleepers, ~0u);
        if (written) return written;
    }
}

// Take what news there is without waiting; return the bytes of the reports.
extern "C" __device__ u64 ringflow_look(pump* pump, unsigned char* out, u64 size_bytes) {
    return native::scan_all(pump, out, size_bytes);
}

// Have the next ring written to the listener's event; who arms looks once more before it sleeps.
extern "C" __device__ void ringflow_arm(listener* listener) {
    native::store(&listener->armed, 1);
    native::full_fence();
}

extern "C" __device__ void ringflow_wake(pump* pump) {
    native::store(&pump->woken, 1);
    native::ring_host(reinterpret_cast<room*>(pump->room));
}

// Wait until the kernel reports under ``generation`` or a later one, has ended, or the time is up.
extern "C" __device__ unsigned ringflow_await(entry* kernel, unsigned generation, u64 timeout_ns) {
    return native::await(kernel, timeout_ns, [=](const control* host) {
        u64 state = native::load(&host->state);
        unsigned behind = (generation - (unsigned)(state >> 8)) & GENERATION_MASK;
        return state && (behind == 0 || behind > GENERATION_MASK / 2);
    });
}

// Wait until the kernel has swapped its dirty bitmaps under ``epoch``; else as ringflow_await.
extern "C" __device__ unsigned ringflow_await_swap(entry* kernel, unsigned epoch, u64 timeout_ns) {
    return native::await(kernel, timeout_ns, [=](const control* host) {
        return native::load(&host->dirty_swapped) == epoch;
    });
}

// Wait until a launch's status word is no longer 0, or the time is up; return the word.
extern "C" __device__ unsigned ringflow_await_status(room* where, const unsigned* status,
                                                     u64 timeout_ns) {
    u64 start_ns = native::now_ns();
#pragma unroll 1
    for (;;) {
        unsigned heard = native::load(&where->host_bell);
        native::add(&where->host_sleepers, 1);
        native::full_fence();
        unsigned value = native::load(status);
        u64 passed_ns = native::now_ns() - start_ns;
        bool over = value != 0 || passed_ns >= timeout_ns;
        if (!over) native::sleep(where, &where->host_bell, heard, timeout_ns - passed_ns);
        native::add(&where->host_sleepers, ~0u);
        if (over) return value;
    }
}
