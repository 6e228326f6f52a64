// What a warp's threads tell each other: shuffles of all kinds and widths, votes, match, reduce.
constexpr unsigned ALL = 0xffffffffu;

extern "C" __global__ void shuffles(int* out, const int* in) {
  const int t = threadIdx.x, n = blockDim.x;
  const int v = in[t];
  out[t] = __shfl_sync(ALL, v, 5);
  out[n + t] = __shfl_sync(ALL, v, t + 3, 8);
  out[2 * n + t] = __shfl_up_sync(ALL, v, 2);
  out[3 * n + t] = __shfl_down_sync(ALL, v, 3, 16);
  out[4 * n + t] = __shfl_xor_sync(ALL, v, 9);
}

extern "C" __global__ void wide(double* out, const double* in) {
  const int t = threadIdx.x;
  out[t] = __shfl_xor_sync(ALL, in[t], 1) - __shfl_down_sync(ALL, in[t], 4, 8);
}

extern "C" __global__ void votes(unsigned* out, const int* in) {
  const int t = threadIdx.x, n = blockDim.x;
  const int v = in[t];
  out[t] = __ballot_sync(ALL, v & 1);
  out[n + t] = __any_sync(ALL, v == 7) | __all_sync(ALL, v < 100) << 1 | __uni_sync(ALL, v > 3) << 2;
  out[2 * n + t] = __match_any_sync(ALL, v % 5);
  int same;
  out[3 * n + t] = __match_all_sync(ALL, t / 32 ? v : 4, &same);
  out[4 * n + t] = same;
  out[5 * n + t] = __reduce_add_sync(ALL, static_cast<unsigned>(v));
  out[6 * n + t] = __reduce_max_sync(ALL, v);
  out[7 * n + t] = __reduce_xor_sync(ALL, static_cast<unsigned>(v));
}

extern "C" __global__ void halves(unsigned* out, const int* in) {
  const int t = threadIdx.x, n = blockDim.x;
  const unsigned mask = t % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
  if (t % 32 < 16) {
    out[t] = __ballot_sync(mask, in[t] & 1) + __shfl_sync(mask, in[t], 3);
  } else {
    out[t] = __ballot_sync(mask, in[t] & 2) + __shfl_sync(mask, in[t], 20);
  }
  __syncwarp();
  out[n + t] = __popc(__activemask());
}
