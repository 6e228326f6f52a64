"""Endless loops: they give way, end at their deadline, and cost their neighbours a turn only."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from ringflow.device.abi import Command
from ringflow.device.api import Allocation, LaunchStatus
from ringflow.device.compiler.api import compile_source
from ringflow.device.host.device import HostDevice
from ringflow.device.host.launch import HostLaunch
from ringflow.device.host.pool import shared_pool
from ringflow.device.posting import Posting
from ringflow.errors import KernelStalledError
from tests.device.kernels import resident

DEADLINE_S = 20.0
SHORT_S = 0.05
ECHO, SPIN = 1, 3

LOOPS = {
    "nothing in it": "while (1);",
    "arithmetic": "unsigned x = a[i]; for (;;) { x = x * 3 + 1; if (!n) break; } a[i] = x;",
    "memory": "for (;;) a[i] = a[(i + 1) % 32] + 1;",
    "volatile memory": "while (*(volatile unsigned*)&a[1] != 9) a[0] += 1;",
    "atomics": "for (;;) atomicAdd(&a[0], 1u);",
    "nested": "for (unsigned j = 0;; ++j) for (unsigned k = 0; k < j; ++k) a[i] += k;",
    "endless within a finite one": "for (int j = 0; j < 4; ++j) while (n) a[i] = a[i] * 3 + j;",
    "one thread only": "if (i == 5) for (;;) a[i] += 1; __syncthreads(); a[i] = 1;",
    "barriers": "for (;;) { a[i] += 1; __syncthreads(); }",
    "shuffles": "unsigned x = i; for (;;) { x = __shfl_xor_sync(~0u, x, 1); if (!n) a[i] = x; }",
    "in a called function": "a[i] = spin(a, n);",
    "in a function two calls away": "a[i] = outer(a, n);",
    "by a table of jumps": "for (;;) a[i] = turned(a[i], i);",
    "local memory": "unsigned l[8] = {}; for (unsigned j = 0;; ++j) { l[(j + a[0]) % 8] += j; "
    "if (!n) a[i] = l[j % 8]; }",
}
SOURCE = """
__device__ __noinline__ unsigned spin(unsigned* a, int n) {
    unsigned x = a[0];
    while (n) x = x * 5 + a[1];
    return x;
}
__device__ __noinline__ unsigned outer(unsigned* a, int n) { return spin(a, n + 1) + 1; }
__device__ unsigned turned(unsigned x, unsigned i) {
    switch (x % 7) {
    case 0: return x + 3; case 1: return x * 5; case 2: return x ^ i; case 3: return ~x;
    case 4: return x >> 3; case 5: return x - i; default: return i;
    }
}
extern "C" __global__ void k(unsigned* a, int n) {
    unsigned i = threadIdx.x;
    BODY
}
"""


@pytest.fixture(params=[False, True], ids=["plain", "memcheck"])
def device(request: pytest.FixtureRequest) -> Iterator[HostDevice]:
    made = HostDevice("host:0", memory_limit_bytes=64 << 20, memcheck=request.param)
    yield made
    made.close()


def start(device: HostDevice, body: str, memory: Allocation) -> HostLaunch:
    compiled = compile_source(
        SOURCE.replace("BODY", body), entry_point="k", target=device.target, cache=None
    )
    return device.launch(
        device.load(compiled),
        "k",
        grid=(2, 1, 1),
        block=(32, 1, 1),
        parameters=(struct.pack("<Q", memory.address), struct.pack("<i", 1)),
    )


def running_ctas() -> int:
    return sum(worker.ctas for worker in shared_pool().statistics)


@pytest.mark.parametrize("name", LOOPS)
def test_endless_loop_ends_at_its_deadline(device: HostDevice, name: str) -> None:
    """``wait`` comes back at its deadline, ``abort`` ends the launch, another kernel answers."""
    memory = device.allocate(128, label="memory")
    before = running_ctas()
    launch = start(device, LOOPS[name], memory)
    assert launch.wait(SHORT_S) is LaunchStatus.RUNNING
    other = start(device, "a[i] = i;", device.allocate(128, label="other"))
    assert other.wait(DEADLINE_S) is LaunchStatus.COMPLETED
    assert launch.status is LaunchStatus.RUNNING, launch.detail
    launch.abort()
    assert launch.wait(0) is LaunchStatus.ABORTED
    assert running_ctas() == before


def test_stalled_kernel_misses_its_deadline_and_its_neighbour_answers(device: HostDevice) -> None:
    """A command that it doesn't obey is an error; its worker is free again after the abort."""
    stalled, neighbour = resident(device, "trouble"), resident(device, "echo")
    for kernel in (stalled, neighbour):
        kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    stalled.post([Posting(1, SPIN, b"")])
    while stalled.taken_sequence < 1:
        assert stalled.status is LaunchStatus.RUNNING, stalled.detail
    generation = stalled.command(Command.RETURN)
    with pytest.raises(KernelStalledError, match="did not reach a message boundary"):
        stalled.await_generation(generation, SHORT_S)
    for value in range(1, 20):
        neighbour.ping(value)
        while neighbour.echo != value:
            assert neighbour.status is LaunchStatus.RUNNING
    stalled.abort()
    assert stalled.status is LaunchStatus.ABORTED
    for kernel in (stalled, neighbour):
        kernel.close()
    assert running_ctas() == 0
