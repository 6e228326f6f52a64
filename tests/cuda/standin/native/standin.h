/* The stand-in driver's own structures: one lock, objects, memory, streams, launches.
 *
 * - A test double of libcuda.so.1: it shows that calls are made in the right order and with the
 *   right arguments, never how a GPU behaves.
 * - All state is under one lock, from `begin` to `end` of each entry point; callbacks to Python,
 *   host functions and large copies are made without it.
 * - Destroyed objects stay in memory until the devices are unplugged, so a stale handle is found.
 * - A context is held by a call that waits in it for its kernels, as the real driver's lock is. */
#pragma once

#include "abi.h"

#define EXPORT __attribute__((visibility("default")))
#define DEVICES_MAX 8
#define QUEUES_MAX 256
#define ATTRIBUTES_MAX 160
#define PARAMETERS_MAX 64
#define PARAMETER_BYTES_MAX 4096
#define NAME_BYTES 192
#define TEXT_BYTES 512
#define GARBAGE 0xA5
#define GARBAGE_BYTES_MAX (1u << 20)

enum { /* hazards: what waits for the kernels of its context when its bit is set */
    HAZARD_FREE = 1,        /* freeing, and allocating pinned memory */
    HAZARD_UNLOAD = 2,      /* unloading code */
    HAZARD_LOAD = 4,        /* loading code: `loads_while_running` is false */
    HAZARD_LIMITS = 8,      /* limits, peer and pool access, growth of local memory, first printf */
    HAZARD_PAGEABLE = 16,   /* copies from and to pageable memory */
    HAZARD_SLOTS = 32,      /* blocks, memsets and copies within a device need a free SM */
    HAZARD_QUEUES = 64,     /* streams share hardware queues */
    HAZARD_ALLOCATE = 128,  /* allocating device memory */
};

enum object_kind {
    CONTEXT = 1,
    STREAM,
    EVENT,
    LIBRARY,
    MODULE,
    FUNCTION,
    KERNEL,
    POOL,
};

typedef struct context context;
typedef struct stream stream;
typedef struct op op;

typedef struct object {
    int kind;
    int alive;
    uint64_t number;
    context *owner;
    struct object *next;   /* in its bucket */
    struct object *older;  /* made before it */
} object;

struct context {
    object base;
    int ordinal;
    int retained;
    unsigned flags;
    int dead;              /* the sticky error, 0 while it works */
    int live;              /* kernels that run */
    int pending;           /* work in its queues, kernels among it */
    uint64_t holder;       /* thread whose call waits in here with the context's lock */
    int peers[DEVICES_MAX];
    size_t limits[LIMIT_COUNT];
    size_t local_bytes;    /* of a thread, as far as a launch has set it aside */
    int prints, cooperates;
    stream *null_stream;
};

struct stream {
    object base;
    unsigned flags;
    int priority;
    unsigned queue;
    uint64_t issued;       /* tickets given out; work is done in their order */
    uint64_t done;
};

typedef struct {
    object base;
    unsigned flags;
    stream *stream;
    uint64_t ticket;       /* of the last record; 0 before one */
    uint64_t at_ns;
} event;

typedef struct {
    object base;
    int ordinal;
    int is_default;
    int access[DEVICES_MAX];
    uint64_t threshold;
    size_t used_bytes, used_high_bytes;
} pool;

typedef struct {
    int parameter_count;
    uint32_t offsets[PARAMETERS_MAX];
    uint32_t sizes[PARAMETERS_MAX];
    uint32_t parameter_bytes;
    uint32_t shared_bytes;
    uint32_t local_bytes;
    uint32_t prints;
} function_facts;

typedef struct {
    object base;
    uint64_t code;         /* Python's number of it */
    struct library *library;
} module;

typedef struct {
    object base;
    module *module;
    char name[NAME_BYTES];
    function_facts facts;
    int loaded;
    int dynamic_shared_bytes_max;
    int carveout;          /* of its SM, for shared memory: percent and 1, 0: the driver chooses */
} function;

