/* Contexts: the primary one of each device, what is current in a thread, limits, peer access. */
#include <string.h>

#include "standin.h"

#define STACK_MAX 32

static uint64_t plugging = 1; /* stacks of an earlier plugging are empty */
static _Thread_local struct {
    uint64_t of;
    int depth;
    context *stack[STACK_MAX];
} thread;

static void renew(void) {
    if (thread.of == plugging) return;
    thread.of = plugging;
    thread.depth = 0;
}

void threads_reset(void) { ++plugging; }

context *current_context(void) {
    renew();
    return thread.depth ? thread.stack[thread.depth - 1] : 0;
}

static int is_open(const context *of) { return of && of->base.alive && of->retained; }

/* Less than the library needs: what it does not set is seen. */
static void reset_limits(context *of) {
    memset(of->limits, 0, sizeof of->limits);
    of->limits[LIMIT_STACK_SIZE] = of->local_bytes = 1024;
    of->limits[LIMIT_PRINTF_FIFO_SIZE] = 1 << 16;
    of->limits[LIMIT_MALLOC_HEAP_SIZE] = 1 << 20;
    of->limits[LIMIT_MAX_L2_FETCH_GRANULARITY] = 64;
}

void context_open(context *of, int ordinal) {
    memset(of, 0, sizeof *of);
    of->ordinal = ordinal;
    object_new(CONTEXT, 0, of);
    reset_limits(of);
    of->null_stream = stream_new(of, 0, 0);
    of->null_stream->queue = 0;
}

/* Let nothing in a context work any more; its kernels end, its work is dropped. */
void context_kill(context *of, int code) {
    if (!of->dead) of->dead = code;
    changed_all();
}

/* Give back all that a context has; the primary one can then be retained afresh. */
void context_destroy(context *of) {
    uint64_t until = now_ns() + set.wait_deadline_ns;
    while (of->pending && !stopping)
        if (!wait_change(until)) {
            problem("the context of cuda:%d could not be destroyed, its work does not end",
                    of->ordinal);
            break;
        }
    if (!of->dead) note_leaks(of, "lost with its context");
    for (object *each = objects_newest(); each; each = each->older) {
        if (!each->alive || each->owner != of || each->kind == CONTEXT) continue;
        if (each->kind == POOL && ((pool *)each)->is_default) continue;
        if (each->kind == STREAM && (stream *)each == of->null_stream) continue;
        if (each->kind == MODULE) {
            if (of->dead && ((module *)each)->library) ((module *)each)->library->spoiled = 1;
            module_end((module *)each);
        }
        object_end(each);
    }
    for (piece *each = pieces_first(); each;) {
        piece *next = each->next;
        if (each->context == of) piece_remove(each);
        each = next;
    }
    for (int i = 0; i < set.device_count; ++i) devices[i].primary.peers[of->ordinal] = 0;
    memset(of->peers, 0, sizeof of->peers);
    of->dead = of->prints = of->cooperates = 0;
    reset_limits(of);
    of->flags = 0;
}

CUresult cuDevicePrimaryCtxRetain(handle *into, CUdevice ordinal) {
    ENTER("cuDevicePrimaryCtxRetain", 0);
    device *of = device_of(ordinal);
    REQUIRE(of, INVALID_DEVICE);
    REQUIRE(into, INVALID_VALUE);
    REQUIRE(!of->primary.dead, of->primary.dead);
    ++of->primary.retained;
    *into = &of->primary;
    LEAVE(SUCCESS);
}

CUresult cuDevicePrimaryCtxRelease(CUdevice ordinal) {
    ENTER("cuDevicePrimaryCtxRelease", 0);
    device *of = device_of(ordinal);
    REQUIRE(of, INVALID_DEVICE);
    REQUIRE(of->primary.retained, INVALID_CONTEXT);
    if (of->primary.retained == 1) {
        wait_for_kernels(&here, &of->primary, ~0u);
        context_destroy(&of->primary);
    }
    --of->primary.retained;
    LEAVE(SUCCESS);
}

CUresult cuDevicePrimaryCtxReset(CUdevice ordinal) {
    ENTER("cuDevicePrimaryCtxReset", 0);
    device *of = device_of(ordinal);
    REQUIRE(of, INVALID_DEVICE);
    wait_for_kernels(&here, &of->primary, ~0u);
    context_destroy(&of->primary);
    LEAVE(SUCCESS);
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice ordinal, unsigned flags) {
    ENTER("cuDevicePrimaryCtxSetFlags", 0);
    device *of = device_of(ordinal);
    REQUIRE(of, INVALID_DEVICE);
    of->primary.flags = flags;
    LEAVE(SUCCESS);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice ordinal, unsigned *flags, int *active) {
    ENTER("cuDevicePrimaryCtxGetState", 0);
    device *of = device_of(ordinal);
    REQUIRE(of, INVALID_DEVICE);
    if (flags) *flags = of->primary.flags;
    if (active) *active = of->primary.retained > 0;
    LEAVE(SUCCESS);
}

CUresult cuCtxGetCurrent(handle *into) {
    ENTER("cuCtxGetCurrent", 0);
    *into = current_context();
    LEAVE(SUCCESS);
}

