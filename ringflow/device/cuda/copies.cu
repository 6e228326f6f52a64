// A copy within one GPU's memory: what a copy of the driver's does with SMs of its choice, and
// when it likes, this does with those that the ledger has for it.
#include <stdint.h>

// Launch it with any grid. from, to: uint8[size_bytes], at any addresses; they don't overlap.
extern "C" __global__ void __launch_bounds__(256)
    ringflow_copy_bytes(const uint8_t* from, uint8_t* to, uint64_t size_bytes) {
    const uint64_t first = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x;
    const uint64_t step = gridDim.x * static_cast<uint64_t>(blockDim.x);
    uint64_t copied = 0;
    if ((reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to)) % 16 == 0) {
        const ulonglong2* wide_from = reinterpret_cast<const ulonglong2*>(from);
        ulonglong2* wide_to = reinterpret_cast<ulonglong2*>(to);
        for (uint64_t i = first; i < size_bytes / 16; i += step) wide_to[i] = wide_from[i];
        copied = size_bytes / 16 * 16;
    }
    for (uint64_t i = copied + first; i < size_bytes; i += step) to[i] = from[i];
}
