// Shallow-water waves, version 3: broken on purpose, to show a reload that rolls back by itself.
//
// Against version 2: it traps at its fourth message, before which it makes the water rise. Nothing
// of that may be left once version 2 runs again.
//
// Linear shallow-water equations on a staggered grid (Arakawa C), forward-backward in time:
//   flux_x -= g dt/dx * depth at the face * (height - height in the west),   flux_y likewise,
//   height -= dt/dx * (flux in the east - flux_x) + dt/dy * (flux in the north - flux_y).
// flux_x[k] is the flow through the western face of cell k in m^2/s, flux_y[k] through its southern
// face. Depth is 0 on land and on the outermost ring of cells: no water crosses a coast or an edge.
//
// - Each block has a band of rows; neighbouring threads have neighbouring columns.
// - Sums are in a fixed order for every grid; the block's size is part of that order.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

constexpr unsigned BLOCK = 256;
constexpr unsigned TRAP_AT = 4;
constexpr float GRAVITY = 9.81f;
constexpr float SPONGE_STRENGTH = 0.08f;  // what a step takes away at the very edge
constexpr unsigned SPONGE_SHARE = 24;     // the sponge's width is 1/24 of the grid's
enum { STEPS, WATCHED, ROWS, COLUMNS };  // the words of the region `progress`

// The reply to every message: steps so far, the height at the gauge or the last disturbance, and
// the energy where it was asked for.
struct Answer { unsigned steps; float height; double energy; };

struct Sea {
  float* height;
  float* flux_x;
  float* flux_y;
  const float* depth;
  float* maximum;
  unsigned ny, nx;
  float slope_x, slope_y;  // g dt/dx, g dt/dy
  float rate_x, rate_y;    // dt/dx, dt/dy
  float sponge;            // 1 / width of the sponge in cells
};

__device__ unsigned band(unsigned block, unsigned ny) { return 1 + (ny - 2) * block / gridDim.x; }

// A cell that is named from outside, kept on the grid.
__device__ unsigned cell_at(const Sea& sea, unsigned x, unsigned y) {
  return min(y, sea.ny - 1) * sea.nx + min(x, sea.nx - 1);
}

// What a step leaves of a wave in row or column `place` of `count`: 1 outside of the sponge.
__device__ float kept(const Sea& sea, unsigned place, unsigned count) {
  const unsigned edge = min(place, count - 1 - place);
  const float inside = fmaxf(1.0f - static_cast<float>(edge) * sea.sponge, 0.0f);
  return 1.0f - SPONGE_STRENGTH * inside * inside;
}

__device__ void move_fluxes(const Sea& sea) {
  const unsigned end = band(blockIdx.x + 1, sea.ny);
  for (unsigned row = band(blockIdx.x, sea.ny); row < end; ++row) {
    const float kept_row = kept(sea, row, sea.ny);
    for (unsigned column = 1 + threadIdx.x; column < sea.nx - 1; column += blockDim.x) {
      const unsigned k = row * sea.nx + column;
      const float left = kept_row * kept(sea, column, sea.nx);
      const float height = sea.height[k], depth = sea.depth[k];
      const float west = fminf(depth, sea.depth[k - 1]);
      const float south = fminf(depth, sea.depth[k - sea.nx]);
      const float push_x = sea.slope_x * west * (height - sea.height[k - 1]);
      const float push_y = sea.slope_y * south * (height - sea.height[k - sea.nx]);
      sea.flux_x[k] = left * (sea.flux_x[k] - push_x);
      sea.flux_y[k] = left * (sea.flux_y[k] - push_y);
    }
  }
}

__device__ void move_heights(const Sea& sea) {
  const unsigned end = band(blockIdx.x + 1, sea.ny);
  for (unsigned row = band(blockIdx.x, sea.ny); row < end; ++row) {
    const float kept_row = kept(sea, row, sea.ny);
    for (unsigned column = 1 + threadIdx.x; column < sea.nx - 1; column += blockDim.x) {
      const unsigned k = row * sea.nx + column;
      const float left = kept_row * kept(sea, column, sea.nx);
      const float along_x = sea.rate_x * (sea.flux_x[k + 1] - sea.flux_x[k]);
      const float along_y = sea.rate_y * (sea.flux_y[k + sea.nx] - sea.flux_y[k]);
      const float height = left * (sea.height[k] - (along_x + along_y)) + 0.01f;
      sea.height[k] = height;
      sea.maximum[k] = fmaxf(sea.maximum[k], height);
    }
  }
}

