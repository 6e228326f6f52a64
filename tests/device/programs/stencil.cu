// One step of a five-point stencil with zeros outside: directly, and through a tile with halo.
constexpr int EDGE = 8;

__device__ float at(const float* in, int x, int y, int nx, int ny) {
  return x >= 0 && x < nx && y >= 0 && y < ny ? in[y * nx + x] : 0.0f;
}

__device__ float five(float centre, float west, float east, float north, float south) {
  return 0.5f * centre + 0.125f * (((west + east) + north) + south);
}

extern "C" __global__ void direct(float* out, const float* in, int nx, int ny) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= nx || y >= ny) return;
  out[y * nx + x] = five(at(in, x, y, nx, ny), at(in, x - 1, y, nx, ny), at(in, x + 1, y, nx, ny),
                         at(in, x, y - 1, nx, ny), at(in, x, y + 1, nx, ny));
}

extern "C" __global__ void __launch_bounds__(EDGE* EDGE)
    tiled(float* out, const float* in, int nx, int ny) {
  __shared__ float tile[EDGE + 2][EDGE + 2];
  const int tx = threadIdx.x + 1, ty = threadIdx.y + 1;
  const int x = blockIdx.x * EDGE + threadIdx.x, y = blockIdx.y * EDGE + threadIdx.y;
  tile[ty][tx] = at(in, x, y, nx, ny);
  if (tx == 1) tile[ty][0] = at(in, x - 1, y, nx, ny);
  if (tx == EDGE) tile[ty][EDGE + 1] = at(in, x + 1, y, nx, ny);
  if (ty == 1) tile[0][tx] = at(in, x, y - 1, nx, ny);
  if (ty == EDGE) tile[EDGE + 1][tx] = at(in, x, y + 1, nx, ny);
  __syncthreads();
  if (x < nx && y < ny)
    out[y * nx + x] = five(tile[ty][tx], tile[ty][tx - 1], tile[ty][tx + 1], tile[ty - 1][tx],
                           tile[ty + 1][tx]);
}
