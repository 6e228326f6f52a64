// Numbers of 8 and 16 bits: half precision, and signed bytes with a sum of 32 bits.
#include <cuda_fp16.h>

extern "C" __global__ void axpy(__half* y, const __half* x, float a, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x)
    y[i] = __float2half(a * __half2float(x[i]) + __half2float(y[i]));
}

extern "C" __global__ void arithmetic(__half* out, const __half* a, const __half* b, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  out[i] = a[i] + b[i];
  out[n + i] = __hmul(a[i], b[i]);
  out[2 * n + i] = a[i] / b[i];
  out[3 * n + i] = __hfma(a[i], b[i], __hneg(a[i]));
  out[4 * n + i] = a[i] < b[i] ? hsqrt(__habs(a[i])) : __float2half(-1.0f);
}

extern "C" __global__ void quantised(int* out, const signed char* a, const signed char* b, int k) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  int sum = 0;
  for (int j = 0; j < k; ++j) sum += a[i * k + j] * b[j];
  out[i] = sum;
}

extern "C" __global__ void dot4(int* out, const int* a, const int* b, int words) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  int sum = 0;
  for (int j = 0; j < words; ++j) sum = __dp4a(a[i * words + j], b[j], sum);
  out[i] = sum;
}

extern "C" __global__ void saturate(signed char* out, const short* in, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = static_cast<signed char>(min(max(in[i] * 3 / 2, -128), 127));
}
