// The host device's scheduler: a worker steps the CTAs in its table, and sleeps when all are idle.
//
// - A CTA belongs to one worker for good, so stepping it needs no lock.
// - Idleness is exact (the step function says so), so a worker sleeps only when nothing can go on
//   without news from the host or from another worker; both ring.
// - Progress wakes sleeping workers, at most once every RING_INTERVAL_NS; what was withheld is
//   rung before the worker turns idle, so no wake is lost.
// - A stepper makes rounds in its caller's thread, in a seeded order and under a virtual time, and
//   digests what ran: one seed and the same acts of the host between rounds, one digest.
// - What another thread reads is stored with release and read with acquire, also where x86 would
//   keep the order by itself; the words that only statistics read are plain.
#include <ringflow.cuh>
#include <ringflow_room.cuh>

namespace ringflow {

// <generated: python -m ringflow.device.native.build>
constexpr unsigned STEP_DONE = 0x0u;
constexpr unsigned STEP_IDLE = 0x1u;
constexpr unsigned STEP_PROGRESS = 0x2u;
constexpr unsigned STEP_TRAPPED = 0x3u;
constexpr unsigned STEP_PREEMPTED = 0x4u;
constexpr unsigned STEP_DROPPED = 0x5u;

struct alignas(64) launch {
    unsigned int status;  // LaunchStatus
    unsigned int outcome;  // status decided on while CTAs are still in the tables, or 0
    unsigned int abort;  // 1: the host wants it stopped
    unsigned int remaining;  // CTAs in the tables
    unsigned long long watch;  // control block whose news are rung to the host, or 0
    unsigned long long seen;  // sum of its device words at the last look
    unsigned long long trapped;  // context of the CTA that trapped first
    unsigned char reserved_40[24];
};
static_assert(sizeof(launch) == 64, "launch");
static_assert(__builtin_offsetof(launch, status) == 0, "status");
static_assert(__builtin_offsetof(launch, outcome) == 4, "outcome");
static_assert(__builtin_offsetof(launch, abort) == 8, "abort");
static_assert(__builtin_offsetof(launch, remaining) == 12, "remaining");
static_assert(__builtin_offsetof(launch, watch) == 16, "watch");
static_assert(__builtin_offsetof(launch, seen) == 24, "seen");
static_assert(__builtin_offsetof(launch, trapped) == 32, "trapped");

struct alignas(64) cta_slot {
    unsigned long long step;  // step function of the kernel
    unsigned long long cta;  // the CTA's context
    unsigned long long launch;  // its launch
    unsigned int budget;  // argument of step
    unsigned int active;  // 1: in use; set last by the host, cleared by the worker
    unsigned long long steps;  // calls of step
    unsigned int launch_number;  // launches of the pool before this one
    unsigned int index;  // of the CTA in its grid
    unsigned char reserved_48[16];
};
static_assert(sizeof(cta_slot) == 64, "cta_slot");
static_assert(__builtin_offsetof(cta_slot, step) == 0, "step");
static_assert(__builtin_offsetof(cta_slot, cta) == 8, "cta");
static_assert(__builtin_offsetof(cta_slot, launch) == 16, "launch");
static_assert(__builtin_offsetof(cta_slot, budget) == 24, "budget");
static_assert(__builtin_offsetof(cta_slot, active) == 28, "active");
static_assert(__builtin_offsetof(cta_slot, steps) == 32, "steps");
static_assert(__builtin_offsetof(cta_slot, launch_number) == 40, "launch_number");
static_assert(__builtin_offsetof(cta_slot, index) == 44, "index");

struct alignas(128) worker {
    unsigned long long slots;  // table of slots
    unsigned long long room;  // waiting room
    unsigned int used;  // slots to look at
    unsigned int stop;  // 1: return
    unsigned int spin_ns;  // time without progress before yielding
    unsigned int yield_ns;  // time without progress before sleeping
    unsigned char reserved_32[32];
    unsigned long long rounds;  // rounds made
    unsigned long long sleeps;  // times asleep
    unsigned long long rung_ns;  // when it last woke other workers
    unsigned int owed;  // 1: progress was made that sleeping workers were not told of
    unsigned char reserved_92[36];
};
static_assert(sizeof(worker) == 128, "worker");
static_assert(__builtin_offsetof(worker, slots) == 0, "slots");
static_assert(__builtin_offsetof(worker, room) == 8, "room");
static_assert(__builtin_offsetof(worker, used) == 16, "used");
static_assert(__builtin_offsetof(worker, stop) == 20, "stop");
static_assert(__builtin_offsetof(worker, spin_ns) == 24, "spin_ns");
static_assert(__builtin_offsetof(worker, yield_ns) == 28, "yield_ns");
static_assert(__builtin_offsetof(worker, rounds) == 64, "rounds");
static_assert(__builtin_offsetof(worker, sleeps) == 72, "sleeps");
static_assert(__builtin_offsetof(worker, rung_ns) == 80, "rung_ns");
static_assert(__builtin_offsetof(worker, owed) == 88, "owed");

struct alignas(64) stepper {
    unsigned long long worker;  // whose table it steps
    unsigned long long order;  // uint32 for each slot: the order of a round
    unsigned long long random;  // state of the generator
    unsigned long long time_ns;  // virtual time
    unsigned long long digest_low;  // of all steps so far
    unsigned long long digest_high;  // the same with another mixing
    unsigned long long rounds;  // rounds made
    unsigned int idle;  // 1: no CTA went on in the last round
    unsigned char reserved_60[68];
};
static_assert(sizeof(stepper) == 128, "stepper");
static_assert(__builtin_offsetof(stepper, worker) == 0, "worker");
static_assert(__builtin_offsetof(stepper, order) == 8, "order");
static_assert(__builtin_offsetof(stepper, random) == 16, "random");
static_assert(__builtin_offsetof(stepper, time_ns) == 24, "time_ns");
static_assert(__builtin_offsetof(stepper, digest_low) == 32, "digest_low");
static_assert(__builtin_offsetof(stepper, digest_high) == 40, "digest_high");
static_assert(__builtin_offsetof(stepper, rounds) == 48, "rounds");
static_assert(__builtin_offsetof(stepper, idle) == 56, "idle");
// </generated>

namespace native {

constexpr u64 RING_INTERVAL_NS = 50000;
constexpr u64 LONGEST_SLEEP_NS = 10000000000ull;
constexpr u64 ROUND_NS = 1000;       // virtual time of a round,
constexpr u64 PREEMPTED_NS = 262144;  // and of the fuel that a loop without polls used up
constexpr unsigned STATUS_COMPLETED = 1, STATUS_TRAPPED = 2, STATUS_ABORTED = 3;

using step_function = int (*)(void* cta, int budget);

// Ring the host if the watched kernel wrote words of its own since the last look.
__device__ __forceinline__ void look(launch* of, room* where) {
    if (!of->watch) return;
    const control* watched = reinterpret_cast<const control*>(of->watch);
    u64 sum = load(&watched->reply_head) + load(&watched->done_count) +
              load(&watched->state) * 3 + load(&watched->echo) * 5 + load(&watched->started) +
              load(&watched->dirty_swapped) * 7ull;
    if (sum == of->seen) return;
    of->seen = sum;
    ring_host(where);
}

// Take a CTA out of the table; the last one of a launch makes its outcome its status.
__device__ __forceinline__ void leave(cta_slot* slot, room* where) {
    launch* of = reinterpret_cast<launch*>(slot->launch);
    store(&slot->active, 0);
    if (add(&of->remaining, ~0u) != 1) return;
    unsigned outcome = load(&of->outcome);
    store(&of->status, outcome ? outcome : STATUS_COMPLETED);
    ring_host(where);
}

// Step one CTA; return what the step said, STEP_DROPPED if its launch is to end.
__device__ __forceinline__ unsigned step(cta_slot* slot, room* where) {
    launch* of = reinterpret_cast<launch*>(slot->launch);
    if (load(&of->abort)) swap(&of->outcome, 0u, STATUS_ABORTED);
    if (load(&of->outcome)) {
        leave(slot, where);
        return STEP_DROPPED;
    }
    step_function run = reinterpret_cast<step_function>(slot->step);
    unsigned result = (unsigned)run(reinterpret_cast<void*>(slot->cta), (int)slot->budget);
    slot->steps += 1;
    if (result == STEP_IDLE) return result;
    if (result == STEP_TRAPPED && swap(&of->outcome, 0u, STATUS_TRAPPED) == 0)
        store(&of->trapped, slot->cta);  // after it the host reads the CTA's header
    look(of, where);
    if (result == STEP_DONE || result == STEP_TRAPPED) leave(slot, where);
    return result;
}

// Step every CTA of the table once; return whether one of them went on.
__device__ __noinline__ bool round(worker* self) {
    room* where = reinterpret_cast<room*>(self->room);
    cta_slot* slots = reinterpret_cast<cta_slot*>(self->slots);
    unsigned used = load(&self->used);
    bool progress = false;
#pragma unroll 1
    for (unsigned i = 0; i < used; ++i)
        if (load(&slots[i].active)) progress |= step(&slots[i], where) != STEP_IDLE;
    self->rounds += 1;
    return progress;
}

// The finaliser of splitmix64.
__device__ __forceinline__ u64 mixed(u64 value) {
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9ull;
    value = (value ^ value >> 27) * 0x94D049BB133111EBull;
    return value ^ value >> 31;
}

__device__ __forceinline__ void digest(stepper* self, u64 word) {
    self->digest_low = mixed(self->digest_low ^ word);
    self->digest_high = mixed(self->digest_high + word * 0x9E3779B97F4A7C15ull);
}

// List the slots in use in the order of this round; return their number.
__device__ __forceinline__ unsigned shuffle(stepper* self, worker* of, const cta_slot* slots) {
    unsigned* order = reinterpret_cast<unsigned*>(self->order);
    unsigned count = 0, used = load(&of->used);
#pragma unroll 1
    for (unsigned i = 0; i < used; ++i)
        if (load(&slots[i].active)) order[count++] = i;
#pragma unroll 1
    for (unsigned left = count; left > 1; --left) {
        self->random += 0x9E3779B97F4A7C15ull;
        unsigned which = (unsigned)((mixed(self->random) >> 32) * left >> 32);
        unsigned last = order[left - 1];
        order[left - 1] = order[which];
        order[which] = last;
    }
    return count;
}

// One round of a stepper; returns whether a CTA went on.
__device__ __noinline__ bool round_in_order(stepper* self) {
    worker* of = reinterpret_cast<worker*>(self->worker);
    room* where = reinterpret_cast<room*>(of->room);
    cta_slot* slots = reinterpret_cast<cta_slot*>(of->slots);
    const unsigned* order = reinterpret_cast<const unsigned*>(self->order);
    unsigned count = shuffle(self, of, slots);
    bool progress = false;
#pragma unroll 1
    for (unsigned i = 0; i < count; ++i) {
        cta_slot* slot = &slots[order[i]];
        u64 who = (u64)slot->launch_number << 32 | slot->index;
        unsigned result = step(slot, where);
        digest(self, who);
        digest(self, result);
        progress |= result != STEP_IDLE;
        if (result == STEP_PREEMPTED) self->time_ns += PREEMPTED_NS;
    }
    self->time_ns += ROUND_NS;
    self->rounds += 1;
    of->rounds += 1;
    self->idle = !progress;
    return progress;
}

__device__ __forceinline__ void tell_others(worker* self, room* where, bool progress) {
    if (!progress && !self->owed) return;
    if (!progress) full_fence();
    if (!load(&where->worker_sleepers)) {
        self->owed = progress;  // one may be about to sleep: ring once more when idle
        return;
    }
    u64 now = now_ns();
    if (progress && now - self->rung_ns < RING_INTERVAL_NS) {
        self->owed = 1;
        return;
    }
    self->rung_ns = now;
    self->owed = 0;
    ring_workers(where);
}

}  // namespace native
}  // namespace ringflow

