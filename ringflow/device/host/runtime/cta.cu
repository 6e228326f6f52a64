// Steps one CTA: runs its regions, lets barriers and warp collectives complete, finds idleness.
//
// - State words, mailboxes and the header are those of cta.py.
// - Threads that lag behind in the text run first, so that threads that diverged meet again.
// - Where memcheck is on, collectives that can never complete, or that threads skip, are traps.
// - The file is translated by the same translator as the kernels; it ships as PTX beside it.

#include "cta.cuh"

constexpr u32 UNPADDED_LINES = 4;  // units that are no longer than this don't alias in the L1 cache

EXPORT void ringflow_cta_initialise(
    Header* cta, const Record* record, u32 index, u32 units, u32 local_bytes, u32 static_shared) {
    u32 threads = record->block[0] * record->block[1] * record->block[2];
    u32 lines = (threads * 4 + 63) / 64;
    u32 stride = (lines > UNPADDED_LINES ? lines | 1 : lines) * 64;
    u64 local = HEADER + (u64)units * stride;
    u64 shared = (local + (u64)threads * local_bytes + 127) / 128 * 128;
    u64 end = (shared + static_shared + record->dynamic_shared + 63) / 64 * 64;
    u64* words = (u64*)cta;
#pragma unroll 1
    for (u64 i = 0; i < end / 8; ++i) words[i] = 0;
    cta->threads = threads;
    for (int i = 0; i < 3; ++i) {
        cta->block[i] = record->block[i];
        cta->grid[i] = record->grid[i];
    }
    cta->index[0] = index % record->grid[0];
    cta->index[1] = index / record->grid[0] % record->grid[1];
    cta->index[2] = index / record->grid[0] / record->grid[1];
    cta->unit_stride = stride;
    cta->parameters = record->parameters;
    cta->local = (u64)cta + local;
    cta->shared = (u64)cta + shared;
    cta->local_bytes = local_bytes;
    cta->shared_bytes = static_shared + record->dynamic_shared;
    cta->dynamic_shared = record->dynamic_shared;
    cta->pollers = UNKNOWN;
    cta->context_bytes = end;
}

static DEVICE __attribute__((noinline)) void note_trap(Header* cta, const Table* table) {
    const u32* state = unit(cta, 0);
#pragma unroll 1
    for (u32 t = 0; t < cta->threads; ++t) {
        if (state[t] >= TRAP && state[t] < MIXED) {
            u32 which = state[t] - TRAP;
            cta->trap_thread = t;
            cta->trap_kind = table->trap[2 * which];
            cta->trap_line = table->trap[2 * which + 1];
            return;
        }
    }
}

// Shuffles, votes and the like for the threads of one warp whose bits are in `set`; they are
// all of those that take part, so results may overwrite operands only after all were read.
static DEVICE __attribute__((noinline)) void collect(
    Header* cta, u32 first, u32 set, u32 code) {
    u32* a = unit(cta, 1) + first;
    u32* b = unit(cta, 2) + first;
    const u32* c = unit(cta, 3) + first;
    u32 result[32], second[32];
    u32 ballot = 0, sum = 0, all = ~0u, any = 0, odd = 0, low = ~0u, high = 0;
    int least = 0x7FFFFFFF, most = -0x7FFFFFFF - 1;
    if (code >= VOTE_ALL) {
#pragma unroll 1
        for (u32 lane = 0; lane < 32; ++lane) {
            if (!(set >> lane & 1)) continue;
            u32 value = a[lane];
            if (value) ballot |= 1u << lane;
            sum += value, all &= value, any |= value, odd ^= value;
            low = value < low ? value : low;
            high = value > high ? value : high;
            least = (int)value < least ? (int)value : least;
            most = (int)value > most ? (int)value : most;
        }
    }
#pragma unroll 1
    for (u32 lane = 0; lane < 32; ++lane) {
        if (!(set >> lane & 1)) continue;
        u32 value = 0, predicate = 0;
        if (code >= SHFL_UP && code <= SHFL_IDX) {
            u32 by = b[lane] & 31, clamp = c[lane] & 31, segment = c[lane] >> 8 & 31;
            int limit = (int)((lane & segment) | (clamp & ~segment));
            int least_lane = (int)(lane & segment);
            int from = (int)lane;
            if (code == SHFL_UP) from = (int)lane - (int)by, predicate = from >= limit;
            else if (code == SHFL_DOWN) from = (int)(lane + by), predicate = from <= limit;
            else if (code == SHFL_BFLY) from = (int)(lane ^ by), predicate = from <= limit;
            else from = least_lane | (int)(by & ~segment), predicate = from <= limit;
            if (!predicate) from = (int)lane;
            value = a[from & 31];
        } else if (code == VOTE_ALL) value = ballot == set;
        else if (code == VOTE_ANY) value = ballot != 0;
        else if (code == VOTE_UNI) value = ballot == set || ballot == 0;
        else if (code == VOTE_BALLOT) value = ballot;
        else if (code == MATCH_32 || code == MATCH_64) {
#pragma unroll 1
            for (u32 other = 0; other < 32; ++other)
                if (set >> other & 1 && a[other] == a[lane] &&
                    (code == MATCH_32 || b[other] == b[lane]))
                    value |= 1u << other;
        } else if (code == MATCH_ALL_32 || code == MATCH_ALL_64) {
            predicate = 1;
#pragma unroll 1
            for (u32 other = 0; other < 32; ++other)
                if (set >> other & 1 &&
                    (a[other] != a[lane] || (code == MATCH_ALL_64 && b[other] != b[lane])))
                    predicate = 0;
            value = predicate ? set : 0;
        } else if (code == ACTIVE_MASK) value = set;
        else if (code == ADD) value = sum;
        else if (code == AND) value = all;
        else if (code == OR) value = any;
        else if (code == XOR) value = odd;
        else if (code == MIN_U) value = low;
        else if (code == MAX_U) value = high;
        else if (code == MIN_S) value = (u32)least;
        else if (code == MAX_S) value = (u32)most;
        result[lane] = value;
        second[lane] = predicate;
    }
#pragma unroll 1
    for (u32 lane = 0; lane < 32; ++lane) {
        if (!(set >> lane & 1)) continue;
        a[lane] = result[lane];
        b[lane] = second[lane];
    }
}

