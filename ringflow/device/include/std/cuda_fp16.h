// Half precision under CUDA's names, for both front ends; NVRTC has no such header by itself.
//
// - A __half is 16 bits of storage with IEEE's format. Each operation is done wider and rounded
//   once to nearest even, which gives the bits of the operation in half precision: float suffices
//   for + - * / and the square root, double for the fused multiplication and addition.
// - A __half2 is two of them; its operations are those of its parts.
#pragma once

#define RINGFLOW_HALF static __device__ __forceinline__

struct __half_raw {
  unsigned short x;
};

RINGFLOW_HALF float __ringflow_half_to_float(unsigned short bits) {
#ifdef __clang__
  return static_cast<float>(__builtin_bit_cast(_Float16, bits));
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#endif
}
RINGFLOW_HALF unsigned short __ringflow_float_to_half(float value) {
#ifdef __clang__
  return __builtin_bit_cast(unsigned short, static_cast<_Float16>(value));
#else
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#endif
}
RINGFLOW_HALF unsigned short __ringflow_double_to_half(double value) {
#ifdef __clang__
  return __builtin_bit_cast(unsigned short, static_cast<_Float16>(value));
#else
  unsigned short bits;
  asm("cvt.rn.f16.f64 %0, %1;" : "=h"(bits) : "d"(value));
  return bits;
#endif
}

struct __align__(2) __half {
  unsigned short __x;
  __half() = default;
  __device__ __forceinline__ __half(__half_raw raw) : __x(raw.x) {}
  __device__ __forceinline__ __half(float v) : __x(__ringflow_float_to_half(v)) {}
  __device__ __forceinline__ __half(double v) : __x(__ringflow_double_to_half(v)) {}
  __device__ __forceinline__ __half(int v) : __half(static_cast<float>(v)) {}
  __device__ __forceinline__ __half(unsigned int v) : __half(static_cast<float>(v)) {}
  __device__ __forceinline__ __half(long long v) : __half(static_cast<float>(v)) {}
  __device__ __forceinline__ __half(unsigned long long v) : __half(static_cast<float>(v)) {}
  __device__ __forceinline__ operator float() const { return __ringflow_half_to_float(__x); }
  __device__ __forceinline__ operator __half_raw() const { return {__x}; }
};
typedef __half half;

struct __align__(4) __half2 {
  __half x, y;
};
typedef __half2 half2;

// ---- conversions ------------------------------------------------------------------------------
RINGFLOW_HALF __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
RINGFLOW_HALF __half __short_as_half(short bits) {
  return __ushort_as_half(static_cast<unsigned short>(bits));
}
RINGFLOW_HALF unsigned short __half_as_ushort(__half v) { return v.__x; }
RINGFLOW_HALF short __half_as_short(__half v) { return static_cast<short>(v.__x); }
RINGFLOW_HALF __half __float2half(float v) { return v; }
RINGFLOW_HALF __half __float2half_rn(float v) { return v; }
RINGFLOW_HALF __half __double2half(double v) { return v; }
RINGFLOW_HALF float __half2float(__half v) { return v; }
RINGFLOW_HALF __half __int2half_rn(int v) { return v; }
RINGFLOW_HALF __half __uint2half_rn(unsigned int v) { return v; }
RINGFLOW_HALF __half __ll2half_rn(long long v) { return v; }
RINGFLOW_HALF __half __ull2half_rn(unsigned long long v) { return v; }
#define RINGFLOW_FROM_HALF(name, T)                                                               \
  RINGFLOW_HALF T __half2##name##_rn(__half v) { return __float2##name##_rn(v); }                 \
  RINGFLOW_HALF T __half2##name##_rz(__half v) { return __float2##name##_rz(v); }                 \
  RINGFLOW_HALF T __half2##name##_rd(__half v) { return __float2##name##_rd(v); }                 \
  RINGFLOW_HALF T __half2##name##_ru(__half v) { return __float2##name##_ru(v); }
