// Blocks that wait for each other between the steps of one array: each value goes one place on.
__device__ void grid_barrier(unsigned* arrived) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned goal = (atomicAdd(arrived, 1u) / gridDim.x + 1) * gridDim.x;
    while (*static_cast<volatile unsigned*>(arrived) < goal) __nanosleep(20);
    __threadfence();
  }
  __syncthreads();
}

extern "C" __global__ void rotate(unsigned* arrived, int* values, int steps) {
  const int all = gridDim.x * blockDim.x, me = blockIdx.x * blockDim.x + threadIdx.x;
  for (int step = 0; step < steps; ++step) {
    const int next = values[(me + 1) % all];
    grid_barrier(arrived);
    values[me] = next + 1;
    grid_barrier(arrived);
  }
}
