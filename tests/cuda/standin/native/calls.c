/* The way in and out of every entry point: the trace, the faults, and what a context forbids. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "standin.h"

#define TRACE_MAX 65536
#define FAULTS_MAX 64
#define PROBLEMS_MAX 128
#define EXTRA_MAX 64

typedef struct {
    uint64_t at_ns, thread;
    int32_t ordinal, result, live, reserved;
    char name[48];
} entry;

typedef struct {
    char name[48];
    int32_t nth, code, action, ordinal;
    int32_t used, released;
} fault;

static entry trace[TRACE_MAX];
static uint64_t traced;
static fault faults[FAULTS_MAX];
static unsigned fault_count;
static char problems[PROBLEMS_MAX][TEXT_BYTES];
static unsigned problem_count;
static char extra[EXTRA_MAX][48];
static unsigned extra_count;

/* What the library may call while a kernel lives in the context: nothing that may wait for it. */
static const char *const BESIDE_KERNELS[] = {
    "cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString",
    "cuDeviceGet", "cuDeviceGetCount", "cuDeviceGetName", "cuDeviceGetUuid", "cuDeviceTotalMem",
    "cuDeviceGetAttribute", "cuDeviceGetP2PAttribute", "cuDeviceCanAccessPeer",
    "cuDeviceGetPCIBusId", "cuDeviceGetByPCIBusId", "cuDevicePrimaryCtxGetState",
    "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease",
    "cuCtxGetCurrent", "cuCtxSetCurrent", "cuCtxPushCurrent", "cuCtxPopCurrent",
    "cuCtxGetDevice", "cuCtxGetId", "cuCtxGetApiVersion", "cuCtxGetFlags", "cuCtxGetLimit",
    "cuCtxGetStreamPriorityRange", "cuMemGetInfo",
    "cuPointerGetAttribute", "cuPointerGetAttributes", "cuMemGetAddressRange",
    "cuMemHostGetDevicePointer", "cuMemHostGetFlags",
    "cuDeviceGetDefaultMemPool", "cuDeviceGetMemPool", "cuMemPoolGetAttribute",
    "cuMemPoolGetAccess",
    "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpyPeerAsync",
    "cuStreamQuery", "cuStreamSynchronize", "cuStreamWaitEvent", "cuStreamDestroy",
    "cuStreamGetCtx", "cuStreamGetFlags",
    "cuStreamGetPriority", "cuStreamGetId", "cuStreamGetDevice", "cuStreamIsCapturing",
    "cuStreamGetCaptureInfo", "cuStreamBeginCapture", "cuStreamEndCapture", "cuLaunchHostFunc", "cuStreamWriteValue32", "cuStreamWriteValue64",
    "cuStreamWaitValue32", "cuStreamWaitValue64",
    "cuEventCreate", "cuEventRecord", "cuEventRecordWithFlags", "cuEventQuery",
    "cuEventSynchronize", "cuEventDestroy", "cuEventElapsedTime",
    "cuLaunchKernel", "cuLaunchKernelEx", "cuLaunchCooperativeKernel",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
    "cuOccupancyAvailableDynamicSMemPerBlock",
    "cuFuncGetAttribute", "cuFuncGetName", "cuFuncGetParamInfo", "cuFuncGetModule",
    "cuFuncIsLoaded", "cuKernelGetAttribute", "cuKernelGetName", "cuKernelGetParamInfo",
    "cuKernelGetLibrary", "cuKernelGetFunction", "cuLibraryGetKernel", "cuLibraryGetKernelCount",
    "cuLibraryEnumerateKernels", "cuLibraryGetGlobal", "cuLibraryGetModule",
    "cuModuleGetFunction", "cuModuleGetGlobal", "cuModuleGetLoadingMode",
};

int may_run_beside_kernels(const char *name) {
    for (unsigned i = 0; i < sizeof BESIDE_KERNELS / sizeof *BESIDE_KERNELS; ++i)
        if (!strcmp(BESIDE_KERNELS[i], name)) return 1;
    for (unsigned i = 0; i < extra_count; ++i)
        if (!strcmp(extra[i], name)) return 1;
    return 0;
}

void problem(const char *format, ...) {
    if (problem_count == PROBLEMS_MAX) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(problems[problem_count++], TEXT_BYTES, format, arguments);
    va_end(arguments);
}

/* Errors after which nothing in the context works any more. */
int is_sticky(int code) {
    return code == 214 || code == 220 || code == 226 || (code >= 700 && code <= 719 &&
           code != LAUNCH_OUT_OF_RESOURCES && code != 703 && code != PEER_ACCESS_ALREADY_ENABLED &&
           code != PEER_ACCESS_NOT_ENABLED && code != PRIMARY_CONTEXT_ACTIVE &&
           code != CONTEXT_IS_DESTROYED && code != 711 && code != HOST_MEMORY_ALREADY_REGISTERED &&
           code != HOST_MEMORY_NOT_REGISTERED);
}

static void note(call *here, int live) {
    entry *of = &trace[traced % TRACE_MAX];
    here->entry = traced++;
    of->at_ns = now_ns();
    of->thread = this_thread();
    of->ordinal = here->context ? here->context->ordinal : -1;
    of->live = live;
    of->result = -1;
    snprintf(of->name, sizeof of->name, "%s", here->name);
}

