"""Programs over arrays: saxpy, sums, histogram, stencil, scan, matrices, sort, bodies, sparse."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse

from tests.device.host.programs import run
from tests.device.programs.conftest import Build

Floats = npt.NDArray[np.float32]


def _floats(count: int, seed: int) -> Floats:
    return np.random.default_rng(seed).random(count, np.float32)


@pytest.mark.parametrize("block", [1, 32, 100])
def test_saxpy(load: Build, block: int) -> None:
    """Bit for bit: a product and a sum that round separately, or once where it is asked for."""
    n = 1003
    x, y = _floats(n, 1), _floats(n, 2)
    separate, fused = y.copy(), y.copy()
    run(load("saxpy"), "saxpy", -(-n // block), block, separate, x, 2.7, n)
    np.testing.assert_array_equal(separate, np.float32(2.7) * x + y)
    run(load("saxpy"), "saxpy_fused", 3, block, fused, x, 2.7, n)
    wide = np.float64(np.float32(2.7)) * x + y  # exact in double but for the last rounding
    np.testing.assert_array_equal(fused, wide.astype(np.float32))
    assert not np.array_equal(fused, separate)


def test_reduction(load: Build) -> None:
    """Sums of integers are exact; sums of floats are in the order of a tree."""
    numbers = np.random.default_rng(3).integers(-(2**31), 2**31, 5003).astype(np.int32)
    sums = np.zeros(3, np.int64)
    run(load("reduction"), "sum", 3, 128, sums, numbers, numbers.size)
    assert sums.sum() == numbers.sum(dtype=np.int64)

    values = _floats(4 * 64, 4)
    out = np.zeros(4, np.float32)
    run(load("reduction"), "tree", 4, 64, out, values, shared_bytes=64 * 4)
    level = values.reshape(4, 64)
    while level.shape[1] > 1:
        half = level.shape[1] // 2
        level = level[:, :half] + level[:, half:]
    np.testing.assert_array_equal(out, level[:, 0])


def test_histogram(load: Build) -> None:
    """Against ``bincount``."""
    data = np.random.default_rng(5).integers(0, 256, 4000).astype(np.uint8)
    bins = np.zeros(256, np.uint32)
    run(load("histogram"), "histogram", 3, 96, bins, data, data.size, shared_bytes=1024)
    np.testing.assert_array_equal(bins, np.bincount(data, minlength=256))


@pytest.mark.parametrize("kernel", ["direct", "tiled"])
def test_tiled_stencil(load: Build, kernel: str) -> None:
    """Bit for bit, edges included, on a grid that is no multiple of the tile."""
    ny, nx = 21, 37
    field = _floats(nx * ny, 6).reshape(ny, nx)
    out = np.full_like(field, -1)
    run(load("stencil"), kernel, (5, 3, 1), (8, 8, 1), out, field, nx, ny)
    p = np.pad(field, 1)
    around = ((p[1:-1, :-2] + p[1:-1, 2:]) + p[:-2, 1:-1]) + p[2:, 1:-1]
    np.testing.assert_array_equal(out, np.float32(0.5) * field + np.float32(0.125) * around)


@pytest.mark.parametrize("block", [1, 32, 256])
def test_scan(load: Build, block: int) -> None:
    """Against ``cumsum`` of each block."""
    numbers = np.random.default_rng(7).integers(-99, 99, (3, block)).astype(np.int32)
    out = np.zeros_like(numbers)
    run(load("scan"), "scan", 3, block, out, numbers, shared_bytes=2 * 4 * block)
    np.testing.assert_array_equal(out, numbers.cumsum(axis=1))


def test_scan_by_shuffles(load: Build) -> None:
    """Against ``cumsum`` of each warp; the last warp is short of values."""
    numbers = np.random.default_rng(8).integers(-99, 99, 150).astype(np.int32)
    out = np.zeros_like(numbers)
    run(load("scan"), "warp_scan", 3, 64, out, numbers, numbers.size)
    padded = np.pad(numbers, (0, 42)).reshape(-1, 32).cumsum(axis=1).ravel()
    np.testing.assert_array_equal(out, padded[:150])


@pytest.mark.parametrize("n", [8, 27])
def test_tiled_matrix_product(load: Build, n: int) -> None:
    """Bit for bit: each element is a sum in the order of k."""
    a, b = _floats(n * n, 9).reshape(n, n), _floats(n * n, 10).reshape(n, n)
    c = np.zeros_like(a)
    blocks = -(-n // 8)
    run(load("matrix"), "product", (blocks, blocks, 1), (8, 8, 1), c, a, b, n)
    expected = np.zeros_like(a)
    for k in range(n):
        expected += a[:, k, None] * b[None, k, :]
    np.testing.assert_array_equal(c, expected)


@pytest.mark.parametrize("block", [2, 64, 256])
def test_bitonic_sort(load: Build, block: int) -> None:
    """Against a stable sort, equal keys included."""
    keys = np.random.default_rng(11).integers(0, 2**32, (2, block), dtype=np.uint32)
    keys[:, ::3] %= 5
    expected = np.argsort(keys, axis=1, kind="stable")
    in_order = np.take_along_axis(keys, expected, axis=1)
    places = np.zeros_like(keys)
    run(load("bitonic"), "sort", 2, block, keys, places, shared_bytes=8 * block)
    np.testing.assert_array_equal(keys, in_order)
    np.testing.assert_array_equal(places, expected)


def test_n_body(load: Build) -> None:
    """Against the sum over all pairs in double precision."""
    n = 75
    bodies = _floats(4 * n, 12).reshape(n, 4) * 2 - 1
    bodies[:, 3] = np.abs(bodies[:, 3])
    out = np.zeros_like(bodies)
    run(load("nbody"), "accelerate", 3, 32, out, bodies, n, 0.01, shared_bytes=16 * 32)
    place = bodies[:, :3].astype(np.float64)
    apart = place[None, :, :] - place[:, None, :]
    pull = bodies[:, 3] * ((apart**2).sum(axis=2) + np.float32(0.01)) ** -1.5
    np.testing.assert_allclose(out[:, :3], (pull[:, :, None] * apart).sum(axis=1), rtol=2e-4)


@pytest.mark.parametrize(("kernel", "threads"), [("by_thread", 1), ("by_warp", 32)])
def test_sparse_matrix_times_vector(load: Build, kernel: str, threads: int) -> None:
    """Against SciPy; some rows are empty, one is full."""
    rows, columns = 57, 90
    matrix = scipy.sparse.random_array(
        (rows, columns), density=0.07, format="lil", rng=np.random.default_rng(13)
    )
    matrix[20] = 0.5
    matrix[21] = 0
    m = matrix.tocsr()
    x, y = np.random.default_rng(14).standard_normal(columns), np.full(rows, np.nan)
    starts, places = m.indptr.astype(np.int32), m.indices.astype(np.int32)
    blocks = -(-rows * threads // 64)
    run(load("spmv"), kernel, blocks, 64, y, starts, places, m.data, x, rows)
    np.testing.assert_allclose(y, m @ x, rtol=1e-13, atol=1e-15)
