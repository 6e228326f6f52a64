// Atomic operations: relaxed ones at three scopes, and those that name their order.
#pragma once
#pragma clang system_header

// ---- relaxed, at device, block or system scope ------------------------------------------------
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
  RINGFLOW_ATOMIC_CAS(suffix, scope, unsigned short)                                              \
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

// atom.inc and atom.dec have one right answer at every scope; the host device has one scope.
#define RINGFLOW_ATOMIC_WRAP(suffix)                                                              \
  RINGFLOW_FN unsigned int atomicInc##suffix(unsigned int* p, unsigned int limit) {               \
    return __nvvm_atom_inc_gen_ui(p, limit);                                                      \
  }                                                                                               \
  RINGFLOW_FN unsigned int atomicDec##suffix(unsigned int* p, unsigned int limit) {               \
    return __nvvm_atom_dec_gen_ui(p, limit);                                                      \
  }
RINGFLOW_ATOMIC_WRAP()
RINGFLOW_ATOMIC_WRAP(_block)
RINGFLOW_ATOMIC_WRAP(_system)
#undef RINGFLOW_ATOMIC_WRAP

// ---- atomics with an order and a scope --------------------------------------------------------
#define __NV_ATOMIC_RELAXED __ATOMIC_RELAXED
#define __NV_ATOMIC_CONSUME __ATOMIC_CONSUME
#define __NV_ATOMIC_ACQUIRE __ATOMIC_ACQUIRE
#define __NV_ATOMIC_RELEASE __ATOMIC_RELEASE
#define __NV_ATOMIC_ACQ_REL __ATOMIC_ACQ_REL
#define __NV_ATOMIC_SEQ_CST __ATOMIC_SEQ_CST
#define __NV_THREAD_SCOPE_SYSTEM __MEMORY_SCOPE_SYSTEM
#define __NV_THREAD_SCOPE_DEVICE __MEMORY_SCOPE_DEVICE
#define __NV_THREAD_SCOPE_BLOCK __MEMORY_SCOPE_WRKGRP
#define __NV_THREAD_SCOPE_THREAD __MEMORY_SCOPE_SINGLE
template <class T>
RINGFLOW_FN T __nv_atomic_load_n(T* p, int order, int scope = __NV_THREAD_SCOPE_SYSTEM) {
  return __scoped_atomic_load_n(p, order, scope);
}
template <class T, class V>
RINGFLOW_FN void __nv_atomic_store_n(T* p, V v, int order, int scope = __NV_THREAD_SCOPE_SYSTEM) {
  __scoped_atomic_store_n(p, static_cast<T>(v), order, scope);
}
template <class T, class V>
RINGFLOW_FN bool __nv_atomic_compare_exchange_n(T* p, T* expected, V desired, bool weak,
                                                int success, int failure,
                                                int scope = __NV_THREAD_SCOPE_SYSTEM) {
  return __scoped_atomic_compare_exchange_n(p, expected, static_cast<T>(desired), weak, success,
                                            failure, scope);
}
template <class T>
inline constexpr bool __ringflow_long_and_signed =
    sizeof(T) == 8 && T(-1) < T(0) && T(0.5) == T(0);
#define RINGFLOW_ATOMIC_ORDERED(name, builtin, refused)                                           \
  template <class T, class V>                                                                     \
  RINGFLOW_FN T __nv_atomic_##name(T* p, V v, int order, int scope = __NV_THREAD_SCOPE_SYSTEM) {  \
    static_assert(!(refused), "CUDA has no such operation on signed integers of 8 bytes");        \
    return builtin(p, static_cast<T>(v), order, scope);                                           \
  }
RINGFLOW_ATOMIC_ORDERED(exchange_n, __scoped_atomic_exchange_n, false)
RINGFLOW_ATOMIC_ORDERED(fetch_add, __scoped_atomic_fetch_add, __ringflow_long_and_signed<T>)
RINGFLOW_ATOMIC_ORDERED(fetch_sub, __scoped_atomic_fetch_sub, __ringflow_long_and_signed<T>)
RINGFLOW_ATOMIC_ORDERED(fetch_and, __scoped_atomic_fetch_and, false)
RINGFLOW_ATOMIC_ORDERED(fetch_or, __scoped_atomic_fetch_or, false)
RINGFLOW_ATOMIC_ORDERED(fetch_xor, __scoped_atomic_fetch_xor, false)
RINGFLOW_ATOMIC_ORDERED(fetch_min, __scoped_atomic_fetch_min, false)
RINGFLOW_ATOMIC_ORDERED(fetch_max, __scoped_atomic_fetch_max, false)
#undef RINGFLOW_ATOMIC_ORDERED
RINGFLOW_FN void __nv_atomic_thread_fence(int order, int scope = __NV_THREAD_SCOPE_SYSTEM) {
  __scoped_atomic_thread_fence(order, scope);
}
