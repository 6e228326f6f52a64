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
#define assert(e) ((e) ? static_cast<void>(0) : __trap())
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

struct dim3 {
  unsigned int x, y, z;
  __host__ __device__ constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1)
      : x(x), y(y), z(z) {}
  __host__ __device__ constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  __host__ __device__ constexpr operator uint3() const { return {x, y, z}; }
};

// ---- special registers ------------------------------------------------------------------------
#define RINGFLOW_REGISTER(name, sreg, plain)                                                      \
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
  };                                                                                              \
  extern const __device__ __attribute__((weak)) __ringflow_##name name;
RINGFLOW_REGISTER(threadIdx, tid, uint3)
RINGFLOW_REGISTER(blockIdx, ctaid, uint3)
RINGFLOW_REGISTER(blockDim, ntid, dim3)
RINGFLOW_REGISTER(gridDim, nctaid, dim3)
#undef RINGFLOW_REGISTER
static constexpr int warpSize = 32;

RINGFLOW_FN long long clock64() { return __nvvm_read_ptx_sreg_clock64(); }
RINGFLOW_FN int clock() { return __nvvm_read_ptx_sreg_clock(); }
RINGFLOW_FN void __nanosleep(unsigned int ns) { asm volatile("nanosleep.u32 %0;" ::"r"(ns)); }

// ---- barriers and fences ----------------------------------------------------------------------
RINGFLOW_FN int __syncthreads_count(int p) { return __nvvm_bar0_popc(p); }
RINGFLOW_FN int __syncthreads_and(int p) { return __nvvm_bar0_and(p); }
RINGFLOW_FN int __syncthreads_or(int p) { return __nvvm_bar0_or(p); }
RINGFLOW_FN void __syncwarp(unsigned int mask = 0xffffffffu) { __nvvm_bar_warp_sync(mask); }
RINGFLOW_FN void __threadfence_block() { __nvvm_membar_cta(); }
RINGFLOW_FN void __threadfence() { __nvvm_membar_gl(); }
RINGFLOW_FN void __threadfence_system() { __nvvm_membar_sys(); }

// ---- warp: shuffles, votes, matches, reductions -----------------------------------------------
#define RINGFLOW_SHUFFLE(name, builtin, lane_type, clamp)                                         \
  RINGFLOW_FN int name(unsigned int mask, int v, lane_type lane, int width = 32) {                \
    return builtin(mask, v, lane, ((32 - width) << 8) | clamp);                                   \
  }                                                                                               \
  RINGFLOW_FN unsigned int name(unsigned int mask, unsigned int v, lane_type lane,                \
                                int width = 32) {                                                 \
    return static_cast<unsigned int>(name(mask, static_cast<int>(v), lane, width));               \
  }                                                                                               \
  RINGFLOW_FN float name(unsigned int mask, float v, lane_type lane, int width = 32) {            \
    return __builtin_bit_cast(float, name(mask, __builtin_bit_cast(int, v), lane, width));        \
  }                                                                                               \
  RINGFLOW_FN unsigned long long name(unsigned int mask, unsigned long long v, lane_type lane,    \
                                      int width = 32) {                                           \
    unsigned int low = name(mask, static_cast<unsigned int>(v), lane, width);                     \
    unsigned int high = name(mask, static_cast<unsigned int>(v >> 32), lane, width);              \
    return static_cast<unsigned long long>(high) << 32 | low;                                     \
  }                                                                                               \
  RINGFLOW_FN long long name(unsigned int mask, long long v, lane_type lane, int width = 32) {    \
    return static_cast<long long>(name(mask, static_cast<unsigned long long>(v), lane, width));   \
  }                                                                                               \
  RINGFLOW_FN unsigned long name(unsigned int mask, unsigned long v, lane_type lane,              \
                                 int width = 32) {                                                \
    return name(mask, static_cast<unsigned long long>(v), lane, width);                           \
  }                                                                                               \
  RINGFLOW_FN long name(unsigned int mask, long v, lane_type lane, int width = 32) {              \
    return static_cast<long>(name(mask, static_cast<unsigned long long>(v), lane, width));        \
  }                                                                                               \
  RINGFLOW_FN double name(unsigned int mask, double v, lane_type lane, int width = 32) {          \
    return __builtin_bit_cast(                                                                    \
        double, name(mask, __builtin_bit_cast(unsigned long long, v), lane, width));              \
  }
