"""The CUDA names for clang: what they compute on the host device, against numpy and Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from tests.device.compiler.test_cuda_names import SIMD_1, SIMD_2
from tests.device.host.programs import cuda, run

Words = npt.NDArray[np.uint32]
Lanes = npt.NDArray[np.int64]
KERNEL = 'extern "C" __global__ void k'


def _words(seed: int, count: int = 400) -> tuple[Words, Words]:
    """Return two arrays of words, some of their bytes at the ends of their range."""
    rng = np.random.default_rng(seed)
    ends = np.array([0, 1, 0x7F, 0x80, 0xFF], np.uint8)
    random = rng.integers(0, 256, (2, count, 4)).astype(np.uint8)
    bytes_ = np.where(rng.random((2, count, 4)) < 0.4, rng.choice(ends, (2, count, 4)), random)
    a, b = bytes_.reshape(2, -1).view(np.uint32)
    b[::7] = a[::7]
    return a.copy(), b.copy()


# Four bytes or two halfwords at once

_PAIRS: dict[str, Callable[[Lanes, Lanes, int], Lanes]] = {
    "add": lambda a, b, high: a + b,
    "sub": lambda a, b, high: a - b,
    "addss": lambda a, b, high: np.clip(a + b, -high - 1, high),
    "subss": lambda a, b, high: np.clip(a - b, -high - 1, high),
    "addus": lambda a, b, high: np.minimum(a + b, 2 * high + 1),
    "subus": lambda a, b, high: np.maximum(a - b, 0),
    "min": lambda a, b, high: np.minimum(a, b),
    "max": lambda a, b, high: np.maximum(a, b),
    "avgs": lambda a, b, high: (a + b + (a + b >= 0)) // 2,
    "avgu": lambda a, b, high: (a + b + 1) // 2,
    "hadd": lambda a, b, high: (a + b) // 2,
    "absdiff": lambda a, b, high: np.abs(a - b),
    "cmpeq": lambda a, b, high: -(a == b).astype(np.int64),
    "cmpne": lambda a, b, high: -(a != b).astype(np.int64),
    "cmpgt": lambda a, b, high: -(a > b).astype(np.int64),
    "cmpge": lambda a, b, high: -(a >= b).astype(np.int64),
    "cmplt": lambda a, b, high: -(a < b).astype(np.int64),
    "cmple": lambda a, b, high: -(a <= b).astype(np.int64),
    "seteq": lambda a, b, high: (a == b).astype(np.int64),
    "setne": lambda a, b, high: (a != b).astype(np.int64),
    "abs": lambda a, b, high: np.abs(a),
    "absss": lambda a, b, high: np.minimum(np.abs(a), high),
    "neg": lambda a, b, high: -a,
    "negss": lambda a, b, high: np.minimum(-a, high),
}
_SIGNED = ("addss", "subss", "abs", "absss", "neg", "negss")


def _lanes(words: Words, count: int, *, signed: bool) -> Lanes:
    kind = {(2, False): "u2", (2, True): "i2", (4, False): "u1", (4, True): "i1"}[count, signed]
    return words.view(kind).reshape(-1, count).astype(np.int64)


def _model(name: str, count: int, a: Words, b: Words) -> Lanes:
    signed = name in _SIGNED or (name.endswith("s") and name not in ("addus", "subus"))
    left, right = (_lanes(words, count, signed=signed) for words in (a, b))
    if name in ("sads", "sadu"):
        return np.asarray(np.abs(left - right).sum(axis=1), np.int64)
    plain = name if name in _PAIRS else name[:-1]
    bits = 32 // count
    lanes = _PAIRS[plain](left, right, 2 ** (bits - 1) - 1) % 2**bits
    return np.asarray((lanes << (bits * np.arange(count))).sum(axis=1), np.int64)


@pytest.mark.parametrize("count", [2, 4])
def test_lanes_of_a_word(count: int) -> None:
    """Every name, with bytes at the ends of their range."""
    names = [*SIMD_2.split(), *SIMD_1.split()]
    calls = "".join(
        f"out[{i} * n + i] = __v{name}{count}(a[i]{'' if name in SIMD_1.split() else ', b[i]'});\n"
        for i, name in enumerate(names)
    ).replace("out[", "p[")
    source = f"{KERNEL}(unsigned* p, const unsigned* a, const unsigned* b, int n) {{\n"
    source += "int i = threadIdx.x + blockIdx.x * blockDim.x; if (i >= n) return;\n" + calls + "}"
    a, b = _words(count)
    out = np.zeros((len(names), a.size), np.uint32)
    run(cuda(source), "k", 4, 128, out, a, b, a.size)
    for name, found in zip(names, out, strict=True):
        np.testing.assert_array_equal(found, _model(name, count, a, b), err_msg=name)


def test_sums_of_products() -> None:
    """dp4a and dp2a, signed and unsigned; sums wrap."""
    source = f"""{KERNEL}(unsigned* p, const unsigned* a, const unsigned* b, int n) {{
  int i = threadIdx.x, x = a[i], y = b[i], z = a[n - 1 - i];
  p[i] = __dp4a(x, y, z); p[n + i] = __dp4a(a[i], b[i], a[n - 1 - i]);
  p[2 * n + i] = __dp2a_lo(x, y, z); p[3 * n + i] = __dp2a_lo(a[i], b[i], a[n - 1 - i]);
  p[4 * n + i] = __dp2a_hi(x, y, z); p[5 * n + i] = __dp2a_hi(a[i], b[i], a[n - 1 - i]);
}}"""
    a, b = _words(7)
    out = np.zeros((6, a.size), np.uint32)
    run(cuda(source), "k", 1, a.size, out, a, b, a.size)
    for row, (halves, first) in enumerate([(4, 0), (2, 0), (2, 2)]):
        for signed in (True, False):
            left = _lanes(a, halves, signed=signed)
            right = _lanes(b, 4, signed=signed)[:, first : first + halves]
            expected = (a[::-1].astype(np.int64) + (left * right).sum(axis=1)) % 2**32
            np.testing.assert_array_equal(out[2 * row + (not signed)], expected)


def test_places_of_set_bits() -> None:
    """``__fns`` upwards, downwards and for the base itself."""
    source = f"""{KERNEL}(unsigned* p, const unsigned* mask, const int* base, const int* n) {{
  p[threadIdx.x] = __fns(mask[threadIdx.x], base[threadIdx.x], n[threadIdx.x]);
}}"""
    rng = np.random.default_rng(3)
    mask = rng.integers(0, 2**32, 500, dtype=np.uint32)
    base, n = rng.integers(0, 32, 500).astype(np.int32), rng.integers(-9, 9, 500).astype(np.int32)
    out = np.zeros(500, np.uint32)
    run(cuda(source), "k", 1, 500, out, mask, base, n)
    for m, start, which, found in zip(mask, base, n, out, strict=True):
        places = [i for i in range(32) if int(m) >> i & 1]
        if which == 0:
            known = [int(start)] if start in places else []
        elif which > 0:
            known = [i for i in places if i >= start][which - 1 : which]
        else:
            known = [i for i in reversed(places) if i <= start][-which - 1 : -which]
        assert found == (known[0] if known else 2**32 - 1)


# Floating point


def _corners(dtype: type[np.floating]) -> npt.NDArray[np.floating]:
    """Return zeros, infinities, NaN, the smallest and largest numbers, ties, and random ones."""
    limits = np.finfo(dtype)
    random = np.random.default_rng(5).standard_normal(200) * 10.0 ** np.arange(-20, 20, 0.2)
    corners = [0.0, math.inf, math.nan, 0.5, 1.0, 1.5, 2.5, 0.49999997, 3.99, 1e-3]
    tiny = [limits.smallest_subnormal, 5 * limits.smallest_subnormal, limits.tiny, limits.max]
    both = np.concatenate([corners, [float(value) for value in tiny], random]).astype(dtype)
    return np.concatenate([both, -both])


@pytest.mark.parametrize(("c_type", "suffix"), [("float", "f"), ("double", "")])
def test_parts_of_numbers(c_type: str, suffix: str) -> None:
    """frexp, ldexp, ilogb, logb, modf and nextafter, subnormal numbers and corners included."""
    source = f"""{KERNEL}({c_type}* p, int* e, const {c_type}* x, int n) {{
  int i = threadIdx.x;
  p[i] = frexp{suffix}(x[i], e + i);
  e[n + i] = ilogb{suffix}(x[i]);
  p[n + i] = logb{suffix}(x[i]);
  p[3 * n + i] = modf{suffix}(x[i], p + 2 * n + i);
  p[4 * n + i] = nextafter{suffix}(x[i], {c_type}(1));
  p[5 * n + i] = scalbn{suffix}(x[i], 7) + scalbln{suffix}(x[i], -9l);
}}"""
    dtype = np.float32 if suffix else np.float64
    x = _corners(dtype)
    out, exponents = np.zeros((6, x.size), dtype), np.zeros((2, x.size), np.int32)
    run(cuda(source), "k", 1, x.size, out, exponents, x, x.size)
    mantissa, exponent = np.frexp(x)
    finite = np.isfinite(x)
    np.testing.assert_array_equal(out[0], mantissa)
    np.testing.assert_array_equal(exponents[0][finite], exponent[finite])
    usual = finite & (x != 0)
    np.testing.assert_array_equal(exponents[1][usual], exponent[usual] - 1)
    assert set(exponents[1][np.isinf(x)]) == {2**31 - 1}
    assert set(exponents[1][~usual & ~np.isinf(x)]) == {-(2**31)}
    np.testing.assert_array_equal(out[1][usual], exponent[usual] - 1)
    np.testing.assert_array_equal(out[1][x == 0], -math.inf)
    np.testing.assert_array_equal(out[1][np.isinf(x)], math.inf)
    fraction, whole = np.modf(x)
    np.testing.assert_array_equal(out[2], whole)
    np.testing.assert_array_equal(out[3], fraction)
    np.testing.assert_array_equal(np.signbit(out[3])[x == x], np.signbit(x)[x == x])
    np.testing.assert_array_equal(out[4], np.nextafter(x, dtype(1)))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(out[5], np.ldexp(x, 7) + np.ldexp(x, -9))


def test_rounding_to_whole_numbers() -> None:
    """Ties to even for rint, away from zero for round."""
    source = f"""{KERNEL}(long long* p, const double* x, const float* f, int n) {{
  int i = threadIdx.x;
  p[i] = lrint(x[i]); p[n + i] = llround(x[i]); p[2 * n + i] = llrintf(f[i]);
  p[3 * n + i] = lroundf(f[i]);
}}"""
    x = np.array([0.5, 1.5, 2.5, -0.5, -2.5, 0.49999999999999994, 4e9 + 0.5, -7.2, 8388609.0])
    f = x.astype(np.float32)
    out = np.zeros((4, x.size), np.int64)
    run(cuda(source), "k", 1, x.size, out, x, f, x.size)
    away = [math.floor(abs(v)) + (abs(v) % 1 >= 0.5) for v in map(float, x)]
    np.testing.assert_array_equal(out[0], np.rint(x))
    np.testing.assert_array_equal(out[1], np.copysign(away, x))
    np.testing.assert_array_equal(out[2], np.rint(f))
    away = [math.floor(abs(v)) + (abs(v) % 1 >= 0.5) for v in map(float, f)]
    np.testing.assert_array_equal(out[3], np.copysign(away, f))


def test_directed_rounding() -> None:
    """rd goes down, ru up, rz to zero, for operations and for conversions."""
    modes = ("rn", "rz", "rd", "ru")
    lines = "".join(
        f"p[{3 * i}] = __fadd_{m}(f[0], f[1]); p[{3 * i + 1}] = __fdiv_{m}(f[2], f[3]);\n"
        f"p[{3 * i + 2}] = __ll2float_{m}(l[0]);\n"
        for i, m in enumerate(modes)
    )
    source = f"{KERNEL}(float* p, const float* f, const long long* l) {{\n{lines}}}"
    f, whole = np.array([1, 1e-9, -1, 3], np.float32), np.array([2**40 + 1], np.int64)
    out = np.zeros((4, 3), np.float32)
    run(cuda(source), "k", 1, 1, out, f, whole)
    for column, exact in enumerate(
        [Fraction(1) + Fraction(float(f[1])), Fraction(-1, 3), Fraction(2**40 + 1)]
    ):
        nearest, to_zero, down, up = (Fraction(float(v)) for v in out[:, column])
        assert down < exact < up
        assert np.nextafter(np.float32(down), np.float32(np.inf)) == np.float32(up)
        assert to_zero == (down if exact > 0 else up)
        assert nearest == min((down, up), key=lambda side: abs(side - exact))


def test_multiples_of_pi() -> None:
    """Exact at halves, near the library's values elsewhere, also for large arguments."""
    source = f"""{KERNEL}(double* p, const double* x, int n) {{
  int i = threadIdx.x;
  p[i] = sinpi(x[i]); p[n + i] = cospi(x[i]);
  p[2 * n + i] = sinpif(float(x[i])); p[3 * n + i] = cospif(float(x[i]));
}}"""
    halves = np.arange(-8, 9) * 0.5
    x = np.concatenate([halves, halves + 2.0**30, np.random.default_rng(6).standard_normal(100)])
    out = np.zeros((4, x.size))
    run(cuda(source), "k", 1, x.size, out, x, x.size)
    sine = np.tile([0.0, 1, 0, -1], 9)[:17]
    cosine = np.tile([1.0, 0, -1, 0], 9)[:17]
    for first in (0, 17):
        np.testing.assert_array_equal(out[0, first : first + 17], sine)
        np.testing.assert_array_equal(out[1, first : first + 17], cosine)
    np.testing.assert_allclose(out[0, 34:], np.sin(np.pi * x[34:]), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(out[1, 34:], np.cos(np.pi * x[34:]), rtol=1e-13, atol=1e-15)
    single = np.r_[:17, 34 : x.size]
    np.testing.assert_allclose(out[2:, single], out[:2, single], rtol=3e-6, atol=3e-7)


# Memory and threads


def test_ordered_atomics() -> None:
    """Each returns the value before, and leaves the one after."""
    source = f"""{KERNEL}(int* p, int* seen) {{
  seen[0] = __nv_atomic_fetch_add(p, 5, __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_BLOCK);
  seen[1] = __nv_atomic_fetch_sub(p, 1, __NV_ATOMIC_ACQ_REL);
  seen[2] = __nv_atomic_exchange_n(p, 12, __NV_ATOMIC_SEQ_CST);
  seen[3] = __nv_atomic_fetch_and(p, 10, __NV_ATOMIC_RELEASE);
  seen[4] = __nv_atomic_fetch_or(p, 3, __NV_ATOMIC_ACQUIRE);
  seen[5] = __nv_atomic_fetch_xor(p, 1, __NV_ATOMIC_RELAXED);
  seen[6] = __nv_atomic_fetch_min(p, -4, __NV_ATOMIC_RELAXED);
  seen[7] = __nv_atomic_fetch_max(p, 6, __NV_ATOMIC_RELAXED);
  int expected = 5;
  seen[8] = __nv_atomic_compare_exchange_n(p, &expected, 9, false, __NV_ATOMIC_SEQ_CST,
                                           __NV_ATOMIC_RELAXED);
  seen[9] = expected;
  seen[10] = __nv_atomic_compare_exchange_n(p, &expected, 9, false, __NV_ATOMIC_SEQ_CST,
                                            __NV_ATOMIC_RELAXED);
  __nv_atomic_store_n(p + 1, __nv_atomic_load_n(p, __NV_ATOMIC_ACQUIRE), __NV_ATOMIC_RELEASE);
  __nv_atomic_thread_fence(__NV_ATOMIC_SEQ_CST);
}}"""
    cells, seen = np.array([2, 0], np.int32), np.zeros(11, np.int32)
    run(cuda(source), "k", 1, 1, cells, seen)
    assert seen.tolist() == [2, 7, 6, 12, 8, 11, 10, -4, 0, 6, 1]
    assert cells.tolist() == [9, 9]


def test_address_spaces() -> None:
    """An address knows its space, and comes back from its narrow form."""
    source = f"""__constant__ int fixed[2] = {{3, 4}};
{KERNEL}(int* p, int n) {{
  __shared__ int block[32];
  int mine[4] = {{n, n + 1, n + 2, n + 3}};
  block[threadIdx.x] = threadIdx.x;
  __syncthreads();
  int* shared = (int*)__cvta_shared_to_generic(__cvta_generic_to_shared(block + 5));
  int* global = (int*)__cvta_global_to_generic(__cvta_generic_to_global(p));
  int* local = mine + n % 4;
  if (threadIdx.x == 0) {{
    p[0] = __isShared(block) + 2 * __isGlobal(block) + 4 * __isLocal(block);
    p[1] = __isShared(p) + 2 * __isGlobal(p) + 4 * __isLocal(p);
    p[2] = __isShared(local) + 2 * __isGlobal(local) + 4 * __isLocal(local);
    p[3] = *shared;
    global[4] = *local + fixed[n % 2];
  }}
}}"""
    out = np.zeros(5, np.int32)
    run(cuda(source), "k", 1, 32, out, 7)
    assert out.tolist() == [1, 2, 4, 5, 10 + 4]


def test_barriers_by_number() -> None:
    """Two thirds of a block meet at a barrier of their own, then all at another."""
    source = f"""{KERNEL}(int* p) {{
  __shared__ int cells[96];
  int t = threadIdx.x;
  cells[t] = t;
  if (t < 64) {{
    __barrier_sync_count(1, 64);
    p[t] = cells[63 - t];
  }}
  __barrier_sync(2);
  if (t >= 64) p[t] = cells[t - 64] + 1000;
}}"""
    out = np.zeros(96, np.int32)
    run(cuda(source), "k", 1, 96, out)
    assert out.tolist() == [*range(63, -1, -1), *range(1000, 1032)]


# Half precision


def test_half_from_and_to_other_numbers() -> None:
    """All 65,536 halves to float and back; doubles and integers rounded once; comparisons."""
    source = f"""#include <cuda_fp16.h>
{KERNEL}(unsigned short* h, float* f, int n) {{
  for (int i = threadIdx.x; i < n; i += blockDim.x) {{
    f[i] = __half2float(__ushort_as_half(static_cast<unsigned short>(i)));
    h[i] = __half_as_ushort(__float2half_rn(f[i]));
  }}
}}
extern "C" __global__ void rounded(__half* h, const double* d, const int* v, int* whole, int n) {{
  int i = threadIdx.x;
  h[i] = __double2half(d[i]);
  h[n + i] = __float2half(static_cast<float>(d[i]));
  h[2 * n + i] = __int2half_rn(v[i]);
  __syncthreads();
  whole[i] = __half2int_rn(h[i]);
  whole[n + i] = __half2int_rd(h[i]);
  whole[2 * n + i] = (h[i] == h[i]) + 2 * __hlt(h[i], h[n - 1 - i]) + 4 * __hisinf(h[i])
                   + 64 * __hisnan(h[i]) + 128 * (h[i] >= __half(0.0f));
}}"""
    program = cuda(source)
    bits, floats = np.zeros(65536, np.uint16), np.zeros(65536, np.float32)
    run(program, "k", 1, 256, bits, floats, 65536)
    every = np.arange(65536).astype(np.uint16)
    halves = every.view(np.float16)
    known = halves == halves
    np.testing.assert_array_equal(floats, halves.astype(np.float32))
    np.testing.assert_array_equal(bits[known], every[known])
    assert np.isnan(bits.view(np.float16)[~known]).all()

    tie = 1 + 2.0**-11  # between two halves; a bit more than a tie only in double
    d = np.array([tie, tie + 2.0**-40, -tie, 65519.99, 65520, 6e-8, 2e-8, math.nan, -1.5, 7.5])
    v = np.array([2049, 2051, -2049, 65504, 65520, 70000, 0, 1, -1, 5], np.int32)
    out, whole = np.zeros((3, 10), np.float16), np.zeros((3, 10), np.int32)
    run(program, "rounded", 1, 10, out, d, v, whole, 10)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = d.astype(np.float16)
        np.testing.assert_array_equal(out[0], expected)
        np.testing.assert_array_equal(out[1], d.astype(np.float32).astype(np.float16))
        np.testing.assert_array_equal(out[2], v.astype(np.float16))
    assert out[0, 1] != out[1, 1]
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(whole[0][finite], np.rint(expected[finite]))
    np.testing.assert_array_equal(whole[1][finite], np.floor(expected[finite]))
    flags = (expected == expected) + 2 * (expected < expected[::-1]) + 4 * np.isinf(expected)
    flags = flags + 64 * np.isnan(expected) + 128 * (expected >= 0)
    np.testing.assert_array_equal(whole[2], flags)


def test_pairs_of_halves_and_halves_in_a_warp() -> None:
    """Arithmetic by parts, a shuffle, and an atomic sum."""
    source = f"""#include <cuda_fp16.h>
{KERNEL}(half2* p, const half2* a, const half2* b, half* sum, half* moved) {{
  int i = threadIdx.x, n = blockDim.x;
  p[i] = a[i] + b[i];
  p[n + i] = __hfma2(a[i], b[i], __half2half2(__low2half(a[i])));
  p[2 * n + i] = __floats2half2_rn(__high2float(a[i]), __half22float2(b[i]).x);
  half2 c = a[i];
  c *= b[i];
  p[3 * n + i] = __hneg2(__hsub2(c, __float2half2_rn(0.5f)));
  moved[i] = __shfl_down_sync(0xffffffffu, a[i].x, 3);
  atomicAdd(sum, __float2half(0.25f));
}}"""
    rng = np.random.default_rng(8)
    a, b = rng.standard_normal((2, 32, 2)).astype(np.float16)
    out = np.zeros((4, 32, 2), np.float16)
    total, moved = np.zeros(1, np.float16), np.zeros(32, np.float16)
    run(cuda(source), "k", 1, 32, out, a.copy(), b.copy(), total, moved)
    np.testing.assert_array_equal(out[0], a + b)
    wide = a.astype(np.float64) * b + a[:, :1]
    np.testing.assert_array_equal(out[1], wide.astype(np.float16))
    np.testing.assert_array_equal(out[2], np.stack([a[:, 1], b[:, 0]], axis=1))
    np.testing.assert_array_equal(out[3], -(a * b - np.float16(0.5)))
    np.testing.assert_array_equal(moved, np.concatenate([a[3:, 0], a[29:, 0]]))
    assert total[0] == 8
