"""Shuffles, votes, matches, reductions and barriers that reduce."""

from __future__ import annotations

import numpy as np
import pytest

from ringflow.errors import KernelStalledError
from tests.device.host.programs import cuda, run

SOURCE = r"""
#define KERNEL extern "C" __global__ void
KERNEL shuffles(int* out) {
    int lane = threadIdx.x & 31, v = threadIdx.x * 10;
    int* o = out + threadIdx.x * 6;
    o[0] = __shfl_up_sync(0xffffffffu, v, 3);
    o[1] = __shfl_down_sync(0xffffffffu, v, 5);
    o[2] = __shfl_xor_sync(0xffffffffu, v, 9);
    o[3] = __shfl_sync(0xffffffffu, v, lane * 7);
    o[4] = __shfl_down_sync(0xffffffffu, v, 2, 8);
    o[5] = __shfl_sync(0xffffffffu, v, 3, 8);
}
KERNEL votes(unsigned* out) {
    int lane = threadIdx.x & 31;
    unsigned* o = out + threadIdx.x * 6;
    o[0] = __ballot_sync(0xffffffffu, lane % 3 == 0);
    o[1] = __any_sync(0xffffffffu, lane == 40);
    o[2] = __all_sync(0xffffffffu, lane < 32);
    o[3] = 0;
    if (lane & 1) o[3] = __ballot_sync(0xaaaaaaaau, lane < 9);
    o[4] = lane < 10 ? __activemask() : 0;
    o[5] = 7;
}
KERNEL scan(int* data) {
    int v = data[threadIdx.x], lane = threadIdx.x & 31;
    for (int d = 1; d < 32; d *= 2) {
        int below = __shfl_up_sync(0xffffffffu, v, d);
        if (lane >= d) v += below;
    }
    __shared__ int sums[8];
    if (lane == 31) sums[threadIdx.x / 32] = v;
    __syncthreads();
    for (int w = 0; w < threadIdx.x / 32; ++w) v += sums[w];
    data[threadIdx.x] = v;
}
KERNEL counts(int* out) {
    int t = threadIdx.x;
    out[3 * t] = __syncthreads_count(t % 5 == 0);
    out[3 * t + 1] = __syncthreads_and(t < 1000);
    out[3 * t + 2] = __syncthreads_or(t == 77);
}
KERNEL typed(unsigned* out) {
    unsigned lane = threadIdx.x & 31, a, b, c, d;
    asm volatile("redux.sync.add.s32 %0, %1, 0xffffffff;" : "=r"(a) : "r"(lane));
    asm volatile("redux.sync.min.s32 %0, %1, 0xffffffff;" : "=r"(b) : "r"((int)lane - 5));
    asm volatile("redux.sync.xor.b32 %0, %1, 0xffffffff;" : "=r"(c) : "r"(lane * lane));
    asm volatile("match.any.sync.b32 %0, %1, 0xffffffff;" : "=r"(d) : "r"(lane / 3));
    unsigned* o = out + threadIdx.x * 4;
    o[0] = a, o[1] = b, o[2] = c, o[3] = d;
}
"""


