"""Programs that compute with numbers of all kinds: random, double, 64-bit, half, bytes, scores."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.special

from tests.device.host.programs import run
from tests.device.programs.conftest import Build

MASK = 2**64 - 1


def _philox(counters: npt.NDArray[np.uint32], seed: int) -> npt.NDArray[np.uint64]:
    """Return ten rounds of Philox 4x32 on uint32[n, 4], key (seed, 0), in 64-bit arithmetic."""
    c0, c1, c2, c3 = (counters[:, i].astype(np.uint64) for i in range(4))
    low = np.uint64(0xFFFFFFFF)
    key0, key1 = seed, 0
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c2 = (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(key0), (p0 >> np.uint64(32)) ^ c3
        c2 ^= np.uint64(key1)
        c1, c3 = p1 & low, p0 & low
        key0, key1 = (key0 + 0x9E3779B9) % 2**32, (key1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3], axis=1)


def test_philox_reference_vector() -> None:
    """The model gives the known answer for zeros of the generator's authors."""
    zeros = np.zeros((1, 4), np.uint32)
    assert [f"{word:08x}" for word in _philox(zeros, 0)[0]] == [
        *("6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8")
    ]


def test_philox(load: Build) -> None:
    """Bit for bit."""
    n, seed = 500, 2026
    out = np.zeros((n, 4), np.uint32)
    run(load("philox"), "numbers", 4, 128, out, np.uint32(seed), n)
    counters = np.zeros((n, 4), np.uint32)
    counters[:, 0] = np.arange(n)
    np.testing.assert_array_equal(out, _philox(counters, seed))


def test_monte_carlo_pi(load: Build) -> None:
    """The very hits that numpy counts, and a pi that is not far off."""
    threads, rounds, seed = 128, 40, 7
    hits = np.zeros(1, np.uint64)
    run(load("philox"), "pi", 2, 64, hits, np.uint32(seed), rounds)
    thread, turn = np.divmod(np.arange(threads * rounds, dtype=np.uint32), np.uint32(rounds))
    zero = np.zeros_like(thread)
    random = _philox(np.stack([thread, turn, zero, zero], axis=1), seed)
    place = (random >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)
    squares = place * place
    inside = (squares[:, 0] + squares[:, 1] < 1).sum() + (squares[:, 2] + squares[:, 3] < 1).sum()
    assert hits[0] == inside
    assert abs(4 * inside / (2 * threads * rounds) - math.pi) < 0.05


