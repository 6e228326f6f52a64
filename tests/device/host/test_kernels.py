"""Whole kernels, compiled by clang, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.device.host.programs import cuda, run

SOURCE = r"""
#define KERNEL extern "C" __global__ void

KERNEL saxpy(float* y, const float* x, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
KERNEL strided(float* y, const float* x, float a, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        if (x[i] > 0.25f) y[i] = a * x[i] + y[i];
}
KERNEL total(int* out, const int* x, int n) {
    __shared__ int part[256];
    int t = threadIdx.x, sum = 0;
    for (int i = blockIdx.x * 256 + t; i < n; i += 256 * gridDim.x) sum += x[i];
    part[t] = sum;
    __syncthreads();
    for (int k = 128; k > 0; k >>= 1) {
        if (t < k) part[t] += part[t + k];
        __syncthreads();
    }
    if (t == 0) out[blockIdx.x] = part[0];
}
KERNEL rows(int* out, int nx, int ny) {
    for (int j = blockIdx.x; j < ny; j += gridDim.x)
        for (int i = threadIdx.x; i < nx; i += blockDim.x) out[j * nx + i] += 1000 * j + i;
}
KERNEL boxes(int* out) {
    unsigned x = blockIdx.x * blockDim.x + threadIdx.x, nx = gridDim.x * blockDim.x;
    unsigned y = blockIdx.y * blockDim.y + threadIdx.y, ny = gridDim.y * blockDim.y;
    unsigned z = blockIdx.z * blockDim.z + threadIdx.z;
    __shared__ int at[64];
    unsigned t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    at[t] = (z << 16) + (y << 8) + x;
    __syncthreads();
    out[(z * ny + y) * nx + x] = at[t] + at[63 - t];
}
KERNEL product(float* c, const float* a, const float* b, int n) {
    __shared__ float ta[8][8], tb[8][8];
    int x = threadIdx.x, y = threadIdx.y;
    int column = blockIdx.x * 8 + x, row = blockIdx.y * 8 + y;
    float sum = 0;
    for (int k = 0; k < n; k += 8) {
        ta[y][x] = a[row * n + k + x];
        tb[y][x] = b[(k + y) * n + column];
        __syncthreads();
        for (int i = 0; i < 8; ++i) sum += ta[y][i] * tb[i][x];
        __syncthreads();
    }
    c[row * n + column] = sum;
}
KERNEL histogram(unsigned* bins, const unsigned char* data, int n) {
    extern __shared__ unsigned local[];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) local[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(&local[data[i]], 1u);
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&bins[i], local[i]);
}
KERNEL collatz(int* steps, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned value = i + 1;
    int count = 0;
    while (value != 1) { value = value & 1 ? 3 * value + 1 : value / 2; ++count; }
    __syncthreads();
    steps[i] = count;
}
__device__ __noinline__ int exchange(int* shared, int value) {
    shared[threadIdx.x] = value;
    __syncthreads();
    int got = shared[(threadIdx.x + 1) % blockDim.x];
    __syncthreads();
    return got;
}
KERNEL rotate(int* out) {
    __shared__ int shared[64];
    int value = threadIdx.x * 3;
    for (int i = 0; i < 5; ++i) value = exchange(shared, value);
    out[threadIdx.x] = value;
}
__device__ __noinline__ int fibonacci(int n) {
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}
KERNEL recursive(int* out) { out[threadIdx.x] = fibonacci(threadIdx.x); }

