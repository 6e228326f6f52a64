// Conversions, and floating-point arithmetic that has one right answer: instructions.
#pragma once
#pragma clang system_header

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
#define RINGFLOW_TO_FLOAT(name, F, T, builtin)                                                    \
  RINGFLOW_FN F __##name##_rn(T v) { return static_cast<F>(v); }                                  \
  RINGFLOW_FN F __##name##_rz(T v) { return builtin##_rz(v); }                                    \
  RINGFLOW_FN F __##name##_rd(T v) { return builtin##_rm(v); }                                    \
  RINGFLOW_FN F __##name##_ru(T v) { return builtin##_rp(v); }
RINGFLOW_TO_FLOAT(int2float, float, int, __nvvm_i2f)
RINGFLOW_TO_FLOAT(uint2float, float, unsigned int, __nvvm_ui2f)
RINGFLOW_TO_FLOAT(ll2float, float, long long, __nvvm_ll2f)
RINGFLOW_TO_FLOAT(ull2float, float, unsigned long long, __nvvm_ull2f)
RINGFLOW_TO_FLOAT(double2float, float, double, __nvvm_d2f)
RINGFLOW_TO_FLOAT(ll2double, double, long long, __nvvm_ll2d)
RINGFLOW_TO_FLOAT(ull2double, double, unsigned long long, __nvvm_ull2d)
#undef RINGFLOW_TO_FLOAT
RINGFLOW_FN double __int2double_rn(int v) { return static_cast<double>(v); }
RINGFLOW_FN double __uint2double_rn(unsigned int v) { return static_cast<double>(v); }

// ---- arithmetic -------------------------------------------------------------------------------
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
RINGFLOW_FN float fdim(float a, float b) { return fdimf(a, b); }
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
RINGFLOW_FN int __isnan(double v) { return isnan(v); }
RINGFLOW_FN int __isnanf(float v) { return isnan(v); }
RINGFLOW_FN int __isinf(double v) { return isinf(v); }
RINGFLOW_FN int __isinff(float v) { return isinf(v); }
RINGFLOW_FN int __finite(double v) { return isfinite(v); }
RINGFLOW_FN int __finitef(float v) { return isfinite(v); }
RINGFLOW_FN int __signbit(double v) { return signbit(v); }
RINGFLOW_FN int __signbitf(float v) { return signbit(v); }
RINGFLOW_FN float nanf(const char*) { return __int_as_float(0x7fffffff); }
RINGFLOW_FN double nan(const char*) { return __longlong_as_double(0x7fffffffffffffffll); }

// ---- with a rounding of their own; never contracted, also in fast mode ------------------------
#define RINGFLOW_ROUNDED(suffix, mode)                                                            \
  RINGFLOW_FN float __fadd_##suffix(float a, float b) { return __nvvm_add_##mode##_f(a, b); }     \
  RINGFLOW_FN float __fsub_##suffix(float a, float b) { return __nvvm_add_##mode##_f(a, -b); }    \
  RINGFLOW_FN float __fmul_##suffix(float a, float b) { return __nvvm_mul_##mode##_f(a, b); }     \
  RINGFLOW_FN float __fdiv_##suffix(float a, float b) { return __nvvm_div_##mode##_f(a, b); }     \
  RINGFLOW_FN float __frcp_##suffix(float a) { return __nvvm_rcp_##mode##_f(a); }                 \
  RINGFLOW_FN float __fsqrt_##suffix(float a) { return __nvvm_sqrt_##mode##_f(a); }               \
  RINGFLOW_FN float __fmaf_##suffix(float a, float b, float c) {                                  \
    return __nvvm_fma_##mode##_f(a, b, c);                                                        \
  }                                                                                               \
  RINGFLOW_FN float __fmaf_ieee_##suffix(float a, float b, float c) {                             \
    return __nvvm_fma_##mode##_f(a, b, c);                                                        \
  }                                                                                               \
  RINGFLOW_FN double __dadd_##suffix(double a, double b) { return __nvvm_add_##mode##_d(a, b); }  \
  RINGFLOW_FN double __dsub_##suffix(double a, double b) { return __nvvm_add_##mode##_d(a, -b); } \
  RINGFLOW_FN double __dmul_##suffix(double a, double b) { return __nvvm_mul_##mode##_d(a, b); }  \
  RINGFLOW_FN double __ddiv_##suffix(double a, double b) { return __nvvm_div_##mode##_d(a, b); }  \
  RINGFLOW_FN double __drcp_##suffix(double a) { return __nvvm_rcp_##mode##_d(a); }               \
  RINGFLOW_FN double __dsqrt_##suffix(double a) { return __nvvm_sqrt_##mode##_d(a); }             \
  RINGFLOW_FN double __fma_##suffix(double a, double b, double c) {                               \
    return __nvvm_fma_##mode##_d(a, b, c);                                                        \
  }
