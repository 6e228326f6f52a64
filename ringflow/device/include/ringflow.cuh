// The kernel's side of ringflow: receive messages, answer, wait for the whole grid.
//
// - Every thread of every block makes the collective calls (receive, poll, step, sync) alike.
// - reply, emit and send_to are for the leader; sync() first if other threads wrote what it sends.
// - Thread 0 of block 0 alone reads and writes host memory; the blocks follow its decisions in the
//   workspace, one arrival and one broadcast a message.
// - No atomics on host memory, no thread leaves before the loop has ended.
#pragma once

namespace ringflow {

// <generated: python -m ringflow.device.native.build>
constexpr unsigned ABI_MAGIC = 0x574c4652u;
constexpr unsigned ABI_VERSION = 0x4u;
constexpr unsigned BATCH_SLOTS = 0x20u;
constexpr unsigned SHARED_PAYLOAD_BYTES = 0xe0u;
constexpr unsigned BULK_UNIT_BYTES = 0x40u;
constexpr unsigned DIRTY_BLOCK_BYTES = 0x10000u;
constexpr unsigned GENERATION_MASK = 0xffffffu;
constexpr unsigned ROUTE_SHIFT = 0x10u;
constexpr unsigned COMMAND_RUN = 0x0u;
constexpr unsigned COMMAND_HOLD = 0x1u;
constexpr unsigned COMMAND_RETURN = 0x2u;
constexpr unsigned COMMAND_RETURN_DRAINED = 0x3u;
constexpr unsigned STATE_UNKNOWN = 0x0u;
constexpr unsigned STATE_RUNNING = 0x1u;
constexpr unsigned STATE_HELD = 0x2u;
constexpr unsigned STATE_RETURNING = 0x3u;
constexpr unsigned FAULT_NONE = 0x0u;
constexpr unsigned FAULT_ABI_MISMATCH = 0x1u;
constexpr unsigned FAULT_TOO_MANY_REPLIES = 0x2u;
constexpr unsigned FAULT_REPLY_TOO_LARGE = 0x3u;
constexpr unsigned FAULT_REPLY_DATA_TOO_LARGE = 0x4u;
constexpr unsigned OUTPUT_EMITTED = 0x1u;
constexpr unsigned OUTPUT_ROUTED = 0x2u;

struct alignas(128) control {
    unsigned long long doorbell;  // messages posted (32) | generation (24) | command (8)
    unsigned long long reply_tail;  // outputs that the host has taken
    unsigned long long ping;  // any value; the kernel answers in echo while it waits
    unsigned int dirty_epoch;  // raised by one to make the kernel swap its dirty bitmaps
    unsigned int emissions_closed;  // 1: between messages emit and send_to send nothing
    unsigned int magic;  // ABI_MAGIC
    unsigned int version;  // ABI_VERSION
    unsigned long long work;  // workspace, device address
    unsigned long long messages;  // message ring, device address
    unsigned long long replies;  // reply ring, device address
    unsigned int message_slots;  // a power of two
    unsigned int reply_slots;  // a power of two
    unsigned int slot_bytes;  // a power of two, 64 or more
    unsigned int max_replies;  // replies that one message may make
    unsigned long long base_sequence;  // last sequence applied before this launch
    unsigned long long epoch;  // of this launch
    unsigned int emit_slots;  // reply slots beyond those that replies are credited
    unsigned int withdrawn;  // 1: return from the first boundary before all blocks are there
    unsigned char reserved_104[24];
    unsigned long long started;  // epoch, once all blocks have arrived at the first boundary
    unsigned long long done_sequence;  // last finished message
    unsigned long long done_count;  // messages finished since the launch
    unsigned long long consumed;  // ring slots copied out since the launch
    unsigned long long reply_head;  // outputs written since the launch
    unsigned long long state;  // generation << 8 | KernelState
    unsigned long long echo;  // the last ping seen
    unsigned long long steps;  // step() boundaries passed since the launch
    unsigned long long taken_sequence;  // message in progress, or the last one
    unsigned int fault;  // KernelFault
    unsigned int dirty_swapped;  // the last dirty_epoch obeyed
    unsigned long long busy_ns;  // device's clock: spent in finished messages, in earlier launches too
    unsigned char reserved_216[40];
};
static_assert(sizeof(control) == 256, "control");
static_assert(__builtin_offsetof(control, doorbell) == 0, "doorbell");
static_assert(__builtin_offsetof(control, reply_tail) == 8, "reply_tail");
static_assert(__builtin_offsetof(control, ping) == 16, "ping");
static_assert(__builtin_offsetof(control, dirty_epoch) == 24, "dirty_epoch");
static_assert(__builtin_offsetof(control, emissions_closed) == 28, "emissions_closed");
static_assert(__builtin_offsetof(control, magic) == 32, "magic");
static_assert(__builtin_offsetof(control, version) == 36, "version");
static_assert(__builtin_offsetof(control, work) == 40, "work");
static_assert(__builtin_offsetof(control, messages) == 48, "messages");
static_assert(__builtin_offsetof(control, replies) == 56, "replies");
static_assert(__builtin_offsetof(control, message_slots) == 64, "message_slots");
static_assert(__builtin_offsetof(control, reply_slots) == 68, "reply_slots");
static_assert(__builtin_offsetof(control, slot_bytes) == 72, "slot_bytes");
static_assert(__builtin_offsetof(control, max_replies) == 76, "max_replies");
static_assert(__builtin_offsetof(control, base_sequence) == 80, "base_sequence");
static_assert(__builtin_offsetof(control, epoch) == 88, "epoch");
static_assert(__builtin_offsetof(control, emit_slots) == 96, "emit_slots");
static_assert(__builtin_offsetof(control, withdrawn) == 100, "withdrawn");
static_assert(__builtin_offsetof(control, started) == 128, "started");
static_assert(__builtin_offsetof(control, done_sequence) == 136, "done_sequence");
static_assert(__builtin_offsetof(control, done_count) == 144, "done_count");
static_assert(__builtin_offsetof(control, consumed) == 152, "consumed");
static_assert(__builtin_offsetof(control, reply_head) == 160, "reply_head");
static_assert(__builtin_offsetof(control, state) == 168, "state");
static_assert(__builtin_offsetof(control, echo) == 176, "echo");
static_assert(__builtin_offsetof(control, steps) == 184, "steps");
static_assert(__builtin_offsetof(control, taken_sequence) == 192, "taken_sequence");
static_assert(__builtin_offsetof(control, fault) == 200, "fault");
static_assert(__builtin_offsetof(control, dirty_swapped) == 204, "dirty_swapped");
static_assert(__builtin_offsetof(control, busy_ns) == 208, "busy_ns");

struct alignas(8) message_slot {
    unsigned long long sequence;  // number of the message
    unsigned int type;  // message type
    unsigned int size;  // payload bytes after this header
    unsigned long long correlation;  // the sender's own number
    unsigned int bulk_size;  // bytes in the bulk arena
    unsigned int handle;  // where they lie: 1 + offset / BULK_UNIT_BYTES; 0 for none
};
static_assert(sizeof(message_slot) == 32, "message_slot");
static_assert(__builtin_offsetof(message_slot, sequence) == 0, "sequence");
static_assert(__builtin_offsetof(message_slot, type) == 8, "type");
static_assert(__builtin_offsetof(message_slot, size) == 12, "size");
static_assert(__builtin_offsetof(message_slot, correlation) == 16, "correlation");
static_assert(__builtin_offsetof(message_slot, bulk_size) == 24, "bulk_size");
static_assert(__builtin_offsetof(message_slot, handle) == 28, "handle");

struct alignas(8) reply_slot {
    unsigned long long sequence;  // message that caused it; for emit the last one taken
    unsigned int type;  // message type
    unsigned int size;  // payload bytes after this header
    unsigned int index;  // number among that message's outputs
    unsigned int correlation;  // low half of the message's
    unsigned int flags;  // OutputFlag bits | number of the route << ROUTE_SHIFT
    unsigned int handle;  // array: 1 + offset of its bulk_piece / BULK_UNIT_BYTES; 0 for none
};
static_assert(sizeof(reply_slot) == 32, "reply_slot");
static_assert(__builtin_offsetof(reply_slot, sequence) == 0, "sequence");
static_assert(__builtin_offsetof(reply_slot, type) == 8, "type");
static_assert(__builtin_offsetof(reply_slot, size) == 12, "size");
static_assert(__builtin_offsetof(reply_slot, index) == 16, "index");
static_assert(__builtin_offsetof(reply_slot, correlation) == 20, "correlation");
static_assert(__builtin_offsetof(reply_slot, flags) == 24, "flags");
static_assert(__builtin_offsetof(reply_slot, handle) == 28, "handle");

struct alignas(8) bulk_piece {
    unsigned long long size;  // bytes of the array that follows
    unsigned char reserved_8[56];
};
static_assert(sizeof(bulk_piece) == 64, "bulk_piece");
static_assert(__builtin_offsetof(bulk_piece, size) == 0, "size");

struct alignas(128) workspace {
    unsigned int arrived;  // blocks that arrived at boundaries, counted on for ever
    unsigned char reserved_4[124];
    unsigned long long decision;  // round << 32 | action << 8 | slot of the batch
    unsigned char reserved_136[120];
    unsigned int barrier_arrived;  // blocks at the grid barrier
    unsigned char reserved_260[124];
    unsigned int barrier_round;  // grid barriers passed
    unsigned char reserved_388[124];
    unsigned long long copied;  // ring slots copied into batches
    unsigned int batch_next;  // next slot of the batch
    unsigned int batch_count;  // slots in the batch
    unsigned long long sequence;  // last message taken
    unsigned long long taken;  // messages taken
    unsigned long long flushed;  // messages reported as done
    unsigned long long outputs;  // outputs written
    unsigned int output_index;  // outputs of the message in progress
    unsigned int replies;  // replies among them
    unsigned long long obeyed;  // state word last reported
    unsigned long long steps;  // step() boundaries passed
    unsigned long long echo;  // last ping answered
    unsigned long long bulk;  // bulk arena of messages, device address
    unsigned long long reply_bulk;  // bulk arena of replies, device address
    unsigned long long share_bytes;  // what the replies to one message may fill of it
    unsigned int shares;  // messages that have such a share; they take turns
    unsigned int max_reply_data;  // bytes of arrays that one message's replies may carry
    unsigned long long share_used;  // bytes of its share that the message in progress has filled
    unsigned long long reply_data;  // bytes of arrays among them
    unsigned long long dirty_bitmap_0;  // marks under even dirty epochs: a bit a block of each region
    unsigned long long dirty_bitmap_1;  // marks under odd ones
    unsigned long long dirty_ranges;  // array of dirty_range; 0 where no marks are taken
    unsigned int dirty_range_count;  // its length
    unsigned int dirty_swapped;  // the dirty epoch of the marks that are taken now
    unsigned long long busy_ns;  // what the control block has
    unsigned long long busy_since_ns;  // clock when the first message not yet reported was taken, or 0
    unsigned char reserved_688[336];
};
static_assert(sizeof(workspace) == 1024, "workspace");
static_assert(__builtin_offsetof(workspace, arrived) == 0, "arrived");
static_assert(__builtin_offsetof(workspace, decision) == 128, "decision");
static_assert(__builtin_offsetof(workspace, barrier_arrived) == 256, "barrier_arrived");
static_assert(__builtin_offsetof(workspace, barrier_round) == 384, "barrier_round");
static_assert(__builtin_offsetof(workspace, copied) == 512, "copied");
static_assert(__builtin_offsetof(workspace, batch_next) == 520, "batch_next");
static_assert(__builtin_offsetof(workspace, batch_count) == 524, "batch_count");
static_assert(__builtin_offsetof(workspace, sequence) == 528, "sequence");
static_assert(__builtin_offsetof(workspace, taken) == 536, "taken");
static_assert(__builtin_offsetof(workspace, flushed) == 544, "flushed");
static_assert(__builtin_offsetof(workspace, outputs) == 552, "outputs");
static_assert(__builtin_offsetof(workspace, output_index) == 560, "output_index");
static_assert(__builtin_offsetof(workspace, replies) == 564, "replies");
static_assert(__builtin_offsetof(workspace, obeyed) == 568, "obeyed");
static_assert(__builtin_offsetof(workspace, steps) == 576, "steps");
static_assert(__builtin_offsetof(workspace, echo) == 584, "echo");
static_assert(__builtin_offsetof(workspace, bulk) == 592, "bulk");
static_assert(__builtin_offsetof(workspace, reply_bulk) == 600, "reply_bulk");
static_assert(__builtin_offsetof(workspace, share_bytes) == 608, "share_bytes");
static_assert(__builtin_offsetof(workspace, shares) == 616, "shares");
static_assert(__builtin_offsetof(workspace, max_reply_data) == 620, "max_reply_data");
static_assert(__builtin_offsetof(workspace, share_used) == 624, "share_used");
static_assert(__builtin_offsetof(workspace, reply_data) == 632, "reply_data");
static_assert(__builtin_offsetof(workspace, dirty_bitmap_0) == 640, "dirty_bitmap_0");
static_assert(__builtin_offsetof(workspace, dirty_bitmap_1) == 648, "dirty_bitmap_1");
static_assert(__builtin_offsetof(workspace, dirty_ranges) == 656, "dirty_ranges");
static_assert(__builtin_offsetof(workspace, dirty_range_count) == 664, "dirty_range_count");
static_assert(__builtin_offsetof(workspace, dirty_swapped) == 668, "dirty_swapped");
static_assert(__builtin_offsetof(workspace, busy_ns) == 672, "busy_ns");
static_assert(__builtin_offsetof(workspace, busy_since_ns) == 680, "busy_since_ns");

struct alignas(8) dirty_range {
    unsigned long long begin;  // address of a region
    unsigned long long end;  // address just past it
    unsigned long long first_bit;  // its first block's bit in the bitmaps
};
static_assert(sizeof(dirty_range) == 24, "dirty_range");
static_assert(__builtin_offsetof(dirty_range, begin) == 0, "begin");
static_assert(__builtin_offsetof(dirty_range, end) == 8, "end");
static_assert(__builtin_offsetof(dirty_range, first_bit) == 16, "first_bit");
// </generated>

// The device's clock, in nanoseconds: for durations on one device. GPUs advance it in steps, some of
// a microsecond. What a kernel computes from it is not reproducible.
__device__ __forceinline__ unsigned long long globaltimer_ns() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

namespace detail {

using u64 = unsigned long long;

enum action : unsigned { NOTHING = 0, MESSAGE = 1, LEAVE = 2, STEP = 3, FRESH = 4 };
enum mode : unsigned { RECEIVE, POLL, FREE_STEP };
constexpr u64 WITHDRAWN = 1ull << 16;  // in a decision: it is not of a round, and holds for all

__device__ __forceinline__ u64 load_system(const u64* word) {
    u64 value;
    asm volatile("ld.acquire.sys.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
}

__device__ __forceinline__ unsigned load_system(const unsigned* word) {
    unsigned value;
    asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}

__device__ __forceinline__ void store_system(u64* word, u64 value) {
    asm volatile("st.release.sys.u64 [%0], %1;" : : "l"(word), "l"(value) : "memory");
}

__device__ __forceinline__ u64 load_device(const u64* word) {
    u64 value;
    asm volatile("ld.acquire.gpu.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
}

__device__ __forceinline__ unsigned load_device(const unsigned* word) {
    unsigned value;
    asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}

__device__ __forceinline__ void store_device(u64* word, u64 value) {
    asm volatile("st.release.gpu.u64 [%0], %1;" : : "l"(word), "l"(value) : "memory");
}

__device__ __forceinline__ void store_device(unsigned* word, unsigned value) {
    asm volatile("st.release.gpu.u32 [%0], %1;" : : "l"(word), "r"(value) : "memory");
}

__device__ __forceinline__ unsigned add_device(unsigned* word, unsigned value) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.add.u32 %0, [%1], %2;"
                 : "=r"(before) : "l"(word), "r"(value) : "memory");
    return before;
}

__device__ __forceinline__ void nap(unsigned duration_ns) {
    asm volatile("nanosleep.u32 %0;" : : "r"(duration_ns));
}

__device__ __forceinline__ bool first_thread() {
    return (threadIdx.x | threadIdx.y | threadIdx.z) == 0;
}

__device__ __forceinline__ bool first_block() {
    return (blockIdx.x | blockIdx.y | blockIdx.z) == 0;
}

__device__ __forceinline__ unsigned block_count() { return gridDim.x * gridDim.y * gridDim.z; }

// What a block knows of its kernel: the control block's configuration, read once, and the one copy
// of the message in progress. In shared memory, so that threads keep nothing of it in registers.
struct block_state {
    workspace* work;
    const unsigned char* messages;
    unsigned char* replies;
    unsigned message_mask, reply_mask, slot_bytes, max_replies, emit_slots;
    unsigned action;
    message_slot message;
    const unsigned char* data;
    const unsigned char* bulk;
    unsigned* dirty;  // bitmap that takes marks; null where none are taken
    alignas(16) unsigned char payload[SHARED_PAYLOAD_BYTES];
};

static __device__ __forceinline__ block_state& here() {
    __shared__ block_state state;
    return state;
}

__device__ __forceinline__ void fail(control* host, unsigned fault) {
    asm volatile("st.release.sys.u32 [%0], %1;" : : "l"(&host->fault), "r"(fault)
                 : "memory");
    asm volatile("trap;");
}

// Copy a slot's header and payload, in words of 8 bytes.
__device__ __forceinline__ void copy_words(void* to, const void* from, unsigned size_bytes) {
    u64* target = static_cast<u64*>(to);
    const u64* source = static_cast<const u64*>(from);
    for (unsigned i = 0; i < (size_bytes + 7) / 8; ++i) target[i] = source[i];
}

// Clear the words of 8 bytes that begin behind one size and within another, larger one.
__device__ __forceinline__ void clear_words(void* at, unsigned size_bytes, unsigned end_bytes) {
    for (unsigned i = (size_bytes + 7) / 8; i < (end_bytes + 7) / 8; ++i) static_cast<u64*>(at)[i] = 0;
}

// Copy bytes, in words where both ends allow it; for one thread.
__device__ __forceinline__ void copy_bytes(void* to, const void* from, u64 size_bytes) {
    u64 done = 0;
    if (((reinterpret_cast<u64>(to) | reinterpret_cast<u64>(from)) & 7) == 0) {
        for (; done + 8 <= size_bytes; done += 8)
            *reinterpret_cast<u64*>(static_cast<unsigned char*>(to) + done) =
                *reinterpret_cast<const u64*>(static_cast<const unsigned char*>(from) + done);
    }
    for (; done < size_bytes; ++done)
        static_cast<unsigned char*>(to)[done] = static_cast<const unsigned char*>(from)[done];
}

__device__ __forceinline__ u64 bulk_rounded(u64 size_bytes) {
    return (size_bytes + BULK_UNIT_BYTES - 1) / BULK_UNIT_BYTES * BULK_UNIT_BYTES;
}

// Return the bitmap that takes marks now.
__device__ __forceinline__ unsigned* dirty_bitmap(const workspace* work) {
    if (work->dirty_ranges == 0) return nullptr;
    return reinterpret_cast<unsigned*>(work->dirty_swapped & 1 ? work->dirty_bitmap_1
                                                               : work->dirty_bitmap_0);
}

__device__ __forceinline__ void set_bits(unsigned* word, unsigned bits) {
    unsigned seen;
    asm volatile("ld.relaxed.gpu.u32 %0, [%1];" : "=r"(seen) : "l"(word) : "memory");
    if ((seen & bits) == bits) return;
    asm volatile("red.relaxed.gpu.or.b32 [%0], %1;" : : "l"(word), "r"(bits) : "memory");
}

// Set the bits of the blocks in which a range of memory lies; what is in no region has none.
static __device__ __noinline__ void mark_range(const workspace* work, unsigned* bitmap, u64 at,
                                               u64 size_bytes) {
    const dirty_range* ranges = reinterpret_cast<const dirty_range*>(work->dirty_ranges);
    for (unsigned i = 0; i < work->dirty_range_count; ++i) {
        u64 begin = ranges[i].begin, end = ranges[i].end;
        if (at >= end || size_bytes == 0) continue;
        u64 past = size_bytes < end - at ? at + size_bytes : end;
        if (past <= begin) continue;
        u64 first = ranges[i].first_bit + (at > begin ? at - begin : 0) / DIRTY_BLOCK_BYTES;
        u64 last = ranges[i].first_bit + (past - 1 - begin) / DIRTY_BLOCK_BYTES;
        for (u64 word = first >> 5; word <= last >> 5; ++word) {
            unsigned bits = ~0u;
            if (word == first >> 5) bits &= ~0u << (first & 31);
            if (word == last >> 5) bits &= ~0u >> (31 - (last & 31));
            set_bits(bitmap + word, bits);
        }
    }
}

// The master's steps below are for thread 0 of block 0, when all other blocks have arrived.

__device__ __forceinline__ void report_done(control* host, workspace* work) {
    if (work->flushed == work->taken) return;
    work->flushed = work->taken;
    u64 now = globaltimer_ns();
    if (now > work->busy_since_ns) work->busy_ns += now - work->busy_since_ns;
    work->busy_since_ns = 0;
    host->busy_ns = work->busy_ns;
    store_system(&host->done_sequence, work->sequence);
    store_system(&host->done_count, work->taken);
}

__device__ __forceinline__ void report_state(control* host, workspace* work, unsigned generation,
                                             unsigned state) {
    u64 word = (u64)generation << 8 | state;
    if (work->obeyed == word) return;
    if (work->obeyed == 0) store_system(&host->started, host->epoch);
    report_done(host, work);
    work->obeyed = word;
    store_system(&host->state, word);
}

// Copy what was posted into the batch. Its slots are zeros behind their messages, as at the launch:
// what code reads there of a shorter message than its struct is the same after every restart.
__device__ __forceinline__ void fill_batch(control* host, block_state& block, unsigned posted) {
    workspace* work = block.work;
    unsigned count = posted - (unsigned)work->copied;
    if (count > BATCH_SLOTS) count = BATCH_SLOTS;
    unsigned char* batch = reinterpret_cast<unsigned char*>(work + 1);
    for (unsigned i = 0; i < count; ++i) {
        unsigned index = ((unsigned)work->copied + i) & block.message_mask;
        const unsigned char* slot = block.messages + (u64)index * block.slot_bytes;
        unsigned size = reinterpret_cast<const message_slot*>(slot)->size;
        unsigned char* to = batch + (u64)i * block.slot_bytes;
        unsigned before = reinterpret_cast<const message_slot*>(to)->size;
        copy_words(to, slot, sizeof(message_slot) + size);
        clear_words(to + sizeof(message_slot), size, before);
    }
    work->batch_next = 0;
    work->batch_count = count;
    work->copied += count;
    store_system(&host->consumed, work->copied);
}

__device__ __forceinline__ unsigned take(control* host, block_state& block) {
    workspace* work = block.work;
    unsigned slot = work->batch_next++;
    const unsigned char* batch = reinterpret_cast<const unsigned char*>(work + 1);
    work->sequence =
        reinterpret_cast<const message_slot*>(batch + (u64)slot * block.slot_bytes)->sequence;
    work->taken += 1;
    if (work->busy_since_ns == 0) work->busy_since_ns = globaltimer_ns();
    work->output_index = 0;
    work->replies = 0;
    work->share_used = 0;
    work->reply_data = 0;
    host->taken_sequence = work->sequence;
    return MESSAGE | slot << 8;
}

__device__ __forceinline__ void answer_ping(control* host, workspace* work) {
    u64 ping = load_system(&host->ping);
    if (ping == work->echo) return;
    work->echo = ping;
    store_system(&host->echo, ping);
}

// Let the other bitmap take marks from here on, if the host wants that: it has cleared it, and
// reads this one.
__device__ __forceinline__ void swap_dirty(control* host, workspace* work) {
    if (work->dirty_ranges == 0) return;
    unsigned wanted = load_system(&host->dirty_epoch);
    if (wanted == work->dirty_swapped) return;
    work->dirty_swapped = wanted;
    asm volatile("st.release.sys.u32 [%0], %1;" : : "l"(&host->dirty_swapped), "r"(wanted)
                 : "memory");
}

// Return the next action: obey commands, take a message, or wait for either.
template <mode MODE>
__device__ __forceinline__ unsigned decide(control* host, block_state& block) {
    workspace* work = block.work;
    for (unsigned delay_ns = 64;; delay_ns = delay_ns < 1024 ? delay_ns * 2 : delay_ns) {
        u64 bell = load_system(&host->doorbell);
        unsigned generation = (unsigned)(bell >> 32) & GENERATION_MASK;
        unsigned command = (unsigned)(bell >> 56);
        swap_dirty(host, work);
        if (command == COMMAND_RETURN || command == COMMAND_HOLD) {
            if (MODE == POLL) return NOTHING;
            unsigned returning = command == COMMAND_RETURN;
            report_state(host, work, generation, returning ? STATE_RETURNING : STATE_HELD);
            if (returning) return LEAVE;
        } else {
            bool empty = work->batch_next == work->batch_count;
            bool drained = empty && (unsigned)bell == (unsigned)work->copied;
            bool leave = drained && command == COMMAND_RETURN_DRAINED;
            if (leave && MODE != POLL) {
                report_state(host, work, generation, STATE_RETURNING);
                return LEAVE;
            }
            if (command == COMMAND_RUN) report_state(host, work, generation, STATE_RUNNING);
            if (MODE == FREE_STEP) {
                work->steps += 1;
                host->steps = work->steps;
                return STEP;
            }
            if (empty) report_done(host, work);
            if (empty && !drained) fill_batch(host, block, (unsigned)bell);
            if (!drained) return take(host, block);
            if (MODE == POLL) return NOTHING;
        }
        answer_ping(host, work);
        nap(delay_ns);
    }
}

// Have the blocks that are there return, and those that come later too, since what else holds the
// multiprocessors may never let all be there; for a grid that the host has given up.
__device__ __forceinline__ u64 withdraw(control* host, workspace* work) {
    u64 generation = (load_system(&host->doorbell) >> 32) & GENERATION_MASK;
    store_system(&host->state, generation << 8 | STATE_RETURNING);
    u64 decision = work->decision >> 32 << 32 | WITHDRAWN | LEAVE;
    store_device(&work->decision, decision);
    return decision;
}

template <mode MODE>
__device__ __forceinline__ u64 lead(control* host, block_state& block) {
    workspace* work = block.work;
    unsigned round = (unsigned)(work->decision >> 32) + 1;
    unsigned arrivals = round * (block_count() - 1);
    while (load_device(&work->arrived) != arrivals) {
        if (MODE != POLL && block.action == FRESH && load_system(&host->withdrawn))
            return withdraw(host, work);
        nap(32);
    }
    u64 decision = (u64)round << 32 | decide<MODE>(host, block);
    store_device(&work->decision, decision);
    return decision;
}

__device__ __forceinline__ u64 follow(block_state& block) {
    workspace* work = block.work;
    unsigned round = (unsigned)(work->decision >> 32);
    add_device(&work->arrived, 1);
    u64 decision = load_device(&work->decision);
    while ((unsigned)(decision >> 32) == round && !(decision & WITHDRAWN)) {
        nap(32);
        decision = load_device(&work->decision);
    }
    return decision;
}

// The boundary: all blocks have arrived, then all go on with one decision.
template <mode MODE>
__device__ __forceinline__ unsigned boundary(control* host) {
    block_state& block = here();
    __syncthreads();
    if (first_thread()) {
        u64 decision = first_block() ? lead<MODE>(host, block) : follow(block);
        block.action = (unsigned)decision & 0xFF;
        if (block.dirty) block.dirty = dirty_bitmap(block.work);
        if (block.action == MESSAGE) {
            u64 offset = ((decision >> 8) & 0xFF) * block.slot_bytes;
            const unsigned char* slot = reinterpret_cast<const unsigned char*>(block.work + 1) + offset;
            block.message = *reinterpret_cast<const message_slot*>(slot);
            block.data = slot + sizeof(message_slot);
            block.bulk = nullptr;
            if (block.message.handle != 0)
                block.bulk = reinterpret_cast<const unsigned char*>(block.work->bulk) +
                             (u64)(block.message.handle - 1) * BULK_UNIT_BYTES;
            if (block.bulk && block.message.size == 0) {
                block.message.size = block.message.bulk_size;
                block.data = block.bulk;
            } else if (block.slot_bytes <= sizeof(message_slot) + SHARED_PAYLOAD_BYTES) {
                copy_words(block.payload, block.data, block.slot_bytes - sizeof(message_slot));
                block.data = block.payload;
            }
        }
    }
    __syncthreads();
    return block.action;
}

template <typename T>
__device__ __forceinline__ auto type_of(unsigned, int) -> decltype((unsigned)T::id) {
    return T::id;
}

template <typename T>
__device__ __forceinline__ unsigned type_of(unsigned fallback, long) {
    return fallback;
}

}  // namespace detail

// A view of the message in progress; its payload is the block's one copy, until the next receive.
// bulk_data is the array that was sent along, where it lies in the arena, aligned to 64 bytes; a
// message that has no other payload has it as data and size too.
struct message {
    unsigned type;
    unsigned size;
    unsigned long long sequence;
    unsigned long long correlation;
    const void* data;
    const void* bulk_data;
    unsigned bulk_size;