__device__ int twice(int x) { return 2 * x; }
__device__ int square(int x) { return x * x; }
typedef int (*function)(int);
__device__ function table[2] = {twice, square};
__device__ int counter = 5;
__constant__ float weights[3] = {0.5f, 0.25f};
KERNEL pointers(int* out, float* w) {
    out[threadIdx.x] = table[threadIdx.x & 1](threadIdx.x);
    if (threadIdx.x < 3) w[threadIdx.x] = weights[threadIdx.x];
    if (threadIdx.x == 0) atomicAdd(&counter, 2);
}
KERNEL locals(int* out, int k) {
    int values[16];
    for (int i = 0; i < 16; ++i) values[i] = i * threadIdx.x;
    __syncthreads();
    int* middle = values + (k & 7);
    middle[threadIdx.x & 7] += 100;
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < 16; ++i) sum += values[i] * (i + 1);
    out[threadIdx.x] = sum;
}
KERNEL choose(int* out, int n) {
    int i = threadIdx.x, r = 0;
    switch (i % 9) {
        case 0: r = n; break;
        case 1: r = i * 3; break;
        case 2: r = i ^ n; break;
        case 3: r = -i; __syncthreads(); break;
        case 5: r = i << 2; break;
        case 6: r = i - n; break;
        case 7: r = i | 64; break;
        default: r = 1;
    }
    out[i] = r;
}
KERNEL curves(float* out, const float* x, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        out[i] = sinf(x[i]) + expf(-x[i]) * powf(x[i], 1.5f) + rsqrtf(x[i]) + floorf(x[i]);
}
KERNEL split(int* out, int* hits, int n) {
    int base = 0;
    if (threadIdx.x > 13) { base = n; atomicAdd(hits, 1); }
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[base + i] += i + 1;
}
KERNEL backwards(int* out, const int* x, int n) {
    for (int i = n - 1 - threadIdx.x; i >= 0; i -= blockDim.x) out[i] = x[i] - x[n - 1 - i];
}
KERNEL by_pointer(short* out, const short* x, int n) {
    const short* end = x + n;
    short* o = out + threadIdx.x;
    for (const short* p = x + threadIdx.x; p < end; p += blockDim.x, o += blockDim.x)
        *o = *p * 3;
}
KERNEL ragged(int* out, const int* lengths, int n) {
    int length = lengths[threadIdx.x], sum = 0;
    for (int i = 0; i < length; ++i) sum += out[n + (i & 7)] + i;
    out[threadIdx.x] = sum;
}
KERNEL locked(int* lock, int* value) {
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0, 1) == 0) {
            *(volatile int*)value = *(volatile int*)value + 1;
            __threadfence();
            atomicExch(lock, 0);
            done = true;
        }
    }
}
KERNEL gridwide(unsigned* barrier, int* data, int rounds) {
    int me = blockIdx.x * blockDim.x + threadIdx.x, all = gridDim.x * blockDim.x;
    for (int r = 0; r < rounds; ++r) {
        int next = data[(me + 1) % all];
        for (int half = 0; half < 2; ++half) {
            __syncthreads();
            if (threadIdx.x == 0) {
                __threadfence();
                unsigned mine = atomicAdd(barrier, 1u) + 1;
                unsigned goal = (mine + gridDim.x - 1) / gridDim.x * gridDim.x;
                while (*(volatile unsigned*)barrier < goal) __nanosleep(20);
                __threadfence();
            }
            __syncthreads();
            if (half == 0) data[me] = next + 1;
        }
    }
}
"""


def floats(count: int, seed: int = 1) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).random(count, np.float32)


@pytest.mark.parametrize("kernel", ["saxpy", "strided"])
@pytest.mark.parametrize("block", [1, 37, 256])
def test_elementwise_kernels_are_exact(kernel: str, block: int) -> None:
    """Full and partial blocks, vector and scalar forms."""
    n = 1003
    x, y = floats(n, 1), floats(n, 2)
    expected = np.float32(2.5) * x + y
    if kernel == "strided":
        expected = np.where(x > 0.25, expected, y)
    grid = -(-n // block) if kernel == "saxpy" else 3
    run(cuda(SOURCE), kernel, grid, block, y, x, 2.5, n)
    np.testing.assert_array_equal(y, expected)


def test_reduction_through_shared_memory() -> None:
    """Barriers in a loop whose threads drop out one half at a time."""
    x = np.random.default_rng(3).integers(-1000, 1000, 10_007, dtype=np.int32)
    out = np.zeros(4, np.int32)
    run(cuda(SOURCE), "total", 4, 256, out, x, x.size)
    assert out.sum() == x.sum()


@pytest.mark.parametrize(("nx", "block"), [(100, 32), (13, 64), (256, 256), (257, 256)])
@pytest.mark.parametrize("preempt", [False, True])
def test_nested_loops_visit_each_cell_once(nx: int, block: int, preempt: bool) -> None:
    """Cut loops in two levels, with tails where only some threads go on."""
    ny = 7
    out = np.zeros((ny, nx), np.int32)
    run(cuda(SOURCE, preempt=preempt), "rows", 3, block, out, nx, ny)
    expected = 1000 * np.arange(ny)[:, None] + np.arange(nx)[None, :]
    np.testing.assert_array_equal(out, expected)


def test_three_dimensional_blocks() -> None:
    """Rows of threads take their y and z from the thread's index."""
    out = np.zeros((4, 6, 24), np.int32)
    run(cuda(SOURCE), "boxes", (3, 3, 1), (8, 2, 4), out)
    z, y, x = np.indices(out.shape)
    code = (z << 16) + (y << 8) + x
    mirrored = (3 - z << 16) + ((y // 2 * 2 + 1 - y % 2) << 8) + (x // 8 * 8 + 7 - x % 8)
    np.testing.assert_array_equal(out, code + mirrored)


def test_tiled_matrix_product() -> None:
    """Two barriers an iteration, tiles in shared memory."""
    a = np.random.default_rng(1).integers(0, 9, (24, 24)).astype(np.float32)
    b = np.random.default_rng(2).integers(0, 9, (24, 24)).astype(np.float32)
    c = np.zeros((24, 24), np.float32)
    run(cuda(SOURCE), "product", (3, 3, 1), (8, 8, 1), c, a, b, 24)
    np.testing.assert_array_equal(c, a @ b)


def test_histogram_in_dynamic_shared_memory() -> None:
    """Atomics in shared and global memory; dynamic shared memory."""
    data = np.random.default_rng(5).integers(0, 256, 5000).astype(np.uint8)
    bins = np.zeros(256, np.uint32)
    run(cuda(SOURCE), "histogram", 3, 96, bins, data, data.size, shared_bytes=1024)
    np.testing.assert_array_equal(bins, np.bincount(data, minlength=256))


def test_divergent_loops_and_early_exits() -> None:
    """Threads that have left count as arrived at a barrier."""
    steps = np.zeros(70, np.int32)
    run(cuda(SOURCE), "collatz", 2, 64, steps, 70)

    def count(value: int) -> int:
        total = 0
        while value != 1:
            value = 3 * value + 1 if value & 1 else value // 2
            total += 1
        return total

    assert steps.tolist() == [count(i + 1) for i in range(70)]


def test_function_with_barriers_is_inlined() -> None:
    """A noinline function that suspends, called in a loop."""
    out = np.zeros(64, np.int32)
    run(cuda(SOURCE), "rotate", 1, 64, out)
    np.testing.assert_array_equal(out, (np.arange(64) + 5) % 64 * 3)


def test_recursion_stays_native() -> None:
    """A plain recursive function."""
    out = np.zeros(12, np.int32)
    run(cuda(SOURCE), "recursive", 1, 12, out)
    assert out.tolist() == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]


def test_globals_constants_and_function_pointers() -> None:
    """Initial values with addresses; shorter initialisers than arrays; mutable globals listed."""
    import ctypes

    program = cuda(SOURCE + "\n// a program of its own\n")
    out, weights = np.zeros(8, np.int32), np.ones(3, np.float32)
    run(program, "pointers", 1, 8, out, weights)
    assert out.tolist() == [0, 1, 4, 9, 8, 25, 12, 49]
    assert weights.tolist() == [0.5, 0.25, 0.0]
    variable = program.globals["counter"]
    assert variable.mutable
    assert variable.size_bytes == 4
    assert ctypes.c_int32.from_address(variable.address).value == 7
    assert not program.globals["weights"].mutable


def test_local_arrays_survive_barriers() -> None:
    """Each thread's local memory is its own."""
    out = np.zeros(32, np.int32)
    run(cuda(SOURCE), "locals", 1, 32, out, 3)
    for t in range(32):
        values = [i * t for i in range(16)]
        values[3 + (t & 7)] += 100
        assert out[t] == sum(v * (i + 1) for i, v in enumerate(values))


def test_switches() -> None:
    """A barrier in one arm is met by those who take it and those who have left."""
    out = np.zeros(45, np.int32)
    run(cuda(SOURCE), "choose", 1, 45, out, 11)
    for i in range(45):
        expected = [11, i * 3, i ^ 11, -i, 1, i << 2, i - 11, i | 64, 1][i % 9]
        assert out[i] == expected


def test_mathematics_is_as_exact_as_the_library() -> None:
    """libm's functions, through whole-number bits."""
    x = floats(100) * 5 + np.float32(0.1)
    out = np.zeros(100, np.float32)
    run(cuda(SOURCE), "curves", 1, 32, out, x, 100)
    wide = x.astype(np.float64)
    expected = np.sin(wide) + np.exp(-wide) * wide**1.5 + wide**-0.5 + np.floor(wide)
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_a_wrong_guess_of_uniformity_costs_time_only() -> None:
    """Two groups of threads with bases of their own in one loop."""
    n, out, hits = 200, np.zeros(400, np.int32), np.zeros(1, np.int32)
    run(cuda(SOURCE), "split", 1, 64, out, hits, n)
    i = np.arange(n)
    low = i % 64 <= 13
    np.testing.assert_array_equal(out[:n], np.where(low, i + 1, 0))
    np.testing.assert_array_equal(out[n:], np.where(low, 0, i + 1))
    assert hits[0] == 50


@pytest.mark.parametrize("n", [1, 64, 333])
def test_loops_downwards_and_by_pointer(n: int) -> None:
    """Negative strides, and addresses that are themselves carried by the loop."""
    x = np.random.default_rng(2).integers(-1000, 1000, n, dtype=np.int32)
    out = np.zeros(n, np.int32)
    run(cuda(SOURCE), "backwards", 1, 64, out, x, n)
    np.testing.assert_array_equal(out, x - x[::-1])
    narrow, tripled = x.astype(np.int16), np.zeros(n, np.int16)
    run(cuda(SOURCE), "by_pointer", 1, 96, tripled, narrow, n)
    np.testing.assert_array_equal(tripled, narrow * 3)


def test_loops_of_different_length_in_each_thread() -> None:
    """Threads leave a cut loop one after the other."""
    lengths = np.random.default_rng(4).integers(0, 50, 64).astype(np.int32)
    out = np.concatenate([np.zeros(64, np.int32), np.arange(8, dtype=np.int32)])
    run(cuda(SOURCE), "ragged", 1, 64, out, lengths, 64)
    expected = [sum((i & 7) + i for i in range(length)) for length in lengths]
    assert out[:64].tolist() == expected


def test_spin_lock_within_a_block() -> None:
    """Threads that spin on an atomic give way to the one that holds the lock."""
    lock, value = np.zeros(1, np.int32), np.zeros(1, np.int32)
    run(cuda(SOURCE), "locked", 2, 64, lock, value)
    assert value[0] == 128


@pytest.mark.parametrize("budget", [1, 7, 1000])
def test_grid_barrier(budget: int) -> None:
    """Blocks that wait for each other, at any budget of a step."""
    data = np.arange(96, dtype=np.int32)
    barrier = np.zeros(1, np.uint32)
    run(cuda(SOURCE), "gridwide", 3, 32, barrier, data, 5, budget=budget)
    np.testing.assert_array_equal(data, (np.arange(96) + 5) % 96 + 5)
