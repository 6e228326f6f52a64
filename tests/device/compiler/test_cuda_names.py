"""The CUDA names for clang: the same source under both front ends, and values where they fold."""

from __future__ import annotations

import re

import pytest

from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.compiler.nvrtc import compile_to_cubin
from ringflow.errors import CompileError

SOURCES = {
    "indices": """
extern "C" __global__ void __launch_bounds__(256, 2) k(uint3* out, dim3* size) {
  extern __shared__ float dynamic[];
  __shared__ __align__(16) char fixed[64];
  fixed[threadIdx.x] = static_cast<char>(warpSize);
  dynamic[threadIdx.y] = threadIdx.z;
  out[0] = threadIdx;
  out[1] = blockIdx;
  size[0] = blockDim;
  size[1] = gridDim;
  size[2] = dim3(2);
  static_assert(__CUDA_ARCH__ >= 800, "device code");
}
""",
    "vectors": """
template <class T, class S> __device__ S sum(T v) { return v.x + v.y + v.z + v.w; }
extern "C" __global__ void k(float4* f, double2* d, uchar4* u, longlong2* l, int3* i, char3* c) {
  f[0] = make_float4(f[1].x, 1.0f, 2.0f, sum<float4, float>(f[2]));
  d[0] = make_double2(d[1].y, 2.0);
  u[0] = make_uchar4(1, 2, 3, u[1].w);
  l[0] = make_longlong2(l[1].x, 5);
  i[0] = make_int3(1, 2, i[1].z);
  c[0] = make_char3(1, 2, c[1].y);
  static_assert(sizeof(float3) == 12 && alignof(float3) == 4 && sizeof(uint1) == 4);
  static_assert(alignof(float4) == 16 && alignof(double2) == 16 && alignof(uchar4) == 4);
  static_assert(alignof(short2) == 4 && alignof(ushort4) == 8 && alignof(int2) == 8);
  static_assert(alignof(ulonglong2) == 16 && alignof(long2) == 16 && alignof(char2) == 2);
}
""",
    "wide vectors": """
extern "C" __global__ void k(double4_16a* a, double4_32a* b, ulonglong4_32a* c, long4_16a* d) {
  a[0] = make_double4_16a(1, 2, 3, a[1].w);
  b[0] = make_double4_32a(1, 2, 3, b[1].w);
  c[0] = make_ulonglong4_32a(1, 2, 3, c[1].w);
  d[0].x = d[1].w;
  static_assert(alignof(double4_16a) == 16 && alignof(double4_32a) == 32);
  static_assert(alignof(ulonglong4_32a) == 32 && alignof(long4_16a) == 16);
}
""",
    "overloads": """
extern "C" __global__ void k(float* f, double* d, int* i, uint3* u) {
  static_assert(sizeof(frexp(f[0], i)) == 4 && sizeof(ldexp(f[0], 1)) == 4);
  static_assert(sizeof(scalbn(f[0], 1)) == 4 && sizeof(scalbln(f[0], 1l)) == 4);
  static_assert(sizeof(logb(f[0])) == 4 && sizeof(nextafter(f[0], f[1])) == 4);
  static_assert(sizeof(modf(f[0], f)) == 4 && sizeof(fdim(f[0], f[1])) == 4);
  static_assert(sizeof(sinpi(f[0])) == 4 && sizeof(cospi(f[0])) == 4);
  static_assert(sizeof(rcbrt(f[0])) == 4 && sizeof(normcdf(f[0])) == 4);
  static_assert(sizeof(exp10(f[0])) == 4 && sizeof(exp10(d[0])) == 8);
  sincos(f[0], f, f + 1); sincospi(f[0], f, f + 1);
  __stcg(f, 1); __stwt(d, f[0]);
  dim3 a(threadIdx), b = blockIdx;
  a = threadIdx; b = blockDim;
  uint3 c = blockDim, e(gridDim);
  u[0] = a; u[1] = b; u[2] = c; u[3] = e;
}
""",
    "warp": """
template <class T> __device__ T all(unsigned mask, T v) {
  v += __shfl_sync(mask, v, 3);
  v += __shfl_up_sync(mask, v, 1u);
  v += __shfl_down_sync(mask, v, 2u, 16);
  return v + __shfl_xor_sync(mask, v, 8);
}
extern "C" __global__ void k(int* i, unsigned* u, long long* l, unsigned long long* q, float* f,
                             double* d, long* n, unsigned long* m) {
  const unsigned mask = __activemask();
  i[0] = all(mask, i[1]); u[0] = all(mask, u[1]); l[0] = all(mask, l[1]); q[0] = all(mask, q[1]);
  f[0] = all(mask, f[1]); d[0] = all(mask, d[1]); n[0] = all(mask, n[1]); m[0] = all(mask, m[1]);
  i[2] = __all_sync(mask, i[3]) + __any_sync(mask, i[3]) + __uni_sync(mask, i[3]);
  u[2] = __ballot_sync(mask, i[3]) + __match_any_sync(mask, q[3]) + __match_any_sync(mask, i[3]);
  int same;
  u[3] = __match_all_sync(mask, u[5], &same) + same;
  u[4] = __reduce_add_sync(mask, u[5]) + __reduce_min_sync(mask, u[5])
       + __reduce_max_sync(mask, u[5]) + __reduce_and_sync(mask, u[5])
       + __reduce_or_sync(mask, u[5]) + __reduce_xor_sync(mask, u[5]);
  i[4] = __reduce_add_sync(mask, i[5]) + __reduce_min_sync(mask, i[5])
       + __reduce_max_sync(mask, i[5]);
  __syncwarp();
  __syncwarp(mask);
}
""",
    "barriers": """
extern "C" __global__ void k(int* i, long long* l) {
  __syncthreads();
  i[0] = __syncthreads_count(i[1]) + __syncthreads_and(i[1]) + __syncthreads_or(i[1]);
  __threadfence_block(); __threadfence(); __threadfence_system();
  __nanosleep(100);
  l[0] = clock64() + clock();
  if (i[2]) __trap();
  if (i[3]) __brkpt();
  assert(i[4] == 1);
  if (i[5]) printf("%d\\n", i[5]);
  memcpy(i, l, sizeof(long long));
  memset(i + 8, 0, 4 * sizeof(int));
}
""",
    "atomics": """
template <class T> __device__ void arithmetic(T* p) {
  atomicAdd(p, T(1)); atomicAdd_block(p, T(1)); atomicAdd_system(p, T(1));
}
template <class T> __device__ void bits(T* p) {
  atomicAnd(p, T(1)); atomicOr(p, T(1)); atomicXor(p, T(1)); atomicExch(p, T(1));
  atomicAnd_block(p, T(1)); atomicOr_system(p, T(1)); atomicExch_system(p, T(1));
  p[1] = atomicCAS(p, T(1), T(2)); p[2] = atomicCAS_block(p, T(1), T(2));
  p[3] = atomicCAS_system(p, T(1), T(2));
}
template <class T> __device__ void order(T* p) {
  atomicMin(p, T(1)); atomicMax(p, T(1)); atomicMin_block(p, T(1)); atomicMax_system(p, T(1));
}
extern "C" __global__ void k(int* i, unsigned* u, long long* l, unsigned long long* q, float* f,
                             double* d) {
  arithmetic(i); arithmetic(u); arithmetic(q); arithmetic(f); arithmetic(d);
  bits(i); bits(u); bits(q);
  order(i); order(u); order(l); order(q);
  atomicSub(i, 1); atomicSub(u, 1u); atomicInc(u, 5u); atomicDec(u, 5u); atomicExch(f, 1.0f);
}
""",
    "integers": """
extern "C" __global__ void k(int* i, unsigned* u, long long* l, unsigned long long* q,
                             const float* __restrict__ f, float4* v) {
  i[0] = __popc(u[0]) + __popcll(q[0]) + __clz(i[1]) + __clzll(l[1]) + __ffs(i[1]) + __ffsll(l[1]);
  u[1] = __brev(u[2]) + __umulhi(u[3], u[4]) + __byte_perm(u[5], u[6], u[7]) + __umul24(u[8], 3);
  q[1] = __brevll(q[2]) + __umul64hi(q[3], q[4]);
  l[2] = __mul64hi(l[3], l[4]);
  i[2] = __mulhi(i[3], i[4]) + __mul24(i[5], i[6]) + __hadd(i[7], i[8]) + __rhadd(i[7], i[8]);
  u[9] = __funnelshift_l(u[1], u[2], u[3]) + __funnelshift_r(u[1], u[2], u[3])
       + __funnelshift_lc(u[1], u[2], u[3]) + __funnelshift_rc(u[1], u[2], u[3])
       + __sad(i[1], i[2], u[3]) + __usad(u[1], u[2], u[3]) + __uhadd(u[1], u[2])
       + __urhadd(u[1], u[2]);
  i[9] = abs(i[1]) + min(i[1], i[2]) + max(i[1], i[2]) + labs(i[3]) + llabs(l[5]);
  u[10] = min(u[1], 3u) + max(u[1], 3) + min(3, u[1]);
  q[5] = min(q[1], q[2]) + max(l[1], l[2]);
  v[0] = __ldg(v + 1);
  i[10] = __ldg(i + 11) + __ldcg(i + 12) + __ldcs(i + 13) + __ldca(i + 14);
  __stcg(i + 15, 1); __stcs(i + 16, 1); __stwb(i + 17, 1); __stwt(i + 18, 1);
}
""",
    "conversions": """
extern "C" __global__ void k(int* i, unsigned* u, long long* l, unsigned long long* q, float* f,
                             double* d) {
  i[0] = __float2int_rn(f[0]) + __float2int_rz(f[0]) + __float2int_rd(f[0]) + __float2int_ru(f[0]);
  u[0] = __float2uint_rn(f[0]) + __float2uint_rz(f[0]) + __double2uint_rn(d[0]);
  l[0] = __float2ll_rn(f[0]) + __double2ll_rz(d[0]);
  q[0] = __float2ull_rn(f[0]) + __double2ull_rd(d[0]);
  i[1] = __double2int_rn(d[0]) + __double2hiint(d[1]) + __double2loint(d[1]);
  f[1] = __int2float_rn(i[2]) + __uint2float_rn(u[1]) + __ll2float_rn(l[1]) + __ull2float_rn(q[1])
       + __double2float_rn(d[2]);
  d[3] = __int2double_rn(i[2]) + __uint2double_rn(u[1]) + __ll2double_rn(l[1])
       + __ull2double_rn(q[1]) + __hiloint2double(i[3], i[4]) + __longlong_as_double(l[2]);
  i[5] = __float_as_int(f[2]); u[2] = __float_as_uint(f[2]); l[3] = __double_as_longlong(d[4]);
  f[3] = __int_as_float(i[6]) + __uint_as_float(u[3]);
}
""",
    "exact": """
extern "C" __global__ void k(float* f, double* d, int* i) {
  f[0] = fabsf(f[1]) + sqrtf(f[1]) + floorf(f[1]) + ceilf(f[1]) + truncf(f[1]) + rintf(f[1])
       + nearbyintf(f[1]) + roundf(f[1]) + fminf(f[1], f[2]) + fmaxf(f[1], f[2])
       + copysignf(f[1], f[2]) + fdimf(f[1], f[2]) + fmaf(f[1], f[2], f[3]) + __saturatef(f[1])
       + abs(f[1]) + min(f[1], f[2]) + max(f[1], f[2]) + floor(f[1]) + fma(f[1], f[2], f[3]);
  d[0] = fabs(d[1]) + sqrt(d[1]) + floor(d[1]) + ceil(d[1]) + trunc(d[1]) + rint(d[1])
       + nearbyint(d[1]) + round(d[1]) + fmin(d[1], d[2]) + fmax(d[1], d[2])
       + copysign(d[1], d[2]) + fdim(d[1], d[2]) + fma(d[1], d[2], d[3]) + abs(d[1])
       + min(d[1], d[2]) + max(f[1], d[2]) + min(d[1], f[2]);
  i[0] = isnan(f[1]) + isnan(d[1]) + isinf(f[1]) + isinf(d[1]) + isfinite(f[1]) + isfinite(d[1])
       + signbit(f[1]) + signbit(d[1]);
  f[4] = __fadd_rn(f[1], f[2]) + __fsub_rn(f[1], f[2]) + __fmul_rn(f[1], f[2])
       + __fdiv_rn(f[1], f[2]) + __frcp_rn(f[1]) + __fsqrt_rn(f[1]) + __fmaf_rn(f[1], f[2], f[3]);
  d[4] = __dadd_rn(d[1], d[2]) + __dsub_rn(d[1], d[2]) + __dmul_rn(d[1], d[2])
       + __ddiv_rn(d[1], d[2]) + __drcp_rn(d[1]) + __dsqrt_rn(d[1]) + __fma_rn(d[1], d[2], d[3]);
}
""",
    "ordered atomics": """
template <class T> __device__ void sums(T* p, T* q) {
  *q = __nv_atomic_fetch_add(p, T(1), __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_DEVICE);
  *q += __nv_atomic_fetch_sub(p, T(1), __NV_ATOMIC_RELAXED);
}
template <class T> __device__ void all(T* p, T* q) {
  *q = __nv_atomic_load_n(p, __NV_ATOMIC_ACQUIRE, __NV_THREAD_SCOPE_SYSTEM);
  __nv_atomic_store_n(p, T(1), __NV_ATOMIC_RELEASE);
  *q += __nv_atomic_exchange_n(p, T(1), __NV_ATOMIC_ACQ_REL, __NV_THREAD_SCOPE_BLOCK);
  *q += __nv_atomic_fetch_and(p, T(1), __NV_ATOMIC_RELAXED);
  *q += __nv_atomic_fetch_or(p, T(1), __NV_ATOMIC_RELAXED);
  *q += __nv_atomic_fetch_xor(p, T(1), __NV_ATOMIC_RELAXED);
  *q += __nv_atomic_fetch_min(p, T(1), __NV_ATOMIC_RELAXED);
  *q += __nv_atomic_fetch_max(p, T(1), __NV_ATOMIC_RELAXED);
  *q += __nv_atomic_compare_exchange_n(p, q, T(3), false, __NV_ATOMIC_SEQ_CST,
                                       __NV_ATOMIC_RELAXED);
  __nv_atomic_thread_fence(__NV_ATOMIC_SEQ_CST, __NV_THREAD_SCOPE_DEVICE);
}
extern "C" __global__ void k(int* i, unsigned* u, long long* l, unsigned long long* q, float* f,
                             double* d, unsigned short* h) {
  all(i, i + 1); all(u, u + 1); all(l, l + 1); all(q, q + 1);
  sums(i, i + 1); sums(u, u + 1); sums(q, q + 1); sums(f, f + 1); sums(d, d + 1);
  h[0] = atomicCAS(h, (unsigned short)1, (unsigned short)2);
  atomicInc_block(u, 5u); atomicInc_system(u, 5u); atomicDec_block(u, 5u); atomicDec_system(u, 5u);
}
""",
    "more of the block": """
extern "C" __global__ void k(unsigned* u, size_t* s, dim3* d) {
  __barrier_sync(1); __barrier_sync_count(u[0], 64);
  u[1] = __fns(u[2], u[3], 2) + __isGlobal(u) + __isShared(u) + __isConstant(u) + __isLocal(u);
  s[0] = __cvta_generic_to_shared(u) + __cvta_generic_to_global(u) + __cvta_generic_to_local(u);
  *(int*)__cvta_shared_to_generic(s[1]) = __ldcv(u) + __ldlu(u);
  *(int*)__cvta_global_to_generic(s[1]) = *(int*)__cvta_local_to_generic(s[2]);
  dim3 a = threadIdx, b(blockIdx), c = blockDim, e(gridDim);
  d[0] = a; d[1] = b; d[2] = c; d[3] = e;
}
""",
    "parts of numbers": """
extern "C" __global__ void k(float* f, double* d, int* i, long* n, long long* l) {
  f[0] = ldexpf(f[1], i[0]) + scalbnf(f[1], i[0]) + scalblnf(f[1], n[0]) + frexpf(f[1], i)
       + modff(f[1], f + 2) + logbf(f[1]) + nextafterf(f[1], f[2]) + nanf("")
       + fdividef(f[1], f[2]);
  d[0] = ldexp(d[1], i[0]) + scalbn(d[1], i[0]) + scalbln(d[1], n[0]) + frexp(d[1], i)
       + modf(d[1], d + 2) + logb(d[1]) + nextafter(d[1], d[2]) + nan("");
  i[1] = ilogbf(f[1]) + ilogb(d[1]) + __isnanf(f[1]) + __isnan(d[1]) + __isinff(f[1])
       + __isinf(d[1]) + __finitef(f[1]) + __finite(d[1]) + __signbitf(f[1]) + __signbit(d[1]);
  n[1] = lrintf(f[1]) + lroundf(f[1]) + lrint(d[1]) + lround(d[1]);
  l[1] = llrintf(f[1]) + llroundf(f[1]) + llrint(d[1]) + llround(d[1]);
}
""",
}
_EACH_ROUNDING = ("rn", "rz", "rd", "ru")
_FLOAT_2, _DOUBLE_2 = ("fadd", "fsub", "fmul", "fdiv"), ("dadd", "dsub", "dmul", "ddiv")
_FROM = {"int": "i", "uint": "u", "ll": "l", "ull": "q", "double": "d"}
SOURCES["rounding"] = (
    'extern "C" __global__ void k(float* f, double* d, int* i, unsigned* u, long long* l,\n'
    "                             unsigned long long* q) {\n"
    + "".join(
        "".join(f"f[0] += __{name}_{mode}(f[1], f[2]);\n" for name in _FLOAT_2)
        + "".join(f"d[0] += __{name}_{mode}(d[1], d[2]);\n" for name in _DOUBLE_2)
        + f"f[0] += __frcp_{mode}(f[1]) + __fsqrt_{mode}(f[1]) + __fmaf_{mode}(f[1], f[2], f[3]);\n"
        + f"f[0] += __fmaf_ieee_{mode}(f[1], f[2], f[3]) + __frsqrt_rn(f[1]);\n"
        + f"d[0] += __drcp_{mode}(d[1]) + __dsqrt_{mode}(d[1]) + __fma_{mode}(d[1], d[2], d[3]);\n"
        + "".join(f"f[0] += __{name}2float_{mode}({a}[1]);\n" for name, a in _FROM.items())
        + f"d[0] += __ll2double_{mode}(l[1]) + __ull2double_{mode}(q[1]);\n"
        for mode in _EACH_ROUNDING
    )
    + "}\n"
)
SIMD_2 = """
add sub addss subss addus subus mins maxs minu maxu avgs avgu haddu absdiffs absdiffu sads sadu
cmpeq cmpne cmpgts cmpges cmplts cmples cmpgtu cmpgeu cmpltu cmpleu seteq setne
"""
SIMD_1 = "abs absss neg negss"
DOTS = ("__dp4a", "__dp2a_lo", "__dp2a_hi")
SOURCES["bytes and halfwords"] = (
    'extern "C" __global__ void k(unsigned* u, int* i) {\n'
    + "".join(f"u[0] += __v{name}{n}(u[1], u[2]);\n" for name in SIMD_2.split() for n in (2, 4))
    + "".join(f"u[0] += __v{name}{n}(u[1]);\n" for name in SIMD_1.split() for n in (2, 4))
    + "".join(f"u[0] += {name}(u[1], u[2], u[3]);\n" for name in DOTS)
    + "".join(f"i[0] += {name}(i[1], i[2], i[3]);\n" for name in DOTS)
    + "u[0] += umin(u[1], u[2]) + umax(u[1], u[2]);\n"
    + "i[0] += llmin(i[1], 5) + llmax(i[1], 5) + ullmin(u[1], 5) + ullmax(u[1], 5);\n}\n"
)
TRANSCENDENTAL = """
sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh exp exp2 expm1
log log2 log10 log1p cbrt erf erfc lgamma tgamma
"""
MATH_1 = [*TRANSCENDENTAL.split(), "exp10", "rsqrt"]
MATH_2 = ["pow", "atan2", "fmod", "remainder", "hypot", "nextafter"]
FAST = [f"__{n}f" for n in ("sin", "cos", "tan", "tanh", "exp", "exp10", "log", "log2", "log10")]
PLAIN = ["sinpi", "cospi", "rcbrt", "normcdf"]
PLAIN_MORE = [("rhypot", 2), ("norm3d", 3), ("norm4d", 4), ("rnorm3d", 3), ("rnorm4d", 4)]
SOURCES["math"] = (
    'extern "C" __global__ void k(float* f, double* d) {\n'
    + "".join(f"f[0] += {n}f(f[1]); d[0] += {n}(d[1]); f[2] += {n}(f[1]);\n" for n in MATH_1)
    + "".join(f"f[0] += {n}f(f[1], f[2]); d[0] += {n}(d[1], d[2]);\n" for n in MATH_2)
    + "".join(f"f[0] += {n}(f[1]);\n" for n in FAST)
    + "".join(f"f[0] += {n}f(f[1]); d[0] += {n}(d[1]);\n" for n in PLAIN)
    + "".join(
        f"f[0] += {n}f({', '.join('f' + f'[{i}]' for i in range(count))});\n"
        f"d[0] += {n}({', '.join('d' + f'[{i}]' for i in range(count))});\n"
        for n, count in PLAIN_MORE
    )
    + "f[0] += __powf(f[1], f[2]) + __fdividef(f[1], f[2]);\n"
    + "sincospif(f[1], f + 3, f + 4); sincospi(d[1], d + 3, d + 4);\n"
    + "sincosf(f[1], f + 3, f + 4); sincos(d[1], d + 3, d + 4); __sincosf(f[1], f + 3, f + 4);\n}\n"
)


