// Double precision: what has one right answer, and the functions of the mathematics library.
extern "C" __global__ void exact(double* out, const double* a, const double* b, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    out[i] = a[i] * b[i] + a[i] / b[i] - sqrt(fabs(a[i]));
    out[n + i] = fma(a[i], b[i], -a[i] * b[i]);
    out[2 * n + i] = floor(a[i]) + ceil(b[i]) * 4.0 + rint(a[i] * b[i]) * 16.0;
    out[3 * n + i] = fmin(a[i], b[i]) + copysign(fmax(a[i], b[i]), a[i]);
    out[4 * n + i] = __longlong_as_double(__double_as_longlong(a[i]) ^ 1ll);
    out[5 * n + i] = static_cast<double>(static_cast<long long>(a[i] * 1e6)) + __ll2double_rn(i);
  }
}

extern "C" __global__ void functions(double* out, const double* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  double sine, cosine;
  sincos(x[i], &sine, &cosine);
  out[i] = sine;
  out[n + i] = cosine;
  out[2 * n + i] = exp(-x[i]) + expm1(x[i]);
  out[3 * n + i] = log(x[i]) + log1p(x[i]) * log10(x[i]) + log2(x[i]);
  out[4 * n + i] = pow(x[i], 1.7) + cbrt(x[i]) + hypot(x[i], 2.0);
  out[5 * n + i] = erf(x[i]) + tgamma(x[i] + 1.0) + lgamma(x[i]);
  out[6 * n + i] = atan2(x[i], 3.0) + asinh(x[i]) + tanh(x[i]) + rsqrt(x[i]);
}
