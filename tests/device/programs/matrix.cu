// c = a b for square matrices of any size, through tiles in shared memory.
constexpr int TILE = 8;

extern "C" __global__ void product(float* c, const float* a, const float* b, int n) {
  __shared__ float left[TILE][TILE], right[TILE][TILE];
  const int tx = threadIdx.x, ty = threadIdx.y;
  const int column = blockIdx.x * TILE + tx, row = blockIdx.y * TILE + ty;
  float sum = 0;
  for (int k = 0; k < n; k += TILE) {
    left[ty][tx] = row < n && k + tx < n ? a[row * n + k + tx] : 0.0f;
    right[ty][tx] = k + ty < n && column < n ? b[(k + ty) * n + column] : 0.0f;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TILE; ++i) sum += left[ty][i] * right[i][tx];
    __syncthreads();
  }
  if (row < n && column < n) c[row * n + column] = sum;
}