    template <typename T>
    __device__ __forceinline__ const T& as() const {
        return *static_cast<const T*>(data);
    }
};

class kernel {
  public:
    __device__ __forceinline__ explicit kernel(control* host) : host_(host) {
        if (detail::first_thread()) {
            if (host->magic != ABI_MAGIC || host->version != ABI_VERSION)
                detail::fail(host, FAULT_ABI_MISMATCH);
            detail::block_state& block = detail::here();
            block.work = reinterpret_cast<workspace*>(host->work);
            block.messages = reinterpret_cast<const unsigned char*>(host->messages);
            block.replies = reinterpret_cast<unsigned char*>(host->replies);
            block.message_mask = host->message_slots - 1;
            block.reply_mask = host->reply_slots - 1;
            block.slot_bytes = host->slot_bytes;
            block.max_replies = host->max_replies;
            block.emit_slots = host->emit_slots;
            block.dirty = detail::dirty_bitmap(block.work);
            block.action = detail::FRESH;
        }
        __syncthreads();
    }

    // Block until there is a message; false: leave the loop, save what must last, return.
    __device__ __forceinline__ bool receive(message& m) {
        return open(m, detail::boundary<detail::RECEIVE>(host_));
    }

    // Take a message if there is one and no command waits; never blocks on the host.
    __device__ __forceinline__ bool poll(message& m) {
        return open(m, detail::boundary<detail::POLL>(host_));
    }

