// Integer and bit intrinsics.
#pragma once
#pragma clang system_header

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
RINGFLOW_FN unsigned int umin(unsigned int a, unsigned int b) { return min(a, b); }
RINGFLOW_FN unsigned int umax(unsigned int a, unsigned int b) { return max(a, b); }
RINGFLOW_FN long long llmin(long long a, long long b) { return min(a, b); }
RINGFLOW_FN long long llmax(long long a, long long b) { return max(a, b); }
RINGFLOW_FN unsigned long long ullmin(unsigned long long a, unsigned long long b) {
  return min(a, b);
}
RINGFLOW_FN unsigned long long ullmax(unsigned long long a, unsigned long long b) {
  return max(a, b);
}

// ---- sums of products of bytes and halfwords --------------------------------------------------
template <class T, class R>
RINGFLOW_FN R __ringflow_dot4(R a, R b, R sum) {
#pragma unroll
  for (int i = 0; i < 32; i += 8) sum += R(static_cast<T>(a >> i)) * R(static_cast<T>(b >> i));
  return sum;
}
template <class H, class T, class R>
RINGFLOW_FN R __ringflow_dot2(R a, R b, R sum, int first) {
#pragma unroll
  for (int i = 0; i < 2; ++i)
    sum += R(static_cast<H>(a >> 16 * i)) * R(static_cast<T>(b >> (first + 8 * i)));
  return sum;
}
RINGFLOW_FN int __dp4a(int a, int b, int c) { return __ringflow_dot4<signed char>(a, b, c); }
RINGFLOW_FN unsigned int __dp4a(unsigned int a, unsigned int b, unsigned int c) {
  return __ringflow_dot4<unsigned char>(a, b, c);
}
RINGFLOW_FN int __dp2a_lo(int a, int b, int c) {
  return __ringflow_dot2<short, signed char>(a, b, c, 0);
}
RINGFLOW_FN int __dp2a_hi(int a, int b, int c) {
  return __ringflow_dot2<short, signed char>(a, b, c, 16);
}
RINGFLOW_FN unsigned int __dp2a_lo(unsigned int a, unsigned int b, unsigned int c) {
  return __ringflow_dot2<unsigned short, unsigned char>(a, b, c, 0);
}
RINGFLOW_FN unsigned int __dp2a_hi(unsigned int a, unsigned int b, unsigned int c) {
  return __ringflow_dot2<unsigned short, unsigned char>(a, b, c, 16);
}

// ---- four bytes or two halfwords at once ------------------------------------------------------
#define RINGFLOW_LANES(name, T, bits, expression)                                                 \
  RINGFLOW_FN unsigned int name(unsigned int left, unsigned int right) {                          \
    unsigned int lanes = 0;                                                                       \
    _Pragma("unroll") for (int i = 0; i < 32; i += bits) {                                        \
      const int a = static_cast<T>(left >> i), b = static_cast<T>(right >> i);                    \
      lanes |= (static_cast<unsigned int>(expression) & ((1u << bits) - 1)) << i;                 \
    }                                                                                             \
    return lanes;                                                                                 \
  }