typedef struct library {
    object base;
    void *image;
    size_t image_bytes;
    module *modules[DEVICES_MAX];
    int spoiled;           /* a context that had it died */
} library;

typedef struct {
    object base;
    library *library;
    char name[NAME_BYTES];
    function *functions[DEVICES_MAX];
    int dynamic_shared_bytes_max;
} kernel;

enum piece_kind { PIECE_DEVICE = 1, PIECE_POOL, PIECE_GLOBAL, PIECE_HOST, PIECE_REGISTERED };

typedef struct piece {
    enum piece_kind kind;
    uint64_t begin;
    size_t bytes;
    int ordinal;
    context *context;
    pool *pool;
    module *module;
    uint64_t number;
    unsigned flags;
    struct piece *next;
} piece;

/* What Python is asked to run: blocks [first, first + count) of a grid, resident together. */
typedef struct {
    uint64_t code;
    const char *name;
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t shared_bytes;
    uint32_t first;
    uint32_t count;
    int32_t ordinal;
    const void *parameters;
    uint32_t parameter_bytes;
    uint64_t launch;          /* answer: Python's number of it */
    uint64_t status_address;  /* answer: uint32, 0 while it runs */
} launch_request;

typedef struct {
    int (*load)(const void *image, uint64_t bytes, int ordinal, uint64_t *code);
    void (*unload)(uint64_t code);
    int (*describe)(uint64_t code, const char *name, function_facts *facts);
    int (*entry)(uint64_t code, uint32_t index, char *name);
    int (*variable)(uint64_t code, const char *name, uint64_t *address, uint64_t *bytes);
    int (*launch)(launch_request *request);
    int (*finish)(uint64_t launch, char *detail);
    void (*abort)(uint64_t launch);
    void (*changed)(int ordinal);
    void (*ring)(void *room);
    void *room;
} callbacks;

typedef struct {
    char name[64];
    CUuuid uuid;
    uint64_t memory_bytes;
    int32_t attributes[ATTRIBUTES_MAX];
    int32_t access[DEVICES_MAX];    /* peers that it can reach directly */
    int32_t atomics[DEVICES_MAX];
    char bus_id[16];
} device_settings;

typedef struct {
    int32_t device_count;
    int32_t driver_version;
    uint32_t hazards;
    uint32_t eager;                 /* 0, 1, or 2: CUDA_MODULE_LOADING says it */
    uint32_t connections;           /* 0: CUDA_DEVICE_MAX_CONNECTIONS says it */
    uint32_t fill;                  /* new memory holds garbage */
    uint64_t deadline_ns;           /* for a wait on kernels that only the waiter could end */
    uint64_t wait_deadline_ns;      /* for any wait */
    uint64_t delay_ns;              /* from a call to the start of its work */
} settings;

typedef struct {
    device_settings set;
    context primary;
    op *heads[QUEUES_MAX];
    op *tails[QUEUES_MAX];
    uint64_t passes;                /* looks at all queues */
    unsigned settlers;              /* who waits for more of them */
    double busy_sms;
    uint64_t used_bytes;
    uint64_t arena;                 /* addresses of its memory */
    uint64_t arena_bytes;
    uint64_t next_address;
    pool *default_pool;
    pool *current_pool;
} device;

enum op_kind { OP_COPY, OP_FILL, OP_EVENT, OP_WAIT_EVENT, OP_HOST, OP_WRITE, OP_WAIT, OP_FREE, OP_LAUNCH };

typedef struct {
    stream *stream;
    uint64_t ticket;
} point;