    // A boundary of a kernel that runs free between messages; false: leave the loop.
    __device__ __forceinline__ bool step() {
        return detail::boundary<detail::FREE_STEP>(host_) != detail::LEAVE;
    }

    // Wait until every thread of the grid is here; what they wrote is then visible to all.
    __device__ __forceinline__ void sync() {
        __syncthreads();
        unsigned blocks = detail::block_count();
        if (blocks == 1) return;
        if (detail::first_thread()) {
            workspace* work = detail::here().work;
            unsigned round = detail::load_device(&work->barrier_round);
            if (detail::add_device(&work->barrier_arrived, 1) == blocks - 1) {
                work->barrier_arrived = 0;
                detail::store_device(&work->barrier_round, round + 1);
            } else {
                while (detail::load_device(&work->barrier_round) == round) detail::nap(32);
            }
        }
        __syncthreads();
    }

    // The one thread that answers: thread 0 of block 0.
    __device__ __forceinline__ bool leader() const {
        return detail::first_thread() && detail::first_block();
    }

    // Answer with a value: its type is T::id where T is a message, else that of the message.
    template <typename T>
    __device__ __forceinline__ void reply(const message& m, const T& value) {
        unsigned type = detail::type_of<T>(m.type, 0);
        count_reply();
        *static_cast<T*>(payload(sizeof(T))) = value;
        publish(type, __is_empty(T) ? 0 : sizeof(T), (unsigned)m.correlation, 0);
    }