RINGFLOW_SHUFFLE(__shfl_sync, __nvvm_shfl_sync_idx_i32, int, 0x1f)
RINGFLOW_SHUFFLE(__shfl_up_sync, __nvvm_shfl_sync_up_i32, unsigned int, 0)
RINGFLOW_SHUFFLE(__shfl_down_sync, __nvvm_shfl_sync_down_i32, unsigned int, 0x1f)
RINGFLOW_SHUFFLE(__shfl_xor_sync, __nvvm_shfl_sync_bfly_i32, int, 0x1f)
#undef RINGFLOW_SHUFFLE

RINGFLOW_FN unsigned int __activemask() {
  unsigned int mask;
  asm volatile("activemask.b32 %0;" : "=r"(mask));
  return mask;
}
RINGFLOW_FN int __all_sync(unsigned int mask, int p) { return __nvvm_vote_all_sync(mask, p); }
RINGFLOW_FN int __any_sync(unsigned int mask, int p) { return __nvvm_vote_any_sync(mask, p); }
RINGFLOW_FN int __uni_sync(unsigned int mask, int p) { return __nvvm_vote_uni_sync(mask, p); }
RINGFLOW_FN unsigned int __ballot_sync(unsigned int mask, int p) {
  return __nvvm_vote_ballot_sync(mask, p);
}
template <class T>
RINGFLOW_FN unsigned int __match_any_sync(unsigned int mask, T v) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "__match_any_sync takes 4 or 8 bytes");
  if constexpr (sizeof(T) == 4) {
    return __nvvm_match_any_sync_i32(mask, __builtin_bit_cast(unsigned int, v));
  } else {
    return __nvvm_match_any_sync_i64(mask, __builtin_bit_cast(unsigned long long, v));
  }
}
template <class T>
RINGFLOW_FN unsigned int __match_all_sync(unsigned int mask, T v, int* all) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "__match_all_sync takes 4 or 8 bytes");
  if constexpr (sizeof(T) == 4) {
    return __nvvm_match_all_sync_i32p(mask, __builtin_bit_cast(unsigned int, v), all);
  } else {
    return __nvvm_match_all_sync_i64p(mask, __builtin_bit_cast(unsigned long long, v), all);
  }
}
#define RINGFLOW_REDUCE(op, T, builtin)                                                           \
  RINGFLOW_FN T __reduce_##op##_sync(unsigned int mask, T v) {                                    \
    return static_cast<T>(builtin(static_cast<int>(v), static_cast<int>(mask)));                  \
  }
RINGFLOW_REDUCE(add, int, __nvvm_redux_sync_add)
RINGFLOW_REDUCE(add, unsigned int, __nvvm_redux_sync_add)
RINGFLOW_REDUCE(min, int, __nvvm_redux_sync_min)
RINGFLOW_REDUCE(min, unsigned int, __nvvm_redux_sync_umin)
RINGFLOW_REDUCE(max, int, __nvvm_redux_sync_max)
RINGFLOW_REDUCE(max, unsigned int, __nvvm_redux_sync_umax)
RINGFLOW_REDUCE(and, unsigned int, __nvvm_redux_sync_and)
RINGFLOW_REDUCE(or, unsigned int, __nvvm_redux_sync_or)
RINGFLOW_REDUCE(xor, unsigned int, __nvvm_redux_sync_xor)
#undef RINGFLOW_REDUCE

// ---- atomics: relaxed, at device, block or system scope ---------------------------------------
#define RINGFLOW_ATOMIC(suffix, scope, name, builtin, T)                                          \
  RINGFLOW_FN T atomic##name##suffix(T* p, T v) {                                                 \
    return builtin(p, v, __ATOMIC_RELAXED, scope);                                                \
  }
#define RINGFLOW_ATOMIC_CAS(suffix, scope, T)                                                     \
  RINGFLOW_FN T atomicCAS##suffix(T* p, T expected, T desired) {                                  \
    __scoped_atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_RELAXED,            \
                                       __ATOMIC_RELAXED, scope);                                  \
    return expected;                                                                              \
  }