// Counts the threads that only announce themselves at a barrier, and lets them go on.
static DEVICE __attribute__((noinline)) bool note_arrivals(Header* cta, const Table* table) {
    u32* state = unit(cta, 0);
    bool any = false;
#pragma unroll 1
    for (u32 t = 0; t < cta->threads; ++t) {
        u32 word = state[t];
        if (!at_barrier(word) || table->fact[word & REGION].code != BAR_ARRIVE) continue;
        u32 id = barrier_of(cta, table, t, word);
        if (id >= BARRIERS) continue;
        u32 wanted = unit(cta, 2)[t];
        if (++cta->arrived[id] == wanted) cta->arrived[id] = 0;  // nobody waits for them
        state[t] = word & REGION;
        any = true;
    }
    return any;
}

// Lets the threads that wait at barrier `id` go on, if all that it waits for have come.
static DEVICE __attribute__((noinline)) bool release_barrier(
    Header* cta, const Table* table, u32 id) {
    u32* state = unit(cta, 0);
    u32* a = unit(cta, 1);
    const u32* count = unit(cta, 2);
    u32 waiting = 0, wanted = 0;
#pragma unroll 1
    for (u32 t = 0; t < cta->threads; ++t) {
        if (!at_barrier(state[t]) || barrier_of(cta, table, t, state[t]) != id) continue;
        ++waiting;
        wanted = count[t];
    }
    u32 needed = wanted ? wanted : cta->threads - cta->exited;
    if (!waiting || waiting + cta->arrived[id] < needed) return false;
    u32 taken = needed - cta->arrived[id], ones = 0, seen = 0;
    if (!wanted) taken = waiting;
    cta->arrived[id] = 0;
#pragma unroll 1
    for (u32 t = 0; t < cta->threads && seen < taken; ++t) {
        if (!at_barrier(state[t]) || barrier_of(cta, table, t, state[t]) != id) continue;
        ++seen;
        ones += a[t] != 0;
    }
#pragma unroll 1
    for (u32 t = 0; t < cta->threads && seen; ++t) {
        if (!at_barrier(state[t]) || barrier_of(cta, table, t, state[t]) != id) continue;
        --seen;
        u32 region = state[t] & REGION;
        u32 code = table->fact[region].code;
        if (code == BAR_POPC) a[t] = ones;
        else if (code == BAR_AND) a[t] = ones == taken;
        else if (code == BAR_OR) a[t] = ones != 0;
        state[t] = region;
    }
    return true;
}

// Whether all threads, which wait at one place, may go on without any counting.
INLINE bool is_plain_barrier(Header* cta, const Table* table, u32 word) {
    const Fact* fact = &table->fact[word & REGION];
    return fact->code != BAR_ARRIVE && fact->constant < BARRIERS && unit(cta, 2)[0] == 0 &&
           cta->arrived[fact->constant] == 0;
}