    __device__ __forceinline__ void reply(const message& m, const void* data, unsigned size) {
        count_reply();
        detail::copy_bytes(payload(size), data, size);
        publish(m.type, size, (unsigned)m.correlation, 0);
    }

    // Answer with an array of the spec's max_reply_data_bytes at most, and a value if it is given.
    // What lies in reply_buffer() already is not copied.
    __device__ __forceinline__ void reply_data(const message& m, const void* data,
                                               unsigned long long size) {
        count_reply();
        unsigned handle = place(data, size);
        publish(m.type, 0, (unsigned)m.correlation, 0, handle);
    }

    template <typename T>
    __device__ __forceinline__ void reply_data(const message& m, const T& value, const void* data,
                                               unsigned long long size) {
        unsigned type = detail::type_of<T>(m.type, 0);
        count_reply();
        *static_cast<T*>(payload(sizeof(T))) = value;
        unsigned handle = place(data, size);
        publish(type, __is_empty(T) ? 0 : sizeof(T), (unsigned)m.correlation, 0, handle);
    }

    // Where the message's next array will lie, aligned to 64 bytes: all threads may write there,
    // until the leader calls reply_data with it after a sync(). There is room for reply_room() bytes.
    __device__ __forceinline__ void* reply_buffer() { return next_piece() + 1; }

