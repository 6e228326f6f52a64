/* The entry points of streams and events. */
#include "standin.h"

static CUresult create(handle *into, unsigned flags, int priority, const char *name) {
    ENTER(name, IN_CONTEXT);
    REQUIRE(into && flags <= STREAM_NON_BLOCKING, INVALID_VALUE);
    *into = stream_new(here.context, flags, priority);
    LEAVE(SUCCESS);
}

CUresult cuStreamCreate(handle *into, unsigned flags) {
    return create(into, flags, 0, "cuStreamCreate");
}

CUresult cuStreamCreateWithPriority(handle *into, unsigned flags, int priority) {
    return create(into, flags, priority, "cuStreamCreateWithPriority");
}

CUresult cuStreamDestroy(handle on) {
    ENTER("cuStreamDestroy", IN_CONTEXT);
    stream *of = object_get(on, STREAM);
    REQUIRE(of && of != of->base.owner->null_stream, INVALID_HANDLE);
    object_end(&of->base);
    LEAVE(SUCCESS);
}

CUresult cuStreamQuery(handle on) {
    ENTER("cuStreamQuery", IN_CONTEXT);
    stream *of = stream_get(&here, on);
    REQUIRE(of, INVALID_HANDLE);
    REQUIRE(!of->base.owner->dead, of->base.owner->dead);
    LEAVE(stream_idle(of) ? SUCCESS : NOT_READY);
}

CUresult cuStreamSynchronize(handle on) {
    ENTER("cuStreamSynchronize", IN_CONTEXT);
    stream *of = stream_get(&here, on);
    REQUIRE(of, INVALID_HANDLE);
    CUresult result = op_await(&here, of, of->issued);
    LEAVE(result);
}

CUresult cuStreamGetFlags(handle on, unsigned *into) {
    ENTER("cuStreamGetFlags", IN_CONTEXT);
    stream *of = stream_get(&here, on);
    REQUIRE(of, INVALID_HANDLE);
    *into = of->flags;
    LEAVE(SUCCESS);
}

CUresult cuStreamGetPriority(handle on, int *into) {
    ENTER("cuStreamGetPriority", IN_CONTEXT);
    stream *of = stream_get(&here, on);
    REQUIRE(of, INVALID_HANDLE);
    *into = of->priority;
    LEAVE(SUCCESS);
}

CUresult cuStreamGetId(handle on, unsigned long long *into) {
    ENTER("cuStreamGetId", IN_CONTEXT);
    stream *of = stream_get(&here, on);
    REQUIRE(of, INVALID_HANDLE);
    *into = of->base.number;
    LEAVE(SUCCESS);
}

CUresult cuStreamGetCtx(handle on, handle *into) {
    ENTER("cuStreamGetCtx", IN_CONTEXT);
    stream *of = stream_get(&here, on);
    REQUIRE(of, INVALID_HANDLE);
    *into = of->base.owner;
    LEAVE(SUCCESS);
}

CUresult cuStreamGetCtx_v2(handle on, handle *into, handle *green) {
    *green = 0;
    return cuStreamGetCtx(on, into);
}

CUresult cuStreamGetDevice(handle on, CUdevice *into) {
    ENTER("cuStreamGetDevice", IN_CONTEXT);
    stream *of = stream_get(&here, on);
    REQUIRE(of, INVALID_HANDLE);
    *into = of->base.owner->ordinal;
    LEAVE(SUCCESS);
}

CUresult cuStreamIsCapturing(handle on, int *into) {
    (void)on;
    ENTER("cuStreamIsCapturing", IN_CONTEXT);
    *into = 0;
    LEAVE(SUCCESS);
}

CUresult cuStreamGetCaptureInfo(handle on, int *into) {
    (void)on;
    ENTER("cuStreamGetCaptureInfo", IN_CONTEXT);
    *into = 0;
    LEAVE(SUCCESS);
}

CUresult cuLaunchHostFunc(handle on, void (*function)(void *), void *argument) {
    ENTER("cuLaunchHostFunc", IN_CONTEXT);
    stream *of = stream_get(&here, on);
    REQUIRE(of && function, INVALID_VALUE);
    op *work = op_new(&here, OP_HOST, of);
    work->call = function;
    work->argument = argument;
    op_issue(work);
    LEAVE(SUCCESS);
}