def test_double_precision_is_exact(load: Build) -> None:
    """Bit for bit where IEEE has one answer."""
    n = 300
    a, b = np.random.default_rng(1).standard_normal((2, n)) * 100
    out = np.zeros((6, n))
    run(load("float64"), "exact", 1, 64, out, a, b, n)
    product = a * b
    fused = [math.fsum(_product_parts(x, y)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(out[0], product + a / b - np.sqrt(np.abs(a)))
    np.testing.assert_array_equal(out[1], fused)
    np.testing.assert_array_equal(out[2], np.floor(a) + np.ceil(b) * 4 + np.rint(product) * 16)
    np.testing.assert_array_equal(out[3], np.minimum(a, b) + np.copysign(np.maximum(a, b), a))
    np.testing.assert_array_equal(out[4], (a.view(np.int64) ^ 1).view(np.float64))
    np.testing.assert_array_equal(out[5], np.trunc(a * 1e6) + np.arange(n))


def _product_parts(x: float, y: float) -> tuple[float, ...]:
    """Return numbers whose exact sum is x y minus its rounding, by Dekker's splitting."""
    xh, yh = (value * 134217729 - (value * 134217729 - value) for value in (x, y))
    xl, yl = x - xh, y - yh
    return xh * yh, xh * yl, xl * yh, xl * yl, -(x * y)


def test_double_precision_mathematics(load: Build) -> None:
    """Against numpy and SciPy, to a few units in the last place."""
    n = 200
    x = np.random.default_rng(2).random(n) * 4 + 0.01
    out = np.zeros((7, n))
    run(load("float64"), "functions", 4, 64, out, x, n)
    special = scipy.special.erf(x) + scipy.special.gamma(x + 1) + scipy.special.gammaln(x)
    expected = [
        np.sin(x),
        np.cos(x),
        np.exp(-x) + np.expm1(x),
        np.log(x) + np.log1p(x) * np.log10(x) + np.log2(x),
        x**1.7 + np.cbrt(x) + np.hypot(x, 2),
        special,
        np.arctan2(x, 3) + np.arcsinh(x) + np.tanh(x) + x**-0.5,
    ]
    np.testing.assert_allclose(out, expected, rtol=4e-15, atol=4e-15)


def test_hashing_in_64_bits(load: Build) -> None:
    """Against Python's integers."""
    text = np.random.default_rng(3).integers(0, 256, (64, 20)).astype(np.uint8)
    out = np.zeros(64, np.uint64)
    run(load("hashing"), "fnv", 2, 32, out, text, 20)
    for row, found in zip(text, out, strict=True):
        hashed = 0xCBF29CE484222325
        for byte in row:
            hashed = (hashed ^ int(byte)) * 0x100000001B3 & MASK
        assert found == hashed

    run(load("hashing"), "splitmix", 2, 32, out, np.uint64(99))
    for i, found in enumerate(out):
        z = (99 + 0x9E3779B97F4A7C15 * (i + 1)) & MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        zeros = 64 - (z >> i % 64).bit_length()
        assert found == ((z ^ z >> 31) + (z * z >> 64) + z.bit_count() + zeros) & MASK


def _interpret(i: int, program: list[int]) -> int:
    """Return what thread i of ``interpret`` computes, as an unsigned 32-bit number."""
    word = 2**32 - 1
    a, b = i, 1
    for step in program:
        match step:
            case 0:
                a += b
            case 1:
                a -= 3 * b
            case 2:
                a, b = b, a
            case 3:
                b ^= a << 1
                a = a * 5 + 1
            case 4:
                a = a * 5 + 1
            case 5:
                b += i if a & 1 else 0
            case 7:
                a = ((b << 32 | a) << i % 32) >> 32
            case 9:
                b >>= i & 7
            case _:
                a = ~a
        a, b = a & word, b & word
    return a ^ b


def test_switch(load: Build) -> None:
    """A table of arms with holes, one that falls through, and steps that vary with the thread."""
    program = np.random.default_rng(4).integers(0, 11, 60).astype(np.uint8)
    assert set(program) == set(range(11))
    out = np.zeros(64, np.uint32)
    run(load("hashing"), "interpret", 1, 64, out, program, program.size)
    assert out.tolist() == [_interpret(i, program.tolist()) for i in range(64)]


def test_half_precision(load: Build) -> None:
    """Bit for bit against numpy's half, which rounds each operation once as well."""
    n = 500
    a, b = np.random.default_rng(5).standard_normal((2, n)).astype(np.float16) * np.float16(9)
    a[:4], b[:4] = [6e-8, 60000, np.inf, 0], [6e-8, 60000, 1, 3]
    out = np.zeros((5, n), np.float16)
    run(load("narrow"), "arithmetic", 8, 64, out, a, b, n)
    wide = a.astype(np.float64)
    with np.errstate(all="ignore"):
        expected = [
            a + b,
            a * b,
            a / b,
            (wide * b - wide).astype(np.float16),
            np.where(a < b, np.sqrt(np.abs(a)), np.float16(-1)),
        ]
    for found, known in zip(out, expected, strict=True):
        np.testing.assert_array_equal(found, known)

    y = b[4:].copy()
    run(load("narrow"), "axpy", 1, 32, y, a[4:].copy(), 0.3, n - 4)
    single = np.float32(0.3) * a[4:].astype(np.float32) + b[4:].astype(np.float32)
    np.testing.assert_array_equal(y, single.astype(np.float16))


def test_signed_bytes(load: Build) -> None:
    """Products of bytes summed in 32 bits, one by one and four at a time; saturation."""
    rows, k = 64, 24
    rng = np.random.default_rng(6)
    a = rng.integers(-128, 128, (rows, k)).astype(np.int8)
    b = rng.integers(-128, 128, k).astype(np.int8)
    expected = a.astype(np.int32) @ b.astype(np.int32)
    out = np.zeros(rows, np.int32)
    run(load("narrow"), "quantised", 2, 32, out, a, b, k)
    np.testing.assert_array_equal(out, expected)
    run(load("narrow"), "dot4", 2, 32, out, a, b, k // 4)
    np.testing.assert_array_equal(out, expected)

    wide = rng.integers(-300, 300, 100).astype(np.int16)
    narrow = np.zeros(100, np.int8)
    run(load("narrow"), "saturate", 2, 64, narrow, wide, 100)
    tripled = np.trunc(wide * 3.0 / 2)
    np.testing.assert_array_equal(narrow, np.clip(tripled, -128, 127))


def _smith_waterman(a: str, b: str) -> npt.NDArray[np.int32]:
    """Return the scores of all local alignments, by the recurrence."""
    scores = np.zeros((len(a) + 1, len(b) + 1), np.int32)
    for i, x in enumerate(a, start=1):
        for j, y in enumerate(b, start=1):
            diagonal = scores[i - 1, j - 1] + (3 if x == y else -3)
            scores[i, j] = max(0, diagonal, scores[i - 1, j] - 2, scores[i, j - 1] - 2)
    return scores[1:, 1:]


@pytest.mark.parametrize(("a", "b"), [("GGTTGACTA", "TGTTACGG"), ("ACGT" * 10, "TTACGTACGGT" * 5)])
def test_smith_waterman(load: Build, a: str, b: str) -> None:
    """The textbook's pair, whose best score is 13, and a longer one."""
    expected = _smith_waterman(a, b)
    scores, best = np.full((len(a), len(b)), -1, np.int32), np.zeros(1, np.int32)
    left, right = (np.frombuffer(text.encode(), np.int8).copy() for text in (a, b))
    run(load("smith_waterman"), "align", 1, 64, best, scores, left, right, len(a), len(b))
    np.testing.assert_array_equal(scores, expected)
    assert best[0] == expected.max()
    if a == "GGTTGACTA":
        assert best[0] == 13