    // Bytes of arrays that the message's replies may still carry; 0 where none may come any more.
    __device__ __forceinline__ unsigned long long reply_room() {
        const detail::block_state& block = detail::here();
        if (block.action != detail::MESSAGE) return 0;
        if (detail::load_device(&block.work->replies) == block.max_replies) return 0;
        return block.work->max_reply_data - detail::load_device(&block.work->reply_data);
    }

    // Send without being asked; false: nothing was sent. The host has not taken enough yet, or,
    // between messages, too many outputs wait there: try again after the next step(), not before.
    template <typename T>
    __device__ __forceinline__ bool emit(unsigned type, const T& value) {
        if (!emit_has_room()) return false;
        *static_cast<T*>(payload(sizeof(T))) = value;
        publish(type, sizeof(T), 0, OUTPUT_EMITTED);
        return true;
    }

    __device__ __forceinline__ bool emit(unsigned type, const void* data, unsigned size) {
        if (!emit_has_room()) return false;
        detail::copy_bytes(payload(size), data, size);
        publish(type, size, 0, OUTPUT_EMITTED);
        return true;
    }

    // Send to the kernel at the end of a route (its number is a constant in namespace routes). In a
    // message this counts as one of its replies and has room like them; else it is as for emit.
    template <typename T>
    __device__ __forceinline__ bool send_to(unsigned route, const T& value) {
        return send_to(route, T::id, &value, __is_empty(T) ? 0 : sizeof(T));
    }

