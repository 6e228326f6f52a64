/* Pinned host memory, which every device's kernels reach, and what pointers say of themselves. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "standin.h"

static CUresult allocate_host(call *here, void **into, size_t bytes, unsigned flags) {
    if (!bytes || !into) return INVALID_VALUE;
    CUresult result = wait_for_kernels(here, here->context, HAZARD_FREE);
    if (result) return result;
    void *at = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return OUT_OF_MEMORY;
    piece_add(PIECE_HOST, (uint64_t)at, bytes, here->context)->flags = flags;
    if (set.fill)
        memset(at, GARBAGE, bytes < GARBAGE_BYTES_MAX ? bytes : GARBAGE_BYTES_MAX);
    *into = at;
    memory_changed();
    return SUCCESS;
}

CUresult cuMemHostAlloc(void **into, size_t bytes, unsigned flags) {
    ENTER("cuMemHostAlloc", IN_CONTEXT);
    REQUIRE(flags < 8, INVALID_VALUE);
    CUresult result = allocate_host(&here, into, bytes, flags);
    LEAVE(result);
}

CUresult cuMemAllocHost(void **into, size_t bytes) {
    ENTER("cuMemAllocHost", IN_CONTEXT);
    CUresult result = allocate_host(&here, into, bytes, 0);
    LEAVE(result);
}

CUresult cuMemFreeHost(void *address) {
    ENTER("cuMemFreeHost", IN_CONTEXT);
    piece *of = piece_at((uint64_t)address);
    REQUIRE(of && of->kind == PIECE_HOST && of->begin == (uint64_t)address, INVALID_VALUE);
    CUresult result = wait_for_kernels(&here, of->context, HAZARD_FREE);
    if (result) LEAVE(result);
    piece_remove(of);
    memory_changed();
    LEAVE(SUCCESS);
}

CUresult cuMemHostRegister(void *address, size_t bytes, unsigned flags) {
    ENTER("cuMemHostRegister", IN_CONTEXT);
    REQUIRE(address && bytes, INVALID_VALUE);
    REQUIRE(!piece_at((uint64_t)address), HOST_MEMORY_ALREADY_REGISTERED);
    CUresult result = wait_for_kernels(&here, here.context, HAZARD_FREE);
    if (result) LEAVE(result);
    piece_add(PIECE_REGISTERED, (uint64_t)address, bytes, here.context)->flags = flags;
    memory_changed();
    LEAVE(SUCCESS);
}

CUresult cuMemHostUnregister(void *address) {
    ENTER("cuMemHostUnregister", IN_CONTEXT);
    piece *of = piece_at((uint64_t)address);
    REQUIRE(of && of->kind == PIECE_REGISTERED, HOST_MEMORY_NOT_REGISTERED);
    CUresult result = wait_for_kernels(&here, here.context, HAZARD_FREE);
    if (result) LEAVE(result);
    piece_remove(of);
    memory_changed();
    LEAVE(SUCCESS);
}

static int is_host(const piece *of) {
    return of && (of->kind == PIECE_HOST || of->kind == PIECE_REGISTERED);
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr *into, void *address, unsigned flags) {
    ENTER("cuMemHostGetDevicePointer", IN_CONTEXT);
    REQUIRE(!flags && is_host(piece_at((uint64_t)address)), INVALID_VALUE);
    *into = (uint64_t)address;
    LEAVE(SUCCESS);
}

CUresult cuMemHostGetFlags(unsigned *into, void *address) {
    ENTER("cuMemHostGetFlags", IN_CONTEXT);
    piece *of = piece_at((uint64_t)address);
    REQUIRE(is_host(of), INVALID_VALUE);
    *into = of->flags;
    LEAVE(SUCCESS);
}

static CUresult attribute_of(void *into, int attribute, uint64_t address, const piece *of) {
    switch (attribute) {
    case POINTER_CONTEXT: *(handle *)into = of->context; break;
    case POINTER_MEMORY_TYPE:
        *(unsigned *)into = is_host(of) ? MEMORYTYPE_HOST : MEMORYTYPE_DEVICE;
        break;
    case POINTER_DEVICE_POINTER: *(CUdeviceptr *)into = address; break;
    case POINTER_HOST_POINTER:
        if (!is_host(of)) return INVALID_VALUE;
        *(uint64_t *)into = address;
        break;
    case POINTER_BUFFER_ID: *(uint64_t *)into = of->number; break;
    case POINTER_SYNC_MEMOPS:
    case POINTER_IS_MANAGED:
    case POINTER_IS_LEGACY_CUDA_IPC_CAPABLE:
    case POINTER_IS_GPU_DIRECT_RDMA_CAPABLE: *(unsigned char *)into = 0; break;
    case POINTER_DEVICE_ORDINAL: *(int *)into = of->ordinal; break;
    case POINTER_RANGE_START_ADDR: *(uint64_t *)into = of->begin; break;
    case POINTER_RANGE_SIZE: *(size_t *)into = of->bytes; break;
    case POINTER_MAPPED: *(unsigned char *)into = 1; break;
    case POINTER_ALLOWED_HANDLE_TYPES: *(uint64_t *)into = 0; break;
    case POINTER_ACCESS_FLAGS: *(unsigned *)into = ACCESS_READWRITE; break;
    case POINTER_MEMPOOL_HANDLE: *(handle *)into = of->pool; break;
    default: return INVALID_VALUE;
    }
    return SUCCESS;
}

CUresult cuPointerGetAttribute(void *into, int attribute, CUdeviceptr address) {
    ENTER("cuPointerGetAttribute", IN_CONTEXT);
    piece *of = piece_at(address);
    REQUIRE(of && into, INVALID_VALUE);
    CUresult result = attribute_of(into, attribute, address, of);
    LEAVE(result);
}

CUresult cuPointerGetAttributes(unsigned count, int *attributes, void **into, CUdeviceptr address) {
    ENTER("cuPointerGetAttributes", IN_CONTEXT);
    static const piece nothing;
    piece *of = piece_at(address);
    for (unsigned i = 0; i < count; ++i) {
        if (of) {
            attribute_of(into[i], attributes[i], address, of);
        } else if (attributes[i] == POINTER_MEMORY_TYPE) {
            *(unsigned *)into[i] = 0;
        } else if (attributes[i] == POINTER_DEVICE_ORDINAL) {
            *(int *)into[i] = -2;
        } else {
            attribute_of(into[i], attributes[i], 0, &nothing);
        }
    }
    LEAVE(SUCCESS);
}