#define RINGFLOW_LANES_1(name, T, bits, expression)                                               \
  RINGFLOW_LANES(__ringflow_##name, T, bits, expression)                                          \
  RINGFLOW_FN unsigned int name(unsigned int lanes) { return __ringflow_##name(lanes, 0); }
#define RINGFLOW_SIMD(n, bits, S, U, low, high)                                                   \
  RINGFLOW_LANES(__vadd##n, U, bits, a + b)                                                       \
  RINGFLOW_LANES(__vsub##n, U, bits, a - b)                                                       \
  RINGFLOW_LANES(__vaddss##n, S, bits, min(max(a + b, low), high))                                \
  RINGFLOW_LANES(__vsubss##n, S, bits, min(max(a - b, low), high))                                \
  RINGFLOW_LANES(__vaddus##n, U, bits, min(a + b, high - low))                                    \
  RINGFLOW_LANES(__vsubus##n, U, bits, max(a - b, 0))                                             \
  RINGFLOW_LANES(__vmins##n, S, bits, min(a, b))                                                  \
  RINGFLOW_LANES(__vmaxs##n, S, bits, max(a, b))                                                  \
  RINGFLOW_LANES(__vminu##n, U, bits, min(a, b))                                                  \
  RINGFLOW_LANES(__vmaxu##n, U, bits, max(a, b))                                                  \
  RINGFLOW_LANES(__vavgs##n, S, bits, (a + b + (a + b >= 0)) >> 1)                                \
  RINGFLOW_LANES(__vavgu##n, U, bits, (a + b + 1) >> 1)                                           \
  RINGFLOW_LANES(__vhaddu##n, U, bits, (a + b) >> 1)                                              \
  RINGFLOW_LANES(__vabsdiffs##n, S, bits, abs(a - b))                                             \
  RINGFLOW_LANES(__vabsdiffu##n, U, bits, abs(a - b))                                             \
  RINGFLOW_LANES(__vcmpeq##n, U, bits, a == b ? -1 : 0)                                           \
  RINGFLOW_LANES(__vcmpne##n, U, bits, a != b ? -1 : 0)                                           \
  RINGFLOW_LANES(__vcmpgts##n, S, bits, a > b ? -1 : 0)                                           \
  RINGFLOW_LANES(__vcmpges##n, S, bits, a >= b ? -1 : 0)                                          \
  RINGFLOW_LANES(__vcmplts##n, S, bits, a < b ? -1 : 0)                                           \
  RINGFLOW_LANES(__vcmples##n, S, bits, a <= b ? -1 : 0)                                          \
  RINGFLOW_LANES(__vcmpgtu##n, U, bits, a > b ? -1 : 0)                                           \
  RINGFLOW_LANES(__vcmpgeu##n, U, bits, a >= b ? -1 : 0)                                          \
  RINGFLOW_LANES(__vcmpltu##n, U, bits, a < b ? -1 : 0)                                           \
  RINGFLOW_LANES(__vcmpleu##n, U, bits, a <= b ? -1 : 0)                                          \
  RINGFLOW_LANES(__vseteq##n, U, bits, a == b)                                                    \
  RINGFLOW_LANES(__vsetne##n, U, bits, a != b)                                                    \
  RINGFLOW_LANES_1(__vabs##n, S, bits, abs(a) + b)                                                \
  RINGFLOW_LANES_1(__vabsss##n, S, bits, min(abs(a) + b, high))                                   \
  RINGFLOW_LANES_1(__vneg##n, S, bits, b - a)                                                     \
  RINGFLOW_LANES_1(__vnegss##n, S, bits, min(b - a, high))                                        \
  RINGFLOW_FN unsigned int __vsads##n(unsigned int a, unsigned int b) {                           \
    unsigned int sum = 0;                                                                         \
    _Pragma("unroll") for (int i = 0; i < 32; i += bits)                                          \
      sum += abs(static_cast<S>(a >> i) - static_cast<S>(b >> i));                                \
    return sum;                                                                                   \
  }                                                                                               \
  RINGFLOW_FN unsigned int __vsadu##n(unsigned int a, unsigned int b) {                           \
    unsigned int sum = 0;                                                                         \
    _Pragma("unroll") for (int i = 0; i < 32; i += bits)                                          \
      sum += abs(static_cast<U>(a >> i) - static_cast<U>(b >> i));                                \
    return sum;                                                                                   \
  }
RINGFLOW_SIMD(4, 8, signed char, unsigned char, -128, 127)
RINGFLOW_SIMD(2, 16, short, unsigned short, -32768, 32767)
#undef RINGFLOW_SIMD
#undef RINGFLOW_LANES_1
#undef RINGFLOW_LANES