// Where all threads wait at plain barriers of one number, at whatever places, lets them go on.
static DEVICE __attribute__((noinline)) bool release_plain(Header* cta, const Table* table) {
    u32* state = unit(cta, 0);
    const u32* count = unit(cta, 2);
    const Fact first = table->fact[state[0] & REGION];
    if (first.code != BAR || first.constant >= BARRIERS || cta->arrived[first.constant])
        return false;
    u32 threads = cta->threads, wrong = 0;
    for (u32 t = 0; t < threads; ++t) {
        const Fact fact = table->fact[state[t] & REGION];
        wrong |= (fact.code ^ BAR) | (fact.constant ^ first.constant) | count[t];
    }
    if (wrong) return false;
    for (u32 t = 0; t < threads; ++t) state[t] &= REGION;
    return true;
}

// Lets collectives of one warp complete; threads whose state is ready still run.
static DEVICE __attribute__((noinline)) bool release_warp(
    Header* cta, const Table* table, u32 first) {
    u32* state = unit(cta, 0) + first;
    const u32* member = unit(cta, 4) + first;
    u32 lanes = cta->threads - first < 32 ? cta->threads - first : 32;
    u32 live = 0, waiting = 0;
#pragma unroll 1
    for (u32 lane = 0; lane < lanes; ++lane) {
        if (state[lane] < EXITED) live |= 1u << lane;
        if (state[lane] >= WARP && state[lane] < EXITED) waiting |= 1u << lane;
    }
    bool released = false;
    // The active mask is asked for last: lanes that others let go on first may still join.
#pragma unroll 1
    for (u32 turn = 0; turn < 64 && !(turn == 32 && released); ++turn) {
        u32 lane = turn & 31;
        if (!(waiting >> lane & 1)) continue;
        u32 region = state[lane] & REGION, code = table->fact[region].code;
        if ((code == ACTIVE_MASK) != (turn >= 32)) continue;
        u32 same = 0;
#pragma unroll 1
        for (u32 other = 0; other < lanes; ++other) {
            if (!(waiting >> other & 1)) continue;
            u32 its = state[other] & REGION;
            bool meets = its == region;
            if (code == WARP_SYNC) meets = table->fact[its].code == WARP_SYNC;
            if (meets) same |= 1u << other;
        }
        u32 set = code == ACTIVE_MASK ? same : member[lane] & live;
        if (code != ACTIVE_MASK && (set & ~same)) continue;
        if (!(set >> lane & 1)) set |= 1u << lane;
        if (code != WARP_SYNC) collect(cta, first, set, code);
#pragma unroll 1
        for (u32 other = 0; other < lanes; ++other)
            if (set >> other & 1) state[other] &= REGION;
        waiting &= ~set;
        released = true;
    }
    return released;
}

static DEVICE __attribute__((noinline)) bool release(Header* cta, const Table* table) {
    const u32* state = unit(cta, 0);
    bool warps = false, arrivals = false;
    u32 ids = 0;
#pragma unroll 1
    for (u32 t = 0; t < cta->threads; ++t) {
        u32 word = state[t];
        if (word >= EXITED) continue;
        if (word & WARP) warps = true;
        else if (word & BARRIER) {
            u32 id = barrier_of(cta, table, t, word);
            if (id >= BARRIERS) continue;  // waits for ever
            ids |= 1u << id;
            arrivals |= table->fact[word & REGION].code == BAR_ARRIVE;
        }
    }
    bool released = arrivals && note_arrivals(cta, table);
    if (warps) {
#pragma unroll 1
        for (u32 first = 0; first < cta->threads; first += 32)
            released |= release_warp(cta, table, first);
    }
#pragma unroll 1
    for (u32 id = 0; ids; ++id, ids >>= 1)
        if (ids & 1) released |= release_barrier(cta, table, id);
    return released;
}

// The smallest and largest state word, and how many threads have left.
INLINE void survey(Header* cta, u32& low, u32& high, u32& exited) {
    const u32* state = unit(cta, 0);
    u32 threads = cta->threads, least = ~0u, most = 0, gone = 0;
    for (u32 t = 0; t < threads; ++t) {
        u32 word = state[t];
        least = word < least ? word : least;
        most = word > most ? word : most;
        gone += word == EXITED;
    }
    low = least, high = most, exited = gone;
}

