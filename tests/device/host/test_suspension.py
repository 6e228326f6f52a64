"""Idleness, polling, fuel and traps: what a step returns, and when."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from ringflow.device.host import cta
from ringflow.errors import KernelStalledError, KernelTrappedError
from tests.device.host.programs import cuda, run, start

SOURCE = r"""
#define KERNEL extern "C" __global__ void
typedef unsigned long long u64;

KERNEL actor(volatile u64* bell, u64* state, int n) {
    __shared__ u64 command;
    u64 seen = 0;
    for (;;) {
        if (threadIdx.x == 0) {
            while (bell[0] == seen) __nanosleep(100);
            command = bell[0];
        }
        __syncthreads();
        seen = command;
        if (seen == ~0ull) break;
        for (int i = threadIdx.x; i < n; i += blockDim.x) state[i] += seen;
        __syncthreads();
        if (threadIdx.x == 0) { __threadfence(); bell[1] = seen; }
    }
    if (threadIdx.x == 0) bell[1] = ~0ull;
}
KERNEL counting(volatile int* flag, int* out) {
    int polls = 0;
    while (*flag == 0) ++polls;
    out[threadIdx.x] = polls;
}
KERNEL storing(volatile int* flag, volatile int* beats) {
    while (*flag == 0) beats[0] = 1;
}
KERNEL endless(int* out, int stop) {
    int value = threadIdx.x;
    while (value != stop) asm volatile("add.s32 %0, %0, 2;" : "+r"(value));
    out[threadIdx.x] = value;
}
KERNEL long_loop(unsigned* out, unsigned n) {
    unsigned value = threadIdx.x;
    for (unsigned i = 0; i < n; ++i) value = (value ^ i) * 2654435761u;
    out[threadIdx.x] = value;
}
KERNEL trapping(const int* x) {
    if (x[threadIdx.x] > 5) __trap();
}
KERNEL half_barrier(int* out) {
    if (threadIdx.x < 8) asm volatile("bar.sync 1, 16;");
    out[threadIdx.x] = 1;
}
"""


def test_a_persistent_kernel_answers_and_is_idle_between() -> None:
    """A step is idle exactly while the doorbell stays as it is."""
    bell, state = np.zeros(2, np.uint64), np.zeros(300, np.uint64)
    grid = start(cuda(SOURCE), "actor", 1, 64, bell, state, 300)
    total = 0
    for command in (3, 4, 5):
        for _ in range(4):
            grid.round(64)
        assert grid.status == [cta.IDLE]
        bell[0] = command
        total += command
        grid.round(64)
        assert grid.status == [cta.PROGRESS]
        assert bell[1] == command
        assert (state == total).all()
    grid.round(64)
    assert grid.status == [cta.IDLE]
    bell[0] = np.uint64(2**64 - 1)
    grid.round(64)
    assert grid.status == [cta.DONE]
    assert bell[1] == bell[0]


def test_an_idle_step_changes_no_byte_of_the_context() -> None:
    """Idle means: same resume points, same spills."""
    bell, state = np.zeros(2, np.uint64), np.zeros(1, np.uint64)
    grid = start(cuda(SOURCE), "actor", 1, 64, bell, state, 1)
    while grid.status != [cta.IDLE]:
        grid.round(1)
    spills = cta.HEADER_BYTES
    before = grid.memory[spills:].copy()
    grid.round(1000)
    assert grid.status == [cta.IDLE]
    np.testing.assert_array_equal(grid.memory[spills:], before)


def test_a_poller_that_counts_is_not_idle() -> None:
    """The same resume point with a changed register is progress."""
    flag, out = np.zeros(1, np.int32), np.zeros(4, np.int32)
    grid = start(cuda(SOURCE), "counting", 1, 4, flag, out)
    for _ in range(10):
        grid.round(3)
        assert grid.status == [cta.PROGRESS]
    flag[0] = 1
    grid.round(64)
    assert grid.done
    assert (out > 10).all()


def test_a_poller_that_stores_is_not_idle() -> None:
    """A store is progress even where it changes nothing."""
    flag, beats = np.zeros(1, np.int32), np.zeros(1, np.int32)
    grid = start(cuda(SOURCE), "storing", 1, 2, flag, beats)
    for _ in range(5):
        grid.round(2)
        assert grid.status == [cta.PROGRESS]
    flag[0] = 1
    grid.round(8)
    assert grid.done


def test_a_loop_that_never_polls_is_preempted() -> None:
    """It can be resumed as often as one likes, or dropped."""
    out = np.zeros(32, np.int32)
    grid = start(cuda(SOURCE), "endless", 1, 2, out, 0x7FFFFFF1)
    for _ in range(3):
        grid.round(64)
        assert grid.status == [cta.PREEMPTED]


def test_preemption_does_not_change_results() -> None:
    """A loop that is cut by fuel many times ends with the same values."""
    n = 3_000_000
    cut, whole = np.zeros(16, np.uint32), np.zeros(16, np.uint32)
    grid = start(cuda(SOURCE), "long_loop", 1, 16, cut, n)
    preempted = 0
    while not grid.done:
        grid.round(64)
        preempted += grid.status == [cta.PREEMPTED]
    assert preempted > 2
    run(cuda(SOURCE, preempt=False), "long_loop", 1, 16, whole, n)
    np.testing.assert_array_equal(cut, whole)


def test_a_context_may_be_copied_while_it_waits() -> None:
    """A CTA is plain memory: its bytes put back replay the same answer."""
    bell, state = np.zeros(2, np.uint64), np.zeros(8, np.uint64)
    grid = start(cuda(SOURCE), "actor", 1, 32, bell, state, 8)
    while grid.status != [cta.IDLE]:
        grid.round(64)
    saved = grid.memory.copy()
    bell[0] = 9
    grid.round(64)
    assert (state == 9).all()
    state[:] = 0
    grid.memory[:] = saved
    grid.round(64)
    assert (state == 9).all()


def test_a_trap_names_thread_and_line() -> None:
    """The header says who trapped, and where."""
    x = np.zeros(64, np.int32)
    x[41] = 6
    with pytest.raises(KernelTrappedError, match=r"trap in thread 41 of block 0, PTX line \d+"):
        run(cuda(SOURCE), "trapping", 1, 64, x)


def test_a_barrier_that_nobody_completes_stalls() -> None:
    """A partial barrier short of threads waits for ever, and the driver says so."""
    out = np.zeros(16, np.int32)
    with pytest.raises(KernelStalledError, match="half_barrier"):
        run(cuda(SOURCE), "half_barrier", 1, 16, out)
    assert out.tolist() == [0] * 8 + [1] * 8


def test_a_step_of_a_done_context_is_done() -> None:
    """The status stays in the header."""
    x = np.zeros(64, np.int32)
    grid = start(cuda(SOURCE), "trapping", 1, 64, x)
    grid.round(64)
    assert grid.done
    assert ctypes.c_uint32.from_address(grid.addresses[0] + cta.STATUS).value == cta.DONE
    assert grid._step(grid.addresses[0], 64) == cta.DONE
