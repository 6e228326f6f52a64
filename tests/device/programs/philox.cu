// Philox 4x32-10, the counter-based generator of Salmon et al. (SC11), and pi by its numbers.
__device__ uint4 philox(uint4 c, uint2 key) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const unsigned high0 = __umulhi(0xD2511F53u, c.x), low0 = 0xD2511F53u * c.x;
    const unsigned high1 = __umulhi(0xCD9E8D57u, c.z), low1 = 0xCD9E8D57u * c.z;
    c = make_uint4(high1 ^ c.y ^ key.x, low1, high0 ^ c.w ^ key.y, low0);
    key.x += 0x9E3779B9u;
    key.y += 0xBB67AE85u;
  }
  return c;
}

extern "C" __global__ void numbers(uint4* out, unsigned seed, int n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = philox(make_uint4(i, 0, 0, 0), make_uint2(seed, 0));
}

extern "C" __global__ void pi(unsigned long long* hits, unsigned seed, int rounds) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned inside = 0;
  for (int round = 0; round < rounds; ++round) {
    const uint4 r = philox(make_uint4(i, round, 0, 0), make_uint2(seed, 0));
    const float x = (r.x >> 8) * 0x1p-24f, y = (r.y >> 8) * 0x1p-24f;
    const float z = (r.z >> 8) * 0x1p-24f, w = (r.w >> 8) * 0x1p-24f;
    inside += (x * x + y * y < 1.0f) + (z * z + w * w < 1.0f);
  }
  inside = __reduce_add_sync(0xffffffffu, inside);
  if (threadIdx.x % warpSize == 0) atomicAdd(hits, static_cast<unsigned long long>(inside));
}
