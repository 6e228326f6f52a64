// Counts of bytes: a private histogram a block in shared memory, added up at the end.
extern "C" __global__ void histogram(unsigned* bins, const unsigned char* data, int n) {
  extern __shared__ unsigned mine[];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) mine[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    atomicAdd_block(&mine[data[i]], 1u);
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&bins[i], mine[i]);
}