RINGFLOW_ROUNDED(rn, rn)
RINGFLOW_ROUNDED(rz, rz)
RINGFLOW_ROUNDED(rd, rm)
RINGFLOW_ROUNDED(ru, rp)
#undef RINGFLOW_ROUNDED
// Correctly rounded, as a search of all mantissas showed: none is as close to a tie as 1 ulp of
// the double quotient but one, and that one comes out right.
RINGFLOW_FN float __frsqrt_rn(float v) {
  return static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(v)));
}

// ---- parts of a number ------------------------------------------------------------------------
#define RINGFLOW_PARTS(F, suffix, Bits, bits_of, to_float, mantissa, bias, scale_up)              \
  RINGFLOW_FN int ilogb##suffix(F v) {                                                            \
    const F size = fabs(v);                                                                       \
    if (!(size > F(0))) return static_cast<int>(0x80000000u);                                     \
    if (!(size < F(__builtin_inf()))) return 0x7fffffff;                                          \
    const bool small = (bits_of(size) >> mantissa) == 0;                                          \
    const Bits bits = bits_of(small ? size * F(scale_up) : size);                                 \
    return static_cast<int>(bits >> mantissa) - bias - (small ? 64 : 0);                          \
  }                                                                                               \
  RINGFLOW_FN F logb##suffix(F v) {                                                               \
    if (v != v) return v;                                                                         \
    if (v == F(0)) return -F(__builtin_inf());                                                    \
    return isinf(v) ? F(__builtin_inf()) : static_cast<F>(ilogb##suffix(v));                      \
  }                                                                                               \
  RINGFLOW_EXTERN F ldexp##suffix(F, int);                                                        \
  RINGFLOW_FN F scalbn##suffix(F v, int n) { return ldexp##suffix(v, n); }                        \
  RINGFLOW_FN F scalbln##suffix(F v, long n) {                                                    \
    return ldexp##suffix(v, static_cast<int>(n > 5000 ? 5000 : n < -5000 ? -5000 : n));           \
  }                                                                                               \
  RINGFLOW_FN F frexp##suffix(F v, int* exponent) {                                               \
    const bool plain = isfinite(v) && v != F(0);                                                  \
    *exponent = plain ? ilogb##suffix(v) + 1 : 0;                                                 \
    return plain ? ldexp##suffix(v, -*exponent) : v;                                              \
  }                                                                                               \
  RINGFLOW_FN F modf##suffix(F v, F* whole) {                                                     \
    *whole = trunc(v);                                                                            \
    return copysign(isinf(v) ? F(0) : v - *whole, v);                                             \
  }
RINGFLOW_PARTS(float, f, int, __float_as_int, __int_as_float, 23, 127, 0x1p64)
RINGFLOW_PARTS(double, , long long, __double_as_longlong, __longlong_as_double, 52, 1023, 0x1p64)
#undef RINGFLOW_PARTS
RINGFLOW_FN int ilogb(float v) { return ilogbf(v); }
RINGFLOW_FN float logb(float v) { return logbf(v); }
RINGFLOW_FN float ldexp(float v, int n) { return ldexpf(v, n); }
RINGFLOW_FN float scalbn(float v, int n) { return scalbnf(v, n); }
RINGFLOW_FN float scalbln(float v, long n) { return scalblnf(v, n); }
RINGFLOW_FN float frexp(float v, int* exponent) { return frexpf(v, exponent); }
RINGFLOW_FN float modf(float v, float* whole) { return modff(v, whole); }
#define RINGFLOW_WHOLE(name, T, round)                                                            \
  RINGFLOW_FN T name(double v) { return static_cast<T>(__double2ll_rz(round(v))); }               \
  RINGFLOW_FN T name##f(float v) { return static_cast<T>(__float2ll_rz(round(v))); }
RINGFLOW_WHOLE(lrint, long, rint)
RINGFLOW_WHOLE(lround, long, round)
RINGFLOW_WHOLE(llrint, long long, rint)
RINGFLOW_WHOLE(llround, long long, round)
#undef RINGFLOW_WHOLE
