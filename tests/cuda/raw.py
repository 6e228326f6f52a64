"""Raw ``cuda.bindings`` calls for the tests of the stand-in, and kernels to make them with."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cuda.bindings import driver

from ringflow.device.compiler.api import CompileTarget, compile_source
from ringflow.device.compiler.cache import CompileCache

SOURCE = """
extern "C" __global__ void scale(float* values, float factor, unsigned length) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < length) values[i] *= factor;
}
__device__ unsigned counter;
extern "C" __global__ void spin(volatile unsigned* stop, unsigned* out) {
    stop[1] = 1;
    while (!*stop) __nanosleep(1000);
    if (threadIdx.x == 0) { *out = 7; counter = 3; }
}
extern "C" __global__ void put(unsigned* to, unsigned value) { *to = value; }
extern "C" __global__ void number(unsigned* order) {
    atomicAdd(order + blockIdx.x, blockIdx.x + 1);
}
extern "C" __global__ void meet(unsigned* arrived) {
    if (threadIdx.x == 0) {
        atomicAdd(arrived, 1);
        while (*(volatile unsigned*)arrived < gridDim.x) __nanosleep(1000);
    }
}
extern "C" __global__ void late(unsigned* volatile* where, unsigned value) {
    while (!*where) __nanosleep(1000);
    **where = value;
}
extern "C" __global__ void stray() { __trap(); }
extern "C" __global__ void deep(unsigned* to, unsigned at) {
    volatile unsigned local[1024];
    local[at] = at;
    *to = local[at];
}
"""
PRINTING = """
extern "C" int printf(const char*, ...);
extern "C" __global__ void tell(unsigned value) { printf("value %u\\n", value); }
"""
KERNELS = ("scale", "spin", "put", "number", "meet", "late", "stray")
Pointer, Float, Word = ctypes.c_void_p, ctypes.c_float, ctypes.c_uint32
NON_BLOCKING = 1
READ_WRITE = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE


def ask(name: str, *arguments: Any) -> Any:
    """Make a call that has to work; return its value."""
    code, *values = getattr(driver, name)(*arguments)
    assert code == 0, f"{name}: {code!r}"
    return values[0] if len(values) == 1 else tuple(values)


def code_of(name: str, *arguments: Any) -> int:
    """Make a call; return its result's number."""
    return int(getattr(driver, name)(*arguments)[0])


@functools.cache
def cubin(source: str = SOURCE, entry_point: str = "scale") -> bytes:
    """Return NVRTC's code; the stand-in runs clang's of the same source."""
    target = CompileTarget("sm_90")
    cache = CompileCache.default()
    return compile_source(source, entry_point=entry_point, target=target, cache=cache).code


def load(code: bytes) -> Any:
    return ask("cuLibraryLoadData", code, [], [], 0, [], [], 0)


class Gpu:
    """A device's context, current in the thread, with streams, pinned words and memory."""

    def __init__(self, ordinal: int = 0, *, preload: bool = True) -> None:
        """Open the device; ``preload`` loads each kernel, before one that runs forbids it."""
        ask("cuInit", 0)
        self.device = ask("cuDeviceGet", ordinal)
        self.context = ask("cuDevicePrimaryCtxRetain", self.device)
        ask("cuCtxPushCurrent", self.context)
        self.library = load(cubin())
        for name in KERNELS if preload else ():
            ask("cuFuncLoad", self.function(name))
        self.stream, self.copies = (ask("cuStreamCreate", NON_BLOCKING) for _ in range(2))
        self.pinned = int(ask("cuMemHostAlloc", 4096, 3))
        self.words = (Word * 1024).from_address(self.pinned)
        ctypes.memset(self.pinned, 0, 4096)
        self.memory = int(ask("cuMemAlloc", 4096))

    def function(self, name: str) -> Any:
        return ask("cuKernelGetFunction", ask("cuLibraryGetKernel", self.library, name.encode()))

    def launch(
        self,
        name: str,
        *arguments: tuple[Any, Any],
        blocks: int = 1,
        threads: int = 32,
        stream: Any = None,
        cooperative: bool = False,
    ) -> int:
        """Launch a kernel with (value, type) pairs; return the call's result."""
        given = (tuple(value for value, _ in arguments), tuple(kind for _, kind in arguments))
        call = "cuLaunchCooperativeKernel" if cooperative else "cuLaunchKernel"
        shape = (blocks, 1, 1, threads, 1, 1, 0)
        on = self.stream if stream is None else stream
        rest = () if cooperative else (0,)
        return code_of(call, self.function(name), *shape, on, given if arguments else 0, *rest)

    def spin(self, **shape: Any) -> None:
        """Launch the kernel that runs until the first pinned word is set; return when it runs."""
        self.words[1] = 0
        assert not self.launch("spin", (self.pinned, Pointer), (self.memory, Pointer), **shape)
        while not self.words[1]:
            assert code_of("cuMemGetInfo") == 0

    def stop(self) -> None:
        """Let the kernel that spins return, and wait until it has."""
        self.words[0] = 1
        ask("cuStreamSynchronize", self.stream)
        self.words[0] = 0

    def read(self, address: int, count: int = 1) -> list[int]:
        """Return words of device memory, read through the pinned ones."""
        ask("cuMemcpyDtoHAsync", self.pinned + 2048, address, 4 * count, self.copies)
        ask("cuStreamSynchronize", self.copies)
        return self.words[512 : 512 + count]

    def write(self, address: int, *values: int) -> None:
        self.words[512 : 512 + len(values)] = list(values)
        ask("cuMemcpyHtoDAsync", address, self.pinned + 2048, 4 * len(values), self.copies)
        ask("cuStreamSynchronize", self.copies)

    def close(self) -> None:
        """Give everything back."""
        ask("cuCtxSetCurrent", self.context)
        ask("cuMemFree", self.memory)
        ask("cuMemFreeHost", self.pinned)
        ask("cuStreamDestroy", self.stream)
        ask("cuStreamDestroy", self.copies)
        ask("cuLibraryUnload", self.library)
        self.release()

    def release(self) -> None:
        """Give the context back, and with it what it had."""
        ask("cuCtxPopCurrent")
        ask("cuDevicePrimaryCtxRelease", self.device)


@contextmanager
def gpu(ordinal: int = 0, *, preload: bool = True) -> Iterator[Gpu]:
    """A device, given back at the end of the block."""
    made = Gpu(ordinal, preload=preload)
    yield made
    made.close()
