/* Streams and events as queues: each device has a thread that does the work in their order.
 *
 * - A stream is in one of a bounded number of hardware queues; the work of a queue is done one
 *   after the other, so a copy may stand behind another stream's kernel.
 * - Work on the legacy stream comes after all work on blocking streams, and before what follows. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

#define LEGACY ((handle)1)
#define PER_THREAD ((handle)2)
#define SHORTEST_NS 20000u
#define LONGEST_NS 500000u
#define SECOND_NS 1000000000u

static pthread_t workers[DEVICES_MAX];
static int working[DEVICES_MAX];

/* The hardware queue with the fewest living streams. */
static unsigned queue_for(int ordinal) {
    unsigned counts[QUEUES_MAX] = {0};
    unsigned limit = set.hazards & HAZARD_QUEUES ? set.connections : QUEUES_MAX, best = 0;
    if (!limit || limit > QUEUES_MAX) limit = 8;
    for (object *each = objects_newest(); each; each = each->older)
        if (each->kind == STREAM && each->owner->ordinal == ordinal) {
            stream *of = (stream *)each;
            if (each->alive || of->done < of->issued) ++counts[of->queue];
        }
    for (unsigned i = 1; i < limit; ++i)
        if (counts[i] < counts[best]) best = i;
    return best;
}

stream *stream_new(context *owner, unsigned flags, int priority) {
    unsigned queue = queue_for(owner->ordinal);
    stream *of = (stream *)object_new(STREAM, sizeof *of, owner);
    of->flags = flags;
    of->priority = priority;
    of->queue = queue;
    return of;
}

/* Return the stream behind a handle; the current context's legacy one for null and its kin. */
stream *stream_get(call *here, handle of) {
    if (!of || of == LEGACY || of == PER_THREAD) return here->context->null_stream;
    return object_get(of, STREAM);
}

int stream_idle(const stream *of) { return of->done >= of->issued; }

void op_after(op *of, stream *on, uint64_t ticket) {
    if (on->done >= ticket) return;
    of->after = realloc(of->after, (of->after_count + 1) * sizeof *of->after);
    of->after[of->after_count++] = (point){on, ticket};
}

op *op_new(call *here, enum op_kind kind, stream *on) {
    if (is_captured(on)) problem("%s is captured, which is not modelled", here->name);
    op *of = calloc(1, sizeof *of);
    of->kind = kind;
    of->stream = on;
    of->context = on->base.owner;
    of->stalled = (int)here->stall_work;
    of->corrupt = (int)here->corrupt;
    return of;
}

void op_issue(op *of) {
    stream *on = of->stream, *legacy = of->context->null_stream;
    device *at = &devices[of->context->ordinal];
    of->ticket = ++on->issued;
    of->issued_ns = now_ns();
    if (on == legacy) {
        for (object *each = objects_newest(); each; each = each->older) {
            stream *other = (stream *)each;
            if (each->kind == STREAM && each->owner == of->context && other != on &&
                !(other->flags & STREAM_NON_BLOCKING))
                op_after(of, other, other->issued);
        }
    } else if (!(on->flags & STREAM_NON_BLOCKING)) {
        op_after(of, legacy, legacy->issued);
    }
    if (at->tails[on->queue])
        at->tails[on->queue]->next = of;
    else
        at->heads[on->queue] = of;
    at->tails[on->queue] = of;
    ++of->context->pending;
    changed_all();
}

static void finish(device *at, op *of) {
    unsigned queue = of->stream->queue;
    at->heads[queue] = of->next;
    if (!of->next) at->tails[queue] = 0;
    of->stream->done = of->ticket;
    --of->context->pending;
    free(of->after);
    free(of->parameters);
    free(of);
    changed_all();
}

/* Whether work that a test stalled waits on; who waits for it without an end is found out. */
static int is_stalled(op *of) {
    context *in = of->context;
    if (!of->stalled || fault_released((unsigned)of->stalled)) return 0;
    if (!in->dead && now_ns() >= of->issued_ns + set.wait_deadline_ns) {
        problem("work on cuda:%d stalled as the test asked, and was never released", in->ordinal);
        context_kill(in, LAUNCH_TIMEOUT);
    }
    return !in->dead;
}

static int may_start(op *of) {
    for (; of->after_count; --of->after_count) {
        const point *last = &of->after[of->after_count - 1];
        if (last->stream->done < last->ticket) return 0;
    }
    if (set.delay_ns && now_ns() < of->issued_ns + set.delay_ns) return 0;
    return !is_stalled(of);
}

/* Copies within a device, and memsets, need a place on an SM beside what runs. */
static int has_room(const op *of) {
    const device *at = &devices[of->context->ordinal];
    if (!of->needs_sm || !(set.hazards & HAZARD_SLOTS)) return 1;
    return at->busy_sms + 1.0 / 32 <= at->set.attributes[ATTRIBUTE_MULTIPROCESSOR_COUNT] + 1e-9;
}

