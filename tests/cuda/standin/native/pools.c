/* Memory pools: their access is set on the pool, `cuCtxEnablePeerAccess` does nothing for them. */
#include "standin.h"

enum { RELEASE_THRESHOLD = 4, RESERVED_CURRENT = 5, RESERVED_HIGH = 6, USED_CURRENT = 7, USED_HIGH = 8 };

pool *pool_new(int ordinal, int is_default) {
    pool *of = (pool *)object_new(POOL, sizeof *of, &devices[ordinal].primary);
    of->ordinal = ordinal;
    of->is_default = is_default;
    return of;
}

static CUresult get_pool(handle *into, CUdevice ordinal, const char *name, int is_default) {
    ENTER(name, 0);
    device *of = device_of(ordinal);
    REQUIRE(of, INVALID_DEVICE);
    *into = is_default ? of->default_pool : of->current_pool;
    LEAVE(SUCCESS);
}

CUresult cuDeviceGetDefaultMemPool(handle *into, CUdevice ordinal) {
    return get_pool(into, ordinal, "cuDeviceGetDefaultMemPool", 1);
}

CUresult cuDeviceGetMemPool(handle *into, CUdevice ordinal) {
    return get_pool(into, ordinal, "cuDeviceGetMemPool", 0);
}

CUresult cuDeviceSetMemPool(CUdevice ordinal, handle given) {
    ENTER("cuDeviceSetMemPool", 0);
    device *of = device_of(ordinal);
    pool *chosen = object_get(given, POOL);
    REQUIRE(of, INVALID_DEVICE);
    REQUIRE(chosen && chosen->ordinal == ordinal, INVALID_VALUE);
    of->current_pool = chosen;
    LEAVE(SUCCESS);
}

CUresult cuMemPoolCreate(handle *into, const CUmemPoolProps *properties) {
    ENTER("cuMemPoolCreate", 0);
    REQUIRE(into && properties && properties->location.type == LOCATION_DEVICE, INVALID_VALUE);
    REQUIRE(device_of(properties->location.id), INVALID_DEVICE);
    *into = pool_new(properties->location.id, 0);
    LEAVE(SUCCESS);
}

CUresult cuMemPoolDestroy(handle given) {
    ENTER("cuMemPoolDestroy", 0);
    pool *of = object_get(given, POOL);
    REQUIRE(of && !of->is_default, INVALID_VALUE);
    CUresult result = wait_for_kernels(&here, of->base.owner, HAZARD_FREE);
    if (result) LEAVE(result);
    device *its = &devices[of->ordinal];
    if (its->current_pool == of) its->current_pool = its->default_pool;
    object_end(&of->base);
    LEAVE(SUCCESS);
}

CUresult cuMemPoolSetAccess(handle given, const CUmemAccessDesc *map, size_t count) {
    ENTER("cuMemPoolSetAccess", 0);
    pool *of = object_get(given, POOL);
    REQUIRE(of && (map || !count), INVALID_VALUE);
    for (size_t i = 0; i < count; ++i) {
        int peer = map[i].location.id;
        REQUIRE(map[i].location.type == LOCATION_DEVICE && device_of(peer), INVALID_DEVICE);
        REQUIRE(peer == of->ordinal || devices[peer].set.access[of->ordinal], INVALID_DEVICE);
    }
    for (size_t i = 0; i < count; ++i) {
        CUresult result = wait_for_kernels(&here, &devices[map[i].location.id].primary, HAZARD_LIMITS);
        if (!result) result = wait_for_kernels(&here, of->base.owner, HAZARD_LIMITS);
        if (result) LEAVE(result);
        of->access[map[i].location.id] = map[i].flags;
    }
    memory_changed();
    LEAVE(SUCCESS);
}

CUresult cuMemPoolGetAccess(int *into, handle given, CUmemLocation *at) {
    ENTER("cuMemPoolGetAccess", 0);
    pool *of = object_get(given, POOL);
    REQUIRE(of && at->type == LOCATION_DEVICE && device_of(at->id), INVALID_VALUE);
    *into = at->id == of->ordinal ? ACCESS_READWRITE : of->access[at->id];
    LEAVE(SUCCESS);
}

CUresult cuMemPoolSetAttribute(handle given, int attribute, void *value) {
    ENTER("cuMemPoolSetAttribute", 0);
    pool *of = object_get(given, POOL);
    REQUIRE(of, INVALID_VALUE);
    if (attribute == RELEASE_THRESHOLD) of->threshold = *(uint64_t *)value;
    if (attribute == USED_HIGH) of->used_high_bytes = of->used_bytes;
    LEAVE(SUCCESS);
}

CUresult cuMemPoolGetAttribute(handle given, int attribute, void *into) {
    ENTER("cuMemPoolGetAttribute", 0);
    pool *of = object_get(given, POOL);
    REQUIRE(of && into, INVALID_VALUE);
    switch (attribute) {
    case RELEASE_THRESHOLD: *(uint64_t *)into = of->threshold; break;
    case RESERVED_CURRENT:
    case USED_CURRENT: *(uint64_t *)into = of->used_bytes; break;
    case RESERVED_HIGH:
    case USED_HIGH: *(uint64_t *)into = of->used_high_bytes; break;
    default: *(int *)into = attribute < RELEASE_THRESHOLD; break;
    }
    LEAVE(SUCCESS);
}

CUresult cuMemPoolTrimTo(handle given, size_t bytes) {
    ENTER("cuMemPoolTrimTo", 0);
    (void)bytes;
    pool *of = object_get(given, POOL);
    REQUIRE(of, INVALID_VALUE);
    CUresult result = wait_for_kernels(&here, of->base.owner, HAZARD_FREE);
    LEAVE(result);
}
