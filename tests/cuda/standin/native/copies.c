/* Copies and fills: every range must lie in one living piece of the right owner. */
#include "standin.h"

static int in_device(const piece *of) {
    return of && (of->kind == PIECE_DEVICE || of->kind == PIECE_POOL || of->kind == PIECE_GLOBAL);
}

/* Issue a copy; a range in memory that no call has pinned makes it wait for all kernels. */
static CUresult copy(call *here, uint64_t to, uint64_t from, size_t bytes, handle on, int waits) {
    stream *at = stream_get(here, on);
    if (!at) return INVALID_HANDLE;
    if (!bytes) return SUCCESS;
    piece *target = piece_over(to, bytes), *source = piece_over(from, bytes);
    if ((!target && is_claimed(to, bytes)) || (!source && is_claimed(from, bytes)))
        return INVALID_VALUE;
    if (!target || !source) {
        CUresult result = wait_for_kernels(here, at->base.owner, HAZARD_PAGEABLE);
        if (result) return result;
        waits = 1;
    }
    op *work = op_new(here, OP_COPY, at);
    work->to = to;
    work->from = from;
    work->bytes = bytes;
    work->needs_sm = in_device(target) && in_device(source) && target->ordinal == source->ordinal;
    op_issue(work);
    return waits ? op_await(here, at, at->issued) : SUCCESS;
}

static CUresult copy_call(const char *name, uint64_t to, int to_device, uint64_t from,
                          int from_device, size_t bytes, handle on, int waits) {
    ENTER(name, IN_CONTEXT);
    REQUIRE(!bytes || !to_device || in_device(piece_over(to, bytes)) ||
                (piece_over(to, bytes) && to_device == 1), INVALID_VALUE);
    REQUIRE(!bytes || !from_device || in_device(piece_over(from, bytes)) ||
                (piece_over(from, bytes) && from_device == 1), INVALID_VALUE);
    CUresult result = copy(&here, to, from, bytes, on, waits);
    LEAVE(result);
}

#define HOST_SIDE 0
#define DEVICE_SIDE 1

CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
    return copy_call("cuMemcpyHtoD", to, DEVICE_SIDE, (uint64_t)from, HOST_SIDE, bytes, 0, 1);
}

CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
    return copy_call("cuMemcpyDtoH", (uint64_t)to, HOST_SIDE, from, DEVICE_SIDE, bytes, 0, 1);
}

CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return copy_call("cuMemcpyDtoD", to, DEVICE_SIDE, from, DEVICE_SIDE, bytes, 0, 0);
}

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return copy_call("cuMemcpy", to, HOST_SIDE, from, HOST_SIDE, bytes, 0, 1);
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, handle on) {
    return copy_call("cuMemcpyHtoDAsync", to, DEVICE_SIDE, (uint64_t)from, HOST_SIDE, bytes, on, 0);
}

CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, handle on) {
    return copy_call("cuMemcpyDtoHAsync", (uint64_t)to, HOST_SIDE, from, DEVICE_SIDE, bytes, on, 0);
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, handle on) {
    return copy_call("cuMemcpyDtoDAsync", to, DEVICE_SIDE, from, DEVICE_SIDE, bytes, on, 0);
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, handle on) {
    return copy_call("cuMemcpyAsync", to, HOST_SIDE, from, HOST_SIDE, bytes, on, 0);
}

static CUresult copy_peer(const char *name, CUdeviceptr to, handle to_context, CUdeviceptr from,
                          handle from_context, size_t bytes, handle on, int waits) {
    ENTER(name, IN_CONTEXT);
    context *target = object_get(to_context, CONTEXT), *source = object_get(from_context, CONTEXT);
    REQUIRE(target && source, INVALID_CONTEXT);
    REQUIRE(!target->dead, target->dead);
    REQUIRE(!source->dead, source->dead);
    if (!bytes) LEAVE(SUCCESS);
    piece *into = piece_over(to, bytes), *out_of = piece_over(from, bytes);
    REQUIRE(in_device(into) && in_device(out_of), INVALID_VALUE);
    if (into->ordinal != target->ordinal || out_of->ordinal != source->ordinal) {
        problem("%s was told that memory of cuda:%d is cuda:%d's", name,
                into->ordinal != target->ordinal ? into->ordinal : out_of->ordinal,
                into->ordinal != target->ordinal ? target->ordinal : source->ordinal);
        LEAVE(INVALID_VALUE);
    }
    CUresult result = copy(&here, to, from, bytes, on, waits);
    LEAVE(result);
}

CUresult cuMemcpyPeer(CUdeviceptr to, handle to_context, CUdeviceptr from, handle from_context,
                      size_t bytes) {
    return copy_peer("cuMemcpyPeer", to, to_context, from, from_context, bytes, 0, 1);
}

CUresult cuMemcpyPeerAsync(CUdeviceptr to, handle to_context, CUdeviceptr from,
                           handle from_context, size_t bytes, handle on) {
    return copy_peer("cuMemcpyPeerAsync", to, to_context, from, from_context, bytes, on, 0);
}

static CUresult fill(const char *name, CUdeviceptr to, uint32_t pattern, unsigned unit_bytes,
                     size_t count, handle on) {
    ENTER(name, IN_CONTEXT);
    stream *at = stream_get(&here, on);
    REQUIRE(at, INVALID_HANDLE);
    if (!count) LEAVE(SUCCESS);
    REQUIRE(to % unit_bytes == 0 && piece_over(to, count * unit_bytes), INVALID_VALUE);
    op *work = op_new(&here, OP_FILL, at);
    work->to = to;
    work->bytes = count * unit_bytes;
    work->pattern = pattern;
    work->pattern_bytes = unit_bytes;
    work->needs_sm = 1;
    op_issue(work);
    LEAVE(SUCCESS);
}

CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) {
    return fill("cuMemsetD8", to, value, 1, count, 0);
}

CUresult cuMemsetD16(CUdeviceptr to, unsigned short value, size_t count) {
    return fill("cuMemsetD16", to, value, 2, count, 0);
}

CUresult cuMemsetD32(CUdeviceptr to, unsigned value, size_t count) {
    return fill("cuMemsetD32", to, value, 4, count, 0);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, handle on) {
    return fill("cuMemsetD8Async", to, value, 1, count, on);
}

CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, handle on) {
    return fill("cuMemsetD16Async", to, value, 2, count, on);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, handle on) {
    return fill("cuMemsetD32Async", to, value, 4, count, on);
}
