// Inclusive prefix sums: Hillis and Steele in shared memory, and by shuffles within a warp.
extern "C" __global__ void scan(int* out, const int* in) {
  extern __shared__ int buffer[];
  const int t = threadIdx.x, n = blockDim.x;
  int from = 0;
  buffer[t] = in[blockIdx.x * n + t];
  __syncthreads();
  for (int step = 1; step < n; step *= 2) {
    const int to = n - from;
    buffer[to + t] = buffer[from + t] + (t >= step ? buffer[from + t - step] : 0);
    from = to;
    __syncthreads();
  }
  out[blockIdx.x * n + t] = buffer[from + t];
}

extern "C" __global__ void warp_scan(int* out, const int* in, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % warpSize;
  int value = i < n ? in[i] : 0;
  for (int step = 1; step < warpSize; step *= 2) {
    const int below = __shfl_up_sync(0xffffffffu, value, step);
    if (lane >= step) value += below;
  }
  if (i < n) out[i] = value;
}
