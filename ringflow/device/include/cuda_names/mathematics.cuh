// Transcendental functions: externs, which the translator maps by their C names.
#pragma once
#pragma clang system_header

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
RINGFLOW_MATH_2(nextafter)
#undef RINGFLOW_MATH_2
RINGFLOW_FN float rsqrtf(float v) { return 1.0f / __builtin_sqrtf(v); }
RINGFLOW_FN double rsqrt(double v) { return 1.0 / __builtin_sqrt(v); }
RINGFLOW_FN float rsqrt(float v) { return rsqrtf(v); }
RINGFLOW_FN float exp10f(float v) { return powf(10.0f, v); }
RINGFLOW_FN double exp10(double v) { return pow(10.0, v); }
RINGFLOW_FN float exp10(float v) { return exp10f(v); }
RINGFLOW_FN void sincosf(float v, float* s, float* c) { *s = sinf(v); *c = cosf(v); }
RINGFLOW_FN void sincos(double v, double* s, double* c) { *s = sin(v); *c = cos(v); }
RINGFLOW_FN void sincos(float v, float* s, float* c) { sincosf(v, s, c); }
// The angle is reduced before it is multiplied by pi, so that whole and half numbers are exact.
RINGFLOW_FN double sinpi(double v) {
  const double turn = fmod(v, 2.0), half = rint(2.0 * turn), rest = turn - 0.5 * half;
  const double angle = 3.14159265358979323846 * rest;
  const int quarter = static_cast<int>(half) & 3;
  const double value = quarter & 1 ? cos(angle) : sin(angle);
  return value == 0.0 ? copysign(0.0, v) : quarter & 2 ? -value : value;
}
RINGFLOW_FN double cospi(double v) {
  const double turn = fmod(fabs(v), 2.0), half = rint(2.0 * turn), rest = turn - 0.5 * half;
  const double angle = 3.14159265358979323846 * rest;
  const int quarter = static_cast<int>(half) & 3;
  const double value = quarter & 1 ? -sin(angle) : cos(angle);
  return value == 0.0 ? 0.0 : quarter & 2 ? -value : value;
}
RINGFLOW_FN float sinpif(float v) { return static_cast<float>(sinpi(double(v))); }
RINGFLOW_FN float cospif(float v) { return static_cast<float>(cospi(double(v))); }
RINGFLOW_FN void sincospi(double v, double* s, double* c) { *s = sinpi(v); *c = cospi(v); }
RINGFLOW_FN void sincospif(float v, float* s, float* c) { *s = sinpif(v); *c = cospif(v); }
RINGFLOW_FN float sinpi(float v) { return sinpif(v); }
RINGFLOW_FN float cospi(float v) { return cospif(v); }
RINGFLOW_FN void sincospi(float v, float* s, float* c) { sincospif(v, s, c); }
RINGFLOW_FN double rcbrt(double v) { return 1.0 / cbrt(v); }
RINGFLOW_FN float rcbrtf(float v) { return static_cast<float>(rcbrt(double(v))); }
RINGFLOW_FN float rcbrt(float v) { return rcbrtf(v); }
RINGFLOW_FN double rhypot(double a, double b) { return 1.0 / hypot(a, b); }
RINGFLOW_FN float rhypotf(float a, float b) { return static_cast<float>(rhypot(a, b)); }
RINGFLOW_FN double norm3d(double a, double b, double c) { return hypot(hypot(a, b), c); }
RINGFLOW_FN double norm4d(double a, double b, double c, double d) {
  return hypot(hypot(a, b), hypot(c, d));
}
RINGFLOW_FN double rnorm3d(double a, double b, double c) { return 1.0 / norm3d(a, b, c); }
RINGFLOW_FN double rnorm4d(double a, double b, double c, double d) {
  return 1.0 / norm4d(a, b, c, d);
}
RINGFLOW_FN float norm3df(float a, float b, float c) {
  return static_cast<float>(norm3d(a, b, c));
}
RINGFLOW_FN float norm4df(float a, float b, float c, float d) {
  return static_cast<float>(norm4d(a, b, c, d));
}
RINGFLOW_FN float rnorm3df(float a, float b, float c) {
  return static_cast<float>(rnorm3d(a, b, c));
}
RINGFLOW_FN float rnorm4df(float a, float b, float c, float d) {
  return static_cast<float>(rnorm4d(a, b, c, d));
}
RINGFLOW_FN double normcdf(double v) { return 0.5 * erfc(v * -0.70710678118654752440); }
RINGFLOW_FN float normcdff(float v) { return static_cast<float>(normcdf(double(v))); }
RINGFLOW_FN float normcdf(float v) { return normcdff(v); }
RINGFLOW_FN float fdividef(float a, float b) { return a / b; }
// The fast intrinsics are more accurate here than on a GPU.
RINGFLOW_FN float __sinf(float v) { return sinf(v); }
RINGFLOW_FN float __cosf(float v) { return cosf(v); }
RINGFLOW_FN float __tanf(float v) { return tanf(v); }
RINGFLOW_FN float __tanhf(float v) { return tanhf(v); }
RINGFLOW_FN float __expf(float v) { return expf(v); }
RINGFLOW_FN float __exp10f(float v) { return exp10f(v); }
RINGFLOW_FN float __logf(float v) { return logf(v); }
RINGFLOW_FN float __log2f(float v) { return log2f(v); }
RINGFLOW_FN float __log10f(float v) { return log10f(v); }
RINGFLOW_FN float __powf(float a, float b) { return powf(a, b); }
RINGFLOW_FN float __fdividef(float a, float b) { return a / b; }
RINGFLOW_FN void __sincosf(float v, float* s, float* c) { sincosf(v, s, c); }