    template <typename T>
    __device__ __forceinline__ bool send_to(unsigned route, unsigned type, const T& value) {
        return send_to(route, type, &value, sizeof(T));
    }

    __device__ __forceinline__ bool send_to(unsigned route, unsigned type, const void* data,
                                            unsigned size) {
        if (!send_has_room()) return false;
        detail::copy_bytes(payload(size), data, size);
        publish(type, size, 0, OUTPUT_ROUTED | route << ROUTE_SHIFT);
        return true;
    }

    // Note that memory of a region is or will be written before the next receive, poll or step; any
    // thread. Nothing happens where the spec doesn't ask for marks.
    __device__ __forceinline__ void mark(const void* memory, unsigned long long size_bytes) {
        const detail::block_state& block = detail::here();
        if (block.dirty)
            detail::mark_range(block.work, block.dirty,
                               reinterpret_cast<unsigned long long>(memory), size_bytes);
    }

  private:
    control* host_;

    __device__ __forceinline__ bool open(message& m, unsigned action) {
        const detail::block_state& block = detail::here();
        m.type = block.message.type;
        m.size = block.message.size;
        m.sequence = block.message.sequence;
        m.correlation = block.message.correlation;
        m.data = block.data;
        m.bulk_data = block.bulk;
        m.bulk_size = block.message.bulk_size;
        return action == detail::MESSAGE;
    }