CUresult end(call *here, CUresult result) {
    if (here->entry + TRACE_MAX > traced) trace[here->entry % TRACE_MAX].result = result;
    if (here->context && here->context->holder == this_thread()) {
        here->context->holder = 0;
        changed_all();
    }
    unlock_all();
    return result;
}

static CUresult suffer(call *here) {
    for (unsigned i = 0; i < fault_count; ++i) {
        fault *of = &faults[i];
        int ordinal = here->context ? here->context->ordinal : -1;
        if (strcmp(of->name, here->name) || (of->ordinal >= 0 && of->ordinal != ordinal)) continue;
        if (--of->nth) continue;
        of->used = 1;
        switch (of->action) {
        case FAULT_STALL: {
            uint64_t until = now_ns() + set.wait_deadline_ns;
            while (!of->released && !stopping)
                if (!wait_change(until)) {
                    problem("%s stalled as the test asked, and was never released", here->name);
                    return LAUNCH_TIMEOUT;
                }
            break;
        }
        case FAULT_STALL_WORK:
            here->stall_work = i + 1;
            break;
        case FAULT_CORRUPT:
            here->corrupt = 1;
            break;
        default:
            if (is_sticky(of->code) && here->context) context_kill(here->context, of->code);
            return of->code;
        }
    }
    return SUCCESS;
}

CUresult begin(call *here, const char *name, unsigned flags) {
    lock_all();
    *here = (call){.name = name, .context = plugged ? current_context() : 0};
    context *of = here->context;
    note(here, of ? of->live : 0);
    if (!(flags & UNINITIALIZED) && (!plugged || !initialized)) return end(here, NOT_INITIALIZED);
    if (plugged) {
        CUresult result = suffer(here);
        if (result) return end(here, result);
        if (spoils_capture(name)) return end(here, STREAM_CAPTURE_UNSUPPORTED);
    }
    if ((flags & IN_CONTEXT) && !of) return end(here, INVALID_CONTEXT);
    if (!of || !(flags & IN_CONTEXT)) return SUCCESS;
    uint64_t until = now_ns() + set.wait_deadline_ns;
    while (of->holder && of->holder != this_thread() && !stopping)
        if (!wait_change(until)) {
            problem("%s waited too long for another call that holds its context", name);
            return end(here, LAUNCH_TIMEOUT);
        }
    if (of->dead && !(flags & DEAD_TOO)) return end(here, of->dead);
    if (of->live && !may_run_beside_kernels(name))
        problem("%s was called while a kernel lives on cuda:%d", name, of->ordinal);
    return SUCCESS;
}

/* Wait until a context has no work, as the real call does; a call of `begin` is in progress. */
CUresult wait_for_kernels(call *here, context *of, unsigned hazard) {
    if (!of || !(set.hazards & hazard) || of->dead) return SUCCESS;
    uint64_t until = now_ns() + set.deadline_ns;
    of->holder = this_thread();
    while (of->pending && !of->dead && !stopping) {
        if (wait_change(until)) continue;
        problem("%s waits for the kernels on cuda:%d, which live on: a deadlock", here->name,
                of->ordinal);
        context_kill(of, LAUNCH_TIMEOUT);
    }
    of->holder = 0;
    changed_all();
    return of->dead;
}

void calls_reset(void) { traced = fault_count = problem_count = extra_count = 0; }

EXPORT void standin_fault(const char *name, int nth, int code, int action, int ordinal) {
    lock_all();
    if (fault_count < FAULTS_MAX) {
        fault *of = &faults[fault_count++];
        *of = (fault){.nth = nth, .code = code, .action = action, .ordinal = ordinal};
        snprintf(of->name, sizeof of->name, "%s", name);
    }
    unlock_all();
}

/* Let what faults have stalled go on. */
EXPORT void standin_release(void) {
    lock_all();
    for (unsigned i = 0; i < fault_count; ++i) faults[i].released = 1;
    changed_all();
    unlock_all();
}

int fault_released(unsigned number) { return faults[number - 1].released; }

EXPORT int standin_fault_used(unsigned index) {
    lock_all();
    int used = index < fault_count && faults[index].used;
    unlock_all();
    return used;
}

EXPORT void standin_allow(const char *name) {
    lock_all();
    if (extra_count < EXTRA_MAX) snprintf(extra[extra_count++], sizeof *extra, "%s", name);
    unlock_all();
}

/* Copy calls from the `*next`-th on, or the oldest that is kept; `*next` is then the one after. */
EXPORT uint64_t standin_trace(uint64_t *next, entry *into, uint64_t count) {
    lock_all();
    if (traced > TRACE_MAX && *next < traced - TRACE_MAX) *next = traced - TRACE_MAX;
    uint64_t copied = 0;
    for (; copied < count && *next < traced; ++copied) into[copied] = trace[(*next)++ % TRACE_MAX];
    unlock_all();
    return copied;
}

EXPORT int standin_problem(unsigned index, char *into) {
    lock_all();
    int found = index < problem_count;
    if (found) memcpy(into, problems[index], TEXT_BYTES);
    unlock_all();
    return found;
}

EXPORT void standin_forget_problems(void) {
    lock_all();
    problem_count = 0;
    unlock_all();
}
