"""The stand-in driver, through raw ``cuda.bindings``: it keeps the driver's rules, and can fail."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from cuda.bindings import driver

from ringflow.device.compiler.api import CompileTarget, compile_source
from tests.cuda.standin import Standin, plug

SOURCE = """
extern "C" __global__ void scale(float* values, float factor, unsigned length) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < length) values[i] *= factor;
}
__device__ unsigned counter;
extern "C" __global__ void spin(volatile unsigned* stop, unsigned* out) {
    while (!*stop) __nanosleep(1000);
    if (threadIdx.x == 0) { *out = 7; counter = 3; }
}
"""
Pointer = ctypes.c_void_p


def ask(name: str, *arguments: Any) -> Any:
    """Make a call that has to work; return its value."""
    code, *values = getattr(driver, name)(*arguments)
    assert code == 0, f"{name}: {code!r}"
    return values[0] if len(values) == 1 else tuple(values)


def code_of(name: str, *arguments: Any) -> int:
    """Make a call; return its result's number."""
    return int(getattr(driver, name)(*arguments)[0])


class Gpu:
    """A device's context, with a stream, pinned words, memory and the kernels."""

    def __init__(self, ordinal: int = 0) -> None:
        ask("cuInit", 0)
        self.device = ask("cuDeviceGet", ordinal)
        self.context = ask("cuDevicePrimaryCtxRetain", self.device)
        ask("cuCtxPushCurrent", self.context)
        cubin = compile_source(
            SOURCE, entry_point="scale", target=CompileTarget("sm_90"), cache=None
        ).code
        self.library = ask("cuLibraryLoadData", cubin, [], [], 0, [], [], 0)
        self.functions = {
            name: ask("cuKernelGetFunction", ask("cuLibraryGetKernel", self.library, name))
            for name in (b"scale", b"spin")
        }
        self.stream, self.copies = (ask("cuStreamCreate", 1) for _ in range(2))
        self.pinned = int(ask("cuMemHostAlloc", 4096, 3))
        self.words = (ctypes.c_uint32 * 1024).from_address(self.pinned)
        ctypes.memset(self.pinned, 0, 4096)
        self.memory = int(ask("cuMemAlloc", 4096))

    def spin(self, *, blocks: int = 1, threads: int = 32, stream: Any = None) -> None:
        """Launch the kernel that runs until the first pinned word is set."""
        ask(
            "cuLaunchKernel",
            *(self.functions[b"spin"], blocks, 1, 1, threads, 1, 1, 0, stream or self.stream),
            *(((self.pinned, self.memory), (Pointer, Pointer)), 0),
        )

    def stop(self) -> None:
        self.words[0] = 1
        ask("cuStreamSynchronize", self.stream)
        self.words[0] = 0

    def close(self) -> None:
        ask("cuMemFree", self.memory)
        ask("cuMemFreeHost", self.pinned)
        ask("cuStreamDestroy", self.stream)
        ask("cuStreamDestroy", self.copies)
        ask("cuLibraryUnload", self.library)
        ask("cuCtxPopCurrent")
        ask("cuDevicePrimaryCtxRelease", self.device)


@contextmanager
def gpu(ordinal: int = 0) -> Iterator[Gpu]:
    made = Gpu(ordinal)
    yield made
    made.close()


def test_no_device_until_one_is_plugged_in() -> None:
    """Every test but those that plug one in is on a machine without a GPU."""
    assert code_of("cuInit", 0) == 100
    with plug(1):
        ask("cuInit", 0)
        assert ask("cuDeviceGetCount") == 1
    assert code_of("cuInit", 0) == 100
    assert code_of("cuDeviceGetCount") == 3


def test_a_grid_runs_the_kernel_that_the_cubin_was_made_from(gpus: Standin) -> None:
    """clang's PTX of the same source, between the copies before and after it on its stream."""
    with gpu() as one:
        values = np.ctypeslib.as_array(one.words).view(np.float32)
        values[:] = np.arange(1024)
        ask("cuMemcpyHtoDAsync", one.memory, one.pinned, 4096, one.stream)
        arguments = ((one.memory, 2.0, 1000), (Pointer, ctypes.c_float, ctypes.c_uint32))
        scale = one.functions[b"scale"]
        ask("cuLaunchKernel", scale, 4, 1, 1, 256, 1, 1, 0, one.stream, arguments, 0)
        ask("cuMemcpyDtoHAsync", one.pinned, one.memory, 4096, one.stream)
        ask("cuStreamSynchronize", one.stream)
        expected = np.arange(1024, dtype=np.float32)
        expected[:1000] *= 2
        assert np.array_equal(values, expected)


def test_a_persistent_kernel_polls_mapped_memory_while_copies_go_on(gpus: Standin) -> None:
    """Its stream is busy until the host's word stops it; another stream is not."""
    with gpu() as one:
        one.spin()
        ask("cuMemcpyHtoDAsync", one.memory + 64, one.pinned + 64, 64, one.copies)
        ask("cuStreamSynchronize", one.copies)
        assert code_of("cuStreamQuery", one.stream) == 600
        assert gpus.live(0) == 1
        one.stop()
        assert gpus.live(0) == 0
        address, size = ask("cuLibraryGetGlobal", one.library, b"counter")
        ask("cuMemcpyDtoHAsync", one.pinned + 8, address, size, one.stream)
        ask("cuStreamSynchronize", one.stream)
        assert one.words[2] == 3