    __device__ __forceinline__ void count_reply() {
        detail::block_state& block = detail::here();
        if (block.work->replies == block.max_replies) detail::fail(host_, FAULT_TOO_MANY_REPLIES);
        block.work->replies += 1;
    }

    // Within a message nothing depends on how fast the outputs are read.
    __device__ __forceinline__ bool emit_has_room() {
        detail::block_state& block = detail::here();
        if (block.action != detail::MESSAGE && emissions_closed()) return false;
        unsigned untaken =
            (unsigned)(block.work->outputs - detail::load_system(&host_->reply_tail));
        return untaken < block.emit_slots;
    }

    __device__ __forceinline__ bool emissions_closed() {
        unsigned closed;
        asm volatile("ld.relaxed.sys.u32 %0, [%1];" : "=r"(closed)
                     : "l"(&host_->emissions_closed));
        return closed != 0;
    }

    __device__ __forceinline__ bool send_has_room() {
        if (detail::here().action != detail::MESSAGE) return emit_has_room();
        count_reply();
        return true;
    }

    __device__ __forceinline__ reply_slot* slot() {
        detail::block_state& block = detail::here();
        unsigned index = (unsigned)block.work->outputs & block.reply_mask;
        return reinterpret_cast<reply_slot*>(
            block.replies + (unsigned long long)index * block.slot_bytes);
    }

