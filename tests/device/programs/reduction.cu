// Sums: a tree in shared memory, a warp's shuffles at its end, one value a block.
template <class T>
__device__ T block_sum(T value) {
  __shared__ T warps[32];
  for (int offset = warpSize / 2; offset > 0; offset /= 2)
    value += __shfl_down_sync(0xffffffffu, value, offset);
  if (threadIdx.x % warpSize == 0) warps[threadIdx.x / warpSize] = value;
  __syncthreads();
  value = threadIdx.x < blockDim.x / warpSize ? warps[threadIdx.x] : T(0);
  if (threadIdx.x < warpSize)
    for (int offset = warpSize / 2; offset > 0; offset /= 2)
      value += __shfl_down_sync(0xffffffffu, value, offset);
  return value;
}

extern "C" __global__ void sum(long long* out, const int* in, int n) {
  long long total = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    total += in[i];
  total = block_sum(total);
  if (threadIdx.x == 0) out[blockIdx.x] = total;
}

extern "C" __global__ void tree(float* out, const float* in) {
  extern __shared__ float part[];
  const int t = threadIdx.x;
  part[t] = in[blockIdx.x * blockDim.x + t];
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (t < half) part[t] += part[t + half];
    __syncthreads();
  }
  if (t == 0) out[blockIdx.x] = part[0];
}