struct op {
    enum op_kind kind;
    stream *stream;
    context *context;
    uint64_t ticket;
    uint64_t issued_ns;
    op *next;
    point *after;               /* work of other streams that comes first */
    unsigned after_count;
    int started, stalled, corrupt, needs_sm;
    uint64_t to, from;
    size_t bytes;
    uint32_t pattern, pattern_bytes;
    event *event;
    void (*call)(void *);
    void *argument;
    uint64_t value;
    unsigned flags, wide;
    function *function;
    uint32_t grid[3], block[3], shared_bytes, blocks, next_block, cooperative;
    unsigned char *parameters;
    uint32_t resident;
    double sms;
    launch_request request;
};

/* calls.c: the way in and out of every entry point, the trace and the faults */
enum { UNINITIALIZED = 1, IN_CONTEXT = 2, DEAD_TOO = 4 };
enum { FAULT_ERROR = 0, FAULT_STALL = 1, FAULT_STALL_WORK = 2, FAULT_CORRUPT = 3 };

typedef struct {
    const char *name;
    context *context;
    unsigned stall_work, corrupt;
    uint64_t entry;
} call;

CUresult begin(call *here, const char *name, unsigned flags);
CUresult end(call *here, CUresult result);
void problem(const char *format, ...) __attribute__((format(printf, 1, 2)));
int may_run_beside_kernels(const char *name);
CUresult wait_for_kernels(call *here, context *of, unsigned hazard);
void calls_reset(void);
int is_sticky(int code);
int fault_released(unsigned number);

#define ENTER(name, flags)                               \
    call here;                                           \
    CUresult refused = begin(&here, (name), (flags));    \
    if (refused) return refused
#define LEAVE(result) return end(&here, (result))
#define REQUIRE(condition, code) \
    do {                         \
        if (!(condition)) LEAVE(code); \
    } while (0)

/* control.c: devices are plugged in and out */
extern settings set;
extern device devices[DEVICES_MAX];
extern callbacks python;
extern int plugged, initialized, stopping;
void lock_all(void);
void unlock_all(void);
int wait_change(uint64_t until_ns); /* 0 when the time is up */
void changed_all(void);
void note_leaks(const context *of, const char *how);
uint64_t now_ns(void);
uint64_t this_thread(void);
device *device_of(CUdevice ordinal);

/* objects.c */
object *object_new(int kind, size_t bytes, context *owner);
void *object_get(handle of, int kind);
void object_end(object *of);
object *objects_newest(void);
void objects_reset(void);

/* contexts.c */
context *current_context(void);
void context_kill(context *of, int code);
void context_open(context *of, int ordinal);
void context_destroy(context *of);
void threads_reset(void);

/* captures.c */
int spoils_capture(const char *name);
int is_captured(const stream *of);
void captures_reset(void);

/* memory.c */
piece *piece_at(uint64_t address);
piece *piece_over(uint64_t address, size_t bytes);
int is_claimed(uint64_t address, size_t bytes);
piece *piece_add(enum piece_kind kind, uint64_t begin, size_t bytes, context *owner);
void piece_remove(piece *of);
piece *pieces_first(void);
int reachable(int ordinal, const piece *of);
void memory_open(int ordinal);
void memory_close(void);
void memory_changed(void);
pool *pool_new(int ordinal, int is_default);

/* queues.c */
stream *stream_get(call *here, handle of);
stream *stream_new(context *owner, unsigned flags, int priority);
op *op_new(call *here, enum op_kind kind, stream *on);
void op_after(op *of, stream *on, uint64_t ticket);
void op_issue(op *of);
CUresult op_await(call *here, stream *on, uint64_t ticket);
int stream_idle(const stream *of);
void queues_start(int ordinal);
void queues_stop(void);

/* libraries.c, functions.c, launches.c */
void launches_reset(void);
int launch_step(op *of); /* 1 when it is over */
CUresult function_of(call *here, handle given, function **into);
CUresult function_load(call *here, function *of);
CUresult module_in(call *here, library *of, context *where, module **into);
CUresult get_function(call *here, module *of, const char *name, function **into);
void library_end(library *of);
void module_end(module *of);
const char *error_name(int code);
