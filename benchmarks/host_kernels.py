"""The kernels that ``benchmarks/host_device.py`` times, in CUDA C++, and the same in C++."""

from __future__ import annotations

from typing import Final

STENCIL: Final = """
// A thread has a column of the field, and several of its cells at once; a turn is a step.
constexpr int X = 256, ROWS = 4, TILE = 16;

__device__ __forceinline__ void direct_band(const float* from, float* to, int nx, int ny) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x + 1;
    for (int y = 1; y < ny - 1; y += ROWS) {
#pragma unroll
        for (int j = 0; j < ROWS; ++j) {
            const int k = (y + j) * nx + x;
            to[k] = 0.2f * (from[k] + from[k - 1] + from[k + 1] + from[k - nx] + from[k + nx]);
        }
    }
}

// The first and the last column of a tile are loaded only.
__device__ __forceinline__ void tiled_band(const float* from, float* to, int nx, int ny) {
    __shared__ float tile[TILE + 2][X];
    const int tx = threadIdx.x;
    for (int top = 0; top + TILE + 2 <= ny; top += TILE) {
        const int k = top * nx + blockIdx.x * (X - 2) + tx;
#pragma unroll
        for (int j = 0; j < TILE + 2; ++j) tile[j][tx] = from[k + j * nx];
        __syncthreads();
        if (tx > 0 && tx < X - 1) {
#pragma unroll
            for (int j = 1; j <= TILE; ++j)
                to[k + j * nx] = 0.2f * (tile[j][tx] + tile[j][tx - 1] + tile[j][tx + 1] +
                                         tile[j - 1][tx] + tile[j + 1][tx]);
        }
        __syncthreads();
    }
}

__device__ __forceinline__ void swap(float*& a, float*& b) {
    float* other = a;
    a = b;
    b = other;
}
"""

ONE_BLOCK: Final = (
    STENCIL
    + """
extern "C" __global__ void direct(float* from, float* to, int nx, int ny, int turns) {
    for (int turn = 0; turn < turns; ++turn) {
        direct_band(from, to, nx, ny);
        __syncthreads();
        swap(from, to);
    }
}

extern "C" __global__ void tiled(float* from, float* to, int nx, int ny, int turns) {
    for (int turn = 0; turn < turns; ++turn) {
        tiled_band(from, to, nx, ny);
        swap(from, to);
    }
}
"""
)

_LOOP = """
struct Steps {
    static constexpr unsigned id = 1;
    unsigned count;
};

extern "C" __global__ void ENTRY(ringflow::control* control, float* from, float* to, int nx,
                                 int ny) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m))
        for (unsigned turn = 0; turn < m.as<Steps>().count; ++turn) {
            ENTRY_band(from, to, nx, ny);
            self.sync();
            swap(from, to);
        }
}
"""


def persistent(entry: str) -> str:
    """Return the persistent kernel ``direct`` or ``tiled``."""
    return "#include <ringflow.cuh>\n" + STENCIL + _LOOP.replace("ENTRY", entry)


STENCIL_CPP: Final = """
extern "C" void direct(float* from, float* to, int nx, int ny, int turns) {
    for (int turn = 0; turn < turns; ++turn) {
        for (int y = 1; y < ny - 1; ++y)
            for (int x = 1; x < nx - 1; ++x) {
                const int k = y * nx + x;
                to[k] = 0.2f * (from[k] + from[k - 1] + from[k + 1] + from[k - nx] + from[k + nx]);
            }
        float* other = from;
        from = to;
        to = other;
    }
}
"""

PRODUCT: Final = """
constexpr int T = 32, ROWS = 4;  // a tile, and the elements of a thread

extern "C" __global__ void product(const float* a, const float* b, float* c, int n) {
    __shared__ float left[T][T], right[T][T];
    const int x = threadIdx.x, y = threadIdx.y * ROWS;
    const int row = blockIdx.y * T + y, column = blockIdx.x * T + x;
    float sum[ROWS] = {};
    for (int k = 0; k < n; k += T) {
#pragma unroll
        for (int j = 0; j < ROWS; ++j) {
            left[y + j][x] = a[(row + j) * n + k + x];
            right[y + j][x] = b[(k + y + j) * n + column];
        }
        __syncthreads();
        for (int i = 0; i < T; ++i) {
            const float value = right[i][x];
#pragma unroll
            for (int j = 0; j < ROWS; ++j) sum[j] += left[y + j][i] * value;
        }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < ROWS; ++j) c[(row + j) * n + column] = sum[j];
}
"""

BARRIERS: Final = """
extern "C" __global__ void uniform(unsigned* out, int turns) {
    for (int turn = 0; turn < turns; ++turn) __syncthreads();
    out[threadIdx.x] = turns;
}

// The first half of the block comes to one barrier, the second half to another.
extern "C" __global__ void halves(unsigned* out, int turns) {
    for (int turn = 0; turn < turns; ++turn) {
        if (threadIdx.x < blockDim.x / 2) __syncthreads();
        else __syncthreads();
    }
    out[threadIdx.x] = turns;
}

// The same, with neighbours apart.
extern "C" __global__ void neighbours(unsigned* out, int turns) {
    for (int turn = 0; turn < turns; ++turn) {
        if (threadIdx.x % 2) __syncthreads();
        else __syncthreads();
    }
    out[threadIdx.x] = turns;
}
"""

ECHO: Final = """
#include <ringflow.cuh>

extern "C" __global__ void echo(ringflow::control* control) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m))
        if (self.leader()) self.reply(m, m.data, m.size);
}
"""

SINK: Final = """
#include <ringflow.cuh>

struct Add {
    static constexpr unsigned id = 1;
    unsigned long long value;
};

extern "C" __global__ void sink(ringflow::control* control, unsigned long long* total) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m))
        if (self.leader()) total[0] += m.as<Add>().value;
}
"""