RINGFLOW_FROM_HALF(int, int)
RINGFLOW_FROM_HALF(uint, unsigned int)
RINGFLOW_FROM_HALF(ll, long long)
RINGFLOW_FROM_HALF(ull, unsigned long long)
#undef RINGFLOW_FROM_HALF

// ---- arithmetic and comparisons ---------------------------------------------------------------
RINGFLOW_HALF __half __hneg(__half a) {
  return __ushort_as_half(static_cast<unsigned short>(a.__x ^ 0x8000u));
}
RINGFLOW_HALF __half __habs(__half a) {
  return __ushort_as_half(static_cast<unsigned short>(a.__x & 0x7fffu));
}
#define RINGFLOW_HALF_OPERATOR(name, op)                                                          \
  RINGFLOW_HALF __half name(__half a, __half b) {                                                 \
    return __half(__half2float(a) op __half2float(b));                                            \
  }                                                                                               \
  RINGFLOW_HALF __half operator op(const __half& a, const __half& b) { return name(a, b); }       \
  RINGFLOW_HALF __half& operator op##=(__half& a, const __half& b) { return a = name(a, b); }
RINGFLOW_HALF_OPERATOR(__hadd, +)
RINGFLOW_HALF_OPERATOR(__hsub, -)
RINGFLOW_HALF_OPERATOR(__hmul, *)
RINGFLOW_HALF_OPERATOR(__hdiv, /)
#undef RINGFLOW_HALF_OPERATOR
RINGFLOW_HALF __half operator-(const __half& a) { return __hneg(a); }
RINGFLOW_HALF __half operator+(const __half& a) { return a; }
RINGFLOW_HALF __half __hfma(__half a, __half b, __half c) {
  return __half(fma(static_cast<double>(__half2float(a)), static_cast<double>(__half2float(b)),
                    static_cast<double>(__half2float(c))));
}
#define RINGFLOW_HALF_COMPARE(name, op)                                                           \
  RINGFLOW_HALF bool name(__half a, __half b) { return __half2float(a) op __half2float(b); }      \
  RINGFLOW_HALF bool operator op(const __half& a, const __half& b) { return name(a, b); }
RINGFLOW_HALF_COMPARE(__heq, ==)
RINGFLOW_HALF_COMPARE(__hne, !=)
RINGFLOW_HALF_COMPARE(__hlt, <)
RINGFLOW_HALF_COMPARE(__hle, <=)
RINGFLOW_HALF_COMPARE(__hgt, >)
RINGFLOW_HALF_COMPARE(__hge, >=)
#undef RINGFLOW_HALF_COMPARE
RINGFLOW_HALF bool __hisnan(__half a) { return (a.__x & 0x7fffu) > 0x7c00u; }
RINGFLOW_HALF int __hisinf(__half a) {
  return (a.__x & 0x7fffu) != 0x7c00u ? 0 : a.__x & 0x8000u ? -1 : 1;
}
RINGFLOW_HALF __half __hmin(__half a, __half b) {
  return __half(fminf(__half2float(a), __half2float(b)));
}
RINGFLOW_HALF __half __hmax(__half a, __half b) {
  return __half(fmaxf(__half2float(a), __half2float(b)));
}

// ---- functions: those of float, rounded once more ---------------------------------------------
#define RINGFLOW_HALF_FUNCTION(name, function)                                                    \
  RINGFLOW_HALF __half name(__half v) { return __half(function(__half2float(v))); }
RINGFLOW_HALF_FUNCTION(hsqrt, sqrtf)
RINGFLOW_HALF_FUNCTION(hrsqrt, rsqrtf)
RINGFLOW_HALF_FUNCTION(hrcp, 1.0f /)
RINGFLOW_HALF_FUNCTION(hfloor, floorf)
RINGFLOW_HALF_FUNCTION(hceil, ceilf)
RINGFLOW_HALF_FUNCTION(htrunc, truncf)
RINGFLOW_HALF_FUNCTION(hrint, rintf)
RINGFLOW_HALF_FUNCTION(hsin, sinf)
RINGFLOW_HALF_FUNCTION(hcos, cosf)
RINGFLOW_HALF_FUNCTION(hexp, expf)
RINGFLOW_HALF_FUNCTION(hexp2, exp2f)
RINGFLOW_HALF_FUNCTION(hexp10, exp10f)
RINGFLOW_HALF_FUNCTION(hlog, logf)
RINGFLOW_HALF_FUNCTION(hlog2, log2f)
RINGFLOW_HALF_FUNCTION(hlog10, log10f)
#undef RINGFLOW_HALF_FUNCTION

