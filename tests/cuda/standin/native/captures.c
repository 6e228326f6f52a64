/* Captures of graphs, one at a time: which calls spoil them. Work that is captured is not modelled. */
#include <string.h>

#include "standin.h"

static stream *captured;
static uint64_t capturer; /* its thread */
static int how, spoiled, graphs;
static uint64_t plugging = 1;
static _Thread_local struct {
    uint64_t of;
    int mode;
} thread;

/* What the driver may refuse in a thread for the sake of a capture. */
static const char *const UNSAFE[] = {
    "cuMemAlloc", "cuMemAllocPitch", "cuMemFree", "cuMemAllocHost", "cuMemHostAlloc",
    "cuMemFreeHost", "cuMemHostRegister", "cuMemHostUnregister", "cuMemcpy", "cuMemcpyHtoD",
    "cuMemcpyDtoH", "cuMemcpyDtoD", "cuMemcpyPeer", "cuStreamQuery", "cuStreamSynchronize",
    "cuEventQuery", "cuEventSynchronize", "cuCtxSynchronize", "cuCtxSetLimit",
    "cuCtxEnablePeerAccess", "cuModuleLoadData", "cuModuleUnload", "cuLibraryLoadData",
    "cuLibraryUnload", "cuFuncLoad",
};

static int *mode_of_thread(void) {
    if (thread.of != plugging) thread.mode = CAPTURE_GLOBAL;
    thread.of = plugging;
    return &thread.mode;
}

static int is_prohibited(void) {
    int mode = *mode_of_thread();
    if (!captured || mode == CAPTURE_RELAXED) return 0;
    if (capturer == this_thread()) return how != CAPTURE_RELAXED;
    return how == CAPTURE_GLOBAL && mode == CAPTURE_GLOBAL;
}

/* Whether a call is refused, which spoils the capture. */
int spoils_capture(const char *name) {
    if (!is_prohibited()) return 0;
    for (unsigned i = 0; i < sizeof UNSAFE / sizeof *UNSAFE; ++i)
        if (!strcmp(UNSAFE[i], name)) return spoiled = 1;
    return 0;
}

int is_captured(const stream *of) { return of == captured; }

void captures_reset(void) {
    ++plugging;
    captured = 0;
    graphs = 0;
}

CUresult cuThreadExchangeStreamCaptureMode(int *mode) {
    ENTER("cuThreadExchangeStreamCaptureMode", 0);
    REQUIRE(mode && *mode >= CAPTURE_GLOBAL && *mode <= CAPTURE_RELAXED, INVALID_VALUE);
    int *own = mode_of_thread(), before = *own;
    *own = *mode;
    *mode = before;
    LEAVE(SUCCESS);
}

CUresult cuStreamBeginCapture(handle on, int mode) {
    ENTER("cuStreamBeginCapture", IN_CONTEXT);
    stream *of = stream_get(&here, on);
    REQUIRE(of && mode >= CAPTURE_GLOBAL && mode <= CAPTURE_RELAXED, INVALID_VALUE);
    REQUIRE(!captured, ILLEGAL_STATE);
    captured = of;
    capturer = this_thread();
    how = mode;
    spoiled = 0;
    LEAVE(SUCCESS);
}

CUresult cuStreamEndCapture(handle on, handle *graph) {
    ENTER("cuStreamEndCapture", IN_CONTEXT);
    stream *of = stream_get(&here, on);
    REQUIRE(of && of == captured && graph, ILLEGAL_STATE);
    REQUIRE(capturer == this_thread() || how == CAPTURE_RELAXED, STREAM_CAPTURE_WRONG_THREAD);
    captured = 0;
    *graph = 0;
    REQUIRE(!spoiled, STREAM_CAPTURE_INVALIDATED);
    ++graphs;
    *graph = &graphs;
    LEAVE(SUCCESS);
}

CUresult cuGraphDestroy(handle graph) {
    ENTER("cuGraphDestroy", 0);
    REQUIRE(graph == &graphs && graphs, INVALID_VALUE);
    --graphs;
    LEAVE(SUCCESS);
}