@pytest.mark.parametrize("group", SOURCES)
def test_both_front_ends_know_the_names(group: str) -> None:
    """A source of every name compiles for the host and for a GPU, with no warning from clang."""
    ptx, log = compile_to_ptx(SOURCES[group], name=f"{group}.cu")
    assert log == ""
    assert ".entry k(" in ptx
    compile_to_cubin(SOURCES[group], architecture="sm_80", name=f"{group}.cu")


def test_externs_have_plain_c_names() -> None:
    """What the translator has to map are the C library's functions, and nothing else."""
    ptx, _ = compile_to_ptx(SOURCES["math"])
    externs = set(re.findall(r"\.extern \.func\s+(?:\([^)]*\)\s*)?(\w+)", ptx))
    names = [*TRANSCENDENTAL.split(), *MATH_2]
    assert externs == {f"{name}{suffix}" for name in names for suffix in ("", "f")}


def test_exact_operations_are_instructions() -> None:
    """Square root, fma, rounding, min and max never become a library call."""
    ptx, _ = compile_to_ptx(SOURCES["exact"])
    assert ".extern" not in ptx
    for instruction in ("sqrt.rn.f32", "fma.rn.f64", "div.rn.f32", "cvt.rmi.f32.f32", "min.f32"):
        assert instruction in ptx, instruction