// Runs every thread whose state word is `word`, neighbours together; returns all flags.
INLINE u32 run_all(Header* cta, const Table* table, u32 word) {
    const u32* state = unit(cta, 0);
    u32 threads = cta->threads, flags = 0;
    Run run = table->run[word & REGION];
#pragma unroll 1
    for (u32 low = 0; low < threads;) {
        if (state[low] != word) {
            ++low;
            continue;
        }
        u32 high = low + 1;
        while (high < threads && state[high] == word) ++high;
        u32 got = run(cta, low, high);
        flags |= got & ~MASK;
        low = high;
    }
    return flags;
}

// Runs the pollers once each; returns whether any of them did something.
static DEVICE __attribute__((noinline)) bool poll_all(Header* cta, const Table* table) {
    u32* state = unit(cta, 0);
    bool effect = false;
    if (cta->pollers == UNKNOWN) {
        u32 count = 0;
#pragma unroll 1
        for (u32 t = 0; t < cta->threads; ++t) {
            if (state[t] < POLL || state[t] >= BARRIER) continue;
            if (count < POLLERS_MAX) cta->poller[count] = t;
            ++count;
        }
        if (count <= POLLERS_MAX) cta->pollers = count;
    }
    if (cta->pollers != UNKNOWN) {
        u32 count = cta->pollers;
#pragma unroll 1
        for (u32 i = 0; i < count; ++i) {
            u32 t = cta->poller[i], word = state[t];
            u32 got = table->run[word & REGION](cta, t, t + 1);
            effect |= (got & MASK) != word || (got & EFFECT);
        }
    } else {
#pragma unroll 1
        for (u32 t = 0; t < cta->threads; ++t) {
            u32 word = state[t];
            if (word < POLL || word >= BARRIER) continue;
            u32 got = table->run[word & REGION](cta, t, t + 1);
            effect |= (got & MASK) != word || (got & EFFECT);
        }
    }
    return effect;
}

// One round of a CTA whose threads are not all at one place; returns a status, or -1 to go on.
static DEVICE __attribute__((noinline)) int mixed(Header* cta, const Table* table, bool& progress) {
    u32 low, high, exited;
    if (!cta->settled) {
        survey(cta, low, high, exited);
        cta->exited = exited;
        if (high >= TRAP) return note_trap(cta, table), TRAPPED;
        if (low >= EXITED) return DONE;
        bool together = low == high && exited == 0 && !(low & WARP);
        if (together && (!(low & BARRIER) || is_plain_barrier(cta, table, low))) {
            cta->uniform = low;
            return -1;
        }
        if (low < POLL) {
            u32 flags = run_all(cta, table, low);
            progress = true;
            return flags & OUT_OF_FUEL ? PREEMPTED : -1;
        }
        if (cta->misuse && ((Misuse)cta->misuse)(cta, table, false)) return TRAPPED;
        bool waiting = low >= BARRIER && high < WARP;
        if ((waiting && release_plain(cta, table)) || release(cta, table)) {
            progress = true;
            return -1;
        }
        cta->settled = 1;
        cta->pollers = UNKNOWN;
        if (low >= BARRIER) cta->pollers = 0;
    }
    if (cta->pollers == 0) {
        if (cta->misuse && ((Misuse)cta->misuse)(cta, table, true)) return TRAPPED;
        return progress ? PROGRESS : IDLE;
    }
    if (!poll_all(cta, table)) return progress ? PROGRESS : IDLE;
    cta->settled = 0;
    progress = true;
    return -1;
}

EXPORT int ringflow_cta_step(Header* cta, int budget, const Table* table) {
    bool progress = false;
    int status = PROGRESS;
    cta->fuel = FUEL;
#pragma unroll 1
    while (budget-- > 0) {
        u32 word = cta->uniform;
        if (word == MIXED) {
            int got = mixed(cta, table, progress);
            if (got < 0) continue;
            status = got;
            break;
        }
        u32 region = word & REGION;
        if (word & WARP || (word & BARRIER && !is_plain_barrier(cta, table, word))) {
            cta->uniform = MIXED;
            cta->settled = 0;
            continue;
        }
        if (word & BARRIER && table->fact[region].code != BAR)
            release_barrier(cta, table, table->fact[region].constant);
        u32 got = table->run[region](cta, 0, cta->threads);
        u32 next = got & MASK;
        if (next >= EXITED && next != MIXED) {
            if (next == EXITED) status = DONE, cta->exited = cta->threads;
            else status = TRAPPED, note_trap(cta, table);
            break;
        }
        cta->uniform = next;
        cta->settled = 0;
        if (word & POLL && next == word && !(got & EFFECT)) {
            status = progress ? PROGRESS : IDLE;
            break;
        }
        progress = true;
        if (got & OUT_OF_FUEL) {
            status = PREEMPTED;
            break;
        }
    }
    cta->status = (u32)status;
    return status;
}