def lanes(count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(count)


def test_shuffles_follow_their_clamps_and_segments() -> None:
    """A lane out of range keeps its own value."""
    out = np.zeros((64, 6), np.int32)
    run(cuda(SOURCE), "shuffles", 1, 64, out)
    for t in range(64):
        lane, base = t & 31, t & ~31
        source = [
            lane - 3 if lane >= 3 else lane,
            lane + 5 if lane + 5 < 32 else lane,
            lane ^ 9,
            lane * 7 % 32,
            lane + 2 if (lane & 7) + 2 < 8 else lane,
            (lane & ~7) + 3,
        ]
        assert out[t].tolist() == [(base + s) * 10 for s in source]


def test_votes_and_the_active_mask() -> None:
    """Votes of a part of a warp; activemask names the lanes that converged."""
    out = np.zeros((32, 6), np.uint32)
    run(cuda(SOURCE), "votes", 1, 32, out)
    every_third = sum(1 << lane for lane in range(0, 32, 3))
    odd = sum(1 << lane for lane in range(1, 9, 2))
    for lane in range(32):
        expected = [every_third, 0, 1, odd if lane & 1 else 0, 1023 if lane < 10 else 0, 7]
        assert out[lane].tolist() == expected


@pytest.mark.parametrize("budget", [1, 64])
def test_scan_by_shuffles(budget: int) -> None:
    """Shuffles in a loop, then shared memory."""
    data = np.random.default_rng(1).integers(0, 100, 256).astype(np.int32)
    expected = np.cumsum(data)
    run(cuda(SOURCE), "scan", 1, 256, data, budget=budget)
    np.testing.assert_array_equal(data, expected)


@pytest.mark.parametrize("threads", [64, 96])
def test_barriers_that_reduce(threads: int) -> None:
    """count, and, or over the block."""
    out = np.zeros((threads, 3), np.int32)
    run(cuda(SOURCE), "counts", 1, threads, out)
    expected = [len(range(0, threads, 5)), 1, int(threads > 77)]
    assert all(row.tolist() == expected for row in out)


def test_redux_and_match() -> None:
    """Reductions over a warp; lanes with equal values find each other."""
    out = np.zeros((32, 4), np.uint32)
    run(cuda(SOURCE), "typed", 1, 32, out)
    exclusive = int(np.bitwise_xor.reduce(lanes(32) ** 2))
    for lane in range(32):
        same = sum(1 << other for other in range(32) if other // 3 == lane // 3)
        assert out[lane].tolist() == [496, (1 << 32) - 5, exclusive, same]


NUMBERED = r"""
#define KERNEL extern "C" __global__ void
KERNEL hand_over(int* out, int n) {
    __shared__ int slot[32];
    int lane = threadIdx.x & 31, sum = 0;
    for (int i = 0; i < n; ++i) {
        if (threadIdx.x < 32) {
            asm volatile("bar.sync 1, 64;" ::: "memory");
            slot[lane] = i * 100 + lane;
            asm volatile("barrier.cta.arrive 2, 64;" ::: "memory");
        } else {
            asm volatile("bar.arrive 1, 64;" ::: "memory");
            asm volatile("bar.sync 2, 64;" ::: "memory");
            sum += slot[lane];
        }
    }
    out[threadIdx.x] = sum;
}
KERNEL groups(int* out) {
    __shared__ int cells[128];
    int t = threadIdx.x, group = t / 32, found;
    cells[t] = t * 3;
    asm volatile("bar.sync %0, %1;" :: "r"(group + 1), "r"(32) : "memory");
    out[t] = cells[group * 32 + (t + 1) % 32];
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %1, 0; bar.red.popc.u32 %0, %2, 32, !p; }"
                 : "=r"(found) : "r"(t & group), "r"(group));
    out[128 + t] = found;
}
KERNEL passing(int* out) {
    int t = threadIdx.x;
    if (t < 40) asm volatile("bar.sync 3, 32;" ::: "memory");
    out[t] = 1;
}
KERNEL nowhere(int* out, int number) {
    asm volatile("bar.sync %0, 32;" :: "r"(number) : "memory");
    out[threadIdx.x] = 1;
}
KERNEL all_alike(unsigned* out, const unsigned* x) {
    int t = threadIdx.x, alike;
    out[4 * t] = __match_all_sync(0xffffffffu, x[t], &alike);
    out[4 * t + 1] = alike;
    unsigned long long wide = (unsigned long long)x[t] << 32 | 7;
    if (t & 1) {
        out[4 * t + 2] = __match_all_sync(0xaaaaaaaau, wide, &alike);
        out[4 * t + 3] = alike;
    }
}
"""


@pytest.mark.parametrize("budget", [1, 64])
def test_arriving_without_waiting(budget: int) -> None:
    """Producers and consumers meet at two barriers; each side only waits for the other."""
    out = np.zeros(64, np.int32)
    run(cuda(NUMBERED), "hand_over", 1, 64, out, 10, budget=budget)
    total = sum(100 * i for i in range(10))
    assert out.tolist() == [0] * 32 + [total + 10 * lane for lane in range(32)]


def test_barriers_with_numbers_in_registers() -> None:
    """Warps at one instruction wait at different barriers."""
    out = np.zeros(256, np.int32)
    run(cuda(NUMBERED), "groups", 1, 128, out)
    for t in range(128):
        group = t // 32
        assert out[t] == 3 * (group * 32 + (t + 1) % 32)
        members = range(group * 32, group * 32 + 32)
        assert out[128 + t] == sum(not m & group for m in members)


def test_a_barrier_lets_as_many_go_as_it_counts() -> None:
    """Of 40 threads at a barrier of 32, eight wait for others that never come."""
    out = np.zeros(64, np.int32)
    with pytest.raises(KernelStalledError):
        run(cuda(NUMBERED), "passing", 1, 64, out)
    assert out[40:].tolist() == [1] * 24
    assert out[:40].sum() == 32


def test_a_barrier_that_does_not_exist_stalls() -> None:
    """There are sixteen."""
    out = np.zeros(32, np.int32)
    run(cuda(NUMBERED), "nowhere", 1, 32, out, 15)
    assert out.all()
    with pytest.raises(KernelStalledError):
        run(cuda(NUMBERED), "nowhere", 1, 32, out, 16)


def test_match_all() -> None:
    """The mask and true where all are alike, else nothing; 64 bits count."""
    x = np.zeros(64, np.uint32)
    x[32:] = 5
    x[40] = 6
    out = np.zeros((64, 4), np.uint32)
    run(cuda(NUMBERED), "all_alike", 1, 64, out, x)
    assert (out[:32, :2] == [0xFFFFFFFF, 1]).all()
    assert (out[32:, :2] == 0).all()
    assert (out[1:64:2, 2:] == [0xAAAAAAAA, 1]).all()
    x[41] = 7
    run(cuda(NUMBERED), "all_alike", 1, 64, out, x)
    assert (out[33:64:2, 2:] == 0).all()