@pytest.mark.parametrize(
    "name",
    [
        *("uint", "INFINITY", "__globaltimer()", "atomicAdd((long long*)p, 1ll)", "uint32_t(1)"),
        *("__laneid()", "powi(2.0, 3)", "memmove(p, p, 1)"),
    ],
)
def test_names_that_a_gpu_does_not_have_are_not_there(name: str) -> None:
    """What compiles for the host compiles for a GPU: neither front end takes these."""
    source = f'extern "C" __global__ void k(long long* p) {{ p[0] = sizeof({name}); }}\n'
    with pytest.raises(CompileError):
        compile_to_ptx(source)
    with pytest.raises(CompileError):
        compile_to_cubin(source, architecture="sm_80")


@pytest.mark.parametrize(
    "statement", ["p[0] = __nv_atomic_fetch_add(p, 1ll, __NV_ATOMIC_RELAXED)", "p[0] = __all(1)"]
)
def test_operations_that_a_gpu_does_not_have_are_refused(statement: str) -> None:
    """As above, for what shows only when it is compiled to the end."""
    source = f'extern "C" __global__ void k(long long* p) {{ {statement}; }}\n'
    with pytest.raises(CompileError):
        compile_to_ptx(source)
    with pytest.raises(CompileError):
        compile_to_cubin(source, architecture="sm_80")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("__clz(0)", 32),
        ("__clz(1)", 31),
        ("__clzll(0)", 64),
        ("__ffs(0)", 0),
        ("__ffs(8)", 4),
        ("__ffsll(1ll << 40)", 41),
        ("__popcll(~0ull)", 64),
        ("__brev(1u)", 0x80000000),
        ("__mulhi(-2, 3)", 0xFFFFFFFF),
        ("__umulhi(0x80000000u, 6u)", 3),
        ("__mul24(0x01000003, 5)", 15),
        ("__umul24(0xff000003u, 5u)", 15),
        ("__byte_perm(0x33221100u, 0x77665544u, 0x7410u)", 0x77441100),
        ("__funnelshift_l(0x80000001u, 0x2u, 33u)", 0x5),
        ("__funnelshift_l(1u, 2u, 0u)", 2),
        ("__funnelshift_r(0x2u, 0x1u, 33u)", 0x80000001),
        ("__funnelshift_r(1u, 2u, 32u)", 1),
        ("__funnelshift_lc(1u, 2u, 40u)", 1),
        ("__funnelshift_rc(1u, 2u, 32u)", 2),
        ("__sad(-5, 3, 10u)", 18),
        ("__usad(3u, 5u, 1u)", 3),
        ("__hadd(-3, -2)", 0xFFFFFFFD),
        ("__rhadd(-3, -2)", 0xFFFFFFFE),
        ("__uhadd(0xffffffffu, 0xfffffffeu)", 0xFFFFFFFE),
        ("__urhadd(0xffffffffu, 0xfffffffeu)", 0xFFFFFFFF),
        ("min(-1, 1u)", 1),
        ("max(-1, 1)", 1),
        ("abs(-7)", 7),
        ("__float_as_int(-0.0f)", 0x80000000),
        ("__float2int_rn(2.5f)", 2),
        ("__double2hiint(1.0)", 0x3FF00000),
        ("__double2loint(__hiloint2double(5, -2))", 0xFFFFFFFE),
        ("__float_as_int(roundf(2.5f))", 0x40400000),
        ("__float_as_int(rintf(2.5f))", 0x40000000),
        ("__float_as_int(fminf(NAN, 1.0f))", 0x3F800000),
        ("__float_as_int(__saturatef(NAN))", 0),
        ("isnan(NAN) + 2 * isinf(-INFINITY) + 4 * isfinite(NAN)", 3),
        ("signbit(-0.0f) + 2 * signbit(1.0)", 1),
        ("__float_as_int(fdimf(1.0f, 3.0f))", 0),
        ("sizeof(make_longlong2(1, 2))", 16),
    ],
)
def test_a_constant_folds_to_its_value(expression: str, value: int) -> None:
    """Corner cases by the CUDA documentation, seen as the number that clang stores."""
    source = (
        "#include <math.h>\n"
        f'extern "C" __global__ void k(volatile unsigned* p) {{ *p = {expression}; }}\n'
    )
    ptx, _ = compile_to_ptx(source)
    stored = re.search(r"st\.volatile\.(?:global\.)?[bu]32\s+\[[^\]]+\], (-?\w+);", ptx)
    assert stored is not None, ptx
    assert int(stored[1], 0) % 2**32 == value
