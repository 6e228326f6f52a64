/* Devices as they show themselves: counts, names, attributes, links. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

/* What the driver reads from the environment when it starts. */
static void heed_environment(void) {
    const char *loading = getenv("CUDA_MODULE_LOADING");
    const char *connections = getenv("CUDA_DEVICE_MAX_CONNECTIONS");
    if (set.eager == 2) set.eager = loading && !strcmp(loading, "EAGER");
    if (set.connections) return;
    int wanted = connections ? atoi(connections) : 0;
    set.connections = wanted < 1 ? 8 : wanted > 32 ? 32 : (unsigned)wanted;
}

/* In a child of a process with devices plugged in, Python plugs in the same kind of devices. */
static void plug_as_parent(void) {
    static int asked;
    const char *code = getenv("RINGFLOW_STANDIN_CHILD");
    int (*ensure)(void) = dlsym(RTLD_DEFAULT, "PyGILState_Ensure");
    void (*leave)(int) = dlsym(RTLD_DEFAULT, "PyGILState_Release");
    int (*run)(const char *) = dlsym(RTLD_DEFAULT, "PyRun_SimpleString");
    if (plugged || asked || !code || !ensure || !leave || !run) return;
    asked = 1;
    int state = ensure();
    run(code);
    leave(state);
}

EXPORT CUresult cuInit(unsigned flags) {
    plug_as_parent();
    ENTER("cuInit", UNINITIALIZED);
    (void)flags;
    REQUIRE(plugged && set.device_count, NO_DEVICE);
    if (!initialized) heed_environment();
    initialized = 1;
    LEAVE(SUCCESS);
}

EXPORT CUresult cuDriverGetVersion(int *into) {
    ENTER("cuDriverGetVersion", UNINITIALIZED);
    *into = plugged ? set.driver_version : 13050;
    LEAVE(SUCCESS);
}

CUresult cuGetErrorName(CUresult code, const char **into) {
    *into = error_name(code);
    return *into ? SUCCESS : INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult code, const char **into) { return cuGetErrorName(code, into); }

CUresult cuDeviceGet(CUdevice *into, int ordinal) {
    ENTER("cuDeviceGet", 0);
    REQUIRE(device_of(ordinal), INVALID_DEVICE);
    *into = ordinal;
    LEAVE(SUCCESS);
}

CUresult cuDeviceGetCount(int *into) {
    ENTER("cuDeviceGetCount", 0);
    *into = set.device_count;
    LEAVE(SUCCESS);
}

CUresult cuDeviceGetName(char *into, int bytes, CUdevice ordinal) {
    ENTER("cuDeviceGetName", 0);
    REQUIRE(device_of(ordinal), INVALID_DEVICE);
    snprintf(into, (size_t)bytes, "%s", devices[ordinal].set.name);
    LEAVE(SUCCESS);
}

CUresult cuDeviceGetUuid(CUuuid *into, CUdevice ordinal) {
    ENTER("cuDeviceGetUuid", 0);
    REQUIRE(device_of(ordinal), INVALID_DEVICE);
    *into = devices[ordinal].set.uuid;
    LEAVE(SUCCESS);
}

CUresult cuDeviceTotalMem(size_t *into, CUdevice ordinal) {
    ENTER("cuDeviceTotalMem", 0);
    REQUIRE(device_of(ordinal), INVALID_DEVICE);
    *into = devices[ordinal].set.memory_bytes;
    LEAVE(SUCCESS);
}

CUresult cuDeviceGetAttribute(int *into, int attribute, CUdevice ordinal) {
    ENTER("cuDeviceGetAttribute", 0);
    REQUIRE(device_of(ordinal), INVALID_DEVICE);
    REQUIRE(attribute > 0 && attribute < ATTRIBUTES_MAX, INVALID_VALUE);
    *into = devices[ordinal].set.attributes[attribute];
    LEAVE(SUCCESS);
}

CUresult cuDeviceGetPCIBusId(char *into, int bytes, CUdevice ordinal) {
    ENTER("cuDeviceGetPCIBusId", 0);
    REQUIRE(device_of(ordinal), INVALID_DEVICE);
    snprintf(into, (size_t)bytes, "%s", devices[ordinal].set.bus_id);
    LEAVE(SUCCESS);
}

CUresult cuDeviceGetByPCIBusId(CUdevice *into, const char *name) {
    ENTER("cuDeviceGetByPCIBusId", 0);
    for (int i = 0; i < set.device_count; ++i)
        if (!strcmp(devices[i].set.bus_id, name)) {
            *into = i;
            LEAVE(SUCCESS);
        }
    LEAVE(INVALID_DEVICE);
}

CUresult cuDeviceCanAccessPeer(int *into, CUdevice from, CUdevice to) {
    ENTER("cuDeviceCanAccessPeer", 0);
    REQUIRE(device_of(from) && device_of(to), INVALID_DEVICE);
    *into = from != to && devices[from].set.access[to];
    LEAVE(SUCCESS);
}

CUresult cuDeviceGetP2PAttribute(int *into, int attribute, CUdevice from, CUdevice to) {
    ENTER("cuDeviceGetP2PAttribute", 0);
    REQUIRE(device_of(from) && device_of(to) && from != to, INVALID_DEVICE);
    const device_settings *of = &devices[from].set;
    switch (attribute) {
    case P2P_NATIVE_ATOMIC_SUPPORTED: *into = of->access[to] && of->atomics[to]; break;
    case P2P_ACCESS_SUPPORTED:
    case 4: *into = of->access[to]; break;
    default: LEAVE(INVALID_VALUE);
    }
    LEAVE(SUCCESS);
}
