"""Test kernels on devices of the stand-in: launched, asked, ended."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

from ringflow.device.abi import Command
from ringflow.device.api import Allocation, Device, Launch, LaunchStatus
from ringflow.device.compiler.api import CompiledCode, compile_source
from ringflow.device.compiler.api import CompileTarget as Target
from ringflow.device.cuda.device import CudaDevice
from ringflow.device.posting import Posting
from ringflow.device.pump import Pump
from ringflow.device.resident import ResidentKernel
from tests.device.kernels import resident

DEADLINE_S = 30.0
MEMORY_BYTES, MAPPED_BYTES = 16 << 20, 16 << 20
ECHO, TRAP, _, _, _, _, LATCH = range(1, 8)
"""Messages of ``trouble``: answer, trap, and wait until its word 2 is set."""
PLAIN = """
__device__ unsigned calls;
extern "C" __global__ void wait_for(volatile unsigned* word, unsigned* out) {
    while (!*word) __nanosleep(1000);
    if (threadIdx.x == 0 && blockIdx.x == 0) *out = 7;
}
extern "C" __global__ void says(unsigned* out) { printf("%u\\n", *out); *out = 1; }
extern "C" __global__ void count(unsigned* out) { *out = ++calls; }
extern "C" __global__ void hungry(unsigned* out, unsigned at) {
    volatile unsigned own[1024];
    for (unsigned i = 0; i < 1024; ++i) own[i] = i + at;
    *out = own[at % 1024];
}
"""


def until(reached: Callable[[], object]) -> None:
    """Look again and again at what no event tells of; fails after a deadline."""
    ends_at_s = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < ends_at_s, "it never came"
        time.sleep(0.001)


def opened(name: str = "cuda:0", **options: Any) -> CudaDevice:
    """Open a device with little memory, so that it takes no time."""
    return CudaDevice(
        name,
        **{"memory_limit_bytes": MEMORY_BYTES, "mapped_limit_bytes": MAPPED_BYTES, **options},
    )


def launched(device: Device, name: str, **options: Any) -> ResidentKernel:
    """Return a launched test kernel."""
    kernel = resident(device, name, **options)
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    return kernel


_sequences = itertools.count(1)


def post(kernel: ResidentKernel, type: int, payload: bytes = b"") -> None:
    assert kernel.post([Posting(next(_sequences), type, payload)]) == 1


def answer(kernel: ResidentKernel, payload: bytes = b"abcd") -> bytes:
    """Send a message and return the reply, as the pump finds it."""
    pump = Pump()
    key = pump.register(kernel)
    try:
        post(kernel, ECHO, payload)
        ends_at_s = time.monotonic() + DEADLINE_S / 2
        while time.monotonic() < ends_at_s:  # a wait that nothing ends lasts longer
            for report in pump.wait(DEADLINE_S):
                if report.outputs and time.monotonic() < ends_at_s:
                    return report.outputs[0].payload
    finally:
        pump.unregister(key)
    raise AssertionError("no answer came")


def end(*kernels: ResidentKernel) -> None:
    """Let kernels return, and give all back."""
    for kernel in kernels:
        kernel.command(Command.RETURN)
        assert kernel.wait_ended(DEADLINE_S) is LaunchStatus.COMPLETED
        kernel.close()
        kernel.device.unload(kernel.code)


@functools.cache
def plain(target: str = "sm_90") -> CompiledCode:
    return compile_source(PLAIN, entry_point="count", target=Target(target), cache=None)


def plain_launch(device: CudaDevice, code: Any, *allocations: Allocation, **shape: Any) -> Launch:
    """Launch ``wait_for``, or another of the plain kernels, with pointers as its parameters."""
    options = {"grid": (1, 1, 1), "block": (32, 1, 1), "entry_point": "wait_for", **shape}
    parameters = tuple(one.address.to_bytes(8, "little") for one in allocations)
    return device.launch(code, options.pop("entry_point"), parameters=parameters, **options)
