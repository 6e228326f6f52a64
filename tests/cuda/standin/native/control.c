/* Plugging devices in and out, the one lock, and what Python is told. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "standin.h"

settings set;
device devices[DEVICES_MAX];
callbacks python;
int plugged, initialized, stopping;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void prepare(void) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attributes);
}

void lock_all(void) {
    pthread_once(&once, prepare);
    pthread_mutex_lock(&lock);
}

void unlock_all(void) { pthread_mutex_unlock(&lock); }

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t this_thread(void) { return (uint64_t)pthread_self(); }

int wait_change(uint64_t until_ns) {
    struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    return pthread_cond_timedwait(&changed, &lock, &until) == 0 || now_ns() < until_ns;
}

void changed_all(void) { pthread_cond_broadcast(&changed); }

device *device_of(CUdevice ordinal) {
    return plugged && ordinal >= 0 && ordinal < set.device_count ? &devices[ordinal] : 0;
}

EXPORT int standin_plug(const settings *given, const device_settings *of, const callbacks *calls) {
    lock_all();
    if (plugged || given->device_count > DEVICES_MAX) {
        unlock_all();
        return 1;
    }
    set = *given;
    python = *calls;
    calls_reset();
    launches_reset();
    stopping = initialized = 0;
    plugged = 1;
    for (int i = 0; i < set.device_count; ++i) {
        memset(&devices[i], 0, sizeof devices[i]);
        devices[i].set = of[i];
        memory_open(i);
        context_open(&devices[i].primary, i);
        queues_start(i);
    }
    unlock_all();
    return 0;
}

static const char *const KINDS[] = {"", "context", "stream", "event", "library", "module",
                                    "function", "kernel", "memory pool"};
static const char *const PIECES[] = {"", "device memory", "pool memory", "", "pinned memory",
                                     "registered memory"};

/* Note as problems what lives although its context ends; how it ends is `how`. */
void note_leaks(const context *of, const char *how) {
    int ordinal = of->ordinal;
    for (const piece *each = pieces_first(); each; each = each->next)
        if (each->context == of && each->kind != PIECE_GLOBAL)
            problem("leak on cuda:%d: %zu bytes of %s at %#llx (number %llu), %s", ordinal,
                    each->bytes, PIECES[each->kind], (unsigned long long)each->begin,
                    (unsigned long long)each->number, how);
    for (const object *each = objects_newest(); each; each = each->older) {
        if (!each->alive || each->owner != of) continue;
        if (each->kind == POOL && ((const pool *)each)->is_default) continue;
        if (each->kind == STREAM && of->null_stream == (const stream *)each) continue;
        if (each->kind == MODULE && ((const module *)each)->library) continue;
        if (each->kind == CONTEXT || each->kind == FUNCTION || each->kind == KERNEL) continue;
        problem("leak on cuda:%d: %s number %llu, %s", ordinal, KINDS[each->kind],
                (unsigned long long)each->number, how);
    }
}

/* Whether a library's context died, so that it could not be unloaded. */
static int is_spoiled(const library *of) {
    for (int i = 0; i < set.device_count; ++i)
        if (of->modules[i] && devices[i].primary.dead) return 1;
    return of->spoiled;
}

static void note_rest(void) {
    for (int i = 0; i < set.device_count; ++i) {
        context *of = &devices[i].primary;
        if (of->live && !of->dead) problem("%d kernels still live on cuda:%d", of->live, i);
        if (of->retained)
            problem("leak on cuda:%d: its primary context is retained %d times", i, of->retained);
        if (of->retained && !of->dead) note_leaks(of, "never given back");
    }
    for (const object *each = objects_newest(); each; each = each->older)
        if (each->kind == LIBRARY && each->alive && !is_spoiled((const library *)each))
            problem("leak: library number %llu, never unloaded", (unsigned long long)each->number);
}

/* Take all devices out; problems stay to be read until the next `standin_plug`. */
EXPORT void standin_unplug(void) {
    lock_all();
    if (plugged) {
        note_rest();
        for (int i = 0; i < set.device_count; ++i) context_kill(&devices[i].primary, 999);
        stopping = 1;
        changed_all();
        queues_stop();
        plugged = initialized = 0;
        for (object *each = objects_newest(); each; each = each->older)
            if (each->kind == LIBRARY && each->alive) library_end((library *)each);
        memory_close();
        objects_reset();
        threads_reset();
        captures_reset();
        changed_all();
    }
    unlock_all();
}

/* End a device's context with a sticky error, as a GPU that is lost does. */
EXPORT void standin_kill(int ordinal, int code) {
    lock_all();
    device *of = device_of(ordinal);
    if (of) context_kill(&of->primary, code);
    unlock_all();
}

EXPORT int standin_live(int ordinal) {
    lock_all();
    device *of = device_of(ordinal);
    int live = of ? of->primary.live : 0;
    unlock_all();
    return live;
}

EXPORT void standin_set_hazards(uint32_t hazards) {
    lock_all();
    set.hazards = hazards;
    changed_all();
    unlock_all();
}

static CUresult not_found(const void **table, const CUuuid *id) {
    (void)id;
    *table = 0;
    return NOT_FOUND;
}

EXPORT CUresult cuGetExportTable(const void **table, const CUuuid *id) { return not_found(table, id); }