#define RINGFLOW_ATOMIC_BITS(suffix, scope, T)                                                    \
  RINGFLOW_ATOMIC(suffix, scope, And, __scoped_atomic_fetch_and, T)                               \
  RINGFLOW_ATOMIC(suffix, scope, Or, __scoped_atomic_fetch_or, T)                                 \
  RINGFLOW_ATOMIC(suffix, scope, Xor, __scoped_atomic_fetch_xor, T)                               \
  RINGFLOW_ATOMIC(suffix, scope, Exch, __scoped_atomic_exchange_n, T)                             \
  RINGFLOW_ATOMIC_CAS(suffix, scope, T)
#define RINGFLOW_ATOMIC_MIN_MAX(suffix, scope, T)                                                 \
  RINGFLOW_ATOMIC(suffix, scope, Min, __scoped_atomic_fetch_min, T)                               \
  RINGFLOW_ATOMIC(suffix, scope, Max, __scoped_atomic_fetch_max, T)
#define RINGFLOW_ATOMICS(suffix, scope)                                                           \
  RINGFLOW_ATOMIC(suffix, scope, Add, __scoped_atomic_fetch_add, int)                             \
  RINGFLOW_ATOMIC(suffix, scope, Add, __scoped_atomic_fetch_add, unsigned int)                    \
  RINGFLOW_ATOMIC(suffix, scope, Add, __scoped_atomic_fetch_add, unsigned long long)              \
  RINGFLOW_ATOMIC(suffix, scope, Add, __scoped_atomic_fetch_add, float)                           \
  RINGFLOW_ATOMIC(suffix, scope, Add, __scoped_atomic_fetch_add, double)                          \
  RINGFLOW_ATOMIC_BITS(suffix, scope, int)                                                        \
  RINGFLOW_ATOMIC_BITS(suffix, scope, unsigned int)                                               \
  RINGFLOW_ATOMIC_BITS(suffix, scope, unsigned long long)                                         \
  RINGFLOW_ATOMIC_MIN_MAX(suffix, scope, int)                                                     \
  RINGFLOW_ATOMIC_MIN_MAX(suffix, scope, unsigned int)                                            \
  RINGFLOW_ATOMIC_MIN_MAX(suffix, scope, long long)                                               \
  RINGFLOW_ATOMIC_MIN_MAX(suffix, scope, unsigned long long)                                      \
  RINGFLOW_FN float atomicExch##suffix(float* p, float v) {                                       \
    return __builtin_bit_cast(float, atomicExch##suffix(reinterpret_cast<int*>(p),                \
                                                        __builtin_bit_cast(int, v)));             \
  }                                                                                               \
  RINGFLOW_FN int atomicSub##suffix(int* p, int v) { return atomicAdd##suffix(p, -v); }           \
  RINGFLOW_FN unsigned int atomicSub##suffix(unsigned int* p, unsigned int v) {                   \
    return atomicAdd##suffix(p, 0u - v);                                                          \
  }
RINGFLOW_ATOMICS(, __MEMORY_SCOPE_DEVICE)
RINGFLOW_ATOMICS(_block, __MEMORY_SCOPE_WRKGRP)
RINGFLOW_ATOMICS(_system, __MEMORY_SCOPE_SYSTEM)
#undef RINGFLOW_ATOMICS
#undef RINGFLOW_ATOMIC_BITS
#undef RINGFLOW_ATOMIC_MIN_MAX
#undef RINGFLOW_ATOMIC_CAS
#undef RINGFLOW_ATOMIC
RINGFLOW_FN unsigned int atomicInc(unsigned int* p, unsigned int limit) {
  return __nvvm_atom_inc_gen_ui(p, limit);
}
RINGFLOW_FN unsigned int atomicDec(unsigned int* p, unsigned int limit) {
  return __nvvm_atom_dec_gen_ui(p, limit);
}

// ---- cached loads and stores: hints only ------------------------------------------------------
#define RINGFLOW_LOAD(name)                                                                       \
  template <class T>                                                                              \
  RINGFLOW_FN T name(const T* p) { return *p; }
RINGFLOW_LOAD(__ldg)
RINGFLOW_LOAD(__ldca)
RINGFLOW_LOAD(__ldcs)
RINGFLOW_LOAD(__ldcg)
#undef RINGFLOW_LOAD
#define RINGFLOW_STORE(name)                                                                      \
  template <class T>                                                                              \
  RINGFLOW_FN void name(T* p, T v) { *p = v; }
RINGFLOW_STORE(__stwb)
RINGFLOW_STORE(__stcg)
RINGFLOW_STORE(__stcs)
RINGFLOW_STORE(__stwt)
#undef RINGFLOW_STORE

