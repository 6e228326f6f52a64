// 64-bit integers: FNV-1a and the finish of SplitMix64; and switches with tables and fall-throughs.
extern "C" __global__ void fnv(unsigned long long* out, const unsigned char* text, int length) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned long long hash = 0xcbf29ce484222325ull;
  for (int k = 0; k < length; ++k) hash = (hash ^ text[i * length + k]) * 0x100000001b3ull;
  out[i] = hash;
}

extern "C" __global__ void splitmix(unsigned long long* out, unsigned long long seed) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned long long z = seed + 0x9e3779b97f4a7c15ull * (i + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  out[i] = (z ^ (z >> 31)) + __umul64hi(z, z) + __popcll(z) + __clzll(z >> (i % 64));
}

extern "C" __global__ void interpret(int* out, const unsigned char* program, int length) {
  const int i = threadIdx.x;
  int a = i, b = 1;
  for (int k = 0; k < length; ++k) {
    switch (program[k]) {
      case 0: a += b; break;
      case 1: a -= 3 * b; break;
      case 2: { const int old = a; a = b; b = old; break; }
      case 3: b ^= a << 1;
      case 4: a = a * 5 + 1; break;
      case 5: if (a & 1) b += i; break;
      case 7: a = __funnelshift_l(a, b, i); break;
      case 9: b = static_cast<int>(static_cast<unsigned>(b) >> (i & 7)); break;
      default: a = ~a;
    }
  }
  out[i] = a ^ b;
}
