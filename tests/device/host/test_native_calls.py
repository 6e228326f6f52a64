"""Recursion and calls through pointers: functions that cannot be inlined are watched too."""

from __future__ import annotations

import struct

import pytest

from ringflow.device.api import LaunchStatus
from ringflow.device.compiler.api import CompileTarget, compile_source
from ringflow.device.host.device import HostDevice

DEADLINE_S = 20.0
THREADS = 32
NATIVE = """
typedef unsigned (*F)(unsigned*, unsigned);
__device__ __noinline__ unsigned at(unsigned* a, unsigned n) { return a[n]; }
__device__ __noinline__ unsigned mine(unsigned* a, unsigned n) {
    unsigned l[4] = {n, a[1], a[2], a[3]};
    for (unsigned i = 0; i < n; ++i) l[i] += a[i];
    return l[n & 3];
}
__device__ __noinline__ unsigned endless(unsigned* a, unsigned n) {
    while (n) a[0] += n;
    return 0;
}
__device__ F table[3] = {at, mine, endless};
__device__ __noinline__ unsigned down(unsigned* a, unsigned n) {
    unsigned l[4] = {n, n + 1, n + 2, n + 3};
    if (n) l[n & 3] = down(l, n - 1);
    return l[0] + l[3] + a[1];
}
extern "C" __global__ void k(unsigned* a, unsigned which, unsigned n) {
    unsigned i = threadIdx.x;
    if (which == 4) a[i] = ((F)(unsigned long long)(a + n))(a, n);
    else if (which == 3) a[i] = down(a, n);
    else a[i] = table[which](a, n + i);
}
"""
AT, MINE, ENDLESS, DOWN, NOT_A_FUNCTION = range(5)


def run(which: int, n: int, *, memcheck: bool) -> tuple[LaunchStatus, str]:
    """Run the kernel in one block; return the launch's status and detail."""
    device = HostDevice("host:0", memory_limit_bytes=1 << 20, memcheck=memcheck)
    words = device.allocate(4 * THREADS, label="words")
    target = CompileTarget("host", line_info=True)
    compiled = compile_source(NATIVE, entry_point="k", target=target, name="wave.cu", cache=None)
    launch = device.launch(
        device.load(compiled),
        "k",
        grid=(1, 1, 1),
        block=(THREADS, 1, 1),
        parameters=(
            struct.pack("<Q", words.address),
            struct.pack("<I", which),
            struct.pack("<I", n),
        ),
    )
    told = launch.wait(DEADLINE_S), launch.detail
    device.close()
    return told


@pytest.mark.parametrize(
    ("which", "n", "wanted"),
    [
        (AT, 8, "thread (24, 0, 0), wave.cu:3: 0 bytes past the end of 'words' (128 bytes)"),
        (MINE, 3, "wave.cu:6: past the local variables of the call"),
        (NOT_A_FUNCTION, 1, "wave.cu:21: the pointer is not that of a function"),
    ],
)
def test_wrong_access_within_a_native_call_is_told(which: int, n: int, wanted: str) -> None:
    """Under memcheck; the caller returns at once."""
    status, detail = run(which, n, memcheck=True)
    assert status is LaunchStatus.TRAPPED, detail
    assert wanted in detail


@pytest.mark.parametrize("memcheck", [True, False], ids=["memcheck", "plain"])
@pytest.mark.parametrize(
    ("which", "n", "wanted"),
    [
        (ENDLESS, 0, "wave.cu:10: a function that calls itself, or is called through a pointer"),
        (DOWN, 100_000, "calls are nested too deeply"),
    ],
)
def test_native_call_that_does_not_end_is_ended(
    which: int, n: int, wanted: str, memcheck: bool
) -> None:
    """It cannot give way, so it traps: an endless loop, and an endless recursion."""
    status, detail = run(which, n, memcheck=memcheck)
    assert status is LaunchStatus.TRAPPED, detail
    assert wanted in detail


@pytest.mark.parametrize("memcheck", [True, False], ids=["memcheck", "plain"])
@pytest.mark.parametrize(("which", "n"), [(AT, 0), (DOWN, 9)])
def test_right_native_calls_pass(which: int, n: int, memcheck: bool) -> None:
    """A pointer to a function, and a recursion with arrays of its own."""
    assert run(which, n, memcheck=memcheck) == (LaunchStatus.COMPLETED, "")
