/* Launches: their arguments, the places on SMs that their blocks need, and how they end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

#define SHARED_RESERVED_BYTES 1024u
#define TRAP_LINES 64

static char details[TRAP_LINES][TEXT_BYTES];
static unsigned detail_count;

/* Blocks of a function that one SM can hold at once. */
static unsigned occupancy(const function *of, unsigned threads, size_t shared_bytes) {
    const int32_t *attributes = devices[of->base.owner->ordinal].set.attributes;
    unsigned warps = (threads + 31) / 32 * 32;
    if (!threads || threads > (unsigned)attributes[ATTRIBUTE_MAX_THREADS_PER_BLOCK]) return 0;
    unsigned most = (unsigned)attributes[ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR] / warps;
    unsigned blocks = (unsigned)attributes[ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR];
    size_t each_bytes = of->facts.shared_bytes + shared_bytes + SHARED_RESERVED_BYTES;
    size_t by_shared =
        (size_t)attributes[ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR] / each_bytes;
    if (blocks < most) most = blocks;
    return by_shared < most ? (unsigned)by_shared : most;
}

static int sm_count(const context *of) {
    return devices[of->ordinal].set.attributes[ATTRIBUTE_MULTIPROCESSOR_COUNT];
}

static CUresult occupancy_call(const char *name, int *into, handle given, int threads,
                               size_t shared_bytes) {
    ENTER(name, IN_CONTEXT);
    function *of;
    CUresult result = function_of(&here, given, &of);
    REQUIRE(!result, result);
    REQUIRE(into && threads > 0, INVALID_VALUE);
    *into = (int)occupancy(of, (unsigned)threads, shared_bytes);
    LEAVE(SUCCESS);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *into, handle of, int threads,
                                                     size_t shared_bytes) {
    return occupancy_call("cuOccupancyMaxActiveBlocksPerMultiprocessor", into, of, threads,
                          shared_bytes);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *into, handle of, int threads,
                                                              size_t shared_bytes, unsigned flags) {
    (void)flags;
    return occupancy_call("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", into, of, threads,
                          shared_bytes);
}

/* Copy the arguments: from pointers to each, or from one buffer that the caller has laid out. */
static CUresult copy_parameters(op *work, void **parameters, void **extra) {
    const function_facts *facts = &work->function->facts;
    work->parameters = calloc(1, facts->parameter_bytes + 1);
    if (parameters) {
        for (int i = 0; i < facts->parameter_count; ++i) {
            if (!parameters[i]) return INVALID_VALUE;
            memcpy(work->parameters + facts->offsets[i], parameters[i], facts->sizes[i]);
        }
        return SUCCESS;
    }
    const void *buffer = 0;
    size_t bytes = 0;
    for (void **each = extra; each && *each; each += 2) {
        if (*each == (void *)1) buffer = each[1];
        if (*each == (void *)2) bytes = *(size_t *)each[1];
    }
    if (!facts->parameter_count) return SUCCESS;
    if (!buffer || bytes < facts->parameter_bytes) return INVALID_VALUE;
    memcpy(work->parameters, buffer, facts->parameter_bytes);
    return SUCCESS;
}

/* What only the first launch of its kind needs, and what synchronises the context. */
static CUresult grow(call *here, const function *of, int cooperative) {
    context *where = of->base.owner;
    size_t local_bytes = of->facts.local_bytes;
    if (local_bytes <= where->local_bytes && (!of->facts.prints || where->prints) &&
        (!cooperative || where->cooperates))
        return SUCCESS;
    CUresult result = wait_for_kernels(here, where, HAZARD_LIMITS);
    if (result) return result;
    if (local_bytes > where->local_bytes) where->local_bytes = local_bytes;
    where->prints |= of->facts.prints != 0;
    where->cooperates |= cooperative;
    return SUCCESS;
}

static CUresult launch(const char *name, handle given, const CUlaunchConfig *how, int cooperative,
                       void **parameters, void **extra) {
    ENTER(name, IN_CONTEXT);
    function *of;
    CUresult result = function_of(&here, given, &of);
    REQUIRE(!result, result);
    stream *on = stream_get(&here, how->stream);
    REQUIRE(on && on->base.owner == of->base.owner, INVALID_HANDLE);
    uint64_t blocks = (uint64_t)how->grid[0] * how->grid[1] * how->grid[2];
    uint64_t threads = (uint64_t)how->block[0] * how->block[1] * how->block[2];
    REQUIRE(blocks && blocks < 1u << 20 && threads && threads <= 1024, INVALID_VALUE);
    const int32_t *attributes = devices[of->base.owner->ordinal].set.attributes;
    unsigned limit = of->dynamic_shared_bytes_max
                         ? (unsigned)of->dynamic_shared_bytes_max
                         : (unsigned)attributes[ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK];
    REQUIRE(how->shared_bytes + of->facts.shared_bytes <= limit, INVALID_VALUE);
    unsigned each_sm = occupancy(of, (unsigned)threads, how->shared_bytes);
    REQUIRE(each_sm, LAUNCH_OUT_OF_RESOURCES);
    REQUIRE(!cooperative || blocks <= (uint64_t)each_sm * (unsigned)sm_count(of->base.owner),
            COOPERATIVE_LAUNCH_TOO_LARGE);
    result = function_load(&here, of);
    if (!result) result = grow(&here, of, cooperative);
    REQUIRE(!result, result);
    op *work = op_new(&here, OP_LAUNCH, on);
    work->function = of;
    memcpy(work->grid, how->grid, sizeof work->grid);
    memcpy(work->block, how->block, sizeof work->block);
    work->shared_bytes = how->shared_bytes;
    work->blocks = (uint32_t)blocks;
    work->cooperative = (uint32_t)cooperative;
    work->sms = 1.0 / each_sm;
    result = copy_parameters(work, parameters, extra);
    if (result) {
        free(work->parameters);
        free(work);
        LEAVE(result);
    }
    op_issue(work);
    LEAVE(SUCCESS);
}

