// Two kernels that run at once: one writes numbers to a ring, the other reads and adds them up.
struct Ring {
  unsigned head, tail;
};

__device__ unsigned load(const unsigned* word) { return *static_cast<const volatile unsigned*>(word); }
__device__ void store(unsigned* word, unsigned value) { *static_cast<volatile unsigned*>(word) = value; }

extern "C" __global__ void producer(Ring* ring, unsigned* slots, unsigned capacity, unsigned count) {
  for (unsigned n = 0; n < count; ++n) {
    while (n - load(&ring->tail) >= capacity) __nanosleep(100);
    store(&slots[n % capacity], n * n + 1);
    __threadfence();
    store(&ring->head, n + 1);
  }
}

extern "C" __global__ void consumer(Ring* ring, unsigned* slots, unsigned capacity, unsigned count,
                                    unsigned long long* out) {
  __shared__ unsigned got;
  for (unsigned n = 0; n < count; ++n) {
    if (threadIdx.x == 0) {
      while (load(&ring->head) <= n) __nanosleep(100);
      __threadfence();
      got = load(&slots[n % capacity]);
      __threadfence();
      store(&ring->tail, n + 1);
    }
    __syncthreads();
    out[threadIdx.x] += got * static_cast<unsigned long long>(threadIdx.x + 1);
    __syncthreads();
  }
}