// ---- pairs ------------------------------------------------------------------------------------
RINGFLOW_HALF __half2 __halves2half2(__half x, __half y) { return {x, y}; }
RINGFLOW_HALF __half2 make_half2(__half x, __half y) { return {x, y}; }
RINGFLOW_HALF __half2 __half2half2(__half v) { return {v, v}; }
RINGFLOW_HALF __half2 __float2half2_rn(float v) { return {__half(v), __half(v)}; }
RINGFLOW_HALF __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
RINGFLOW_HALF __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
RINGFLOW_HALF float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
RINGFLOW_HALF __half __low2half(__half2 v) { return v.x; }
RINGFLOW_HALF __half __high2half(__half2 v) { return v.y; }
RINGFLOW_HALF float __low2float(__half2 v) { return v.x; }
RINGFLOW_HALF float __high2float(__half2 v) { return v.y; }
#define RINGFLOW_HALF2_OPERATOR(name, scalar, op)                                                 \
  RINGFLOW_HALF __half2 name(__half2 a, __half2 b) {                                              \
    return {scalar(a.x, b.x), scalar(a.y, b.y)};                                                  \
  }                                                                                               \
  RINGFLOW_HALF __half2 operator op(const __half2& a, const __half2& b) { return name(a, b); }    \
  RINGFLOW_HALF __half2& operator op##=(__half2& a, const __half2& b) { return a = name(a, b); }
RINGFLOW_HALF2_OPERATOR(__hadd2, __hadd, +)
RINGFLOW_HALF2_OPERATOR(__hsub2, __hsub, -)
RINGFLOW_HALF2_OPERATOR(__hmul2, __hmul, *)
RINGFLOW_HALF2_OPERATOR(__h2div, __hdiv, /)
#undef RINGFLOW_HALF2_OPERATOR
RINGFLOW_HALF __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
RINGFLOW_HALF __half2 __hneg2(__half2 a) { return {__hneg(a.x), __hneg(a.y)}; }
RINGFLOW_HALF __half2 __habs2(__half2 a) { return {__habs(a.x), __habs(a.y)}; }

// ---- warp and memory --------------------------------------------------------------------------
#define RINGFLOW_HALF_SHUFFLE(name, lane_type)                                                    \
  RINGFLOW_HALF __half name(unsigned int mask, __half v, lane_type lane, int width = 32) {        \
    return __ushort_as_half(static_cast<unsigned short>(                                          \
        name(mask, static_cast<unsigned int>(v.__x), lane, width)));                              \
  }
RINGFLOW_HALF_SHUFFLE(__shfl_sync, int)
RINGFLOW_HALF_SHUFFLE(__shfl_up_sync, unsigned int)
RINGFLOW_HALF_SHUFFLE(__shfl_down_sync, unsigned int)
RINGFLOW_HALF_SHUFFLE(__shfl_xor_sync, int)
#undef RINGFLOW_HALF_SHUFFLE
RINGFLOW_HALF __half __ldg(const __half* p) { return *p; }
RINGFLOW_HALF __half2 __ldg(const __half2* p) { return *p; }
RINGFLOW_HALF __half atomicAdd(__half* p, __half v) {
  unsigned short* bits = reinterpret_cast<unsigned short*>(p);
  unsigned short old, seen = *bits;
  do {
    old = seen;
    seen = atomicCAS(bits, old, __hadd(__ushort_as_half(old), v).__x);
  } while (seen != old);
  return __ushort_as_half(old);
}
#undef RINGFLOW_HALF