// ---- integers ---------------------------------------------------------------------------------
RINGFLOW_FN int __popc(unsigned int v) { return __builtin_popcount(v); }
RINGFLOW_FN int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
RINGFLOW_FN int __clz(int v) { return v ? __builtin_clz(v) : 32; }
RINGFLOW_FN int __clzll(long long v) { return v ? __builtin_clzll(v) : 64; }
RINGFLOW_FN int __ffs(int v) { return v ? __builtin_ctz(v) + 1 : 0; }
RINGFLOW_FN int __ffsll(long long v) { return v ? __builtin_ctzll(v) + 1 : 0; }
RINGFLOW_FN unsigned int __brev(unsigned int v) { return __builtin_bitreverse32(v); }
RINGFLOW_FN unsigned long long __brevll(unsigned long long v) {
  return __builtin_bitreverse64(v);
}
RINGFLOW_FN int __mulhi(int a, int b) {
  return static_cast<int>((static_cast<long long>(a) * b) >> 32);
}
RINGFLOW_FN unsigned int __umulhi(unsigned int a, unsigned int b) {
  return static_cast<unsigned int>((static_cast<unsigned long long>(a) * b) >> 32);
}
RINGFLOW_FN long long __mul64hi(long long a, long long b) { return __nvvm_mulhi_ll(a, b); }
RINGFLOW_FN unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return __nvvm_mulhi_ull(a, b);
}
RINGFLOW_FN int __mul24(int a, int b) { return ((a << 8) >> 8) * ((b << 8) >> 8); }
RINGFLOW_FN unsigned int __umul24(unsigned int a, unsigned int b) {
  return (a & 0xffffffu) * (b & 0xffffffu);
}
RINGFLOW_FN unsigned int __byte_perm(unsigned int a, unsigned int b, unsigned int selector) {
  return __nvvm_prmt(a, b, selector & 0x7777u);
}
RINGFLOW_FN unsigned int __funnelshift_l(unsigned int low, unsigned int high, unsigned int n) {
  n &= 31;
  return n ? high << n | low >> (32 - n) : high;
}
RINGFLOW_FN unsigned int __funnelshift_r(unsigned int low, unsigned int high, unsigned int n) {
  n &= 31;
  return n ? high << (32 - n) | low >> n : low;
}
RINGFLOW_FN unsigned int __funnelshift_lc(unsigned int low, unsigned int high, unsigned int n) {
  return n >= 32 ? low : __funnelshift_l(low, high, n);
}
RINGFLOW_FN unsigned int __funnelshift_rc(unsigned int low, unsigned int high, unsigned int n) {
  return n >= 32 ? high : __funnelshift_r(low, high, n);
}
RINGFLOW_FN int __sad(int a, int b, unsigned int c) {
  return (a < b ? static_cast<unsigned int>(b) - a : static_cast<unsigned int>(a) - b) + c;
}
RINGFLOW_FN unsigned int __usad(unsigned int a, unsigned int b, unsigned int c) {
  return (a < b ? b - a : a - b) + c;
}
RINGFLOW_FN int __hadd(int a, int b) { return (a & b) + ((a ^ b) >> 1); }
RINGFLOW_FN int __rhadd(int a, int b) { return (a | b) - ((a ^ b) >> 1); }
RINGFLOW_FN unsigned int __uhadd(unsigned int a, unsigned int b) {
  return (a & b) + ((a ^ b) >> 1);
}
RINGFLOW_FN unsigned int __urhadd(unsigned int a, unsigned int b) {
  return (a | b) - ((a ^ b) >> 1);
}
RINGFLOW_FN int abs(int v) { return v < 0 ? static_cast<int>(0u - v) : v; }
RINGFLOW_FN long labs(long v) { return v < 0 ? static_cast<long>(0ul - v) : v; }
RINGFLOW_FN long long llabs(long long v) { return v < 0 ? static_cast<long long>(0ull - v) : v; }
RINGFLOW_FN long abs(long v) { return labs(v); }
RINGFLOW_FN long long abs(long long v) { return llabs(v); }
#define RINGFLOW_MIN_MAX(R, A, B)                                                                 \
  RINGFLOW_FN R min(A a, B b) {                                                                   \
    R x = static_cast<R>(a), y = static_cast<R>(b);                                               \
    return y < x ? y : x;                                                                         \
  }                                                                                               \
  RINGFLOW_FN R max(A a, B b) {                                                                   \
    R x = static_cast<R>(a), y = static_cast<R>(b);                                               \
    return x < y ? y : x;                                                                         \
  }