static void move(const op *of) {
    unsigned char *to = (unsigned char *)of->to;
    unlock_all();
    if (of->kind == OP_COPY) {
        memmove(to, (const void *)of->from, of->bytes);
        if (of->corrupt && of->bytes) to[of->bytes / 2] ^= 0x40;
    } else {
        for (size_t i = 0; i < of->bytes; i += of->pattern_bytes)
            memcpy(to + i, &of->pattern, of->pattern_bytes);
    }
    lock_all();
}

static uint64_t word_at(const op *of) {
    return of->wide ? __atomic_load_n((uint64_t *)of->to, __ATOMIC_ACQUIRE)
                    : __atomic_load_n((uint32_t *)of->to, __ATOMIC_ACQUIRE);
}

static int arrived(const op *of) {
    uint64_t word = word_at(of);
    switch (of->flags & 3) {
    case WAIT_VALUE_EQ: return word == of->value;
    case WAIT_VALUE_AND: return (word & of->value) != 0;
    case WAIT_VALUE_NOR: return ~(word | of->value) != 0;
    default:
        return of->wide ? (int64_t)(word - of->value) >= 0
                        : (int32_t)((uint32_t)word - (uint32_t)of->value) >= 0;
    }
}

/* Go on with the first work of a queue; return 1 when it is over. */
static int step(op *of) {
    if (of->kind == OP_LAUNCH) {
        if (!of->started && !of->context->dead && !may_start(of)) return 0;
        return launch_step(of);
    }
    if (of->context->dead) return 1;
    if (!may_start(of) || !has_room(of)) return 0;
    switch (of->kind) {
    case OP_COPY:
    case OP_FILL: move(of); return 1;
    case OP_EVENT:
        of->event->at_ns = now_ns();
        return 1;
    case OP_WAIT_EVENT: return 1; /* it stood in `after` */
    case OP_HOST:
        unlock_all();
        of->call(of->argument);
        lock_all();
        return 1;
    case OP_WRITE:
        if (of->wide)
            __atomic_store_n((uint64_t *)of->to, of->value, __ATOMIC_RELEASE);
        else
            __atomic_store_n((uint32_t *)of->to, (uint32_t)of->value, __ATOMIC_RELEASE);
        return 1;
    case OP_FREE: {
        piece *freed = piece_at(of->to);
        if (freed) piece_remove(freed);
        memory_changed();
        return 1;
    }
    default: return arrived(of);
    }
}

/* A device's work, until the devices are unplugged. */
static void *work(void *given) {
    device *at = given;
    uint64_t pause_ns = SHORTEST_NS;
    lock_all();
    for (;;) {
        int moved = 0;
        for (unsigned queue = 0; queue < QUEUES_MAX; ++queue)
            while (at->heads[queue] && step(at->heads[queue])) {
                finish(at, at->heads[queue]);
                moved = 1;
            }
        ++at->passes;
        if (at->settlers) changed_all();
        if (moved || at->settlers) {
            pause_ns = SHORTEST_NS;
            wait_change(0);
            continue;
        }
        if (stopping && !at->primary.pending) break;
        if (at->primary.live && python.ring) python.ring(python.room);
        wait_change(now_ns() + (at->primary.pending ? pause_ns : SECOND_NS));
        pause_ns = pause_ns * 2 > LONGEST_NS ? LONGEST_NS : pause_ns * 2;
    }
    unlock_all();
    return 0;
}

/* Return when all that could go on by now has. */
EXPORT void standin_settle(int ordinal) {
    lock_all();
    device *of = device_of(ordinal);
    if (of) {
        uint64_t due_ns = now_ns() + set.delay_ns;
        while (now_ns() < due_ns && !stopping) wait_change(due_ns);
        uint64_t enough = of->passes + 3;
        ++of->settlers;
        changed_all();
        while (of->passes < enough && !stopping) wait_change(now_ns() + SECOND_NS);
        --of->settlers;
    }
    unlock_all();
}

void queues_start(int ordinal) {
    working[ordinal] = !pthread_create(&workers[ordinal], 0, work, &devices[ordinal]);
}

void queues_stop(void) {
    for (int i = 0; i < DEVICES_MAX; ++i)
        if (working[i]) {
            unlock_all();
            pthread_join(workers[i], 0);
            lock_all();
            working[i] = 0;
        }
}

/* Wait for work of a stream; a call of `begin` is in progress. */
CUresult op_await(call *here, stream *on, uint64_t ticket) {
    context *of = on->base.owner;
    uint64_t until = now_ns() + set.wait_deadline_ns;
    while (on->done < ticket && !of->dead && !stopping) {
        if (wait_change(until)) continue;
        problem("%s waits for work on cuda:%d that does not end: a deadlock", here->name,
                of->ordinal);
        context_kill(of, LAUNCH_TIMEOUT);
    }
    return of->dead;
}
