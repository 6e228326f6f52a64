// Every atomic operation, in global and in shared memory, at all three scopes.
extern "C" __global__ void integers(int* s, unsigned* u, unsigned long long* q, long long* l) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(s + 0, i);
  atomicSub(s + 1, i);
  atomicMin(s + 2, 7 * i % 64 - 20);
  atomicMax_block(s + 3, 7 * i % 64 - 20);
  atomicAnd(u + 0, ~(1u << i % 31));
  atomicOr_system(u + 1, 1u << i % 31);
  atomicXor(u + 2, 0x9e3779b9u * i);
  atomicInc(u + 3, 9u);
  atomicDec(u + 4, 6u);
  atomicMin(u + 5, 1000u - i);
  atomicAdd_system(q + 0, 0x100000001ull * i);
  atomicMax(q + 1, static_cast<unsigned long long>(i) << 33);
  atomicXor(q + 2, 0x9e3779b97f4a7c15ull * i);
  atomicMin(l + 0, -static_cast<long long>(i) << 33);
  atomicAdd_block(q + 3, 1ull);
}

extern "C" __global__ void floats(float* f, double* d) {
  __shared__ float part;
  if (threadIdx.x == 0) part = 0.0f;
  __syncthreads();
  atomicAdd(&part, static_cast<float>(threadIdx.x));
  atomicAdd(d, 0.25 * threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(f, part);
}

extern "C" __global__ void tickets(unsigned* next, int* owner) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  owner[atomicAdd(next, 1u)] = i;
}

__device__ float atomic_multiply(float* p, float factor) {
  int* bits = reinterpret_cast<int*>(p);
  int seen = *bits, old;
  do {
    old = seen;
    seen = atomicCAS(bits, old, __float_as_int(__int_as_float(old) * factor));
  } while (seen != old);
  return __int_as_float(old);
}

extern "C" __global__ void multiply(float* product, float* exchanged) {
  atomic_multiply(product, threadIdx.x % 2 ? 2.0f : 0.5f);
  if (threadIdx.x == 3) exchanged[1] = atomicExch(exchanged, 8.0f);
}
