// Loads and stores with hints, and where an address points to.
#pragma once
#pragma clang system_header

// ---- cached loads and stores: hints only ------------------------------------------------------
#define RINGFLOW_LOAD(name)                                                                       \
  template <class T>                                                                              \
  RINGFLOW_FN T name(const T* p) { return *p; }
RINGFLOW_LOAD(__ldg)
RINGFLOW_LOAD(__ldca)
RINGFLOW_LOAD(__ldcs)
RINGFLOW_LOAD(__ldcg)
RINGFLOW_LOAD(__ldlu)
#undef RINGFLOW_LOAD
template <class T>
RINGFLOW_FN T __ldcv(const T* p) { return *const_cast<const volatile T*>(p); }
#define RINGFLOW_STORE(name)                                                                      \
  template <class T, class V>                                                                     \
  RINGFLOW_FN void name(T* p, V v) { *p = v; }
RINGFLOW_STORE(__stwb)
RINGFLOW_STORE(__stcg)
RINGFLOW_STORE(__stcs)
RINGFLOW_STORE(__stwt)
#undef RINGFLOW_STORE

// ---- address spaces ---------------------------------------------------------------------------
RINGFLOW_FN unsigned int __isGlobal(const void* p) { return __nvvm_isspacep_global(p); }
RINGFLOW_FN unsigned int __isShared(const void* p) { return __nvvm_isspacep_shared(p); }
RINGFLOW_FN unsigned int __isConstant(const void* p) { return __nvvm_isspacep_const(p); }
RINGFLOW_FN unsigned int __isLocal(const void* p) { return __nvvm_isspacep_local(p); }
#define RINGFLOW_SPACE(space)                                                                     \
  RINGFLOW_FN size_t __cvta_generic_to_##space(const void* p) {                                   \
    size_t address;                                                                               \
    asm("cvta.to." #space ".u64 %0, %1;" : "=l"(address) : "l"(p));                               \
    return address;                                                                               \
  }                                                                                               \
  RINGFLOW_FN void* __cvta_##space##_to_generic(size_t address) {                                 \
    void* p;                                                                                      \
    asm("cvta." #space ".u64 %0, %1;" : "=l"(p) : "l"(address));                                  \
    return p;                                                                                     \
  }
RINGFLOW_SPACE(global)
RINGFLOW_SPACE(shared)
RINGFLOW_SPACE(local)
#undef RINGFLOW_SPACE