    __device__ __forceinline__ void* payload(unsigned size) {
        if (size + sizeof(reply_slot) > detail::here().slot_bytes)
            detail::fail(host_, FAULT_REPLY_TOO_LARGE);
        return slot() + 1;
    }

    // A message's share of the arena is free again when its outputs have been taken, and no more
    // messages than there are shares are on the device: its number says which one it has.
    __device__ __forceinline__ bulk_piece* next_piece() {
        workspace* work = detail::here().work;
        if (work->shares == 0) detail::fail(host_, FAULT_REPLY_DATA_TOO_LARGE);
        unsigned long long share = (detail::load_device(&work->taken) - 1) % work->shares;
        return reinterpret_cast<bulk_piece*>(work->reply_bulk + share * work->share_bytes +
                                             detail::load_device(&work->share_used));
    }

    // Bring an array into the arena; return its handle.
    __device__ __forceinline__ unsigned place(const void* data, unsigned long long size) {
        workspace* work = detail::here().work;
        if (size > work->max_reply_data - work->reply_data)
            detail::fail(host_, FAULT_REPLY_DATA_TOO_LARGE);
        bulk_piece* piece = next_piece();
        piece->size = size;
        if (data != piece + 1) detail::copy_bytes(piece + 1, data, size);
        work->share_used += sizeof(bulk_piece) + detail::bulk_rounded(size);
        work->reply_data += size;
        return 1 + (unsigned)((reinterpret_cast<unsigned long long>(piece) - work->reply_bulk) /
                              BULK_UNIT_BYTES);
    }

    __device__ __forceinline__ void publish(unsigned type, unsigned size, unsigned correlation,
                                            unsigned flags, unsigned handle = 0) {
        workspace* work = detail::here().work;
        reply_slot* to = slot();
        to->sequence = work->sequence;
        to->type = type;
        to->size = size;
        to->index = work->output_index;
        to->correlation = correlation;
        to->flags = flags;
        to->handle = handle;
        work->output_index += 1;
        work->outputs += 1;
        detail::store_system(&host_->reply_head, work->outputs);
    }
};

}  // namespace ringflow