CUresult cuCtxSetCurrent(handle given) {
    ENTER("cuCtxSetCurrent", 0);
    context *of = object_get(given, CONTEXT);
    REQUIRE(!given || is_open(of), INVALID_CONTEXT);
    renew();
    if (thread.depth) --thread.depth;
    if (given) thread.stack[thread.depth++] = of;
    LEAVE(SUCCESS);
}

CUresult cuCtxPushCurrent(handle given) {
    ENTER("cuCtxPushCurrent", 0);
    context *of = object_get(given, CONTEXT);
    renew();
    REQUIRE(is_open(of), INVALID_CONTEXT);
    REQUIRE(thread.depth < STACK_MAX, INVALID_VALUE);
    thread.stack[thread.depth++] = of;
    LEAVE(SUCCESS);
}

CUresult cuCtxPopCurrent(handle *into) {
    ENTER("cuCtxPopCurrent", 0);
    renew();
    REQUIRE(thread.depth, INVALID_CONTEXT);
    context *of = thread.stack[--thread.depth];
    if (into) *into = of;
    LEAVE(SUCCESS);
}

CUresult cuCtxGetDevice(CUdevice *into) {
    ENTER("cuCtxGetDevice", IN_CONTEXT | DEAD_TOO);
    *into = here.context->ordinal;
    LEAVE(SUCCESS);
}

CUresult cuCtxGetDevice_v2(CUdevice *into, handle given) {
    ENTER("cuCtxGetDevice", 0);
    context *of = given ? object_get(given, CONTEXT) : here.context;
    REQUIRE(of, INVALID_CONTEXT);
    *into = of->ordinal;
    LEAVE(SUCCESS);
}

CUresult cuCtxGetId(handle given, unsigned long long *into) {
    ENTER("cuCtxGetId", 0);
    context *of = given ? object_get(given, CONTEXT) : here.context;
    REQUIRE(of, INVALID_CONTEXT);
    *into = of->base.number;
    LEAVE(SUCCESS);
}

CUresult cuCtxGetApiVersion(handle given, unsigned *into) {
    (void)given;
    ENTER("cuCtxGetApiVersion", 0);
    *into = 3020;
    LEAVE(SUCCESS);
}

CUresult cuCtxGetFlags(unsigned *into) {
    ENTER("cuCtxGetFlags", IN_CONTEXT);
    *into = here.context->flags;
    LEAVE(SUCCESS);
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    ENTER("cuCtxGetStreamPriorityRange", IN_CONTEXT);
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    LEAVE(SUCCESS);
}

CUresult cuCtxSynchronize(void) {
    ENTER("cuCtxSynchronize", IN_CONTEXT);
    CUresult result = wait_for_kernels(&here, here.context, ~0u);
    LEAVE(result);
}

CUresult cuCtxSetLimit(int limit, size_t value) {
    ENTER("cuCtxSetLimit", IN_CONTEXT);
    REQUIRE(limit >= 0 && limit < LIMIT_COUNT, UNSUPPORTED_LIMIT);
    CUresult result = wait_for_kernels(&here, here.context, HAZARD_LIMITS);
    if (result) LEAVE(result);
    here.context->limits[limit] = value;
    LEAVE(SUCCESS);
}

CUresult cuCtxGetLimit(size_t *into, int limit) {
    ENTER("cuCtxGetLimit", IN_CONTEXT);
    REQUIRE(limit >= 0 && limit < LIMIT_COUNT, UNSUPPORTED_LIMIT);
    *into = here.context->limits[limit];
    LEAVE(SUCCESS);
}

CUresult cuCtxEnablePeerAccess(handle given, unsigned flags) {
    ENTER("cuCtxEnablePeerAccess", IN_CONTEXT);
    context *peer = object_get(given, CONTEXT);
    REQUIRE(is_open(peer) && peer != here.context, INVALID_CONTEXT);
    REQUIRE(!flags, INVALID_VALUE);
    int ordinal = here.context->ordinal;
    REQUIRE(devices[ordinal].set.access[peer->ordinal], PEER_ACCESS_UNSUPPORTED);
    REQUIRE(!here.context->peers[peer->ordinal], PEER_ACCESS_ALREADY_ENABLED);
    CUresult result = wait_for_kernels(&here, here.context, HAZARD_LIMITS);
    if (!result) result = wait_for_kernels(&here, peer, HAZARD_LIMITS);
    if (result) LEAVE(result);
    here.context->peers[peer->ordinal] = 1;
    memory_changed();
    LEAVE(SUCCESS);
}

CUresult cuCtxDisablePeerAccess(handle given) {
    ENTER("cuCtxDisablePeerAccess", IN_CONTEXT);
    context *peer = object_get(given, CONTEXT);
    REQUIRE(peer, INVALID_CONTEXT);
    REQUIRE(here.context->peers[peer->ordinal], PEER_ACCESS_NOT_ENABLED);
    CUresult result = wait_for_kernels(&here, here.context, HAZARD_LIMITS);
    if (result) LEAVE(result);
    here.context->peers[peer->ordinal] = 0;
    memory_changed();
    LEAVE(SUCCESS);
}
