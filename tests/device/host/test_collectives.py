"""Shuffles, votes, matches, reductions and barriers that reduce."""

from __future__ import annotations

import numpy as np
import pytest

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