__device__ void disturb(const Sea& sea, const Disturb& wave) {
  const unsigned end = band(blockIdx.x + 1, sea.ny);
  for (unsigned row = band(blockIdx.x, sea.ny); row < end; ++row) {
    const float y = static_cast<float>(static_cast<int>(row) - static_cast<int>(wave.y));
    for (unsigned column = 1 + threadIdx.x; column < sea.nx - 1; column += blockDim.x) {
      const unsigned k = row * sea.nx + column;
      const float x = static_cast<float>(static_cast<int>(column) - static_cast<int>(wave.x));
      const float bump = 1.0f - (x * x + y * y) / (wave.radius * wave.radius);
      if (bump > 0.0f && sea.depth[k] > 0.0f) {
        sea.height[k] += wave.amplitude * bump * bump;
        sea.maximum[k] = fmaxf(sea.maximum[k], sea.height[k]);
      }
    }
  }
}

// Kinetic and potential energy of a cell; its fluxes are those of its western and southern face.
__device__ double energy_of(const Sea& sea, unsigned k) {
  const double height = sea.height[k], flux_x = sea.flux_x[k], flux_y = sea.flux_y[k];
  const float depth = sea.depth[k];
  const float west = fminf(depth, sea.depth[k - 1]), south = fminf(depth, sea.depth[k - sea.nx]);
  double energy = GRAVITY * height * height;
  if (west > 0.0f) energy += flux_x * flux_x / west;
  if (south > 0.0f) energy += flux_y * flux_y / south;
  return 0.5 * energy;
}

// One sum a row: each thread its columns from west to east, then the threads pairwise.
__device__ void sum_rows(const Sea& sea, double* row_energy) {
  __shared__ double sums[BLOCK];
  const unsigned end = band(blockIdx.x + 1, sea.ny);
  for (unsigned row = band(blockIdx.x, sea.ny); row < end; ++row) {
    double sum = 0.0;
    for (unsigned column = 1 + threadIdx.x; column < sea.nx - 1; column += blockDim.x)
      sum += energy_of(sea, row * sea.nx + column);
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
      if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) row_energy[row] = sums[0];
    __syncthreads();
  }
}

extern "C" __global__ void waves(ringflow::control* control, float* height, float* flux_x,
                                 float* flux_y, const float* depth, unsigned* progress,
                                 double* row_energy, float* maximum, unsigned ny, unsigned nx,
                                 float slope_x, float slope_y, float rate_x, float rate_y) {
  const Sea sea = {height,  flux_x,  flux_y, depth,  maximum, ny,
                   nx,      slope_x, slope_y, rate_x, rate_y,
                   1.0f / static_cast<float>(nx / SPONGE_SHARE)};
  ringflow::kernel self(control);
  ringflow::message m;
  unsigned handled = 0;
  while (self.receive(m)) {
    if (++handled == TRAP_AT) __trap();
    switch (m.type) {
      case Disturb::id:
        disturb(sea, m.as<Disturb>());
        if (self.leader()) progress[WATCHED] = cell_at(sea, m.as<Disturb>().x, m.as<Disturb>().y);
        break;
      case Step::id: {
        const unsigned count = m.as<Step>().count;
        for (unsigned i = 0; i < count; ++i) {
          move_fluxes(sea);
          self.sync();
          move_heights(sea);
          self.sync();
        }
        if (self.leader()) progress[STEPS] += count;
        break;
      }
      case Energy::id:
        sum_rows(sea, row_energy);
        break;
    }
    self.sync();
    if (self.leader()) {
      const Gauge* gauge = m.type == Gauge::id ? &m.as<Gauge>() : nullptr;
      const unsigned cell = gauge ? cell_at(sea, gauge->x, gauge->y) : progress[WATCHED];
      double energy = 0.0;
      if (m.type == Energy::id)
        for (unsigned row = 1; row < ny - 1; ++row) energy += row_energy[row];
      self.reply(m, Answer{progress[STEPS], height[cell], energy});
    }
  }
}