static CUresult word(handle on, CUdeviceptr at, uint64_t value, unsigned flags, unsigned bytes,
                     enum op_kind kind, const char *name) {
    ENTER(name, IN_CONTEXT);
    stream *of = stream_get(&here, on);
    REQUIRE(of && at % bytes == 0, INVALID_VALUE);
    piece *target = piece_over(at, bytes);
    REQUIRE(target && reachable(of->base.owner->ordinal, target), INVALID_VALUE);
    op *work = op_new(&here, kind, of);
    work->to = at;
    work->value = value;
    work->flags = flags;
    work->wide = bytes == 8;
    op_issue(work);
    LEAVE(SUCCESS);
}

CUresult cuStreamWriteValue32(handle on, CUdeviceptr at, uint32_t value, unsigned flags) {
    return word(on, at, value, flags, 4, OP_WRITE, "cuStreamWriteValue32");
}

CUresult cuStreamWriteValue64(handle on, CUdeviceptr at, uint64_t value, unsigned flags) {
    return word(on, at, value, flags, 8, OP_WRITE, "cuStreamWriteValue64");
}

CUresult cuStreamWaitValue32(handle on, CUdeviceptr at, uint32_t value, unsigned flags) {
    return word(on, at, value, flags, 4, OP_WAIT, "cuStreamWaitValue32");
}

CUresult cuStreamWaitValue64(handle on, CUdeviceptr at, uint64_t value, unsigned flags) {
    return word(on, at, value, flags, 8, OP_WAIT, "cuStreamWaitValue64");
}

CUresult cuEventCreate(handle *into, unsigned flags) {
    ENTER("cuEventCreate", IN_CONTEXT);
    REQUIRE(into && flags < 8, INVALID_VALUE);
    event *of = (event *)object_new(EVENT, sizeof *of, here.context);
    of->flags = flags;
    *into = of;
    LEAVE(SUCCESS);
}

CUresult cuEventDestroy(handle given) {
    ENTER("cuEventDestroy", IN_CONTEXT | DEAD_TOO);
    event *of = object_get(given, EVENT);
    REQUIRE(of, INVALID_HANDLE);
    object_end(&of->base);
    LEAVE(SUCCESS);
}

CUresult cuEventRecord(handle given, handle on) {
    ENTER("cuEventRecord", IN_CONTEXT);
    event *of = object_get(given, EVENT);
    stream *at = stream_get(&here, on);
    REQUIRE(of && at && of->base.owner == at->base.owner, INVALID_HANDLE);
    op *work = op_new(&here, OP_EVENT, at);
    work->event = of;
    op_issue(work);
    of->stream = at;
    of->ticket = at->issued;
    LEAVE(SUCCESS);
}

CUresult cuEventRecordWithFlags(handle given, handle on, unsigned flags) {
    (void)flags;
    return cuEventRecord(given, on);
}

static int is_over(const event *of) { return !of->ticket || of->stream->done >= of->ticket; }

CUresult cuEventQuery(handle given) {
    ENTER("cuEventQuery", IN_CONTEXT);
    event *of = object_get(given, EVENT);
    REQUIRE(of, INVALID_HANDLE);
    REQUIRE(!of->base.owner->dead, of->base.owner->dead);
    LEAVE(is_over(of) ? SUCCESS : NOT_READY);
}

CUresult cuEventSynchronize(handle given) {
    ENTER("cuEventSynchronize", IN_CONTEXT);
    event *of = object_get(given, EVENT);
    REQUIRE(of, INVALID_HANDLE);
    CUresult result = of->ticket ? op_await(&here, of->stream, of->ticket) : SUCCESS;
    LEAVE(result);
}

CUresult cuEventElapsedTime(float *into, handle first, handle last) {
    ENTER("cuEventElapsedTime", IN_CONTEXT);
    event *from = object_get(first, EVENT), *to = object_get(last, EVENT);
    REQUIRE(from && to && from->ticket && to->ticket, INVALID_HANDLE);
    REQUIRE(!(from->flags & 2) && !(to->flags & 2), INVALID_HANDLE);
    REQUIRE(is_over(from) && is_over(to), NOT_READY);
    *into = (float)((double)(int64_t)(to->at_ns - from->at_ns) / 1e6);
    LEAVE(SUCCESS);
}

CUresult cuStreamWaitEvent(handle on, handle given, unsigned flags) {
    (void)flags;
    ENTER("cuStreamWaitEvent", IN_CONTEXT);
    stream *of = stream_get(&here, on);
    event *what = object_get(given, EVENT);
    REQUIRE(of && what, INVALID_HANDLE);
    if (is_over(what)) LEAVE(SUCCESS);
    op *work = op_new(&here, OP_WAIT_EVENT, of);
    op_after(work, what->stream, what->ticket);
    op_issue(work);
    LEAVE(SUCCESS);
}
