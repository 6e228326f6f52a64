/* Handles: every object that a call made, so that a stale or foreign handle is an error. */
#include <stdlib.h>

#include "standin.h"

#define BUCKETS 4096

static object *buckets[BUCKETS];
static object *newest;
static uint64_t made;

static unsigned bucket_of(const void *of) { return (unsigned)((uintptr_t)of >> 5) % BUCKETS; }

/* Count a new object in; `bytes` of 0 enter one that lies elsewhere (owner is then itself). */
object *object_new(int kind, size_t bytes, context *owner) {
    object *of = bytes ? calloc(1, bytes) : &owner->base;
    of->kind = kind;
    of->alive = 1;
    of->number = ++made;
    of->owner = owner;
    of->next = buckets[bucket_of(of)];
    buckets[bucket_of(of)] = of;
    of->older = newest;
    newest = of;
    return of;
}

/* Return the living object behind a handle, or null. */
void *object_get(handle of, int kind) {
    for (object *each = buckets[bucket_of(of)]; each; each = each->next)
        if ((void *)each == of) return each->kind == kind && each->alive ? each : 0;
    return 0;
}

void object_end(object *of) { of->alive = 0; }

object *objects_newest(void) { return newest; }

void objects_reset(void) {
    for (object *each = newest; each;) {
        object *older = each->older;
        if (each->kind == LIBRARY) free(((library *)each)->image);
        if (each->kind != CONTEXT) free(each);
        each = older;
    }
    newest = 0;
    for (unsigned i = 0; i < BUCKETS; ++i) buckets[i] = 0;
}
