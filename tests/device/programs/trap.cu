// A check that fails in one thread of one block: the block before it has done its work.
extern "C" __global__ void checked(int* out, const int* in, int limit) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (in[i] >= limit) __trap();
  __syncthreads();
  out[i] = in[i] + 1;
}