CUresult cuLaunchKernel(handle of, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                        handle on, void **parameters, void **extra) {
    CUlaunchConfig how = {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, on,
                          0, 0};
    return launch("cuLaunchKernel", of, &how, 0, parameters, extra);
}

CUresult cuLaunchCooperativeKernel(handle of, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                   unsigned block_x, unsigned block_y, unsigned block_z,
                                   unsigned shared_bytes, handle on, void **parameters) {
    CUlaunchConfig how = {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, on,
                          0, 0};
    return launch("cuLaunchCooperativeKernel", of, &how, 1, parameters, 0);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *how, handle of, void **parameters, void **extra) {
    int cooperative = 0;
    for (unsigned i = 0; i < how->attribute_count; ++i)
        if (how->attributes[i].id == LAUNCH_ATTRIBUTE_COOPERATIVE)
            cooperative = how->attributes[i].value.cooperative;
    return launch("cuLaunchKernelEx", of, how, cooperative, parameters, extra);
}

/* Blocks of a launch that find a place now: all of them, or as many as there is room for. */
static uint32_t placed(const op *of) {
    uint32_t left = of->blocks - of->next_block;
    if (!(set.hazards & HAZARD_SLOTS)) return left;
    const device *at = &devices[of->context->ordinal];
    double room = (sm_count(of->context) - at->busy_sms) / of->sms + 1e-6;
    uint32_t most = room < 1 ? 0 : (uint32_t)room;
    if (most >= left) return left;
    return of->cooperative ? 0 : most;
}

static void start(op *of, uint32_t count) {
    device *at = &devices[of->context->ordinal];
    at->busy_sms += count * of->sms;
    of->resident = count;
    if (!of->started) ++of->context->live;
    of->started = 1;
    of->request = (launch_request){
        .code = of->function->module->code, .name = of->function->name,
        .shared_bytes = of->shared_bytes, .first = of->next_block, .count = count,
        .ordinal = of->context->ordinal, .parameters = of->parameters,
        .parameter_bytes = of->function->facts.parameter_bytes};
    memcpy(of->request.grid, of->grid, sizeof of->grid);
    memcpy(of->request.block, of->block, sizeof of->block);
    unlock_all();
    int refused = python.launch(&of->request);
    lock_all();
    of->next_block += count;
    if (!refused) return;
    problem("%s could not be run by the stand-in (%d)", of->function->name, refused);
    of->request.launch = 0;
    context_kill(of->context, LAUNCH_FAILED);
}

/* Take the blocks that have ended, or were stopped, off their SMs. */
static void settle(op *of) {
    char detail[TEXT_BYTES] = "";
    int code = 0;
    if (of->request.launch) {
        unlock_all();
        code = python.finish(of->request.launch, detail);
        lock_all();
    }
    devices[of->context->ordinal].busy_sms -= of->resident * of->sms;
    of->resident = 0;
    of->request.launch = 0;
    if (!code || of->context->dead) return;
    if (detail_count < TRAP_LINES) memcpy(details[detail_count++], detail, TEXT_BYTES);
    context_kill(of->context, code);
}

static int over(op *of) {
    if (of->started) --of->context->live;
    return 1;
}

int launch_step(op *of) {
    if (of->resident) {
        const uint32_t *status = (const uint32_t *)of->request.status_address;
        if (of->request.launch && !__atomic_load_n(status, __ATOMIC_ACQUIRE)) {
            if (!of->context->dead) return 0;
            uint64_t number = of->request.launch;
            unlock_all();
            python.abort(number);
            lock_all();
        }
        settle(of);
    }
    if (of->context->dead || of->next_block == of->blocks) return over(of);
    uint32_t count = placed(of);
    if (count) start(of, count);
    return 0;
}

/* What the kernels that trapped since the devices were plugged in did, in words. */
EXPORT int standin_detail(unsigned index, char *into) {
    lock_all();
    int found = index < detail_count;
    if (found) memcpy(into, details[index], TEXT_BYTES);
    unlock_all();
    return found;
}

void launches_reset(void) { detail_count = 0; }