#define RINGFLOW_MIN_MAX_MIXED(S, U)                                                              \
  RINGFLOW_MIN_MAX(S, S, S)                                                                       \
  RINGFLOW_MIN_MAX(U, U, U)                                                                       \
  RINGFLOW_MIN_MAX(U, S, U)                                                                       \
  RINGFLOW_MIN_MAX(U, U, S)
RINGFLOW_MIN_MAX_MIXED(int, unsigned int)
RINGFLOW_MIN_MAX_MIXED(long, unsigned long)
RINGFLOW_MIN_MAX_MIXED(long long, unsigned long long)
#undef RINGFLOW_MIN_MAX_MIXED
#undef RINGFLOW_MIN_MAX

// ---- bits and conversions ---------------------------------------------------------------------
RINGFLOW_FN int __float_as_int(float v) { return __builtin_bit_cast(int, v); }
RINGFLOW_FN unsigned int __float_as_uint(float v) { return __builtin_bit_cast(unsigned int, v); }
RINGFLOW_FN float __int_as_float(int v) { return __builtin_bit_cast(float, v); }
RINGFLOW_FN float __uint_as_float(unsigned int v) { return __builtin_bit_cast(float, v); }
RINGFLOW_FN long long __double_as_longlong(double v) { return __builtin_bit_cast(long long, v); }
RINGFLOW_FN double __longlong_as_double(long long v) { return __builtin_bit_cast(double, v); }
RINGFLOW_FN int __double2hiint(double v) {
  return static_cast<int>(__double_as_longlong(v) >> 32);
}
RINGFLOW_FN int __double2loint(double v) { return static_cast<int>(__double_as_longlong(v)); }
RINGFLOW_FN double __hiloint2double(int high, int low) {
  return __longlong_as_double(static_cast<long long>(
      static_cast<unsigned long long>(static_cast<unsigned int>(high)) << 32 |
      static_cast<unsigned int>(low)));
}
#define RINGFLOW_TO_INTEGER(from, F, short_name, T, builtin)                                      \
  RINGFLOW_FN T __##from##2##short_name##_rn(F v) { return builtin##_rn(v); }                     \
  RINGFLOW_FN T __##from##2##short_name##_rz(F v) { return builtin##_rz(v); }                     \
  RINGFLOW_FN T __##from##2##short_name##_rd(F v) { return builtin##_rm(v); }                     \
  RINGFLOW_FN T __##from##2##short_name##_ru(F v) { return builtin##_rp(v); }
RINGFLOW_TO_INTEGER(float, float, int, int, __nvvm_f2i)
RINGFLOW_TO_INTEGER(float, float, uint, unsigned int, __nvvm_f2ui)
RINGFLOW_TO_INTEGER(float, float, ll, long long, __nvvm_f2ll)
RINGFLOW_TO_INTEGER(float, float, ull, unsigned long long, __nvvm_f2ull)
RINGFLOW_TO_INTEGER(double, double, int, int, __nvvm_d2i)
RINGFLOW_TO_INTEGER(double, double, uint, unsigned int, __nvvm_d2ui)
RINGFLOW_TO_INTEGER(double, double, ll, long long, __nvvm_d2ll)
RINGFLOW_TO_INTEGER(double, double, ull, unsigned long long, __nvvm_d2ull)
#undef RINGFLOW_TO_INTEGER
RINGFLOW_FN float __int2float_rn(int v) { return static_cast<float>(v); }
RINGFLOW_FN float __uint2float_rn(unsigned int v) { return static_cast<float>(v); }
RINGFLOW_FN float __ll2float_rn(long long v) { return static_cast<float>(v); }
RINGFLOW_FN float __ull2float_rn(unsigned long long v) { return static_cast<float>(v); }
RINGFLOW_FN float __double2float_rn(double v) { return static_cast<float>(v); }
RINGFLOW_FN double __int2double_rn(int v) { return static_cast<double>(v); }
RINGFLOW_FN double __uint2double_rn(unsigned int v) { return static_cast<double>(v); }
RINGFLOW_FN double __ll2double_rn(long long v) { return static_cast<double>(v); }
RINGFLOW_FN double __ull2double_rn(unsigned long long v) { return static_cast<double>(v); }

