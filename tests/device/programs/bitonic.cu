// A bitonic sort of one block's keys in shared memory, their places carried along.
extern "C" __global__ void sort(unsigned* keys, unsigned* places) {
  extern __shared__ uint2 items[];
  const unsigned t = threadIdx.x, n = blockDim.x, base = blockIdx.x * n;
  items[t] = make_uint2(keys[base + t], t);
  __syncthreads();
  for (unsigned size = 2; size <= n; size *= 2)
    for (unsigned stride = size / 2; stride > 0; stride /= 2) {
      const unsigned other = t ^ stride;
      if (other > t) {
        const bool upwards = (t & size) == 0;
        const uint2 a = items[t], b = items[other];
        const bool swapped = a.x > b.x || (a.x == b.x && a.y > b.y);
        if (swapped == upwards) {
          items[t] = b;
          items[other] = a;
        }
      }
      __syncthreads();
    }
  keys[base + t] = items[t].x;
  places[base + t] = items[t].y;
}
