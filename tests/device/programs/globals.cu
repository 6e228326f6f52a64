// Variables of the module: initialised, constant, a table of functions, pointers to each other.
__device__ int twice(int x) { return 2 * x; }
__device__ int square(int x) { return x * x; }
__device__ int negate(int x) { return -x; }

typedef int (*function)(int);
__device__ function operations[3] = {twice, square, negate};
__constant__ float weights[4] = {0.5f, 0.25f, 0.125f};
__constant__ struct { char tag; double scale; short offset[2]; } settings = {7, 1.5, {10, -10}};
__device__ int counter = 5;
__device__ int* const where = &counter;
__device__ unsigned long long last[2];

__device__ __noinline__ int compose(function outer, function inner, int x) {
  return outer(inner(x));
}

extern "C" __global__ void apply(int* out, float* weighted) {
  const int i = threadIdx.x;
  out[i] = compose(operations[i % 3], operations[(i + 1) % 3], i) + settings.offset[i & 1];
  if (i < 4) weighted[i] = weights[i] * static_cast<float>(settings.scale) + settings.tag;
  atomicAdd(where, i);
  __syncthreads();
  if (i == 0) last[1] = static_cast<unsigned long long>(counter) << 32;
}

extern "C" __global__ void read(unsigned long long* out) { *out = last[1] + counter; }