// ---- floating point with one right answer: instructions ---------------------------------------
#define RINGFLOW_EXACT(name)                                                                      \
  RINGFLOW_FN float name##f(float v) { return __builtin_##name##f(v); }                           \
  RINGFLOW_FN double name(double v) { return __builtin_##name(v); }                               \
  RINGFLOW_FN float name(float v) { return __builtin_##name##f(v); }
RINGFLOW_EXACT(fabs)
RINGFLOW_EXACT(sqrt)
RINGFLOW_EXACT(floor)
RINGFLOW_EXACT(ceil)
RINGFLOW_EXACT(trunc)
RINGFLOW_EXACT(rint)
RINGFLOW_EXACT(nearbyint)
RINGFLOW_EXACT(round)
#undef RINGFLOW_EXACT
#define RINGFLOW_EXACT_2(name)                                                                    \
  RINGFLOW_FN float name##f(float a, float b) { return __builtin_##name##f(a, b); }               \
  RINGFLOW_FN double name(double a, double b) { return __builtin_##name(a, b); }                  \
  RINGFLOW_FN float name(float a, float b) { return __builtin_##name##f(a, b); }
RINGFLOW_EXACT_2(fmin)
RINGFLOW_EXACT_2(fmax)
RINGFLOW_EXACT_2(copysign)
#undef RINGFLOW_EXACT_2
RINGFLOW_FN float fdimf(float a, float b) { return a <= b ? 0.0f : a - b; }
RINGFLOW_FN double fdim(double a, double b) { return a <= b ? 0.0 : a - b; }
RINGFLOW_FN float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
RINGFLOW_FN double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
RINGFLOW_FN float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
RINGFLOW_FN float abs(float v) { return fabsf(v); }
RINGFLOW_FN double abs(double v) { return fabs(v); }
RINGFLOW_FN float min(float a, float b) { return fminf(a, b); }
RINGFLOW_FN float max(float a, float b) { return fmaxf(a, b); }
RINGFLOW_FN double min(double a, double b) { return fmin(a, b); }
RINGFLOW_FN double max(double a, double b) { return fmax(a, b); }
RINGFLOW_FN double min(float a, double b) { return fmin(static_cast<double>(a), b); }
RINGFLOW_FN double min(double a, float b) { return fmin(a, static_cast<double>(b)); }
RINGFLOW_FN double max(float a, double b) { return fmax(static_cast<double>(a), b); }
RINGFLOW_FN double max(double a, float b) { return fmax(a, static_cast<double>(b)); }
RINGFLOW_FN float __saturatef(float v) { return fminf(fmaxf(v, 0.0f), 1.0f); }
RINGFLOW_FN int isnan(double v) { return v != v; }
RINGFLOW_FN int isnan(float v) { return v != v; }
RINGFLOW_FN int isinf(double v) { return __builtin_fabs(v) == __builtin_inf(); }
RINGFLOW_FN int isinf(float v) { return __builtin_fabsf(v) == __builtin_inff(); }
RINGFLOW_FN int isfinite(double v) { return __builtin_fabs(v) < __builtin_inf(); }
RINGFLOW_FN int isfinite(float v) { return __builtin_fabsf(v) < __builtin_inff(); }
RINGFLOW_FN int signbit(float v) { return __float_as_uint(v) >> 31; }
RINGFLOW_FN int signbit(double v) { return __double_as_longlong(v) < 0; }
// The _rn forms are never contracted, also in fast mode.
RINGFLOW_FN float __fadd_rn(float a, float b) { return __nvvm_add_rn_f(a, b); }
RINGFLOW_FN float __fsub_rn(float a, float b) { return __nvvm_add_rn_f(a, -b); }
RINGFLOW_FN float __fmul_rn(float a, float b) { return __nvvm_mul_rn_f(a, b); }
RINGFLOW_FN float __fdiv_rn(float a, float b) { return __nvvm_div_rn_f(a, b); }
RINGFLOW_FN float __frcp_rn(float a) { return __nvvm_rcp_rn_f(a); }
RINGFLOW_FN float __fsqrt_rn(float a) { return __nvvm_sqrt_rn_f(a); }
RINGFLOW_FN float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
RINGFLOW_FN double __dadd_rn(double a, double b) { return __nvvm_add_rn_d(a, b); }
RINGFLOW_FN double __dsub_rn(double a, double b) { return __nvvm_add_rn_d(a, -b); }
RINGFLOW_FN double __dmul_rn(double a, double b) { return __nvvm_mul_rn_d(a, b); }
RINGFLOW_FN double __ddiv_rn(double a, double b) { return __nvvm_div_rn_d(a, b); }
RINGFLOW_FN double __drcp_rn(double a) { return __nvvm_rcp_rn_d(a); }
RINGFLOW_FN double __dsqrt_rn(double a) { return __nvvm_sqrt_rn_d(a); }
RINGFLOW_FN double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }

// ---- transcendental functions: externs, mapped by the translator by their C names -------------
#define RINGFLOW_MATH(name)                                                                       \
  RINGFLOW_EXTERN float name##f(float);                                                           \
  RINGFLOW_EXTERN double name(double);                                                            \
  RINGFLOW_FN float name(float v) { return name##f(v); }
RINGFLOW_MATH(sin)
RINGFLOW_MATH(cos)
RINGFLOW_MATH(tan)
RINGFLOW_MATH(asin)
RINGFLOW_MATH(acos)
RINGFLOW_MATH(atan)
RINGFLOW_MATH(sinh)
RINGFLOW_MATH(cosh)
RINGFLOW_MATH(tanh)
RINGFLOW_MATH(asinh)
RINGFLOW_MATH(acosh)
RINGFLOW_MATH(atanh)
RINGFLOW_MATH(exp)
RINGFLOW_MATH(exp2)
RINGFLOW_MATH(expm1)
RINGFLOW_MATH(log)
RINGFLOW_MATH(log2)
RINGFLOW_MATH(log10)
RINGFLOW_MATH(log1p)
RINGFLOW_MATH(cbrt)
RINGFLOW_MATH(erf)
RINGFLOW_MATH(erfc)
RINGFLOW_MATH(lgamma)
RINGFLOW_MATH(tgamma)
#undef RINGFLOW_MATH
#define RINGFLOW_MATH_2(name)                                                                     \
  RINGFLOW_EXTERN float name##f(float, float);                                                    \
  RINGFLOW_EXTERN double name(double, double);                                                    \
  RINGFLOW_FN float name(float a, float b) { return name##f(a, b); }
RINGFLOW_MATH_2(pow)
RINGFLOW_MATH_2(atan2)
RINGFLOW_MATH_2(fmod)
RINGFLOW_MATH_2(remainder)
RINGFLOW_MATH_2(hypot)
#undef RINGFLOW_MATH_2
RINGFLOW_FN float rsqrtf(float v) { return 1.0f / __builtin_sqrtf(v); }
RINGFLOW_FN double rsqrt(double v) { return 1.0 / __builtin_sqrt(v); }
RINGFLOW_FN float rsqrt(float v) { return rsqrtf(v); }
RINGFLOW_FN float exp10f(float v) { return powf(10.0f, v); }
RINGFLOW_FN double exp10(double v) { return pow(10.0, v); }
RINGFLOW_FN void sincosf(float v, float* s, float* c) { *s = sinf(v); *c = cosf(v); }
RINGFLOW_FN void sincos(double v, double* s, double* c) { *s = sin(v); *c = cos(v); }
RINGFLOW_FN float sinpif(float v) { return static_cast<float>(sin(3.14159265358979323846 * v)); }
RINGFLOW_FN float cospif(float v) { return static_cast<float>(cos(3.14159265358979323846 * v)); }
// The fast intrinsics are more accurate here than on a GPU.
RINGFLOW_FN float __sinf(float v) { return sinf(v); }
RINGFLOW_FN float __cosf(float v) { return cosf(v); }
RINGFLOW_FN float __tanf(float v) { return tanf(v); }
RINGFLOW_FN float __expf(float v) { return expf(v); }
RINGFLOW_FN float __exp10f(float v) { return exp10f(v); }
RINGFLOW_FN float __logf(float v) { return logf(v); }
RINGFLOW_FN float __log2f(float v) { return log2f(v); }
RINGFLOW_FN float __log10f(float v) { return log10f(v); }
RINGFLOW_FN float __powf(float a, float b) { return powf(a, b); }
RINGFLOW_FN float __fdividef(float a, float b) { return a / b; }
RINGFLOW_FN void __sincosf(float v, float* s, float* c) { sincosf(v, s, c); }