using namespace ringflow;
using native::u64;

// Make rounds until there were enough, the virtual time is up, or (where asked) one was idle;
// return how many were made.
extern "C" __device__ unsigned ringflow_stepper_run(stepper* self, unsigned rounds,
                                                    unsigned until_idle, u64 until_ns) {
    unsigned made = 0;
#pragma unroll 1
    while (made < rounds && self->time_ns < until_ns) {
        bool progress = native::round_in_order(self);
        ++made;
        if (until_idle && !progress) break;
    }
    return made;
}

// Take bytes of the host into the digest, as words of 8.
extern "C" __device__ void ringflow_stepper_digest(stepper* self, const u64* words, u64 count) {
#pragma unroll 1
    for (u64 i = 0; i < count; ++i) native::digest(self, words[i]);
}

// Step CTAs until told to stop.
extern "C" __device__ void ringflow_worker_run(worker* self) {
    room* where = reinterpret_cast<room*>(self->room);
    u64 went_on_ns = native::now_ns();
#pragma unroll 1
    while (!native::load(&self->stop)) {
        bool progress = native::round(self);
        native::tell_others(self, where, progress);
        u64 now = native::now_ns();
        if (progress) went_on_ns = now;
        if (now - went_on_ns <= self->spin_ns) continue;
        if (now - went_on_ns <= self->yield_ns || native::stays_awake(where, now)) {
            sched_yield();
            continue;
        }
        unsigned heard = native::load(&where->worker_bell);
        native::add(&where->worker_sleepers, 1);
        native::full_fence();
        if (!native::round(self) && !native::load(&self->stop)) {
            self->sleeps += 1;
            native::sleep(where, &where->worker_bell, heard, native::LONGEST_SLEEP_NS);
        } else {
            native::tell_others(self, where, true);
        }
        native::add(&where->worker_sleepers, ~0u);
        went_on_ns = native::now_ns();
    }
}
