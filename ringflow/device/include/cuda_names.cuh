// The CUDA names for clang: included before every source that clang compiles for the host device.
// NVRTC brings these names itself and never sees this file.
//
// - Nothing here comes from the CUDA SDK: each name stands on a compiler builtin, on inline PTX,
//   or on an extern "C" function that the host translator maps to LLVM or libm by its C name.
// - Arithmetic with one right answer (fma, sqrt, min, floor, conversions) is an instruction;
//   only transcendental functions are externs.
// - Only what NVRTC declares too, with its overloads: what compiles here compiles for a GPU.
#pragma once
#pragma clang system_header

#define __host__ __attribute__((host))
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __managed__ __attribute__((managed))
#define __forceinline__ __inline__ __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __grid_constant__ __attribute__((grid_constant))
#define RINGFLOW_FN static __device__ __forceinline__
#define RINGFLOW_EXTERN extern "C" __device__

typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
#define NULL 0
RINGFLOW_FN void __trap() { __builtin_trap(); }
RINGFLOW_FN void __brkpt() { asm volatile("brkpt;"); }
extern "C" __device__ __attribute__((noreturn)) void __assertfail(
    const char* condition, const char* file, unsigned int line, const char* function,
    size_t char_bytes);
#define assert(e)                                                                                 \
  ((e) ? static_cast<void>(0)                                                                     \
       : __assertfail(#e, __FILE__, __LINE__, __PRETTY_FUNCTION__, sizeof(char)))
RINGFLOW_EXTERN int printf(const char* format, ...);
RINGFLOW_FN void* memcpy(void* to, const void* from, size_t n) {
  return __builtin_memcpy(to, from, n);
}
RINGFLOW_FN void* memset(void* to, int byte, size_t n) { return __builtin_memset(to, byte, n); }

// ---- vector types -----------------------------------------------------------------------------
#define RINGFLOW_VECTORS(T, name, align2, align4)                                                 \
  struct name##1 { T x; };                                                                        \
  struct __align__(align2) name##2 { T x, y; };                                                   \
  struct name##3 { T x, y, z; };                                                                  \
  struct __align__(align4) name##4 { T x, y, z, w; };                                             \
  RINGFLOW_FN name##1 make_##name##1(T x) { return {x}; }                                         \
  RINGFLOW_FN name##2 make_##name##2(T x, T y) { return {x, y}; }                                 \
  RINGFLOW_FN name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                         \
  RINGFLOW_FN name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
RINGFLOW_VECTORS(signed char, char, 2, 4)
RINGFLOW_VECTORS(unsigned char, uchar, 2, 4)
RINGFLOW_VECTORS(short, short, 4, 8)
RINGFLOW_VECTORS(unsigned short, ushort, 4, 8)
RINGFLOW_VECTORS(int, int, 8, 16)
RINGFLOW_VECTORS(unsigned int, uint, 8, 16)
RINGFLOW_VECTORS(long, long, 16, 16)
RINGFLOW_VECTORS(unsigned long, ulong, 16, 16)
RINGFLOW_VECTORS(long long, longlong, 16, 16)
RINGFLOW_VECTORS(unsigned long long, ulonglong, 16, 16)
RINGFLOW_VECTORS(float, float, 8, 16)
RINGFLOW_VECTORS(double, double, 16, 16)
#undef RINGFLOW_VECTORS
// The names that CUDA 13 gives to the wide ones, by their alignment.
#define RINGFLOW_WIDE_VECTOR(T, name)                                                             \
  typedef name name##_16a;                                                                        \
  struct __align__(32) name##_32a { T x, y, z, w; };
#define RINGFLOW_MAKE_WIDE(T, name)                                                               \
  RINGFLOW_FN name make_##name##_16a(T x, T y, T z, T w) { return {x, y, z, w}; }                 \
  RINGFLOW_FN name##_32a make_##name##_32a(T x, T y, T z, T w) { return {x, y, z, w}; }
RINGFLOW_WIDE_VECTOR(long, long4)
RINGFLOW_WIDE_VECTOR(unsigned long, ulong4)
RINGFLOW_WIDE_VECTOR(long long, longlong4)
RINGFLOW_WIDE_VECTOR(unsigned long long, ulonglong4)
RINGFLOW_WIDE_VECTOR(double, double4)
RINGFLOW_MAKE_WIDE(long long, longlong4)
RINGFLOW_MAKE_WIDE(unsigned long long, ulonglong4)
RINGFLOW_MAKE_WIDE(double, double4)
#undef RINGFLOW_MAKE_WIDE
#undef RINGFLOW_WIDE_VECTOR

struct dim3 {
  unsigned int x, y, z;
  __host__ __device__ constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1)
      : x(x), y(y), z(z) {}
  __host__ __device__ constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  template <class Index, class = typename Index::ringflow_index>
  __device__ dim3(Index index) : dim3(static_cast<uint3>(index)) {}
  __host__ __device__ constexpr operator uint3() const { return {x, y, z}; }
};

// ---- special registers ------------------------------------------------------------------------
#define RINGFLOW_REGISTER(name, sreg, plain, extra)                                               \
  struct __ringflow_##name {                                                                      \
    __declspec(property(get = get_x)) unsigned int x;                                             \
    __declspec(property(get = get_y)) unsigned int y;                                             \
    __declspec(property(get = get_z)) unsigned int z;                                             \
    static __device__ __forceinline__ unsigned int get_x() {                                      \
      return __nvvm_read_ptx_sreg_##sreg##_x();                                                   \
    }                                                                                             \
    static __device__ __forceinline__ unsigned int get_y() {                                      \
      return __nvvm_read_ptx_sreg_##sreg##_y();                                                   \
    }                                                                                             \
    static __device__ __forceinline__ unsigned int get_z() {                                      \
      return __nvvm_read_ptx_sreg_##sreg##_z();                                                   \
    }                                                                                             \
    __device__ __forceinline__ operator plain() const { return {get_x(), get_y(), get_z()}; }     \
    extra                                                                                         \
  };                                                                                              \
  extern const __device__ __attribute__((weak)) __ringflow_##name name;
#define RINGFLOW_TO_UINT3                                                                         \
  __device__ __forceinline__ operator uint3() const { return {get_x(), get_y(), get_z()}; }
RINGFLOW_REGISTER(threadIdx, tid, uint3, typedef uint3 ringflow_index;)
RINGFLOW_REGISTER(blockIdx, ctaid, uint3, typedef uint3 ringflow_index;)
RINGFLOW_REGISTER(blockDim, ntid, dim3, RINGFLOW_TO_UINT3)
RINGFLOW_REGISTER(gridDim, nctaid, dim3, RINGFLOW_TO_UINT3)
#undef RINGFLOW_REGISTER
#undef RINGFLOW_TO_UINT3
static constexpr int warpSize = 32;

RINGFLOW_FN long long clock64() { return __nvvm_read_ptx_sreg_clock64(); }
RINGFLOW_FN int clock() { return __nvvm_read_ptx_sreg_clock(); }
RINGFLOW_FN void __nanosleep(unsigned int ns) { asm volatile("nanosleep.u32 %0;" ::"r"(ns)); }

#include "cuda_names/warp.cuh"
#include "cuda_names/atomics.cuh"
#include "cuda_names/memory.cuh"
#include "cuda_names/integers.cuh"
#include "cuda_names/floating.cuh"
#include "cuda_names/mathematics.cuh"

#undef RINGFLOW_FN
#undef RINGFLOW_EXTERN
