"""The driver's own calls on one GPU, as a program without ringflow makes them.

All in the GPU's primary context, on a stream of its own that no other stream waits for.
"""

from __future__ import annotations

import ctypes
import time
from types import TracebackType
from typing import Any, Final

from cuda.bindings import driver

from ringflow.device.api import Device
from ringflow.device.compiler.api import compile_source
from ringflow.device.native import native

DEADLINE_S: Final = 60.0
LAST: Final = 0xFFFFFFFF
ANSWER: Final = """
extern "C" __global__ void nothing() {}

// Answers each number that the host writes with the same one; the last one ends it.
extern "C" __global__ void answer(unsigned* asked, unsigned* answered) {
    unsigned seen = 0;
    while (seen != 0xFFFFFFFFu) {
        unsigned now;
        asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(now) : "l"(asked) : "memory");
        if (now == seen) {
            asm volatile("nanosleep.u32 %0;" : : "r"(20));
            continue;
        }
        seen = now;
        asm volatile("st.release.sys.u32 [%0], %1;" : : "l"(answered), "r"(seen) : "memory");
    }
}
"""


def call(name: str, *arguments: Any) -> Any:
    """Call the driver; return what it returns beside its result."""
    result, *values = getattr(driver, name)(*arguments)
    if result != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"{name} failed with {result.name}")
    return values[0] if len(values) == 1 else tuple(values)


class Bare:
    """One GPU's context, a stream, and what was taken there, given back at the end."""

    def __init__(self, ordinal: int) -> None:
        call("cuInit", 0)
        self._device = call("cuDeviceGet", ordinal)
        self.context = call("cuDevicePrimaryCtxRetain", self._device)
        self.enter()
        self._stream = call("cuStreamCreate", driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._taken: list[tuple[str, Any]] = []

    def __enter__(self) -> Bare:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.enter()
        while self._taken:
            call(*self._taken.pop())
        call("cuStreamDestroy", self._stream)
        call("cuDevicePrimaryCtxRelease", self._device)

    def enter(self) -> None:
        """Make the context this thread's."""
        call("cuCtxSetCurrent", self.context)

    def allocate(self, size_bytes: int) -> int:
        pointer = call("cuMemAlloc", size_bytes)
        self._taken.append(("cuMemFree", pointer))
        return int(pointer)

    def pinned(self, size_bytes: int) -> int:
        """Take host memory that kernels see under the same address."""
        flags = driver.CU_MEMHOSTALLOC_DEVICEMAP | driver.CU_MEMHOSTALLOC_PORTABLE
        pointer = call("cuMemHostAlloc", size_bytes, flags)
        self._taken.append(("cuMemFreeHost", pointer))
        return int(pointer)

    def function(self, device: Device, name: str) -> Any:
        """Load one of the kernels of ``ANSWER``, compiled for the device."""
        code = compile_source(ANSWER, entry_point=name, target=device.target, cache=None).code
        module = call("cuModuleLoadData", code)
        self._taken.append(("cuModuleUnload", module))
        return call("cuModuleGetFunction", module, name.encode())

    def launch(self, function: Any, *addresses: int) -> None:
        """Launch one block of 32 threads."""
        parameters: Any = 0
        if addresses:
            parameters = (addresses, (ctypes.c_void_p,) * len(addresses))
        call("cuLaunchKernel", function, *(1, 1, 1), *(32, 1, 1), 0, self._stream, parameters, 0)

    def wait(self) -> None:
        """Wait until the stream is empty, asking again and again."""
        end_s = time.monotonic() + DEADLINE_S
        while (result := driver.cuStreamQuery(self._stream)[0]) != driver.CUresult.CUDA_SUCCESS:
            assert result == driver.CUresult.CUDA_ERROR_NOT_READY, result
            assert time.monotonic() < end_s, "the stream does not end"

    def copy_in(self, target: int, host: int, size_bytes: int) -> None:
        call("cuMemcpyHtoDAsync", target, host, size_bytes, self._stream)
        self.wait()

    def copy_out(self, host: int, source: int, size_bytes: int) -> None:
        call("cuMemcpyDtoHAsync", host, source, size_bytes, self._stream)
        self.wait()

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """Copy within the GPU."""
        call("cuMemcpyDtoDAsync", target, source, size_bytes, self._stream)
        self.wait()

    def copy_to(self, peer: Bare, target: int, source: int, size_bytes: int) -> None:
        """Copy to another GPU."""
        places = (target, peer.context, source, self.context)
        call("cuMemcpyPeerAsync", *places, size_bytes, self._stream)
        self.wait()


class Answering:
    """A kernel that answers through mapped memory and does nothing else."""

    def __init__(self, bare: Bare, device: Device) -> None:
        self._bare, self._native = bare, native()
        self._asked = bare.pinned(256)
        self._answered = self._asked + 128
        ctypes.memset(self._asked, 0, 256)
        self._number = 0
        bare.launch(bare.function(device, "answer"), self._asked, self._answered)

    def trip(self, number: int | None = None) -> float:
        """Ask and wait for the answer; return the seconds."""
        self._number = self._number + 1 if number is None else number
        asked, answered, number = self._asked, self._answered, self._number
        load, end_s = self._native.load_u32, time.monotonic() + DEADLINE_S
        start = time.perf_counter()
        self._native.store_u32(asked, number)
        while load(answered) != number:
            assert time.monotonic() < end_s, "the kernel does not answer"
        return time.perf_counter() - start

    def end(self) -> None:
        self.trip(LAST)
        self._bare.wait()
