// Local alignment of two short sequences: one block walks the anti-diagonals of the score matrix.
constexpr int LENGTH_MAX = 64, MATCH = 3, MISMATCH = -3, GAP = 2;

extern "C" __global__ void align(int* best, int* scores, const char* a, const char* b, int rows,
                                 int columns) {
  __shared__ int diagonals[3][LENGTH_MAX + 1];
  __shared__ int highest;
  const int i = threadIdx.x;
  const char mine = i < rows ? a[i] : 0;
  for (int k = i; k <= LENGTH_MAX; k += blockDim.x)
    diagonals[0][k] = diagonals[1][k] = diagonals[2][k] = 0;
  if (i == 0) highest = 0;
  __syncthreads();
  for (int d = 0; d < rows + columns - 1; ++d) {
    const int j = d - i;
    int* now = diagonals[d % 3];
    const int *before = diagonals[(d + 2) % 3], *twice_before = diagonals[(d + 1) % 3];
    if (i < rows && j >= 0 && j < columns) {
      const int diagonal = j > 0 ? twice_before[i] : 0;
      const int left = j > 0 ? before[i + 1] : 0;
      int score = max(0, diagonal + (mine == b[j] ? MATCH : MISMATCH));
      score = max(score, max(left, before[i]) - GAP);
      now[i + 1] = score;
      scores[i * columns + j] = score;
      atomicMax(&highest, score);
    }
    __syncthreads();
  }
  if (i == 0) *best = highest;
}
