// Barriers, fences, and what the threads of a warp tell each other.
#pragma once
#pragma clang system_header

// ---- barriers and fences ----------------------------------------------------------------------
RINGFLOW_FN int __syncthreads_count(int p) { return __nvvm_bar0_popc(p); }
RINGFLOW_FN int __syncthreads_and(int p) { return __nvvm_bar0_and(p); }
RINGFLOW_FN int __syncthreads_or(int p) { return __nvvm_bar0_or(p); }
RINGFLOW_FN void __syncwarp(unsigned int mask = 0xffffffffu) { __nvvm_bar_warp_sync(mask); }
RINGFLOW_FN void __threadfence_block() { __nvvm_membar_cta(); }
RINGFLOW_FN void __threadfence() { __nvvm_membar_gl(); }
RINGFLOW_FN void __threadfence_system() { __nvvm_membar_sys(); }
RINGFLOW_FN void __barrier_sync(unsigned int id) { __nvvm_barrier_sync(id); }
RINGFLOW_FN void __barrier_sync_count(unsigned int id, unsigned int threads) {
  __nvvm_barrier_sync_cnt(id, threads);
}

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

// The place of the n-th set bit from ``base`` upwards, downwards where n is negative.
RINGFLOW_FN unsigned int __fns(unsigned int mask, unsigned int base, int n) {
  if (n == 0) return mask >> (base & 31) & 1 ? base : 0xffffffffu;
  const int step = n > 0 ? 1 : -1;
  int left = n > 0 ? n : -n;
  for (int i = static_cast<int>(base); i >= 0 && i < 32; i += step)
    if (mask >> i & 1 && --left == 0) return static_cast<unsigned int>(i);
  return 0xffffffffu;
}
